//! One shared, pipelined connection to a server, for one database and RESP version: what is queued and what is unanswered.
//! Knows nothing of clients' sockets; its task is in `connection`, the log-in in `handshake`.

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
pub(super) use inflight::{AtReply, Entry, Owner};

use super::{product::ProductView, worker::Worker};
use crate::{
    model::{ids::HostPort, secret::Credentials},
    resp::write::Version,
};

/// Bytes that are done with below this are not worth moving the others for.
const COMPACT_FROM: usize = 64 * 1024;

/// A write buffer that has grown beyond this is given back when it is empty.
const KEEP_OUT: usize = 256 * 1024;

/// Whether requests may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendLink {
    /// Not connected, nobody has asked; or the first attempt is under way: requests are queued.
    Connecting,
    /// Connected and logged in.
    Up,
    /// The last attempt failed: requests are refused at once until one succeeds.
    Down,
}

/// Why a request cannot be sent. It was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    Down,
    Full,
}

/// A shared connection and its queue.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) addr: HostPort,
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) credentials: Option<Credentials>,
    pub(super) product: Rc<ProductView>,
    /// For reads at a replica.
    pub(super) replica: bool,
    /// Of a replica: the `run_id` of the process that may be asked. One that was started since may have older data.
    process: RefCell<String>,
    pub(super) link: Cell<BackendLink>,
    /// Run id of the process that the connection leads to.
    run_id: RefCell<Rc<str>>,
    /// Its server is no primary any more: closed when nothing is in flight.
    pub(super) retired: Cell<bool>,
    /// A hold of kind Abandon: closed at once, all in flight unknown.
    pub(super) abandoned: Cell<bool>,
    /// Requests whose bytes are not all written; of a replica those that are not answered, too, so that they can be asked again
    /// elsewhere and none is copied for that.
    out: RefCell<Vec<u8>>,
    /// How much of `out` the socket has taken.
    written: Cell<usize>,
    /// Of a replica: where in `out` the oldest unanswered request begins.
    answered: Cell<usize>,
    pub(super) inflight: RefCell<VecDeque<Entry>>,
    /// The worker's tick at the last request.
    last_used: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    /// The task has been woken since it last ran.
    armed: Cell<bool>,
    /// Somebody wanted it since the last attempt to connect.
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

    /// Whether [`send`](Self::send) may be called for a read at a replica, and the read will be executed by this process or
    /// not at all: while it is not connected, logging in makes sure of that.
    pub(super) fn may_ask(&self, worker: &Worker, run_id: &str) -> bool {
        let same = *self.process.borrow() == run_id;
        if !same {
            if self.link.get() == BackendLink::Up || !self.inflight.borrow().is_empty() {
                return false;
            }
            run_id.clone_into(&mut self.process.borrow_mut());
        }
        self.available(worker).is_ok()
    }

    /// Queues a request; it is written with everything else that this turn queues.
    #[inline]
    pub(super) fn send(&self, request: &[u8], entry: Entry) {
        self.last_used.set(entry.tick);
        self.out.borrow_mut().extend_from_slice(request);
        self.inflight.borrow_mut().push_back(entry);
        self.wake();
    }

    /// Whether it is connected and nobody has used it for so long that it is to be closed. (One that is down goes on trying.)
    pub(super) fn is_idle(&self, worker: &Worker) -> bool {
        self.link.get() == BackendLink::Up
            && self.inflight.borrow().is_empty()
            && worker.age(self.last_used.get()) >= worker.config.limits.backend_idle
    }

    /// Closes it when nothing is in flight.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.wake();
    }

    /// Makes the task run, once however often it is asked.
    #[inline]
    pub(super) fn wake(&self) {
        if !self.armed.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Gives back what is done with. A server that is always a little behind never empties `out`: it must not pile up.
    fn compact(&self, out: &mut Vec<u8>) {
        let written = self.written.get();
        // A server may answer what it has not got whole; then nobody can count on it.
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

    /// A replica has answered a request of so many bytes, the oldest; where in `out` it is.
    fn note_answer(&self, len: u32) -> Range<usize> {
        let from = self.answered.get();
        let to = from + len as usize;
        self.answered.set(to);
        from..to
    }

    fn unwritten(&self) -> usize {
        self.out.borrow().len() - self.written.get()
    }

    /// The sentence for a client whose request was refused.
    pub(super) fn refusal(&self, why: Unavailable) -> String {
        match why {
            Unavailable::Down => format!("ERR server {} is down, not executed", self.addr),
            Unavailable::Full => {
                format!("TRYAGAIN too many requests wait for server {}, not executed", self.addr)
            }
        }
    }

    /// Its server has been given up: whatever is in flight gets its answer now.
    pub(super) fn abandon(&self, worker: &Worker) {
        if self.link.get() == BackendLink::Up {
            self.abandoned.set(true);
            self.wake();
        } else {
            self.fail_all(worker, self.given_up());
        }
    }

    fn given_up(&self) -> &'static str {
        if self.replica { "does not answer, and may not be read from any more" } else { "was given up by a failover" }
    }

    /// Answers everything in flight: what was not written whole cannot have been executed, of the rest nobody knows.
    fn fail_all(&self, worker: &Worker, why: &str) {
        let mut unwritten = self.unwritten();
        // Taken out: reads at a replica are asked again elsewhere while it is read.
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
                Some(bytes) if self.replica => entry.again(worker, self, bytes, sent, &why),
                _ => entry.fail(worker, sent, &why),
            }
            request += len;
        }
        worker.flush_touched();
        worker.recount_holds();
    }
}
