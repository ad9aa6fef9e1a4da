//! Events about nodes that the leader observes: when a node begins to close clients, and when it has other cluster
//! secrets. Decides nothing itself; `plan::closings` and `plan::secret_rotation` do.

use std::collections::BTreeMap;

use tracing::warn;

use super::{context::LeaderContext, view::NodeView};
use crate::{
    clock::boottime_ns,
    model::{
        change::{Change, NoteNode},
        cluster_secret::SecretTags,
        ids::NodeId,
    },
    plan::{
        closings::{self, Closings},
        secret_rotation,
    },
};

/// What the leader knows about each node in this term.
#[derive(Debug, Default)]
pub struct NodeNotes {
    closings: BTreeMap<NodeId, Closings>,
    /// Of the nodes that have secrets.
    secrets: BTreeMap<NodeId, SecretTags>,
}

impl NodeNotes {
    /// Writes an event about each node that has begun to close clients, or has other secrets. `nodes`: all that sent a
    /// heartbeat.
    pub async fn write(&mut self, ctx: &LeaderContext, nodes: &BTreeMap<NodeId, NodeView>) {
        self.closings.retain(|node, _| nodes.contains_key(node));
        self.secrets.retain(|node, _| nodes.contains_key(node));
        for (node, seen) in nodes {
            self.write_closings(ctx, *node, seen).await;
            self.write_secrets(ctx, *node, seen).await;
        }
    }

    async fn write_closings(&mut self, ctx: &LeaderContext, node: NodeId, seen: &NodeView) {
        let Some(before) = self.closings.get(&node) else {
            self.closings.insert(node, Closings::first(seen.incarnation, seen.memory));
            return;
        };
        let (after, begun) = before.after(seen.incarnation, seen.memory, boottime_ns());
        if let Some(closed) = begun {
            let note = closings::note(node, closed, seen.memory.budget);
            warn!(%node, text = note.text, "{}", note.note.event_kind().name());
            if !is_written(ctx, note).await {
                return;
            }
        }
        self.closings.insert(node, after);
    }

    async fn write_secrets(&mut self, ctx: &LeaderContext, node: NodeId, seen: &NodeView) {
        let Some(now) = seen.secrets.as_ref().and_then(|report| report.tags) else { return };
        let note = secret_rotation::note(node, self.secrets.get(&node).copied(), Some(now));
        if let Some(note) = note
            && !is_written(ctx, note).await
        {
            return;
        }
        self.secrets.insert(node, now);
    }
}

async fn is_written(ctx: &LeaderContext, note: NoteNode) -> bool {
    let node = note.node;
    let written = ctx.propose(Change::NoteNode(note)).await;
    if let Err(error) = &written {
        warn!(%node, %error, "an event about a node could not be written; it is tried again");
    }
    written.is_ok()
}
