//! Events about nodes that the leader observes: one when a node begins to close clients. Decides nothing itself;
//! `plan::closings` does.

use std::collections::BTreeMap;

use tracing::warn;

use super::{context::LeaderContext, view::NodeView};
use crate::{
    clock::boottime_ns,
    model::{change::Change, ids::NodeId},
    plan::closings::{Closings, note},
};

/// What the leader knows about the closings of each node in this term.
#[derive(Debug, Default)]
pub struct NodeNotes {
    known: BTreeMap<NodeId, Closings>,
}

impl NodeNotes {
    /// Writes an event about each node that has begun to close clients. `nodes`: all that sent a heartbeat.
    pub async fn write(&mut self, ctx: &LeaderContext, nodes: &BTreeMap<NodeId, NodeView>) {
        self.known.retain(|node, _| nodes.contains_key(node));
        for (node, seen) in nodes {
            let Some(before) = self.known.get(node) else {
                self.known.insert(*node, Closings::first(seen.incarnation, seen.memory));
                continue;
            };
            let (after, begun) = before.after(seen.incarnation, seen.memory, boottime_ns());
            if let Some(closed) = begun {
                let note = note(*node, closed, seen.memory.budget);
                warn!(%node, text = note.text, "{}", note.note.event_kind().name());
                if let Err(error) = ctx.propose(Change::NoteNode(note)).await {
                    warn!(%node, %error, "an event about a node could not be written; it is tried again");
                    continue;
                }
            }
            self.known.insert(*node, after);
        }
    }
}
