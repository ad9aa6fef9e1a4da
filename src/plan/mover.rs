//! What a node reported about its current run, as the leader knows it.
//! Knows nothing of how a run works, nor of how the report arrived.

use crate::model::{
    ids::{Incarnation, NodeId},
    migration::{Counters, Verified},
};

pub use crate::model::migration::MoverState;

/// The newest report about a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoverView {
    /// The node that works on it.
    pub node: NodeId,
    /// The incarnation of that node.
    pub incarnation: Incarnation,
    /// The run's number.
    pub run: u32,
    /// What the mover does now.
    pub work: MoverState,
    /// What it has done so far.
    pub counters: Counters,
    /// Estimate of all keys to be copied; 0: not known.
    pub keys_total: u64,
    /// Keys per second, over the last seconds.
    pub keys_per_second: u64,
    /// Bytes of the feed that are not read yet.
    pub lag_bytes: u64,
    /// Estimate of the time to copy the dirty keys, milliseconds.
    pub queue_ms: u64,
    /// What limits its speed, for people; empty: nothing.
    pub waiting_on: String,
    /// The result of its verification.
    pub verified: Option<Verified>,
    /// The write-contended keys.
    pub write_contended: Vec<String>,
}
