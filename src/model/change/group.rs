//! Changes of groups and their servers.

use crate::model::{
    ids::{GroupId, HostPort, ProductId},
    secret::Credentials,
    state::Server,
};

/// Creates a group. Its servers have passed their admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateGroup {
    /// Product of the group.
    pub product: ProductId,
    /// Id of the group, from 1.
    pub group: GroupId,
    /// Its servers, the primary first.
    pub servers: Vec<Server>,
    /// The credentials that nodes log in with at the servers.
    pub credentials: Option<Credentials>,
}

/// Adds a replica to a group. The replica has passed its admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddServer {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub server: Server,
}

/// Removes a replica from its group. The primary can only be removed with its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveServer {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub addr: HostPort,
}

/// Removes a group that owns no slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveGroup {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
}

/// Changes options of a group. Only what is `Some` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetGroup {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Milliseconds without an answer after which a server is down, 500 to 600000.
    pub down_after_ms: Option<u32>,
    /// Whether nothing in the group is changed automatically.
    pub maintenance: Option<bool>,
    /// Milliseconds after which a cache ejects its slots, 500 to 600000; 0: never.
    pub eject_after_ms: Option<u32>,
}

/// Changes what the operator says of a server. Only what is `Some` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetServer {
    /// Product of the group.
    pub product: ProductId,
    /// Group of the server.
    pub group: GroupId,
    /// The server.
    pub addr: HostPort,
    /// Servers with a larger priority are preferred for a promotion; 0: never promoted automatically.
    pub priority: Option<u32>,
    /// The zone of the server; empty: none.
    pub zone: Option<String>,
}
