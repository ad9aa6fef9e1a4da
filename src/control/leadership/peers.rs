//! Calls to other nodes other than Raft's: one channel per address, a deadline on every call.
//! Knows nothing of what the answers mean.

use std::{net::IpAddr, time::Duration};

use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::wire::{
    auth::{ClientAuth, ClusterSecret},
    channels::{ChannelSettings, Channels},
    pb::node::{
        AuthorizeReply, AuthorizeRequest, FinishReply, FinishRequest, HeartbeatReply, HeartbeatRequest, HelloReply,
        HelloRequest, JoinReply, JoinRequest, NodeInfo, PingRequest, node_client::NodeClient,
    },
};

/// A TCP connect on a working network takes milliseconds. A peer that has vanished is noticed before the next lease
/// would end.
const CHANNELS: ChannelSettings = ChannelSettings {
    connect_max: Duration::from_secs(1),
    keep_alive: Duration::from_secs(2),
    keep_alive_while_idle: false,
};

type Client = NodeClient<InterceptedService<Channel, ClientAuth>>;

/// The other nodes, by admin address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    secret: ClusterSecret,
    channels: Channels,
}

impl Peers {
    /// Opens no channel before it is used.
    #[must_use]
    pub fn new(secret: ClusterSecret) -> Self {
        Self { secret, channels: Channels::new(CHANNELS) }
    }

    /// The same, with calls that come from this local address.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { channels: self.channels.calling_from(source), ..self }
    }

    /// Asks a node for its identity, and sends this node's.
    ///
    /// # Errors
    /// When the node does not answer within `deadline`, or refuses the call.
    pub async fn hello(&self, admin: &str, from: &NodeInfo, deadline: Duration) -> Result<HelloReply, Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.hello(request(HelloRequest { from: Some(from.clone()) }, deadline))).await
    }

    /// Asks a node to make this node a member of its cluster.
    ///
    /// # Errors
    /// As `hello`; also when the cluster refuses.
    pub async fn join(&self, admin: &str, me: &NodeInfo, deadline: Duration) -> Result<JoinReply, Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.join(request(JoinRequest { me: Some(me.clone()) }, deadline))).await
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn heartbeat(
        &self,
        admin: &str,
        heartbeat: HeartbeatRequest,
        deadline: Duration,
    ) -> Result<HeartbeatReply, Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.heartbeat(request(heartbeat, deadline))).await
    }

    /// Checks that a node answers.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn ping(&self, admin: &str, deadline: Duration) -> Result<(), Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.ping(request(PingRequest {}, deadline))).await.map(|_| ())
    }

    /// Asks the leader to authorize connections of a run.
    ///
    /// # Errors
    /// As `hello`.
    pub async fn authorize(
        &self,
        admin: &str,
        ask: AuthorizeRequest,
        deadline: Duration,
    ) -> Result<AuthorizeReply, Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.authorize(request(ask, deadline))).await
    }

    /// Orders a node to copy what is left of a migration, while its slots are held.
    ///
    /// # Errors
    /// As `hello`; then it is not known whether the node has done it.
    pub async fn finish(&self, admin: &str, order: FinishRequest, deadline: Duration) -> Result<FinishReply, Status> {
        let mut client = self.client(admin)?;
        within(deadline, client.finish(request(order, deadline))).await
    }

    fn client(&self, admin: &str) -> Result<Client, Status> {
        let channel = self.channels.to(admin).map_err(Status::invalid_argument)?;
        Ok(NodeClient::with_interceptor(channel, ClientAuth(self.secret.clone())))
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
