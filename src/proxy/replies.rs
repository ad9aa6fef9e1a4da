//! Ordered reply queue of one client: replies arrive in any order and leave in the order of the requests.
//! Knows nothing of sockets, routes or commands.

use std::collections::VecDeque;

use super::pieces::{PIECE, Pieces};

/// Identifies a request of a session until it is answered. Wraps around; a session never has 2^32 requests open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u32);

#[derive(Debug)]
enum Slot {
    Waiting,
    /// Waiting, and the client wants no reply (`CLIENT REPLY OFF` or `SKIP`).
    Muted,
    Ready(Vec<u8>),
    /// In a box, so that the usual slots are small.
    ReadyInPieces(Box<Pieces>),
}

/// The replies of one session, awaited and ready.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Ticket of the first element of the queue.
    base: u32,
    queue: VecDeque<Slot>,
    /// Bytes of replies in the queue that are ready but follow an awaited one.
    stored: usize,
    /// Bytes of memory that they have allocated beyond that.
    unused: usize,
    /// What is written to the socket first.
    out: Vec<u8>,
    /// Number of bytes of `out` that were written to the socket.
    sent: usize,
    /// What is written behind `out`: empty unless the client reads slowly or replies are large.
    behind: Pieces,
}

/// Capacity above which an empty queue is freed: 1 KB, so that idle clients cost little.
const KEEP_SLOTS: usize = 32;

/// Sent bytes from which on it is worth moving the unsent ones to the front.
const COMPACT_FROM: usize = 64 * 1024;

/// Bytes that `out` may reach by additions; what is more goes behind it.
const OUT_MAX: usize = 256 * 1024;

/// Bytes that a place in the queue may have so that the next reply that is known at once shares it: the commands of a pipelined
/// transaction need one allocation, and a place is still no more than some requests.
const SHARED_MAX: usize = 128;

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

    /// Whether the reply for `ticket` is the next to be sent.
    pub(super) fn is_next(&self, ticket: Ticket) -> bool {
        ticket.0 == self.base && !self.queue.is_empty()
    }

    /// Whether nothing was asked behind the request with `ticket`.
    pub(super) fn is_last(&self, ticket: Ticket) -> bool {
        ticket.0.wrapping_sub(self.base) as usize + 1 == self.queue.len()
    }

    /// Stores the beginning of the next reply; [`complete`](Self::complete) adds the rest.
    pub(super) fn begin(&mut self, piece: Vec<u8>) {
        if matches!(self.queue.front(), Some(Slot::Waiting)) {
            self.push_behind(piece);
        }
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
            self.append(reply);
        }
        self.answer_next();
    }

    /// Stores the reply for `ticket`, which is large or was put together from several, without a copy.
    pub(super) fn complete_in_pieces(&mut self, ticket: Ticket, reply: Pieces) {
        let index = ticket.0.wrapping_sub(self.base) as usize;
        match self.queue.get_mut(index) {
            None => debug_assert!(false, "a ticket is completed once"),
            Some(Slot::Muted) => self.complete(ticket, &[]),
            Some(slot) if index > 0 => {
                self.stored += reply.len();
                self.unused += reply.memory() - reply.len();
                *slot = Slot::ReadyInPieces(Box::new(reply));
            }
            Some(_) => {
                self.append_pieces(reply);
                self.answer_next();
            }
        }
    }

    /// Removes the first request, whose reply is stored, and stores the replies behind it that are ready.
    #[inline]
    fn answer_next(&mut self) {
        self.queue.pop_front();
        self.base = self.base.wrapping_add(1);
        if let Some(Slot::Ready(_) | Slot::ReadyInPieces(_)) = self.queue.front() {
            self.store_ready();
        }
    }

    fn store_ready(&mut self) {
        while let Some(Slot::Ready(_) | Slot::ReadyInPieces(_)) = self.queue.front() {
            let Some(slot) = self.queue.pop_front() else { return };
            self.base = self.base.wrapping_add(1);
            match slot {
                Slot::Ready(reply) => {
                    self.stored -= reply.len();
                    if reply.len() < PIECE {
                        self.append(&reply);
                    } else {
                        self.push_behind(reply);
                    }
                }
                Slot::ReadyInPieces(reply) => {
                    self.stored -= reply.len();
                    self.unused -= reply.memory() - reply.len();
                    self.append_pieces(*reply);
                }
                Slot::Waiting | Slot::Muted => {}
            }
        }
    }

    fn append_pieces(&mut self, mut reply: Pieces) {
        while let Some(piece) = reply.pop() {
            self.push_behind(piece);
        }
    }

    /// Adds a reply that is known at once, behind the replies to all earlier requests.
    #[inline]
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.queue.is_empty() && self.behind.is_empty() && self.out.len() < OUT_MAX {
            return write(&mut self.out);
        }
        if let Some(Slot::Ready(last)) = self.queue.back_mut()
            && last.len() < SHARED_MAX
        {
            let before = last.len();
            write(last);
            self.stored += last.len() - before;
            return;
        }
        let mut reply = Vec::new();
        write(&mut reply);
        if self.queue.is_empty() {
            self.append(&reply);
        } else {
            self.stored += reply.len();
            self.queue.push_back(Slot::Ready(reply));
        }
    }

    /// Adds bytes to what is written to the socket.
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        if self.behind.is_empty() && self.out.len() + bytes.len() <= OUT_MAX {
            self.out.extend_from_slice(bytes);
        } else {
            self.append_behind(bytes);
        }
    }

    #[cold]
    fn append_behind(&mut self, bytes: &[u8]) {
        // `out` is empty only if nothing is behind it.
        if self.out.is_empty() {
            self.out.extend_from_slice(bytes);
        } else {
            self.behind.append(bytes);
        }
    }

    fn push_behind(&mut self, piece: Vec<u8>) {
        if self.out.is_empty() && piece.len() >= PIECE / 2 {
            self.out = piece;
        } else if self.out.is_empty() {
            self.out.extend_from_slice(&piece);
        } else {
            self.behind.push(piece);
        }
    }

    /// Number of requests whose reply is not in `out` yet.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Number of requests whose reply has reached `out`, modulo 2^32. (Replies that were known at once count only if
    /// they waited.)
    #[inline]
    pub(super) fn answered(&self) -> u32 {
        self.base
    }

    /// The bytes to write to the socket next; empty if there are none.
    #[inline]
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// Bytes of replies that the client has not read yet.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.out.len() - self.sent + self.behind.len() + self.stored
    }

    /// Bytes of memory that it has allocated for replies.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.out.capacity() + self.behind.memory() + self.stored + self.unused
    }

    /// Records that the first `n` bytes of [`unsent`](Self::unsent) were written.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            if !self.behind.is_empty() || self.out.capacity() > OUT_MAX {
                self.next_piece();
            }
        } else if self.sent >= COMPACT_FROM && self.sent > self.out.len() / 2 {
            // `out` of a client that is always slightly behind is never empty: free the bytes that were sent.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Goes on with the next piece when `out` was written.
    #[cold]
    fn next_piece(&mut self) {
        self.out = self.behind.pop().unwrap_or_default();
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
    fn large_replies_leave_in_order_and_free_their_memory() {
        let mut replies = Replies::default();
        let (first, second, third) = (replies.open(false), replies.open(false), replies.open(false));
        let text = |byte: u8, len: usize| vec![byte; len];
        replies.complete(third, &text(b'3', 100));
        replies.complete(second, &text(b'2', 3 * PIECE));
        replies.complete(first, &text(b'1', OUT_MAX + 1));
        replies.push(|out| out.extend_from_slice(b"local"));
        let total = OUT_MAX + 1 + 3 * PIECE + 100 + 5;
        assert_eq!((replies.held(), replies.waiting()), (total, 0));
        let mut got = Vec::new();
        while replies.held() > 0 {
            let n = replies.unsent().len().min(10_000);
            assert!(n > 0, "there is always something to write");
            got.extend_from_slice(&replies.unsent()[..n]);
            replies.advance(n);
        }
        let want = [text(b'1', OUT_MAX + 1), text(b'2', 3 * PIECE), text(b'3', 100), b"local".to_vec()].concat();
        assert!(got == want);
        assert!(replies.memory() <= OUT_MAX && replies.behind.memory() == 0, "{}", replies.memory());
    }

    #[test]
    fn replies_in_pieces_leave_in_order_and_are_not_sent_to_muted_requests() {
        let mut replies = Replies::default();
        let (first, second, third) = (replies.open(false), replies.open(true), replies.open(false));
        let pieces = |text: &[u8]| {
            let mut pieces = Pieces::default();
            pieces.append(b"");
            pieces.push(text.to_vec());
            pieces.append(b".");
            pieces
        };
        replies.complete_in_pieces(third, pieces(b"third"));
        replies.complete_in_pieces(second, pieces(b"second"));
        assert_eq!((replies.held(), replies.waiting()), (6, 3));
        replies.complete_in_pieces(first, pieces(b"first"));
        let mut got = Vec::new();
        while replies.held() > 0 {
            got.extend_from_slice(replies.unsent());
            replies.advance(replies.unsent().len());
        }
        assert_eq!((got.as_slice(), replies.waiting()), (&b"first.third."[..], 0));
    }

    #[test]
    fn small_replies_that_are_known_at_once_share_a_place_behind_an_awaited_one() {
        let mut replies = Replies::default();
        let first = replies.open(false);
        for _ in 0..30 {
            replies.push(|out| out.extend_from_slice(b"+QUEUED\r\n"));
        }
        let second = replies.open(false);
        replies.push(|out| out.extend_from_slice(b"+OK\r\n"));
        assert_eq!((replies.waiting(), replies.held()), (5, 275));
        assert!(!replies.is_last(second) && replies.is_next(first));
        replies.complete(second, b"2");
        replies.complete(first, b"1");
        let want = [b"1".as_slice(), &b"+QUEUED\r\n".repeat(30), b"2", b"+OK\r\n"].concat();
        assert_eq!((replies.unsent(), replies.held(), replies.waiting()), (want.as_slice(), want.len(), 0));
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
