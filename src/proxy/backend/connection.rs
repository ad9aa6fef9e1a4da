//! The task of a backend: connects when wanted, then reads and writes at once until something breaks.
//! Knows nothing of what requests mean: replies are paired with the in-flight queue in order.

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
    AtReply, Backend, BackendLink, Entry,
    handshake::{self, LogIn},
    inflight::WITHHELD,
};
use crate::{
    proxy::{acks::Acks, reads::is_no_answer, worker::Worker},
    resp::{reply::ReplyScanner, write::Version},
};

/// Waits between attempts to connect: doubled from the first to the last, with jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Reads in one turn before others get theirs.
const READS_PER_TURN: usize = 4;

/// Reserved for the rest of a reply that came in part.
const REST_RESERVED: usize = 64 * 1024;

/// A reply that has come in part is overdue only when nothing more of it has come for so long.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a replica's error that are repeated to a client.
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
        let connect = handshake::connect(LogIn {
            addr: &backend.addr,
            credentials: backend.credentials.as_ref(),
            db: backend.db,
            version: backend.version,
            name: &name,
        });
        let connected = tokio::time::timeout(worker.config.limits.connect_deadline, connect).await;
        let error = match connected {
            Ok(Ok((_, run_id))) if backend.replica && run_id != *backend.process.borrow() => {
                io::Error::other("was started anew and has not been looked at since")
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
                    last_read: worker.tick.get(),
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

/// Waits for the first request, or for the first refused one while the server is down. False: retired.
async fn wait_until_wanted(backend: &Backend) -> bool {
    poll_fn(|cx| {
        backend.watch(cx);
        if backend.retired.get() && backend.inflight.borrow().is_empty() {
            return Poll::Ready(false);
        }
        // While down it goes on trying, wanted or not: the next client should find it up.
        let ready =
            !backend.inflight.borrow().is_empty() || backend.wanted.get() || backend.link.get() == BackendLink::Down;
        if ready { Poll::Ready(true) } else { Poll::Pending }
    })
    .await
}

impl Backend {
    fn watch(&self, cx: &Context<'_>) {
        self.armed.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

/// Moves bytes both ways while the connection is up.
struct Pump<'a> {
    backend: &'a Backend,
    worker: &'a Rc<Worker>,
    /// Where written replies wait for replicas; looked for anew in each batch.
    acks: Option<Rc<Acks>>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// The beginning of a reply that has not come whole.
    rest: Vec<u8>,
    scanner: ReplyScanner,
    /// Tick of the last read that brought something.
    last_read: u32,
}

impl Pump<'_> {
    /// One turn. Ready: the connection is of no use any more, and why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let backend = self.backend;
        backend.watch(cx);
        if backend.abandoned.get() {
            return Poll::Ready(backend.given_up().into());
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

    /// The front is the oldest: one look tells whether a deadline has passed. The worker's tick wakes us for it.
    fn overdue(&self) -> Option<String> {
        let sent = self.backend.inflight.borrow().front()?.tick;
        if !self.rest.is_empty() && self.worker.age(self.last_read) < STALLED_AFTER {
            // A large reply is on its way.
            return None;
        }
        let age = self.worker.age(sent);
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
        // There may be more; others first.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// One read and its replies. `Ok(false)`: end of stream.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, String>> {
        let lost = |error: io::Error| format!("lost the connection ({error})");
        if self.rest.is_empty() {
            // Into the worker's buffer: most reads bring whole replies, and nothing is kept of them.
            let mut scratch = self.worker.scratch.borrow_mut();
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(error))),
                Poll::Ready(Ok(())) if into.filled().is_empty() => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = into.filled();
            let used = self.deliver(bytes);
            let Ok(used) = used else { return Poll::Ready(used.map(|_| true)) };
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            self.rest.reserve(REST_RESERVED);
            // `read_buf` is cancel-safe: dropped while pending it has read nothing.
            let mut read = std::pin::pin!(self.reader.read_buf(&mut self.rest));
            match read.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(error))),
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

    /// Hands every whole reply to its owner, after check 2, and lets each client's socket be written once.
    fn deliver(&mut self, bytes: &[u8]) -> Result<usize, String> {
        self.last_read = self.worker.tick.get();
        // After the read that brought them, once for all of them.
        let check = AtReply::now(self.worker, &self.backend.product);
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
                        break Err("answers what nobody asked".to_owned());
                    };
                    swapped |= !check.same_table(&entry);
                    let passes = check.passes(&entry, &self.backend.product);
                    if self.backend.replica {
                        self.replica_said(entry, reply, passes);
                    } else if !passes {
                        entry.withhold(self.worker);
                    } else if confirm && entry.is_write && !matches!(reply[0], b'-' | b'!') {
                        self.await_replicas(entry, reply);
                    } else {
                        entry.deliver(self.worker, reply);
                    }
                }
                Ok(None) => break Ok(at),
                Err(error) => break Err(format!("sends what is no reply ({error})")),
            }
        };
        self.acks = None;
        self.worker.flush_touched();
        if swapped {
            self.worker.recount_holds();
        }
        outcome
    }

    /// The reply to a read at a replica. Where it may not pass, or is none, the primary is asked.
    fn replica_said(&self, entry: Entry, reply: &[u8], passes: bool) {
        let backend = self.backend;
        let request = backend.note_answer(entry.len);
        let why = match passes {
            true if !is_no_answer(reply) => return entry.deliver(self.worker, reply),
            true => {
                let text = String::from_utf8_lossy(&reply[1..reply.len().min(QUOTED_MAX)]);
                format!("the replica says: {}", text.trim_end())
            }
            false => WITHHELD.to_owned(),
        };
        let request = backend.out.borrow().get(request).unwrap_or_default().to_vec();
        entry.again(self.worker, backend, &request, true, &why);
    }

    /// A write's reply is there; its client gets it when enough replicas have the write.
    fn await_replicas(&mut self, entry: Entry, reply: &[u8]) {
        let backend = self.backend;
        let acks = self.acks.get_or_insert_with(|| backend.product.acks(self.worker, backend));
        acks.push(self.worker, entry, reply, backend.run_id.borrow().clone());
    }

    /// Writes all that is queued; what the socket does not take waits for it to become writable.
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
