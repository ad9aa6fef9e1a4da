//! Which connections to servers a session uses: those that all sessions of a worker share, or dedicated ones while its
//! messages are large. Nothing orders two connections, so each change waits until all earlier requests are answered.

use std::rc::Rc;

use super::Session;
use crate::proxy::{backend_set::BackendSet, dedicated::DedicatedUse, worker::Worker};

impl Session {
    /// The connections for its database and version.
    #[inline]
    pub(in crate::proxy) fn backend_set(&self) -> Rc<BackendSet> {
        let mut backend_set = self.backend_set.borrow_mut();
        backend_set
            .get_or_insert_with(|| {
                let client = self.client.borrow();
                match self.dedicated_since.get() {
                    None => self.product.backend_set(client.db, client.version),
                    Some(_) => Rc::new(BackendSet::dedicated(client.db, client.version, DedicatedUse::LargeMessages)),
                }
            })
            .clone()
    }

    /// Chooses the kind of connections for a request of `len` bytes. Returns false if earlier requests must be answered
    /// first.
    #[cold]
    pub(super) fn choose_connections(&self, worker: &Worker, len: usize) -> bool {
        if len >= worker.config.limits.large_message {
            self.use_dedicated(worker);
        } else if let Some(since) = self.dedicated_since.get()
            && worker.clock.age(since) >= worker.config.limits.dedicated_for
            && self.replies.borrow().waiting() == 0
        {
            self.use_shared();
        }
        !self.settling.get()
    }

    /// Uses dedicated connections from now on.
    pub(super) fn use_dedicated(&self, worker: &Worker) {
        if self.dedicated_since.replace(Some(worker.clock.tick())).is_none() {
            self.drop_backend_set();
        }
    }

    /// Uses shared connections from now on.
    pub(super) fn use_shared(&self) {
        if self.dedicated_since.take().is_some() {
            self.drop_backend_set();
        }
    }

    /// Returns its dedicated connections if it has no unanswered requests.
    #[cold]
    pub(super) fn return_dedicated(&self) {
        // A transaction, or HIMPORT SET, waits for what its connection is asked.
        if self.replies.borrow().waiting() == 0
            && self.client.borrow().transaction.is_none()
            && !self.import_waits.get()
            && let Some(backend_set) = self.backend_set.borrow_mut().take()
        {
            backend_set.release(&self.product);
        }
    }

    /// Drops the backend set, because SELECT or HELLO changed the database or the version. Earlier requests must be
    /// answered first: nothing orders two connections, and a client must be able to read what it has just written.
    pub(in crate::proxy) fn forget_backend_set(&self) {
        let client = self.client.borrow();
        // Keep a set that still fits: without it, the next change would not know that requests are in flight.
        let fits = |set: &Rc<BackendSet>| set.db == client.db && set.version == client.version;
        let stays = self.backend_set.borrow().as_ref().is_none_or(fits);
        if !stays {
            self.drop_backend_set();
        }
    }

    pub(super) fn drop_backend_set(&self) {
        if let Some(backend_set) = self.backend_set.borrow_mut().take() {
            backend_set.release(&self.product);
            self.settling.set(self.replies.borrow().waiting() > 0);
        }
    }

    /// Number of unanswered requests.
    pub(in crate::proxy) fn waiting(&self) -> usize {
        self.replies.borrow().waiting()
    }

    /// Executes no further request until all earlier ones are answered.
    pub(in crate::proxy) fn settle(&self) {
        self.settling.set(true);
    }

    /// Whether it must not execute the next request now.
    #[inline]
    pub(super) fn saturated(&self, worker: &Worker) -> bool {
        let limits = &worker.config.limits;
        let replies = self.replies.borrow();
        let waiting = replies.waiting();
        if self.settling.get() {
            self.settling.set(waiting > 0);
        }
        self.settling.get()
            || self.alone.get()
            || waiting >= limits.pipeline_max.min(self.window.get().size(replies.answered()))
            || self.queued.get() > limits.session_queued_max
            || replies.held() > limits.session_output_max
            || (replies.held() > 0 && self.is_over_share(worker))
    }
}
