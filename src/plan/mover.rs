//! What a node says of a run it works on, as the leader knows it.
//! Knows nothing of how it is copied, nor how it came here.

use crate::model::{
    ids::{HoldId, Incarnation, NodeId},
    migration::{Counters, Verified},
};

/// What a mover does just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// It opens its connections and asks for their approval.
    #[default]
    Opening,
    /// It deletes what is ours at the target.
    CleaningTarget,
    /// It copies.
    Copying,
    /// It compares.
    Verifying,
    /// Only what changes now is missing.
    CaughtUp,
    /// It brings the last changes over, under this hold.
    Finishing(HoldId),
    /// The target has everything, under this hold.
    Finished(HoldId),
    /// It deletes leftovers.
    Cleaning,
    /// There are no leftovers any more.
    Cleaned,
    /// The run cannot go on; why.
    Failed(String),
}

impl Work {
    /// As people and machines read it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::CleaningTarget => "cleaning-target",
            Self::Copying => "copying",
            Self::Verifying => "verifying",
            Self::CaughtUp => "caught-up",
            Self::Finishing(_) => "finishing",
            Self::Finished(_) => "finished",
            Self::Cleaning => "cleaning",
            Self::Cleaned => "cleaned",
            Self::Failed(_) => "failed",
        }
    }
}

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
    pub work: Work,
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
    pub hot: Vec<String>,
}
