//! Calls to other nodes other than Raft's: one channel per address, a deadline on every call.
//! Knows nothing of what the answers mean.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::wire::{
    auth::{ClientAuth, ClusterSecret},
    pb::node::{
        AuthorizeReply, AuthorizeRequest, FinishReply, FinishRequest, HeartbeatReply, HeartbeatRequest, HelloReply,
        HelloRequest, JoinReply, JoinRequest, NodeInfo, PingRequest, node_client::NodeClient,
    },
};

/// How many channels are kept. A cluster has tens of nodes; nodes whose addresses changed leave old channels behind.
const CHANNELS_MAX: usize = 256;
/// How long a TCP connect may take: on a working network it takes milliseconds.
const CONNECT_MAX: Duration = Duration::from_secs(1);

type Client = NodeClient<InterceptedService<Channel, ClientAuth>>;

/// The other nodes, by admin address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    secret: ClusterSecret,
    source: Option<IpAddr>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Peers {
    /// Opens no channel before it is used.
    #[must_use]
    pub fn new(secret: ClusterSecret) -> Self {
        Self { secret, source: None, channels: Arc::default() }
    }

    /// The same, with calls that come from this local address.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
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
        let mut channels = self.channels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let channel = if let Some(channel) = channels.get(admin) {
            channel.clone()
        } else {
            if channels.len() >= CHANNELS_MAX {
                channels.clear();
            }
            let endpoint = Endpoint::from_shared(format!("http://{admin}"))
                .map_err(|e| Status::invalid_argument(format!("{admin} is not an address: {e}")))?
                .connect_timeout(CONNECT_MAX)
                .local_address(self.source)
                .tcp_nodelay(true)
                // A peer that vanished without closing its connections is noticed before the next lease would end.
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(2));
            let channel = endpoint.connect_lazy();
            channels.insert(admin.to_owned(), channel.clone());
            channel
        };
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
