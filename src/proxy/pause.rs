//! CLIENT PAUSE of a product at one worker: which requests wait, and until when.
//! Knows nothing of requests.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::time::Instant;

use super::session::Session;

/// Which requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Paused {
    /// Those that may change data.
    Writes,
    All,
}

/// The pause of a product.
#[derive(Debug, Default)]
pub(super) struct Pause {
    now: Cell<Option<(Paused, Instant)>>,
    /// Sessions whose next request waits.
    sessions: RefCell<Vec<Rc<Session>>>,
}

impl Pause {
    /// Begins, or extends: the stricter of two kinds and the later of two ends count, as in Redis.
    pub(super) fn begin(&self, kind: Paused, until: Instant) -> Instant {
        let (kind, until) = match self.now.get() {
            Some((before, end)) => (kind.max(before), until.max(end)),
            None => (kind, until),
        };
        self.now.set(Some((kind, until)));
        until
    }

    /// What waits now.
    pub(super) fn kind(&self) -> Option<Paused> {
        self.now.get().map(|(kind, _)| kind)
    }

    /// Keeps a session whose next request waits.
    pub(super) fn add(&self, session: Rc<Session>) {
        self.sessions.borrow_mut().push(session);
    }

    /// Forgets a session that ends. Returns how many of its requests have waited.
    pub(super) fn remove(&self, session: &Rc<Session>) -> usize {
        if self.now.get().is_none() {
            return 0;
        }
        let mut sessions = self.sessions.borrow_mut();
        let before = sessions.len();
        sessions.retain(|other| !Rc::ptr_eq(other, session));
        before - sessions.len()
    }

    /// Ends it: the sessions go on. Returns how many requests have waited.
    pub(super) fn end(&self) -> usize {
        self.now.set(None);
        let sessions = self.sessions.take();
        sessions.iter().for_each(|session| session.end_postponement());
        sessions.len()
    }
}
