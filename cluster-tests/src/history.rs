//! The operations of clients and their replies, with times, as input for a checker.
//! Knows nothing of what a correct answer is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// What a client did with a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote this value; every write of a history has another one.
    Write(u64),
    /// Read this value; `None`: there was none.
    Read(Option<u64>),
}

/// One operation. A write whose outcome is unknown has no end: it may happen at any time after its begin, or never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Which register.
    pub key: String,
    /// What.
    pub action: Action,
    /// Nanoseconds from the history's begin to just before the request was sent.
    pub begin: u64,
    /// Nanoseconds to just after the reply was read.
    pub end: Option<u64>,
}

/// Operations of all clients of a test.
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
    /// Now, in nanoseconds from the history's begin.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The same of another moment; 0: before the history's begin.
    #[must_use]
    pub fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.zero).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds an operation. Operations that were provably not executed and unanswered reads are left out: they are no evidence.
    pub fn add(&self, op: Op) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    /// All so far.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
