//! Monitors a server during a run: its identity, PING latency and load by other clients.
//! Knows nothing of what is copied. It only queries, over a connection that changes nothing.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    connection::{ANSWER_MAX, Connection},
    data_loss::DataLossDetector,
    scan::text,
};
use crate::{
    mover::spec::Endpoint,
    redis::{Info, RedisError, Reply},
};

/// PINGs before the work begins; their median is the baseline.
const BASELINE_PINGS: usize = 15;
/// Interval of PINGs during the run.
const PING_EVERY: Duration = Duration::from_millis(10);
/// Number of PINGs that count: at [`PING_EVERY`] a fifth of a second.
const PINGS_KEPT: usize = 20;
/// Interval of the polls for identity, load and offset.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Requests per second of other clients below which a server is idle: monitoring and replication cause some.
const IDLE_BELOW: u64 = 1000;
/// A replica whose link to its primary is down for this long will not provide a feed again soon.
const LINK_DOWN_MAX: Duration = Duration::from_secs(10);

/// The identity of a server and of its data. A run fails when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// A random text per start of the process.
    pub run_id: String,
    /// `master` or `slave`.
    pub role: String,
    /// Its replication id.
    pub replid: String,
}

/// The status as of the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its identity.
    pub identity: ServerIdentity,
    /// Its replication offset.
    pub offset: u64,
    /// A replica: its link to its primary is up. A primary: always true.
    pub link_up: bool,
    /// A primary: online replicas. Feeds like ours (port 0) do not count.
    pub replicas: u32,
}

impl ServerStatus {
    fn of(server: &Info, replication: &Info) -> Option<Self> {
        let text = |info: &Info, name: &str| info.get(name).map(str::to_owned);
        let online = |(name, value): (&String, &String)| {
            name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok())
                && value.contains("state=online")
                && !value.contains("port=0,")
        };
        Some(Self {
            identity: ServerIdentity {
                run_id: text(server, "run_id")?,
                role: text(replication, "role")?,
                replid: text(replication, "master_replid")?,
            },
            offset: replication.get("master_repl_offset")?.parse().ok()?,
            link_up: replication.get("master_link_status").is_none_or(|status| status == "up"),
            replicas: replication.fields.iter().filter(|field| online(*field)).count() as u32,
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum MonitorRequest {
    Ping(Instant),
    Commands,
    Stats,
    Server,
    Replication,
}

/// Monitors one server.
pub struct ServerMonitor {
    connection: Connection,
    awaited: VecDeque<MonitorRequest>,
    /// The identity at the start.
    first: ServerIdentity,
    status: ServerStatus,
    /// INFO server of the current poll.
    server_info: Option<Info>,
    /// The data loss counters of the last poll, if they are checked, and whether evictions count.
    guard: Option<(DataLossDetector, bool)>,
    /// INFO commandstats of the current poll.
    command_stats: Option<Info>,
    /// Numbers of polls that were started and finished.
    polls_started: u64,
    polls_finished: u64,
    polled: Instant,
    pinged: Instant,
    pings: VecDeque<Duration>,
    baseline: Duration,
    /// Time, number of requests that the server had executed, and how many of them were ours.
    load: Option<(Instant, u64, u64)>,
    others: u64,
    link_down: Option<Instant>,
}

impl ServerMonitor {
    /// Connects, reads the server's identity and measures the PING baseline.
    ///
    /// # Errors
    /// The server cannot be reached or does not report its identity.
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, RedisError> {
        let mut connection = Connection::open(endpoint, name, deadline).await?;
        let server = info(&mut connection, b"server", deadline).await?;
        let replication = info(&mut connection, b"replication", deadline).await?;
        let status = ServerStatus::of(&server, &replication)
            .ok_or_else(|| connection.protocol("INFO shows no run_id, role or replication offset"))?;
        let mut pings = Vec::with_capacity(BASELINE_PINGS);
        for _ in 0..BASELINE_PINGS {
            let began = Instant::now();
            connection.ask(&[b"PING"], deadline).await?;
            pings.push(began.elapsed());
        }
        pings.sort();
        let now = Instant::now();
        Ok(Self {
            connection,
            awaited: VecDeque::new(),
            first: status.identity.clone(),
            status,
            server_info: None,
            guard: None,
            command_stats: None,
            polls_started: 0,
            polls_finished: 0,
            polled: now,
            pinged: now,
            pings: VecDeque::with_capacity(PINGS_KEPT),
            baseline: pings[BASELINE_PINGS / 2],
            load: None,
            others: 0,
            link_down: None,
        })
    }

    /// Opens a server that is to be changed: first the connection for the changes, then the monitor.
    ///
    /// # Errors
    /// Returns as text for the operator that [`ServerMonitor::open`] failed or that the server is a replica.
    pub async fn open_primary(
        endpoint: &Endpoint,
        name: &str,
        deadline: Instant,
    ) -> Result<(Connection, Self), String> {
        let text = |error: RedisError| error.to_string();
        let connection = Connection::open(endpoint, name, deadline).await.map_err(text)?;
        let server = Self::open(endpoint, name, deadline).await.map_err(text)?;
        if server.first.role != "master" {
            return Err(format!("{} is a replica and takes no writes; only its group's primary does", endpoint.addr));
        }
        Ok((connection, server))
    }

    /// From now on a flush is an error, and so are evictions if `evictions` is set.
    ///
    /// # Errors
    /// INFO fails.
    pub async fn guard(&mut self, evictions: bool, deadline: Instant) -> Result<(), RedisError> {
        let commands = info(&mut self.connection, b"commandstats", deadline).await?;
        let stats = info(&mut self.connection, b"stats", deadline).await?;
        self.guard = Some((DataLossDetector::of(&commands, &stats), evictions));
        Ok(())
    }

    /// The connection, for waiting.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Reads replies and sends the requests that are due.
    ///
    /// # Errors
    /// Returns as text for the operator that the connection is lost, the server hangs, or its identity has changed.
    pub fn turn(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.connection.fill().map_err(|error| error.to_string());
        while let Some(len) = self.connection.input.scan()? {
            self.handle_reply(len, now)?;
        }
        filled?;
        let silent = self.connection.silent_for(now);
        if silent > ANSWER_MAX {
            return Err(format!("{} has not replied for {} s", self.connection.addr(), silent.as_secs()));
        }
        // One PING at a time: the delay of its reply is what is measured.
        let pinging = self.awaited.iter().any(|asked| matches!(asked, MonitorRequest::Ping(_)));
        if !pinging && now.saturating_duration_since(self.pinged) >= PING_EVERY {
            self.pinged = now;
            self.connection.send(&[b"PING"]);
            self.awaited.push_back(MonitorRequest::Ping(now));
        }
        if self.polls_started == self.polls_finished && now.saturating_duration_since(self.polled) >= POLL_INTERVAL {
            self.poll(now);
        }
        self.connection.flush().map_err(|error| error.to_string())
    }

    /// Polls identity and offset now. [`ServerMonitor::polled`] returns whether the reply has arrived.
    pub fn poll_now(&mut self, now: Instant) -> u64 {
        self.poll(now);
        self.polls_started
    }

    /// Like [`ServerMonitor::poll_now`], but sends the requests at once instead of in the next turn: clients are
    /// waiting.
    pub fn poll_at_once(&mut self, now: Instant) -> u64 {
        let poll = self.poll_now(now);
        // If this fails, the next turn fails, too.
        let _ = self.connection.flush();
        poll
    }

    /// Whether [`ServerMonitor::status`] contains the reply to this poll.
    #[must_use]
    pub fn polled(&self, poll: u64) -> bool {
        self.polls_finished >= poll
    }

    fn poll(&mut self, now: Instant) {
        self.polled = now;
        self.polls_started += 1;
        if self.guard.is_some() {
            self.connection.send(&[b"INFO", b"commandstats"]);
            self.connection.send(&[b"INFO", b"stats"]);
            self.awaited.extend([MonitorRequest::Commands, MonitorRequest::Stats]);
        }
        self.connection.send(&[b"INFO", b"server"]);
        self.connection.send(&[b"INFO", b"replication"]);
        self.awaited.extend([MonitorRequest::Server, MonitorRequest::Replication]);
    }

    fn handle_reply(&mut self, len: usize, now: Instant) -> Result<(), String> {
        let reply = &self.connection.input.bytes()[..len];
        let addr = self.connection.addr();
        let asked = self.awaited.pop_front().ok_or_else(|| format!("{addr} sent more replies than it got requests"))?;
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(&reply[1..]).into_owned();
            return Err(RedisError::of_answer(addr, "INFO", text.trim_end()).to_string());
        }
        let info = || {
            let text = text(reply).ok_or_else(|| format!("{addr} answers INFO in an unknown form"))?;
            Ok::<_, String>(Info::parse(&String::from_utf8_lossy(text)))
        };
        match asked {
            MonitorRequest::Ping(sent) => {
                if self.pings.len() == PINGS_KEPT {
                    self.pings.pop_front();
                }
                self.pings.push_back(now.saturating_duration_since(sent));
            }
            MonitorRequest::Commands => self.command_stats = Some(info()?),
            MonitorRequest::Stats => {
                let stats = info()?;
                if let (Some((before, evictions)), Some(commands)) = (&mut self.guard, self.command_stats.take()) {
                    let now = DataLossDetector::of(&commands, &stats);
                    if let Some(what) = before.until(&now, *evictions) {
                        return Err(format!("{addr} {what}"));
                    }
                    *before = now;
                }
            }
            MonitorRequest::Server => self.server_info = Some(info()?),
            MonitorRequest::Replication => {
                let replication = info()?;
                let status = self.server_info.take().and_then(|server| ServerStatus::of(&server, &replication));
                self.status =
                    status.ok_or_else(|| format!("INFO of {addr} shows no run_id, role or replication offset"))?;
                self.polls_finished += 1;
            }
        }
        self.connection.input.consume(len);
        self.connection.answered();
        self.check(now)
    }

    /// Handles a reply to INFO stats on a connection over which `ours` requests were sent before it. It is requested on
    /// that connection because only there is its order relative to our requests known.
    pub fn load(&mut self, stats: &[u8], ours: u64, now: Instant) {
        let info = Info::parse(&String::from_utf8_lossy(stats));
        let all = info.get("total_commands_processed").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let ours = ours + self.connection.sent();
        if let Some((before, all_before, ours_before)) = self.load {
            let passed = now.saturating_duration_since(before).as_micros().max(1) as u64;
            let others = all.saturating_sub(all_before).saturating_sub(ours - ours_before);
            self.others = others * 1_000_000 / passed;
        }
        self.load = Some((now, all, ours));
    }

    fn check(&mut self, now: Instant) -> Result<(), String> {
        let (was, is, addr) = (&self.first, &self.status.identity, self.connection.addr());
        let changed =
            |what: &str, was: &str, is: &str| Err(format!("{addr} changed: its {what} was {was} and is {is}"));
        if is.run_id != was.run_id {
            return changed("run_id", &was.run_id, &is.run_id);
        }
        if is.role != was.role {
            return changed("role", &was.role, &is.role);
        }
        if is.replid != was.replid {
            return changed("replication id", &was.replid, &is.replid);
        }
        if self.status.link_up {
            self.link_down = None;
        } else if now.saturating_duration_since(*self.link_down.get_or_insert(now)) > LINK_DOWN_MAX {
            return Err(format!("{addr} has lost its primary"));
        }
        Ok(())
    }

    /// The identity at the start; a change of it is an error.
    #[must_use]
    pub fn identity(&self) -> &ServerIdentity {
        &self.first
    }

    /// The status as of the last poll.
    #[must_use]
    pub fn status(&self) -> &ServerStatus {
        &self.status
    }

    /// Whether almost no other client uses it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.others < IDLE_BELOW
    }

    /// PING latency before the work began.
    #[must_use]
    pub fn baseline(&self) -> Duration {
        self.baseline
    }

    /// Current PING latency: the 90th percentile of the last PINGs, or the time since the outstanding PING was sent if
    /// that is longer.
    #[must_use]
    pub fn ping(&self, now: Instant) -> Duration {
        let mut sorted: Vec<_> = self.pings.iter().copied().collect();
        sorted.sort();
        let past = sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(self.baseline);
        let open = self.awaited.iter().find_map(|asked| match asked {
            MonitorRequest::Ping(sent) => Some(now.saturating_duration_since(*sent)),
            _ => None,
        });
        past.max(open.unwrap_or_default())
    }
}

async fn info(connection: &mut Connection, section: &[u8], deadline: Instant) -> Result<Info, RedisError> {
    match connection.ask(&[b"INFO", section], deadline).await? {
        Reply::Bulk(bytes) => Ok(Info::parse(&String::from_utf8_lossy(&bytes))),
        _ => Err(connection.protocol("its answer to INFO is not text")),
    }
}
