//! The route table: what a node needs to route requests. Derived from the cluster state, replaced as a whole, never
//! changed in place. Knows nothing of the log, of nodes, and of how owners change.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    auth::ProductAuth,
    client_rules::ClientRules,
    ids::{Epoch, GroupId, HoldId, HostPort, ProductId, SlotId},
    reads::ReadPolicy,
    scan_history::ScanHistory,
    secret::ServerLogin,
    slot::Layout,
};

/// Whether a product keeps its data or prefers availability. Fixed when it is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Data is kept: no acknowledged write may be lost by a change of owner.
    #[default]
    Store,
    /// Data may be lost: availability comes first.
    Cache,
}

/// What a node does for a product when its lease has ended. Fixed when the product is created (docs/design/serving.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolated {
    /// Answer `-CLUSTERDOWN`, not executed.
    #[default]
    Refuse,
    /// Go on with the last routes.
    Serve,
}

/// How a hold treats requests in flight (docs/design/serving.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldKind {
    /// It waits for requests in flight.
    Wait,
    /// It answers requests in flight with "outcome unknown" and closes their connections.
    Abandon,
}

/// All routes at one route epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Log index of the last routing entry that this table contains.
    pub epoch: Epoch,
    /// Products by id.
    pub products: BTreeMap<ProductId, Arc<ProductRoutes>>,
    /// Open holds, by id. Every node acks each of them.
    pub holds: BTreeMap<HoldId, HoldRoutes>,
}

/// An open hold as workers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRoutes {
    /// Product of the slots.
    pub product: ProductId,
    /// Wait or Abandon.
    pub kind: HoldKind,
    /// The slots, ascending.
    pub slots: Arc<[SlotId]>,
}

/// Routes and client-facing settings of one product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductRoutes {
    /// Its id.
    pub id: ProductId,
    /// Its name, for messages.
    pub name: String,
    /// How keys are hashed.
    pub layout: Layout,
    /// Store or cache.
    pub mode: Mode,
    /// What a node does without a lease.
    pub isolated: Isolated,
    /// Databases that SELECT accepts: 0 to `databases - 1`.
    pub databases: u32,
    /// Base port: a node adds its port offset.
    pub port: u16,
    /// Replicas that must have a write before its reply is delivered; 0: none.
    pub min_acks: u8,
    /// How long a write waits for them, milliseconds.
    pub min_acks_ms: u32,
    /// What clients log in with.
    pub auth: ProductAuth,
    /// Clients that a node accepts; 0: only the limit of the node.
    pub clients_max: u32,
    /// What its clients may do.
    pub rules: ClientRules,
    /// Where reads go. A `ReadTable` says which replicas may serve them.
    pub reads: ReadPolicy,
    /// Groups, ascending by id.
    pub groups: Vec<GroupRoute>,
    /// One entry per slot; its length is `layout.slots()`.
    pub slots: Box<[SlotRoute]>,
    /// What a SCAN under way has to visit again.
    pub scans: ScanHistory,
}

/// A group as workers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRoute {
    /// Its id.
    pub id: GroupId,
    /// Its primary.
    pub primary: HostPort,
    /// Its replicas, in the order of the group. They get reads if the product wants it and a `ReadTable` allows it.
    pub replicas: Vec<HostPort>,
    /// How nodes log in at its servers.
    pub login: ServerLogin,
}

/// A slot as workers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRoute {
    /// Index into `ProductRoutes::groups`; `None`: unassigned.
    pub group: Option<u16>,
    /// Log index of the last entry that changed this slot's owner or its group's primary.
    pub epoch: Epoch,
    /// The hold that parks this slot's requests; 0: none. (A plain number keeps the entry small.)
    pub hold: HoldId,
}
