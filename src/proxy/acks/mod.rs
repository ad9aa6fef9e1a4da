//! Replies to writes that wait, in order and per worker and server, until enough replicas have the writes (`min-acks`).
//! Knows nothing of the connection that asks the server for the number of replicas; `link` has that.

mod link;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::sync::Notify;

use super::{
    backend::{InFlight, ReplyCheck},
    product::ProductView,
    worker::Worker,
};
use crate::model::{
    ids::{HostPort, SlotId},
    secret::Credentials,
};

pub(super) use link::run;

/// Delivered bytes from which on it is worth moving the others to the front.
const COMPACT_FROM: usize = 64 * 1024;

/// Capacity above which an empty buffer is freed: more than usual pipelines need, so that those allocate nothing.
const KEEP: usize = 256 * 1024;

/// A write whose reply waits for replicas.
#[derive(Debug)]
struct Unconfirmed {
    entry: InFlight,
    /// Length of its reply in bytes.
    reply: usize,
    /// Run id of the process that executed it: only that process knows which replicas have it.
    run_id: Rc<str>,
}

/// The unconfirmed writes, oldest first.
#[derive(Debug, Default)]
struct AckQueue {
    writes: VecDeque<Unconfirmed>,
    /// Their replies, concatenated.
    replies: Vec<u8>,
    /// Number of bytes of `replies` that were delivered.
    taken: usize,
}

/// The unconfirmed writes of one server.
#[derive(Debug)]
pub(super) struct Acks {
    pub(super) addr: HostPort,
    pub(super) credentials: Option<Credentials>,
    product: Rc<ProductView>,
    queue: RefCell<AckQueue>,
    /// Whether its server is no longer a primary or its product was removed.
    retired: Cell<bool>,
    /// Wakes the idle task.
    work: Notify,
    /// Signals to the task that the writes it has asked about are no longer waiting.
    abandoned: Notify,
}

/// The result for a batch of writes.
enum AckDecision<'a> {
    /// Enough replicas have them.
    Confirmed,
    /// Not enough replicas have them, or that is unknown; `why` is text for the client.
    Unconfirmed { wanted: u32, why: &'a str },
}

impl Acks {
    pub(super) fn new(product: Rc<ProductView>, addr: HostPort, credentials: Option<Credentials>) -> Self {
        Self {
            addr,
            credentials,
            product,
            queue: RefCell::default(),
            retired: Cell::new(false),
            work: Notify::new(),
            abandoned: Notify::new(),
        }
    }

    /// Adds the reply to a write from the process `run_id`; it is delivered when enough replicas have the write.
    pub(super) fn push(&self, worker: &Worker, entry: InFlight, reply: &[u8], run_id: Rc<str>) {
        let mut queue = self.queue.borrow_mut();
        if queue.held() + reply.len() > worker.config.limits.unconfirmed_max {
            drop(queue);
            let wanted = u32::from(self.product.min_acks.get());
            return entry.unconfirmed(worker, not_confirmed(wanted, "too many writes wait for replicas").as_bytes());
        }
        queue.replies.extend_from_slice(reply);
        queue.writes.push_back(Unconfirmed { entry, reply: reply.len(), run_id });
        if queue.writes.len() == 1 {
            self.work.notify_one();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.borrow().writes.is_empty()
    }

    /// The tick at which the oldest unconfirmed write for a slot with `held` was sent.
    pub(super) fn waits_for(&self, held: &dyn Fn(SlotId) -> bool) -> Option<u32> {
        let queue = self.queue.borrow();
        queue.writes.iter().find(|write| write.entry.concerns(held)).map(|write| write.entry.tick)
    }

    /// Ends the task when no write waits any more.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.work.notify_one();
    }

    /// Answers all waiting writes with "outcome unknown", because a failover replaces the server: it can no longer
    /// report which replicas have them.
    pub(super) fn abandon(&self, worker: &Worker) {
        let writes = std::mem::take(&mut *self.queue.borrow_mut()).writes;
        self.abandoned.notify_one();
        if writes.is_empty() {
            return;
        }
        for write in writes {
            let why = format!("server {} is being replaced by a failover, before its replicas confirmed", self.addr);
            write.entry.fail(worker, true, &why);
        }
        worker.flush_replied();
        worker.recount_holds();
    }

    /// The number of writes at the front of the queue that the same process executed, and the run id of that process.
    fn batch(&self) -> Option<(usize, Rc<str>)> {
        let queue = self.queue.borrow();
        let run_id = queue.writes.front()?.run_id.clone();
        let others = queue.writes.iter().position(|write| write.run_id != run_id);
        Some((others.unwrap_or(queue.writes.len()), run_id))
    }

    /// Answers the `count` oldest writes in order, each after check 2.
    fn settle(&self, worker: &Worker, count: usize, decision: &AckDecision<'_>) {
        // Check 2 comes after the read that returned the number of replicas.
        let check = ReplyCheck::new(worker, &self.product);
        let error = match decision {
            AckDecision::Confirmed => String::new(),
            AckDecision::Unconfirmed { wanted, why } => not_confirmed(*wanted, why),
        };
        // Moved out, so that replies are delivered while nothing is borrowed. No write is added meanwhile: this is one
        // turn.
        let replies = std::mem::take(&mut self.queue.borrow_mut().replies);
        let mut swapped = false;
        for _ in 0..count {
            let (write, from) = {
                let mut queue = self.queue.borrow_mut();
                let Some(write) = queue.writes.pop_front() else { break };
                let from = queue.taken;
                queue.taken += write.reply;
                (write, from)
            };
            let Unconfirmed { entry, reply, .. } = write;
            swapped |= !check.same_table(&entry);
            if !check.passes(&entry, &self.product) {
                entry.withhold(worker);
            } else if error.is_empty() {
                entry.deliver(worker, &replies[from..from + reply]);
            } else {
                entry.unconfirmed(worker, error.as_bytes());
            }
        }
        self.queue.borrow_mut().put_back(replies);
        worker.flush_replied();
        if swapped {
            worker.recount_holds();
        }
    }
}

impl AckQueue {
    /// Bytes that wait, queue entries included.
    fn held(&self) -> usize {
        self.replies.len() - self.taken + self.writes.len() * size_of::<Unconfirmed>()
    }

    fn put_back(&mut self, mut replies: Vec<u8>) {
        if self.taken == replies.len() {
            replies.clear();
            self.taken = 0;
            if replies.capacity() > KEEP {
                replies = Vec::new();
            }
        } else if self.taken >= COMPACT_FROM && self.taken > replies.len() / 2 {
            replies.drain(..self.taken);
            self.taken = 0;
        }
        self.replies = replies;
    }
}

/// The error for a client whose write was executed but not confirmed. A client that repeats the write executes it
/// twice.
fn not_confirmed(wanted: u32, why: &str) -> String {
    format!("-NOREPLICAS executed, not confirmed on {wanted} replicas: {why}\r\n")
}
