//! Answers the Raft calls of other nodes: checks the caller, then passes the call to openraft.
//! Knows nothing of the cluster secret, which the server checks before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use openraft::{
    error::{InstallSnapshotError, RaftError},
    raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest},
};
use tonic::{Request, Response, Status};

use super::{
    convert,
    disk::Disk,
    log_store::blocking,
    network::PeerIdentity,
    types::{Raft, Vote},
};
use crate::{
    model::ids::Uuid,
    wire::pb::raft::{self as pb, append_entries_reply, raft_server},
};

/// Longest piece of a snapshot that is accepted; this version sends half of it.
const PIECE_MAX: usize = 1 << 20;
/// Refusals that are kept, so that each is logged once. Beyond this number all are dropped.
const REFUSED_MAX: usize = 256;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct RaftService {
    pub(super) raft: Raft,
    pub(super) disk: Arc<Disk>,
    pub(super) me: Arc<PeerIdentity>,
    pub(super) refused: Arc<Mutex<BTreeMap<Uuid, String>>>,
}

impl std::fmt::Debug for RaftService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftService").field("me", &self.me).finish_non_exhaustive()
    }
}

fn bad(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

fn stopped<E: std::fmt::Display>(error: E) -> Status {
    Status::unavailable(format!("the log of this node has stopped: {error}"))
}

impl RaftService {
    /// Accepts a call if it is for this node and from its cluster. With `adopt`, a node without a cluster joins the
    /// first one that knows its uuid, durably before it answers.
    async fn admit(&self, header: Option<&pb::Header>, adopt: bool) -> Result<(), Status> {
        let header = header.ok_or_else(|| bad("no header in it"))?;
        let from = convert::uuid(&header.from_uuid).map_err(bad)?;
        let to = convert::uuid(&header.to_uuid).map_err(bad)?;
        let cluster = convert::uuid(&header.cluster_id).map_err(bad)?;
        let (id, uuid) = (self.me.id, self.me.uuid);
        if to != uuid || header.to_id != id {
            return Err(self.refuse(
                from,
                header.from_id,
                format!(
                    "this call is for node {} with uuid {to}, and here is node {id} with uuid {uuid}; if its data \
                     directory was wiped: `pontoon node remove {id}`, then start it with --join",
                    header.to_id
                ),
            ));
        }
        match self.me.cluster() {
            Some(own) if own == cluster => {}
            Some(own) => {
                return Err(self.refuse(
                    from,
                    header.from_id,
                    format!(
                        "node {id} belongs to cluster {own}, and this call comes from cluster {cluster}; a node changes \
                         its cluster only with a new data directory"
                    ),
                ));
            }
            None if adopt => {
                blocking(&self.disk, move |d| d.set_cluster(cluster)).await.map_err(stopped)?;
                self.me.set_cluster(cluster);
                tracing::info!(%cluster, from = header.from_id, "this node takes part in a cluster now");
            }
            None => return Err(Status::failed_precondition(format!("node {id} belongs to no cluster yet"))),
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.remove(&from);
        Ok(())
    }

    fn refuse(&self, from: Uuid, id: u64, why: String) -> Status {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        if refused.get(&from) != Some(&why) {
            tracing::warn!(node = id, uuid = %from, why, "a Raft call is refused");
            refused.insert(from, why.clone());
        }
        Status::failed_precondition(why)
    }

    /// Refuses a candidate whose id the membership knows under another uuid: it is a former node of that id. Only votes
    /// are checked, because this node may not know a new leader yet.
    fn known_candidate(&self, header: Option<&pb::Header>) -> Result<(), Status> {
        let Some(header) = header else { return Ok(()) };
        let from = convert::uuid(&header.from_uuid).map_err(bad)?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let known = metrics.membership_config.membership().get_node(&header.from_id).map(|n| n.uuid);
        match known {
            Some(uuid) if uuid != from => Err(self.refuse(
                from,
                header.from_id,
                format!("node {} is a member under uuid {uuid}, and a candidate has {from}", header.from_id),
            )),
            _ => Ok(()),
        }
    }
}

fn vote(vote: Option<&pb::BallotVote>) -> Result<Vote, Status> {
    convert::vote(vote).map_err(bad)
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesReply>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref(), true).await?;
        let rpc = AppendEntriesRequest {
            vote: vote(message.vote.as_ref())?,
            prev_log_id: message.prev_log_id.as_ref().map(convert::log_id),
            entries: message.entries.iter().map(convert::log_entry).collect::<Result<_, _>>().map_err(bad)?,
            leader_commit: message.leader_commit.as_ref().map(convert::log_id),
        };
        use append_entries_reply::Result as Code;
        let (result, vote) = match self.raft.append_entries(rpc).await.map_err(stopped)? {
            AppendEntriesResponse::Success => (Code::Success, None),
            AppendEntriesResponse::Conflict => (Code::Conflict, None),
            AppendEntriesResponse::HigherVote(v) => (Code::HigherVote, Some(convert::vote_pb(&v))),
            // openraft's handler does not answer this today. If it does, the rest must be sent again.
            AppendEntriesResponse::PartialSuccess(_) => return Err(Status::internal("a partial success")),
        };
        Ok(Response::new(pb::AppendEntriesReply { result: result.into(), vote }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref(), true).await?;
        self.known_candidate(message.header.as_ref())?;
        let rpc = VoteRequest::new(vote(message.vote.as_ref())?, message.last_log_id.as_ref().map(convert::log_id));
        let reply = self.raft.vote(rpc).await.map_err(stopped)?;
        Ok(Response::new(pb::VoteReply {
            vote: Some(convert::vote_pb(&reply.vote)),
            granted: reply.vote_granted,
            last_log_id: reply.last_log_id.as_ref().map(convert::log_id_pb),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<pb::InstallSnapshotRequest>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        let message = request.into_inner();
        self.admit(message.header.as_ref(), true).await?;
        if message.data.len() > PIECE_MAX {
            return Err(bad(format!("a piece of {} bytes", message.data.len())));
        }
        let meta = message.meta.as_ref().ok_or_else(|| bad("no metadata"))?;
        let rpc = InstallSnapshotRequest {
            vote: vote(message.vote.as_ref())?,
            meta: convert::snapshot_meta(meta).map_err(bad)?,
            offset: message.offset,
            data: message.data.to_vec(),
            done: message.done,
        };
        let reply = match self.raft.install_snapshot(rpc).await {
            Ok(done) => pb::InstallSnapshotReply { vote: Some(convert::vote_pb(&done.vote)), ..Default::default() },
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(m))) => pb::InstallSnapshotReply {
                vote: None,
                mismatch: true,
                expected_id: m.expect.id,
                expected_offset: m.expect.offset,
            },
            Err(RaftError::Fatal(e)) => return Err(stopped(e)),
        };
        Ok(Response::new(reply))
    }

    async fn stand_for_election(
        &self,
        request: Request<pb::StandForElectionRequest>,
    ) -> Result<Response<pb::StandForElectionReply>, Status> {
        self.admit(request.into_inner().header.as_ref(), false).await?;
        self.raft.trigger().elect().await.map_err(stopped)?;
        Ok(Response::new(pb::StandForElectionReply {}))
    }
}
