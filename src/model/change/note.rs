//! Changes that record what the leader has observed at a server or node, or changed there.

use crate::model::{
    event::EventKind,
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId},
};

/// Notes the replication id of a primary, and its process if that is known. A new process has only what the old one had
/// saved, which may be nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotePrimary {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Epoch of the group when its primary was checked.
    pub epoch: Epoch,
    /// The replication id.
    pub replid: String,
    /// The process (INFO run_id); empty: not known, or the server hides it.
    pub run_id: String,
    /// Keys of the primary when it was checked. Counts only with a `run_id`.
    pub keys: u64,
    /// Keys that the process before it had when it was last checked; `None`: not known.
    pub keys_before: Option<u64>,
}

impl NotePrimary {
    /// Notes only the replication id, where the process is not known.
    #[must_use]
    pub const fn replication_id(product: ProductId, group: GroupId, epoch: Epoch, replid: String) -> Self {
        Self { product, group, epoch, replid, run_id: String::new(), keys: 0, keys_before: None }
    }
}

/// Notes that the leader has made a server of a group follow the log. Adds an event and changes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteReconciled {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The server.
    pub addr: HostPort,
    /// What was done, why, and which node observed it, for people.
    pub text: String,
}

/// Notes what the leader has observed or done at the servers of a group. Adds an event and changes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteGroup {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// What it is about.
    pub note: GroupNote,
    /// What was observed or done, why, and what the operator can do, for people.
    pub text: String,
}

/// What a [`NoteGroup`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupNote {
    /// The guard keeps the group from an automatic failover.
    FailoverHeldBack,
    /// A script that kept a server busy for too long was ended.
    ScriptEnded,
    /// The primary refuses writes because it cannot write to its disk.
    WritesRefused,
    /// The group needs another primary, and no server can replace the present one.
    NotFailedOver,
}

impl GroupNote {
    /// The kind of its event.
    #[must_use]
    pub const fn event_kind(self) -> EventKind {
        match self {
            Self::FailoverHeldBack => EventKind::FailoverHeldBack,
            Self::ScriptEnded => EventKind::ScriptEnded,
            Self::WritesRefused => EventKind::WritesRefused,
            Self::NotFailedOver => EventKind::NotFailedOver,
        }
    }
}

/// Notes what the leader has observed at a node, or an operator has changed there. Adds an event and changes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteNode {
    /// The node.
    pub node: NodeId,
    /// What it is about.
    pub note: NodeNote,
    /// What was observed or changed, why, and what the operator can do, for people.
    pub text: String,
    /// What has changed at the node, as it was before; empty: nothing has.
    pub before: String,
    /// The same after the change.
    pub after: String,
}

/// What a [`NoteNode`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeNote {
    /// It closes clients because its memory budget is used up.
    ClientsClosed,
    /// Somebody has chosen which lines it logs.
    LogSet,
    /// It accepts or sends other cluster secrets.
    SecretsSet,
    /// An operator has closed clients of it.
    ClientsKilled,
    /// Clients of it have sent commands to single servers.
    ServersAsked,
}

impl NodeNote {
    /// The kind of its event.
    #[must_use]
    pub const fn event_kind(self) -> EventKind {
        match self {
            Self::ClientsClosed => EventKind::ClientsClosed,
            Self::LogSet => EventKind::LogSet,
            Self::SecretsSet => EventKind::SecretsSet,
            Self::ClientsKilled => EventKind::ClientsKilled,
            Self::ServersAsked => EventKind::ServersAsked,
        }
    }
}

/// A server that had diverged is resynced: it follows its group's primary and has copied all of its data. Proposed
/// after a check that began when the proposer had applied the entry by which the server diverged: an older check says
/// nothing of what was done to the server since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkResynced {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The server.
    pub addr: HostPort,
    /// Epoch of the group when its servers were checked.
    pub epoch: Epoch,
}
