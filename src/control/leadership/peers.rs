//! Calls to other nodes other than Raft's: one channel per address, a deadline on every call.
//! Knows nothing of what the answers mean.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    consensus::{Consensus, Leadership},
    model::{
        cluster_secret::SecretTags,
        ids::{NodeId, ProductId, Uuid},
        script::ScriptDigest,
        state::Member,
    },
    plan::secret_rotation::PeerAnswer,
    wire::{
        auth::{ClientAuth, ClusterSecret},
        caller::NodeAuth,
        channels::{ChannelSettings, Channels},
        pb::{
            node::{
                AuthorizeReply, AuthorizeRequest, FindScriptRequest, FinishReply, FinishRequest, ForgetScriptsRequest,
                HeartbeatReply, HeartbeatRequest, HelloReply, HelloRequest, JoinReply, JoinRequest, NodeInfo,
                PingRequest, node_client::NodeClient,
            },
            raft::Header,
        },
        secret_report,
    },
};

/// A TCP connect on a working network takes milliseconds. A peer that has vanished is noticed before the next lease
/// would end.
const CHANNELS: ChannelSettings = ChannelSettings {
    connect_max: Duration::from_secs(1),
    keep_alive: Duration::from_secs(2),
    keep_alive_while_idle: false,
};

type Client = NodeClient<InterceptedService<Channel, NodeAuth>>;

/// Where a node is, and which one it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its id.
    pub id: NodeId,
    /// Its uuid.
    pub uuid: Uuid,
    /// HOST:PORT of its admin port.
    pub admin: String,
}

impl PeerAddress {
    /// The address of a member.
    #[must_use]
    pub fn of(member: &Member) -> Self {
        Self { id: member.id, uuid: member.uuid, admin: member.admin.to_string() }
    }

    /// The address of the leader, if it is known.
    #[must_use]
    pub fn of_leader(leadership: &Leadership) -> Option<Self> {
        let Leadership { leader, leader_uuid, leader_admin, .. } = leadership;
        Some(Self { id: (*leader)?, uuid: (*leader_uuid)?, admin: leader_admin.clone()? })
    }
}

/// The other nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    secret: ClusterSecret,
    channels: Channels,
    log: Consensus,
}

impl Peers {
    /// Opens no channel before it is used.
    #[must_use]
    pub fn new(secret: ClusterSecret, log: Consensus) -> Self {
        Self { secret, channels: Channels::new(CHANNELS), log }
    }

    /// Sets the local address that calls come from.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { channels: self.channels.calling_from(source), ..self }
    }

    /// Asks a node for its identity, and sends this node's.
    ///
    /// # Errors
    /// When the node does not answer within `deadline`, or refuses the call.
    pub async fn hello(&self, admin: &str, from: &NodeInfo, deadline: Duration) -> Result<HelloReply, Status> {
        let mut client = self.stranger(admin)?;
        within(deadline, client.hello(request(HelloRequest { from: Some(from.clone()) }, deadline))).await
    }

    /// Asks a node to make this node a member of its cluster.
    ///
    /// # Errors
    /// As `hello`; also when the cluster refuses.
    pub async fn join(&self, admin: &str, me: &NodeInfo, deadline: Duration) -> Result<JoinReply, Status> {
        let mut client = self.stranger(admin)?;
        within(deadline, client.join(request(JoinRequest { me: Some(me.clone()) }, deadline))).await
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn heartbeat(
        &self,
        to: &PeerAddress,
        heartbeat: HeartbeatRequest,
        deadline: Duration,
    ) -> Result<HeartbeatReply, Status> {
        let mut client = self.client(to)?;
        within(deadline, client.heartbeat(request(heartbeat, deadline))).await
    }

    /// Checks that a node answers.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn ping(&self, to: &PeerAddress, deadline: Duration) -> Result<(), Status> {
        let mut client = self.client(to)?;
        within(deadline, client.ping(request(PingRequest::default(), deadline))).await.map(|_| ())
    }

    /// Asks a node whether cluster secrets that this node is about to take over fit its own. `None`: it cannot tell.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn ask_about_secrets(
        &self,
        to: &PeerAddress,
        secrets: &SecretTags,
        deadline: Duration,
    ) -> Result<Option<PeerAnswer>, Status> {
        let ask = PingRequest { secrets: Some(secret_report::tags_to(secrets)) };
        let mut client = self.client(to)?;
        let reply = within(deadline, client.ping(request(ask, deadline))).await?;
        Ok(reply.secrets.map(|a| PeerAnswer { accepts: a.accepts, accepted: a.accepted, age_ms: a.age_ms }))
    }

    /// Asks a node for the body of a script that it has seen in an EVAL. `None`: it does not know it.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn find_script(
        &self,
        to: &PeerAddress,
        (product, digest): (ProductId, ScriptDigest),
        deadline: Duration,
    ) -> Result<Option<Bytes>, Status> {
        let ask = FindScriptRequest { product: product.0, digest: digest.to_string() };
        let mut client = self.client(to)?;
        within(deadline, client.find_script(request(ask, deadline))).await.map(|reply| reply.body)
    }

    /// Has a node forget the scripts of a product that came by EVAL.
    ///
    /// # Errors
    /// As `hello`; then it is not known whether the node has done it.
    pub async fn forget_scripts(&self, to: &PeerAddress, product: ProductId, deadline: Duration) -> Result<(), Status> {
        let mut client = self.client(to)?;
        let order = ForgetScriptsRequest { product: product.0 };
        within(deadline, client.forget_scripts(request(order, deadline))).await.map(|_| ())
    }

    /// Asks the leader to authorize connections of a run.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn authorize(
        &self,
        to: &PeerAddress,
        ask: AuthorizeRequest,
        deadline: Duration,
    ) -> Result<AuthorizeReply, Status> {
        let mut client = self.client(to)?;
        within(deadline, client.authorize(request(ask, deadline))).await
    }

    /// Orders a node to copy what is left of a migration, while its slots are held.
    ///
    /// # Errors
    /// As `hello`; then it is not known whether the node has done it.
    pub async fn finish(
        &self,
        to: &PeerAddress,
        order: FinishRequest,
        deadline: Duration,
    ) -> Result<FinishReply, Status> {
        let mut client = self.client(to)?;
        within(deadline, client.finish(request(order, deadline))).await
    }

    /// A client for calls that only the node with this uuid may answer.
    fn client(&self, to: &PeerAddress) -> Result<Client, Status> {
        self.client_with(&to.admin, Some(self.log.header_for(to.id, to.uuid)))
    }

    /// A client for calls to a node that this one does not know yet.
    fn stranger(&self, admin: &str) -> Result<Client, Status> {
        self.client_with(admin, None)
    }

    fn client_with(&self, admin: &str, header: Option<Header>) -> Result<Client, Status> {
        let channel = self.channels.to(admin).map_err(Status::invalid_argument)?;
        Ok(NodeClient::with_interceptor(channel, NodeAuth { secret: ClientAuth(self.secret.clone()), header }))
    }
}

fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {deadline:?}"))),
    }
}
