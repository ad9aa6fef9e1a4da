//! Events: what an entry did to a migration, a sweep or a group, written down for people.
//! Knows nothing of why it did; the families say so, with their evidence.

use super::common::clipped;
use crate::model::{
    event::{Event, EventKind},
    ids::{Epoch, ProductId},
    limits::EVENTS_MAX,
    state::{ClusterState, Position},
};

/// Where and when an entry stands: what the families that make events take beside it.
#[derive(Clone, Copy)]
pub(super) struct When {
    /// Its place in the log.
    pub at: Position,
    /// Milliseconds since the epoch at the node that proposed it.
    pub ms: u64,
}

/// Remembers an event; the oldest are forgotten.
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
