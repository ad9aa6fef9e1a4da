//! Changes of the members of the cluster.

use crate::model::{
    ids::{HostPort, NodeId, Term, Uuid},
    state::{RaftMembership, Role},
};

/// The first change of a cluster: creates its members, and the product `default` on `port`. Refused when there are
/// members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// All nodes of the first membership.
    pub members: Vec<NewMember>,
    /// Port of the product `default`.
    pub port: u16,
}

/// A node as it describes itself. As a change: with a new uuid, the node joins the cluster; with the uuid of a member,
/// that member has a new address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its id.
    pub id: NodeId,
    /// Its identity.
    pub uuid: Uuid,
    /// Where other nodes reach it.
    pub admin: HostPort,
    /// The host that clients connect to.
    pub advertise: String,
    /// Added to every product's port.
    pub port_offset: u16,
}

/// Admits a start of a member and retires its former incarnation. A changed address of the member enters the log here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admit {
    /// The member, with its present address.
    pub member: NewMember,
    /// The start.
    pub start: Uuid,
}

/// Ends the lease renewals of a node: the first half of its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeginRemove {
    /// The node.
    pub node: NodeId,
    /// The operator vouches that the node is dead.
    pub assume_dead: bool,
}

/// Drops a node from the members: the second half of its removal. The leader proposes it when the node has provably
/// stopped serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishRemove {
    /// The node.
    pub node: NodeId,
    /// Its uuid, so that a node that joined again under the id is not dropped.
    pub uuid: Uuid,
    /// Term of the verdict. Refused in another term.
    pub term: Term,
}

/// Sets the role that an operator wants for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRole {
    /// The node.
    pub node: NodeId,
    /// Voter, learner, or as the cluster decides.
    pub role: Role,
}

/// Makes `keep` the only member, after the quorum was lost for good (`pontoon recover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// The member that is left.
    pub keep: NodeId,
}

/// Notes Raft's membership, which changes by entries of its own that have neither a time nor an author. Adds an event and
/// changes nothing that is decided upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteMembership {
    /// The membership.
    pub membership: RaftMembership,
}
