//! What a node says of a run it works on, as the leader knows it.
//! Knows nothing of how it is copied, nor how it came here.

use crate::model::{
    ids::{Incarnation, NodeId},
    migration::{Counters, Verified},
};

pub use crate::model::migration::MoverState;

/// The newest report of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoverView {
    /// Who works on it.
    pub node: NodeId,
    /// Which start of that node.
    pub incarnation: Incarnation,
    /// The run.
    pub run: u32,
    /// What it does.
    pub work: MoverState,
    /// What it has done.
    pub counters: Counters,
    /// Estimate of all keys to be copied; 0: not known.
    pub keys_total: u64,
    /// Of the last seconds.
    pub keys_per_second: u64,
    /// Bytes of the feed that were not read yet.
    pub lag_bytes: u64,
    /// Estimate of the time to copy what is dirty, milliseconds.
    pub queue_ms: u64,
    /// Why it is not faster; empty: nothing.
    pub waiting_on: String,
    /// What its comparison found.
    pub verified: Option<Verified>,
    /// Keys that change faster than they are copied.
    pub write_contended: Vec<String>,
}
