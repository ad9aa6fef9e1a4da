//! The cluster secret in every call between nodes and from operators: `authorization: Bearer SECRET`.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

use super::{
    connection::ConnectionInfo,
    refused::{Because, Refusal, RefusedCalls},
    secrets::{Secrets, Which},
};
use crate::{clock::boottime_ns, model::cluster_secret::SecretReport};

/// The cluster secrets of this process, or none: then nodes bind everything on loopback only (unless `--insecure`). Clones
/// share them, so that one that is replaced is replaced everywhere at once. `Debug` never shows them.
#[derive(Clone, Debug, Default)]
pub struct ClusterSecret(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    held: RwLock<Arc<Held>>,
    /// Calls that were accepted with the other secret.
    other_used: AtomicU64,
}

#[derive(Clone, Debug)]
struct Held {
    secrets: Secrets,
    /// Since when, nanoseconds of `CLOCK_BOOTTIME`.
    since_ns: u64,
    /// See [`SecretReport::refused`].
    refused: Option<String>,
}

impl ClusterSecret {
    /// No secret.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The secrets of a file.
    #[must_use]
    pub fn of(secrets: Secrets) -> Self {
        let held = Held { secrets, since_ns: boottime_ns(), refused: None };
        Self(Some(Arc::new(Shared { held: RwLock::new(Arc::new(held)), other_used: AtomicU64::new(0) })))
    }

    /// Reads a text of one or two lines.
    ///
    /// # Errors
    /// As [`Secrets::parse`].
    pub fn new(text: &str) -> Result<Self, String> {
        Secrets::parse(text).map(Self::of)
    }

    /// Sends and accepts these from now on: calls that begin later carry the new one, and calls that have been accepted go
    /// on. A process without a secret stays without one, since its ports may be open to everybody on that condition only.
    pub fn replace(&self, secrets: Secrets) {
        self.change(|held| *held = Held { secrets, since_ns: boottime_ns(), refused: None });
    }

    /// Notes why the secret file was not taken over, or that it was.
    pub fn note_refusal(&self, why: Option<String>) {
        self.change(|held| held.refused = why);
    }

    /// What other nodes may know of the secrets.
    #[must_use]
    pub fn report(&self) -> SecretReport {
        let Some(held) = self.held() else { return SecretReport::default() };
        SecretReport {
            tags: Some(held.secrets.tags()),
            age_ms: boottime_ns().saturating_sub(held.since_ns) / 1_000_000,
            refused: held.refused.clone(),
        }
    }

    /// Whether a request with this `authorization` header may be answered: it has one of the secrets, or there is none.
    /// Counts those with the other secret.
    #[must_use]
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let (Some(shared), Some(held)) = (&self.0, self.held()) else { return true };
        let given = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
        let which = given.and_then(|given| held.secrets.which(given));
        if which == Some(Which::Other) {
            shared.other_used.fetch_add(1, Ordering::Relaxed);
        }
        which.is_some()
    }

    /// How many calls were accepted with the other secret since the process started.
    #[must_use]
    pub fn other_used(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.other_used.load(Ordering::Relaxed))
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

    fn held(&self) -> Option<Arc<Held>> {
        let shared = self.0.as_ref()?;
        Some(shared.held.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn change(&self, edit: impl FnOnce(&mut Held)) {
        if let Some(shared) = &self.0 {
            let mut held = shared.held.write().unwrap_or_else(PoisonError::into_inner);
            edit(Arc::make_mut(&mut held));
        }
    }
}

/// Adds the secret to every call of a client: the one that is in force when the call begins.
#[derive(Clone, Debug)]
pub struct ClientAuth(pub ClusterSecret);

impl Interceptor for ClientAuth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(held) = self.0.held() {
            let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", held.secrets.sent().reveal()))
                .map_err(|_| Status::internal("the cluster secret cannot be in a header"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Refuses and counts calls that do not have the secret, and marks the connections of those that have it. The comparison takes
/// constant time, see [`Secrets::which`].
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
    }

    #[test]
    fn a_replaced_secret_is_replaced_in_every_client_and_server_at_once() {
        const OLD: &str = "0123456789abcdef";
        const NEW: &str = "fedcba9876543210";
        let file = |lines: &[&str]| Secrets::parse(&lines.join("\n")).unwrap();
        let bearer = |secret: &str| format!("Bearer {secret}").into_bytes();
        let sent = |client: &ClientAuth| {
            let request = client.clone().call(Request::new(())).unwrap();
            request.metadata().get("authorization").unwrap().as_bytes().to_vec()
        };
        let secret = ClusterSecret::of(file(&[OLD]));
        let client = ClientAuth(secret.clone());
        let server = ServerAuth { secret: secret.clone(), refused: Arc::default() };
        let accepts = |given: &str| server.secret.admits(Some(&bearer(given)));
        for (lines, old, new) in
            [(&[OLD][..], true, false), (&[OLD, NEW], true, true), (&[NEW, OLD], true, true), (&[NEW], false, true)]
        {
            secret.replace(file(lines));
            assert_eq!((accepts(OLD), accepts(NEW)), (old, new), "{lines:?}");
            assert_eq!(sent(&client), bearer(lines[0]), "{lines:?}");
            assert_eq!(secret.report().tags, Some(file(lines).tags()), "{lines:?}");
            assert!(!secret.admits(None) && !accepts(""));
        }
        // Once each while both were accepted.
        assert_eq!(secret.other_used(), 2);
        secret.note_refusal(Some("mode 0644".into()));
        assert_eq!(secret.report().refused.as_deref(), Some("mode 0644"));
        secret.replace(file(&[NEW]));
        assert_eq!(secret.report().refused, None);
        // Without a secret it stays without one.
        let none = ClusterSecret::none();
        none.replace(file(&[NEW]));
        assert!(none.admits(None) && !none.is_some() && none.report() == SecretReport::default());
    }
}
