//! A request that is on its way: who waits for it, and under which route it was sent.
//! Knows nothing of how it got there.

use std::rc::Rc;

use crate::{
    model::ids::{Epoch, SlotId},
    proxy::{
        check::ServeCheck, gather::ScatterGather, product::ProductView, replies::Ticket, session::Session,
        worker::Worker,
    },
};

/// Why a reply that has come is not delivered.
pub(in crate::proxy) const WITHHELD: &str = "answered, but this node may not vouch for the slot any more";

/// Who gets the reply.
#[derive(Debug)]
pub(in crate::proxy) enum Owner {
    Session(Rc<Session>, Ticket),
    /// A part of a split command.
    Part(Rc<ScatterGather>, u32),
}

impl Owner {
    /// The session that waits in the end.
    pub(in crate::proxy) fn session(&self) -> &Rc<Session> {
        match self {
            Self::Session(session, _) => session,
            Self::Part(gather, _) => gather.session(),
        }
    }
}

/// Check 2 for the replies of one `read()`: made after it, once for all of them.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct AtReply {
    open: bool,
    /// A test has taken the check out.
    unchecked: bool,
    generation: u32,
}

impl AtReply {
    #[inline]
    pub(in crate::proxy) fn now(worker: &Worker, product: &ProductView) -> Self {
        let unchecked = cfg!(debug_assertions) && worker.unchecked;
        let open = unchecked || worker.serve_check(product) == ServeCheck::Open;
        Self { open, unchecked, generation: worker.generation.get() }
    }

    /// Whether the table is still the one under which it was sent.
    #[inline]
    pub(in crate::proxy) fn same_table(&self, entry: &Entry) -> bool {
        entry.generation == self.generation
    }

    /// Whether its reply may be delivered.
    #[inline]
    pub(in crate::proxy) fn passes(&self, entry: &Entry, product: &ProductView) -> bool {
        self.open && (self.same_table(entry) || self.unchecked || entry.is_current(product))
    }
}

/// An unanswered request.
#[derive(Debug)]
pub(in crate::proxy) struct Entry {
    pub(in crate::proxy) owner: Owner,
    /// Epoch of its slot when it was sent (of a part: in the gather, per key).
    pub(in crate::proxy) epoch: Epoch,
    /// Bytes of the request.
    pub(in crate::proxy) len: u32,
    /// The worker's tick when it was sent.
    pub(in crate::proxy) tick: u32,
    /// The worker's table when it was sent.
    pub(in crate::proxy) generation: u32,
    /// `None`: no key.
    pub(in crate::proxy) slot: Option<SlotId>,
    pub(in crate::proxy) is_write: bool,
}

impl Entry {
    /// The reply has come and may pass.
    #[inline]
    pub(in crate::proxy) fn deliver(self, worker: &Worker, reply: &[u8]) {
        match self.owner {
            Owner::Session(session, ticket) => session.complete(worker, ticket, reply, self.len as usize),
            Owner::Part(gather, part) => gather.deliver(worker, part as usize, reply),
        }
    }

    /// Whether the slots it was sent for are still what they were (the slot's half of check 2).
    pub(in crate::proxy) fn is_current(&self, product: &ProductView) -> bool {
        let routes = product.routes.borrow();
        let same = |slot: SlotId, epoch: Epoch| routes.slots.get(usize::from(slot.0)).is_some_and(|s| s.epoch == epoch);
        match &self.owner {
            Owner::Session(..) => self.slot.is_none_or(|slot| same(slot, self.epoch)),
            Owner::Part(gather, part) => gather.keys_of(*part as usize).all(|key| same(key.slot, key.epoch)),
        }
    }

    /// Whether it was sent for a slot that `held` says is held.
    pub(in crate::proxy) fn concerns(&self, held: &dyn Fn(SlotId) -> bool) -> bool {
        match &self.owner {
            Owner::Session(..) => self.slot.is_some_and(held),
            Owner::Part(gather, part) => gather.keys_of(*part as usize).any(|key| held(key.slot)),
        }
    }

    /// The reply came, but may not pass any more.
    pub(in crate::proxy) fn withhold(self, worker: &Worker) {
        self.fail(worker, true, WITHHELD);
    }

    /// It was executed, but not enough replicas are known to have it; `text` is the whole error.
    pub(in crate::proxy) fn unconfirmed(self, worker: &Worker, text: &[u8]) {
        match self.owner {
            Owner::Session(session, ticket) => session.complete(worker, ticket, text, self.len as usize),
            Owner::Part(gather, part) => gather.fail(worker, part as usize, true, text),
        }
    }

    /// No reply will come from a primary (of a replica: [`again`](Self::again)). `sent`: the server may have got it whole.
    pub(in crate::proxy) fn fail(self, worker: &Worker, sent: bool, why: &str) {
        let text = match (sent, self.is_write) {
            (false, _) => format!("-ERR {why}, not executed\r\n"),
            (true, true) => format!("-ERR outcome unknown: {why}\r\n"),
            (true, false) => format!("-TRYAGAIN not delivered, safe to repeat: {why}\r\n"),
        };
        self.fail_with(worker, sent, text.as_bytes());
    }

    /// As [`fail`](Self::fail), with the whole error.
    pub(in crate::proxy) fn fail_with(self, worker: &Worker, sent: bool, error: &[u8]) {
        worker.stats.unknown.set(worker.stats.unknown.get() + u64::from(sent));
        match self.owner {
            Owner::Session(session, ticket) => session.complete(worker, ticket, error, self.len as usize),
            Owner::Part(gather, part) => gather.fail(worker, part as usize, sent, error),
        }
    }
}
