//! The hostile process: it makes any call, as anybody.

use bytes::Bytes;
use pontoon::wire::{
    auth::{ClientAuth, ClusterSecret},
    caller::NodeAuth,
    pb::{
        admin::admin_client::AdminClient,
        node::{HelloRequest, NodeInfo, node_client::NodeClient},
        raft::{
            AppendEntriesReply, AppendEntriesRequest, BallotVote, Header, InstallSnapshotReply, InstallSnapshotRequest,
            LogEntry, LogId, Membership, RaftNode, SnapshotMeta, StoredMembership, VoteReply, VoteRequest, VoterSet,
            raft_client::RaftClient,
        },
    },
};
use tonic::{
    Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

/// The secret of clusters that use one (`Cluster::use_secret`).
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Id of a node that no cluster has.
pub const STRANGER: u64 = 77;

type Authenticated = InterceptedService<Channel, NodeAuth>;

/// A hostile process that calls one node.
pub struct Peer {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    secret: ClusterSecret,
    /// The header of its calls. A test changes it.
    pub header: Header,
    /// The node that is called, as it says itself.
    pub target: NodeInfo,
}

/// 16 bytes.
pub fn uuid(n: u8) -> Bytes {
    Bytes::from(vec![n; 16])
}

impl Peer {
    /// Learns from the node at `admin` whom it must name in its calls.
    pub fn of(admin: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{admin}")).unwrap();
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        let secret = ClusterSecret::new(SECRET).unwrap();
        let mut peer = Self { runtime, channel, secret, header: Header::default(), target: NodeInfo::default() };
        let hello = peer.node(|mut client| async move { client.hello(HelloRequest::default()).await }).unwrap();
        peer.target = hello.me.unwrap();
        peer.header = Header {
            cluster_id: hello.cluster_id,
            from_id: STRANGER,
            from_uuid: uuid(STRANGER as u8),
            to_id: peer.target.id,
            to_uuid: peer.target.uuid.clone(),
            admitted: 0,
        };
        peer
    }

    /// Uses this secret from now on.
    pub fn with_secret(&mut self, secret: ClusterSecret) {
        self.secret = secret;
    }

    fn auth(&self, header: Option<Header>) -> NodeAuth {
        NodeAuth { secret: ClientAuth(self.secret.clone()), header }
    }

    /// Makes a call of node.proto, with the header in its metadata.
    pub fn node<T, F>(&self, call: impl FnOnce(NodeClient<Authenticated>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let header = (!self.header.from_uuid.is_empty()).then(|| self.header.clone());
        let client = NodeClient::with_interceptor(self.channel.clone(), self.auth(header));
        self.runtime.block_on(call(client)).map(tonic::Response::into_inner)
    }

    /// Makes an operator's call, as if another node forwarded it.
    pub fn forwarded<T, F>(
        &self,
        header: Option<Header>,
        call: impl FnOnce(AdminClient<Authenticated>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let client = AdminClient::with_interceptor(self.channel.clone(), self.auth(header));
        self.runtime.block_on(call(client)).map(tonic::Response::into_inner)
    }

    fn raft(&self) -> RaftClient<Authenticated> {
        RaftClient::with_interceptor(self.channel.clone(), self.auth(None)).max_encoding_message_size(usize::MAX)
    }

    /// Sends a Vote.
    pub fn vote(&self, term: u64, last: Option<LogId>) -> Result<VoteReply, Status> {
        let vote = Some(BallotVote { term, node: self.header.from_id, committed: false });
        let request = VoteRequest { header: Some(self.header.clone()), vote, last_log_id: last };
        self.runtime.block_on(self.raft().vote(request)).map(tonic::Response::into_inner)
    }

    /// Sends an AppendEntries, whose header is this peer's.
    pub fn append(&self, request: AppendEntriesRequest) -> Result<AppendEntriesReply, Status> {
        let request = AppendEntriesRequest { header: Some(self.header.clone()), ..request };
        self.runtime.block_on(self.raft().append_entries(request)).map(tonic::Response::into_inner)
    }

    /// Sends an InstallSnapshot, whose header is this peer's.
    pub fn install(&self, request: InstallSnapshotRequest) -> Result<InstallSnapshotReply, Status> {
        let request = InstallSnapshotRequest { header: Some(self.header.clone()), ..request };
        self.runtime.block_on(self.raft().install_snapshot(request)).map(tonic::Response::into_inner)
    }

    /// Asks the node to stand for election.
    pub fn stand(&self) -> Result<(), Status> {
        let request = pontoon::wire::pb::raft::StandForElectionRequest { header: Some(self.header.clone()) };
        self.runtime.block_on(self.raft().stand_for_election(request)).map(|_| ())
    }

    /// The vote of this peer as the leader of a term.
    pub fn leads(&self, term: u64) -> Option<BallotVote> {
        Some(BallotVote { term, node: self.header.from_id, committed: true })
    }

    /// An entry of this peer's log.
    pub fn at(&self, term: u64, index: u64) -> Option<LogId> {
        Some(LogId { term, leader: self.header.from_id, index })
    }

    /// A blank entry of this peer's log.
    pub fn entry(&self, term: u64, index: u64) -> LogEntry {
        LogEntry { log_id: self.at(term, index), payload: None }
    }

    /// The description of a snapshot up to an entry, with a membership of the target alone.
    pub fn snapshot(&self, term: u64, index: u64) -> Option<SnapshotMeta> {
        let NodeInfo { id, uuid, admin, advertise, port_offset } = self.target.clone();
        let node = RaftNode { id, uuid, admin, advertise, port_offset };
        let membership = Membership { configs: vec![VoterSet { ids: vec![id] }], nodes: vec![node] };
        Some(SnapshotMeta {
            last_log_id: self.at(term, index),
            last_membership: Some(StoredMembership { log_id: None, membership: Some(membership) }),
            snapshot_id: "forged".into(),
        })
    }
}
