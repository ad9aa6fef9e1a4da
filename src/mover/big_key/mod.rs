//! Copies keys that are too big for one DUMP and RESTORE: in chunks, and, where commands name what they change, by field.
//! Knows nothing of connections: it is asked for requests and told answers and events, so that the engine keeps the order.
//!
//! Why it is right, for one key:
//! - All requests to the source go over one connection, all to the target over one, and a key has one round under way.
//! - A field is marked by each event that names it, and its mark is cleared before it is asked for. So the last answer about
//!   a field was given after the last event about it that was seen; at the barrier all have been seen.
//! - HSCAN and SSCAN return what is there all along. A rank is not a place to go on from while others are removed, so sorted
//!   sets are read on from a score.
//! - Everything that does not name its fields makes the whole key stale: the target's copy is dropped and it begins anew.
//! - The time to live comes last. As soon as one is set, the target may expire its copy by itself; so each later round first
//!   asks the target whether the copy is there and takes the time off it. If it is not there, the key is stale.

pub mod copy;
pub mod fields;
pub mod keys;
mod read;
pub mod requests;
mod stream;
pub mod touch;
mod value;
mod write;

pub use copy::BigCopy;
pub use keys::{BigId, BigKeys, KeyRound, RemainingWork, ReturnedKey};
pub use requests::Requests;
pub use touch::{Touch, touch};

/// A key of more bytes than this (MEMORY USAGE, or the length of a string) crosses in chunks: RESTORE of so much takes
/// about a millisecond.
pub const BIG_BYTES: u64 = 256 << 10;
/// A key of more elements than this crosses in chunks, however small they are.
pub const BIG_ELEMENTS: u64 = 5_000;
/// Elements of one chunk. Measured with a hash of a million fields: 100 takes half as long again, 1024 has longer stalls.
pub const CHUNK_ELEMENTS: usize = 512;
/// Bytes that one chunk aims at. The sizes of the elements before it are all that is known, so a single one may be more.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// A type whose values can be read and written piece by piece.
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
    /// From the answer to TYPE; `None` for the types of modules, which only DUMP can carry, and for `none`.
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

    /// For people.
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

/// Why a key cannot be copied. The run fails with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BigKeyError {
    /// A server refused something.
    #[error("{side} refused {what} for the {kind} '{key}': {said}")]
    Refused {
        /// "the source" or "the target".
        side: &'static str,
        /// What was asked.
        what: &'static str,
        /// The type, for people.
        kind: &'static str,
        /// The key, clipped and with escapes.
        key: String,
        /// The server's words.
        said: String,
    },
    /// An answer of a shape that we do not know.
    #[error("the source answered {what} for the {kind} '{key}' in a form that is not known")]
    Shape {
        /// What was asked.
        what: &'static str,
        /// The type, for people.
        kind: &'static str,
        /// The key, clipped and with escapes.
        key: String,
    },
    /// More answers than requests: the engine or the server has stale count.
    #[error("an answer came for '{key}' that nobody awaits")]
    Unasked {
        /// The key, clipped and with escapes.
        key: String,
    },
}

/// Longest part of a key or of a server's words that is shown to people.
const SHOWN_MAX: usize = 100;

/// A key for people: escaped, and not longer than a line.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < bytes.len() { "..." } else { "" })
}
