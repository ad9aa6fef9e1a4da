//! The admin port: gRPC for operators and nodes and reflection over HTTP/2, health and metrics over HTTP/1 and HTTP/2.
//! Knows nothing of what the services do.
//!
//! ```text
//! accept -> first bytes -> HTTP/2 -> gate -> gRPC services, monitoring paths
//!                       -> HTTP/1 -> gate -> monitoring paths
//! ```

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::{Routes, interceptor::InterceptedService},
    transport::Server,
};
use tracing::info;

use super::{
    Api,
    bounded::Bounded,
    connections::Connections,
    forward::{ForwardedAuth, Leaders},
    gate::{Gate, hosts::HostNames, layer::Guard},
    health, http1,
    incoming::Incoming,
    metrics,
    opening::Opened,
    silence,
};
use crate::{
    control::handle::Control,
    proxy::{NodeClients, ProxyReport},
    wire::{
        auth::{ClusterSecret, ServerAuth},
        pb::{self, admin::admin_server::AdminServer},
        refused::RefusedCalls,
    },
};

/// Largest request of an operator: 16384 slot ranges are 160 KB.
const REQUEST_MAX: usize = 1 << 20;
/// Calls of one connection at a time; more wait. A node's own calls to the leader are a handful.
const CALLS_MAX: usize = 256;
/// Calls that their callers have given up before they were read. A node that was stopped or starved for some seconds
/// finds one for each Raft message of that time, from a peer that behaves correctly; with h2's default of 20 the
/// connection would be closed.
const GIVEN_UP_MAX: usize = 4 * CALLS_MAX;
/// A peer that vanished without closing its connection is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Headers of one call. The secret has at most 512 bytes.
const HEADERS_MAX: u32 = 16 << 10;
/// Largest request of reflection: it has the name of a service, message or file.
const REFLECTION_MAX: usize = 64 << 10;
/// Longest call of reflection, the only calls without an end of their own. A program asks all it wants within a second.
const REFLECTION_MAX_TIME: Duration = Duration::from_secs(60);
/// Longest time until the first bytes of a connection tell what it speaks: clients send them at once.
const OPENING_MAX_TIME: Duration = Duration::from_secs(10);
/// HTTP/2 connections that wait to be served. They are taken at once; more wait in their tasks.
const OPENED_MAX: usize = 16;

/// What runs on the admin port.
pub struct Services<R, N> {
    /// For the admin service.
    pub control: Control,
    /// Raft between nodes.
    pub raft: R,
    /// Heartbeats, hello, join.
    pub node: N,
    /// Required in every gRPC call, also of reflection, and for /metrics. It may be replaced meanwhile.
    pub secret: ClusterSecret,
    /// Counts calls without the secret.
    pub refused: Arc<RefusedCalls>,
    /// Names by which requests without a secret may call this node.
    pub hosts: HostNames,
    /// IP address that forwarded calls come from; none: as the system chooses.
    pub source: Option<IpAddr>,
    /// For /readyz.
    pub leased: health::Leased,
    /// For /metrics.
    pub report: watch::Receiver<Arc<ProxyReport>>,
    /// The Redis clients of this node.
    pub clients: NodeClients,
    /// Clients that the node accepts, for /metrics.
    pub clients_max: usize,
    /// Connections that the admin port may have.
    pub connections_max: usize,
}

/// Serves until `shutdown` ends and open calls have ended. The caller limits how long that may take.
///
/// # Errors
/// If the listener fails, or the program's own protobuf descriptors are damaged.
pub async fn serve<R, N>(
    listener: TcpListener,
    services: Services<R, N>,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()>
where
    R: Grpc,
    <R as Service<http::Request<Body>>>::Future: Send,
    N: Grpc,
    <N as Service<http::Request<Body>>>::Future: Send,
{
    let Services {
        control,
        raft,
        node,
        secret,
        refused,
        hosts,
        source,
        leased,
        report,
        clients,
        clients_max,
        connections_max,
    } = services;
    let leadership = control.log.leadership();
    let forwarded = ForwardedAuth(control.log.clone());
    let api = Api { control, leaders: Leaders::new(secret.clone()).calling_from(source), clients };
    let counted = metrics::Counted { report, refused: refused.clone(), clients_max, secret: secret.clone() };
    let monitoring = health::routes(leased, leadership).merge(metrics::routes(counted));
    let auth = ServerAuth { secret, refused: refused.clone() };
    let admin = AdminServer::new(api).max_decoding_message_size(REQUEST_MAX);
    let mut calls = Calls::default();
    calls.add(InterceptedService::new(InterceptedService::new(admin, forwarded), auth.clone()));
    calls.add(InterceptedService::new(raft, auth.clone()));
    calls.add(InterceptedService::new(node, auth.clone()));
    let v1 = reflection().build_v1()?.max_decoding_message_size(REFLECTION_MAX);
    calls.add(InterceptedService::new(Bounded::new(v1, REFLECTION_MAX_TIME), auth.clone()));
    // Older clients (grpcurl before 1.9, grpcio-reflection) use the old name.
    let v1alpha = reflection().build_v1alpha()?.max_decoding_message_size(REFLECTION_MAX);
    calls.add(InterceptedService::new(Bounded::new(v1alpha, REFLECTION_MAX_TIME), auth));
    let guard = Guard::new(Gate { services: calls.names, hosts }, refused);
    let routes = guard.before(calls.routes.prepare().into_axum_router().merge(monitoring.clone()));
    let address = listener.local_addr()?;
    info!(%address, "calls are answered");
    let (opened, http2) = mpsc::channel(OPENED_MAX);
    let accepting = accept(listener, Connections::new(connections_max), guard.before(monitoring), opened);
    let serving = Server::builder()
        .concurrency_limit_per_connection(CALLS_MAX)
        .max_concurrent_streams(u32::try_from(CALLS_MAX).ok())
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_MAX))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(HEADERS_MAX)
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(ReceiverStream::new(http2).map(Ok::<_, Infallible>), shutdown);
    let ((), served) = tokio::join!(accepting, serving);
    served?;
    Ok(())
}

/// Gives connections that speak HTTP/2 to `http2` and answers the others, until nobody takes from `http2`.
async fn accept(
    listener: TcpListener,
    connections: Connections,
    monitoring: Router,
    http2: mpsc::Sender<Opened<silence::Connection>>,
) {
    let mut incoming = Incoming::new(listener);
    // Those that are not given to `http2` end with this.
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = http2.closed() => break,
            Some(_) = open.join_next() => {}
            Some(Ok(stream)) = incoming.next() => {
                let connection = silence::Connection::new(stream, connections.open());
                let (monitoring, http2) = (monitoring.clone(), http2.clone());
                open.spawn(async move {
                    match timeout(OPENING_MAX_TIME, Opened::read(connection)).await {
                        // An error: the server has ended.
                        Ok(Ok(opened)) if opened.http2 => drop(http2.send(opened).await),
                        Ok(Ok(opened)) => http1::serve(opened, monitoring).await,
                        // It has ended, or says nothing.
                        Ok(Err(_)) | Err(_) => {}
                    }
                });
            }
        }
    }
}

/// gRPC services with their names.
#[derive(Default)]
struct Calls {
    routes: Routes,
    names: Vec<&'static str>,
}

impl Calls {
    fn add<S>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send,
    {
        self.names.push(S::NAME);
        self.routes = std::mem::take(&mut self.routes).add_service(service);
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(pb::DESCRIPTORS)
}

/// A generated gRPC service.
pub trait Grpc:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}
