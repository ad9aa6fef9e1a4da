//! Feeds: which keys change at the source while they are copied.
//! Knows nothing of what is done with a changed key; values in a feed are never used, only names.

pub mod psync;
pub mod stream;

use tokio::time::Instant;

use super::connection::Connection;
pub use stream::Words;

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
        command: Option<&'a Words>,
    },
    /// A command that our table does not know: the server is to be asked for its keys (COMMAND GETKEYS).
    Ask {
        /// As in [`Event::Changed`].
        db: Option<u32>,
        /// All of it.
        command: &'a Words,
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
}
