//! The replicated log: openraft over sled. The only module that names either.
//! Knows nothing of what a change means: it hands entries to `model::apply` and publishes the state that results.

mod callers;
mod checks;
mod compaction;
mod convert;
mod copy;
#[cfg(any(test, debug_assertions))]
#[doc(hidden)]
pub mod crash_test;
mod directory;
mod disk;
mod handle;
mod incoming;
mod log_store;
mod membership;
mod network;
mod recover;
mod service;
mod state_machine;
mod threads;
mod transfer;
mod trees;
mod types;
mod watcher;
mod witness;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, path::PathBuf, time::Duration};

pub use callers::Callers;
pub use directory::{
    DirLock, belongs_to_a_cluster, check as check_directory, identity, lock, lock_unchanged, must_be_of_a_node,
};
pub use handle::Consensus;
pub use recover::RecoverReport;
pub use service::RaftService;
pub use threads::on_panic as on_storage_panic;

use crate::{
    model::{
        change::NewMember,
        ids::{Epoch, NodeId, Term, Uuid},
        outcome::Outcome,
        reject::Reject,
    },
    wire::auth::ClusterSecret,
};

/// The settings with which a node's log is opened.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This node, with the address it has now. The uuid was read from (or made in) the data directory.
    pub me: NewMember,
    /// Data directory, locked by the caller, mode 0700. Log, vote, snapshots and witness live in `raft/` below it.
    pub data_dir: PathBuf,
    /// The cluster secret.
    pub secret: ClusterSecret,
    /// Address of this machine that calls to other nodes come from; none: as the system chooses.
    pub source: Option<IpAddr>,
    /// Raft's heartbeat interval and election timeout (min, max).
    pub timing: Timing,
}

/// Raft's clocks. The defaults are 100 ms for the heartbeat and 300 to 600 ms for the election timeout; see
/// `docs/design/serving.md`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Time between two heartbeats of the leader to its followers.
    pub heartbeat: Duration,
    /// Shortest election timeout of a follower.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
}

/// The leadership, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Current term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Its admin address, if known.
    pub leader_admin: Option<String>,
    /// Its uuid; known if the address is.
    pub leader_uuid: Option<Uuid>,
    /// Whether this node believes that it leads, and has applied an entry of its own term.
    pub is_me: bool,
    /// Raft's voters.
    pub voters: Vec<NodeId>,
    /// Raft's learners.
    pub learners: Vec<NodeId>,
    /// Whether this membership is committed: a majority of these voters has it.
    pub settled: bool,
}

/// An entry that was committed and applied here.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its log index; if the change was repeated, that of its first entry.
    pub index: Epoch,
    /// What the change did, or why it did nothing.
    pub result: Result<Outcome, Reject>,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead; nothing was appended here.
    #[error("this node is not the leader; not executed")]
    NotLeader(Option<NodeId>),
    /// The change is larger than a log entry may be.
    #[error("the change has {size} bytes, more than the {limit} that fit into one log entry; not executed. Split it")]
    TooLarge {
        /// Bytes of the encoded change.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The change may have been appended; leadership or the deadline ended before it was committed.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The log has stopped (full disk, damage, shutdown). Not executed.
    #[error("the log of this node has stopped: {0}; not executed")]
    Stopped(String),
}

/// Why the log cannot be opened. The text says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);
