//! The parked sessions of a worker. Knows nothing of holds: it only wakes sessions, which then try again.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use super::clock::WorkerClock;
use crate::proxy::session::Session;

/// The sessions whose next request waits for the end of a hold.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Parking {
    sessions: RefCell<Vec<Rc<Session>>>,
    bytes: Cell<usize>,
    /// Notified with `unpark_all`.
    released: Notify,
}

impl Parking {
    /// Adds a session whose next request was parked.
    pub(in crate::proxy) fn add(&self, session: Rc<Session>) {
        self.sessions.borrow_mut().push(session);
    }

    /// Removes a session that ends.
    pub(super) fn remove(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().retain(|parked| !Rc::ptr_eq(parked, session));
    }

    /// Bytes of all parked sessions.
    pub(in crate::proxy) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Replaces the number of parked bytes of a session, `before`, by `now`.
    pub(in crate::proxy) fn count(&self, before: usize, now: usize) {
        self.bytes.set(self.bytes.get() - before + now);
    }

    /// Resolves at the next call of `unpark_all`.
    pub(in crate::proxy) fn released(&self) -> Notified<'_> {
        self.released.notified()
    }

    /// Lets all parked sessions try again, because a hold may have ended.
    pub(super) fn unpark_all(&self) {
        self.released.notify_waiters();
        for session in std::mem::take(&mut *self.sessions.borrow_mut()) {
            session.unpark();
        }
    }

    /// Wakes the sessions that have been parked for `max` or longer; they refuse their request.
    pub(super) fn unpark_expired(&self, clock: &WorkerClock, max: Duration) {
        let mut expired: Vec<Rc<_>> = Vec::new();
        self.sessions.borrow_mut().retain(|session| {
            let stays = session.parked_at.get().is_some_and(|tick| clock.age(tick) < max);
            if !stays {
                expired.push(session.clone());
            }
            stays
        });
        for session in expired {
            session.unpark();
        }
    }
}
