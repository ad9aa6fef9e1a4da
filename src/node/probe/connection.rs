//! A probe of one server over a lasting connection: PING, ROLE and INFO in one write, and their answers.
//! Knows nothing of other servers, nor of what follows from a probe.

use std::{sync::LazyLock, time::Duration};

use tokio::time::Instant;

use super::{
    log::ProbeOutcome,
    report_wire::{REPLICAS_MAX, id},
};
use crate::{
    model::{ids::HostPort, limits::TEXT_LEN_MAX, secret::Credentials},
    plan::observation::{Impairment, Probe, ReportedRole},
    redis::{Client, RedisError, Reply, Role},
    resp::write,
};

/// A probe that takes longer than this, connecting included, has failed: a server that slow keeps clients waiting, too.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// An answer that comes later than [`PROBE_TIMEOUT`], but within this time, shows that the server is alive. Afterwards the
/// connection is replaced: it may lead nowhere. Shorter than the default down-after of 3 s, so that a new connection is
/// tried before the server counts as down.
pub const LATE_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Memory, keys and the like are requested with every fourth probe only: operators read them, and a probe is cheaper
/// without.
const RARE_EVERY: u32 = 4;
/// The configuration is requested once in this number of probes, about every 30 s.
const CONFIGURED_EVERY: u32 = 60;

/// Commands of every probe.
const OFTEN: &[&[&[u8]]] = &[&[b"PING"], &[b"ROLE"], &[b"INFO", b"replication"], &[b"INFO", b"clients"]];
/// Commands of every fourth probe. One section per INFO: Redis before 7 does not take two.
const RARE: &[&[&[u8]]] =
    &[&[b"INFO", b"memory"], &[b"INFO", b"stats"], &[b"INFO", b"persistence"], &[b"INFO", b"keyspace"]];
/// Commands of the first probe of a connection: a process keeps its run id.
const ONCE: &[&[&[u8]]] = &[&[b"INFO", b"server"]];
/// Not sent again after a refusal: the server would keep a record of each one.
const CONFIGURED: &[&[&[u8]]] =
    &[&[b"CONFIG", b"GET", b"save"], &[b"CONFIG", b"GET", b"lua-time-limit"], &[b"CONFIG", b"GET", b"maxclients"]];

static OFTEN_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| encode(&[OFTEN]));
static RARE_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| encode(&[OFTEN, RARE]));

/// A connection for the probes of a server.
pub struct ProbeConnection {
    client: Client,
    known: CachedInfo,
    probes: u32,
    /// The server was loading its data when its keys were last requested, so their number was that of the moment.
    partial: bool,
}

/// What is not requested with every probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CachedInfo {
    run_id: String,
    used_memory: u64,
    keys: u64,
    ops_per_second: u64,
    append_only: Option<bool>,
    save_points: Option<bool>,
    busy_reply_ms: Option<i64>,
    clients_max: Option<u32>,
    /// Its clients, until they are taken.
    clients: Option<u32>,
    snapshots_fail: bool,
    appending_fails: bool,
}

impl ProbeConnection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn open(
        addr: &HostPort,
        credentials: Option<&Credentials>,
        name: &str,
        deadline: Instant,
    ) -> Result<Self, RedisError> {
        let client = Client::connect(addr, credentials, name, deadline).await?;
        Ok(Self { client, known: CachedInfo::default(), probes: 0, partial: false })
    }

    /// How many clients the server accepts, if it has said so.
    #[must_use]
    pub fn clients_max(&self) -> Option<u32> {
        self.known.clients_max
    }

    /// How many clients the server has, if it has said so since the last call.
    pub fn take_clients(&mut self) -> Option<u32> {
        self.known.clients.take()
    }

    /// Resolves when the connection has broken.
    pub async fn broken(&self) {
        self.client.broken().await;
    }

    /// Probes the server. After an error the connection cannot be used, unless the server answered
    /// ([`RedisError::answered`]).
    ///
    /// # Errors
    /// As [`Client::pipeline`]; also an error answer to ROLE or INFO.
    pub async fn probe(&mut self, deadline: Instant) -> Result<Probe, RedisError> {
        let parts: &[&[&[&[u8]]]] = match self.probes {
            0 => &[OFTEN, RARE, ONCE, CONFIGURED],
            n if n % CONFIGURED_EVERY == 0 && self.known.save_points.is_some() => &[OFTEN, RARE, CONFIGURED],
            n if n % RARE_EVERY == 0 || self.partial => &[OFTEN, RARE],
            _ => &[OFTEN],
        };
        let encoded;
        let request = match parts.len() {
            1 => &*OFTEN_BYTES,
            2 => &*RARE_BYTES,
            _ => {
                encoded = encode(parts);
                &encoded
            }
        };
        let count = parts.iter().map(|part| part.len()).sum();
        let began = Instant::now();
        let replies = self.client.exchange(request, count, "PING, ROLE and INFO", deadline).await?;
        let ping_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (often, more) = replies.split_at(OFTEN.len());
        for reply in often.last().into_iter().chain(more) {
            self.known.take(reply);
        }
        let probe = self.judge(often, ping_us);
        // What is requested once is requested again if the server could not answer it.
        if !matches!(probe, Err(RedisError::Busy { .. } | RedisError::Loading { .. })) {
            self.probes = self.probes.wrapping_add(1);
        }
        // PING was answered first: if that answer was whole, so are those behind it.
        let ready = probe.as_ref().is_ok_and(|probe| !probe.loading);
        self.partial = !ready || (self.partial && more.is_empty());
        probe
    }

    /// `often`: the answers to [`OFTEN`].
    fn judge(&self, often: &[Reply], ping_us: u64) -> Result<Probe, RedisError> {
        let addr = self.client.addr();
        let malformed =
            |what: &str| RedisError::Protocol { addr: addr.clone(), why: format!("its answer to {what} is malformed") };
        let answer = |at: usize, what: &str| match often.get(at) {
            Some(Reply::Error(text)) => Err(RedisError::of_answer(addr, what, text)),
            Some(reply) => Ok(reply),
            None => Err(malformed(what)),
        };
        // Other errors of PING (a link that is down) show in the answers that follow, or do not matter here.
        let write_error = match often.first() {
            Some(Reply::Error(text)) if text.starts_with("MISCONF") => text.chars().take(TEXT_LEN_MAX).collect(),
            _ => String::new(),
        };
        let loading = matches!(answer(0, "PING"), Err(RedisError::Loading { .. }));
        let role = Role::parse(answer(1, "ROLE")?).ok_or_else(|| malformed("ROLE"))?;
        let Reply::Bulk(text) = answer(2, "INFO")? else { return Err(malformed("INFO")) };
        let replication = Replication::parse(&String::from_utf8_lossy(text));
        let mut unnamed_replicas = 0;
        let (role, offset) = match role {
            Role::Primary { replicas, .. } => {
                // Feeds of our own movers do not listen on a port either, and acknowledge nothing.
                unnamed_replicas = replicas.iter().filter(|r| r.port == 0 && r.offset > 0).count();
                let replica = |r: crate::redis::role::ReplicaRole| {
                    Some((host_port(&r.host, r.port)?, u64::try_from(r.offset).unwrap_or(0)))
                };
                // A replica that does not listen has port 0, which is not an address.
                let replicas = replicas.into_iter().filter_map(replica).take(REPLICAS_MAX).collect();
                (ReportedRole::Primary { replicas }, replication.offset)
            }
            Role::Replica { host, port, link, .. } => {
                let link_up = replication.link_up && link == "connected";
                let role = ReportedRole::Replica {
                    of: host_port(&host, port).ok_or_else(|| malformed("ROLE"))?,
                    link_up,
                    link_down_ms: if link_up { 0 } else { replication.link_down_ms },
                    syncing: replication.syncing,
                };
                // Not the offset of ROLE, which is -1 while the link is down.
                (role, replication.executed)
            }
            Role::Sentinel => {
                let why = "is a Redis Sentinel and has no data; take it out of the group".to_owned();
                return Err(RedisError::Refused { addr: addr.clone(), command: "ROLE".into(), text: why });
            }
        };
        let CachedInfo { run_id, used_memory, keys, ops_per_second, append_only, save_points, busy_reply_ms, .. } =
            self.known.clone();
        let persistent = match (append_only, save_points) {
            _ if loading => None,
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            (None, _) | (_, None) => None,
        };
        Ok(Probe {
            run_id,
            role,
            replid: replication.replid,
            offset,
            replid2: replication.replid2,
            loading,
            used_memory,
            keys,
            ops_per_second,
            ping_us,
            persistent,
            unnamed_replicas: u32::try_from(unnamed_replicas).unwrap_or(u32::MAX),
            write_error,
            busy_reply_ms,
            saves_fail: self.known.snapshots_fail || self.known.appending_fails,
        })
    }
}

impl CachedInfo {
    /// Takes an answer that a probe does not need; an error is ignored.
    fn take(&mut self, reply: &Reply) {
        match reply {
            Reply::Bulk(text) => self.info(&String::from_utf8_lossy(text)),
            Reply::Array(items) => self.config(items.first().and_then(Reply::text), items.get(1).and_then(Reply::text)),
            Reply::Simple(_) | Reply::Error(_) | Reply::Integer(_) | Reply::Null => {}
        }
    }

    /// The answer to CONFIG GET of one parameter.
    fn config(&mut self, name: Option<&str>, value: Option<&str>) {
        match name {
            Some("save") => self.save_points = value.map(|save| !save.is_empty()),
            Some("maxclients") => self.clients_max = value.and_then(|max| max.parse().ok()),
            Some("lua-time-limit") => self.busy_reply_ms = value.and_then(|ms| ms.parse().ok()),
            _ => {}
        }
    }

    fn info(&mut self, text: &str) {
        for line in text.lines() {
            match line.split_once(':') {
                Some(("run_id", value)) => self.run_id = id(value),
                Some(("used_memory", value)) => self.used_memory = number(value),
                Some(("connected_clients", value)) => self.clients = value.parse().ok(),
                Some(("instantaneous_ops_per_sec", value)) => self.ops_per_second = number(value),
                Some(("rdb_last_bgsave_status", value)) => self.snapshots_fail = value == "err",
                Some(("aof_last_write_status", value)) => self.appending_fails = value == "err",
                Some(("aof_enabled", value)) => self.append_only = Some(value == "1"),
                Some((db, value)) if db.starts_with("db") => {
                    let keys = value.split(',').find_map(|part| part.strip_prefix("keys="));
                    self.keys = self.keys.saturating_add(keys.map_or(0, number));
                }
                // INFO does not name databases without keys, so the sum begins at 0.
                None if line == "# Keyspace" => self.keys = 0,
                _ => {}
            }
        }
    }
}

/// The answer to INFO replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Replication {
    replid: String,
    replid2: Option<(String, u64)>,
    /// The offset of a primary.
    offset: u64,
    /// The offset of a replica in its primary's stream.
    executed: u64,
    link_up: bool,
    link_down_ms: u64,
    syncing: bool,
}

impl Replication {
    fn parse(text: &str) -> Self {
        let mut seen = Self { link_down_ms: u64::MAX, ..Self::default() };
        let (mut former, mut until) = ("", None);
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "master_replid" => seen.replid = id(value),
                "master_replid2" => former = value,
                "second_repl_offset" => until = value.parse().ok(),
                "master_repl_offset" => seen.offset = number(value),
                "slave_repl_offset" => seen.executed = number(value),
                "master_link_status" => seen.link_up = value == "up",
                "master_sync_in_progress" => seen.syncing = value == "1",
                // -1 means never.
                "master_link_down_since_seconds" => {
                    seen.link_down_ms = value.parse::<u64>().map_or(u64::MAX, |s| s.saturating_mul(1000));
                }
                _ => {}
            }
        }
        // -1 and an id of zeros mean that there was none.
        seen.replid2 = until.map(|until| (id(former), until));
        seen
    }
}

/// Probes a server once, over the given connection or a new one, which is then kept. A connection that has broken
/// meanwhile is replaced immediately.
///
/// # Errors
/// This node cannot probe any server now, which says nothing about this one.
pub async fn probe(
    connection: &mut Option<ProbeConnection>,
    addr: &HostPort,
    credentials: Option<&Credentials>,
    name: &str,
    deadline: Instant,
) -> Result<ProbeOutcome, String> {
    let mut result = match connection {
        Some(open) => open.probe(deadline).await,
        None => probe_over_new_connection(connection, addr, credentials, name, deadline).await,
    };
    if matches!(result, Err(RedisError::Closed { .. })) {
        result = probe_over_new_connection(connection, addr, credentials, name, deadline).await;
    }
    match result {
        Ok(probe) => Ok(ProbeOutcome::Answered(probe)),
        Err(error @ RedisError::Exhausted { .. }) => Err(error.to_string()),
        Err(error) if error.answered() && !matches!(error, RedisError::Protocol { .. }) => {
            let impairment = match &error {
                RedisError::Busy { .. } => Some(Impairment::Busy),
                RedisError::Loading { .. } => Some(Impairment::Loading),
                RedisError::PasswordNeeded { .. } | RedisError::WrongPassword { .. } => Some(Impairment::RefusesLogin),
                _ => None,
            };
            Ok(ProbeOutcome::Unusable(in_words(&error), impairment))
        }
        Err(error) => {
            *connection = None;
            Ok(ProbeOutcome::Failed(in_words(&error)))
        }
    }
}

/// Probes a server over a new connection, which replaces the given one.
async fn probe_over_new_connection(
    connection: &mut Option<ProbeConnection>,
    addr: &HostPort,
    credentials: Option<&Credentials>,
    name: &str,
    deadline: Instant,
) -> Result<Probe, RedisError> {
    *connection = None;
    let open = ProbeConnection::open(addr, credentials, name, deadline).await?;
    connection.insert(open).probe(deadline).await
}

/// The text of an error for the operator, without advice on the options of a new group, which would not help here.
fn in_words(error: &RedisError) -> String {
    let text = match error {
        RedisError::PasswordNeeded { addr } => {
            format!(
                "{addr} wants a password, and its group has none; the server's requirepass was set since it was added"
            )
        }
        RedisError::WrongPassword { addr, text } => format!(
            "{addr} refuses the password of its group ({text}); the server's password or user was changed since it was added"
        ),
        other => other.to_string(),
    };
    text.chars().take(TEXT_LEN_MAX).collect()
}

fn encode(parts: &[&[&[&[u8]]]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in parts.iter().flat_map(|part| part.iter()) {
        write::request(&mut bytes, command);
    }
    bytes
}

fn host_port(host: &str, port: u16) -> Option<HostPort> {
    let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    HostPort::parse(&text).ok()
}

fn number(text: &str) -> u64 {
    text.trim_end().parse().unwrap_or(0)
}
