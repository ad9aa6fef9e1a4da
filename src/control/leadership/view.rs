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
        state::ClusterState,
    },
    plan::{
        mover::MoverView,
        observation::{AgedReport, Observation, ProbeReport},
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
pub type Servers = BTreeMap<HostPort, BTreeMap<NodeId, ReceivedReport>>;

/// A node's newest report of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedReport {
    /// Which start of the node.
    pub incarnation: Incarnation,
    /// When it came, nanoseconds of `CLOCK_BOOTTIME` of the leader: the ages in it count back from here.
    pub heard_ns: u64,
    /// What.
    pub report: Arc<ProbeReport>,
}

impl LeaderView {
    /// Keeps what a node's present start has seen. What was seen by former starts, by nodes that are gone, or of servers that
    /// `state` does not name, is dropped.
    pub fn keep_reports(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        reports: &[(HostPort, ProbeReport)],
        state: &ClusterState,
        now_ns: u64,
    ) {
        let groups = state.products.values().flat_map(|product| product.groups.values());
        let named: BTreeSet<&HostPort> = groups.flat_map(|group| group.servers.iter().map(|s| &s.addr)).collect();
        let present = |id: &NodeId, seen: &ReceivedReport| {
            let admitted = state.members.get(id).and_then(|member| member.admitted);
            admitted.is_some_and(|a| a.incarnation == seen.incarnation)
        };
        let stays = |(addr, by): (&HostPort, &BTreeMap<NodeId, ReceivedReport>)| {
            named.contains(addr) && by.iter().all(|(id, seen)| present(id, seen))
        };
        if reports.is_empty() && self.servers.iter().all(stays) {
            // It is shared with whoever reads it, and would be copied.
            return;
        }
        let servers = Arc::make_mut(&mut self.servers);
        servers.retain(|addr, by| {
            by.retain(|id, seen| present(id, seen));
            named.contains(addr)
        });
        for (addr, report) in reports.iter().filter(|(addr, _)| named.contains(addr)) {
            let seen = ReceivedReport { incarnation, heard_ns: now_ns, report: Arc::new(report.clone()) };
            servers.entry(addr.clone()).or_default().insert(node, seen);
        }
    }

    /// What nodes have reported, with its age at `now_ns`; empty where nobody leads.
    #[must_use]
    pub fn observation(&self, now_ns: u64) -> Observation {
        let reported = |(node, seen): (&NodeId, &ReceivedReport)| {
            let age_ms = now_ns.saturating_sub(seen.heard_ns) / NS_PER_MS;
            (*node, AgedReport { report: (*seen.report).clone(), age_ms })
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
