//! A server as a mover sees it beside the copying: the same as at the start, how long a PING takes, how much others ask of it.
//! Knows nothing of what is copied; it only asks, over a connection that changes nothing.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    connection::{ANSWER_MAX, Connection},
    scan::text,
};
use crate::{
    mover::{spec::Endpoint, track::data_loss::DataLossDetector},
    redis::{Info, RedisError, Reply},
};

/// PINGs of a server at rest, before the work begins; the median is its baseline.
const BASELINE_PINGS: usize = 15;
/// Between two PINGs while working.
const PING_EVERY: Duration = Duration::from_millis(10);
/// The last PINGs that count: at [`PING_EVERY`] a fifth of a second.
const PINGS_KEPT: usize = 20;
/// Between two polls at identity, load and offset.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Requests of others per second below which a server is idle: monitoring and replication make some.
const IDLE_BELOW: u64 = 1000;
/// A replica whose link to its primary is down for so long will not be a feed again soon.
const LINK_DOWN_MAX: Duration = Duration::from_secs(10);

/// What a server says of itself, of what a copy depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// A random text per start of the process.
    pub run_id: String,
    /// `master` or `slave`.
    pub role: String,
    /// Its replication history.
    pub replid: String,
}

/// What changes, as of the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Who it is.
    pub identity: ServerIdentity,
    /// Its replication offset.
    pub offset: u64,
    /// A replica: its link to its primary is up. A primary: true.
    pub link_up: bool,
    /// A primary: replicas that are online, feeds like ours (port 0) not counted.
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
    ServerMonitor,
    Replication,
}

/// The watch over one server.
pub struct ServerMonitor {
    connection: Connection,
    asked: VecDeque<MonitorRequest>,
    /// Who it was.
    first: ServerIdentity,
    status: ServerStatus,
    /// INFO server of the poll that is under way.
    half: Option<Info>,
    /// What it had lost at the last poll, if that is watched, and whether evictions count.
    guard: Option<(DataLossDetector, bool)>,
    /// INFO commandstats of the poll that is under way.
    commands: Option<Info>,
    /// Looks that were begun and ended.
    begun: u64,
    ended: u64,
    polled: Instant,
    pinged: Instant,
    pings: VecDeque<Duration>,
    baseline: Duration,
    /// When, requests it had executed, and of these ours.
    load: Option<(Instant, u64, u64)>,
    others: u64,
    link_down: Option<Instant>,
}

impl ServerMonitor {
    /// Connects, notes who the server is and what a PING takes at rest.
    ///
    /// # Errors
    /// When it cannot be reached or does not say who it is.
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
            asked: VecDeque::new(),
            first: status.identity.clone(),
            status,
            half: None,
            guard: None,
            commands: None,
            begun: 0,
            ended: 0,
            polled: now,
            pinged: now,
            pings: VecDeque::with_capacity(PINGS_KEPT),
            baseline: pings[BASELINE_PINGS / 2],
            load: None,
            others: 0,
            link_down: None,
        })
    }

    /// A server that is to be changed, with the connection for that, opened before the poll at the server.
    ///
    /// # Errors
    /// As [`ServerMonitor::open`], or it is a replica. A sentence for people.
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

    /// From now on a flush ends it, and so do evictions if they count.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn guard(&mut self, evictions: bool, deadline: Instant) -> Result<(), RedisError> {
        let commands = info(&mut self.connection, b"commandstats", deadline).await?;
        let stats = info(&mut self.connection, b"stats", deadline).await?;
        self.guard = Some((DataLossDetector::of(&commands, &stats), evictions));
        Ok(())
    }

    /// For waiting.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Reads answers and asks what is due.
    ///
    /// # Errors
    /// It is lost, hangs, or is not what it was. A sentence for people.
    pub fn turn(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.connection.fill().map_err(|error| error.to_string());
        while let Some(len) = self.connection.input.scan()? {
            self.answer(len, now)?;
        }
        filled?;
        let silent = self.connection.silent_for(now);
        if silent > ANSWER_MAX {
            return Err(format!("{} has not answered for {} s", self.connection.addr(), silent.as_secs()));
        }
        // One PING at a time: the answer's delay is the point.
        let pinging = self.asked.iter().any(|asked| matches!(asked, MonitorRequest::Ping(_)));
        if !pinging && now.saturating_duration_since(self.pinged) >= PING_EVERY {
            self.pinged = now;
            self.connection.send(&[b"PING"]);
            self.asked.push_back(MonitorRequest::Ping(now));
        }
        if self.begun == self.ended && now.saturating_duration_since(self.polled) >= POLL_INTERVAL {
            self.poll(now);
        }
        self.connection.flush().map_err(|error| error.to_string())
    }

    /// Asks who it is and where, now; [`ServerMonitor::polled`] says when the answer is in.
    pub fn poll_now(&mut self, now: Instant) -> u64 {
        self.poll(now);
        self.begun
    }

    /// As [`ServerMonitor::poll_now`], and not with the next turn: clients wait, and nothing else may happen before.
    pub fn poll_at_once(&mut self, now: Instant) -> u64 {
        let poll = self.poll_now(now);
        // If it fails, the next turn fails, too.
        let _ = self.connection.flush();
        poll
    }

    /// Whether the answer to this poll is in [`ServerMonitor::status`].
    #[must_use]
    pub fn polled(&self, poll: u64) -> bool {
        self.ended >= poll
    }

    fn poll(&mut self, now: Instant) {
        self.polled = now;
        self.begun += 1;
        if self.guard.is_some() {
            self.connection.send(&[b"INFO", b"commandstats"]);
            self.connection.send(&[b"INFO", b"stats"]);
            self.asked.extend([MonitorRequest::Commands, MonitorRequest::Stats]);
        }
        self.connection.send(&[b"INFO", b"server"]);
        self.connection.send(&[b"INFO", b"replication"]);
        self.asked.extend([MonitorRequest::ServerMonitor, MonitorRequest::Replication]);
    }

    fn answer(&mut self, len: usize, now: Instant) -> Result<(), String> {
        let reply = &self.connection.input.bytes()[..len];
        let addr = self.connection.addr();
        let asked = self.asked.pop_front().ok_or_else(|| format!("{addr} answers more than it was asked"))?;
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(&reply[1..]).into_owned();
            return Err(RedisError::of_answer(addr, "INFO", text.trim_end()).to_string());
        }
        let info = || {
            let text = text(reply).ok_or_else(|| format!("{addr} answers INFO in a form that is not known"))?;
            Ok::<_, String>(Info::parse(&String::from_utf8_lossy(text)))
        };
        match asked {
            MonitorRequest::Ping(sent) => {
                if self.pings.len() == PINGS_KEPT {
                    self.pings.pop_front();
                }
                self.pings.push_back(now.saturating_duration_since(sent));
            }
            MonitorRequest::Commands => self.commands = Some(info()?),
            MonitorRequest::Stats => {
                let stats = info()?;
                if let (Some((before, evictions)), Some(commands)) = (&mut self.guard, self.commands.take()) {
                    let now = DataLossDetector::of(&commands, &stats);
                    if let Some(what) = before.until(&now, *evictions) {
                        return Err(format!("{addr} {what}"));
                    }
                    *before = now;
                }
            }
            MonitorRequest::ServerMonitor => self.half = Some(info()?),
            MonitorRequest::Replication => {
                let replication = info()?;
                let status = self.half.take().and_then(|server| ServerStatus::of(&server, &replication));
                self.status =
                    status.ok_or_else(|| format!("INFO of {addr} shows no run_id, role or replication offset"))?;
                self.ended += 1;
            }
        }
        self.connection.input.consume(len);
        self.connection.answered();
        self.check(now)
    }

    /// The answer to an INFO stats that was asked over a connection which had executed `ours` requests before it. (Over that
    /// connection, because between ours and those of others the order is known only there.)
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

    /// Who it was at the start, and is.
    #[must_use]
    pub fn identity(&self) -> &ServerIdentity {
        &self.first
    }

    /// The last poll.
    #[must_use]
    pub fn status(&self) -> &ServerStatus {
        &self.status
    }

    /// Whether next to nobody else uses it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.others < IDLE_BELOW
    }

    /// A PING at rest.
    #[must_use]
    pub fn baseline(&self) -> Duration {
        self.baseline
    }

    /// A PING now: the 90th percentile of the last, or what the one under way has taken so far if that is longer.
    #[must_use]
    pub fn ping(&self, now: Instant) -> Duration {
        let mut sorted: Vec<_> = self.pings.iter().copied().collect();
        sorted.sort();
        let past = sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(self.baseline);
        let open = self.asked.iter().find_map(|asked| match asked {
            MonitorRequest::Ping(sent) => Some(now.saturating_duration_since(*sent)),
            _ => None,
        });
        past.max(open.unwrap_or_default())
    }
}

async fn info(connection: &mut Connection, section: &[u8], deadline: Instant) -> Result<Info, RedisError> {
    match connection.ask(&[b"INFO", section], deadline).await? {
        Reply::Bulk(bytes) => Ok(Info::parse(&String::from_utf8_lossy(&bytes))),
        _ => Err(connection.protocol("its answer to INFO is no text")),
    }
}
