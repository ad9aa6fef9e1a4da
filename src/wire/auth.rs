//! The cluster secret in every call between nodes and from operators: `authorization: Bearer SECRET`.

use std::sync::Arc;

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

use super::{
    connection::ConnectionInfo,
    refused::{Because, Refusal, RefusedCalls},
};
use crate::model::secret::Secret;

/// The cluster secret, or none: then nodes bind everything on loopback only (unless `--insecure`). `Debug` never shows
/// it.
#[derive(Clone, Debug, Default)]
pub struct ClusterSecret(Option<Arc<Secret>>);

impl ClusterSecret {
    /// Shortest secret that is accepted, so that it cannot be guessed over the network.
    pub const LEN_MIN: usize = 16;
    /// Longest secret that is accepted: it is in a header of every call.
    pub const LEN_MAX: usize = 512;

    /// No secret.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Wraps a secret.
    ///
    /// # Errors
    /// Returns why the text is not accepted, for the operator: it is too short or too long, or it is not printable
    /// ASCII without spaces, which a header needs. The text never contains the secret.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() < Self::LEN_MIN || text.len() > Self::LEN_MAX {
            return Err(format!(
                "the cluster secret has {} characters; {} to {} are needed",
                text.len(),
                Self::LEN_MIN,
                Self::LEN_MAX
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the cluster secret has a character that is a space or not printable ASCII".into());
        }
        Ok(Self(Some(Arc::new(Secret::new(text.to_owned())))))
    }

    /// Whether a request with this `authorization` header may be answered: it has the secret, or there is none.
    #[must_use]
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(secret) = &self.0 else { return true };
        authorization.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|given| secret.matches(given))
    }

    /// What a caller that it admits has proven to be, for events: everybody who has the secret is the same.
    #[must_use]
    pub fn actor(&self) -> &'static str {
        if self.is_some() { "cluster secret" } else { "no secret" }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// Adds the secret to every call of a client.
#[derive(Clone, Debug)]
pub struct ClientAuth(pub ClusterSecret);

impl Interceptor for ClientAuth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0.0 {
            let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", secret.reveal()))
                .map_err(|_| Status::internal("the cluster secret cannot be in a header"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Refuses and counts calls that do not have the secret, and marks the connections of those that have it. The comparison takes constant time, see [`Secret::matches`].
#[derive(Clone, Debug)]
pub struct ServerAuth {
    /// The secret that is required.
    pub secret: ClusterSecret,
    /// Counts the calls that are refused.
    pub refused: Arc<RefusedCalls>,
}

impl Interceptor for ServerAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").map(AsciiMetadataValue::as_bytes);
        if self.secret.admits(given) {
            if let Some(connection) = request.extensions().get::<ConnectionInfo>() {
                connection.mark.accepted();
            }
            return Ok(request);
        }
        let why = match given {
            None => "this cluster has a secret and the call has none; give --secret-file",
            Some(_) => "the call has another secret than this cluster; check --secret-file",
        };
        self.refused.count(Because::Secret);
        Err(Refusal::new(Because::Secret, why).status())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_need_the_secret_and_nothing_shows_it() {
        let secret = ClusterSecret::new("0123456789abcdef").unwrap();
        let client = |secret: &ClusterSecret| ClientAuth(secret.clone()).call(Request::new(())).unwrap();
        let refused = Arc::<RefusedCalls>::default();
        let mut server = ServerAuth { secret: secret.clone(), refused: refused.clone() };
        let request = client(&secret);
        for text in [format!("{secret:?}"), format!("{server:?}"), format!("{request:?}")] {
            assert!(!text.contains("0123456789abcdef"), "{text}");
        }
        assert!(server.call(request).is_ok());
        for other in [ClusterSecret::none(), ClusterSecret::new("0123456789abcdeg").unwrap()] {
            let refused = server.call(client(&other)).unwrap_err();
            assert!(refused.message().contains("--secret-file"), "{refused:?}");
        }
        assert_eq!(refused.secret.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert!(secret.admits(Some(b"Bearer 0123456789abcdef")) && ClusterSecret::none().admits(None));
        for given in [None, Some(&b"0123456789abcdef"[..]), Some(b"Bearer "), Some(b"Bearer 0123456789abcdeg")] {
            assert!(!secret.admits(given));
        }
        let mut open = ServerAuth { secret: ClusterSecret::none(), refused };
        assert!(open.call(client(&secret)).is_ok());
        for bad in ["short", "0123456789abcde f", &"x".repeat(ClusterSecret::LEN_MAX + 1)] {
            assert!(!ClusterSecret::new(bad).unwrap_err().contains(bad));
        }
    }
}
