//! What a mover reports about itself while it works.
//! Knows nothing of the recipient.

use std::time::Duration;

use crate::model::{
    migration::{Counters, Verified},
    promotion::ReplicationOffset,
};

/// The state of a mover, as it is also sent to the leader.
pub use crate::model::migration::MoverState as State;

/// The progress of a mover; updated several times a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The current state.
    pub state: State,
    /// Totals of the run.
    pub counters: Counters,
    /// Dirty keys that wait to be fetched again or are in flight.
    pub dirty: u64,
    /// Estimated number of keys to copy, for an ETA.
    pub keys_total: u64,
    /// Keys per second, averaged over the last seconds.
    pub keys_per_second: u64,
    /// Bytes between the primary's offset and what was read of the feed.
    pub lag_bytes: u64,
    /// Estimated time to empty the queue, milliseconds.
    pub queue_ms: u64,
    /// What limits the speed or what the mover waits for. Empty: nothing.
    pub waiting_on: String,
    /// Result of the last comparison.
    pub verified: Option<Verified>,
    /// Write-contended keys, at most [`Report::CONTENDED_MAX`].
    pub write_contended: Vec<String>,
}

impl Report {
    /// Most keys in [`Report::write_contended`]: enough to find the application that writes them.
    pub const CONTENDED_MAX: usize = 8;
}

/// Proof that the target has everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Offset of the source's primary, read under the hold.
    pub offset: u64,
    /// Keys copied under the hold.
    pub keys: u64,
    /// Replicas of the target that have everything, too.
    pub replicas: u32,
    /// The target's offset after its last reply: a replica of it that has reached this offset has everything.
    pub target_offset: ReplicationOffset,
    /// Duration of the cut-over.
    pub took: Duration,
}
