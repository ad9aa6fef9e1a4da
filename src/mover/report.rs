//! What a mover says of itself while it works.
//! Knows nothing of who reads it.

use std::time::Duration;

use crate::model::{
    migration::{Counters, Verified},
    promotion::ReplicationOffset,
};

/// Where a mover is, as it also comes to the leader.
pub use crate::model::migration::MoverState as State;

/// A mover's view of its work, several times a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where it is.
    pub state: State,
    /// What it has done.
    pub counters: Counters,
    /// Changed keys that wait to be fetched again, those in flight included.
    pub dirty: u64,
    /// Estimate of the keys to copy, for an ETA.
    pub keys_total: u64,
    /// Of the last seconds.
    pub keys_per_second: u64,
    /// Bytes between the primary's offset and what was read of the feed.
    pub lag_bytes: u64,
    /// Estimate of the time to empty the queue, milliseconds.
    pub queue_ms: u64,
    /// Why it is not faster, or what it waits for; empty: nothing.
    pub waiting_on: String,
    /// What the last comparison found.
    pub verified: Option<Verified>,
    /// Keys that change faster than they are copied, at most [`Report::CONTENDED_MAX`].
    pub write_contended: Vec<String>,
}

impl Report {
    /// Keys named in [`Report::write_contended`]: enough to find out whose they are.
    pub const CONTENDED_MAX: usize = 8;
}

/// The evidence that the target has everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// The source primary's offset, asked under the hold.
    pub offset: u64,
    /// Keys copied under the hold.
    pub keys: u64,
    /// Replicas of the target that have everything, too.
    pub replicas: u32,
    /// Where the target was after its last answer: a replica of it that has got there has everything.
    pub target_offset: ReplicationOffset,
    /// What it took.
    pub took: Duration,
}
