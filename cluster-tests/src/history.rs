//! The history of a test: the operations of its clients, their results and times. It is the input of a checker.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// An operation of a client on a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote this value. All writes of a history have different values.
    Write(u64),
    /// Read this value. `None`: the register had no value.
    Read(Option<u64>),
}

/// One operation. A write whose outcome is unknown has no end: it may take effect at any time after its begin, or
/// never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The register.
    pub key: String,
    /// The operation.
    pub action: Action,
    /// The moment just before the request was sent, in nanoseconds since the begin of the history.
    pub begin: u64,
    /// The moment just after the reply was read, in nanoseconds since the begin of the history.
    pub end: Option<u64>,
}

/// The operations of all clients of a test.
#[derive(Clone, Debug)]
pub struct History {
    zero: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Default for History {
    fn default() -> Self {
        Self { zero: Instant::now(), ops: Arc::default() }
    }
}

impl History {
    /// Returns the current time, in nanoseconds since the begin of the history.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Converts a moment to nanoseconds since the begin of the history. An earlier moment gives 0.
    #[must_use]
    pub fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.zero).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds an operation. Callers leave out operations that were not executed, and unanswered reads: they prove
    /// nothing.
    pub fn add(&self, op: Op) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    /// Returns all operations so far.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
