//! Who asked for a change, and from where: recorded with its entry, and shown with its event.
//! Knows nothing of how a caller proves who it is.

use super::ids::NodeId;

/// Who asked for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Author {
    /// Not recorded: the entry is of an earlier version.
    #[default]
    Unknown,
    /// The leader, without a request: this node.
    Leader(NodeId),
    /// A request.
    Request(Requester),
}

/// Who made a request, and from where. The texts are from outside; `apply` shortens them and makes them printable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// The actor: what the caller has proven to be. Never empty.
    pub actor: String,
    /// What the caller says of itself, without a proof; empty: nothing.
    pub declared: String,
    /// IP address and port that the request came from, as the node saw it that received it; empty: not known, or no
    /// request over a network.
    pub address: String,
    /// The node that received it.
    pub node: NodeId,
}
