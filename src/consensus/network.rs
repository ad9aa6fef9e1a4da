//! openraft's network: RPCs to the other nodes, and the addresses at which they are.
//! Knows nothing of what is sent.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use openraft::{
    AnyError, RPCTypes,
    error::{
        InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Timeout, Unreachable,
    },
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use tokio::sync::watch;
use tonic::{Code, Request, Status, service::interceptor::InterceptedService, transport::Channel};

use super::{
    checks, convert,
    types::{RaftNode, TypeConfig, Vote},
};
use crate::{
    model::{
        ids::{HostPort, NodeId, Uuid},
        state::ClusterState,
    },
    wire::{
        auth::{ClientAuth, ClusterSecret},
        channels::{ChannelSettings, Channels},
        pb::raft::{self as pb, raft_client::RaftClient},
    },
};

/// A connection that takes longer than 2 s does not come soon; RPCs have shorter deadlines of their own. Pings go on
/// while no call is open, so that the next call does not wait on a connection whose peer has vanished.
const CHANNELS: ChannelSettings = ChannelSettings {
    connect_max: Duration::from_secs(2),
    keep_alive: Duration::from_secs(5),
    keep_alive_while_idle: true,
};
/// Pause after a call that could not reach a node: short, because a refused connection costs little, and a node that is
/// back must hear from its leader before its election timeout (300 ms).
const BACKOFF: Duration = Duration::from_millis(100);

type Client = RaftClient<InterceptedService<Channel, ClientAuth>>;

/// The identity of this node and of its cluster, shared by the sender and the receiver of RPCs.
#[derive(Debug)]
pub struct PeerIdentity {
    /// This node's id.
    pub id: u64,
    /// This node's uuid.
    pub uuid: Uuid,
    /// Its cluster, once it belongs to one.
    pub cluster: RwLock<Option<Uuid>>,
}

impl PeerIdentity {
    /// The cluster, if there is one.
    pub fn cluster(&self) -> Option<Uuid> {
        *self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the cluster. The caller has written it to the witness.
    pub fn set_cluster(&self, id: Uuid) {
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }
}

/// The network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<SharedNetwork>,
}

#[derive(Debug)]
struct SharedNetwork {
    me: Arc<PeerIdentity>,
    auth: ClientAuth,
    channels: Channels,
    /// The newest state, for the index at which this start was admitted.
    state: watch::Receiver<Arc<ClusterState>>,
    links: Mutex<PeerLinks>,
}

#[derive(Debug, Default)]
struct PeerLinks {
    /// Newer addresses than the log's, by uuid: the address, and the log's at the time when it was learned. When the
    /// log's changes, the log is newer again.
    learned: BTreeMap<Uuid, (String, Option<String>)>,
    /// Why the last call to a node failed, so that it is logged once.
    last_failure: BTreeMap<u64, String>,
}

/// Learned addresses kept, far more than a cluster has nodes. Beyond this number all are dropped; heartbeats bring them
/// again.
const LEARNED_MAX: usize = 1024;

impl Network {
    /// A network without connections. Connections come from the address `source` of this machine; `None`: the system
    /// chooses it.
    pub fn new(
        me: Arc<PeerIdentity>,
        secret: ClusterSecret,
        source: Option<IpAddr>,
        state: watch::Receiver<Arc<ClusterState>>,
    ) -> Self {
        let (auth, channels) = (ClientAuth(secret), Channels::new(CHANNELS).calling_from(source));
        Self { shared: Arc::new(SharedNetwork { me, auth, channels, state, links: Mutex::default() }) }
    }

    /// What callers have proven to be, see [`ClusterSecret::actor`].
    pub fn actor(&self) -> &'static str {
        self.shared.auth.0.actor()
    }

    /// Notes that a node is at `admin` now.
    pub fn learn(&self, uuid: Uuid, admin: &HostPort) {
        let mut links = self.shared.links();
        if links.learned.len() >= LEARNED_MAX {
            links.learned.clear();
        }
        match links.learned.get(&uuid) {
            Some((known, _)) if known == admin.as_str() => {}
            _ => {
                links.learned.insert(uuid, (admin.as_str().to_owned(), None));
            }
        }
    }

    /// The address of a node: the learned one, else the log's.
    pub fn address(&self, node: &RaftNode) -> String {
        let mut links = self.shared.links();
        match links.learned.get_mut(&node.uuid) {
            Some((admin, seen)) => {
                if seen.get_or_insert_with(|| node.admin.clone()) == &node.admin {
                    return admin.clone();
                }
                links.learned.remove(&node.uuid);
                node.admin.clone()
            }
            None => node.admin.clone(),
        }
    }

    /// Returns a client for any number of calls. Cheap.
    ///
    /// # Errors
    /// The node's address is not valid.
    pub fn client(&self, node: &RaftNode) -> Result<Client, Status> {
        let channel = self.shared.channels.to(&self.address(node)).map_err(Status::unavailable)?;
        Ok(RaftClient::with_interceptor(channel, self.shared.auth.clone()))
    }

    /// The header of a call to a node.
    pub fn header(&self, to: u64, to_uuid: Uuid) -> pb::Header {
        let me = &self.shared.me;
        let state = self.shared.state.borrow();
        let own = state.members.get(&NodeId(me.id)).filter(|m| m.uuid == me.uuid);
        pb::Header {
            cluster_id: me.cluster().map(convert::uuid_bytes).unwrap_or_default(),
            from_id: me.id,
            from_uuid: convert::uuid_bytes(me.uuid),
            to_id: to,
            to_uuid: convert::uuid_bytes(to_uuid),
            admitted: own.and_then(|m| m.admitted).map_or(0, |a| a.incarnation.0),
        }
    }
}

impl SharedNetwork {
    fn links(&self) -> std::sync::MutexGuard<'_, PeerLinks> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a call to a node ended, and logs it if the last one ended otherwise.
    fn note(&self, target: u64, result: Result<(), &Status>) {
        let mut links = self.links();
        match result {
            Ok(()) => {
                if links.last_failure.remove(&target).is_some() {
                    tracing::info!(node = target, "the node answers again");
                }
            }
            Err(status) => {
                // The text of a refusal matters; that of a broken connection varies too much to compare.
                let kind = match status.code() {
                    Code::FailedPrecondition | Code::Unauthenticated => status.message().to_owned(),
                    Code::DeadlineExceeded | Code::Cancelled => return,
                    code => code.description().to_owned(),
                };
                if links.last_failure.get(&target) != Some(&kind) {
                    tracing::warn!(node = target, error = status.message(), "the node cannot be reached by Raft");
                    links.last_failure.insert(target, kind);
                }
            }
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerLink;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> PeerLink {
        PeerLink { network: self.clone(), target, node: node.clone() }
    }
}

/// The link to one node.
#[derive(Debug)]
pub struct PeerLink {
    network: Network,
    target: u64,
    node: RaftNode,
}

type Rpc<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, RaftNode, RaftError<u64, E>>>;

impl PeerLink {
    fn failed<E: std::error::Error>(
        &self,
        action: RPCTypes,
        ttl: Duration,
        status: &Status,
    ) -> RPCError<u64, RaftNode, RaftError<u64, E>> {
        self.network.shared.note(self.target, Err(status));
        let error = AnyError::error(status.message());
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => {
                RPCError::Timeout(Timeout { action, id: self.network.shared.me.id, target: self.target, timeout: ttl })
            }
            Code::Internal | Code::DataLoss | Code::InvalidArgument => RPCError::Network(NetworkError::from(error)),
            // Refused or unreachable: a repetition at once would not help.
            _ => RPCError::Unreachable(Unreachable::from(error)),
        }
    }

    fn answered<T>(&self, reply: tonic::Response<T>) -> T {
        self.network.shared.note(self.target, Ok(()));
        reply.into_inner()
    }
}

/// The vote in a reply to a message with the vote `sent`.
fn their_vote(vote: Option<&pb::BallotVote>, sent: &Vote) -> Result<Vote, NetworkError> {
    let checked = convert::vote(vote).and_then(|vote| {
        checks::replied_vote(&vote, sent).map_err(|refusal| refusal.text)?;
        Ok(vote)
    });
    checked.map_err(|e| NetworkError::from(AnyError::error(e)))
}

fn timed<T>(message: T, ttl: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ttl);
    request
}

impl RaftNetwork<TypeConfig> for PeerLink {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        let (action, ttl) = (RPCTypes::AppendEntries, option.hard_ttl());
        let message = pb::AppendEntriesRequest {
            header: Some(self.network.header(self.target, self.node.uuid)),
            vote: Some(convert::vote_pb(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(convert::log_id_pb),
            entries: rpc.entries.iter().map(convert::log_entry_pb).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(convert::log_id_pb),
        };
        let mut client = self.network.client(&self.node).map_err(|s| self.failed(action, ttl, &s))?;
        let reply = client.append_entries(timed(message, ttl)).await.map_err(|s| self.failed(action, ttl, &s))?;
        let reply = self.answered(reply);
        Ok(match reply.result() {
            pb::append_entries_reply::Result::Success => AppendEntriesResponse::Success,
            pb::append_entries_reply::Result::Conflict => AppendEntriesResponse::Conflict,
            pb::append_entries_reply::Result::HigherVote => {
                AppendEntriesResponse::HigherVote(their_vote(reply.vote.as_ref(), &rpc.vote)?)
            }
        })
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        let (action, ttl) = (RPCTypes::InstallSnapshot, option.hard_ttl());
        let message = pb::InstallSnapshotRequest {
            header: Some(self.network.header(self.target, self.node.uuid)),
            vote: Some(convert::vote_pb(&rpc.vote)),
            meta: Some(convert::snapshot_meta_pb(&rpc.meta)),
            offset: rpc.offset,
            data: rpc.data.into(),
            done: rpc.done,
        };
        let mut client = self.network.client(&self.node).map_err(|s| self.failed(action, ttl, &s))?;
        let reply = client.install_snapshot(timed(message, ttl)).await.map_err(|s| self.failed(action, ttl, &s))?;
        let reply = self.answered(reply);
        if reply.mismatch {
            let got = (rpc.meta.snapshot_id, rpc.offset).into();
            let expect = (reply.expected_id, reply.expected_offset).into();
            let mismatch = InstallSnapshotError::SnapshotMismatch(SnapshotMismatch { expect, got });
            return Err(RPCError::RemoteError(RemoteError::new(self.target, RaftError::APIError(mismatch))));
        }
        Ok(InstallSnapshotResponse { vote: their_vote(reply.vote.as_ref(), &rpc.vote)? })
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Rpc<VoteResponse<u64>> {
        let (action, ttl) = (RPCTypes::Vote, option.hard_ttl());
        let message = pb::VoteRequest {
            header: Some(self.network.header(self.target, self.node.uuid)),
            vote: Some(convert::vote_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(convert::log_id_pb),
        };
        let mut client = self.network.client(&self.node).map_err(|s| self.failed(action, ttl, &s))?;
        let reply = client.vote(timed(message, ttl)).await.map_err(|s| self.failed(action, ttl, &s))?;
        let reply = self.answered(reply);
        let last = convert::optional_log_id(reply.last_log_id.as_ref());
        let last = last.map_err(|e| NetworkError::from(AnyError::error(e)))?;
        Ok(VoteResponse::new(their_vote(reply.vote.as_ref(), &rpc.vote)?, last, reply.granted))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_learned_address_counts_until_the_log_has_a_newer_one() {
        let me = Arc::new(PeerIdentity { id: 1, uuid: Uuid(1), cluster: None.into() });
        let network = Network::new(me, ClusterSecret::none(), None, watch::channel(Arc::default()).1);
        let at = |port: u16| format!("127.0.0.1:{port}");
        let node = |port| RaftNode { uuid: Uuid(2), admin: at(port), ..RaftNode::default() };
        let learn = |port| network.learn(Uuid(2), &HostPort::parse(&at(port)).unwrap());
        assert_eq!(network.address(&node(24101)), at(24101));
        learn(24102);
        assert_eq!(network.address(&node(24101)), at(24102));
        // The same address is learned again.
        learn(24102);
        assert_eq!(network.address(&node(24101)), at(24102));
        // The log has a new address: the learned one is older.
        assert_eq!(network.address(&node(24103)), at(24103));
        learn(24104);
        assert_eq!(network.address(&node(24103)), at(24104));
    }
}
