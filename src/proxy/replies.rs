//! Ordered reply queue of one client: replies arrive in any order and leave in the order of the requests.
//! Knows nothing of sockets, routes or commands.

use std::collections::VecDeque;

/// Identifies a request of a session until it is answered. Wraps around; a session never has 2^32 requests open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u32);

#[derive(Debug)]
enum Slot {
    Waiting,
    /// Waiting, and the client wants no reply (`CLIENT REPLY OFF` or `SKIP`).
    Muted,
    Ready(Vec<u8>),
}

/// The replies of one session, awaited and ready.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Ticket of the first element of the queue.
    base: u32,
    queue: VecDeque<Slot>,
    /// Bytes of replies in the queue that are ready but follow an awaited one.
    stored: usize,
    out: Vec<u8>,
    /// Number of bytes of `out` that were written to the socket.
    sent: usize,
}

/// Capacity above which an empty queue is freed: 1 KB, so that idle clients cost little.
const KEEP_SLOTS: usize = 32;

/// Sent bytes from which on it is worth moving the unsent ones to the front.
const COMPACT_FROM: usize = 64 * 1024;

impl Replies {
    /// Reserves a place for the reply to the next request.
    #[inline]
    pub(super) fn open(&mut self, muted: bool) -> Ticket {
        let ticket = Ticket(self.base.wrapping_add(self.queue.len() as u32));
        self.queue.push_back(if muted { Slot::Muted } else { Slot::Waiting });
        ticket
    }

    /// Whether the reply for `ticket`, or one before it, has not arrived yet.
    pub(super) fn is_open(&self, ticket: Ticket) -> bool {
        (ticket.0.wrapping_sub(self.base) as usize) < self.queue.len()
    }

    /// Stores the reply for `ticket`.
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

    /// Adds a reply that is known at once, behind the replies to all earlier requests.
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

    /// Number of requests whose reply is not in `out` yet.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The bytes to write to the socket.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// Bytes of replies that the client has not read yet.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.out.len() - self.sent + self.stored
    }

    /// Records that the first `n` bytes of [`unsent`](Self::unsent) were written.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent >= COMPACT_FROM && self.sent > self.out.len() / 2 {
            // `out` of a client that is always slightly behind is never empty: free the bytes that were sent.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Takes a buffer from `buffer` if it has none.
    #[inline]
    pub(super) fn ensure_buffer(&mut self, buffer: impl FnOnce() -> Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = buffer();
        }
    }

    /// Returns the buffer if it is empty and no reply is awaited: an idle client owns none.
    #[inline]
    pub(super) fn release_buffer(&mut self) -> Option<Vec<u8>> {
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
    fn memory_of_a_slow_client_is_bounded_by_its_unsent_replies() {
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
    fn replies_leave_in_request_order() {
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
        assert!(replies.release_buffer().is_none());
        replies.advance(5);
        assert!(replies.release_buffer().is_some());
        let d = replies.open(false);
        replies.complete(d, b"d");
        assert_eq!(replies.unsent(), b"d");
    }
}
