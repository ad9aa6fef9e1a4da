//! The task of a backend: connects at the first request, then reads and writes until the connection breaks.
//! Knows nothing of what requests mean: replies belong to the requests in flight in order.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{
    Backend, BackendLink, InFlight, ReplyCheck,
    handshake::{self, LoginTarget},
    inflight::WITHHELD,
};
use crate::{
    proxy::{acks::Acks, reads::is_not_serving, worker::Worker},
    resp::{reply::ReplyScanner, write::Version},
};

/// Pauses between tries to connect: doubled from the minimum to the maximum, with jitter. The minimum bridges the
/// restart of a server; the maximum keeps the load of a server that is down low.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Number of reads in one turn, so that other tasks get their turns.
const READS_PER_TURN: usize = 4;

/// Bytes reserved for the rest of an incomplete reply: as much as one read returns.
const REST_RESERVED: usize = 64 * 1024;

/// An incomplete reply is overdue only if no more bytes of it have arrived for this time.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a replica's error that are repeated to a client; the same as for other quoted texts.
const QUOTED_MAX: usize = 128;

/// Runs until the backend is retired and has nothing in flight.
pub(in crate::proxy) async fn run(backend: Rc<Backend>, worker: Rc<Worker>) {
    let mut backoff = BACKOFF_MIN;
    let name = format!("pontoon:{}", worker.config.node);
    loop {
        if !wait_until_wanted(&backend).await {
            backend.fail_all(&worker, "was removed");
            return;
        }
        backend.wanted.set(false);
        let connect = handshake::connect(LoginTarget {
            addr: &backend.addr,
            credentials: backend.credentials.as_ref(),
            db: backend.db,
            version: backend.version,
            name: &name,
        });
        let connected = tokio::time::timeout(worker.config.limits.connect_deadline, connect).await;
        let error = match connected {
            Ok(Ok((_, run_id))) if backend.replica && run_id != *backend.process.borrow() => {
                io::Error::other("was restarted and has not been probed since")
            }
            Ok(Ok((stream, run_id))) => {
                backoff = BACKOFF_MIN;
                *backend.run_id.borrow_mut() = run_id.into();
                let (reader, writer) = stream.into_split();
                let mut pump = Pump {
                    backend: &backend,
                    worker: &worker,
                    acks: None,
                    reader,
                    writer,
                    rest: Vec::new(),
                    scanner: ReplyScanner::default(),
                    last_read: worker.clock.tick(),
                };
                backend.abandoned.set(false);
                backend.link.set(BackendLink::Up);
                let why = poll_fn(|cx| pump.poll(cx)).await;
                backend.link.set(BackendLink::Connecting);
                tracing::debug!(server = %backend.addr, db = backend.db, why, "backend connection ended");
                backend.fail_all(&worker, &why);
                continue;
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "did not answer in time"),
        };
        if backend.link.get() != BackendLink::Down {
            tracing::warn!(server = %backend.addr, db = backend.db, %error, "server is down");
        }
        backend.link.set(BackendLink::Down);
        backend.fail_all(&worker, &format!("is down ({error})"));
        let jitter = 0.5 + fastrand::f64() / 2.0;
        tokio::time::sleep(backoff.mul_f64(jitter)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Waits until a request needs the connection. Returns false if the backend is retired and has nothing in flight.
async fn wait_until_wanted(backend: &Backend) -> bool {
    poll_fn(|cx| {
        backend.register_waker(cx);
        if backend.retired.get() && backend.inflight.borrow().is_empty() {
            return Poll::Ready(false);
        }
        // While the server is down, keep trying even without requests, so that the next request finds it up.
        let ready =
            !backend.inflight.borrow().is_empty() || backend.wanted.get() || backend.link.get() == BackendLink::Down;
        if ready { Poll::Ready(true) } else { Poll::Pending }
    })
    .await
}

impl Backend {
    fn register_waker(&self, cx: &Context<'_>) {
        self.armed.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

/// Moves bytes in both directions while the connection is up.
struct Pump<'a> {
    backend: &'a Backend,
    worker: &'a Rc<Worker>,
    /// Where replies to writes wait for replicas; looked up again in each batch.
    acks: Option<Rc<Acks>>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// The beginning of an incomplete reply.
    rest: Vec<u8>,
    scanner: ReplyScanner,
    /// Tick of the last read that returned bytes.
    last_read: u32,
}

impl Pump<'_> {
    /// Runs one turn. Ready if the connection can no longer be used, with the reason, which completes "server ADDR
    /// ...".
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let backend = self.backend;
        backend.register_waker(cx);
        if backend.abandoned.get() {
            return Poll::Ready(backend.abandon_reason().into());
        }
        if let Some(why) = self.overdue() {
            return Poll::Ready(why);
        }
        if let Err(why) = self.read(cx) {
            return Poll::Ready(why);
        }
        if let Err(error) = self.write(cx) {
            return Poll::Ready(format!("closed the connection ({error})"));
        }
        if backend.retired.get() && backend.inflight.borrow().is_empty() {
            return Poll::Ready("was removed".into());
        }
        Poll::Pending
    }

    /// Whether the oldest request has passed its deadline, and the reason to close the connection. The worker wakes the
    /// task for this check in each tick.
    fn overdue(&self) -> Option<String> {
        let sent = self.backend.inflight.borrow().front()?.tick;
        if !self.rest.is_empty() && self.worker.clock.age(self.last_read) < STALLED_AFTER {
            // A large reply is arriving.
            return None;
        }
        let age = self.worker.clock.age(sent);
        (age > self.worker.config.limits.request_deadline)
            .then(|| format!("did not answer within {} ms", age.as_millis()))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        for _ in 0..READS_PER_TURN {
            let Poll::Ready(read) = self.fill(cx) else { return Ok(()) };
            match read {
                Ok(true) => {}
                Ok(false) => return Err("closed the connection".into()),
                Err(error) => return Err(error),
            }
        }
        // There may be more to read, after the turns of other tasks.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once and delivers the complete replies. `Ok(false)`: end of stream.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, String>> {
        let broken = |error: io::Error| format!("lost the connection ({error})");
        if self.rest.is_empty() {
            // Read into the worker's buffer: most reads return complete replies, so that no bytes have to be kept.
            let mut scratch = self.worker.buffers.read.borrow_mut();
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Ok(())) if into.filled().is_empty() => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = into.filled();
            let used = self.deliver(bytes);
            let Ok(used) = used else { return Poll::Ready(used.map(|_| true)) };
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            self.rest.reserve(REST_RESERVED);
            // `read_buf` is cancel-safe: if it is dropped while pending, it has read nothing.
            let mut read = std::pin::pin!(self.reader.read_buf(&mut self.rest));
            match read.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(_)) => {}
            }
            let mut rest = std::mem::take(&mut self.rest);
            let used = self.deliver(&rest);
            let Ok(used) = used else { return Poll::Ready(used.map(|_| true)) };
            if used < rest.len() {
                rest.drain(..used);
                self.rest = rest;
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Delivers all complete replies after check 2, and writes to each client's socket once.
    fn deliver(&mut self, bytes: &[u8]) -> Result<usize, String> {
        self.last_read = self.worker.clock.tick();
        // Check 2 comes after the read that returned the replies, once for all of them.
        let check = ReplyCheck::new(self.worker, &self.backend.product);
        let confirm = self.backend.product.min_acks.get() > 0;
        let mut at = 0;
        let mut swapped = false;
        let outcome = loop {
            match self.scanner.scan(&bytes[at..]) {
                Ok(Some(len)) => {
                    let reply = &bytes[at..at + len];
                    at += len;
                    if reply[0] == b'>' && self.backend.version == Version::Resp3 {
                        continue;
                    }
                    let Some(entry) = self.backend.inflight.borrow_mut().pop_front() else {
                        break Err("sent a reply without a request".to_owned());
                    };
                    swapped |= !check.same_table(&entry);
                    let passes = check.passes(&entry, &self.backend.product);
                    if self.backend.replica {
                        self.deliver_from_replica(entry, reply, passes);
                    } else if !passes {
                        entry.withhold(self.worker);
                    } else if confirm && entry.is_write && !matches!(reply[0], b'-' | b'!') {
                        self.await_replicas(entry, reply);
                    } else {
                        entry.deliver(self.worker, reply);
                    }
                }
                Ok(None) => break Ok(at),
                Err(error) => break Err(format!("sent an invalid reply ({error})")),
            }
        };
        self.acks = None;
        self.worker.flush_replied();
        if swapped {
            self.worker.recount_holds();
        }
        outcome
    }

    /// Delivers a replica's reply to a read, or repeats the read at the primary if check 2 withholds the reply or the
    /// replica cannot serve reads.
    fn deliver_from_replica(&self, entry: InFlight, reply: &[u8], passes: bool) {
        let backend = self.backend;
        let request = backend.take_answered(entry.len);
        let why = match passes {
            true if !is_not_serving(reply) => return entry.deliver(self.worker, reply),
            true => {
                let text = String::from_utf8_lossy(&reply[1..reply.len().min(QUOTED_MAX)]);
                format!("the replica says: {}", text.trim_end())
            }
            false => WITHHELD.to_owned(),
        };
        let request = backend.out.borrow().get(request).unwrap_or_default().to_vec();
        entry.retry_at_primary(self.worker, backend, &request, true, &why);
    }

    /// Lets the reply to a write wait until enough replicas have the write.
    fn await_replicas(&mut self, entry: InFlight, reply: &[u8]) {
        let backend = self.backend;
        let acks = self.acks.get_or_insert_with(|| backend.product.acks(self.worker, backend));
        acks.push(self.worker, entry, reply, backend.run_id.borrow().clone());
    }

    /// Writes all queued bytes; if the socket's buffer is full, waits until it is writable.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let backend = self.backend;
        loop {
            let mut out = backend.out.borrow_mut();
            let written = backend.written.get();
            if written == out.len() {
                backend.compact(&mut out);
                return Ok(());
            }
            match self.writer.try_write(&out[written..]) {
                Ok(n) => {
                    backend.written.set(written + n);
                    backend.compact(&mut out);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(out);
                    match self.writer.as_ref().poll_write_ready(cx) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(ready) => ready?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
