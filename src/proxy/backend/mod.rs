//! A pipelined connection to a server, for one database and RESP version: the queued and the unanswered requests. All
//! sessions of a worker share it, or one session has borrowed it (dedicated). Knows nothing of clients' sockets.
//! `connection` has its task, `handshake` the login, `cut_off` what a hold does to requests that are not sent yet.

mod connection;
mod cut_off;
pub(super) mod handshake;
mod identity;
mod incomplete;
mod inflight;
mod refusals;
mod refused;
mod script_load;
mod slow;
mod writing;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    rc::{Rc, Weak},
    task::Waker,
};

pub(super) use connection::run;
pub(super) use identity::ConnectionIdentity;
pub(super) use inflight::{InFlight, ReplyCheck, Requester, is_nil};

use tokio::sync::Notify;

use super::{
    counters::count,
    dedicated::{DedicatedPlace, DedicatedUse},
    product::ProductView,
    scripts::ConnectionScripts,
    session::Session,
    transaction::Probe,
    worker::Worker,
};
use crate::{
    model::{ids::HostPort, secret::ServerLogin},
    resp::write::Version,
};

/// Written bytes from which on it is worth moving the unwritten ones to the front.
const COMPACT_FROM: usize = 64 * 1024;

/// Capacity above which an empty write buffer is freed: more than usual pipelines need, so that those allocate nothing.
const KEEP_OUT: usize = 256 * 1024;

/// Bytes of unanswered requests that are kept for the slow log: a second of usual requests.
const RETAINED_MAX: usize = 1024 * 1024;

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendLink {
    /// Not connected because there was no request yet, or connecting for the first time: requests are queued.
    Connecting,
    /// Connected and logged in.
    Up,
    /// The last try to connect failed: requests are refused at once until one succeeds.
    Down,
}

/// Why a request cannot be sent. It was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    Down,
    Full,
}

/// The user that a connection logs in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerUser {
    /// The data user: for what clients send.
    Data,
    /// The control user: for what the node itself needs across a group, such as SCAN.
    Control,
}

/// Which server a connection goes to, and for what.
#[derive(Debug)]
pub(super) struct BackendKind {
    pub(super) addr: HostPort,
    pub(super) login: ServerLogin,
    pub(super) user: ServerUser,
    pub(super) db: u32,
    pub(super) version: Version,
    /// Whether the server is a replica, and the connection for reads only.
    pub(super) replica: bool,
    /// `None`: it is shared.
    pub(super) dedicated: Option<DedicatedPlace>,
}

/// A connection and its queues.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) addr: HostPort,
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) login: ServerLogin,
    pub(super) user: ServerUser,
    pub(super) product: Rc<ProductView>,
    /// Whether the server is a replica, and the connection for reads only.
    pub(super) replica: bool,
    /// `None`: it is shared.
    dedicated: Option<DedicatedPlace>,
    /// Of a replica: the run id of the process that may serve reads. A process that was started later may have older
    /// data.
    process: RefCell<String>,
    pub(super) link: Cell<BackendLink>,
    /// Notified when `link` changes.
    link_changed: Notify,
    /// Whether it executes transactions.
    pub(super) probe: Probe,
    /// Of its connection, or of the one that it is about to open.
    identity: RefCell<Rc<ConnectionIdentity>>,
    /// What is known of its scripts.
    pub(super) scripts: ConnectionScripts,
    /// Whether its server is no longer a primary: it is closed when nothing is in flight.
    pub(super) retired: Cell<bool>,
    /// Whether it is to be closed at once; the outcome of the requests in flight is unknown.
    pub(super) abandoned: Cell<bool>,
    /// Of a dedicated connection: whether it is closed before more bytes of its requests are written, because a hold
    /// began.
    cutting: Cell<bool>,
    /// Whether the last write left bytes because the socket's buffer was full.
    full: Cell<bool>,
    /// Whether the reply to the oldest request is passed on to its client while it arrives. It has passed check 2.
    pub(super) passing_on: Cell<bool>,
    /// Requests whose bytes are not completely written, and those that are not answered: of a replica, so that they can be
    /// repeated at the primary without a copy; of a primary up to [`RETAINED_MAX`], for the slow log.
    out: RefCell<Vec<u8>>,
    /// Number of bytes of `out` that were written to the socket.
    written: Cell<usize>,
    /// Position in `out` of the oldest unanswered request, or of what is left of it.
    answered: Cell<usize>,
    /// Of a primary: bytes of the oldest unanswered requests that are not in `out` any more.
    forgotten: Cell<usize>,
    pub(super) inflight: RefCell<VecDeque<InFlight>>,
    /// The worker's tick at the last request.
    last_used: Cell<u32>,
    /// Bytes of `out` that the worker's memory counts. (Those of a dedicated connection are its session's.)
    charged: Cell<usize>,
    /// A reference to itself, for sessions.
    weak_self: Weak<Self>,
    /// Sessions that wait until there is room in `out`.
    waiters: RefCell<Vec<Rc<Session>>>,
    waker: RefCell<Option<Waker>>,
    /// Whether the task was woken since it last ran.
    armed: Cell<bool>,
    /// Whether a request needed it since the last try to connect.
    wanted: Cell<bool>,
}

impl Backend {
    pub(super) fn new(product: Rc<ProductView>, kind: BackendKind) -> Rc<Self> {
        let BackendKind { addr, login, user, db, version, replica, dedicated } = kind;
        Rc::new_cyclic(|weak_self| Self {
            addr,
            db,
            version,
            login,
            user,
            product,
            replica,
            dedicated,
            process: RefCell::default(),
            link: Cell::new(BackendLink::Connecting),
            link_changed: Notify::new(),
            probe: Probe::default(),
            identity: RefCell::default(),
            scripts: ConnectionScripts::default(),
            retired: Cell::new(false),
            abandoned: Cell::new(false),
            cutting: Cell::new(false),
            full: Cell::new(false),
            passing_on: Cell::new(false),
            out: RefCell::default(),
            written: Cell::new(0),
            answered: Cell::new(0),
            forgotten: Cell::new(0),
            inflight: RefCell::default(),
            last_used: Cell::new(0),
            charged: Cell::new(0),
            weak_self: weak_self.clone(),
            waiters: RefCell::default(),
            waker: RefCell::default(),
            armed: Cell::new(false),
            wanted: Cell::new(false),
        })
    }

    /// Whether one session has borrowed it, or may.
    pub(super) fn is_dedicated(&self) -> bool {
        self.dedicated.is_some()
    }

    /// What a session borrows it for. `None`: it is shared.
    pub(super) fn dedicated_use(&self) -> Option<DedicatedUse> {
        self.dedicated.as_ref().map(|place| place.used_for)
    }

    /// Sets the state of the connection.
    fn set_link(&self, link: BackendLink) {
        self.link.set(link);
        self.link_changed.notify_waiters();
    }

    /// Opens the connection if there is none.
    pub(super) fn open(&self) {
        self.wanted.set(true);
        self.wake();
    }

    /// Opens the connection if there is none, and waits until it is up or the attempt has failed (false).
    pub(super) async fn connected(&self) -> bool {
        self.open();
        loop {
            let changed = self.link_changed.notified();
            match self.link.get() {
                BackendLink::Up => return true,
                BackendLink::Down => return false,
                BackendLink::Connecting => changed.await,
            }
        }
    }

    /// Of its connection, or of the one that it is about to open.
    pub(super) fn identity(&self) -> Rc<ConnectionIdentity> {
        self.identity.borrow().clone()
    }

    /// The same, only to compare it.
    #[inline]
    pub(super) fn identity_ptr(&self) -> *const ConnectionIdentity {
        Rc::as_ptr(&self.identity.borrow())
    }

    /// Whether the oldest request may have passed its deadline; the task finds out.
    pub(super) fn may_be_overdue(&self, worker: &Worker) -> bool {
        let due = self.inflight.borrow().front().map(InFlight::due_from);
        due.is_some_and(|due| due.is_some_and(|tick| !worker.clock.is_before(tick)))
    }

    /// Whether a session may borrow it or keep it. (The task of a dedicated connection ends with the connection.)
    pub(super) fn may_be_borrowed(&self) -> bool {
        self.link.get() != BackendLink::Down && !self.retired.get() && !self.abandoned.get() && !self.cutting.get()
    }

    /// The run id of the process that executes what is sent now, if the connection is up.
    pub(super) fn process_at_other_end(&self) -> Option<Rc<str>> {
        let up = self.link.get() == BackendLink::Up;
        up.then(|| self.identity.borrow().run_id().cloned().unwrap_or_else(|| "".into()))
    }

    /// Whether [`send`](Self::send) may be called.
    #[inline]
    pub(super) fn available(&self, worker: &Worker) -> Result<(), Unavailable> {
        if self.link.get() == BackendLink::Down {
            self.wanted.set(true);
            return Err(Unavailable::Down);
        }
        if self.unwritten() > self.queued_max(worker) {
            return Err(Unavailable::Full);
        }
        Ok(())
    }

    /// Whether [`send`](Self::send) may be called for a read at a replica, so that the process `run_id` executes the
    /// read or none does. If it is not connected, the login verifies the run id.
    pub(super) fn may_send_read(&self, worker: &Worker, run_id: &str) -> bool {
        let same = *self.process.borrow() == run_id;
        if !same {
            if self.link.get() == BackendLink::Up || !self.inflight.borrow().is_empty() {
                return false;
            }
            run_id.clone_into(&mut self.process.borrow_mut());
        }
        self.available(worker).is_ok()
    }

    /// Bytes that may wait in its queue. (Those of a dedicated connection are its session's.)
    #[inline]
    fn queued_max(&self, worker: &Worker) -> usize {
        let max = worker.config.limits.backend_queued_max;
        if self.is_dedicated() { max } else { worker.memory.queues.each(max) }
    }

    /// Wakes the session when there is room in the queue.
    pub(super) fn wait_for_room(&self, worker: &Worker, session: &Rc<Session>) {
        count(&worker.stats.queue_waits);
        self.waiters.borrow_mut().push(session.clone());
        self.wanted.set(true);
        self.wake();
    }

    /// Wakes the sessions that wait for room, if there is.
    fn wake_waiters(&self, worker: &Worker) {
        if self.waiters.borrow().is_empty() || self.unwritten() > self.queued_max(worker) / 2 {
            return;
        }
        for session in std::mem::take(&mut *self.waiters.borrow_mut()) {
            session.wake();
        }
    }

    /// Queues a request; it is written together with all others that this turn queues.
    #[inline]
    pub(super) fn send(&self, request: &[u8], entry: InFlight) {
        self.last_used.set(entry.tick);
        self.out.borrow_mut().extend_from_slice(request);
        self.inflight.borrow_mut().push_back(entry);
        self.wake();
    }

    /// Whether it is connected and has been unused for longer than `backend_idle`, so that it must be closed. (A
    /// backend that is down keeps trying to connect.)
    pub(super) fn is_idle(&self, worker: &Worker) -> bool {
        self.link.get() == BackendLink::Up
            && self.inflight.borrow().is_empty()
            && worker.clock.age(self.last_used.get()) >= worker.config.limits.backend_idle
    }

    /// Whether it is a dedicated connection whose client is gone, and the server cannot have executed what is in flight:
    /// a slow link must not keep these requests in memory.
    fn is_for_nobody(&self) -> bool {
        let gone = |entry: &InFlight| entry.requester.session().is_closed();
        self.is_dedicated()
            && self.retired.get()
            && self.inflight.borrow().front().is_some_and(gone)
            && self.first_unsent().0 == 0
    }

    /// Closes it when nothing is in flight.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.wake();
    }

    /// Wakes the task, once even if called several times.
    #[inline]
    pub(super) fn wake(&self) {
        if !self.armed.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Frees bytes that are no longer needed, also if `out` is never empty because the server is always slightly
    /// behind.
    fn compact(&self, out: &mut Vec<u8>) {
        let written = self.written.get();
        // A faulty server may answer a request that it has not received completely.
        let answered = self.answered.get().min(written);
        let done = match (self.replica || written - answered <= RETAINED_MAX, self.is_dedicated()) {
            (true, _) => answered,
            // A request that is not completely written may be cut off.
            (false, true) => cut_off::first_unsent(&self.inflight.borrow(), out.len(), written).1.min(written),
            (false, false) => written,
        };
        if done == out.len() {
            out.clear();
            if out.capacity() > KEEP_OUT {
                *out = Vec::new();
            }
        } else if done >= COMPACT_FROM && done > out.len() / 2 {
            out.drain(..done);
        } else {
            return;
        }
        self.written.set(written - done);
        let answered = self.answered.get();
        self.answered.set(answered.saturating_sub(done));
        self.forgotten.set(self.forgotten.get() + done.saturating_sub(answered));
    }

    /// Records that the oldest request, which has `len` bytes, was answered; returns its place in `out`, if that still has it.
    #[inline]
    fn take_answered(&self, len: u32) -> Range<usize> {
        let (from, len) = (self.answered.get(), len as usize);
        let forgotten = self.forgotten.get().min(len);
        if forgotten > 0 {
            self.forgotten.set(self.forgotten.get() - forgotten);
            self.answered.set(from + len - forgotten);
            return 0..0;
        }
        self.answered.set(from + len);
        from..from + len
    }

    fn unwritten(&self) -> usize {
        self.out.borrow().len() - self.written.get()
    }

    /// The error for a client whose request cannot be sent, because the server is down.
    pub(super) fn refusal(&self) -> String {
        format!("ERR {} is down, not executed", self.product.server_name(&self.addr))
    }

    /// Closes it at once, because a failover replaces its server; answers all requests in flight.
    pub(super) fn abandon(&self, worker: &Worker) {
        if self.link.get() == BackendLink::Up {
            self.abandoned.set(true);
            self.wake();
        } else {
            self.fail_all(worker, self.abandon_reason());
        }
    }

    fn abandon_reason(&self) -> &'static str {
        match (self.replica, self.dedicated_use()) {
            (true, _) => "does not answer and may no longer serve reads",
            (false, Some(DedicatedUse::Blocking)) => "is being replaced, or the call was given up",
            (false, _) => "is being replaced by a failover",
        }
    }

    /// Answers all requests in flight with an error: those that were not written completely cannot have been executed;
    /// the outcome of the others is unknown.
    fn fail_all(&self, worker: &Worker, why: &str) {
        self.identity.take();
        let (first_unsent, at) = self.first_unsent();
        // Moved out, because the loop below repeats reads of a replica at the primary while it borrows these bytes.
        let out = std::mem::take(&mut *self.out.borrow_mut());
        self.written.set(0);
        let mut request = self.answered.replace(0);
        self.forgotten.set(0);
        let mut entries = std::mem::take(&mut *self.inflight.borrow_mut());
        if self.cutting.replace(false) {
            let mut at = at;
            for entry in entries.split_off(first_unsent) {
                let end = at + entry.len as usize;
                self.cut_off_entry(worker, entry, &out[at..end]);
                at = end;
            }
        }
        let why = self.product.of_server(&self.addr, why);
        for (i, entry) in entries.drain(..).enumerate() {
            let (sent, len) = (i < first_unsent, entry.len as usize);
            match out.get(request..request + len) {
                Some(bytes) if self.replica => entry.retry_at_primary(worker, self, bytes, sent, &why),
                _ => entry.fail(worker, sent, &why),
            }
            request += len;
        }
        worker.flush_replied();
        match self.dedicated_use() {
            Some(DedicatedUse::Blocking) => worker.recount_soon(),
            Some(DedicatedUse::LargeMessages | DedicatedUse::Watch | DedicatedUse::Select) | None => {
                worker.recount_holds()
            }
        }
        worker.memory.charge_pool(&worker.memory.queues, &self.charged, 0);
        self.wake_waiters(worker);
    }
}
