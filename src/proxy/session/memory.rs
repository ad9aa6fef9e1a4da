//! The memory that a session holds: what its worker counts, and what happens near the node's budget.
//! Knows nothing of the other sessions.

use std::{cell::Cell, rc::Rc};

use super::Session;
use crate::{
    proxy::{counters::count, memory::SMALL, worker::Worker},
    resp::write,
};

/// Bytes of a session's buffers. Its replies are asked for their size.
#[derive(Debug, Default)]
pub(super) struct SessionMemory {
    /// Requests that were read but not executed.
    pub(super) unread_requests: Cell<usize>,
    /// Incomplete replies of servers to it.
    incoming: Cell<usize>,
    /// Split commands that are not answered.
    split: Cell<usize>,
    /// What its worker counts.
    charged: Cell<usize>,
    /// Whether it is in the worker's list of sessions that are not read for lack of memory.
    paused: Cell<bool>,
}

impl SessionMemory {
    /// Bytes of a transaction, and of requests that are executed in several steps.
    pub(super) fn charged_steps(&self) -> usize {
        self.split.get()
    }
}

impl Session {
    /// Bytes of its buffers.
    pub(in crate::proxy) fn footprint(&self) -> usize {
        let memory = &self.memory;
        // Of a session with dedicated connections, the requests in them are its own; shared connections are bounded.
        let sent = if self.dedicated_since.get().is_some() { self.queued.get() } else { 0 };
        memory.unread_requests.get()
            + sent
            + memory.incoming.get()
            + memory.split.get()
            + self.replies.borrow().memory()
    }

    /// Lets the worker count its buffers.
    #[inline]
    pub(in crate::proxy) fn recharge(&self, worker: &Worker) {
        let now = if self.closed.get() { 0 } else { self.footprint() };
        worker.memory.charge(&self.memory.charged, now);
    }

    /// Replaces the size of an incomplete reply, `before`, by `now`.
    pub(in crate::proxy) fn charge_incoming(&self, worker: &Worker, before: usize, now: usize) {
        let incoming = &self.memory.incoming;
        incoming.set((incoming.get() + now).saturating_sub(before));
        self.recharge(worker);
    }

    /// Replaces the size of a split command, `before`, by `now`.
    pub(in crate::proxy) fn charge_split(&self, worker: &Worker, before: usize, now: usize) {
        let split = &self.memory.split;
        split.set((split.get() + now).saturating_sub(before));
        self.recharge(worker);
    }

    /// Whether it is not read for lack of memory.
    pub(super) fn is_paused(&self) -> bool {
        self.memory.paused.get()
    }

    /// Whether it has more than its share while the budget is nearly used up.
    pub(super) fn is_over_share(&self, worker: &Worker) -> bool {
        let charged = self.memory.charged.get();
        charged > SMALL && worker.memory.budget.is_near() && charged > worker.memory_share()
    }

    /// Whether it is not read for lack of memory; then the worker wakes it when there is more.
    pub(super) fn pauses(self: &Rc<Self>, worker: &Worker) -> bool {
        let pauses = self.is_over_share(worker);
        if pauses && !self.memory.paused.replace(true) {
            count(&worker.stats.memory_pauses);
            worker.paused.borrow_mut().push(self.clone());
        }
        pauses
    }

    /// Ends a pause.
    pub(in crate::proxy) fn resume(&self) {
        self.memory.paused.set(false);
        self.wake();
    }

    /// Closes it because the node's budget is exceeded.
    pub(in crate::proxy) fn close_for_memory(self: &Rc<Self>, worker: &Worker) {
        tracing::warn!(client = %self.addr, bytes = self.footprint(), budget = worker.memory.budget.max(),
            "closed a client whose data exceeds the node's memory budget (proxy.memory_max)");
        count(&worker.stats.over_budget);
        // Only at the beginning of a reply; the client sees it if it reads before it sends more.
        if self.replies.borrow().waiting() == 0 && self.replies.borrow().unsent().is_empty() {
            self.answer(worker, &|out| {
                write::error(out, "ERR not executed: the memory budget of this node is used up")
            });
            self.flush(worker);
        }
        self.kill();
    }

    /// Closes it because a reply on a shared connection is too large.
    pub(in crate::proxy) fn close_for_reply(&self, worker: &Worker, len: usize) {
        tracing::warn!(client = %self.addr, bytes = len, "closed a client whose reply is larger than proxy.reply_max");
        count(&worker.stats.large_replies);
        self.kill();
    }
}
