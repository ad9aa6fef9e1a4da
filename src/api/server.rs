//! The admin port: gRPC for operators and nodes, reflection, and health and metrics over HTTP/1 and HTTP/2.
//! Knows nothing of what the services do.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tokio_stream::StreamExt;
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
    connections::Connections,
    forward::{ForwardedAuth, Leaders},
    health,
    incoming::Incoming,
    metrics, silence,
};
use crate::{
    control::handle::Control,
    proxy::ProxyReport,
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

/// What runs on the admin port.
pub struct Services<R, N> {
    /// For the admin service.
    pub control: Control,
    /// Raft between nodes.
    pub raft: R,
    /// Heartbeats, hello, join.
    pub node: N,
    /// Required in every gRPC call, also of reflection.
    pub secret: ClusterSecret,
    /// Counts calls without the secret.
    pub refused: Arc<RefusedCalls>,
    /// IP address that forwarded calls come from; none: as the system chooses.
    pub source: Option<IpAddr>,
    /// For /readyz.
    pub leased: health::Leased,
    /// For /metrics.
    pub report: watch::Receiver<Arc<ProxyReport>>,
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
    let Services { control, raft, node, secret, refused, source, leased, report, clients_max, connections_max } =
        services;
    let leadership = control.log.leadership();
    let forwarded = ForwardedAuth(control.log.clone());
    let api = Api { control, leaders: Leaders::new(secret.clone()).calling_from(source) };
    let counted = metrics::Counted { report, refused: refused.clone(), clients_max };
    let metrics = metrics::routes(secret.clone(), counted);
    let auth = ServerAuth { secret, refused };
    let admin = AdminServer::new(api).max_decoding_message_size(REQUEST_MAX);
    let v1 = reflection().build_v1()?;
    let v1alpha = reflection().build_v1alpha()?;
    let admin = InterceptedService::new(admin, forwarded);
    let routes = Routes::new(InterceptedService::new(admin, auth.clone()))
        .add_service(InterceptedService::new(raft, auth.clone()))
        .add_service(InterceptedService::new(node, auth.clone()))
        // Older clients (grpcurl before 1.9, grpcio-reflection) use the old name.
        .add_service(InterceptedService::new(v1, auth.clone()))
        .add_service(InterceptedService::new(v1alpha, auth));
    let router = routes.prepare().into_axum_router().merge(health::routes(leased, leadership)).merge(metrics);
    let address = listener.local_addr()?;
    info!(%address, "calls are answered");
    let connections = Connections::new(connections_max);
    let incoming = Incoming::new(listener)
        .map(move |accepted| accepted.map(|stream| silence::Connection::new(stream, connections.open())));
    Server::builder()
        .accept_http1(true)
        .concurrency_limit_per_connection(CALLS_MAX)
        .max_concurrent_streams(u32::try_from(CALLS_MAX).ok())
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_MAX))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(HEADERS_MAX)
        .add_routes(Routes::from(router))
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await?;
    Ok(())
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
