//! The types with which this crate uses openraft.
//! Knows nothing of disks or networks.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Applied;
use crate::model::{
    change::NewMember,
    ids::{HostPort, NodeId, Uuid},
    state::Entry,
};

openraft::declare_raft_types!(
    /// The types of our Raft group.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = RaftNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type LogEntry = openraft::Entry<TypeConfig>;
pub type Membership = openraft::Membership<u64, RaftNode>;
pub type StoredMembership = openraft::StoredMembership<u64, RaftNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, RaftNode>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;
pub type Metrics = openraft::RaftMetrics<u64, RaftNode>;
pub type StorageError = openraft::StorageError<u64>;
pub type StorageIOError = openraft::StorageIOError<u64>;

/// The payload of a log entry.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Set when the log store gets the entry for writing. openraft answers "not the leader" also when an appended entry
    /// was removed again; the entry was certainly not executed only if this is not set.
    appended: Arc<AtomicBool>,
}

impl Proposal {
    /// A proposal that has not been appended here.
    pub fn new(entry: Entry) -> Self {
        Self { entry: Arc::new(entry), appended: Arc::new(AtomicBool::new(false)) }
    }

    /// The flag, for a check after the answer.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.appended.clone()
    }

    /// Notes that the entry may be on this node's disk from now on.
    pub fn mark_appended(&self) {
        self.appended.store(true, Ordering::Release);
    }
}

/// The result of applying an entry; `None` for blank entries and memberships.
#[derive(Clone, Debug)]
pub struct Response(pub Option<Applied>);

/// A node as Raft's membership has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftNode {
    /// Its identity.
    pub uuid: Uuid,
    /// HOST:PORT of its admin port.
    pub admin: String,
    /// The host that clients are sent to.
    pub advertise: String,
    /// Added to every product's port.
    pub port_offset: u16,
}

impl RaftNode {
    /// The membership's form of a member.
    pub fn of(member: &NewMember) -> Self {
        Self {
            uuid: member.uuid,
            admin: member.admin.as_str().to_owned(),
            advertise: member.advertise.clone(),
            port_offset: member.port_offset,
        }
    }

    /// This node as a member; `None` if its address is invalid, which no membership of this crate contains.
    pub fn member(&self, id: u64) -> Option<NewMember> {
        Some(NewMember {
            id: NodeId(id),
            uuid: self.uuid,
            admin: HostPort::parse(&self.admin).ok()?,
            advertise: self.advertise.clone(),
            port_offset: self.port_offset,
        })
    }
}
