//! Whether the cluster that a status describes has a majority. Knows nothing of how it is shown.

use crate::wire::pb::admin::StatusReply;

/// The leader, if a majority of the voters follows it. `None`: no leader is known, or the last one has lost its majority.
pub(super) fn leading(status: &StatusReply) -> Option<u64> {
    status.leader.filter(|_| !is_lost(status))
}

/// Whether the nodes that answer are no majority, or have no leader.
pub(super) fn is_lost(status: &StatusReply) -> bool {
    status.warnings.iter().any(|warning| matches!(warning.code.as_str(), "no-quorum" | "no-leader"))
}
