//! Feeds: which keys change at the source while they are copied.
//! Knows nothing of what is done with a changed key; values in a feed are never used, only names.

pub mod psync;
pub mod stream;
pub mod tracking;

use tokio::time::Instant;

use super::{io::connection::Connection, spec::Endpoint};
use crate::redis::capabilities;
use psync::{Psync, PsyncRefusal};
pub use stream::CommandWords;

/// What a feed tells.
#[derive(Debug)]
pub enum Event<'a> {
    /// A key may have changed, been created or deleted.
    Changed {
        /// Its database; `None`: not known, so the key of this name in every database.
        db: Option<u32>,
        /// The key.
        key: &'a [u8],
        /// The command that changed it, if the feed knows it and has it whole.
        command: Option<&'a CommandWords>,
    },
    /// A command that our table does not know: the server is to be asked for its keys (COMMAND GETKEYS).
    Ask {
        /// As in [`Event::Changed`].
        db: Option<u32>,
        /// All of it.
        command: &'a CommandWords,
    },
    /// A library of functions was loaded, deleted or all were flushed.
    Functions,
}

/// A feed over its own connection. The engine reads and writes the connection and calls [`Feed::drain`] when something came.
pub trait Feed {
    /// The connection, for waiting and for reading and writing its bytes.
    fn connection(&mut self) -> &mut Connection;

    /// Takes everything whole that has arrived.
    ///
    /// # Errors
    /// What came cannot be expressed as changed keys (FLUSHALL, an unreadable command): the attempt must begin anew. A sentence
    /// for people.
    fn drain(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String>;

    /// Called several times a second: what keeps the feed alive is appended to the connection's output.
    fn tick(&mut self, now: Instant);

    /// The replication offset up to which everything was drained; `None`: this feed has no offsets.
    fn position(&self) -> Option<u64>;

    /// Begins to find out whether everything up to the primary's replication `offset` was drained.
    fn begin_barrier(&mut self, offset: u64);

    /// Whether everything up to the offset of the last [`Feed::begin_barrier`] was drained.
    fn passed_barrier(&self) -> bool;

    /// Whether changes of a stream's groups (XREADGROUP, XACK, XGROUP) are told. If not, the engine fetches every stream
    /// that it has copied once more under the hold (`payload::is_stream` of the first byte of its DUMP).
    fn tells_stream_groups(&self) -> bool {
        true
    }
}

/// Opens the best feed that the server allows, found out by asking it: its replication stream, else tracking.
///
/// # Errors
/// It allows none, or cannot be reached; a sentence for people with the reason of each.
pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Box<dyn Feed>, String> {
    let feeds = capabilities::feeds(&endpoint.addr, endpoint.credentials.as_ref(), deadline);
    let no_stream = match feeds.await.map_err(|error| error.to_string())?.psync {
        Ok(_) => match Psync::open(endpoint, name, deadline).await {
            Ok(feed) => return Ok(Box::new(feed)),
            Err(PsyncRefusal::Failed(why)) => return Err(why),
            Err(PsyncRefusal::Unsupported(why)) => why,
        },
        Err(why) => why,
    };
    match tracking::Tracking::open(endpoint, name, deadline).await {
        Ok(feed) => {
            tracing::info!(server = %endpoint.addr, why = %no_stream, "CLIENT TRACKING feeds the copy");
            Ok(Box::new(feed))
        }
        Err(PsyncRefusal::Failed(why)) => Err(why),
        Err(PsyncRefusal::Unsupported(why)) => Err(format!(
            "{} offers no way to learn which keys change: no replication stream ({no_stream}), no tracking ({why}); allow \
             the user one of them, or give the group a replica that does",
            endpoint.addr
        )),
    }
}
