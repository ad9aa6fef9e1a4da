//! What of a client connection others hold on to: those who answer it, wake it or end it.
//! Knows nothing of servers or of how requests are read; that is its task's affair (`task`).

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
    /// In the worker's list of sessions to be flushed.
    dirty: Cell<bool>,
    /// The socket takes no more for now; the task waits for it.
    blocked: Cell<bool>,
    /// At a limit; the task is to be woken when a reply has left.
    stalled: Cell<bool>,
    /// Its requests go over other connections from now on: nothing more is read until all of before is answered.
    settling: Cell<bool>,
    /// Nothing more is read; closed when everything is answered and written.
    closing: Cell<bool>,
    /// Over.
    closed: Cell<bool>,
    /// Since when its next request is parked, in ticks.
    pub(super) parked_at: Cell<Option<u32>>,
    /// A hold has ended or the time is over: look at the parked request again.
    unparked: Cell<bool>,
    /// Its last write, where its product wants it to find what it has written.
    wrote: Cell<Wrote>,
}

/// The last write of a session.
#[derive(Clone, Copy, Debug, Default)]
enum Wrote {
    #[default]
    Nothing,
    /// It was not answered yet when last looked.
    Asked(Ticket),
    /// It was answered before this moment, nanoseconds of `CLOCK_BOOTTIME`.
    Before(u64),
}

impl Session {
    /// A place for a reply.
    pub(super) fn open(&self, muted: bool, len: usize) -> Ticket {
        self.queued.set(self.queued.get() + len);
        self.replies.borrow_mut().open(muted)
    }

    /// A write was sent.
    #[inline]
    pub(super) fn wrote(&self, ticket: Ticket) {
        self.wrote.set(Wrote::Asked(ticket));
    }

    /// A moment before which all that it has written was answered, so that a server which has what the primary had then
    /// has it, too; 0: it has written nothing. `None`: a write is not answered yet.
    pub(super) fn wrote_ns(&self, wanted: bool, now_ns: u64) -> Option<u64> {
        if !wanted {
            return Some(0);
        }
        match self.wrote.get() {
            Wrote::Nothing => Some(0),
            Wrote::Before(ns) => Some(ns),
            Wrote::Asked(ticket) if self.replies.borrow().is_open(ticket) => None,
            Wrote::Asked(_) => {
                // It came some time before now. Nobody need note when: later than it did is right, too.
                self.wrote.set(Wrote::Before(now_ns));
                Some(now_ns)
            }
        }
    }

    /// Over: nothing is delivered any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The reply to a request is known; it is written with the others of this turn.
    #[inline]
    pub(super) fn complete(self: Rc<Self>, worker: &Worker, ticket: Ticket, reply: &[u8], len: usize) {
        if self.closed.get() {
            return;
        }
        let mut replies = self.replies.borrow_mut();
        if replies.held() > worker.config.limits.session_output_max {
            drop(replies);
            tracing::info!(client = %self.addr, "closed: it does not read its replies");
            worker.stats.slow_clients.set(worker.stats.slow_clients.get() + 1);
            self.kill();
            return;
        }
        replies.lend_buffer(|| worker.lend_buffer());
        replies.complete(ticket, reply);
        drop(replies);
        self.queued.set(self.queued.get() - len);
        if !self.dirty.replace(true) {
            worker.touched.borrow_mut().push(self);
        }
    }

    /// Writes what is ready, once. What the socket does not take is the task's affair.
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
        if let Some(buffer) = replies.take_back() {
            worker.return_buffer(buffer);
        }
        drop(replies);
        if self.stalled.get() || self.closing.get() {
            self.wake();
        }
    }

    /// Ends it without waiting for anything.
    pub(super) fn kill(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// Ends it when everything is answered.
    pub(super) fn close_when_answered(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Looks at its parked request again.
    pub(super) fn unpark(&self) {
        self.unparked.set(true);
        self.wake();
    }

    /// SELECT or HELLO has changed over which connections its requests go. What went before is answered first: nothing
    /// orders two connections, and a client must find what it has just written.
    pub(super) fn forget_backend_set(&self) {
        let client = self.client.borrow();
        let mut backend_set = self.backend_set.borrow_mut();
        // One that fits still is kept: forgotten here, the next change would not know where requests are in flight.
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
        replies.lend_buffer(|| worker.lend_buffer());
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

    fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Waits for the socket to take more, and writes.
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

    /// The flush at the end of the session's own turn: what it answered itself leaves at once.
    fn flush_quietly(&self, worker: &Worker, cx: &mut Context<'_>) {
        // Without waking itself: its task is what is running.
        let waker = self.waker.borrow_mut().take();
        if !self.dirty.get() {
            self.flush(worker);
        }
        *self.waker.borrow_mut() = waker;
        self.poll_blocked(worker, cx);
    }
}
