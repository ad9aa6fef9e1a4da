//! The shared part of a client connection: its worker, backends and split commands answer it, wake it and close it.
//! Knows nothing of servers or of how requests are read; `task` reads them, and `request`
//! handles one.

mod request;
mod task;

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::net::tcp::OwnedWriteHalf;

pub(super) use task::SessionTask;

use super::{
    client::ClientState,
    product::{BackendSet, ProductView},
    replies::{Replies, Ticket},
    worker::Worker,
};

/// A client connection as its worker, its backends and its split commands see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) addr: SocketAddr,
    pub(super) product: Rc<ProductView>,
    pub(super) client: RefCell<ClientState>,
    writer: RefCell<Option<OwnedWriteHalf>>,
    replies: RefCell<Replies>,
    backend_set: RefCell<Option<Rc<BackendSet>>>,
    waker: RefCell<Option<Waker>>,
    /// Bytes of unanswered requests.
    queued: Cell<usize>,
    /// Whether it is in the worker's list of sessions to flush.
    dirty: Cell<bool>,
    /// Whether the socket's buffer is full; the task waits until it is writable.
    blocked: Cell<bool>,
    /// Whether it is at a limit; the task is woken when a reply has been written.
    stalled: Cell<bool>,
    /// Whether its backend set has changed and earlier requests are still unanswered: nothing is read until they are
    /// answered.
    settling: Cell<bool>,
    /// Whether nothing more is read; the session is closed when all requests are answered and the replies written.
    closing: Cell<bool>,
    /// Whether it is closed.
    closed: Cell<bool>,
    /// The tick at which its next request was parked.
    pub(super) parked_at: Cell<Option<u32>>,
    /// Whether the parked request is to be tried again: a hold has ended, or it was parked for too long.
    unparked: Cell<bool>,
    /// Its last write, if the product has `own_writes` set.
    last_write: Cell<LastWrite>,
}

/// The last write of a session.
#[derive(Clone, Copy, Debug, Default)]
enum LastWrite {
    #[default]
    None,
    /// It was not answered yet at the last check.
    Unanswered(Ticket),
    /// It was answered before this time, in nanoseconds of `CLOCK_BOOTTIME`.
    AnsweredBefore(u64),
}

impl Session {
    /// Reserves a place for the reply to a request of `len` bytes.
    pub(super) fn open(&self, muted: bool, len: usize) -> Ticket {
        self.queued.set(self.queued.get() + len);
        self.replies.borrow_mut().open(muted)
    }

    /// Records that a write was sent.
    #[inline]
    pub(super) fn note_write(&self, ticket: Ticket) {
        self.last_write.set(LastWrite::Unanswered(ticket));
    }

    /// A time before which all its writes were answered: a replica that has all data that the primary had at that time
    /// also has these writes. 0 if there were none. `None`: a write is not answered yet.
    pub(super) fn last_write_ns(&self, wanted: bool, now_ns: u64) -> Option<u64> {
        if !wanted {
            return Some(0);
        }
        match self.last_write.get() {
            LastWrite::None => Some(0),
            LastWrite::AnsweredBefore(ns) => Some(ns),
            LastWrite::Unanswered(ticket) if self.replies.borrow().is_open(ticket) => None,
            LastWrite::Unanswered(_) => {
                // The reply arrived before now. Its exact time is not needed, because any later time is correct, too.
                self.last_write.set(LastWrite::AnsweredBefore(now_ns));
                Some(now_ns)
            }
        }
    }

    /// Whether it is closed: no replies are delivered.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Stores the reply to a request; it is written together with the other replies of this turn.
    #[inline]
    pub(super) fn complete(self: Rc<Self>, worker: &Worker, ticket: Ticket, reply: &[u8], len: usize) {
        if self.closed.get() {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        if replies.held() > worker.config.limits.session_output_max {
            drop(replies);
            tracing::info!(client = %self.addr, "closed a client that does not read its replies");
            worker.stats.slow_clients.set(worker.stats.slow_clients.get() + 1);
            self.kill();
            return;
        }
        replies.ensure_buffer(|| worker.buffers.take_reply());
        replies.complete(ticket, reply);
        drop(replies);
        self.queued.set(self.queued.get() - len);
        if !self.dirty.replace(true) {
            worker.replied.borrow_mut().push(self);
        }
    }

    /// Writes the ready replies with one `write()`. If the socket's buffer is full, the task writes the rest.
    #[inline]
    pub(super) fn flush(&self, worker: &Worker) {
        self.dirty.set(false);
        if self.closed.get() {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        if !self.blocked.get() && !replies.unsent().is_empty() {
            let writer = self.writer.borrow();
            let Some(writer) = &*writer else { return };
            match writer.try_write(replies.unsent()) {
                Ok(n) => {
                    replies.advance(n);
                    if !replies.unsent().is_empty() {
                        self.blocked.set(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked.set(true),
                Err(_) => self.closed.set(true),
            }
            if self.blocked.get() || self.closed.get() {
                self.wake();
            }
        }
        if let Some(buffer) = replies.release_buffer() {
            worker.buffers.return_reply(buffer);
        }
        drop(replies);
        if self.stalled.get() || self.closing.get() {
            self.wake();
        }
    }

    /// Closes it at once.
    pub(super) fn kill(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// Closes it when all its requests are answered.
    pub(super) fn close_when_answered(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Lets its task try the parked request again.
    pub(super) fn unpark(&self) {
        self.unparked.set(true);
        self.wake();
    }

    /// Drops the backend set, because SELECT or HELLO changed the database or the version. Earlier requests must be
    /// answered first: nothing orders two connections, and a client must be able to read what it has just written.
    pub(super) fn forget_backend_set(&self) {
        let client = self.client.borrow();
        let mut backend_set = self.backend_set.borrow_mut();
        // Keep a set that still fits: without it, the next change would not know that requests are in flight.
        if backend_set
            .as_ref()
            .is_some_and(|backend_set| backend_set.db != client.db || backend_set.version != client.version)
        {
            *backend_set = None;
            self.settling.set(self.replies.borrow().waiting() > 0);
        }
    }

    pub(super) fn backend_set(&self) -> Rc<BackendSet> {
        let mut backend_set = self.backend_set.borrow_mut();
        backend_set
            .get_or_insert_with(|| {
                let client = self.client.borrow();
                self.product.backend_set(client.db, client.version)
            })
            .clone()
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn answer(&self, worker: &Worker, text: &dyn Fn(&mut Vec<u8>)) {
        let mut replies = self.replies.borrow_mut();
        replies.ensure_buffer(|| worker.buffers.take_reply());
        replies.push(text);
    }

    fn saturated(&self, worker: &Worker) -> bool {
        let limits = &worker.config.limits;
        let replies = self.replies.borrow();
        if self.settling.get() {
            self.settling.set(replies.waiting() > 0);
        }
        self.settling.get()
            || replies.waiting() >= limits.pipeline_max
            || self.queued.get() > limits.session_queued_max
            || replies.held() > limits.session_output_max / 4
    }

    fn register_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Writes when the socket becomes writable.
    fn poll_blocked(&self, worker: &Worker, cx: &mut Context<'_>) {
        while self.blocked.get() {
            {
                let writer = self.writer.borrow();
                let Some(writer) = &*writer else { return };
                match writer.as_ref().poll_write_ready(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => self.blocked.set(false),
                    Poll::Ready(Err(_)) => self.closed.set(true),
                }
            }
            self.flush(worker);
        }
    }

    /// Writes the ready replies at the end of the session's own turn.
    fn flush_quietly(&self, worker: &Worker, cx: &mut Context<'_>) {
        // Its own task is running, so it must not wake itself.
        let waker = self.waker.borrow_mut().take();
        if !self.dirty.get() {
            self.flush(worker);
        }
        *self.waker.borrow_mut() = waker;
        self.poll_blocked(worker, cx);
    }
}
