//! Records events.
//! Knows nothing of their texts, which the families write.

use super::common::clipped;
use crate::model::{
    event::{Event, EventKind},
    ids::{Epoch, ProductId},
    limits::EVENTS_MAX,
    state::{ClusterState, Position},
};

/// Position and time of an entry.
#[derive(Clone, Copy)]
pub(super) struct When {
    /// Its position in the log.
    pub at: Position,
    /// Milliseconds since the Unix epoch, by the clock of the node that proposed it.
    pub ms: u64,
}

/// Adds an event, and drops the oldest ones.
pub(super) fn push(
    state: &mut ClusterState,
    when: When,
    kind: EventKind,
    product: Option<ProductId>,
    subject: String,
    text: &str,
) {
    let Position { index: Epoch(index), .. } = when.at;
    while state.events.len() >= EVENTS_MAX {
        state.events.pop_front();
    }
    state.events.push_back(Event { index: Epoch(index), at_ms: when.ms, kind, product, subject, text: clipped(text) });
}
