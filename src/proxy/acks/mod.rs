//! Writes that a primary has answered and enough replicas do not have yet (`min-acks`): their replies wait here, in order,
//! per worker and server. Knows nothing of the connection that asks for the replicas; that is its task's affair (`link`).

mod link;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use tokio::sync::Notify;

use super::{
    backend::{AtReply, Entry},
    product::ProductView,
    worker::Worker,
};
use crate::model::{
    ids::{HostPort, SlotId},
    secret::Credentials,
};

pub(super) use link::run;

/// Delivered bytes below this are not worth moving the others for.
const COMPACT_FROM: usize = 64 * 1024;

/// A buffer that has grown beyond this is given back when it is empty.
const KEEP: usize = 256 * 1024;

/// A write with its reply.
#[derive(Debug)]
struct Unconfirmed {
    entry: Entry,
    /// Bytes of its reply.
    reply: usize,
    /// Run id of the process that executed it: only that process can say who has it.
    by: Rc<str>,
}

/// The unconfirmed, oldest first.
#[derive(Debug, Default)]
struct AckQueue {
    writes: VecDeque<Unconfirmed>,
    /// Their replies, one behind the other.
    replies: Vec<u8>,
    /// How much of `replies` is dealt with.
    taken: usize,
}

/// The unconfirmed writes of one server.
#[derive(Debug)]
pub(super) struct Acks {
    pub(super) addr: HostPort,
    pub(super) credentials: Option<Credentials>,
    product: Rc<ProductView>,
    queue: RefCell<AckQueue>,
    /// Its server is no primary any more, or its product is gone.
    retired: Cell<bool>,
    /// There is something to do for a task that rests.
    work: Notify,
    /// What the task has asked is about nobody any more.
    void: Notify,
}

/// What is known of a group of writes.
enum AckDecision<'a> {
    /// Enough replicas have them.
    Confirmed,
    /// They have not, or nobody can say so; why, for people.
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
            void: Notify::new(),
        }
    }

    /// The reply to a write has come from the process `by`; it is delivered when enough replicas have the write.
    pub(super) fn push(&self, worker: &Worker, entry: Entry, reply: &[u8], by: Rc<str>) {
        let mut queue = self.queue.borrow_mut();
        if queue.held() + reply.len() > worker.config.limits.unconfirmed_max {
            drop(queue);
            let wanted = u32::from(self.product.min_acks.get());
            return entry.unconfirmed(worker, text(wanted, "too many writes wait for replicas").as_bytes());
        }
        queue.replies.extend_from_slice(reply);
        queue.writes.push_back(Unconfirmed { entry, reply: reply.len(), by });
        if queue.writes.len() == 1 {
            self.work.notify_one();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.borrow().writes.is_empty()
    }

    /// A write that was sent for a slot that `held` says is held: since which tick.
    pub(super) fn waits_for(&self, held: &dyn Fn(SlotId) -> bool) -> Option<u32> {
        let queue = self.queue.borrow();
        queue.writes.iter().find(|write| write.entry.concerns(held)).map(|write| write.entry.tick)
    }

    /// Ends the task when nothing waits any more.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.work.notify_one();
    }

    /// Its server has been given up: nobody will ever know which replicas have what waits.
    pub(super) fn abandon(&self, worker: &Worker) {
        let writes = std::mem::take(&mut *self.queue.borrow_mut()).writes;
        self.void.notify_one();
        if writes.is_empty() {
            return;
        }
        for write in writes {
            let why = format!("server {} was given up by a failover before its replicas confirmed", self.addr);
            write.entry.fail(worker, true, &why);
        }
        worker.flush_touched();
        worker.recount_holds();
    }

    /// How many wait now, and of which process the oldest is; with those behind it of the same one.
    fn group(&self) -> Option<(usize, Rc<str>)> {
        let queue = self.queue.borrow();
        let by = queue.writes.front()?.by.clone();
        let others = queue.writes.iter().position(|write| write.by != by);
        Some((others.unwrap_or(queue.writes.len()), by))
    }

    /// The `count` oldest get their answers, in order, each through check 2.
    fn settle(&self, worker: &Worker, count: usize, verdict: &AckDecision<'_>) {
        // After the read that brought the verdict.
        let check = AtReply::now(worker, &self.product);
        let error = match verdict {
            AckDecision::Confirmed => String::new(),
            AckDecision::Unconfirmed { wanted, why } => text(*wanted, why),
        };
        // Ejected out, so that an answer may be given while nothing is temporarily owned. Nobody pushes meanwhile: this is one turn.
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
        worker.flush_touched();
        if swapped {
            worker.recount_holds();
        }
    }
}

impl AckQueue {
    /// Bytes that wait, the places in the queue included.
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

/// What a client reads. It was executed: whoever repeats it executes it again.
fn text(wanted: u32, why: &str) -> String {
    format!("-NOREPLICAS executed, not confirmed on {wanted} replicas: {why}\r\n")
}
