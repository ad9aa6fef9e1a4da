//! The task of a session: reads requests and lets the session handle each.
//! At its limits it stops reading, so that TCP slows the client down. Knows nothing of servers.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::{TcpStream, tcp::OwnedReadHalf},
};

use super::Session;
use crate::{
    model::route::ProductRoutes,
    proxy::{
        check::ServeCheck,
        client::{ClientState, ReplyMode},
        dispatch::CallContext,
        product::ProductView,
        replies::Replies,
        worker::Worker,
    },
    resp::{
        inline,
        request::{RequestError, RequestScanner, Scanned},
        write,
    },
};

/// Number of reads in one turn, so that other sessions get their turns.
const READS_PER_TURN: usize = 4;

/// Bytes reserved for the rest of an incomplete request, in addition to what has arrived: one request of usual size.
const REST_RESERVED: usize = 16 * 1024;

/// Why the scan of a buffer stopped.
enum ScanStop {
    /// All complete requests were handled.
    Incomplete,
    /// The session is at a limit or closing; the rest of the buffer is kept.
    AtLimit,
    /// The next request is parked.
    Parked,
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
}

impl SessionTask {
    /// Makes the task for an accepted connection.
    pub(in crate::proxy) fn new(
        worker: Rc<Worker>,
        product: Rc<ProductView>,
        stream: TcpStream,
        addr: SocketAddr,
        id: u64,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        let logged_in = product.routes.borrow().auth.is_none();
        let mut scanner = RequestScanner::default();
        scanner.set_before_login(!logged_in);
        let session = Rc::new(Session {
            id,
            addr,
            product,
            client: RefCell::new(ClientState { logged_in, ..ClientState::default() }),
            writer: RefCell::new(Some(writer)),
            replies: RefCell::default(),
            backend_set: RefCell::default(),
            waker: RefCell::default(),
            queued: Cell::new(0),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            stalled: Cell::new(false),
            settling: Cell::new(false),
            closing: Cell::new(false),
            closed: Cell::new(false),
            parked_at: Cell::new(None),
            unparked: Cell::new(false),
            last_write: Cell::default(),
        });
        worker.add_session(&session);
        Self { worker, session, reader, scanner, rest: Vec::new(), used: 0, counted: 0 }
    }

    /// Reads and handles requests until there is nothing to read or the session is at a limit.
    ///
    /// # Errors
    /// Returns the error of the socket; the session must then be closed.
    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let worker = self.worker.clone();
        for _ in 0..READS_PER_TURN {
            if self.session.closing.get() {
                self.refuse_rest();
                return Ok(());
            }
            let parked = self.session.parked_at.get().is_some();
            if !self.rest.is_empty() && (!parked || self.session.unparked.replace(false)) {
                self.work_on_rest();
            }
            let left = self.rest.len() - self.used;
            let parked = self.session.parked_at.get().is_some();
            self.session.stalled.set(!parked && self.session.saturated(&worker));
            if self.session.stalled.get()
                || self.session.closing.get()
                || (parked && left >= worker.config.limits.parked_session_max)
            {
                return Ok(());
            }
            match self.fill(&worker, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => {
                    if read? == 0 {
                        // The client may have closed only its sending side: answer its requests.
                        self.session.closing.set(true);
                        self.refuse_rest();
                        return Ok(());
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once; also handles the bytes if `rest` is empty.
    fn fill(&mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.rest.is_empty() {
            let mut scratch = worker.buffers.read.borrow_mut();
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = into.filled();
            let used = self.work(bytes);
            if used == bytes.len() {
                self.scanner.shrink();
            } else if !self.session.closing.get() {
                self.rest.extend_from_slice(&bytes[used..]);
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.used > 0 {
            self.rest.drain(..self.used);
            self.used = 0;
        }
        self.rest.reserve(REST_RESERVED);
        // `read_buf` is cancel-safe: if it is dropped while pending, it has read nothing.
        let read = std::pin::pin!(self.reader.read_buf(&mut self.rest));
        read.poll(cx)
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
        if self.scanner.is_before_login() && routes.auth.is_none() {
            // The password was removed after the client connected.
            session.client.borrow_mut().logged_in = true;
            self.scanner.set_before_login(false);
        }
        let mut at = 0;
        let stop = loop {
            if session.saturated(&worker) {
                break ScanStop::AtLimit;
            }
            let len = match self.scanner.scan(&bytes[at..]) {
                Ok(Scanned::Incomplete) => break ScanStop::Incomplete,
                Ok(Scanned::Request(len)) => {
                    let call = CallContext { bytes: &bytes[at..at + len], args: self.scanner.args() };
                    if !session.handle(&worker, &routes, serve_check, &call) {
                        break ScanStop::Parked;
                    }
                    len
                }
                Ok(Scanned::Inline(len)) => {
                    match self.handle_inline(&worker, &routes, serve_check, &bytes[at..at + len]) {
                        Ok(true) => len,
                        Ok(false) => break ScanStop::Parked,
                        Err(error) => {
                            self.protocol_error(&worker, error);
                            break ScanStop::AtLimit;
                        }
                    }
                }
                Err(error) => {
                    self.protocol_error(&worker, error);
                    break ScanStop::AtLimit;
                }
            };
            at += len;
            if self.scanner.is_before_login() {
                self.scanner.set_before_login(!session.client.borrow().logged_in);
            }
            if session.closing.get() {
                break ScanStop::AtLimit;
            }
        };
        match stop {
            // The parked request was handled.
            ScanStop::Incomplete | ScanStop::AtLimit => session.parked_at.set(None),
            ScanStop::Parked => {}
        }
        at
    }

    /// Refuses the remaining complete requests of a session that ends, parked ones and those behind them.
    fn refuse_rest(&mut self) {
        // After a protocol error `rest` is empty, and the scanner must not be used again.
        if self.rest.is_empty() {
            return;
        }
        let rest = std::mem::take(&mut self.rest);
        let mut at = std::mem::take(&mut self.used);
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
    ) -> Result<bool, RequestError> {
        let request = inline::to_request(line)?;
        let mut scanner = RequestScanner::default();
        scanner.scan(&request)?;
        Ok(self.session.handle(worker, routes, serve_check, &CallContext { bytes: &request, args: scanner.args() }))
    }

    fn finish(&mut self) {
        self.session.closed.set(true);
        // Backends may keep the session until its requests are answered; close the socket now.
        *self.session.writer.borrow_mut() = None;
        self.session.waker.borrow_mut().take();
        *self.session.replies.borrow_mut() = Replies::default();
        self.worker.parking.count(std::mem::take(&mut self.counted), 0);
        self.worker.remove_session(&self.session);
    }

    /// Updates the worker's count of parked bytes, once per turn.
    fn count_parked(&mut self) {
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
        this.session.poll_blocked(&worker, cx);
        let alive = !this.session.closed.get() && this.turn(cx).is_ok();
        this.count_parked();
        if alive {
            this.session.flush_quietly(&worker, cx);
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
