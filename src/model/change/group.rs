//! Changes of groups and their servers.

use crate::model::{
    data_user::DataUser,
    ids::{Epoch, GroupId, HostPort, ProductId},
    secret::Credentials,
    state::{ImpairedOptions, Server},
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
    /// The credentials that nodes log in with at the servers: those of the control user.
    pub credentials: Option<Credentials>,
    /// The user with which nodes carry out what clients ask for; `None`: the control user.
    pub data_user: Option<DataUser>,
}

/// Gives a group other credentials for its servers, which accept them already. Those until now become the former ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetControlUser {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The credentials that nodes log in with at the servers: those of the control user.
    pub credentials: Credentials,
}

/// No server of the group accepts the former credentials any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForgetFormer {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Log index of the entry that replaced them.
    pub replaced_at: Epoch,
}

/// Gives a group another data user. It is at the group's servers already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDataUser {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The user with which nodes carry out what clients ask for.
    pub data_user: DataUser,
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
    /// How many keys its primary held just before, in all databases; `None`: not known.
    pub keys_left: Option<u64>,
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
    /// Options about servers that answer and cannot serve.
    pub impaired: SetImpaired,
}

/// Changes options about servers that answer and cannot serve. Only what is `Some` changes. Milliseconds, 1000 to
/// 3600000; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetImpaired {
    /// Until a primary that is busy with a script is replaced.
    pub busy_failover_after_ms: Option<u32>,
    /// Until a primary that loads its data is replaced.
    pub loading_failover_after_ms: Option<u32>,
    /// Until a primary that refuses writes is replaced.
    pub misconf_failover_after_ms: Option<u32>,
    /// Until a script is ended.
    pub script_kill_after_ms: Option<u32>,
}

impl SetImpaired {
    /// The options after the change.
    #[must_use]
    pub fn apply_to(self, before: ImpairedOptions) -> ImpairedOptions {
        ImpairedOptions {
            busy_failover_after_ms: self.busy_failover_after_ms.unwrap_or(before.busy_failover_after_ms),
            loading_failover_after_ms: self.loading_failover_after_ms.unwrap_or(before.loading_failover_after_ms),
            misconf_failover_after_ms: self.misconf_failover_after_ms.unwrap_or(before.misconf_failover_after_ms),
            script_kill_after_ms: self.script_kill_after_ms.unwrap_or(before.script_kill_after_ms),
        }
    }
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
