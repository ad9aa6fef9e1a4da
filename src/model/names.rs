//! Names of nodes' connections to servers by which other nodes find them. Knows nothing of what is sent on them.

use super::ids::{NodeId, Uuid};

/// The name of a node's connections on which clients block. The leader closes them when the node's lease has ended.
#[must_use]
pub fn blocked_name(cluster: Uuid, node: NodeId) -> String {
    format!("pt:{cluster}:blocked:{node}")
}
