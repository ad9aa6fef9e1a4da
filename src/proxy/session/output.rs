//! The replies of a session on their way to its client. Knows nothing of who answers.

use std::{
    io,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use super::{
    Session,
    window::{LARGE_REPLY, Window},
};
use crate::proxy::{backend::Backend, counters::count, pieces::Pieces, replies::Ticket, worker::Worker};

/// Bytes that are written to a client at once; the rest follows in turns of the session's own task.
const WRITTEN_AT_ONCE: usize = 128 * 1024;

/// Bytes of replies that are not held back for a later one.
const HELD_BACK_MAX: usize = 16 * 1024;

/// How much was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    All,
    /// The socket takes no more now.
    UntilFull,
    /// As much as is written at once; there is more.
    AtOnce,
}

impl Session {
    /// Stores the reply to a request; it is written together with the other replies of this turn.
    #[inline]
    pub(in crate::proxy) fn complete(self: Rc<Self>, worker: &Worker, ticket: Ticket, reply: &[u8], len: usize) {
        if self.closed.get() {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        replies.ensure_buffer(|| worker.buffers.take_reply());
        replies.complete(ticket, reply);
        drop(replies);
        self.completed(worker, reply.len(), len);
    }

    /// The same as [`complete`](Self::complete) for a reply in pieces.
    pub(in crate::proxy) fn complete_in_pieces(
        self: Rc<Self>,
        worker: &Worker,
        ticket: Ticket,
        reply: Pieces,
        len: usize,
    ) {
        if self.closed.get() {
            return;
        }
        let reply_len = reply.len();
        self.replies.borrow_mut().complete_in_pieces(ticket, reply);
        self.completed(worker, reply_len, len);
    }

    #[inline]
    fn completed(self: Rc<Self>, worker: &Worker, reply_len: usize, len: usize) {
        self.queued.set(self.queued.get() - len);
        if reply_len >= LARGE_REPLY {
            self.note_large_reply(worker, reply_len);
        }
        if !self.dirty.replace(true) {
            worker.replied.borrow_mut().push(self);
        }
    }

    /// Records that the last reply was large. `len`: its length, with the bytes that were passed on before.
    #[cold]
    pub(in crate::proxy) fn note_large_reply(&self, worker: &Worker, len: usize) {
        let large_message = len >= worker.config.limits.large_message;
        self.window.set(Window::after_large(self.replies.borrow().answered(), large_message));
        if large_message {
            self.use_dedicated(worker);
        }
    }

    /// Writes the ready replies with one `write()`. If the socket's buffer is full or there is more than
    /// [`WRITTEN_AT_ONCE`], the task writes the rest.
    #[inline]
    pub(in crate::proxy) fn flush(self: &Rc<Self>, worker: &Worker) {
        self.dirty.set(false);
        if self.closed.get() {
            return;
        }
        if !self.blocked.get() {
            self.write(worker, true);
            if self.blocked.get() || self.closed.get() {
                self.wake();
            }
        }
        let mut replies = self.replies.borrow_mut();
        if self.blocked.get() && replies.held() > self.output_max(worker) && !self.slow.replace(true) {
            worker.slow.borrow_mut().push(self.clone());
        }
        if let Some(buffer) = replies.release_buffer() {
            worker.buffers.return_reply(buffer);
            self.forget_script_call(worker);
        }
        drop(replies);
        self.recharge(worker);
        if self.dedicated_since.get().is_some() {
            self.wake_stream();
            self.return_dedicated();
        }
        if self.watch_is_over.get() {
            self.return_watch();
        }
        if self.stalled.get() || self.closing.get() {
            self.wake();
        }
    }

    /// Writes until the socket's buffer is full, or [`WRITTEN_AT_ONCE`] bytes. `first`: it was not full before.
    #[inline]
    fn write(&self, worker: &Worker, first: bool) -> Written {
        let mut replies = self.replies.borrow_mut();
        let writer = self.writer.borrow();
        let Some(writer) = &*writer else { return Written::All };
        let mut left = WRITTEN_AT_ONCE;
        let mut took = first;
        while !replies.unsent().is_empty() {
            let unsent = replies.unsent();
            let bytes = &unsent[..unsent.len().min(left)];
            let len = bytes.len();
            let written = match writer.try_write(bytes) {
                Ok(n) => {
                    self.product.usage(worker).sent(n);
                    n
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.closed.set(true);
                    return Written::All;
                }
            };
            replies.advance(written);
            if let Some(quota) = &*self.product.quota.borrow() {
                quota.charge(written);
            }
            took |= written > 0;
            left -= written;
            if written < len || (left == 0 && !replies.unsent().is_empty()) {
                self.blocked.set(true);
                if took {
                    self.took_at.set(worker.clock.tick());
                }
                return if written < len { Written::UntilFull } else { Written::AtOnce };
            }
        }
        Written::All
    }

    /// Whether the reply for `ticket` is the next to be sent.
    pub(in crate::proxy) fn is_next(&self, ticket: Ticket) -> bool {
        self.replies.borrow().is_next(ticket)
    }

    /// Bytes of replies that its client has not read.
    pub(in crate::proxy) fn unread(&self) -> usize {
        self.replies.borrow().held()
    }

    /// Its next reply is passed on while it arrives from `backend`.
    pub(in crate::proxy) fn begin_stream(&self, backend: Weak<Backend>) {
        *self.stream.borrow_mut() = Some(backend);
    }

    /// Stores a part of its next reply.
    pub(in crate::proxy) fn pass_on(self: &Rc<Self>, worker: &Worker, piece: Vec<u8>) {
        let mut replies = self.replies.borrow_mut();
        replies.begin(piece);
        if !self.dirty.replace(true) {
            worker.replied.borrow_mut().push(self.clone());
        }
    }

    /// No reply is passed on any more.
    pub(in crate::proxy) fn end_stream(&self) {
        self.stream.borrow_mut().take();
    }

    /// Lets the backend of a reply that is passed on read more.
    #[cold]
    pub(super) fn wake_stream(&self) {
        if let Some(backend) = self.stream.borrow().as_ref().and_then(Weak::upgrade) {
            backend.wake();
        }
    }

    /// Whether its client does not read and its output is above the limit: it stays in the worker's list of slow
    /// sessions. Closes it if its client has read nothing for too long.
    pub(in crate::proxy) fn check_slow(&self, worker: &Worker) -> bool {
        let limits = &worker.config.limits;
        let held = self.replies.borrow().held();
        if self.closed.get() || !self.blocked.get() || held <= self.output_max(worker) {
            self.slow.set(false);
            return false;
        }
        if worker.clock.age(self.took_at.get()) < limits.client_stalled_max {
            return true;
        }
        if self.read_ahead_full.get() {
            tracing::info!(client = %self.addr, unread_bytes = held, limit = limits.read_ahead_max,
                "closed a client that sends too many requests before it reads the replies");
            count(&worker.stats.long_pipelines);
        } else {
            tracing::info!(client = %self.addr, unread_bytes = held, "closed a client that does not read its replies");
            count(&worker.stats.slow_clients);
        }
        self.kill();
        false
    }

    /// Bytes that its client may leave unread for any time.
    fn output_max(&self, worker: &Worker) -> usize {
        match &*self.stream.borrow() {
            None => worker.config.limits.session_output_max,
            // The rest of the reply waits in a connection to the server.
            Some(_) => 0,
        }
    }

    /// Writes when the socket becomes writable. Returns whether there is more to write and the socket may take it.
    pub(super) fn poll_blocked(self: &Rc<Self>, worker: &Worker, cx: &mut Context<'_>) -> bool {
        while self.blocked.get() {
            {
                let writer = self.writer.borrow();
                let Some(writer) = &*writer else { return false };
                match writer.as_ref().poll_write_ready(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(())) => self.blocked.set(false),
                    Poll::Ready(Err(_)) => {
                        self.closed.set(true);
                        return false;
                    }
                }
            }
            let written = self.write(worker, false);
            self.flush(worker);
            if written == Written::AtOnce {
                return true;
            }
        }
        false
    }

    /// Writes the ready replies at the end of the session's own turn.
    pub(super) fn flush_quietly(self: &Rc<Self>, worker: &Worker) {
        // Its own task is running, so it must not wake itself.
        let waker = self.waker.borrow_mut().take();
        if !self.dirty.get() && !self.awaits_exec() {
            self.flush(worker);
        }
        *self.waker.borrow_mut() = waker;
    }

    /// Whether the last request is an EXEC at a server. The replies to the commands before it are written together with the next
    /// reply of a server, as by a Redis: a write costs more than the rest of a transaction.
    fn awaits_exec(&self) -> bool {
        self.last_exec.get().is_some_and(|exec| {
            let replies = self.replies.borrow();
            replies.is_last(exec) && replies.unsent().len() < HELD_BACK_MAX
        })
    }
}
