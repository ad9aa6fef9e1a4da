//! What the leader sees of the nodes, as plain values for the API. Not replicated; empty on other nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    model::{
        ids::{Epoch, HostPort, Incarnation, NodeId, ProductId, Term},
        migration::Job,
    },
    plan::{
        mover::MoverView,
        observation::{Observation, Reported, Sight},
    },
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
    /// What each node's present start has reported of each server that the log names. Shared: it is large, and shown often.
    pub servers: Arc<Servers>,
}

/// Reports by server and node.
pub type Servers = BTreeMap<HostPort, BTreeMap<NodeId, SightView>>;

/// A node's newest report of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SightView {
    /// Which start of the node.
    pub incarnation: Incarnation,
    /// When it came, nanoseconds of `CLOCK_BOOTTIME` of the leader: the ages in it count back from here.
    pub heard_ns: u64,
    /// What.
    pub sight: Arc<Sight>,
}

impl LeaderView {
    /// What nodes have reported, with its age at `now_ns`; empty where nobody leads.
    #[must_use]
    pub fn observation(&self, now_ns: u64) -> Observation {
        let reported = |(node, seen): (&NodeId, &SightView)| {
            let age_ms = now_ns.saturating_sub(seen.heard_ns) / NS_PER_MS;
            (*node, Reported { sight: (*seen.sight).clone(), age_ms })
        };
        self.servers.iter().map(|(addr, by)| (addr.clone(), by.iter().map(reported).collect())).collect()
    }

    /// Those of `voters` that are alive at `now_ns`: heard within a lease. A leader that has not led for that long has not
    /// heard everyone yet, and takes all for alive: a majority of the few that came first is none.
    #[must_use]
    pub fn alive(&self, voters: impl IntoIterator<Item = NodeId>, lease: Duration, now_ns: u64) -> BTreeSet<NodeId> {
        let lease_ns = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let early = now_ns < self.since_ns.saturating_add(lease_ns);
        let heard =
            |node: &NodeId| self.nodes.get(node).is_some_and(|seen| now_ns < seen.heard_ns.saturating_add(lease_ns));
        voters.into_iter().filter(|node| early || heard(node)).collect()
    }
}

/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

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
