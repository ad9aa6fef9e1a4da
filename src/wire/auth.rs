//! The cluster secret on every call between nodes and from operators: `authorization: Bearer SECRET`.

use std::sync::Arc;

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

use crate::model::secret::Secret;

/// The cluster secret, or none: then everything is bound on loopback only (unless `--insecure`).
#[derive(Clone, Debug, Default)]
pub struct ClusterSecret(Option<Arc<Secret>>);

impl ClusterSecret {
    /// Shortest secret accepted: 16 characters, so that guessing over the network is hopeless.
    pub const LEN_MIN: usize = 16;
    /// Longest: it travels in a header of every call.
    pub const LEN_MAX: usize = 512;

    /// No secret.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Wraps a secret.
    ///
    /// # Errors
    /// When it is too short, too long, or not printable ASCII without spaces (it travels in a header). Never shows it.
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
            return Err("the cluster secret has a character that is not printable ASCII".into());
        }
        Ok(Self(Some(Arc::new(Secret::new(text.to_owned())))))
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// Puts the secret on every call of a client.
#[derive(Clone, Debug)]
pub struct ClientAuth(pub ClusterSecret);

impl Interceptor for ClientAuth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0.0 {
            let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", secret.reveal()))
                .map_err(|_| Status::internal("the cluster secret cannot travel in a header"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Refuses calls without the secret.
#[derive(Clone, Debug)]
pub struct ServerAuth(pub ClusterSecret);

impl Interceptor for ServerAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(secret) = &self.0.0 else { return Ok(request) };
        match request.metadata().get("authorization").map(|v| v.as_bytes().strip_prefix(b"Bearer ")) {
            None => {
                Err(Status::unauthenticated("this cluster has a secret and the call carries none; give --secret-file"))
            }
            Some(Some(given)) if secret.matches(given) => Ok(request),
            Some(_) => {
                Err(Status::unauthenticated("the call carries another secret than this cluster's; check --secret-file"))
            }
        }
    }
}
