//! The shared part of a client connection: its worker, backends and split commands answer it, wake it and close it.
//! Knows nothing of servers or of how requests are read; `task` reads them, and `request`
//! handles one.

mod connections;
mod describe;
mod forward;
mod idle;
mod learnt;
mod memory;
mod observed;
mod outcome;
mod output;
mod pre_login;
mod request;
mod script;
mod task;
mod usage;
mod window;
mod written;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    os::fd::RawFd,
    rc::{Rc, Weak},
    task::{Context, Waker},
};

use tokio::net::tcp::OwnedWriteHalf;

use memory::SessionMemory;
pub(super) use observed::is_script_without_writes;
pub(super) use outcome::{Handled, SendTo};
use pre_login::PreLogin;
pub(super) use request::{CutOff, PARKED_TOO_LONG, PARKED_TOO_MUCH};
use script::ScriptCallCopy;
pub(super) use task::SessionTask;
use window::Window;
use written::Written;

use super::{
    backend::Backend,
    backend_set::BackendSet,
    blocking::BlockedCall,
    client::ClientState,
    product::ProductView,
    replies::{Replies, Ticket},
    transaction::Watch,
    worker::Worker,
};
use crate::commands::CommandNumber;

/// A client connection as its worker, its backends and its split commands see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) addr: SocketAddr,
    /// Where the client is connected to.
    laddr: SocketAddr,
    /// The file descriptor of its socket.
    fd: i32,
    /// The tick at which it connected.
    connected_at: u32,
    /// Bytes of requests that are read and not executed.
    unread: Cell<usize>,
    /// Whether its next request waits for the end of a pause.
    is_postponed: Cell<bool>,
    /// Whether it sees the requests of its product.
    pub(super) is_monitor: Cell<bool>,
    pub(super) product: Rc<ProductView>,
    pub(super) client: RefCell<ClientState>,
    writer: RefCell<Option<OwnedWriteHalf>>,
    replies: RefCell<Replies>,
    backend_set: RefCell<Option<Rc<BackendSet>>>,
    /// The keys that it watches, or its last watch until EXEC is answered.
    pub(super) watch: RefCell<Option<Watch>>,
    /// The connection for a WATCH that waits until it is known whether its server executes transactions.
    pub(super) probed_set: RefCell<Option<Rc<BackendSet>>>,
    /// Whether the watch has ended and its connection is to be returned.
    pub(super) watch_is_over: Cell<bool>,
    /// The tick of its last large message, if its requests use dedicated connections.
    dedicated_since: Cell<Option<u32>>,
    waker: RefCell<Option<Waker>>,
    /// Bytes of unanswered requests.
    queued: Cell<usize>,
    /// Whether it is in the worker's list of sessions to flush.
    dirty: Cell<bool>,
    /// Whether the task has to write: the socket's buffer was full, or there was more than is written at once.
    blocked: Cell<bool>,
    /// While `blocked`: the tick at which the socket last took bytes.
    took_at: Cell<u32>,
    /// Whether it is in the worker's list of sessions whose client does not read.
    slow: Cell<bool>,
    /// Whether its client reads nothing and has sent `read_ahead_max` bytes of requests that are not executed.
    read_ahead_full: Cell<bool>,
    /// How many requests may be unanswered.
    window: Cell<Window>,
    memory: SessionMemory,
    /// Of a reply that is passed on while it arrives: its backend, which waits until the client has read enough.
    stream: RefCell<Option<Weak<Backend>>>,
    /// Whether it is at a limit; the task is woken when a reply has been written.
    stalled: Cell<bool>,
    /// Whether its backend set has changed and earlier requests are still unanswered: nothing is read until they are
    /// answered.
    settling: Cell<bool>,
    /// Whether an operation is being executed, or the answer to a failed login is delayed: nothing is read until
    /// it is answered.
    pub(super) alone: Cell<bool>,
    /// Bytes of replies that the node itself gave in this turn.
    answered_in_turn: Cell<usize>,
    /// Whether nothing more is read; the session is closed when all requests are answered and the replies written.
    closing: Cell<bool>,
    /// Whether it is closed.
    closed: Cell<bool>,
    /// The last EXEC that was sent to a server.
    pub(super) last_exec: Cell<Option<Ticket>>,
    /// Whether a HIMPORT SET waits for what its connection is asked.
    pub(super) import_waits: Cell<bool>,
    /// Whether it is in the list of those that wait for the product's quota.
    pub(super) waits_for_quota: Cell<bool>,
    /// The tick at which its next request was parked.
    pub(super) parked_at: Cell<Option<u32>>,
    /// The tick at which it last read something, or was last seen at work.
    heard_at: Cell<u32>,
    /// Whether the parked request is to be tried again: a hold has ended, or it was parked for too long.
    unparked: Cell<bool>,
    pre_login: PreLogin,
    /// Its last EVALSHA, so that it can be repeated with the body.
    script_call: RefCell<Option<ScriptCallCopy>>,
    /// Its last write, if the product has `own_writes` set.
    last_write: Cell<LastWrite>,
    /// What it has written to.
    written: Written,
    /// Its call that blocks.
    blocked_call: RefCell<Option<Rc<BlockedCall>>>,
    /// The number of the command that is handled, or was handled last; `None`: the table does not have it.
    number: Cell<Option<CommandNumber>>,
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
    /// Makes the session of a client, with both addresses and the file descriptor of its connection.
    fn new(
        worker: &Worker,
        product: Rc<ProductView>,
        id: u64,
        (addr, laddr, fd): (SocketAddr, SocketAddr, RawFd),
        writer: OwnedWriteHalf,
    ) -> Self {
        let client = ClientState::of(&product.routes.borrow().auth);
        Self {
            id,
            addr,
            laddr,
            fd,
            connected_at: worker.clock.tick(),
            unread: Cell::new(0),
            is_postponed: Cell::new(false),
            is_monitor: Cell::new(false),
            product,
            client: RefCell::new(client),
            writer: RefCell::new(Some(writer)),
            replies: RefCell::default(),
            backend_set: RefCell::default(),
            watch: RefCell::default(),
            probed_set: RefCell::default(),
            watch_is_over: Cell::new(false),
            dedicated_since: Cell::new(None),
            waker: RefCell::default(),
            queued: Cell::new(0),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            took_at: Cell::new(0),
            memory: SessionMemory::default(),
            stream: RefCell::default(),
            slow: Cell::new(false),
            read_ahead_full: Cell::new(false),
            window: Cell::default(),
            stalled: Cell::new(false),
            settling: Cell::new(false),
            alone: Cell::new(false),
            answered_in_turn: Cell::new(0),
            closing: Cell::new(false),
            closed: Cell::new(false),
            last_exec: Cell::new(None),
            import_waits: Cell::new(false),
            waits_for_quota: Cell::new(false),
            parked_at: Cell::new(None),
            heard_at: Cell::new(worker.clock.tick()),
            unparked: Cell::new(false),
            pre_login: PreLogin::default(),
            script_call: RefCell::default(),
            last_write: Cell::default(),
            written: Written::default(),
            blocked_call: RefCell::default(),
            number: Cell::default(),
        }
    }

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

    /// Closes it at once.
    pub(super) fn kill(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// Closes it when all its requests are answered.
    pub(super) fn close_when_answered(&self) {
        self.closing.set(true);
        self.wake_blocked();
        self.wake();
    }

    /// Whether it is to be closed when all its requests are answered.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Its call that blocks.
    pub(super) fn blocked_call(&self) -> Option<Rc<BlockedCall>> {
        self.blocked_call.borrow().clone()
    }

    /// Sets its call that blocks.
    pub(super) fn set_blocked_call(&self, call: Option<Rc<BlockedCall>>) {
        self.blocked_call.replace(call);
    }

    /// Lets a call that blocks see that the session ends.
    fn wake_blocked(&self) {
        if let Some(call) = &*self.blocked_call.borrow() {
            call.wake();
        }
    }

    /// Lets its task try the parked request again.
    pub(super) fn unpark(&self) {
        self.unparked.set(true);
        self.wake();
    }

    /// Lets its task run.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn answer(&self, worker: &Worker, text: &dyn Fn(&mut Vec<u8>)) {
        let mut replies = self.replies.borrow_mut();
        replies.ensure_buffer(|| worker.buffers.take_reply());
        replies.push(text);
    }

    fn register_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
