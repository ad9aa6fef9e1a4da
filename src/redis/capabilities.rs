//! Determines a server's properties and what it allows, by asking and trying, never from its version.
//! Knows nothing of the purpose, and changes nothing at the server: commands are tried in forms that are refused or do
//! nothing.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Client, Info, RedisError, Reply, Role, raw::Raw};
use crate::model::{ids::HostPort, secret::Credentials};

/// Name of the connections, as CLIENT LIST shows it to operators.
const NAME: &str = "pt:capabilities";
/// A key for trying commands. No application has it, since its name is random.
const KEY: &[u8] = b"pt:capabilities:2f6b1c0d9a3e47d58b1f60c7e2a94d13";
/// A channel for trying commands; likewise.
const CHANNEL: &[u8] = b"pt:capabilities:2f6b1c0d9a3e47d58b1f60c7e2a94d13";

/// Asks when a key of no application expires. An error reply: the server or its user does not have PEXPIRETIME, which
/// came with Redis 7.0.
pub const EXPIRE_TIME_PROBE: &[&[u8]] = &[b"PEXPIRETIME", KEY];

/// Whether something is allowed, or why not, as text for the operator.
pub type Allowed<T = ()> = Result<T, String>;

/// How the replication stream is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Psync {
    /// There is a backlog, and PSYNC replied CONTINUE.
    Continue,
    /// There is no backlog yet (the server never had a replica), but it supports `REPLCONF rdb-filter-only`. With that,
    /// the full synchronization that creates the backlog is an empty file. The server forks once.
    Prime,
}

/// Memory in bytes, from INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All allocated memory.
    pub used: u64,
    /// The part of it that holds data.
    pub dataset: u64,
    /// `maxmemory`; 0: no limit is set.
    pub max: u64,
    /// Memory of the machine; 0: unknown.
    pub system: u64,
}

impl Memory {
    /// How much more memory it may use, by its own limit or else the machine's. `None`: neither is known.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        let most = if self.max > 0 { self.max } else { self.system };
        (most > 0).then(|| most.saturating_sub(self.used))
    }
}

/// A server's properties and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The server.
    pub addr: HostPort,
    /// `redis_version`, major and minor; nothing is derived from it.
    pub version: (u32, u32),
    /// Identifies the process.
    pub run_id: String,
    /// Its role, with the offset at this moment.
    pub role: Role,
    /// Its replication id.
    pub replid: String,
    /// It is reading its data from disk, or from its primary.
    pub loading: bool,
    /// Bytes.
    pub memory: Memory,
    /// Keys by database.
    pub keyspace: BTreeMap<u32, u64>,
    /// `maxmemory-policy`. `None`: unknown.
    pub policy: Option<String>,
    /// `min-replicas-to-write`. `None`: unknown.
    pub min_replicas_to_write: Option<u32>,
    /// CLIENT SETNAME and CLIENT ID: without them a connection cannot be identified.
    pub client_name: Allowed,
    /// CLIENT LIST.
    pub client_list: Allowed,
    /// CLIENT KILL ID, tried on a connection of our own.
    pub client_kill: Allowed,
    /// SCAN, DUMP, TYPE, TIME, and PEXPIRETIME or else PTTL, which a copy uses for reading.
    pub reads: Allowed,
    /// RESTORE with ABSTTL, tried with an invalid payload: the server is not read-only, has enough replicas and is not out of
    /// memory.
    pub restore: Allowed,
    /// UNLINK.
    pub unlink: Allowed,
    /// MEMORY USAGE.
    pub memory_usage: Allowed,
    /// FUNCTION LIST.
    pub functions: Allowed,
    /// How far its clock is ahead of this machine's, in milliseconds, give or take half a round trip. `None`: TIME is not
    /// allowed.
    pub clock_ahead_ms: Option<i64>,
}

/// Which feeds a server allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feeds {
    /// The replication stream.
    pub psync: Allowed<Psync>,
    /// CLIENT TRACKING ON BCAST in RESP3.
    pub tracking: Allowed,
}

impl Feeds {
    /// Whether a feed is allowed.
    #[must_use]
    pub fn any(&self) -> bool {
        self.psync.is_ok() || self.tracking.is_ok()
    }

    /// Why no feed is allowed: both reasons.
    #[must_use]
    pub fn why_none(&self) -> String {
        let mut why: Vec<&str> = Vec::new();
        why.extend(self.psync.as_ref().err().map(String::as_str));
        why.extend(self.tracking.as_ref().err().map(String::as_str));
        why.join("; and ")
    }
}

/// Determines a server's properties and what it allows. Takes a few milliseconds and about ten commands.
///
/// # Errors
/// The server cannot be reached, refuses the login, or does not allow INFO or ROLE. All other refusals are part of the
/// result.
pub async fn capabilities(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<Capabilities, RedisError> {
    let mut client = Client::connect(addr, credentials, NAME, deadline).await?;
    let info = client.info("default", deadline).await?;
    let role = client.role(deadline).await?;
    let number = |name: &str| info.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
    let memory = Memory {
        used: number("used_memory"),
        dataset: number("used_memory_dataset"),
        max: number("maxmemory"),
        system: number("total_system_memory"),
    };
    let policy = match info.get("maxmemory_policy") {
        Some(policy) => Some(policy.to_owned()),
        None => client.config("maxmemory-policy", deadline).await?,
    };
    let min_replicas = client.config("min-replicas-to-write", deadline).await?;
    let mut tester = CommandTester { client: &mut client, deadline };
    // The client type limits the reply: with thousands of clients the whole list takes milliseconds.
    let client_list = tester.allowed(&[b"CLIENT", b"LIST", b"TYPE", b"master"]).await?;
    let mut client_name = tester.allowed(&[b"CLIENT", b"SETNAME", NAME.as_bytes()]).await?;
    if client_name.is_ok() {
        client_name = tester.allowed(&[b"CLIENT", b"ID"]).await?;
    }
    let mut reads = Ok(());
    for command in [&[b"SCAN" as &[u8], b"0", b"COUNT", b"1"][..], &[b"DUMP", KEY], &[b"TYPE", KEY], &[b"TIME"]] {
        reads = reads.and(tester.allowed(command).await?);
    }
    if tester.allowed(EXPIRE_TIME_PROBE).await?.is_err() {
        reads = reads.and(tester.allowed(&[b"PTTL", KEY]).await?);
    }
    let capabilities = Capabilities {
        addr: addr.clone(),
        version: info.version().unwrap_or((0, 0)),
        run_id: info.get("run_id").unwrap_or_default().to_owned(),
        role,
        replid: info.get("master_replid").unwrap_or_default().to_owned(),
        loading: ["loading", "async_loading"].iter().any(|name| info.get(name) == Some("1")),
        memory,
        keyspace: info.keyspace(),
        policy,
        min_replicas_to_write: min_replicas.and_then(|n| n.parse().ok()),
        client_name,
        client_list,
        client_kill: tester.kill(credentials).await?,
        reads,
        restore: tester.allowed(&[b"RESTORE", KEY, b"0", b"", b"ABSTTL"]).await?,
        unlink: tester.allowed(&[b"UNLINK", KEY]).await?,
        memory_usage: tester.allowed(&[b"MEMORY", b"USAGE", KEY]).await?,
        functions: tester.allowed(&[b"FUNCTION", b"LIST", b"LIBRARYNAME", KEY]).await?,
        clock_ahead_ms: tester.clock_ahead_ms().await?,
    };
    Ok(capabilities)
}

struct CommandTester<'a> {
    client: &'a mut Client,
    deadline: Instant,
}

impl CommandTester<'_> {
    /// Whether a command would be executed. The outer error means that the connection is lost.
    async fn allowed(&mut self, command: &[&[u8]]) -> Result<Allowed, RedisError> {
        let name = String::from_utf8_lossy(command.first().copied().unwrap_or_default()).into_owned();
        let name = match command.get(1) {
            Some(second) if matches!(name.as_str(), "CLIENT" | "MEMORY" | "FUNCTION") => {
                format!("{name} {}", String::from_utf8_lossy(second))
            }
            _ => name,
        };
        match self.client.ask(command, self.deadline).await {
            Ok(_) => Ok(Ok(())),
            Err(error) if !error.answered() => Err(error),
            Err(error) if is_permitted(&error) => Ok(Ok(())),
            Err(error) => Ok(Err(refusal(&name, error))),
        }
    }

    async fn clock_ahead_ms(&mut self) -> Result<Option<i64>, RedisError> {
        let ours = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let before = ours();
        match self.client.ask(&[b"TIME"], self.deadline).await {
            Ok(reply) => Ok(reply.clock_ms().map(|theirs| theirs - (before + ours()) / 2)),
            Err(error) if !error.answered() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Closes a connection opened for this purpose. A permission to kill that was never tried is not a fence.
    async fn kill(&mut self, credentials: Option<&Credentials>) -> Result<Allowed, RedisError> {
        let addr = self.client.addr().clone();
        let mut victim = Client::connect(&addr, credentials, NAME, self.deadline).await?;
        let id = match victim.ask(&[b"CLIENT", b"ID"], self.deadline).await {
            Ok(reply) => reply.integer().unwrap_or(0),
            Err(error) if !error.answered() => return Err(error),
            Err(error) => return Ok(Err(refusal("CLIENT ID", error))),
        };
        match self.client.ask(&[b"CLIENT", b"KILL", b"ID", id.to_string().as_bytes()], self.deadline).await {
            Ok(Reply::Integer(1)) => Ok(Ok(())),
            Ok(other) => Ok(Err(format!("{addr} answers CLIENT KILL of an open connection with {other:?}"))),
            Err(error) if !error.answered() => Err(error),
            Err(error) => Ok(Err(refusal("CLIENT KILL", error))),
        }
    }
}

/// Error replies that come after the permission check: the payload is invalid, or the key is not among those that the
/// user may access, but others are.
fn is_permitted(error: &RedisError) -> bool {
    match error {
        RedisError::Refused { text, .. } => text.contains("DUMP payload") || text.contains("Bad data format"),
        RedisError::NotAllowed { text, .. } => text.contains("access one of the keys") || text.contains("access a key"),
        _ => false,
    }
}

fn refusal(name: &str, error: RedisError) -> String {
    match error {
        RedisError::NotAllowed { addr, text, .. } => {
            let acl = name.to_ascii_lowercase().replace(' ', "|");
            format!(
                "{addr} does not allow this user {name}: {text}; let the user run it (ACL SETUSER ... \
                 +{acl}, then ACL SAVE or CONFIG REWRITE)"
            )
        }
        RedisError::Refused { addr, text, .. } => format!("{addr} answers {name} with an error: {text}"),
        other => other.to_string(),
    }
}

/// Determines which feeds a server allows. Nothing forks: PSYNC is sent only where the reply is certainly CONTINUE
/// (there is a backlog) or an error.
///
/// # Errors
/// The server cannot be reached or refuses the login. A refused feed is part of the result.
pub async fn feeds(addr: &HostPort, credentials: Option<&Credentials>, deadline: Instant) -> Result<Feeds, RedisError> {
    let psync = match psync(addr, credentials, deadline).await {
        Ok(psync) => psync,
        Err(error) if !error.answered() => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    let tracking = match tracking(addr, credentials, deadline).await {
        Ok(()) => Ok(()),
        Err(error) if matches!(error, RedisError::Unreachable { .. }) => return Err(error),
        Err(error) => Err(format!("CLIENT TRACKING ON BCAST: {error}")),
    };
    Ok(Feeds { psync, tracking })
}

async fn psync(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<Allowed<Psync>, RedisError> {
    // First in a state in which it cannot succeed: a subscriber may send no other commands, and permissions are checked
    // before.
    let mut raw = Raw::connect(addr, credentials, NAME, deadline).await?;
    match raw.ask(&[b"SUBSCRIBE", CHANNEL], deadline).await {
        Ok(_) => {}
        Err(error) if !error.answered() => return Err(error),
        Err(error) => {
            let why = "PSYNC was not tried, because trying it is safe only on a connection that has subscribed";
            return Ok(Err(format!("{why}: {error} (ACL SETUSER ... &pt:*, then ACL SAVE or CONFIG REWRITE)")));
        }
    }
    // The confirmation of the subscription is one reply; the next one is that of PSYNC.
    match raw.ask(&[b"PSYNC", b"?", b"-1"], deadline).await {
        Err(RedisError::Refused { text, .. }) if text.contains("in this context") => {}
        Err(error) if !error.answered() => return Err(error),
        Err(error) => return Ok(Err(refusal("PSYNC", error))),
        Ok(_) => return Ok(Err(format!("{addr} answers PSYNC to a subscriber: this is not a known Redis server"))),
    }
    drop(raw);
    let mut client = Client::connect(addr, credentials, NAME, deadline).await?;
    let info = client.info("replication", deadline).await?;
    if info.get("role") == Some("slave") && info.get("master_link_status") != Some("up") {
        return Ok(Err(format!(
            "{addr} is a replica whose link to its primary is down; it refuses PSYNC until it is up"
        )));
    }
    if info.get("repl_backlog_active") != Some("1") {
        return match client.ask(&[b"REPLCONF", b"rdb-filter-only", b""], deadline).await {
            Ok(_) => Ok(Ok(Psync::Prime)),
            Err(error) if !error.answered() => Err(error),
            Err(error) => Ok(Err(format!(
                "{addr} has no replication backlog, and creating one requires a full snapshot ({error}); \
                 give it a replica, which the copy will then use"
            ))),
        };
    }
    continues(addr, credentials, deadline).await
}

/// Tries PSYNC at the current offset on a server with a backlog, and closes the connection.
async fn continues(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<Allowed<Psync>, RedisError> {
    let mut raw = Raw::connect(addr, credentials, NAME, deadline).await?;
    raw.ask(&[b"REPLCONF", b"capa", b"psync2"], deadline).await?;
    // Requested on this connection just before: many writes overrun a small backlog in milliseconds.
    let info = raw.bulk(&[b"INFO", b"replication"], deadline).await?;
    let info = Info::parse(&String::from_utf8_lossy(&info));
    let Some(offset) = info.get("master_repl_offset").and_then(|n| n.parse::<u64>().ok()) else {
        return Ok(Err(format!("{addr} does not report its replication offset")));
    };
    let replid = info.get("master_replid").unwrap_or_default();
    match raw.ask(&[b"PSYNC", replid.as_bytes(), (offset + 1).to_string().as_bytes()], deadline).await {
        Ok(line) if line.starts_with(b"CONTINUE") => Ok(Ok(Psync::Continue)),
        Ok(line) => Ok(Err(format!(
            "{addr} answers PSYNC at its own offset with '{}' although it has a backlog",
            String::from_utf8_lossy(&line[..line.len().min(64)]).escape_debug()
        ))),
        Err(error) if !error.answered() => Err(error),
        Err(error) => Ok(Err(refusal("PSYNC", error))),
    }
}

async fn tracking(addr: &HostPort, credentials: Option<&Credentials>, deadline: Instant) -> Result<(), RedisError> {
    let mut raw = Raw::connect(addr, credentials, NAME, deadline).await?;
    raw.ask(&[b"HELLO", b"3"], deadline).await?;
    raw.ask(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", KEY], deadline).await?;
    Ok(())
}
