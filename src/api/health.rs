//! /healthz and /readyz for load balancers and service managers. They need no secret and give no details.

use std::sync::Arc;

use axum::{Router, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::consensus::Leadership;

/// Says whether this node holds a lease now.
pub type Leased = Arc<dyn Fn() -> bool + Send + Sync>;

/// The two routes.
pub fn routes(leased: Leased, leadership: watch::Receiver<Leadership>) -> Router {
    let ready = move || {
        let (status, text) = readiness(leased(), leadership.borrow().leader.is_some());
        async move { (status, text) }
    };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready))
}

fn readiness(leased: bool, leader: bool) -> (StatusCode, &'static str) {
    match (leased, leader) {
        (true, true) => (StatusCode::OK, "ready\n"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: this node has no lease\n"),
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: no leader is known\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_lease_and_leader() {
        let table = [(true, true, 200), (false, true, 503), (true, false, 503), (false, false, 503)];
        for (leased, leader, status) in table {
            assert_eq!(readiness(leased, leader).0.as_u16(), status, "{leased} {leader}");
        }
    }
}
