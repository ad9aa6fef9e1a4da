//! The replicated log: openraft over sled. The only place that names either.
//! Knows nothing of what a change means: it hands entries to `model::apply` and publishes the state that results.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    model::{
        change::{Change, NewMember},
        ids::{Epoch, NodeId, Term, Uuid},
        outcome::Outcome,
        reject::Reject,
        state::ClusterState,
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
    /// It was appended, and leadership or the deadline went before it was committed.
    #[error("outcome unknown: {0}; repeat it under the same change id")]
    Unknown(String),
    /// The log has stopped (disk full, damaged, shut down). Not executed.
    #[error("the log of this node has stopped: {0}; not executed")]
    Stopped(String),
}

// The handle (all methods cheap to call from any task; Clone):
//
// impl Consensus {
//     /// Opens or creates the store; refuses when sled is behind its witness. Starts Raft; on a pristine node it stays silent.
//     pub async fn open(config: ConsensusConfig) -> Result<Consensus, OpenError>;
//     /// Nothing in log, no vote, no cluster id.
//     pub fn is_pristine(&self) -> bool;
//     pub fn cluster_id(&self) -> Option<Uuid>;
//     /// Newest applied state; a new value after every applied batch.
//     pub fn state(&self) -> watch::Receiver<Arc<ClusterState>>;
//     pub fn leadership(&self) -> watch::Receiver<Leadership>;
//     /// The lowest id of a pristine set of peers starts the cluster: writes cluster id and first membership (all voters).
//     pub async fn initialize(&self, cluster_id: Uuid, members: Vec<NewMember>) -> Result<(), String>;
//     /// Appends at the local leader, waits until applied here. Never forwards.
//     pub async fn propose(&self, id: Uuid, change: Change, deadline: Duration) -> Result<Applied, ProposeError>;
//     /// A quorum round that begins after this call; the term in which this node led throughout.
//     pub async fn confirm_leadership(&self, deadline: Duration) -> Result<Term, ProposeError>;
//     /// Makes Raft's membership (voters, learners, addresses) what is asked, one safe step; Ok(false): nothing to do. Leader only.
//     pub async fn change_membership(&self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>, nodes: BTreeMap<NodeId, NewMember>) -> Result<bool, ProposeError>;
//     /// Where a node is now (learned from heartbeats), before the log says so.
//     pub fn learn_address(&self, uuid: Uuid, admin: HostPort);
//     /// The tonic service to mount on the admin port.
//     pub fn service(&self) -> RaftServer<...>;
//     /// Leader stepping down on SIGTERM (architecture.md, "What we know of the given packages").
//     pub async fn hand_over(&self, deadline: Duration);
//     pub async fn shutdown(&self);
//     /// Offline: `pontoon recover`.
//     pub fn recover(data_dir: &Path, ...) -> Result<RecoverReport, String>;
// }
