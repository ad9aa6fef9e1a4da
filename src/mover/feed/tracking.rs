//! CLIENT TRACKING as a feed, for servers that refuse PSYNC: in RESP3 with BCAST, a server names each key that changes.
//! Knows nothing of commands. Tracking reports neither the database of a key nor changes of a stream's groups.
//!
//! The barrier is exact. A server sends the invalidations of an event loop iteration before its replies (Redis:
//! server.c, beforeSleep). So when it has replied that its offset has reached the primary's, the invalidations have
//! been sent, and they arrive before the reply to a PING that is sent then.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Event, Feed, FeedError};
use crate::{
    mover::{
        io::connection::{ANSWER_MAX, Connection},
        spec::Endpoint,
    },
    redis::{Info, RedisError},
    resp::number::{Header, header},
};

/// Interval of PINGs, which detect a dead connection.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Commands that change data or functions without an invalidation, as INFO commandstats names them.
const SWAPS: &[&str] = &["cmdstat_swapdb"];
const FUNCTIONS: &[&str] = &[
    "cmdstat_function",
    "cmdstat_function|load",
    "cmdstat_function|delete",
    "cmdstat_function|flush",
    "cmdstat_function|restore",
];

/// The request of an outstanding reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrackingRequest {
    /// A liveness check.
    Ping,
    /// INFO replication, for this barrier.
    Offset(u64),
    /// INFO commandstats.
    CallCounts,
    /// The PING that ends this barrier.
    Barrier(u64),
}

/// How often those commands were called whose changes CLIENT TRACKING does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UntrackedCalls {
    swaps: u64,
    functions: u64,
}

/// A feed that uses CLIENT TRACKING ON BCAST.
pub struct Tracking {
    connection: Connection,
    awaited: VecDeque<TrackingRequest>,
    pinged: Instant,
    /// The connection has been silent for too long.
    dead: bool,
    calls: UntrackedCalls,
    /// Number of the last barrier, its offset, and the last barrier that has passed.
    barrier: u64,
    offset: u64,
    passed: u64,
}

impl Tracking {
    /// Connects and enables tracking: every change after it returns is reported.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, FeedError> {
        let mut connection = Connection::open(endpoint, name, deadline).await?;
        // The selected database does not matter: BCAST reports changes of all databases.
        for command in [&[b"HELLO" as &[u8], b"3"][..], &[b"CLIENT", b"TRACKING", b"ON", b"BCAST"]] {
            connection.send(command);
            let what = String::from_utf8_lossy(command[0]).into_owned();
            reply(&mut connection, &what, deadline).await?;
        }
        connection.send(&[b"INFO", b"commandstats"]);
        let stats = reply(&mut connection, "INFO", deadline).await?;
        let calls = UntrackedCalls::of(&stats).ok_or_else(|| connection.protocol("its answer to INFO is not text"))?;
        Ok(Self {
            connection,
            awaited: VecDeque::new(),
            pinged: Instant::now(),
            dead: false,
            calls,
            barrier: 0,
            offset: 0,
            passed: 0,
        })
    }

    fn request(&mut self, what: TrackingRequest) {
        self.connection.send(match what {
            TrackingRequest::Ping | TrackingRequest::Barrier(_) => &[b"PING"],
            TrackingRequest::Offset(_) => &[b"INFO", b"replication"],
            TrackingRequest::CallCounts => &[b"INFO", b"commandstats"],
        });
        self.awaited.push_back(what);
    }

    /// Handles a reply.
    fn handle_reply(
        &mut self,
        asked: TrackingRequest,
        reply: &[u8],
        events: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), String> {
        let addr = self.connection.addr();
        if let Some(text) = reply.strip_prefix(b"-") {
            let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(format!("{addr} answers its tracking connection with an error: {text}"));
        }
        let shape = || format!("{addr} answers INFO on its tracking connection in an unknown form");
        match asked {
            TrackingRequest::Ping => {}
            TrackingRequest::Barrier(number) => self.passed = self.passed.max(number),
            TrackingRequest::CallCounts => {
                let calls = UntrackedCalls::of(reply).ok_or_else(shape)?;
                if calls.swaps != self.calls.swaps {
                    return Err(format!("databases of {addr} were swapped (SWAPDB) while they were copied"));
                }
                if calls.functions != self.calls.functions {
                    events(Event::Functions);
                }
                self.calls = calls;
            }
            TrackingRequest::Offset(number) if number == self.barrier => {
                let info = Info::parse(&String::from_utf8_lossy(string(reply).ok_or_else(shape)?));
                let offset = info.get("master_repl_offset").and_then(|n| n.parse::<u64>().ok()).ok_or_else(shape)?;
                // A replica that has not reached the offset is asked again. This lasts only for a moment or while the
                // slots are held.
                self.request(if offset >= self.offset {
                    TrackingRequest::Barrier(number)
                } else {
                    TrackingRequest::Offset(number)
                });
            }
            TrackingRequest::Offset(_) => {}
        }
        Ok(())
    }
}

impl Feed for Tracking {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn drain(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
        if self.dead {
            let (addr, most) = (self.connection.addr(), ANSWER_MAX.as_secs());
            return Err(format!("{addr} has not replied on its tracking connection for {most} s"));
        }
        while let Some(len) = self.connection.input.scan()? {
            let reply = &self.connection.input.bytes()[..len];
            if reply.first() == Some(&b'>') {
                push(reply, events).map_err(|why| format!("{}: {why}", self.connection.addr()))?;
            } else {
                let Some(asked) = self.awaited.pop_front() else {
                    return Err(format!("{} sent more replies than it got requests", self.connection.addr()));
                };
                // Replies are short, so they are copied; pushes are not.
                let reply = reply.to_vec();
                self.connection.answered();
                self.handle_reply(asked, &reply, events)?;
            }
            self.connection.input.consume(len);
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.pinged) >= PING_EVERY {
            self.pinged = now;
            self.request(TrackingRequest::Ping);
        }
        self.dead = self.connection.silent_for(now) > ANSWER_MAX;
    }

    fn position(&self) -> Option<u64> {
        None
    }

    fn begin_barrier(&mut self, offset: u64) {
        self.barrier += 1;
        self.offset = offset;
        self.request(TrackingRequest::CallCounts);
        self.request(TrackingRequest::Offset(self.barrier));
    }

    fn passed_barrier(&self) -> bool {
        self.passed == self.barrier
    }

    fn reports_stream_groups(&self) -> bool {
        false
    }
}

impl UntrackedCalls {
    fn of(reply: &[u8]) -> Option<Self> {
        let info = Info::parse(&String::from_utf8_lossy(string(reply)?));
        let calls = |name: &&str| info.calls(name);
        Some(Self { swaps: SWAPS.iter().map(calls).sum(), functions: FUNCTIONS.iter().map(calls).sum() })
    }
}

/// Parses a push: `>2 "invalidate" [keys]`, or null instead of the keys when a database was flushed.
fn push(whole: &[u8], events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
    let shape = || "a push of unknown form on a tracking connection".to_owned();
    let Header::Number(2, at) = header(whole, 1) else { return Err(shape()) };
    let (kind, mut at) = bulk(whole, at).ok_or_else(shape)?;
    if kind != b"invalidate" {
        return Err(format!("a push '{}' on a tracking connection", kind.escape_ascii()));
    }
    let keys = match (whole.get(at), header(whole, at + 1)) {
        (Some(b'_'), _) => return Err("a database was flushed (FLUSHALL or FLUSHDB) while it was copied".into()),
        (Some(b'*'), Header::Number(keys, next)) if keys >= 0 => {
            at = next;
            keys
        }
        _ => return Err(shape()),
    };
    for _ in 0..keys {
        let (key, next) = bulk(whole, at).ok_or_else(shape)?;
        events(Event::Changed { db: None, key, command: None });
        at = next;
    }
    Ok(())
}

/// The bulk string that begins at `at`, and where it ends.
fn bulk(whole: &[u8], at: usize) -> Option<(&[u8], usize)> {
    match (whole.get(at)?, header(whole, at + 1)) {
        (b'$', Header::Number(len, start)) => {
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            Some((whole.get(start..end)?, end + 2))
        }
        _ => None,
    }
}

/// The text of a complete bulk or verbatim string.
fn string(whole: &[u8]) -> Option<&[u8]> {
    match (whole.first()?, header(whole, 1)) {
        (b'$', Header::Number(len, start)) => whole.get(start..start + usize::try_from(len).ok()?),
        // `txt:` and the text.
        (b'=', Header::Number(len, start)) => whole.get(start + 4..start + usize::try_from(len).ok()?),
        _ => None,
    }
}

/// Waits for the next reply and returns it encoded. No other request may be outstanding.
async fn reply(connection: &mut Connection, what: &str, deadline: Instant) -> Result<Vec<u8>, RedisError> {
    loop {
        connection.flush()?;
        let filled = connection.fill();
        while let Some(len) = connection.input.scan().map_err(|why| connection.protocol(&why))? {
            let whole = connection.input.bytes()[..len].to_vec();
            // Tracking is enabled before the first pass over all keys, which reads what was reported until now.
            let is_push = whole.first() == Some(&b'>');
            connection.input.consume(len);
            if is_push {
                continue;
            }
            connection.answered();
            return match whole.strip_prefix(b"-") {
                Some(text) => {
                    let text = String::from_utf8_lossy(text);
                    Err(RedisError::of_answer(connection.addr(), what, text.trim_end()))
                }
                None => Ok(whole),
            };
        }
        filled?;
        timeout_at(deadline, std::future::poll_fn(|cx| connection.poll_ready(cx)))
            .await
            .map_err(|_| RedisError::Timeout { addr: connection.addr().clone(), command: what.to_owned() })?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keys(whole: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut keys = Vec::new();
        push(whole, &mut |event| {
            if let Event::Changed { db: None, key, command: None } = event {
                keys.push(key.to_vec());
            }
        })?;
        Ok(keys)
    }

    #[test]
    fn pushes_are_read() {
        let two = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$4\r\nb\r\nc\r\n";
        assert_eq!(keys(two), Ok(vec![b"a".to_vec(), b"b\r\nc".to_vec()]));
        assert_eq!(keys(b">2\r\n$10\r\ninvalidate\r\n*0\r\n"), Ok(vec![]));
        assert!(keys(b">2\r\n$10\r\ninvalidate\r\n_\r\n").unwrap_err().contains("flushed"));
        for bad in [
            &b">3\r\n$10\r\ninvalidate\r\n*0\r\n_\r\n"[..],
            b">2\r\n$7\r\nmessage\r\n*0\r\n",
            b">2\r\n$10\r\ninvalidate\r\n:1\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n:1\r\n",
            b">2\r\n+invalidate\r\n*0\r\n",
        ] {
            assert!(keys(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn calls_are_counted() {
        let text = "# Commandstats\r\ncmdstat_swapdb:calls=3,usec=1\r\ncmdstat_function|load:calls=2,usec=1\r\n";
        let verbatim = format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        assert_eq!(UntrackedCalls::of(verbatim.as_bytes()), Some(UntrackedCalls { swaps: 3, functions: 2 }));
        assert_eq!(UntrackedCalls::of(b"$0\r\n\r\n"), Some(UntrackedCalls::default()));
        assert_eq!(UntrackedCalls::of(b":1\r\n"), None);
    }
}
