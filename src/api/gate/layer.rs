//! Puts the gate before a router: what may not pass is answered here, counted, and logged if a web page may be behind it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderValue, Version,
        header::{ALLOW, CONNECTION, HOST, ORIGIN},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tracing::{debug, warn};

use super::{Gate, Reason};
use crate::wire::refused::{Because, RefusedCalls};

/// A warning about refused requests is not repeated sooner: pages must not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of a header that the log shows: a host name has at most 253.
const SHOWN_MAX: usize = 253;

/// The gate with what it leaves behind: counts and warnings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    refused: Arc<RefusedCalls>,
    warned: Mutex<Option<Instant>>,
}

impl Guard {
    /// Lets pass what `gate` does, and counts the rest in `refused`.
    #[must_use]
    pub fn new(gate: Gate, refused: Arc<RefusedCalls>) -> Self {
        Self(Arc::new(Inner { gate, refused, warned: Mutex::default() }))
    }

    /// `router` behind the gate. The gate comes before all routing, which would add `Allow` to its answers.
    pub fn before(&self, router: Router) -> Router {
        Router::new().fallback_service(router).layer(from_fn_with_state(self.clone(), pass_or_refuse))
    }

    fn refuse(&self, request: &Request, reason: Reason) -> Response {
        self.0.refused.count(Because::Http);
        // The names are from strangers: shortened, and quoted by `?`.
        let shown = |name| request.headers().get(name).map(|value| short(value.as_bytes()));
        let target = || request.uri().authority().map(|target| short(target.as_str().as_bytes()));
        let (host, origin) = (shown(HOST).or_else(target), shown(ORIGIN));
        if matches!(reason, Reason::Origin | Reason::Host) && self.may_warn() {
            warn!(
                ?host,
                ?origin,
                "the admin port has refused a request that a web page may have made; if it is from your monitoring, \
                 see admin_hosts"
            );
        } else {
            debug!(?reason, ?host, ?origin, "the admin port has refused a request");
        }
        let mut response = (reason.status(), reason.text()).into_response();
        let headers = response.headers_mut();
        if let Reason::Method(allowed) = reason {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if request.version() < Version::HTTP_2 {
            // Its body is not read, so nothing that follows can be.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn may_warn(&self) -> bool {
        let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let may = warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if may {
            *warned = Some(Instant::now());
        }
        may
    }
}

fn short(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned()
}

async fn pass_or_refuse(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.0.gate.check(&request) {
        Ok(()) => next.run(request).await,
        Err(reason) => guard.refuse(&request, reason),
    }
}
