//! What the leader sees of the nodes, as plain values for the API. Not replicated; empty on other nodes.

use std::collections::BTreeMap;

use crate::{
    model::{
        ids::{Epoch, Incarnation, NodeId, ProductId, Term},
        migration::Job,
    },
    plan::mover::MoverView,
};

/// The leader's view of the cluster in one term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The term; `None`: this node does not lead.
    pub term: Option<Term>,
    /// Since when it leads in it, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// What was heard from each member in this term.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// What control loops wait for, a sentence each.
    pub waiting_on: Vec<String>,
    /// The newest report of each migration's and sweep's run.
    pub movers: BTreeMap<Job, MoverView>,
    /// What each of them waits for or does, a sentence.
    pub jobs: BTreeMap<Job, String>,
}

/// A node as the leader last heard it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its start.
    pub incarnation: Incarnation,
    /// When, nanoseconds of `CLOCK_BOOTTIME` of the leader.
    pub heard_ns: u64,
    /// When its lease surely ends, on the leader's clock; 0: none granted in this term.
    pub lease_ends_ns: u64,
    /// Route epoch that all its workers have reached.
    pub route_epoch: Epoch,
    /// Last entry applied.
    pub applied: Epoch,
    /// Version of its program.
    pub version: String,
    /// Its listeners.
    pub listeners: BTreeMap<ProductId, ListenerView>,
}

/// A product's listener on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerView {
    /// HOST:PORT.
    pub address: String,
    /// Empty: bound.
    pub error: String,
    /// For the operator.
    pub note: String,
}
