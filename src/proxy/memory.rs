//! The memory budget of a node: how many bytes all its buffers for clients and servers may hold together.
//! Knows nothing of what is in the buffers, and closes nothing; the workers do.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

/// Buffers are charged in steps of this many bytes, so that small ones cost nothing to account for.
const GRAIN: usize = 16 * 1024;

/// A worker publishes its sum when it has changed by this many bytes: the shared counter is then rarely written.
const PUBLISH_STEP: usize = 256 * 1024;

/// Each buffer of a [`Pool`] may have this many bytes, however full the pool is, so that a server that answers is served
/// while others that do not answer have filled it.
const POOL_MIN: usize = 256 * 1024;

/// A session with less than this many bytes is never closed for the sake of the budget.
pub(super) const SMALL: usize = GRAIN;

/// The budget of a node, which all its workers share.
#[derive(Debug)]
pub struct MemoryBudget {
    max: usize,
    used: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0) }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Bytes that all buffers hold; small ones are not counted.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether half is used: sessions with much data are then not read.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.used() > self.max / 2
    }

    /// Bytes by which three quarters are exceeded, counted from five eighths on so that there is room again; `None` if they
    /// are not. The last quarter is for what is not counted: small buffers, copies while a buffer grows, and memory that
    /// the allocator keeps.
    #[must_use]
    pub fn excess(&self) -> Option<usize> {
        let used = self.used();
        (used > self.max / 4 * 3).then(|| used - self.max / 8 * 5)
    }
}

/// Buffers of one kind that belong to a server and not to a session, so that closing sessions does not free them. All
/// buffers of a kind get a quarter of the budget. Each may use half of what the others leave: one server that does not
/// answer takes a twelfth, and many of them take no more than the quarter.
#[derive(Debug)]
pub(super) struct Pool {
    /// Bytes that this worker may use.
    max: usize,
    /// Bytes that the buffers hold.
    used: Cell<usize>,
    /// Bytes that one buffer may hold now.
    each: Cell<usize>,
}

impl Pool {
    fn new(max: usize) -> Self {
        Self { max, used: Cell::new(0), each: Cell::new((max / 2).max(POOL_MIN)) }
    }

    /// Bytes that one buffer may hold now, at most `max`.
    #[inline]
    pub(super) fn each(&self, max: usize) -> usize {
        max.min(self.each.get())
    }

    fn replace(&self, before: usize, now: usize) {
        let used = self.used.get() - before + now;
        self.used.set(used);
        self.each.set((self.max.saturating_sub(used) / 2).max(POOL_MIN));
    }
}

/// The part of a worker.
#[derive(Debug)]
pub(super) struct WorkerMemory {
    pub(super) budget: Arc<MemoryBudget>,
    /// Queues of shared connections to servers.
    pub(super) queues: Pool,
    /// Replies that wait for replicas.
    pub(super) unconfirmed: Pool,
    /// Bytes of this worker.
    own: Cell<usize>,
    /// Bytes of this worker that are counted in `budget`.
    published: Cell<usize>,
    /// Signals that the budget is exceeded.
    pub(super) exceeded: Notify,
}

impl WorkerMemory {
    /// The part of one of `workers` workers.
    pub(super) fn new(budget: Arc<MemoryBudget>, workers: usize) -> Self {
        let pool = || Pool::new(budget.max() / 4 / workers);
        let (queues, unconfirmed) = (pool(), pool());
        Self { budget, queues, unconfirmed, own: Cell::new(0), published: Cell::new(0), exceeded: Notify::new() }
    }

    /// As [`charge`](Self::charge), for a buffer of a pool.
    #[inline]
    pub(super) fn charge_pool(&self, pool: &Pool, charged: &Cell<usize>, now: usize) {
        let before = charged.get();
        self.charge(charged, now);
        if charged.get() != before {
            pool.replace(before, charged.get());
        }
    }

    /// Replaces what one owner of buffers is charged with, `charged`, by `now` bytes.
    #[inline]
    pub(super) fn charge(&self, charged: &Cell<usize>, now: usize) {
        let now = now & !(GRAIN - 1);
        let before = charged.get();
        if now != before {
            charged.set(now);
            self.add(before, now);
        }
    }

    #[cold]
    fn add(&self, before: usize, now: usize) {
        self.own.set(self.own.get() - before + now);
        if self.own.get().abs_diff(self.published.get()) >= PUBLISH_STEP {
            self.publish();
        }
    }

    /// Publishes the sum of this worker, and signals if the budget is exceeded.
    pub(super) fn publish(&self) {
        let (own, before) = (self.own.get(), self.published.replace(self.own.get()));
        if own >= before {
            self.budget.used.fetch_add(own - before, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(before - own, Ordering::Relaxed);
        }
        if self.budget.excess().is_some() {
            self.exceeded.notify_one();
        }
    }

    /// Bytes of this worker.
    pub(super) fn own(&self) -> usize {
        self.own.get()
    }
}

impl Drop for WorkerMemory {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.published.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_free_and_large_ones_are_counted_once() {
        let budget = Arc::new(MemoryBudget::new(4 << 20));
        let memory = WorkerMemory::new(budget.clone(), 1);
        let (a, b) = (Cell::new(0), Cell::new(0));
        memory.charge(&a, GRAIN - 1);
        assert_eq!((memory.own(), a.get()), (0, 0));
        memory.charge(&a, (1 << 20) + 1);
        memory.charge(&a, 1 << 20);
        assert_eq!((memory.own(), budget.used()), (1 << 20, 1 << 20));
        assert!(!budget.is_near());
        memory.charge(&b, 2 << 20);
        assert!(budget.is_near() && budget.excess().is_none());
        memory.charge(&a, 2 << 20);
        assert_eq!(budget.excess(), Some((4 << 20) - (4 << 20) / 8 * 5));
        memory.charge(&b, 0);
        memory.charge(&a, 0);
        assert_eq!((memory.own(), budget.used()), (0, 0));
        memory.charge(&a, 1 << 20);
        drop(memory);
        assert_eq!(budget.used(), 0, "a worker that has ended holds nothing");
    }

    /// However many servers do not answer, their queues leave most of the budget to sessions, and each other server has
    /// some room.
    #[test]
    fn buffers_of_a_pool_share_a_quarter_of_the_budget() {
        let budget = Arc::new(MemoryBudget::new(128 << 20));
        let memory = WorkerMemory::new(budget.clone(), 2);
        let max = 16 << 20;
        assert_eq!(memory.queues.each(max), max / 2);
        let buffers: Vec<Cell<usize>> = (0..20).map(|_| Cell::new(0)).collect();
        for buffer in &buffers {
            // It grows until it is full.
            while buffer.get() <= memory.queues.each(max) {
                memory.charge_pool(&memory.queues, buffer, buffer.get() + GRAIN);
            }
        }
        let all: usize = buffers.iter().map(Cell::get).sum();
        assert_eq!((memory.own(), memory.unconfirmed.each(max)), (all, max / 2));
        assert!(buffers[0].get() > max / 4 && all < max + 20 * (POOL_MIN + GRAIN), "{all}");
        assert_eq!(memory.queues.each(max), POOL_MIN);
        buffers.iter().for_each(|buffer| memory.charge_pool(&memory.queues, buffer, 0));
        assert_eq!((memory.own(), memory.queues.each(max)), (0, max / 2));
    }
}
