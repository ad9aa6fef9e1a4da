//! Changes of products.

use crate::model::{
    client_rules::SetClientRules,
    ids::ProductId,
    reads::SetReads,
    route::{Isolated, Mode},
    secret::Credentials,
    slot::Layout,
};

/// A product as the operator wants it. As a change: creates the product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProduct {
    /// Unique name.
    pub name: String,
    /// Base port.
    pub port: u16,
    /// How keys are hashed.
    pub layout: Layout,
    /// Store or cache.
    pub mode: Mode,
    /// What a node does without a lease.
    pub isolated: Isolated,
    /// Number of databases.
    pub databases: u32,
    /// The credentials that clients log in with; `None`: clients need none.
    pub auth: Option<Credentials>,
}

/// Changes settings of a product. Only what is `Some` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetProduct {
    /// The product.
    pub product: ProductId,
    /// Base port.
    pub port: Option<u16>,
    /// Number of databases.
    pub databases: Option<u32>,
    /// What clients log in with.
    pub auth: Option<SetAuth>,
    /// Whether migrations are planned automatically.
    pub auto_rebalance: Option<bool>,
    /// Replicas that must have a write before it is acknowledged; 0: none.
    pub min_acks: Option<u8>,
    /// How long a write waits for them, milliseconds.
    pub min_acks_ms: Option<u32>,
    /// Where reads go.
    pub reads: SetReads,
    /// Clients that each node accepts; 0: only the limit of the node.
    pub clients_max: Option<u32>,
    /// What its clients may do.
    pub rules: SetClientRules,
}

/// Changes what clients log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetAuth {
    /// These credentials are valid, and no others; `None`: clients need none.
    Replace(Option<Credentials>),
    /// These credentials are valid, too; those until now become the former ones.
    Add(Credentials),
    /// The former credentials are no longer valid.
    RemoveFormer,
}

/// Removes a product that has no groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveProduct {
    /// The product.
    pub product: ProductId,
}
