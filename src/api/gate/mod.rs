//! Which requests the admin port answers: gRPC calls over HTTP/2, and GET of the monitoring paths. Nothing that a web
//! page can make a browser send is among them. A pure function of the request's head; the secret is checked later.
//! Knows nothing of connections and bodies.
//!
//! ```text
//!                   Origin?   path             then
//! a request --------> 403     a service's  --> HTTP/2, POST, application/grpc
//!                             monitoring   --> a host name of this node, GET or HEAD, no body
//!                             other        --> 404
//! ```

pub mod hosts;
pub mod layer;

use axum::http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING},
};

use hosts::HostNames;

/// The monitoring paths.
pub const MONITORING: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The types of the bodies of gRPC calls. A browser sends none of them without asking first (`OPTIONS`), which is
/// refused. `application/grpc-web`, which is made for browsers, is not among them.
const CALL_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// What is at the port.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The full names of the gRPC services.
    pub services: Vec<&'static str>,
    /// The names of this node.
    pub hosts: HostNames,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A web page made it.
    Origin,
    /// The path is neither a service's nor for monitoring.
    Path,
    /// It has no host name, or several.
    HostMissing,
    /// It calls this node by a name that is not the node's.
    Host,
    /// The path takes other methods: these.
    Method(&'static str),
    /// It is for a service and no gRPC call.
    ContentType,
    /// It has a body, which the path does not take.
    Body,
}

impl Gate {
    /// Whether a request may pass.
    ///
    /// # Errors
    /// Why not.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Reason> {
        let (path, method, headers) = (request.uri().path(), request.method(), request.headers());
        // A browser adds it to whatever a page sends except plain GETs to the page's own site; no gRPC client and no
        // monitoring does.
        refuse_if(headers.contains_key(ORIGIN), Reason::Origin)?;
        if request.version() == Version::HTTP_2 && self.is_call(path) {
            refuse_if(method != Method::POST, Reason::Method("POST"))?;
            return refuse_if(!has_call_type(headers), Reason::ContentType);
        }
        refuse_if(!MONITORING.contains(&path), Reason::Path)?;
        self.check_host(request)?;
        refuse_if(method != Method::GET && method != Method::HEAD, Reason::Method("GET, HEAD"))?;
        refuse_if(has_body(headers), Reason::Body)
    }

    fn is_call(&self, path: &str) -> bool {
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        service.is_some_and(|(service, _)| self.services.contains(&service))
    }

    /// Every name by which the request calls this node must be the node's: the one in its target (`:authority` in
    /// HTTP/2, the absolute form in HTTP/1.1) and the one in its header.
    fn check_host<B>(&self, request: &Request<B>) -> Result<(), Reason> {
        let target = request.uri().authority().map(|authority| authority.as_str());
        let mut named = request.headers().get_all(HOST).iter();
        let header = named.next().map(HeaderValue::to_str);
        refuse_if(named.next().is_some(), Reason::HostMissing)?;
        let admitted = |name: &str| refuse_if(!self.hosts.admits(name), Reason::Host);
        match (target, header) {
            // HTTP/1.0 has no host names, and load balancers still use it to ask for the health; browsers do not.
            (None, None) => refuse_if(request.version() > Version::HTTP_10, Reason::HostMissing),
            // HTTP/1.1 requires the header, also beside an absolute form.
            (Some(_), None) if request.version() < Version::HTTP_2 => Err(Reason::HostMissing),
            (_, Some(Ok(""))) => Err(Reason::HostMissing),
            (_, Some(Err(_))) => Err(Reason::Host),
            (target, header) => target.into_iter().chain(header.and_then(Result::ok)).try_for_each(admitted),
        }
    }
}

fn refuse_if(bad: bool, reason: Reason) -> Result<(), Reason> {
    if bad { Err(reason) } else { Ok(()) }
}

/// Whether a request has one content type, which is that of a gRPC call.
fn has_call_type(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
    let known = |given: &[u8]| CALL_TYPES.iter().any(|known| given.eq_ignore_ascii_case(known.as_bytes()));
    given.next().is_some_and(known) && given.next().is_none()
}

/// Whether a request announces a body. One that comes unannounced in HTTP/2 is not read.
fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

impl Reason {
    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Path => StatusCode::NOT_FOUND,
            Self::HostMissing => StatusCode::BAD_REQUEST,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// The text of the answer, one line. It repeats nothing of the request.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Origin => "refused: the request has the header Origin, so a web page made it\n",
            Self::Path => "not found: this port has /healthz, /readyz and /metrics, and gRPC over HTTP/2\n",
            Self::HostMissing => "refused: exactly one Host is needed\n",
            Self::Host => {
                "refused: this Host is no name of the node; use an IP address, localhost or the node's own name, or add \
                 the name to the setting admin_hosts\n"
            }
            Self::Method(_) => "refused: this path takes other methods, see the header Allow\n",
            Self::ContentType => "refused: a gRPC call has the content type application/grpc\n",
            Self::Body => "refused: this path takes no body\n",
        }
    }
}

#[cfg(test)]
mod tests;
