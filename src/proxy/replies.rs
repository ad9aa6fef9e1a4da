//! Ordered reply queue of one client: replies complete in any order and leave in request order.
//! Knows nothing of sockets, routes or commands.

use std::collections::VecDeque;

/// Names a request of a session until it is answered. Wraps around; a session never has that many open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u32);

#[derive(Debug)]
enum Slot {
    Waiting,
    /// Waiting, and the client wants no reply (`CLIENT REPLY OFF` or `SKIP`).
    Muted,
    Ready(Vec<u8>),
}

/// Replies of one session, waiting and ready.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Ticket of the queue's front.
    base: u32,
    queue: VecDeque<Slot>,
    /// Bytes in the queue that are ready behind one that waits.
    stored: usize,
    out: Vec<u8>,
    /// How much of `out` the socket has taken.
    sent: usize,
}

/// A queue or buffer that has grown beyond this is given back when it is empty.
const KEEP_SLOTS: usize = 32;

/// Sent bytes below this are not worth moving the others for.
const COMPACT_FROM: usize = 64 * 1024;

impl Replies {
    /// A place for the reply of the next request.
    #[inline]
    pub(super) fn open(&mut self, muted: bool) -> Ticket {
        let ticket = Ticket(self.base.wrapping_add(self.queue.len() as u32));
        self.queue.push_back(if muted { Slot::Muted } else { Slot::Waiting });
        ticket
    }

    /// Whether the reply of `ticket`, or one before it, is not there yet.
    pub(super) fn is_open(&self, ticket: Ticket) -> bool {
        (ticket.0.wrapping_sub(self.base) as usize) < self.queue.len()
    }

    /// The reply of `ticket` is there.
    #[inline]
    pub(super) fn complete(&mut self, ticket: Ticket, reply: &[u8]) {
        let index = ticket.0.wrapping_sub(self.base) as usize;
        let Some(slot) = self.queue.get_mut(index) else {
            debug_assert!(false, "a ticket is completed once");
            return;
        };
        let muted = matches!(slot, Slot::Muted);
        if index > 0 {
            *slot = Slot::Ready(if muted { Vec::new() } else { reply.to_vec() });
            self.stored += if muted { 0 } else { reply.len() };
            return;
        }
        if !muted {
            self.out.extend_from_slice(reply);
        }
        self.queue.pop_front();
        self.base = self.base.wrapping_add(1);
        while let Some(Slot::Ready(reply)) = self.queue.front() {
            self.out.extend_from_slice(reply);
            self.stored -= reply.len();
            self.queue.pop_front();
            self.base = self.base.wrapping_add(1);
        }
    }

    /// A reply that is known at once, behind all that were asked for before.
    #[inline]
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.queue.is_empty() {
            write(&mut self.out);
        } else {
            let mut reply = Vec::new();
            write(&mut reply);
            self.stored += reply.len();
            self.queue.push_back(Slot::Ready(reply));
        }
    }

    /// Requests without their reply in `out`.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What is to be written.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// Bytes held for the client.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.out.len() - self.sent + self.stored
    }

    /// The socket took `n` bytes of [`unsent`](Self::unsent).
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent >= COMPACT_FROM && self.sent > self.out.len() / 2 {
            // A client that is always a little behind never empties it: what it has taken must not pile up.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Lends a buffer when there is none.
    #[inline]
    pub(super) fn lend_buffer(&mut self, buffer: impl FnOnce() -> Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = buffer();
        }
    }

    /// Gives the buffer back when nothing is in it and nothing is awaited: a client at rest owns none.
    #[inline]
    pub(super) fn take_back(&mut self) -> Option<Vec<u8>> {
        if !self.queue.is_empty() || !self.out.is_empty() || self.out.capacity() == 0 {
            return None;
        }
        if self.queue.capacity() > KEEP_SLOTS {
            self.queue = VecDeque::new();
        }
        Some(std::mem::take(&mut self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_always_behind_costs_only_what_waits() {
        let mut replies = Replies::default();
        let reply = vec![b'x'; 10_000];
        replies.push(|out| out.extend_from_slice(&reply));
        for _ in 0..1000 {
            replies.push(|out| out.extend_from_slice(&reply));
            replies.advance(reply.len());
        }
        assert_eq!(replies.held(), reply.len());
        assert!(replies.out.capacity() < 4 * COMPACT_FROM, "{}", replies.out.capacity());
    }

    #[test]
    fn leaves_in_request_order() {
        let mut replies = Replies::default();
        let (a, b, c) = (replies.open(false), replies.open(false), replies.open(true));
        replies.push(|out| out.extend_from_slice(b"local"));
        replies.complete(b, b"b");
        replies.complete(c, b"muted");
        assert_eq!((replies.unsent(), replies.held(), replies.waiting()), (&b""[..], 6, 4));
        replies.complete(a, b"a");
        assert_eq!((replies.unsent(), replies.held(), replies.waiting()), (&b"ablocal"[..], 7, 0));
        replies.advance(2);
        assert_eq!(replies.unsent(), b"local");
        assert!(replies.take_back().is_none());
        replies.advance(5);
        assert!(replies.take_back().is_some());
        let d = replies.open(false);
        replies.complete(d, b"d");
        assert_eq!(replies.unsent(), b"d");
    }
}
