//! The connection that asks a server how many replicas have its writes: `PING` and `WAIT n t` for all waiting writes;
//! the next batch forms meanwhile. Knows nothing of clients and of how the result is used.
//!
//! `WAIT` counts the replicas that have what its *own* connection has written, and returns at once if that connection
//! has written nothing. PING makes the server remember its current replication offset for this connection, although
//! PING writes nothing. Because PING is sent after the reply to a write was read, that offset is after the write.

use std::{fmt::Write as _, io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{AckDecision, Acks};
use crate::{
    proxy::{
        backend::handshake::{self, Connected, LoginTarget},
        worker::Worker,
    },
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
        write::{self, Version},
    },
};

/// A reply may arrive this much later than the timeout of `WAIT`: servers check such timeouts only every 100 ms.
const GRACE: Duration = Duration::from_millis(500);

/// Pause between two tries to connect; writes wait meanwhile. Short compared with usual timeouts of `min-acks`.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Longest reply to PING or WAIT, in bytes; error texts are the longest.
const REPLY_MAX: usize = 16 * 1024;

/// A connection that is up.
struct AckLink {
    stream: TcpStream,
    /// Run id of the process at the other end.
    run_id: String,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

/// Runs until the server is retired and no write waits.
pub(in crate::proxy) async fn run(acks: Rc<Acks>, worker: Rc<Worker>) {
    let mut link: Option<AckLink> = None;
    let mut not_before = Instant::now();
    loop {
        if acks.is_empty() {
            if acks.retired.get() {
                return;
            }
            if !wait_for_work(&acks, link.as_ref(), &worker).await {
                link = None;
            }
            continue;
        }
        let result = {
            let mut replicas = std::pin::pin!(wait_for_replicas(&acks, &mut link, not_before, &worker));
            loop {
                tokio::select! {
                    biased;
                    // Checked first, so that a result always concerns writes that still wait.
                    () = acks.abandoned.notified() => break None,
                    result = &mut replicas => break Some(result),
                    () = acks.expired() => acks.settle_expired(&worker),
                }
            }
        };
        let Some(result) = result else {
            // Replies that are still due on the connection are of no use.
            link = None;
            continue;
        };
        let WaitResult { until, wanted, outcome } = result;
        match outcome {
            Ok(have) if have >= wanted => acks.settle(&worker, until, &AckDecision::Confirmed),
            Ok(have) => {
                let within = acks.product.routes.borrow().min_acks_ms;
                let why = format!("{have} confirmed within {within} ms");
                acks.settle(&worker, until, &AckDecision::Unconfirmed { wanted, why: &why });
            }
            Err(error) => {
                link = None;
                not_before = Instant::now() + AGAIN_AFTER;
                tracing::debug!(server = %acks.addr, %error, "cannot ask how many replicas have the writes");
                let why = acks.product.of_server(&acks.addr, &error.to_string());
                acks.settle(&worker, until, &AckDecision::Unconfirmed { wanted, why: &why });
            }
        }
    }
}

/// Waits for a write. Returns false if the connection was closed meanwhile or was unused for too long.
async fn wait_for_work(acks: &Acks, link: Option<&AckLink>, worker: &Worker) -> bool {
    let closed = async {
        match link {
            Some(link) => link.closed_by_server().await,
            None => std::future::pending().await,
        }
    };
    let worked = timeout(worker.config.limits.backend_idle, async {
        tokio::select! {
            biased;
            () = acks.work.notified() => true,
            () = closed => false,
        }
    });
    worked.await.unwrap_or(false)
}

/// The result of `WAIT` for a batch of writes.
struct WaitResult {
    /// The number of the first write that is not among them.
    until: u64,
    /// Replicas that must have them.
    wanted: u32,
    /// Replicas that have them.
    outcome: io::Result<u32>,
}

async fn wait_for_replicas(
    acks: &Acks,
    link: &mut Option<AckLink>,
    not_before: Instant,
    worker: &Worker,
) -> WaitResult {
    let (min_acks, within) = {
        let routes = acks.product.routes.borrow();
        // `min-acks` may be off by now; the waiting writes were sent under the former setting.
        (u32::from(routes.min_acks.max(1)), Duration::from_millis(routes.min_acks_ms.into()))
    };
    // The server also counts unmanaged replicas, which cannot be promoted.
    let wanted = min_acks + worker.config.unmanaged.of(&acks.addr);
    if link.is_none() {
        sleep_until(not_before).await;
        let name = format!("pontoon:{}:acks", worker.config.node);
        let connecting = handshake::connect(LoginTarget {
            addr: &acks.addr,
            control: acks.credentials.as_ref(),
            data: None,
            db: 0,
            version: Version::Resp2,
            name: &name,
            client_id: false,
        });
        let connected = timeout(worker.config.limits.connect_deadline, connecting).await;
        match connected.unwrap_or_else(|_| Err(io::Error::other("did not complete the login in time"))) {
            Ok(Connected { stream, run_id, .. }) => {
                *link = Some(AckLink { stream, run_id, buffer: Vec::new(), request: Vec::new() });
            }
            Err(error) => {
                let until = acks.batch().map_or(0, |(until, _)| until);
                return WaitResult { until, wanted, outcome: Err(error) };
            }
        }
    }
    // Writes that arrived while connecting belong to the same batch.
    let Some((until, run_id)) = acks.batch() else {
        // All have expired while it connected.
        return WaitResult { until: 0, wanted, outcome: Ok(0) };
    };
    let outcome = match link {
        Some(link) if run_id.is_empty() || *run_id != *link.run_id => {
            Err(io::Error::other("was restarted since the write, or does not report its run id"))
        }
        Some(link) => link.confirm(wanted, within).await,
        None => Err(io::Error::other("is not connected")),
    };
    WaitResult { until, wanted, outcome }
}

impl AckLink {
    /// Returns how many replicas have everything that the server executed before it received this request. After an
    /// error, or if the future is dropped before it completes, the connection must be closed.
    async fn confirm(&mut self, wanted: u32, within: Duration) -> io::Result<u32> {
        self.request.clear();
        write::request(&mut self.request, &[b"PING"]);
        let mut numbers = String::with_capacity(32);
        let _ = write!(numbers, "{wanted} {}", within.as_millis());
        let (n, t) = numbers.split_once(' ').unwrap_or_default();
        write::request(&mut self.request, &[b"WAIT", n.as_bytes(), t.as_bytes()]);
        let end = Instant::now() + within + GRACE;
        let answered = async {
            self.stream.write_all(&self.request).await?;
            let pong = self.reply().await?;
            if self.buffer[0] != b'+' {
                return Err(refused("PING", &self.buffer[..pong]));
            }
            self.buffer.drain(..pong);
            let len = self.reply().await?;
            let count = match (self.buffer[0], header(&self.buffer, 1)) {
                (b':', Header::Number(count, _)) => u32::try_from(count).unwrap_or(0),
                _ => return Err(refused("WAIT", &self.buffer[..len])),
            };
            self.buffer.drain(..len);
            if self.buffer.is_empty() { Ok(count) } else { Err(io::Error::other("sent a reply without a request")) }
        };
        timeout_at(end, answered)
            .await
            .unwrap_or_else(|_| Err(io::Error::other(format!("did not answer WAIT within {} ms", within.as_millis()))))
    }

    /// Completes when the server has closed the connection. No reply is due, so any readable byte is an error, too.
    async fn closed_by_server(&self) {
        while self.stream.readable().await.is_ok() {
            // `readable` may complete although nothing can be read.
            match self.stream.try_read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Reads until a reply is complete; returns its length.
    async fn reply(&mut self) -> io::Result<usize> {
        let mut scanner = ReplyScanner::default();
        loop {
            let whole = scanner.scan(&self.buffer);
            if let Some(len) = whole.map_err(|error| io::Error::other(format!("sent an invalid reply ({error})")))? {
                return Ok(len);
            }
            if self.buffer.len() > REPLY_MAX {
                return Err(io::Error::other(format!("sent a reply longer than {REPLY_MAX} bytes")));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("closed the connection"));
            }
        }
    }
}

fn refused(what: &str, answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer.get(1..).unwrap_or_default());
    io::Error::other(format!("refused {what}: {}", text.trim_end().replace(['\r', '\n'], " ")))
}
