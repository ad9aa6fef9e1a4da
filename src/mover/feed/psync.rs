//! The replication stream as a feed: PSYNC attaches at the current offset, without a snapshot and without a fork.
//! Knows nothing of the commands in it beyond their keys. It never acknowledges an offset (`REPLCONF ACK 0`), so that
//! WAIT never counts it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Event, Feed, FeedError, stream::Stream};
use crate::{
    mover::{io::connection::Connection, spec::Endpoint},
    redis::{Info, RedisError, Reply},
    resp::write,
};

/// Interval of `REPLCONF ACK 0`: a server drops a replica that is silent for `repl-timeout` (60 s by default; 10 s is
/// the least in use).
const ACK_EVERY: Duration = Duration::from_secs(1);
/// Interval of the checks whether the server has created a backlog.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Tries with an offset that is still in the backlog: it may have moved on between INFO and PSYNC.
const ATTEMPTS: u32 = 5;
/// Longest reply to PSYNC.
const LINE_MAX: usize = 4 << 10;

/// A feed that uses PSYNC.
pub struct Psync {
    connection: Connection,
    stream: Stream,
    acked: Instant,
    barrier: u64,
}

impl Psync {
    /// Attaches to the server's replication stream. If the server never had a replica, this makes it create a backlog
    /// first.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, FeedError> {
        let mut connection = Connection::open(endpoint, name, deadline).await?;
        let mut info = replication(&mut connection, deadline).await?;
        // Kept open until the stream is attached: it makes the server keep a backlog.
        let mut full_sync = None;
        if info.get("repl_backlog_active") != Some("1") {
            if info.get("role") != Some("master") {
                return Err(FeedError::Failed(format!(
                    "{} is a replica without a backlog; it has not synced",
                    endpoint.addr
                )));
            }
            full_sync = Some(create_backlog(endpoint, name, deadline).await?);
            while info.get("repl_backlog_active") != Some("1") {
                if Instant::now() > deadline {
                    return Err(FeedError::Failed(format!("{} creates no replication backlog", endpoint.addr)));
                }
                sleep(POLL_INTERVAL).await;
                info = replication(&mut connection, deadline).await?;
            }
        }
        connection.ask(&[b"REPLCONF", b"capa", b"psync2"], deadline).await?;
        for _ in 0..ATTEMPTS {
            let (Some(id), Some(offset)) = (info.get("master_replid"), offset(&info)) else {
                return Err(FeedError::Unsupported(format!(
                    "INFO of {} shows no replication id and offset",
                    endpoint.addr
                )));
            };
            let id = id.to_owned();
            let answer = psync(&mut connection, &id, &(offset + 1).to_string(), deadline).await?;
            if answer.starts_with("+CONTINUE") {
                drop(full_sync);
                let mut this = Self { connection, stream: Stream::new(offset), acked: Instant::now(), barrier: 0 };
                this.ack();
                return Ok(this);
            }
            if let Some(text) = answer.strip_prefix('-') {
                return Err(RedisError::of_answer(&endpoint.addr, "PSYNC", text).into());
            }
            // FULLRESYNC: the offset is no longer in the backlog. The connection is closed before the server has done
            // more than begin.
            connection = Connection::open(endpoint, name, deadline).await?;
            connection.ask(&[b"REPLCONF", b"capa", b"psync2"], deadline).await?;
            info = replication(&mut connection, deadline).await?;
        }
        Err(FeedError::Failed(format!(
            "{} requires a full sync each time; its replication backlog may be too small (repl-backlog-size)",
            endpoint.addr
        )))
    }

    fn ack(&mut self) {
        // Always offset 0: a real offset would satisfy WAIT although the data is not stored anywhere.
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
        _ => Err(connection.protocol("its answer to INFO is not text")),
    }
}

fn offset(info: &Info) -> Option<u64> {
    info.get("master_repl_offset")?.parse().ok()
}

/// Makes a primary that never had a replica keep a backlog: it creates one when a replica requests a full sync. This
/// requests an empty snapshot, and the connection closes before the snapshot arrives.
async fn create_backlog(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Connection, FeedError> {
    let mut connection = Connection::open(endpoint, name, deadline).await?;
    connection.ask(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"], deadline).await?;
    if let Err(error) = connection.ask(&[b"REPLCONF", b"rdb-filter-only", b""], deadline).await {
        return Err(FeedError::Unsupported(format!(
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
                .map_err(|_| FeedError::Failed(format!("{} does not accept PSYNC in time", endpoint.addr)))?;
        }
    }
    Ok(connection)
}

/// Sends PSYNC and returns the line of its reply. What follows it in the input is the stream.
async fn psync(connection: &mut Connection, id: &str, offset: &str, deadline: Instant) -> Result<String, FeedError> {
    write::request(&mut connection.output.bytes, &[b"PSYNC", id.as_bytes(), offset.as_bytes()]);
    loop {
        connection.flush()?;
        let filled = connection.fill();
        // Empty lines keep the link alive while a server prepares.
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
            .map_err(|_| FeedError::Failed(format!("{} does not answer PSYNC in time", connection.addr())))?;
    }
}
