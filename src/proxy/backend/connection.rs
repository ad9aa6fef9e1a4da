//! The task of a backend: connects at the first request, then reads and writes until the connection breaks.
//! Knows nothing of what requests mean: replies belong to the requests in flight in order.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{
    Backend, BackendLink, InFlight, ReplyCheck, Requester, ServerUser,
    handshake::{self, Connected, LoginTarget},
    incomplete::{Beginning, IncompleteReply},
    inflight::WITHHELD,
    refusals::{OTHER_RULES, is_not_primary},
    slow::SlowCheck,
};
use crate::{
    clock::boottime_ns,
    proxy::{
        ProcessActivity,
        acks::Acks,
        counters::count,
        dedicated::DedicatedUse,
        reads::is_not_serving,
        transaction::BlockReply,
        worker::{TaskKind, TaskTurns, Turn, Worker, reserve},
    },
    resp::write::Version,
};

/// Pauses between tries to connect: doubled from the minimum to the maximum, with jitter. The minimum bridges the
/// restart of a server; the maximum keeps the load of a server that is down low.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Bytes that are read in a small turn: a read buffer, which usually has all replies.
const SMALL_TURN_BYTES: usize = 64 * 1024;

/// Bytes that are read in a large turn.
const LARGE_TURN_BYTES: usize = 256 * 1024;

/// Bytes reserved for the rest of an incomplete reply: as much as one read returns.
const REST_RESERVED: usize = 64 * 1024;

/// Bytes of a replica's error that are repeated to a client; the same as for other quoted texts.
const QUOTED_MAX: usize = 128;

/// The beginning of a server's error to a call of a script that it does not have; it has executed nothing. (Redis adds
/// advice, Valkey does not.)
const NO_SCRIPT: &[u8] = b"-NOSCRIPT No matching script.";

/// Runs until the backend is retired and has nothing in flight.
pub(in crate::proxy) async fn run(backend: Rc<Backend>, worker: Rc<Worker>) {
    let mut backoff = BACKOFF_MIN;
    let blocking = backend.dedicated_use() == Some(DedicatedUse::Blocking);
    let name = match blocking {
        true => worker.config.blocked_name(),
        false => format!("pontoon:{}", worker.config.node),
    };
    loop {
        if !wait_until_wanted(&backend).await {
            backend.set_link(BackendLink::Down);
            backend.fail_all(&worker, "was removed");
            return;
        }
        backend.wanted.set(false);
        let opening = match &backend.dedicated {
            None => None,
            Some(place) => {
                match tokio::time::timeout(worker.config.limits.request_deadline, place.opening.acquire()).await {
                    Ok(permit) => permit.ok(),
                    Err(_) => {
                        backend.set_link(BackendLink::Down);
                        return backend.fail_all(&worker, "has too many connections that are being opened");
                    }
                }
            }
        };
        let connect = handshake::connect(LoginTarget {
            addr: &backend.addr,
            control: backend.login.control.as_ref(),
            data: backend.login.data.as_ref().filter(|_| backend.user == ServerUser::Data),
            db: backend.db,
            version: backend.version,
            name: &name,
            client_id: blocking,
        });
        let connected = tokio::time::timeout(worker.config.limits.connect_deadline, connect).await;
        drop(opening);
        let error = match connected {
            Ok(Ok(Connected { run_id, .. })) if backend.replica && run_id != *backend.process.borrow() => {
                io::Error::other("was restarted and has not been probed since")
            }
            Ok(Ok(Connected { stream, run_id, client_id })) => {
                backoff = BACKOFF_MIN;
                let activity = worker.config.activity.connected(&backend.addr, &run_id);
                activity.note(boottime_ns());
                backend.identity.borrow().learn(&run_id, client_id);
                backend.scripts.connected(backend.product.scripts.process(&run_id.as_str().into()));
                let (reader, writer) = stream.into_split();
                let mut pump = Pump {
                    backend: &backend,
                    worker: &worker,
                    acks: None,
                    reader,
                    writer,
                    incomplete: IncompleteReply::default(),
                    last_read: worker.clock.tick(),
                    drained_at: worker.clock.tick(),
                    activity,
                    turns: TaskTurns::new(TaskKind::Backend(backend.product.routes.borrow().id)),
                };
                backend.abandoned.set(false);
                backend.full.set(false);
                backend.probe.reset();
                backend.set_link(BackendLink::Up);
                let why = poll_fn(|cx| pump.poll(cx)).await;
                pump.incomplete.break_off(&backend, &worker);
                backend.scripts.disconnected();
                tracing::debug!(server = %backend.addr, db = backend.db, why, "backend connection ended");
                if backend.is_dedicated() {
                    backend.set_link(BackendLink::Down);
                    return backend.fail_all(&worker, &why);
                }
                backend.set_link(BackendLink::Connecting);
                backend.fail_all(&worker, &why);
                continue;
            }
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    worker.report_data_user(&backend.addr);
                }
                error
            }
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "did not answer in time"),
        };
        if backend.link.get() != BackendLink::Down {
            tracing::warn!(server = %backend.addr, db = backend.db, %error, "server is down");
        }
        backend.set_link(BackendLink::Down);
        backend.fail_all(&worker, &format!("is down ({error})"));
        if backend.is_dedicated() {
            return;
        }
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
pub(super) struct Pump<'a> {
    pub(super) backend: &'a Backend,
    pub(super) worker: &'a Rc<Worker>,
    /// Where replies to writes wait for replicas; looked up again in each batch.
    acks: Option<Rc<Acks>>,
    reader: OwnedReadHalf,
    pub(super) writer: OwnedWriteHalf,
    incomplete: IncompleteReply,
    /// Tick of the last read that returned bytes.
    last_read: u32,
    /// Tick of the last write that continued after the buffer had been full.
    pub(super) drained_at: u32,
    /// Of the process at the other end, for the prober.
    activity: Arc<ProcessActivity>,
    turns: Rc<TaskTurns>,
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
        if backend.is_cut_off() {
            return Poll::Ready("was closed because a hold began".into());
        }
        if backend.is_for_nobody() {
            return Poll::Ready("has a request for a client that is gone".into());
        }
        if let Some(turn) = self.turns.begin(&self.worker.turns, cx) {
            match self.read(turn, cx) {
                Ok(more) => self.turns.end(&self.worker.turns, turn, more, cx),
                Err(why) => return Poll::Ready(why),
            }
            // After the read: if this thread did not run for a while, the reply is in the socket.
            if let Some(why) = self.overdue() {
                return Poll::Ready(why);
            }
        }
        if let Err(error) = self.write(cx) {
            return Poll::Ready(format!("closed the connection ({error})"));
        }
        if backend.retired.get() && backend.inflight.borrow().is_empty() {
            return Poll::Ready("was removed".into());
        }
        if !backend.is_dedicated() {
            let memory = &self.worker.memory;
            memory.charge_pool(&memory.queues, &backend.charged, backend.out.borrow().capacity());
        }
        Poll::Pending
    }

    /// Whether the oldest request has passed its deadline, and the reason to close the connection. The worker wakes the
    /// task for this check in each tick.
    fn overdue(&self) -> Option<String> {
        let sent = self.backend.inflight.borrow().front()?.due_from()?;
        let clock = &self.worker.clock;
        if clock.is_before(sent) {
            return None;
        }
        // Bytes that move, in either direction, are progress.
        let idle = clock.age(sent).min(clock.age(self.last_read)).min(clock.age(self.drained_at));
        (idle > self.worker.config.limits.request_deadline).then(|| {
            count(&self.worker.stats.overdue);
            format!("did not answer within {} ms", idle.as_millis())
        })
    }

    /// Reads until there is nothing to read (false) or the turn is over (true).
    fn read(&mut self, turn: Turn, cx: &mut Context<'_>) -> Result<bool, String> {
        let max = if turn.is_large() { LARGE_TURN_BYTES } else { SMALL_TURN_BYTES };
        let mut total = 0;
        loop {
            if self.incomplete.waits_for_client(self.backend, self.worker) {
                // The session wakes the task when the client has read. Until then the server is not to blame.
                self.last_read = self.worker.clock.tick();
                return Ok(false);
            }
            let Poll::Ready(read) = self.fill(cx) else { return Ok(false) };
            match read? {
                0 => return Err("closed the connection".into()),
                len => total += len,
            }
            if !self.incomplete.is_empty() {
                self.incomplete.note(self.backend, self.worker)?;
            }
            if total >= max || turn.is_over() {
                return Ok(true);
            }
        }
    }

    /// Reads once and delivers the complete replies; returns the number of bytes, which is 0 at the end of the stream.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, String>> {
        let broken = |error: io::Error| format!("lost the connection ({error})");
        if self.incomplete.bytes.is_empty() {
            // Read into the worker's buffer: most reads return complete replies, so that no bytes have to be kept.
            let mut scratch = self.worker.buffers.read.borrow_mut();
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Ok(())) if into.filled().is_empty() => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = into.filled();
            let used = self.deliver(bytes);
            if let Ok(used) = used {
                self.incomplete.bytes.extend_from_slice(&bytes[used..]);
            }
            Poll::Ready(used.map(|_| bytes.len()))
        } else {
            reserve(&mut self.incomplete.bytes, REST_RESERVED);
            // `read_buf` is cancel-safe: if it is dropped while pending, it has read nothing.
            let mut read = std::pin::pin!(self.reader.read_buf(&mut self.incomplete.bytes));
            let len = match read.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(n)) => n,
            };
            let mut rest = std::mem::take(&mut self.incomplete.bytes);
            let used = self.deliver(&rest);
            if let Ok(used) = used
                && used < rest.len()
            {
                rest.drain(..used);
                self.incomplete.bytes = rest;
            }
            Poll::Ready(used.map(|_| len))
        }
    }

    /// Records that bytes have arrived. The clock is read at most once per tick.
    fn note_activity(&mut self) {
        let tick = self.worker.clock.tick();
        if tick != self.last_read {
            self.last_read = tick;
            self.activity.note(boottime_ns());
        }
    }

    /// Delivers all complete replies after check 2, and writes to each client's socket once.
    fn deliver(&mut self, bytes: &[u8]) -> Result<usize, String> {
        self.note_activity();
        // Check 2 comes after the read that returned the replies, once for all of them. So does the time of their arrival.
        self.worker.clock.begin_batch();
        let check = ReplyCheck::new(self.worker, &self.backend.product);
        let confirm = self.backend.product.min_acks.get() > 0;
        let confirm_reads = confirm && self.backend.product.confirm_reads.get();
        let slow = SlowCheck::new(self.worker, &self.backend.product);
        let mut at = 0;
        let mut swapped = false;
        let outcome = loop {
            match self.incomplete.scanner.scan(&bytes[at..]) {
                Ok(Some(len)) => {
                    let mut reply = &bytes[at..at + len];
                    let of_import;
                    at += len;
                    if reply[0] == b'>' && self.backend.version == Version::Resp3 && self.incomplete.is_kept() {
                        continue;
                    }
                    let beginning = self.incomplete.end(self.backend, self.worker);
                    let Some(entry) = self.backend.inflight.borrow_mut().pop_front() else {
                        break Err("sent a reply without a request".to_owned());
                    };
                    let entry = if let Requester::Block(_) = &entry.requester {
                        match self.end_of_block(entry, reply, beginning) {
                            Ok(Some(entry)) => {
                                of_import = entry.reply_of_import(reply);
                                reply = of_import.as_deref().unwrap_or(reply);
                                entry
                            }
                            Ok(None) => {
                                at += self.skip_queued(&bytes[at..]);
                                continue;
                            }
                            Err(why) => break Err(why),
                        }
                    } else {
                        entry
                    };
                    slow.look_at(self.worker, self.backend, &entry);
                    self.note_swapped(&check, &entry, &mut swapped);
                    let passes = check.passes(&entry, &self.backend.product);
                    if beginning != Beginning::Kept {
                        self.deliver_large(entry, beginning, reply, passes);
                    } else if self.backend.replica {
                        self.deliver_from_replica(entry, reply, passes);
                    } else if !passes {
                        entry.withhold(self.worker, reply);
                    } else if reply[0] == b'-' && is_not_primary(reply) {
                        self.refuse_misrouted(entry);
                    } else if reply[0] == b'-' && self.is_refused_data_user(reply) {
                        self.refuse_data_user(entry);
                    } else if reply[0] == b'-' && reply.starts_with(NO_SCRIPT) {
                        self.repeat_script(entry, reply);
                    } else if confirm
                        && (entry.is_write || confirm_reads)
                        && !matches!(reply[0], b'-' | b'!')
                        && (confirm_reads || !entry.blocked_in_vain(reply))
                    {
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

    /// Takes a reply to a block: returns its entry if it is the last one, that to EXEC. Else the entry waits for the next.
    ///
    /// # Errors
    /// Returns why the connection can no longer be used.
    #[cold]
    fn end_of_block(&self, entry: InFlight, reply: &[u8], beginning: Beginning) -> Result<Option<InFlight>, String> {
        let Requester::Block(block) = &entry.requester else { return Ok(Some(entry)) };
        let kind = match beginning {
            Beginning::Kept => block.take(reply),
            _ => block.take_large(),
        };
        match kind {
            BlockReply::Last => return Ok(Some(entry)),
            BlockReply::More { refused: true } => self.note_refusal(reply),
            BlockReply::More { refused: false } => {}
            BlockReply::Unexpected => {
                self.backend.inflight.borrow_mut().push_front(entry);
                return Err("answered a transaction with an unexpected reply".into());
            }
        }
        self.backend.inflight.borrow_mut().push_front(entry);
        Ok(None)
    }

    /// Takes the replies at the start of `bytes` that say that commands of the block in front are queued. Returns their length.
    /// One by one, as other replies, they cost a transaction more than its commands do.
    #[cold]
    fn skip_queued(&self, bytes: &[u8]) -> usize {
        match self.backend.inflight.borrow().front().map(|entry| &entry.requester) {
            Some(Requester::Block(block)) => block.take_queued(bytes),
            _ => 0,
        }
    }

    /// Reports what an error says of the server.
    fn note_refusal(&self, error: &[u8]) {
        let addr = &self.backend.addr;
        match error {
            error if is_not_primary(error) => self.worker.report_misrouted(addr),
            error if self.is_refused_data_user(error) => self.worker.report_data_user(addr),
            _ => {}
        }
    }

    /// Notes the reply to a request that was sent under another table: a hold may have drained. Thousands of blocked calls
    /// may be answered at once, each on its own connection, so those are counted together.
    #[inline]
    fn note_swapped(&self, check: &ReplyCheck, entry: &InFlight, swapped: &mut bool) {
        if check.same_table(entry) {
            return;
        }
        if self.backend.dedicated_use() == Some(DedicatedUse::Blocking) {
            self.worker.recount_soon();
        } else {
            *swapped = true;
        }
    }

    /// Delivers a reply of which `rest` are the last bytes.
    #[cold]
    fn deliver_large(&mut self, entry: InFlight, beginning: Beginning, rest: &[u8], passes: bool) {
        match beginning {
            Beginning::Kept => entry.deliver(self.worker, rest),
            Beginning::PassedOn => {
                let len = self.incomplete.take_passed_on() + rest.len();
                let session = entry.requester.session().clone();
                entry.deliver(self.worker, rest);
                session.note_large_reply(self.worker, len);
            }
            Beginning::Discarded => {}
            Beginning::InPieces => {
                let reply = self.incomplete.complete(rest);
                let product = &self.backend.product;
                let confirm = product.min_acks.get() > 0 && (entry.is_write || product.confirm_reads.get());
                if self.backend.replica && passes {
                    self.backend.take_answered(entry.len);
                    entry.deliver_in_pieces(self.worker, reply);
                } else if self.backend.replica {
                    self.deliver_from_replica(entry, b"", passes);
                } else if !passes {
                    entry.withhold(self.worker, b"");
                } else if confirm && reply.first() != Some(b'!') {
                    self.await_replicas(entry, &reply.concat());
                } else {
                    entry.deliver_in_pieces(self.worker, reply);
                }
            }
        }
    }

    /// Delivers a replica's reply to a read, or repeats the read at the primary if check 2 withholds the reply, or the
    /// replica cannot serve reads, or does not let the data user run the command.
    fn deliver_from_replica(&self, entry: InFlight, reply: &[u8], passes: bool) {
        let backend = self.backend;
        let request = backend.take_answered(entry.len);
        let refuses_user = || reply[0] == b'-' && self.is_refused_data_user(reply);
        let (sent, why) = match passes {
            true if is_not_serving(reply) => {
                let text = String::from_utf8_lossy(&reply[1..reply.len().min(QUOTED_MAX)]);
                (true, format!("the replica says: {}", text.trim_end()))
            }
            true if refuses_user() => {
                self.worker.report_data_user(&backend.addr);
                (false, format!("the replica {OTHER_RULES}"))
            }
            true => return entry.deliver(self.worker, reply),
            false => (true, WITHHELD.to_owned()),
        };
        let request = backend.out.borrow().get(request).unwrap_or_default().to_vec();
        entry.retry_at_primary(self.worker, backend, &request, sent, &why);
    }

    /// A server lacks a script: the call is repeated with the body, if that is possible.
    #[cold]
    fn repeat_script(&self, entry: InFlight, reply: &[u8]) {
        let repeated = match &entry.requester {
            Requester::Session(session, ticket) => session.repeat_script(self.worker, self.backend, *ticket, reply),
            Requester::Part(..) | Requester::Block(_) | Requester::Step(_) | Requester::Load(_) => false,
        };
        if !repeated {
            entry.deliver(self.worker, reply);
        }
    }

    /// Lets the reply to a write wait until enough replicas have the write.
    fn await_replicas(&mut self, entry: InFlight, reply: &[u8]) {
        let backend = self.backend;
        let acks = self.acks.get_or_insert_with(|| backend.product.acks(self.worker, backend));
        let run_id = backend.identity.borrow().run_id().cloned().unwrap_or_else(|| "".into());
        acks.push(self.worker, entry, reply, run_id);
    }
}
