//! The handle on the replicated log.
//! Knows nothing of what a change means.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{Applied, ConsensusConfig, Leadership, ProposeError};
use crate::{
    model::{
        change::{Change, NewMember},
        ids::{HostPort, NodeId, Term, Uuid},
        state::ClusterState,
    },
    wire::pb::raft::raft_server::{Raft, RaftServer},
};

/// Why the log cannot be opened. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Holds the data directory for this process; dropped, it is free again.
#[derive(Debug)]
pub struct DirLock;

/// What `recover` did.
#[derive(Clone, Debug)]
pub struct RecoverReport {
    /// The new cluster id.
    pub cluster_id: Uuid,
    /// This node.
    pub node: NodeId,
    /// Last entry this node has; what was acknowledged after it may be missing.
    pub last_index: u64,
    /// Members that are gone from now on.
    pub dropped: Vec<NodeId>,
}

/// Takes the data directory for this process, making it (0700) if need be.
///
/// # Errors
/// A sentence for the operator.
pub fn lock(_data_dir: &Path) -> Result<DirLock, OpenError> {
    Ok(DirLock)
}

/// This node's uuid, made at the first call.
///
/// # Errors
/// A sentence for the operator.
pub fn identity(_data_dir: &Path) -> Result<Uuid, OpenError> {
    Ok(Uuid::default())
}

/// The service.
#[derive(Debug)]
pub struct RaftService;

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append_entries(
        &self,
        _: tonic::Request<crate::wire::pb::raft::AppendEntriesRequest>,
    ) -> Result<tonic::Response<crate::wire::pb::raft::AppendEntriesReply>, tonic::Status> {
        Err(tonic::Status::unavailable("not built yet"))
    }
    async fn vote(
        &self,
        _: tonic::Request<crate::wire::pb::raft::VoteRequest>,
    ) -> Result<tonic::Response<crate::wire::pb::raft::VoteReply>, tonic::Status> {
        Err(tonic::Status::unavailable("not built yet"))
    }
    async fn install_snapshot(
        &self,
        _: tonic::Request<crate::wire::pb::raft::InstallSnapshotRequest>,
    ) -> Result<tonic::Response<crate::wire::pb::raft::InstallSnapshotReply>, tonic::Status> {
        Err(tonic::Status::unavailable("not built yet"))
    }
    async fn stand_for_election(
        &self,
        _: tonic::Request<crate::wire::pb::raft::StandForElectionRequest>,
    ) -> Result<tonic::Response<crate::wire::pb::raft::StandForElectionReply>, tonic::Status> {
        Err(tonic::Status::unavailable("not built yet"))
    }
}

/// This node's part of the Raft group. Cheap to clone; all methods can be called from any task.
#[derive(Clone, Debug)]
pub struct Consensus {
    state: watch::Receiver<Arc<ClusterState>>,
    leadership: watch::Receiver<Leadership>,
    stopped: watch::Receiver<Option<String>>,
}

impl Consensus {
    /// Opens or creates the store; refuses when sled is behind its witness. Starts Raft; a pristine node stays silent.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn open(_config: ConsensusConfig) -> Result<Self, OpenError> {
        Err(OpenError("not built yet".into()))
    }

    /// Nothing in the log, no vote, no cluster id.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        true
    }

    /// The cluster this node belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Uuid> {
        None
    }

    /// Newest applied state; a new value after every applied batch.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// Who leads.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// `Some` when the log has stopped for good, with the reason.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.stopped.clone()
    }

    /// The lowest id of a pristine set of peers starts the cluster: writes cluster id and first membership (all voters).
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn initialize(&self, _cluster_id: Uuid, _members: Vec<NewMember>) -> Result<(), String> {
        Err("not built yet".into())
    }

    /// Appends at the local leader, waits until applied here. Never forwards.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, _id: Uuid, _change: Change, _deadline: Duration) -> Result<Applied, ProposeError> {
        Err(ProposeError::NotLeader(None))
    }

    /// A quorum round that begins after this call; the term in which this node led throughout.
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing is ever appended.
    pub async fn confirm_leadership(&self, _deadline: Duration) -> Result<Term, ProposeError> {
        Err(ProposeError::NotLeader(None))
    }

    /// Brings Raft's membership one safe step nearer to what is asked. Ok(false): it is so already. Leader only.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn change_membership(
        &self,
        _voters: BTreeSet<NodeId>,
        _learners: BTreeSet<NodeId>,
        _nodes: BTreeMap<NodeId, NewMember>,
    ) -> Result<bool, ProposeError> {
        Err(ProposeError::NotLeader(None))
    }

    /// Where a node is now (learned from heartbeats), before the log says so.
    pub fn learn_address(&self, _uuid: Uuid, _admin: HostPort) {}

    /// The tonic service to mount on the admin port, without auth.
    #[must_use]
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftServer::new(RaftService)
    }

    /// Leader stepping down on SIGTERM: another voter leads when this returns, or the deadline has passed.
    pub async fn hand_over(&self, _deadline: Duration) {}

    /// Stops Raft and closes the store.
    pub async fn shutdown(&self) {}

    /// Offline, under the directory's lock: makes this node a cluster of one, keeping all it knows.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn recover(_data_dir: &Path, _lock: &DirLock) -> Result<RecoverReport, String> {
        Err("not built yet".into())
    }
}
