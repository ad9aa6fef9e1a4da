//! A worker of a node: its route table, and the requests and holds that it has. What it does is in `node`.

use std::collections::BTreeMap;

use pontoon::model::ids::{Epoch, HoldId, SlotId};

/// A request that was sent to a server.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    pub slot: SlotId,
    pub epoch: Epoch,
}

/// A worker of this start.
#[derive(Debug, Default)]
pub struct Worker {
    /// Its route table, by log index.
    pub table: usize,
    pub inflight: BTreeMap<usize, InFlight>,
    pub parked: Vec<usize>,
    /// Open holds of its table, and whether each has drained.
    pub holds: BTreeMap<HoldId, bool>,
}
