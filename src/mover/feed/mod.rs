//! Feeds: how a mover learns which keys change at the source while they are copied.
//! Knows nothing of what is done with a changed key. Only names are taken from a feed, never values.

pub mod psync;
pub mod stream;
pub mod tracking;

use tokio::time::Instant;

use super::{io::connection::Connection, spec::Endpoint};
use crate::redis::{RedisError, capabilities};
use psync::Psync;
pub use stream::CommandWords;

/// What a feed reports.
#[derive(Debug)]
pub enum Event<'a> {
    /// A key may have changed, been created or deleted.
    Changed {
        /// Its database. `None`: unknown, so the key may have changed in every database.
        db: Option<u32>,
        /// The key.
        key: &'a [u8],
        /// The command that changed it, if the feed knows it and has kept all of it.
        command: Option<&'a CommandWords>,
    },
    /// A command that our table does not have: the server must be asked for its keys (COMMAND GETKEYS).
    UnknownCommand {
        /// As in [`Event::Changed`].
        db: Option<u32>,
        /// The whole command.
        command: &'a CommandWords,
    },
    /// A library of functions was loaded, deleted or all were flushed.
    Functions,
}

/// A feed with its own connection. The engine reads and writes the connection and calls [`Feed::drain`] when data has
/// arrived.
pub trait Feed {
    /// The connection, for waiting and for reading and writing its bytes.
    fn connection(&mut self) -> &mut Connection;

    /// Consumes all complete messages that have arrived.
    ///
    /// # Errors
    /// Returns as text for the operator what cannot be expressed as changed keys (FLUSHALL, an unreadable command). The
    /// copy must be restarted.
    fn drain(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String>;

    /// Called several times a second. Appends to the connection's output what keeps the feed alive.
    fn tick(&mut self, now: Instant);

    /// The replication offset up to which everything was drained. `None`: this feed has no offsets.
    fn position(&self) -> Option<u64>;

    /// Starts to check whether everything up to the primary's replication `offset` was drained.
    fn begin_barrier(&mut self, offset: u64);

    /// Whether everything up to the offset of the last [`Feed::begin_barrier`] was drained.
    fn passed_barrier(&self) -> bool;

    /// Whether the feed reports changes of a stream's groups (XREADGROUP, XACK, XGROUP). If not, the engine fetches
    /// every copied stream again under the hold (`payload::is_stream` of the first byte of its DUMP).
    fn reports_stream_groups(&self) -> bool {
        true
    }
}

/// Why a feed could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedError {
    /// The server does not support it; another kind of feed may work.
    Unsupported(String),
    /// It should have worked; trying again may help.
    Failed(String),
}

impl std::fmt::Display for FeedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<RedisError> for FeedError {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Refused { .. } | RedisError::NotAllowed { .. } => Self::Unsupported(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Opens the best feed that the server allows: its replication stream, else client tracking. The server is asked.
///
/// # Errors
/// Returns as text for the operator why neither is allowed, or that the server cannot be reached.
pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Box<dyn Feed>, String> {
    let feeds = capabilities::feeds(&endpoint.addr, endpoint.credentials.as_ref(), deadline);
    let no_stream = match feeds.await.map_err(|error| error.to_string())?.psync {
        Ok(_) => match Psync::open(endpoint, name, deadline).await {
            Ok(feed) => return Ok(Box::new(feed)),
            Err(FeedError::Failed(why)) => return Err(why),
            Err(FeedError::Unsupported(why)) => why,
        },
        Err(why) => why,
    };
    match tracking::Tracking::open(endpoint, name, deadline).await {
        Ok(feed) => {
            tracing::info!(server = %endpoint.addr, why = %no_stream, "the copy uses CLIENT TRACKING as its feed");
            Ok(Box::new(feed))
        }
        Err(FeedError::Failed(why)) => Err(why),
        Err(FeedError::Unsupported(why)) => Err(format!(
            "{} offers no way to learn which keys change: no replication stream ({no_stream}), no tracking ({why}); allow \
             the user one of them, or give the group a replica that does",
            endpoint.addr
        )),
    }
}
