//! Answers the Raft calls of other nodes: checks the caller and the message, then passes the message to openraft. A call
//! that is refused changes nothing.
//! Knows nothing of the cluster secret, which the server checks before.

use std::sync::Arc;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{
    callers::{self, Callers, Standing},
    checks::{self, Commit, LogView},
    convert,
    disk::{Disk, ENTRY_MAX},
    incoming::{IncomingSnapshot, Piece},
    log_store::blocking,
    types::{Raft, Snapshot, SnapshotMeta, Vote},
};
use crate::{
    faults,
    wire::{
        caller::Caller,
        pb::raft::{self as pb, append_entries_reply, raft_server},
        refused::{Because, Refusal},
        snapshot::decode_state,
    },
};

/// Longest piece of a snapshot that is accepted; this version sends half of it.
const PIECE_MAX: usize = 1 << 20;

/// The service. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct RaftService {
    pub(super) raft: Raft,
    pub(super) disk: Arc<Disk>,
    pub(super) callers: Callers,
    /// One call at a time is checked against the log and passed on, so that the log does not change in between. openraft
    /// takes them one at a time, too.
    pub(super) turn: Arc<Mutex<()>>,
    pub(super) incoming: Arc<Mutex<IncomingSnapshot>>,
}

impl std::fmt::Debug for RaftService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftService").field("me", &self.callers.me).finish_non_exhaustive()
    }
}

/// Why a call is not answered.
enum CallError {
    /// It is refused, and has changed nothing.
    Refused(Refusal),
    /// The log has stopped.
    Stopped(Status),
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<String> for CallError {
    fn from(malformed: String) -> Self {
        Self::Refused(Refusal::new(Because::Malformed, malformed))
    }
}

fn stopped<E: std::fmt::Display>(error: E) -> CallError {
    CallError::Stopped(Status::unavailable(format!("the log of this node has stopped: {error}")))
}

impl RaftService {
    /// Checks the sender of a call. A node without a cluster accepts senders of any: the first cluster that knows its
    /// uuid is its own, see [`Self::adopt`].
    fn caller(&self, header: Option<&pb::Header>) -> Result<(Caller, Standing), CallError> {
        Ok(self.callers.check_raft(Caller::read(header)?)?)
    }

    /// Makes a node without a cluster part of the sender's, durably. Only after everything that can refuse the call.
    async fn adopt(&self, caller: &Caller) -> Result<(), CallError> {
        let me = &self.callers.me;
        if me.cluster().is_none() {
            let cluster = caller.cluster;
            blocking(&self.disk, move |d| d.set_cluster(cluster)).await.map_err(stopped)?;
            me.set_cluster(cluster);
            tracing::info!(%cluster, from = caller.id, "this node takes part in a cluster now");
        }
        Ok(())
    }

    async fn log_view(&self) -> Result<LogView, CallError> {
        let seen = self.raft.with_raft_state(|s| (*s.vote_ref(), s.committed)).await;
        let (vote, committed) = seen.map_err(stopped)?;
        Ok(LogView { vote, committed, last: self.disk.ends().last })
    }

    async fn appended(&self, message: pb::AppendEntriesRequest) -> Result<pb::AppendEntriesReply, CallError> {
        use append_entries_reply::Result as Code;
        faults::panic_if_asked("raft-call");
        let (caller, _) = self.caller(message.header.as_ref())?;
        let mut rpc = append_request(&message)?;
        let _turn = self.turn.lock().await;
        let log = self.log_view().await?;
        checks::vote(&rpc.vote, true, &caller, &log)?;
        if rpc.vote < log.vote {
            let vote = Some(convert::vote_pb(&log.vote));
            return Ok(pb::AppendEntriesReply { result: Code::HigherVote.into(), vote });
        }
        rpc.leader_commit = match checks::append(&rpc, &log)? {
            Commit::UpTo(commit) => commit,
            Commit::IfPresent(id) => {
                let own = blocking(&self.disk, move |d| d.entries(id.index, Some(id.index + 1), 0)).await;
                own.map_err(stopped)?.pop().map(|entry| entry.log_id).filter(|own| *own == id)
            }
        };
        self.adopt(&caller).await?;
        let (result, vote) = match self.raft.append_entries(rpc).await.map_err(stopped)? {
            AppendEntriesResponse::Success => (Code::Success, None),
            AppendEntriesResponse::Conflict => (Code::Conflict, None),
            AppendEntriesResponse::HigherVote(v) => (Code::HigherVote, Some(convert::vote_pb(&v))),
            // openraft's handler does not answer this today. If it does, the rest must be sent again.
            AppendEntriesResponse::PartialSuccess(_) => {
                return Err(CallError::Stopped(Status::internal("a partial success")));
            }
        };
        Ok(pb::AppendEntriesReply { result: result.into(), vote })
    }

    async fn voted(&self, message: pb::VoteRequest) -> Result<pb::VoteReply, CallError> {
        let (caller, standing) = self.caller(message.header.as_ref())?;
        let vote = convert::vote(message.vote.as_ref())?;
        let last = convert::optional_log_id(message.last_log_id.as_ref())?;
        let _turn = self.turn.lock().await;
        let log = self.log_view().await?;
        checks::vote(&vote, false, &caller, &log)?;
        checks::candidate(&vote, last, standing == Standing::Member, &log)?;
        self.adopt(&caller).await?;
        let reply = self.raft.vote(VoteRequest::new(vote, last)).await.map_err(stopped)?;
        Ok(pb::VoteReply {
            vote: Some(convert::vote_pb(&reply.vote)),
            granted: reply.vote_granted,
            last_log_id: reply.last_log_id.as_ref().map(convert::log_id_pb),
        })
    }

    async fn installed(&self, message: pb::InstallSnapshotRequest) -> Result<pb::InstallSnapshotReply, CallError> {
        let (caller, _) = self.caller(message.header.as_ref())?;
        if message.data.len() > PIECE_MAX {
            let text = format!("a piece of a snapshot with {} bytes, more than {PIECE_MAX}", message.data.len());
            return Err(Refusal::new(Because::Size, text).into());
        }
        let vote = convert::vote(message.vote.as_ref())?;
        let meta = convert::snapshot_meta(message.meta.as_ref().ok_or("a snapshot without a description".to_owned())?)?;
        let log = self.log_view().await?;
        checks::vote(&vote, true, &caller, &log)?;
        let answer =
            |vote: &Vote| pb::InstallSnapshotReply { vote: Some(convert::vote_pb(vote)), ..Default::default() };
        if vote < log.vote {
            return Ok(answer(&log.vote));
        }
        let last = checks::snapshot(&meta, &vote, &log)?;
        let id = meta.snapshot_id.clone();
        let piece = self.incoming.lock().await.take(caller.uuid, &id, message.offset, &message.data, message.done);
        let data = match piece {
            Piece::Kept => return Ok(answer(&log.vote)),
            Piece::Complete(data) => data,
            Piece::Mismatch => {
                let refusal =
                    Refusal::new(Because::Position, format!("a piece at offset {} follows no other", message.offset));
                self.callers.refuse(&refusal, Some(&caller));
                return Ok(pb::InstallSnapshotReply { mismatch: true, expected_id: id, ..Default::default() });
            }
            Piece::TooLong => {
                return Err(Refusal::new(Because::Size, "a snapshot that is longer than any state".to_owned()).into());
            }
        };
        let data = whole(data, last.index).await?;
        self.adopt(&caller).await?;
        let snapshot = snapshot(meta, data);
        // This takes as long as the disk, in which the leader's heartbeats must be answered: it does not hold the turn.
        let done = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(answer(&done.vote))
    }

    async fn stands(&self, message: pb::StandForElectionRequest) -> Result<pb::StandForElectionReply, CallError> {
        let (caller, standing) = self.callers.check_raft(Caller::read(message.header.as_ref())?)?;
        if standing == Standing::Unknown {
            return Err(callers::unknown(&caller).into());
        }
        self.raft.trigger().elect().await.map_err(stopped)?;
        Ok(pb::StandForElectionReply {})
    }

    /// The answer, or the status of the error. A refusal is counted and logged.
    fn answer<T>(&self, header: Option<pb::Header>, answer: Result<T, CallError>) -> Result<Response<T>, Status> {
        answer.map(Response::new).map_err(|error| match error {
            CallError::Stopped(status) => status,
            CallError::Refused(refusal) => self.callers.refuse(&refusal, Caller::read(header.as_ref()).ok().as_ref()),
        })
    }
}

fn append_request(
    message: &pb::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<super::types::TypeConfig>, CallError> {
    for entry in &message.entries {
        if let Some(pb::log_entry::Payload::Change(bytes)) = &entry.payload
            && bytes.len() > ENTRY_MAX
        {
            let text = format!("an entry with {} bytes, more than {ENTRY_MAX}", bytes.len());
            return Err(Refusal::new(Because::Size, text).into());
        }
    }
    Ok(AppendEntriesRequest {
        vote: convert::vote(message.vote.as_ref())?,
        prev_log_id: convert::optional_log_id(message.prev_log_id.as_ref())?,
        entries: message.entries.iter().map(convert::log_entry).collect::<Result<_, _>>()?,
        leader_commit: convert::optional_log_id(message.leader_commit.as_ref())?,
    })
}

/// The bytes of a snapshot, if they are a state up to this index. openraft would end this node at any others.
async fn whole(data: Vec<u8>, index: u64) -> Result<Vec<u8>, CallError> {
    let checked = tokio::task::spawn_blocking(move || match decode_state(&data) {
        Ok(state) if state.applied.0 == index => Ok(data),
        Ok(state) => Err(format!("a snapshot up to entry {index} whose state is that of entry {}", state.applied)),
        Err(e) => Err(format!("a snapshot that cannot be read: {e}")),
    });
    Ok(checked.await.map_err(stopped)??)
}

fn snapshot(meta: SnapshotMeta, data: Vec<u8>) -> Snapshot {
    Snapshot { meta, snapshot: Box::new(std::io::Cursor::new(data)) }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesReply>, Status> {
        let message = request.into_inner();
        self.answer(message.header.clone(), self.appended(message).await)
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        let message = request.into_inner();
        self.answer(message.header.clone(), self.voted(message).await)
    }

    async fn install_snapshot(
        &self,
        request: Request<pb::InstallSnapshotRequest>,
    ) -> Result<Response<pb::InstallSnapshotReply>, Status> {
        let message = request.into_inner();
        self.answer(message.header.clone(), self.installed(message).await)
    }

    async fn stand_for_election(
        &self,
        request: Request<pb::StandForElectionRequest>,
    ) -> Result<Response<pb::StandForElectionReply>, Status> {
        let message = request.into_inner();
        self.answer(message.header.clone(), self.stands(message).await)
    }
}
