//! What a hold does to requests that are not completely written: the server cannot have executed them, so the hold does
//! not wait for them. They are sent again when it ends. Knows nothing of why slots are held.

use std::collections::{BTreeSet, VecDeque};

use super::{Backend, BackendLink, InFlight, Requester};
use crate::{
    model::ids::SlotId,
    proxy::{counters::count, session::CutOff, worker::Worker},
};

impl Backend {
    /// The index of the first request in flight that is not completely written, and its position in `out`.
    pub(super) fn first_unsent(&self) -> (usize, usize) {
        first_unsent(&self.inflight.borrow(), self.out.borrow().len(), self.written.get())
    }

    /// Cuts off the requests for held slots that are not completely written. On a shared connection these are the
    /// requests of which no byte is written; one that is partly written, or a part of a split command, is small and soon
    /// complete. A dedicated
    /// connection is closed as soon as its earlier requests are answered. `begins`: the hold begins, so a connection that
    /// is not up may be soon; a socket that takes more gets the rest in the connection's next turn.
    pub(in crate::proxy) fn cut_off(&self, worker: &Worker, begins: bool, held: &dyn Fn(SlotId) -> bool) {
        let len = self.out.borrow().len();
        let soon = if self.link.get() == BackendLink::Up { !self.full.get() } else { begins };
        if self.replica || soon || self.written.get() == len {
            return;
        }
        if self.is_dedicated() {
            let (first, _) = self.first_unsent();
            if !self.inflight.borrow().iter().skip(first).any(|entry| entry.concerns(held)) {
                return;
            }
            self.cutting.set(true);
            // From now on the session would use another connection, and pass the requests that are sent again.
            if let Some(entry) = self.inflight.borrow().back() {
                entry.requester.session().settle();
            }
            if self.link.get() == BackendLink::Up {
                self.wake();
            } else {
                self.fail_all(worker, "was not connected before a hold began");
            }
            return;
        }
        let mut out = self.out.borrow_mut();
        let mut inflight = self.inflight.borrow_mut();
        let (first, at) = first_untouched(&inflight, len, self.written.get());
        let unsent = inflight.split_off(first);
        let bytes = out.split_off(at);
        let mut from = 0;
        let mut sessions = BTreeSet::new();
        for entry in unsent {
            let to = from + entry.len as usize;
            // A part of a split command stays: it is small, and the other parts may be executed already. But it must not
            // pass an earlier request of its session.
            let session = entry.requester.session().id;
            let stays = match &entry.requester {
                Requester::Part(..) => !sessions.contains(&session),
                Requester::Step(step) => step.is_never_cut_off(),
                Requester::Session(..) | Requester::Block(_) | Requester::Load(_) => false,
            };
            if entry.concerns(held) && !stays {
                sessions.insert(session);
                self.cut_off_entry(worker, entry, &bytes[from..to]);
            } else {
                out.extend_from_slice(&bytes[from..to]);
                inflight.push_back(entry);
            }
            from = to;
        }
    }

    /// Keeps a request until the hold has ended. A part of a split command is refused instead.
    pub(super) fn cut_off_entry(&self, worker: &Worker, entry: InFlight, bytes: &[u8]) {
        match entry.requester {
            Requester::Session(session, ticket) => {
                session.settle();
                count(&worker.stats.cut_off);
                let (db, version, since) = (self.db, self.version, worker.clock.tick());
                worker.cut_off.borrow_mut().push(CutOff { session, ticket, bytes: bytes.to_vec(), db, version, since });
            }
            Requester::Part(gather, part) => {
                gather.fail(worker, part as usize, false, b"-TRYAGAIN not executed: a slot of the command moves\r\n");
            }
            Requester::Block(block) => {
                count(&worker.stats.cut_off);
                block.fail(worker, false, b"-TRYAGAIN not executed: its slot moves\r\n", entry.len as usize);
            }
            Requester::Step(step) => {
                count(&worker.stats.cut_off);
                step.cut_off();
            }
            // The call that follows it is sent again, with another one.
            Requester::Load(load) => load.fail(),
        }
    }

    /// Whether a connection that is being cut off can be closed: what is in flight is not completely written.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cutting.get() && self.first_unsent().0 == 0
    }
}

/// The index of the first request in flight of which no byte is written, and its position in `out`. The written bytes of
/// the request before it may have been removed from `out` (see `Backend::compact`).
fn first_untouched(inflight: &VecDeque<InFlight>, len: usize, written: usize) -> (usize, usize) {
    let (mut index, mut at) = (inflight.len(), len);
    while index > 0
        && let Some(start) = at.checked_sub(inflight[index - 1].len as usize)
        && start >= written
    {
        index -= 1;
        at = start;
    }
    (index, at)
}

/// See [`Backend::first_unsent`]. `len`: length of `out`; its last bytes are the requests in flight, in order.
pub(super) fn first_unsent(inflight: &VecDeque<InFlight>, len: usize, written: usize) -> (usize, usize) {
    let (mut index, mut at) = (inflight.len(), len);
    while index > 0 && at > written {
        index -= 1;
        at = at.saturating_sub(inflight[index].len as usize);
    }
    (index, at)
}
