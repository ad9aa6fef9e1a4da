//! HTTP/1 on the admin port, for monitoring. Its router has no gRPC service, so no HTTP/1 request reaches one.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

/// Longest time from one answer, or the first bytes, to the end of the head of the next request. Load balancers ask every
/// few seconds; what asks less often connects again.
const HEAD_MAX_TIME: Duration = Duration::from_secs(10);
/// Bytes of a head, as of a gRPC call: the secret has at most 512, and what proxies add a few KB. Without this limit
/// hyper keeps 400 KB for a head that is never completed.
const HEAD_MAX: usize = 16 << 10;
/// Headers of a request: a browser behind proxies sends about thirty.
const HEADERS_MAX: usize = 64;

/// Answers the requests of a connection, one after the other, until it ends.
pub async fn serve<C: AsyncRead + AsyncWrite + Unpin + Send + 'static>(connection: C, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX_TIME)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection of the admin port has failed");
    }
}
