//! The task of a session: reads requests and lets the session handle each.
//! At its limits it stops reading, so that TCP slows the client down. Knows nothing of servers.

mod before_login;
mod over_quota;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::BufMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::{TcpStream, tcp::OwnedReadHalf},
};

use before_login::READ_BEFORE_LOGIN;
use over_quota::Admission;

use super::{Handled, Session};
use crate::{
    model::route::ProductRoutes,
    proxy::{
        check::ServeCheck,
        client::ReplyMode,
        clients::ClientPlace,
        dispatch::CallContext,
        product::ProductView,
        quota::Quota,
        replies::Replies,
        worker::{TaskKind, TaskTurns, Turn, Worker, reserve},
    },
    resp::{
        inline,
        request::{RequestError, RequestScanner, Scanned},
        write,
    },
};

/// Bytes that are read in a small turn: more than usual pipelines.
const SMALL_TURN_BYTES: usize = 8 * 1024;

/// Bytes that are read in a large turn: a read buffer.
const LARGE_TURN_BYTES: usize = 64 * 1024;

/// Requests in a small turn: more than usual pipelines, and the work of some hundred microseconds.
const SMALL_TURN_REQUESTS: u32 = 512;

/// Requests after which a large turn reads the clock, which costs a small part of their work.
const REQUESTS_PER_CLOCK: u32 = 32;

/// Bytes of replies that the node itself gives to a session in one turn, so that other sessions get their turns: the
/// work of about a millisecond, such as three replies to COMMAND.
const LOCAL_PER_TURN: usize = 256 * 1024;

/// Bytes reserved for the rest of an incomplete request, in addition to what has arrived: one request of usual size.
const REST_RESERVED: usize = 16 * 1024;

/// Why the scan of a buffer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanStop {
    /// All complete requests were handled.
    Incomplete,
    /// The session is at a limit or closing; the rest of the buffer is kept.
    AtLimit,
    /// The next request is parked.
    Parked,
    /// The next request waits for room or for earlier ones.
    Waiting,
    /// The next request waits for the product's quota.
    OverQuota,
    /// The turn is over; the rest of the buffer is kept.
    TurnOver,
}

/// The task of a session.
pub(in crate::proxy) struct SessionTask {
    worker: Rc<Worker>,
    session: Rc<Session>,
    reader: OwnedReadHalf,
    scanner: RequestScanner,
    /// Bytes that were read but not handled; for an idle client, empty and without memory.
    rest: Vec<u8>,
    /// Number of bytes of `rest` that were handled.
    used: usize,
    /// Number of bytes of `rest` that the worker counts as parked.
    counted: usize,
    /// Why the last scan stopped.
    stop: ScanStop,
    /// Whether the client sends nothing more. It may have closed only its sending side, so all its requests are
    /// executed and answered.
    ended: bool,
    turns: Rc<TaskTurns>,
    /// This turn.
    now: Turn,
    /// Requests that were handled in this turn.
    handled: u32,
    /// The tick since which its next request waits for the product's quota.
    over_quota_since: Option<u32>,
    /// Bytes of the last request that the quota has admitted.
    admitted: Option<usize>,
    /// Free again when the task ends.
    place: ClientPlace,
}

impl SessionTask {
    /// Makes the task for an accepted connection.
    pub(in crate::proxy) fn new(
        worker: Rc<Worker>,
        product: Rc<ProductView>,
        (stream, addr, mut place): (TcpStream, SocketAddr, ClientPlace),
        id: u64,
    ) -> Self {
        // Without an address, the client is gone already.
        let laddr = stream.local_addr().unwrap_or(SocketAddr::from(([0; 4], 0)));
        let fd = stream.as_raw_fd();
        let (reader, writer) = stream.into_split();
        let session = Rc::new(Session::new(&worker, product, id, (addr, laddr, fd), writer));
        let must_log_in = session.client.borrow().login.is_none();
        let kind = TaskKind::Session(session.product.routes.borrow().id);
        let mut scanner = RequestScanner::default();
        scanner.set_before_login(must_log_in);
        worker.add_session(&session);
        if must_log_in {
            worker.await_login(&session);
        } else {
            // The product had a password when the client was accepted.
            place.note_login();
        }
        Self {
            worker,
            session,
            reader,
            scanner,
            rest: Vec::new(),
            used: 0,
            counted: 0,
            stop: ScanStop::Incomplete,
            ended: false,
            turns: TaskTurns::new(kind),
            now: Turn::Small,
            handled: 0,
            over_quota_since: None,
            admitted: None,
            place,
        }
    }

    /// Reads and handles requests until there is nothing to read or the session is at a limit (false), or the turn is
    /// over (true).
    ///
    /// # Errors
    /// Returns the error of the socket; the session must then be closed.
    fn work_in(&mut self, turn: Turn, cx: &mut Context<'_>) -> io::Result<bool> {
        let worker = self.worker.clone();
        let max = if turn.is_large() { LARGE_TURN_BYTES } else { SMALL_TURN_BYTES };
        let mut total = 0;
        (self.now, self.handled) = (turn, 0);
        loop {
            if self.session.closing.get() {
                self.refuse_rest();
                return Ok(false);
            }
            let parked = self.session.parked_at.get().is_some();
            if !self.rest.is_empty() && (!parked || self.session.unparked.replace(false)) {
                self.work_on_rest();
            }
            let answered = self.session.answered_in_turn.take() > LOCAL_PER_TURN;
            if answered || self.stop == ScanStop::TurnOver {
                return Ok(true);
            }
            if !self.may_read(&worker) || self.session.pauses(&worker) {
                return Ok(false);
            }
            match self.fill(&worker, max, cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => {
                    let len = read?;
                    self.session.heard_at.set(worker.clock.tick());
                    self.ended = len == 0;
                    total += len;
                }
            }
            if total >= max || self.stop == ScanStop::TurnOver || turn.is_over() {
                return Ok(true);
            }
        }
    }

    /// Whether to read more from the client. Also decides whether the task waits for replies, and ends the session after
    /// its last request.
    fn may_read(&mut self, worker: &Worker) -> bool {
        let session = &self.session;
        let limits = &worker.config.limits;
        let left = self.rest.len() - self.used;
        let parked = session.parked_at.get().is_some();
        // Another worker may have freed memory since the last scan stopped; then the task must run again.
        let at_limit = self.stop == ScanStop::AtLimit && left > 0;
        session.stalled.set(!parked && (at_limit || session.saturated(worker)));
        session.read_ahead_full.set(false);
        if session.closing.get() {
            return false;
        }
        if let Some(call) = session.blocked_call() {
            // As at a Redis: a client that closes its side while it is blocked wants nothing more.
            if self.ended {
                call.client_ended();
            }
            return !self.ended && left < limits.parked_session_max;
        }
        if self.ended {
            // As at a Redis: a client that leaves while it is paused wants nothing more.
            let waits = left > 0 && self.stop != ScanStop::Incomplete && !session.is_postponed.get();
            session.closing.set(!waits);
            return false;
        }
        if parked {
            return left < limits.parked_session_max;
        }
        if session.stalled.get() {
            // A client that sends its whole pipeline before it reads would wait for ever.
            session.read_ahead_full.set(left >= limits.read_ahead_max);
            let read_ahead_max = if self.scanner.is_before_login() { 0 } else { limits.read_ahead_max };
            return session.blocked.get() && left < read_ahead_max;
        }
        !matches!(self.stop, ScanStop::Waiting | ScanStop::OverQuota)
    }

    /// Reads once, up to `max` bytes; also handles them if `rest` is empty.
    fn fill(&mut self, worker: &Rc<Worker>, mut max: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.scanner.is_before_login() {
            // The task is woken when the client has read its replies.
            if self.session.blocked.get() {
                return Poll::Pending;
            }
            max = max.min(READ_BEFORE_LOGIN);
        }
        if self.rest.is_empty() {
            let mut scratch = worker.buffers.read.borrow_mut();
            let max = max.min(scratch.len());
            let mut into = ReadBuf::new(&mut scratch[..max]);
            match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = into.filled();
            self.session.product.usage(worker).received(bytes.len());
            let used = self.work(bytes);
            if used == bytes.len() {
                self.scanner.shrink();
            } else if !self.session.closing.get() {
                self.rest.extend_from_slice(&bytes[used..]);
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        // Only when it frees at least half, so that a long rest is not moved for each read.
        if self.used > self.rest.len() / 2 {
            self.rest.drain(..self.used);
            self.used = 0;
        }
        reserve(&mut self.rest, REST_RESERVED.min(max));
        // `read_buf` is cancel-safe: if it is dropped while pending, it has read nothing.
        let mut into = (&mut self.rest).limit(max);
        let read = std::pin::pin!(self.reader.read_buf(&mut into));
        let read = read.poll(cx);
        if let Poll::Ready(Ok(len)) = read {
            self.session.product.usage(worker).received(len);
        }
        read
    }

    fn work_on_rest(&mut self) {
        let mut rest = std::mem::take(&mut self.rest);
        self.used += self.work(&rest[self.used..]);
        if self.used == rest.len() || self.session.closing.get() {
            rest = Vec::new();
            self.used = 0;
            self.scanner.shrink();
        }
        self.rest = rest;
    }

    /// Handles all complete requests without awaiting; returns the number of bytes handled.
    fn work(&mut self, bytes: &[u8]) -> usize {
        let worker = self.worker.clone();
        let session = self.session.clone();
        // The routes are replaced only between turns, so they can be borrowed for the whole turn.
        let routes = session.product.routes.borrow();
        let serve_check = worker.begin_batch(routes.isolated);
        let (mut at, stop_before_login) = if self.scanner.is_before_login() {
            self.work_before_login(&worker, &routes, serve_check, bytes)
        } else {
            (0, None)
        };
        let quota = session.product.quota.borrow().clone();
        let stop = stop_before_login.unwrap_or_else(|| {
            loop {
                if session.saturated(&worker) || session.answered_in_turn.get() > LOCAL_PER_TURN {
                    break ScanStop::AtLimit;
                }
                let (len, stop) = self.next(&worker, &routes, serve_check, quota.as_deref(), &bytes[at..]);
                at += len;
                if let Some(stop) = stop {
                    break stop;
                }
                self.handled += 1;
                if self.handled.is_multiple_of(REQUESTS_PER_CLOCK) && self.is_turn_over() {
                    break ScanStop::TurnOver;
                }
                if session.closing.get() {
                    break ScanStop::AtLimit;
                }
            }
        });
        if let Some(quota) = quota {
            self.settle_quota(&quota, stop);
        }
        // Nothing is left for the next turn.
        let stop = if stop == ScanStop::TurnOver && at == bytes.len() { ScanStop::Incomplete } else { stop };
        self.stop = stop;
        if stop != ScanStop::Parked {
            // A request that was parked has been handled or waits for something else.
            session.parked_at.set(None);
        }
        at
    }

    /// Handles the next request, if `quota` admits it. Returns the number of bytes handled, and why the scan stops there.
    #[inline]
    fn next(
        &mut self,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        quota: Option<&Quota>,
        bytes: &[u8],
    ) -> (usize, Option<ScanStop>) {
        let scanned = self.scanner.scan(bytes);
        if let (Some(quota), Ok(Scanned::Request(len) | Scanned::Inline(len))) = (quota, &scanned) {
            match self.admit(quota, *len) {
                Admission::Admitted => {}
                Admission::Waits => return (0, Some(ScanStop::OverQuota)),
                Admission::Refused => {
                    self.session.refuse_over_quota(worker);
                    return (*len, None);
                }
            }
        }
        let (len, handled) = match scanned {
            Ok(Scanned::Incomplete) => return (0, Some(ScanStop::Incomplete)),
            Ok(Scanned::Request(len)) => {
                let call = CallContext { bytes: &bytes[..len], args: self.scanner.args() };
                (len, Ok(self.session.handle(worker, routes, serve_check, &call)))
            }
            Ok(Scanned::Inline(len)) => (len, self.handle_inline(worker, routes, serve_check, &bytes[..len])),
            Err(error) => (0, Err(error)),
        };
        match handled {
            Ok(Handled::Done) => (len, None),
            Ok(Handled::LoggedOut) => {
                self.scanner.set_before_login(true);
                // The rest is handled as that of a client that has not logged in.
                (len, Some(ScanStop::TurnOver))
            }
            Ok(Handled::Parked) => (0, Some(ScanStop::Parked)),
            Ok(Handled::Waiting) => (0, Some(ScanStop::Waiting)),
            Err(error) => {
                self.protocol_error(worker, error);
                (0, Some(ScanStop::AtLimit))
            }
        }
    }

    #[cold]
    fn is_turn_over(&self) -> bool {
        if self.now.is_large() { self.now.is_over() } else { self.handled >= SMALL_TURN_REQUESTS }
    }

    /// Refuses the remaining complete requests of a session that ends, parked ones and those behind them.
    fn refuse_rest(&mut self) {
        let (rest, mut at) = (std::mem::take(&mut self.rest), std::mem::take(&mut self.used));
        // After a protocol error `rest` is empty, and the scanner must not be used again. A client that has not logged in
        // gets no replies beyond its limit.
        if rest.is_empty() || self.scanner.is_before_login() {
            return;
        }
        while at < rest.len()
            && let Ok(Scanned::Request(len) | Scanned::Inline(len)) = self.scanner.scan(&rest[at..])
        {
            at += len;
            let mut client = self.session.client.borrow_mut();
            let muted = client.replies != ReplyMode::On;
            if client.replies == ReplyMode::SkipNext {
                client.replies = ReplyMode::On;
            }
            drop(client);
            self.session.refuse(&self.worker, muted, "TRYAGAIN not executed: the connection is being closed");
        }
        self.session.parked_at.set(None);
    }

    fn protocol_error(&mut self, worker: &Worker, error: RequestError) {
        self.session.answer(worker, &|out| write::error(out, &format!("ERR Protocol error: {error}")));
        // Its position refers to bytes that are not kept.
        self.scanner = RequestScanner::default();
        self.session.closing.set(true);
    }

    fn handle_inline(
        &mut self,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        line: &[u8],
    ) -> Result<Handled, RequestError> {
        let request = inline::to_request(line)?;
        let mut scanner = RequestScanner::default();
        scanner.scan(&request)?;
        Ok(self.session.handle(worker, routes, serve_check, &CallContext { bytes: &request, args: scanner.args() }))
    }

    fn finish(&mut self) {
        self.session.closed.set(true);
        self.session.wake_blocked();
        // Backends may keep the session until its requests are answered; close the socket now.
        *self.session.writer.borrow_mut() = None;
        self.session.waker.borrow_mut().take();
        self.session.drop_backend_set();
        self.session.end_watch();
        self.session.client.borrow_mut().free();
        *self.session.replies.borrow_mut() = Replies::default();
        self.session.wake_stream();
        self.session.recharge(&self.worker);
        self.worker.parking.count(std::mem::take(&mut self.counted), 0);
        self.worker.remove_session(&self.session);
    }

    /// Updates the worker's count of parked bytes, once per turn.
    fn count_parked(&mut self) {
        self.session.unread.set(self.rest.len() - self.used);
        let parked = if self.session.parked_at.get().is_some() { self.rest.len() - self.used } else { 0 };
        if parked != self.counted {
            self.worker.parking.count(self.counted, parked);
            self.counted = parked;
        }
    }
}

impl Future for SessionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let worker = this.worker.clone();
        this.session.register_waker(cx);
        if this.place.is_taken(cx) {
            this.session.close_for_another(&worker);
            this.finish();
            return Poll::Ready(());
        }
        let turn = if this.session.closed.get() { Some(Turn::Small) } else { this.turns.begin(&worker.turns, cx) };
        let Some(turn) = turn else { return Poll::Pending };
        let mut unwritten = this.session.poll_blocked(&worker, cx);
        let more = if this.session.closed.get() { None } else { this.work_in(turn, cx).ok() };
        let alive = more.is_some();
        this.count_parked();
        this.session.memory.unread_requests.set(this.rest.capacity() + this.scanner.memory());
        this.session.recharge(&worker);
        if alive {
            this.session.flush_quietly(&worker);
            unwritten = unwritten || this.session.poll_blocked(&worker, cx);
            if this.session.stalled.get() && !this.session.saturated(&worker) {
                cx.waker().wake_by_ref();
            }
        }
        let session = &this.session;
        let done = session.closing.get() && {
            let replies = session.replies.borrow();
            replies.waiting() == 0 && replies.unsent().is_empty()
        };
        if !alive || done || session.closed.get() {
            this.finish();
            return Poll::Ready(());
        }
        this.turns.end(&worker.turns, turn, unwritten || more == Some(true), cx);
        Poll::Pending
    }
}

impl Drop for SessionTask {
    fn drop(&mut self) {
        // The runtime ended while the session was open.
        if !self.session.closed.get() {
            self.finish();
        }
    }
}
