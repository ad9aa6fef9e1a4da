//! The replication stream as a feed: attached at the present offset with PSYNC, without a snapshot and without a fork.
//! Knows nothing of what the commands in it mean beyond their keys. It never says that it has received anything for good
//! (`REPLCONF ACK 0`), so that no client's WAIT counts it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Event, Feed, stream::Stream};
use crate::{
    mover::{io::connection::Connection, spec::Endpoint},
    redis::{Info, RedisError, Reply},
    resp::write,
};

/// Between two `REPLCONF ACK 0`: a server drops a replica that is silent for `repl-timeout` (60 s; 10 s is the least in use).
const ACK_EVERY: Duration = Duration::from_secs(1);
/// Between two polls whether a backlog has come into being.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Attempts at an offset that is still in the backlog: it may have moved on between asking and attaching.
const ATTEMPTS: u32 = 5;
/// Longest answer to PSYNC.
const LINE_MAX: usize = 4 << 10;

/// Why there is no such feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PsyncRefusal {
    /// The server does not offer it; another kind of feed may do.
    Unsupported(String),
    /// It should have worked; another attempt may.
    Failed(String),
}

impl std::fmt::Display for PsyncRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<RedisError> for PsyncRefusal {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Refused { .. } | RedisError::NotAllowed { .. } => Self::Unsupported(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// A feed by PSYNC.
pub struct Psync {
    connection: Connection,
    stream: Stream,
    acked: Instant,
    barrier: u64,
}

impl Psync {
    /// Attaches to the stream of the server, after making it keep one if it has never had a replica.
    ///
    /// # Errors
    /// See [`PsyncRefusal`].
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, PsyncRefusal> {
        let mut connection = Connection::open(endpoint, name, deadline).await?;
        let mut info = replication(&mut connection, deadline).await?;
        // Kept until the stream is there: it is what makes the server keep a backlog.
        let mut primer = None;
        if info.get("repl_backlog_active") != Some("1") {
            if info.get("role") != Some("master") {
                return Err(PsyncRefusal::Failed(format!(
                    "{} is a replica without a backlog; it has not synced",
                    endpoint.addr
                )));
            }
            primer = Some(prime(endpoint, name, deadline).await?);
            while info.get("repl_backlog_active") != Some("1") {
                if Instant::now() > deadline {
                    return Err(PsyncRefusal::Failed(format!("{} makes no replication backlog", endpoint.addr)));
                }
                sleep(POLL_INTERVAL).await;
                info = replication(&mut connection, deadline).await?;
            }
        }
        connection.ask(&[b"REPLCONF", b"capa", b"psync2"], deadline).await?;
        for _ in 0..ATTEMPTS {
            let (Some(id), Some(offset)) = (info.get("master_replid"), offset(&info)) else {
                return Err(PsyncRefusal::Unsupported(format!(
                    "INFO of {} shows no replication id and offset",
                    endpoint.addr
                )));
            };
            let id = id.to_owned();
            let answer = psync(&mut connection, &id, &(offset + 1).to_string(), deadline).await?;
            if answer.starts_with("+CONTINUE") {
                drop(primer);
                let mut this = Self { connection, stream: Stream::new(offset), acked: Instant::now(), barrier: 0 };
                this.ack();
                return Ok(this);
            }
            if let Some(text) = answer.strip_prefix('-') {
                return Err(RedisError::of_answer(&endpoint.addr, "PSYNC", text).into());
            }
            // FULLRESYNC: closed before the server has done more than begin. The offset was no longer in the backlog.
            connection = Connection::open(endpoint, name, deadline).await?;
            connection.ask(&[b"REPLCONF", b"capa", b"psync2"], deadline).await?;
            info = replication(&mut connection, deadline).await?;
        }
        Err(PsyncRefusal::Failed(format!(
            "{} wants a full sync each time; its replication backlog may be too small (repl-backlog-size)",
            endpoint.addr
        )))
    }

    fn ack(&mut self) {
        // Offset 0, always: an honest offset would satisfy WAIT without being durable anywhere.
        write::request(&mut self.connection.output.bytes, &[b"REPLCONF", b"ACK", b"0"]);
    }
}

impl Feed for Psync {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn drain(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
        let len = self.connection.input.bytes().len();
        let result = self.stream.push(self.connection.input.bytes(), events);
        self.connection.input.consume(len);
        result
    }

    fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.acked) >= ACK_EVERY {
            self.acked = now;
            self.ack();
        }
    }

    fn position(&self) -> Option<u64> {
        Some(self.stream.position())
    }

    fn begin_barrier(&mut self, offset: u64) {
        self.barrier = offset;
    }

    fn passed_barrier(&self) -> bool {
        self.stream.position() >= self.barrier
    }
}

async fn replication(connection: &mut Connection, deadline: Instant) -> Result<Info, RedisError> {
    match connection.ask(&[b"INFO", b"replication"], deadline).await? {
        Reply::Bulk(bytes) => Ok(Info::parse(&String::from_utf8_lossy(&bytes))),
        _ => Err(connection.protocol("its answer to INFO is no text")),
    }
}

fn offset(info: &Info) -> Option<u64> {
    info.get("master_repl_offset")?.parse().ok()
}

/// Makes a primary that never had a replica keep a backlog: it does when somebody asks for a full sync. This one asks for
/// an empty snapshot, and goes away before it comes.
async fn prime(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Connection, PsyncRefusal> {
    let mut connection = Connection::open(endpoint, name, deadline).await?;
    connection.ask(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"], deadline).await?;
    if let Err(error) = connection.ask(&[b"REPLCONF", b"rdb-filter-only", b""], deadline).await {
        return Err(PsyncRefusal::Unsupported(format!(
            "{} has no replication backlog and, being older than Redis 7, can only make one by a full snapshot ({error}); \
             give its group a replica",
            endpoint.addr
        )));
    }
    write::request(&mut connection.output.bytes, &[b"PSYNC", b"?", b"-1"]);
    while !connection.output.is_empty() {
        connection.flush()?;
        if !connection.output.is_empty() {
            timeout_at(deadline, std::future::poll_fn(|cx| connection.poll_ready(cx)))
                .await
                .map_err(|_| PsyncRefusal::Failed(format!("{} does not take PSYNC in time", endpoint.addr)))?;
        }
    }
    Ok(connection)
}

/// Sends PSYNC and returns the line of its answer; what follows it in the input is the stream.
async fn psync(connection: &mut Connection, id: &str, offset: &str, deadline: Instant) -> Result<String, PsyncRefusal> {
    write::request(&mut connection.output.bytes, &[b"PSYNC", id.as_bytes(), offset.as_bytes()]);
    loop {
        connection.flush()?;
        let filled = connection.fill();
        // Bare line ends keep the link alive while a server prepares.
        while connection.input.bytes().first() == Some(&b'\n') {
            connection.input.consume(1);
        }
        if let Some(lf) = memchr::memchr(b'\n', connection.input.bytes()) {
            let line = String::from_utf8_lossy(&connection.input.bytes()[..lf]).trim_end().to_owned();
            connection.input.consume(lf + 1);
            return Ok(line);
        }
        if connection.input.bytes().len() > LINE_MAX {
            return Err(connection.protocol("its answer to PSYNC does not end").into());
        }
        filled?;
        timeout_at(deadline, std::future::poll_fn(|cx| connection.poll_ready(cx)))
            .await
            .map_err(|_| PsyncRefusal::Failed(format!("{} does not answer PSYNC in time", connection.addr())))?;
    }
}
