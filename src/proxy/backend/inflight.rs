//! A request in flight: which session waits for its reply, and the route under which it was sent; check 2 for its
//! reply. Knows nothing of how requests are sent.

use std::rc::Rc;

use super::script_load::ScriptLoad;
use crate::{
    commands::CommandNumber,
    model::ids::{Epoch, SlotId},
    proxy::{
        check::ServeCheck, counters::count, gather::ScatterGather, operation::Step, pieces::Pieces,
        product::ProductView, replies::Ticket, session::Session, transaction::Block, worker::Worker,
    },
};

/// Why check 2 withholds a reply.
pub(in crate::proxy) const WITHHELD: &str = "answered, but this node may no longer serve the slot";

/// Whether a reply is the nil of one of the protocols.
pub(in crate::proxy) fn is_nil(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n")
}

/// What waits for the reply to a request.
#[derive(Debug)]
pub(in crate::proxy) enum Requester {
    Session(Rc<Session>, Ticket),
    /// A part of a split command.
    Part(Rc<ScatterGather>, u32),
    /// A transaction.
    Block(Rc<Block>),
    /// A step of an operation.
    Step(Rc<Step>),
    /// Nobody: the node has sent SCRIPT LOAD in front of a call.
    Load(Box<ScriptLoad>),
}

impl Requester {
    /// The session that sent the command.
    pub(in crate::proxy) fn session(&self) -> &Rc<Session> {
        match self {
            Self::Session(session, _) => session,
            Self::Part(gather, _) => gather.session(),
            Self::Block(block) => block.session(),
            Self::Step(step) => step.session(),
            Self::Load(load) => load.session(),
        }
    }
}

/// Check 2 for the replies of one `read()`: done once for all of them, after the `read()`.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct ReplyCheck {
    open: bool,
    /// A test has disabled the check.
    unchecked: bool,
    generation: u32,
}

impl ReplyCheck {
    #[inline]
    pub(in crate::proxy) fn new(worker: &Worker, product: &ProductView) -> Self {
        let unchecked = cfg!(debug_assertions) && worker.reply_check_disabled;
        let open = unchecked || worker.serve_check(product) == ServeCheck::Open;
        Self { open, unchecked, generation: worker.routes.generation() }
    }

    /// Whether the route table is still the one under which the request was sent.
    #[inline]
    pub(in crate::proxy) fn same_table(&self, entry: &InFlight) -> bool {
        entry.generation == self.generation
    }

    /// Whether the reply may be delivered.
    #[inline]
    pub(in crate::proxy) fn passes(&self, entry: &InFlight, product: &ProductView) -> bool {
        self.open && (self.same_table(entry) || self.unchecked || entry.is_current(product))
    }
}

/// A request in flight.
#[derive(Debug)]
pub(in crate::proxy) struct InFlight {
    pub(in crate::proxy) requester: Requester,
    /// Epoch of its slot when it was sent (of a part: the gather has one per key).
    pub(in crate::proxy) epoch: Epoch,
    /// Length of the request in bytes.
    pub(in crate::proxy) len: u32,
    /// The worker's tick when it was sent.
    pub(in crate::proxy) tick: u32,
    /// When it was sent, in microseconds, modulo 2^32; for the slow log.
    pub(in crate::proxy) sent_us: u32,
    /// The generation of the worker's table when it was sent.
    pub(in crate::proxy) generation: u32,
    /// `None` if the command has no keys.
    pub(in crate::proxy) slot: Option<SlotId>,
    pub(in crate::proxy) is_write: bool,
    /// The command, if its failure is counted.
    pub(in crate::proxy) command: Option<CommandNumber>,
}

impl InFlight {
    /// Delivers the reply.
    #[inline]
    pub(in crate::proxy) fn deliver(self, worker: &Worker, reply: &[u8]) {
        match self.requester {
            Requester::Session(session, ticket) => {
                session.note_error(worker, self.command, reply);
                session.complete(worker, ticket, reply, self.len as usize);
            }
            Requester::Part(gather, part) => gather.deliver(worker, part as usize, reply),
            Requester::Block(block) => {
                if block.is_import() {
                    block.session().note_error(worker, self.command, reply);
                }
                block.deliver(worker, reply, self.len as usize);
            }
            Requester::Step(step) => step.deliver(reply.to_vec()),
            Requester::Load(load) => load.deliver(reply),
        }
    }

    /// The client's reply, if it is a HIMPORT SET. `reply`: to the EXEC behind it.
    pub(super) fn reply_of_import(&self, reply: &[u8]) -> Option<Vec<u8>> {
        match &self.requester {
            Requester::Block(block) if block.is_import() => Some(block.reply_of_import(reply)),
            _ => None,
        }
    }

    /// Delivers a large reply.
    pub(in crate::proxy) fn deliver_in_pieces(self, worker: &Worker, reply: Pieces) {
        match self.requester {
            Requester::Session(session, ticket) => session.complete_in_pieces(worker, ticket, reply, self.len as usize),
            Requester::Part(gather, part) => gather.deliver_in_pieces(worker, part as usize, reply),
            Requester::Block(block) => block.deliver_in_pieces(worker, reply, self.len as usize),
            Requester::Step(step) => step.deliver(reply.concat()),
            Requester::Load(load) => load.fail(),
        }
    }

    /// Whether its slots still have the epochs under which it was sent (the part of check 2 that concerns slots).
    pub(in crate::proxy) fn is_current(&self, product: &ProductView) -> bool {
        let routes = product.routes.borrow();
        let same = |slot: SlotId, epoch: Epoch| routes.slots.get(usize::from(slot.0)).is_some_and(|s| s.epoch == epoch);
        match &self.requester {
            Requester::Session(..) | Requester::Block(_) => self.slot.is_none_or(|slot| same(slot, self.epoch)),
            Requester::Part(gather, part) => gather.keys_of(*part as usize).all(|key| same(key.slot, key.epoch)),
            Requester::Step(step) => step.is_current(same),
            Requester::Load(_) => true,
        }
    }

    /// Whether it was sent for a slot for which `held` is true.
    pub(in crate::proxy) fn concerns(&self, held: &dyn Fn(SlotId) -> bool) -> bool {
        match &self.requester {
            Requester::Session(..) | Requester::Block(_) => self.slot.is_some_and(held),
            Requester::Part(gather, part) => gather.keys_of(*part as usize).any(|key| held(key.slot)),
            Requester::Step(step) => step.concerns(held),
            Requester::Load(_) => false,
        }
    }

    /// Answers with an error, because check 2 does not let the reply pass.
    pub(in crate::proxy) fn withhold(self, worker: &Worker, reply: &[u8]) {
        let executed = !self.blocked_in_vain(reply);
        self.fail(worker, executed, WITHHELD);
    }

    /// Whether it is a blocking call, and the reply says that nothing came in its time: it has executed nothing.
    #[inline]
    pub(in crate::proxy) fn blocked_in_vain(&self, reply: &[u8]) -> bool {
        matches!(&self.requester, Requester::Step(step) if step.blocks()) && is_nil(reply)
    }

    /// Whether a server may rightly leave it unanswered for a while.
    pub(in crate::proxy) fn blocks(&self) -> bool {
        matches!(&self.requester, Requester::Step(step) if step.blocks())
    }

    /// The tick from which its deadline counts; `None`: it has none.
    #[inline]
    pub(in crate::proxy) fn due_from(&self) -> Option<u32> {
        match &self.requester {
            Requester::Session(..) | Requester::Part(..) | Requester::Block(_) | Requester::Load(_) => Some(self.tick),
            Requester::Step(step) => step.due_from(),
        }
    }

    /// Answers a write that was executed but not confirmed by enough replicas; `text` is the whole error.
    pub(in crate::proxy) fn unconfirmed(self, worker: &Worker, text: &[u8]) {
        count(&worker.stats.unconfirmed);
        match self.requester {
            Requester::Session(session, ticket) => session.complete(worker, ticket, text, self.len as usize),
            Requester::Part(gather, part) => gather.fail(worker, part as usize, true, text),
            Requester::Block(block) => block.fail(worker, true, text, self.len as usize),
            Requester::Step(step) => step.unconfirmed(text),
            Requester::Load(load) => load.fail(),
        }
    }

    /// Answers with an error, because the primary will not reply (for replicas, see
    /// [`retry_at_primary`](Self::retry_at_primary)). `sent`: the server may have received the whole request.
    pub(in crate::proxy) fn fail(self, worker: &Worker, sent: bool, why: &str) {
        let text = match (sent, self.is_write) {
            (false, _) => format!("-ERR {why}, not executed\r\n"),
            (true, true) => format!("-ERR outcome unknown: {why}\r\n"),
            (true, false) => format!("-TRYAGAIN not delivered, safe to repeat: {why}\r\n"),
        };
        self.fail_with(worker, sent, text.as_bytes());
    }

    /// The same as [`fail`](Self::fail); `error` is the whole error.
    pub(in crate::proxy) fn fail_with(self, worker: &Worker, sent: bool, error: &[u8]) {
        let counts = sent && !matches!(self.requester, Requester::Load(_));
        worker.stats.unknown.set(worker.stats.unknown.get() + u64::from(counts));
        match self.requester {
            Requester::Session(session, ticket) => {
                session.note_error(worker, self.command, error);
                session.complete(worker, ticket, error, self.len as usize);
            }
            Requester::Part(gather, part) => gather.fail(worker, part as usize, sent, error),
            Requester::Block(block) => block.fail(worker, sent, error, self.len as usize),
            Requester::Step(step) => step.fail(sent, error),
            Requester::Load(load) => load.fail(),
        }
    }
}
