//! Calls that are refused: why, and how many.
//! Knows nothing of how a call is checked.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It has no cluster secret, or another one.
    Secret,
    /// A part is missing or is not what it should be.
    Malformed,
    /// It is for another node.
    Target,
    /// It comes from another cluster.
    Cluster,
    /// The sender's id and uuid contradict what this node knows.
    Identity,
    /// The sender was removed from the cluster.
    Removed,
    /// The sender is not known, and asks for what only a member may have.
    Unknown,
    /// A term is impossible.
    Term,
    /// A log index or an offset is impossible.
    Position,
    /// It is too large.
    Size,
    /// It is neither a gRPC call nor for monitoring, or a web page may have made it.
    Http,
}

/// A refusal: the reason for the counters, and the text for the sender and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub because: Because,
    /// What is wrong and, where there is something to do, what.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(because: Because, text: impl Into<String>) -> Self {
        Self { because, text: text.into() }
    }

    /// The status that the sender gets.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.because {
            Because::Secret => Status::unauthenticated(&self.text),
            Because::Malformed => Status::invalid_argument(&self.text),
            _ => Status::failed_precondition(&self.text),
        }
    }
}

/// Calls that this process has refused since it started, by reason.
#[derive(Debug, Default)]
pub struct RefusedCalls {
    /// See [`Because::Secret`].
    pub secret: AtomicU64,
    /// See [`Because::Malformed`].
    pub malformed: AtomicU64,
    /// See [`Because::Target`].
    pub target: AtomicU64,
    /// See [`Because::Cluster`].
    pub cluster: AtomicU64,
    /// See [`Because::Identity`].
    pub identity: AtomicU64,
    /// See [`Because::Removed`].
    pub removed: AtomicU64,
    /// See [`Because::Unknown`].
    pub unknown: AtomicU64,
    /// See [`Because::Term`].
    pub term: AtomicU64,
    /// See [`Because::Position`].
    pub position: AtomicU64,
    /// See [`Because::Size`].
    pub size: AtomicU64,
    /// See [`Because::Http`].
    pub http: AtomicU64,
}

impl RefusedCalls {
    /// Counts one.
    pub fn count(&self, because: Because) {
        let counter = match because {
            Because::Secret => &self.secret,
            Because::Malformed => &self.malformed,
            Because::Target => &self.target,
            Because::Cluster => &self.cluster,
            Because::Identity => &self.identity,
            Because::Removed => &self.removed,
            Because::Unknown => &self.unknown,
            Because::Term => &self.term,
            Because::Position => &self.position,
            Because::Size => &self.size,
            Because::Http => &self.http,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers by reason, as labels in `/metrics`.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 11] {
        [
            ("secret", &self.secret),
            ("malformed", &self.malformed),
            ("target", &self.target),
            ("cluster", &self.cluster),
            ("identity", &self.identity),
            ("removed", &self.removed),
            ("unknown", &self.unknown),
            ("term", &self.term),
            ("position", &self.position),
            ("size", &self.size),
            ("http", &self.http),
        ]
        .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}
