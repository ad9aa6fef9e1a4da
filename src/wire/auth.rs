//! The cluster secret in every call between nodes and from operators: `authorization: Bearer SECRET`.

use std::sync::Arc;

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

use crate::model::secret::Secret;

/// The cluster secret, or none: then nodes bind everything on loopback only (unless `--insecure`). `Debug` never shows it.
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
    /// Returns why the text is not accepted, for the operator: it is too short or too long, or it is not printable ASCII without
    /// spaces, which a header needs. The text never contains the secret.
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

/// Refuses calls that do not have the secret. The comparison takes constant time, see [`Secret::matches`].
#[derive(Clone, Debug)]
pub struct ServerAuth(pub ClusterSecret);

impl Interceptor for ServerAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(secret) = &self.0.0 else { return Ok(request) };
        match request.metadata().get("authorization").map(|v| v.as_bytes().strip_prefix(b"Bearer ")) {
            None => Err(Status::unauthenticated("this cluster has a secret and the call has none; give --secret-file")),
            Some(Some(given)) if secret.matches(given) => Ok(request),
            Some(_) => {
                Err(Status::unauthenticated("the call has another secret than this cluster; check --secret-file"))
            }
        }
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
        let mut server = ServerAuth(secret.clone());
        let request = client(&secret);
        for text in [format!("{secret:?}"), format!("{server:?}"), format!("{request:?}")] {
            assert!(!text.contains("0123456789abcdef"), "{text}");
        }
        assert!(server.call(request).is_ok());
        for other in [ClusterSecret::none(), ClusterSecret::new("0123456789abcdeg").unwrap()] {
            let refused = server.call(client(&other)).unwrap_err();
            assert!(refused.message().contains("--secret-file"), "{refused:?}");
        }
        assert!(ServerAuth(ClusterSecret::none()).call(client(&secret)).is_ok());
        for bad in ["short", "0123456789abcde f", &"x".repeat(ClusterSecret::LEN_MAX + 1)] {
            assert!(!ClusterSecret::new(bad).unwrap_err().contains(bad));
        }
    }
}
