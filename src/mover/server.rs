//! A server as a mover sees it beside the copying: the same as at the start, how long a PING takes, how much others ask of it.
//! Knows nothing of what is copied; it only asks, over a connection that changes nothing.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    connection::{ANSWER_MAX, Connection},
    job::Endpoint,
    losses::Losses,
    scan::text,
};
use crate::redis::{Info, RedisError, Reply};

/// PINGs of a server at rest, before the work begins; the median is its baseline.
const BASELINE_PINGS: usize = 15;
/// Between two PINGs while working.
const PING_EVERY: Duration = Duration::from_millis(10);
/// The last PINGs that count: at [`PING_EVERY`] a fifth of a second.
const PINGS_KEPT: usize = 20;
/// Between two looks at identity, load and offset.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Requests of others per second below which a server is idle: monitoring and replication make some.
const IDLE_BELOW: u64 = 1000;
/// A replica whose link to its primary is down for so long will not be a feed again soon.
const LINK_DOWN_MAX: Duration = Duration::from_secs(10);

/// What a server says of itself, of what a copy depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// A random text per start of the process.
    pub run_id: String,
    /// `master` or `slave`.
    pub role: String,
    /// Its replication history.
    pub replid: String,
}

/// What changes, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who it is.
    pub identity: Identity,
    /// Its replication offset.
    pub offset: u64,
    /// A replica: its link to its primary is up. A primary: true.
    pub link_up: bool,
    /// A primary: replicas that are online, feeds like ours (port 0) not counted.
    pub replicas: u32,
}

impl Seen {
    fn of(server: &Info, replication: &Info) -> Option<Self> {
        let text = |info: &Info, name: &str| info.get(name).map(str::to_owned);
        let online = |(name, value): (&String, &String)| {
            name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok())
                && value.contains("state=online")
                && !value.contains("port=0,")
        };
        Some(Self {
            identity: Identity {
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
enum Asked {
    Ping(Instant),
    Commands,
    Stats,
    Server,
    Replication,
}

/// The watch over one server.
pub struct Server {
    connection: Connection,
    asked: VecDeque<Asked>,
    /// Who it was.
    first: Identity,
    seen: Seen,
    /// INFO server of the look that is under way.
    half: Option<Info>,
    /// What it had lost at the last look, if that is watched, and whether evictions count.
    guard: Option<(Losses, bool)>,
    /// INFO commandstats of the look that is under way.
    commands: Option<Info>,
    /// Looks that were begun and ended.
    begun: u64,
    ended: u64,
    looked: Instant,
    pinged: Instant,
    pings: VecDeque<Duration>,
    baseline: Duration,
    /// When, requests it had executed, and of these ours.
    load: Option<(Instant, u64, u64)>,
    others: u64,
    link_down: Option<Instant>,
}

impl Server {
    /// Connects, notes who the server is and what a PING takes at rest.
    ///
    /// # Errors
    /// When it cannot be reached or does not say who it is.
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, RedisError> {
        let mut connection = Connection::open(endpoint, name, deadline).await?;
        let server = info(&mut connection, b"server", deadline).await?;
        let replication = info(&mut connection, b"replication", deadline).await?;
        let seen = Seen::of(&server, &replication)
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
            first: seen.identity.clone(),
            seen,
            half: None,
            guard: None,
            commands: None,
            begun: 0,
            ended: 0,
            looked: now,
            pinged: now,
            pings: VecDeque::with_capacity(PINGS_KEPT),
            baseline: pings[BASELINE_PINGS / 2],
            load: None,
            others: 0,
            link_down: None,
        })
    }

    /// A server that is to be changed, with the connection for that, opened before the look at the server.
    ///
    /// # Errors
    /// As [`Server::open`], or it is a replica. A sentence for people.
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
        self.guard = Some((Losses::of(&commands, &stats), evictions));
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
        let pinging = self.asked.iter().any(|asked| matches!(asked, Asked::Ping(_)));
        if !pinging && now.saturating_duration_since(self.pinged) >= PING_EVERY {
            self.pinged = now;
            self.connection.send(&[b"PING"]);
            self.asked.push_back(Asked::Ping(now));
        }
        if self.begun == self.ended && now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.look(now);
        }
        self.connection.flush().map_err(|error| error.to_string())
    }

    /// Asks who it is and where, now; [`Server::looked`] says when the answer is in.
    pub fn look_now(&mut self, now: Instant) -> u64 {
        self.look(now);
        self.begun
    }

    /// As [`Server::look_now`], and not with the next turn: clients wait, and nothing else may happen before.
    pub fn look_at_once(&mut self, now: Instant) -> u64 {
        let look = self.look_now(now);
        // If it fails, the next turn fails, too.
        let _ = self.connection.flush();
        look
    }

    /// Whether the answer to this look is in [`Server::seen`].
    #[must_use]
    pub fn looked(&self, look: u64) -> bool {
        self.ended >= look
    }

    fn look(&mut self, now: Instant) {
        self.looked = now;
        self.begun += 1;
        if self.guard.is_some() {
            self.connection.send(&[b"INFO", b"commandstats"]);
            self.connection.send(&[b"INFO", b"stats"]);
            self.asked.extend([Asked::Commands, Asked::Stats]);
        }
        self.connection.send(&[b"INFO", b"server"]);
        self.connection.send(&[b"INFO", b"replication"]);
        self.asked.extend([Asked::Server, Asked::Replication]);
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
            Asked::Ping(sent) => {
                if self.pings.len() == PINGS_KEPT {
                    self.pings.pop_front();
                }
                self.pings.push_back(now.saturating_duration_since(sent));
            }
            Asked::Commands => self.commands = Some(info()?),
            Asked::Stats => {
                let stats = info()?;
                if let (Some((before, evictions)), Some(commands)) = (&mut self.guard, self.commands.take()) {
                    let now = Losses::of(&commands, &stats);
                    if let Some(what) = before.until(&now, *evictions) {
                        return Err(format!("{addr} {what}"));
                    }
                    *before = now;
                }
            }
            Asked::Server => self.half = Some(info()?),
            Asked::Replication => {
                let replication = info()?;
                let seen = self.half.take().and_then(|server| Seen::of(&server, &replication));
                self.seen =
                    seen.ok_or_else(|| format!("INFO of {addr} shows no run_id, role or replication offset"))?;
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
        let (was, is, addr) = (&self.first, &self.seen.identity, self.connection.addr());
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
        if self.seen.link_up {
            self.link_down = None;
        } else if now.saturating_duration_since(*self.link_down.get_or_insert(now)) > LINK_DOWN_MAX {
            return Err(format!("{addr} has lost its primary"));
        }
        Ok(())
    }

    /// Who it was at the start, and is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.first
    }

    /// The last look.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
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
            Asked::Ping(sent) => Some(now.saturating_duration_since(*sent)),
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
