//! Copies keys that are too big for one DUMP and RESTORE: in chunks, and by field where commands name the fields that
//! they change.
//! Knows nothing of connections: it produces requests and consumes replies and events, so that the engine controls the
//! order.
//!
//! Why the copy of one key is correct:
//! - All requests to the source use one connection, all requests to the target use one, and a key has one round in
//!   flight.
//! - Each event that names a field marks it dirty, and the mark is removed before the field is requested. So the last
//!   reply about a field was made after the last event about it that was read; at the barrier all events have been
//!   read.
//! - HSCAN and SSCAN return every element that is there from the first call to the last. A rank is not a stable
//!   position while members are removed, so sorted sets are read by score.
//! - A command that does not name its fields makes the whole key stale: the copy at the target is deleted and
//!   restarted.
//! - The time to live is written last. From then on the target may expire its copy, so each later round first checks
//!   that the copy exists and removes the time to live. If the copy does not exist, the key is stale.

pub mod copy;
mod delivery;
pub mod fields;
pub mod keys;
mod pending;
mod read;
pub mod requests;
mod stream;
mod stream_id;
pub mod touch;
pub(in crate::mover) mod value;
mod write;

pub use copy::BigCopy;
pub use keys::{BigId, BigKeys, KeyRound, RemainingWork, ReturnedKey};
pub use requests::Requests;
pub use touch::{Touch, touch};

/// A key of more bytes than this (MEMORY USAGE, or the length of a string) is copied in chunks: RESTORE of this many
/// bytes takes about a millisecond.
pub const BIG_BYTES: u64 = 256 << 10;
/// A key of more elements than this is copied in chunks, however small they are.
pub const BIG_ELEMENTS: u64 = 5_000;
/// Elements of one chunk. Measured with a hash of a million fields: 100 takes 1.5 times as long, 1024 has longer
/// stalls.
pub const CHUNK_ELEMENTS: usize = 512;
/// Target size of a chunk in bytes. Only the sizes of the elements before it are known, so a single chunk may be
/// larger.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// A type whose values can be read and written in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BigKeyType {
    /// GETRANGE and SETRANGE.
    String,
    /// LRANGE and RPUSH.
    List,
    /// SSCAN and SADD.
    Set,
    /// ZRANGEBYSCORE and ZADD.
    Zset,
    /// HSCAN and HSET.
    Hash,
    /// XRANGE and XADD, with groups, consumers and pending entries.
    Stream,
}

impl BigKeyType {
    /// Parses the reply to TYPE. `None` for the types of modules, which only DUMP can read, and for `none`.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"string" => Self::String,
            b"list" => Self::List,
            b"set" => Self::Set,
            b"zset" => Self::Zset,
            b"hash" => Self::Hash,
            b"stream" => Self::Stream,
            _ => return None,
        })
    }

    /// The name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "sorted set",
            Self::Hash => "hash",
            Self::Stream => "stream",
        }
    }
}

/// Why a key cannot be copied. The run fails with this error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BigKeyError {
    /// A server replied with an error.
    #[error("{side} refused {what} for the {kind} '{key}': {text}")]
    Refused {
        /// "the source" or "the target".
        side: &'static str,
        /// What was requested.
        what: &'static str,
        /// The type, for messages.
        kind: &'static str,
        /// The key, escaped and truncated.
        key: String,
        /// The server's error text.
        text: String,
    },
    /// A reply of an unknown form.
    #[error("the source answered {what} for the {kind} '{key}' in an unknown form")]
    Shape {
        /// What was requested.
        what: &'static str,
        /// The type, for messages.
        kind: &'static str,
        /// The key, escaped and truncated.
        key: String,
    },
    /// More replies than requests: the engine or the server has lost count.
    #[error("received an unexpected reply for '{key}'")]
    UnexpectedReply {
        /// The key, escaped and truncated.
        key: String,
    },
}

/// Longest part of a key or of a server's error text that is shown, in bytes.
const SHOWN_MAX: usize = 100;

/// A key for messages: escaped and truncated to one line.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < bytes.len() { "..." } else { "" })
}
