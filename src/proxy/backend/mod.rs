//! A shared, pipelined connection to a server, for one database and RESP version: the queued and the unanswered
//! requests. Knows nothing of clients' sockets. `connection` has its task, `handshake` the login.

mod connection;
pub(super) mod handshake;
mod inflight;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    rc::Rc,
    task::Waker,
};

pub(super) use connection::run;
pub(super) use inflight::{InFlight, ReplyCheck, Requester};

use super::{product::ProductView, worker::Worker};
use crate::{
    model::{ids::HostPort, secret::Credentials},
    resp::write::Version,
};

/// Written bytes from which on it is worth moving the unwritten ones to the front.
const COMPACT_FROM: usize = 64 * 1024;

/// Capacity above which an empty write buffer is freed: more than usual pipelines need, so that those allocate nothing.
const KEEP_OUT: usize = 256 * 1024;

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

/// A shared connection and its queues.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) addr: HostPort,
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) credentials: Option<Credentials>,
    pub(super) product: Rc<ProductView>,
    /// Whether the server is a replica, and the connection for reads only.
    pub(super) replica: bool,
    /// Of a replica: the run id of the process that may serve reads. A process that was started later may have older
    /// data.
    process: RefCell<String>,
    pub(super) link: Cell<BackendLink>,
    /// Run id of the process at the other end of the connection.
    run_id: RefCell<Rc<str>>,
    /// Whether its server is no longer a primary: it is closed when nothing is in flight.
    pub(super) retired: Cell<bool>,
    /// Whether it is to be closed at once; the outcome of the requests in flight is unknown.
    pub(super) abandoned: Cell<bool>,
    /// Requests whose bytes are not completely written. Of a replica also those that are not answered, so that they can
    /// be repeated at the primary without a copy.
    out: RefCell<Vec<u8>>,
    /// Number of bytes of `out` that were written to the socket.
    written: Cell<usize>,
    /// Of a replica: position in `out` of the oldest unanswered request.
    answered: Cell<usize>,
    pub(super) inflight: RefCell<VecDeque<InFlight>>,
    /// The worker's tick at the last request.
    last_used: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    /// Whether the task was woken since it last ran.
    armed: Cell<bool>,
    /// Whether a request needed it since the last try to connect.
    wanted: Cell<bool>,
}

impl Backend {
    pub(super) fn new(
        product: Rc<ProductView>,
        addr: HostPort,
        credentials: Option<Credentials>,
        (db, version): (u32, Version),
        replica: bool,
    ) -> Self {
        Self {
            addr,
            db,
            version,
            credentials,
            product,
            replica,
            process: RefCell::default(),
            link: Cell::new(BackendLink::Connecting),
            run_id: RefCell::new("".into()),
            retired: Cell::new(false),
            abandoned: Cell::new(false),
            out: RefCell::default(),
            written: Cell::new(0),
            answered: Cell::new(0),
            inflight: RefCell::default(),
            last_used: Cell::new(0),
            waker: RefCell::default(),
            armed: Cell::new(false),
            wanted: Cell::new(false),
        }
    }

    /// Whether [`send`](Self::send) may be called.
    #[inline]
    pub(super) fn available(&self, worker: &Worker) -> Result<(), Unavailable> {
        if self.link.get() == BackendLink::Down {
            self.wanted.set(true);
            return Err(Unavailable::Down);
        }
        if self.unwritten() > worker.config.limits.backend_queued_max {
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
        let done = if self.replica { self.answered.get().min(written) } else { written };
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
        self.answered.set(self.answered.get().saturating_sub(done));
    }

    /// Records that a replica answered the oldest request, which has `len` bytes; returns its place in `out`.
    fn take_answered(&self, len: u32) -> Range<usize> {
        let from = self.answered.get();
        let to = from + len as usize;
        self.answered.set(to);
        from..to
    }

    fn unwritten(&self) -> usize {
        self.out.borrow().len() - self.written.get()
    }

    /// The error for a client whose request cannot be sent.
    pub(super) fn refusal(&self, why: Unavailable) -> String {
        match why {
            Unavailable::Down => format!("ERR server {} is down, not executed", self.addr),
            Unavailable::Full => {
                format!("TRYAGAIN too many requests wait for server {}, not executed", self.addr)
            }
        }
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
        if self.replica { "does not answer and may no longer serve reads" } else { "is being replaced by a failover" }
    }

    /// Answers all requests in flight with an error: those that were not written completely cannot have been executed;
    /// the outcome of the others is unknown.
    fn fail_all(&self, worker: &Worker, why: &str) {
        let mut unwritten = self.unwritten();
        // Moved out, because the loop below repeats reads of a replica at the primary while it borrows these bytes.
        let out = std::mem::take(&mut *self.out.borrow_mut());
        self.written.set(0);
        let mut request = self.answered.replace(0);
        let mut entries = std::mem::take(&mut *self.inflight.borrow_mut());
        let mut first_unsent = entries.len();
        while first_unsent > 0 && unwritten > 0 {
            first_unsent -= 1;
            unwritten = unwritten.saturating_sub(entries[first_unsent].len as usize);
        }
        let why = format!("server {} {why}", self.addr);
        for (i, entry) in entries.drain(..).enumerate() {
            let (sent, len) = (i < first_unsent, entry.len as usize);
            match out.get(request..request + len) {
                Some(bytes) if self.replica => entry.retry_at_primary(worker, self, bytes, sent, &why),
                _ => entry.fail(worker, sent, &why),
            }
            request += len;
        }
        worker.flush_replied();
        worker.recount_holds();
    }
}
