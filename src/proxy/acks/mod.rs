//! Replies to writes that wait, in order and per worker and server, until enough replicas have the writes (`min-acks`), and
//! replies to reads that wait until enough replicas have what was read (`read-confirmed`); "writes" below are both.
//! Knows nothing of the connection that asks the server for the number of replicas; `link` has that.

mod link;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

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
    /// When the client gets an error instead.
    deadline: Instant,
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
    /// Number of writes that have left the queue since the start.
    answered: u64,
}

/// The unconfirmed writes of one server.
#[derive(Debug)]
pub(super) struct Acks {
    pub(super) addr: HostPort,
    pub(super) credentials: Option<Credentials>,
    product: Rc<ProductView>,
    queue: RefCell<AckQueue>,
    /// Bytes that the worker's memory counts.
    charged: Cell<usize>,
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
            charged: Cell::new(0),
            retired: Cell::new(false),
            work: Notify::new(),
            abandoned: Notify::new(),
        }
    }

    /// Adds the reply to a write from the process `run_id`; it is delivered when enough replicas have the write.
    pub(super) fn push(&self, worker: &Worker, entry: InFlight, reply: &[u8], run_id: Rc<str>) {
        let mut queue = self.queue.borrow_mut();
        // One reply alone may be larger: it is kept anyway, and without it the value of GETDEL would be lost.
        let max = worker.memory.unconfirmed.each(worker.config.limits.unconfirmed_max);
        if !queue.writes.is_empty() && queue.held() + reply.len() > max {
            drop(queue);
            let wanted = u32::from(self.product.min_acks.get());
            let text = not_confirmed(entry.is_write, wanted, "too many writes wait for replicas");
            return entry.unconfirmed(worker, text.as_bytes());
        }
        let deadline = Instant::now() + Duration::from_millis(self.product.routes.borrow().min_acks_ms.into());
        queue.replies.extend_from_slice(reply);
        queue.writes.push_back(Unconfirmed { entry, reply: reply.len(), deadline, run_id });
        if queue.writes.len() == 1 {
            self.work.notify_one();
        }
        self.recharge(worker, queue.held());
    }

    /// Lets the worker count the bytes that wait.
    fn recharge(&self, worker: &Worker, held: usize) {
        worker.memory.charge_pool(&worker.memory.unconfirmed, &self.charged, held);
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
        let writes = self.queue.borrow_mut().take_all();
        self.recharge(worker, 0);
        self.abandoned.notify_one();
        if writes.is_empty() {
            return;
        }
        for write in writes {
            let why =
                self.product.of_server(&self.addr, "is being replaced by a failover, before its replicas confirmed");
            write.entry.fail(worker, true, &why);
        }
        worker.flush_replied();
        worker.recount_holds();
    }

    /// The writes at the front of the queue that the same process executed, as the number of the first one behind them,
    /// and the run id of that process.
    fn batch(&self) -> Option<(u64, Rc<str>)> {
        let queue = self.queue.borrow();
        let run_id = queue.writes.front()?.run_id.clone();
        let others = queue.writes.iter().position(|write| write.run_id != run_id);
        Some((queue.answered + others.unwrap_or(queue.writes.len()) as u64, run_id))
    }

    /// Resolves when the oldest write has waited for as long as it may, or when there is an oldest write.
    async fn expired(&self) {
        let deadline = self.queue.borrow().writes.front().map(|write| write.deadline);
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => self.work.notified().await,
        }
    }

    /// Answers the writes that have waited for as long as they may: a client need not wait for the `WAIT` of its batch,
    /// which may have begun late.
    fn settle_expired(&self, worker: &Worker) {
        let now = Instant::now();
        let until = {
            let queue = self.queue.borrow();
            queue.answered + queue.writes.iter().take_while(|write| write.deadline <= now).count() as u64
        };
        let wanted = u32::from(self.product.min_acks.get().max(1)) + worker.config.unmanaged.of(&self.addr);
        let why = format!("fewer confirmed within {} ms", self.product.routes.borrow().min_acks_ms);
        self.settle(worker, until, &AckDecision::Unconfirmed { wanted, why: &why });
    }

    /// Answers the writes before number `until` in order, each after check 2.
    fn settle(&self, worker: &Worker, until: u64, decision: &AckDecision<'_>) {
        // Check 2 comes after the read that returned the number of replicas.
        let check = ReplyCheck::new(worker, &self.product);
        // Moved out, so that replies are delivered while nothing is borrowed. No write is added meanwhile: this is one
        // turn.
        let replies = std::mem::take(&mut self.queue.borrow_mut().replies);
        let mut swapped = false;
        loop {
            let (write, from) = {
                let mut queue = self.queue.borrow_mut();
                if queue.answered >= until {
                    break;
                }
                let Some(write) = queue.writes.pop_front() else { break };
                queue.answered += 1;
                let from = queue.taken;
                queue.taken += write.reply;
                (write, from)
            };
            let Unconfirmed { entry, reply, .. } = write;
            swapped |= !check.same_table(&entry);
            if !check.passes(&entry, &self.product) {
                entry.withhold(worker, b"");
                continue;
            }
            match decision {
                AckDecision::Confirmed => entry.deliver(worker, &replies[from..from + reply]),
                AckDecision::Unconfirmed { wanted, why } => {
                    let text = not_confirmed(entry.is_write, *wanted, why);
                    entry.unconfirmed(worker, text.as_bytes());
                }
            }
        }
        let held = {
            let mut queue = self.queue.borrow_mut();
            queue.put_back(replies);
            queue.held()
        };
        self.recharge(worker, held);
        worker.flush_replied();
        if swapped {
            worker.recount_holds();
        }
    }
}

impl AckQueue {
    /// Empties the queue.
    fn take_all(&mut self) -> VecDeque<Unconfirmed> {
        let writes = std::mem::take(&mut self.writes);
        let answered = self.answered + writes.len() as u64;
        *self = Self { answered, ..Self::default() };
        writes
    }

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

/// The error for a client whose write was executed but not confirmed, or whose read has seen what is not confirmed. A
/// client that repeats the write executes it twice.
fn not_confirmed(is_write: bool, wanted: u32, why: &str) -> String {
    match is_write {
        true => format!("-NOREPLICAS executed, not confirmed on {wanted} replicas: {why}\r\n"),
        false => format!("-NOREPLICAS not delivered, not confirmed on {wanted} replicas, safe to repeat: {why}\r\n"),
    }
}
