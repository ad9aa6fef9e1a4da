//! The requests of a copy to its source and target: what an outstanding reply is about, and the text if it is an error.
//! Knows nothing of when they are sent.

use crate::{
    model::ids::HostPort,
    mover::{big_key::BigId, track::dirty::DbKey},
    redis::RedisError,
};

/// A small key that is being copied.
#[derive(Debug)]
pub(super) struct FetchKey {
    pub item: DbKey,
    /// Its time to live must be requested.
    pub ttl: bool,
    /// Number of this fetch.
    pub number: u64,
}

/// An outstanding request to the source.
#[derive(Debug)]
pub(super) enum SourceRequest {
    Select,
    /// SCAN.
    KeyPage,
    /// MEMORY USAGE.
    Size(FetchKey),
    /// PEXPIRETIME of the key whose value comes next.
    ExpireTime,
    /// TIME before a PTTL.
    Time,
    /// PTTL of the key whose value comes next.
    Ttl,
    /// DUMP, and the estimated size.
    Value(FetchKey, usize),
    /// PING after every fetch of this key that was requested before it was found to be big, or to have an encoding that the
    /// target does not know (`true`).
    Big(DbKey, bool),
    /// A request of a big key's round, and its database.
    Chunk(BigId, u32),
    /// COMMAND GETKEYS.
    Keys {
        db: Option<u32>,
        name: String,
    },
    /// INFO keyspace.
    Keyspace,
    /// FUNCTION LIST.
    Libraries,
    /// INFO stats, and the number of requests before it.
    Stats(u64),
}

impl SourceRequest {
    /// The error of a reply with this error text.
    pub fn error(&self, addr: &HostPort, text: &str) -> String {
        let of = |command: &str| RedisError::of_answer(addr, command, text).to_string();
        match self {
            Self::Keys { name, .. } => format!(
                "{addr} replicates a command '{name}' and does not report its keys either ({text}), so what it changed is unknown"
            ),
            Self::Size(_) => of("MEMORY"),
            Self::Value(key, _) => format!("{} (key '{}')", of("DUMP"), key.item.key.escape_ascii()),
            Self::Big(..) => of("PING"),
            Self::Chunk(..) => of("a part of a big key"),
            Self::Libraries => of("FUNCTION"),
            Self::ExpireTime => of("PEXPIRETIME"),
            Self::Time => of("TIME"),
            Self::Ttl => of("PTTL"),
            Self::KeyPage => of("SCAN"),
            Self::Select => of("SELECT"),
            Self::Keyspace | Self::Stats(_) => of("INFO"),
        }
    }
}

/// An outstanding request to the target. `number` is that of the fetch, `estimate` the estimated size that is given
/// back.
#[derive(Debug)]
pub(super) enum TargetRequest {
    Select,
    /// RESTORE.
    Restore {
        key: FetchKey,
        /// Bytes of the value.
        bytes: usize,
        estimate: usize,
        /// The version of the payload was lowered.
        lowered: bool,
        /// The type byte of the payload.
        kind: Option<u8>,
    },
    Unlink {
        number: u64,
        estimate: usize,
    },
    /// PING instead of a RESTORE of a key that is now copied in chunks.
    Superseded {
        number: u64,
        estimate: usize,
    },
    /// A request of a big key's round.
    Chunk(BigId),
    /// FUNCTION LIST.
    Libraries,
    /// FUNCTION LOAD.
    Load,
    /// PING before a WAIT.
    Ping,
    /// WAIT for this many replicas.
    Wait(u32),
    /// INFO stats, and the number of requests before it.
    Stats(u64),
    /// A command of the feed that a test replays.
    Replayed,
}

impl TargetRequest {
    /// The error of a reply with this error text.
    pub fn error(&self, addr: &HostPort, text: &str) -> String {
        let of = |command: &str| RedisError::of_answer(addr, command, text).to_string();
        if text.starts_with("OOM") {
            return format!(
                "{addr} is out of memory ({text}); raise its maxmemory or move fewer slots there, then resume the migration"
            );
        }
        match self {
            Self::Restore { key, lowered, .. } => format!(
                "{} (key '{}'{})",
                of("RESTORE"),
                key.item.key.escape_ascii(),
                if *lowered { "; its value has an encoding that this server is too old for" } else { "" }
            ),
            Self::Unlink { .. } => of("UNLINK"),
            Self::Chunk(_) => of("a part of a big key"),
            Self::Libraries | Self::Load => of("FUNCTION"),
            Self::Select => of("SELECT"),
            Self::Ping | Self::Superseded { .. } | Self::Replayed => of("PING"),
            Self::Wait(_) => of("WAIT"),
            Self::Stats(_) => of("INFO"),
        }
    }
}
