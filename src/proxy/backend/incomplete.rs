//! The oldest reply of a connection while it is incomplete. A large one is kept in pieces, which are charged to the
//! session that waits for it, passed on to its client as it arrives (dedicated connections), or discarded when the client
//! is gone.
//! Knows nothing of complete replies.

use std::rc::Rc;

use super::{Backend, InFlight, ReplyCheck, Requester};
use crate::{
    proxy::{counters::count, pieces::Pieces, session::Session, worker::Worker},
    resp::reply::ReplyScanner,
};

/// Bytes of a reply that was passed on and that the client has not read yet; above this, the rest stays in the socket.
const STREAM_MAX: usize = 1024 * 1024;

/// Incomplete replies from this size on, in bytes, are kept in pieces and charged; the last read leaves less of ordinary
/// ones.
const CHARGED_FROM: usize = 64 * 1024;

/// Bytes of an incomplete push from which on the connection is closed: it is charged to nobody, and servers send only short
/// ones.
const PUSH_MAX: usize = 1024 * 1024;

/// What became of the beginning of the oldest reply, which has not arrived completely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Beginning {
    /// It is kept in `bytes` until the rest arrives.
    #[default]
    Kept,
    /// Its first bytes are kept in `pieces` until the rest arrives.
    InPieces,
    /// The client has it: the rest follows, or the client is closed.
    PassedOn,
    /// The client is gone.
    Discarded,
}

/// An incomplete reply: the oldest of its connection.
#[derive(Debug, Default)]
pub(super) struct IncompleteReply {
    /// Its bytes that have arrived, without those in `pieces` and those that were passed on or discarded.
    pub(super) bytes: Vec<u8>,
    pieces: Pieces,
    pub(super) scanner: ReplyScanner,
    beginning: Beginning,
    /// Bytes that are charged to the session that waits for it.
    charged: usize,
    /// Bytes that were passed on.
    passed_on: usize,
    /// Bytes that were discarded.
    discarded: usize,
}

impl IncompleteReply {
    /// Whether nothing of it has arrived.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.is_kept()
    }

    /// Whether all of its bytes that have arrived are in `bytes`.
    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        self.beginning == Beginning::Kept
    }

    /// Called when a read has left the oldest reply incomplete.
    ///
    /// # Errors
    /// Returns why the connection can no longer be used.
    pub(super) fn note(&mut self, backend: &Backend, worker: &Worker) -> Result<(), String> {
        if self.bytes.len() < CHARGED_FROM && self.beginning == Beginning::Kept {
            return Ok(());
        }
        if self.is_push() {
            let len = self.bytes.len();
            return if len > PUSH_MAX { Err(format!("sent a push of more than {PUSH_MAX} bytes")) } else { Ok(()) };
        }
        let Some(session) = front_session(backend) else { return Err("sent a reply without a request".into()) };
        let limits = &worker.config.limits;
        let reply_max = limits.reply_max;
        let kept = self.pieces.len() + self.bytes.len();
        if self.beginning != Beginning::PassedOn && kept > reply_max && !session.is_closed() {
            session.close_for_reply(worker, kept);
        }
        if session.is_closed() {
            if backend.is_dedicated() {
                return Err("has a reply for a client that is gone".into());
            }
            self.beginning = Beginning::Discarded;
            self.pieces = Pieces::default();
            self.discarded += self.take_scanned().len() + self.scanner.shorten(&mut self.bytes);
            if self.discarded > limits.discarded_max {
                return Err(format!("sent a reply without end: {} bytes of it were discarded", self.discarded));
            }
        } else if self.may_pass_on(backend, worker) {
            if self.beginning != Beginning::PassedOn {
                session.begin_stream(backend.weak_self.clone());
                backend.passing_on.set(true);
                self.beginning = Beginning::PassedOn;
            }
            // From here on they are the session's.
            self.charge(backend, worker, self.bytes.capacity());
            self.passed_on += self.pieces.len();
            while let Some(piece) = self.pieces.pop() {
                session.pass_on(worker, piece);
            }
            let piece = self.take_scanned();
            self.passed_on += piece.len();
            session.pass_on(worker, piece);
            worker.flush_replied();
        } else {
            let piece = self.take_scanned();
            self.pieces.push(piece);
            if !self.pieces.is_empty() {
                self.beginning = Beginning::InPieces;
            }
        }
        self.charge(backend, worker, self.bytes.capacity() + self.pieces.memory());
        Ok(())
    }

    /// Whether it is a push, which nobody waits for: it stays in `bytes`. (Later, `bytes` may begin with any byte of a value.)
    fn is_push(&self) -> bool {
        self.is_kept() && self.bytes.first() == Some(&b'>')
    }

    /// Removes the first of `bytes`, which the scanner does not need any more.
    fn take_scanned(&mut self) -> Vec<u8> {
        let len = self.scanner.forget(&self.bytes);
        if len == 0 {
            // A long line: it is scanned as a whole.
            return Vec::new();
        }
        let rest = if len == self.bytes.len() { Vec::new() } else { self.bytes[len..].to_vec() };
        let mut scanned = std::mem::replace(&mut self.bytes, rest);
        scanned.truncate(len);
        scanned
    }

    /// Whether the oldest reply can be passed on before it is complete: nobody else waits behind it, its client awaits
    /// no other reply first, and check 2 lets it pass. With `min-acks`, the reply to a write waits for replicas.
    fn may_pass_on(&self, backend: &Backend, worker: &Worker) -> bool {
        if self.beginning == Beginning::PassedOn {
            return true;
        }
        if !backend.is_dedicated() || backend.replica {
            return false;
        }
        let confirm = backend.product.min_acks.get() > 0;
        let confirm_reads = confirm && backend.product.confirm_reads.get();
        let inflight = backend.inflight.borrow();
        let Some(InFlight { requester: Requester::Session(session, ticket), .. }) = inflight.front() else {
            return false;
        };
        inflight.front().is_some_and(|entry| {
            let waits_for_replicas = confirm_reads || (confirm && entry.is_write);
            !waits_for_replicas && ReplyCheck::new(worker, &backend.product).passes(entry, &backend.product)
        }) && session.is_next(*ticket)
    }

    /// Whether the client has not read what was passed on to it: then the rest of the reply stays in the socket. While a
    /// hold waits for requests in flight, which may be behind this one, the client's speed does not matter.
    pub(super) fn waits_for_client(&self, backend: &Backend, worker: &Worker) -> bool {
        self.beginning == Beginning::PassedOn
            && !worker.holds.borrow().undrained()
            && front_session(backend).is_some_and(|session| !session.is_closed() && session.unread() > STREAM_MAX)
    }

    /// Charges the incomplete reply with `bytes` to the session that waits for it.
    fn charge(&mut self, backend: &Backend, worker: &Worker, bytes: usize) {
        if bytes == self.charged {
            return;
        }
        if let Some(session) = front_session(backend) {
            session.charge_incoming(worker, self.charged, bytes);
            self.charged = bytes;
        }
    }

    /// Called when the oldest reply is complete, before its entry is removed: returns what became of its beginning. If it
    /// is in pieces, [`complete`](Self::complete) returns them.
    #[inline]
    pub(super) fn end(&mut self, backend: &Backend, worker: &Worker) -> Beginning {
        if self.charged > 0 || self.beginning != Beginning::Kept {
            self.settle(backend, worker);
        }
        std::mem::take(&mut self.beginning)
    }

    #[cold]
    fn settle(&mut self, backend: &Backend, worker: &Worker) {
        self.charge(backend, worker, 0);
        self.discarded = 0;
        backend.passing_on.set(false);
        if let Some(session) = front_session(backend) {
            session.end_stream();
        }
    }

    /// Called when the connection has ended: a client that has the beginning of a reply cannot get anything else.
    pub(super) fn break_off(&mut self, backend: &Backend, worker: &Worker) {
        if self.beginning == Beginning::PassedOn
            && let Some(session) = front_session(backend)
        {
            tracing::info!(client = %session.addr, server = %backend.addr, "closed a client in the middle of a reply");
            count(&worker.stats.broken_replies);
            session.kill();
        }
        self.end(backend, worker);
        self.pieces = Pieces::default();
    }

    /// Called when a reply of which the beginning was passed on is complete: returns the number of bytes of the beginning.
    pub(super) fn take_passed_on(&mut self) -> usize {
        std::mem::take(&mut self.passed_on)
    }

    /// The pieces of the oldest reply and `rest`, its last bytes.
    pub(super) fn complete(&mut self, rest: &[u8]) -> Pieces {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.append(rest);
        pieces
    }
}

fn front_session(backend: &Backend) -> Option<Rc<Session>> {
    Some(backend.inflight.borrow().front()?.requester.session().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_complete_is_not_copied_with_each_read() {
        let mut reply = IncompleteReply::default();
        reply.bytes.reserve_exact(1000);
        reply.bytes.extend_from_slice(b"+a long line");
        assert_eq!(reply.scanner.scan(&reply.bytes), Ok(None));
        let before = (reply.bytes.as_ptr(), reply.bytes.capacity());
        assert_eq!(reply.take_scanned(), b"");
        assert_eq!((reply.bytes.as_ptr(), reply.bytes.capacity()), before);
    }

    #[test]
    fn the_rest_of_a_value_is_no_push_whatever_it_begins_with() {
        let mut reply = IncompleteReply { bytes: b">>>".to_vec(), ..IncompleteReply::default() };
        assert!(reply.is_push());
        for beginning in [Beginning::InPieces, Beginning::PassedOn, Beginning::Discarded] {
            reply.beginning = beginning;
            assert!(
                !reply.is_push(),
                "{beginning:?}: it would be kept until it is complete, although nobody waits for it"
            );
        }
    }
}
