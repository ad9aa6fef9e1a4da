//! The connection that asks which replicas have the writes of a server: `PING`, `WAIT n t` for all that wait, and while that
//! is under way the next gather. Knows nothing of clients, nor of what becomes of an answer.
//!
//! `WAIT` counts the replicas that have what its *own* connection has written, and answers at once where it has written
//! nothing. The PING makes the server remember its present offset for this connection, also though it writes nothing; sent
//! after the reply to a write was read, that offset is behind the write.

use std::{fmt::Write as _, io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{AckDecision, Acks};
use crate::{
    proxy::{
        backend::handshake::{self, LogIn},
        worker::Worker,
    },
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
        write::{self, Version},
    },
};

/// An answer may come so much later than `WAIT` was to wait: servers look at such times every 100 ms.
const GRACE: Duration = Duration::from_millis(500);

/// Between two attempts to connect: what is written meanwhile waits for the next.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Bytes of the answers to PING and WAIT; an error text is the longest.
const ANSWERS_MAX: usize = 16 * 1024;

/// A connection that is up.
struct AckLink {
    stream: TcpStream,
    /// Run id of the process behind it.
    run_id: String,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

/// Runs until the server is retired and nothing waits.
pub(in crate::proxy) async fn run(acks: Rc<Acks>, worker: Rc<Worker>) {
    let mut link: Option<AckLink> = None;
    let mut not_before = Instant::now();
    loop {
        if acks.is_empty() {
            if acks.retired.get() {
                return;
            }
            if !rest(&acks, link.as_ref(), &worker).await {
                link = None;
            }
            continue;
        }
        let asked = tokio::select! {
            biased;
            // First: then an answer that has come is about those who still wait.
            () = acks.void.notified() => None,
            asked = ask(&acks, &mut link, not_before, &worker) => Some(asked),
        };
        let Some(asked) = asked else {
            // Whatever the connection still answers is about nobody.
            link = None;
            continue;
        };
        let WaitRequest { count, wanted, outcome } = asked;
        match outcome {
            Ok(have) if have >= wanted => acks.settle(&worker, count, &AckDecision::Confirmed),
            Ok(have) => {
                let within = acks.product.routes.borrow().min_acks_ms;
                let why = format!("{have} have it after {within} ms");
                acks.settle(&worker, count, &AckDecision::Unconfirmed { wanted, why: &why });
            }
            Err(error) => {
                link = None;
                not_before = Instant::now() + AGAIN_AFTER;
                tracing::debug!(server = %acks.addr, %error, "replicas cannot be asked for");
                let why = format!("server {} {error}", acks.addr);
                acks.settle(&worker, count, &AckDecision::Unconfirmed { wanted, why: &why });
            }
        }
    }
}

/// Waits for work. False: the connection has come to its end meanwhile, or nobody has used it for long.
async fn rest(acks: &Acks, link: Option<&AckLink>, worker: &Worker) -> bool {
    let broken = async {
        match link {
            Some(link) => link.broken().await,
            None => std::future::pending().await,
        }
    };
    let worked = timeout(worker.config.limits.backend_idle, async {
        tokio::select! {
            biased;
            () = acks.work.notified() => true,
            () = broken => false,
        }
    });
    worked.await.unwrap_or(false)
}

/// What was asked, for how many writes.
struct WaitRequest {
    count: usize,
    /// Replicas that must have them.
    wanted: u32,
    /// Replicas that have them.
    outcome: io::Result<u32>,
}

async fn ask(acks: &Acks, link: &mut Option<AckLink>, not_before: Instant, worker: &Worker) -> WaitRequest {
    let (min_acks, within) = {
        let routes = acks.product.routes.borrow();
        // It may have been turned off meanwhile: what waits was sent under the former setting.
        (u32::from(routes.min_acks.max(1)), Duration::from_millis(routes.min_acks_ms.into()))
    };
    // The server counts any replica; those that are not the group's are no help when it fails.
    let wanted = min_acks + worker.config.unmanaged.of(&acks.addr);
    if link.is_none() {
        sleep_until(not_before).await;
        let name = format!("pontoon:{}:acks", worker.config.node);
        let connecting = handshake::connect(LogIn {
            addr: &acks.addr,
            credentials: acks.credentials.as_ref(),
            db: 0,
            version: Version::Resp2,
            name: &name,
        });
        let connected = timeout(worker.config.limits.connect_deadline, connecting).await;
        match connected.unwrap_or_else(|_| Err(io::Error::other("did not let us in in time"))) {
            Ok((stream, run_id)) => {
                *link = Some(AckLink { stream, run_id, buffer: Vec::new(), request: Vec::new() });
            }
            Err(error) => {
                let count = acks.group().map_or(0, |(count, _)| count);
                return WaitRequest { count, wanted, outcome: Err(error) };
            }
        }
    }
    // What came while connecting goes with it.
    let (count, by) = acks.group().unwrap_or_default();
    let outcome = match link {
        Some(link) if by.is_empty() || *by != *link.run_id => {
            Err(io::Error::other("was restarted since, or does not tell its run id"))
        }
        Some(link) => link.confirm(wanted, within).await,
        None => Err(io::Error::other("is not connected")),
    };
    WaitRequest { count, wanted, outcome }
}

impl AckLink {
    /// How many replicas have everything that the server has executed before it gets this. After an error, or if this is
    /// dropped before it is through, the connection is of no use.
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
            let pong = self.answer().await?;
            if self.buffer[0] != b'+' {
                return Err(refused("PING", &self.buffer[..pong]));
            }
            self.buffer.drain(..pong);
            let len = self.answer().await?;
            let count = match (self.buffer[0], header(&self.buffer, 1)) {
                (b':', Header::Number(count, _)) => u32::try_from(count).unwrap_or(0),
                _ => return Err(refused("WAIT", &self.buffer[..len])),
            };
            self.buffer.drain(..len);
            if self.buffer.is_empty() { Ok(count) } else { Err(io::Error::other("answers what nobody asked")) }
        };
        timeout_at(end, answered)
            .await
            .unwrap_or_else(|_| Err(io::Error::other(format!("did not answer WAIT within {} ms", within.as_millis()))))
    }

    /// Resolves when the server has closed it. Nothing was asked, so anything that can be read is the end, or rubbish.
    async fn broken(&self) {
        while self.stream.readable().await.is_ok() {
            // Readable is only a hint.
            match self.stream.try_read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Reads until an answer is whole; its length.
    async fn answer(&mut self) -> io::Result<usize> {
        let mut scanner = ReplyScanner::default();
        loop {
            let whole = scanner.scan(&self.buffer);
            if let Some(len) = whole.map_err(|error| io::Error::other(format!("sends what is no reply ({error})")))? {
                return Ok(len);
            }
            if self.buffer.len() > ANSWERS_MAX {
                return Err(io::Error::other("answers endlessly"));
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
