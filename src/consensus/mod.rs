//! The replicated log: openraft over sled. The only place that names either.
//! Knows nothing of what a change means: it hands entries to `model::apply` and publishes the state that results.

mod convert;
#[cfg(any(test, debug_assertions))]
#[doc(hidden)]
pub mod crash_test;
mod directory;
mod disk;
mod handle;
mod log_store;
mod network;
mod recover;
mod service;
mod state_machine;
mod types;
mod watcher;
mod witness;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, path::PathBuf, time::Duration};

pub use directory::{DirLock, identity, lock};
pub use handle::Consensus;
pub use recover::RecoverReport;
pub use service::RaftService;

use crate::{
    model::{
        change::NewMember,
        ids::{Epoch, NodeId, Term},
        outcome::Outcome,
        reject::Reject,
    },
    wire::auth::ClusterSecret,
};

/// What a node's log is opened with.
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

/// Raft's clocks (serving.md: heartbeat 100 ms, election 300 to 600 ms).
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Leader to followers.
    pub heartbeat: Duration,
    /// Shortest wait of a follower before it stands for election.
    pub election_min: Duration,
    /// Longest.
    pub election_max: Duration,
}

/// Who leads, as this node believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Current term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Its admin address, if known.
    pub leader_admin: Option<String>,
    /// This node believes that it leads, and has applied an entry of its own term.
    pub is_me: bool,
    /// Raft's voters.
    pub voters: Vec<NodeId>,
    /// Raft's learners.
    pub learners: Vec<NodeId>,
    /// Voters and learners are committed: a majority of these voters knows that it is one.
    pub settled: bool,
}

/// An entry that was committed and applied here.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Its log index; of the first one if this was a repeat.
    pub index: Epoch,
    /// What came of it.
    pub result: Result<Outcome, Reject>,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was appended here.
    #[error("this node is not the leader; not executed")]
    NotLeader(Option<NodeId>),
    /// It is larger than any change should be.
    #[error("the change has {size} bytes, more than the {limit} that fit into one log entry; not executed. Split it")]
    TooLarge {
        /// Bytes encoded.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It was appended, and leadership or the deadline went before it was committed.
    #[error("outcome unknown: {0}; repeat it under the same change id")]
    Unknown(String),
    /// The log has stopped (disk full, damaged, shut down). Not executed.
    #[error("the log of this node has stopped: {0}; not executed")]
    Stopped(String),
}

/// Why the log cannot be opened. The text says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);
