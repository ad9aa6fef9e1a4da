//! What the leader knows about the nodes, as plain values for the API. Not replicated; empty on other nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    model::{
        cluster_secret::SecretReport,
        ids::{Epoch, HostPort, Incarnation, NodeId, ProductId, Term},
        migration::Job,
        state::ClusterState,
    },
    plan::{
        closings::MemoryReport,
        mover::MoverView,
        observation::{AgedReport, Observation, ProbeReport},
        waiting::LastingWait,
    },
};

/// The leader's view of the cluster in one term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The term; `None`: this node does not lead.
    pub term: Option<Term>,
    /// Since when this node leads in that term, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// The members that sent a heartbeat in this term.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// What control loops wait for.
    pub waiting_on: Vec<LastingWait>,
    /// The newest report about the run of each migration and sweep.
    pub movers: BTreeMap<Job, MoverView>,
    /// What each migration and sweep does or waits for.
    pub jobs: BTreeMap<Job, LastingWait>,
    /// What the present incarnation of each node reported about each server that the log names. Shared, since it is
    /// large and read often.
    pub servers: Arc<Servers>,
}

/// Reports by server and node.
pub type Servers = BTreeMap<HostPort, BTreeMap<NodeId, ReceivedReport>>;

/// A node's newest report about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedReport {
    /// The incarnation of the node.
    pub incarnation: Incarnation,
    /// When it arrived, nanoseconds of `CLOCK_BOOTTIME` of the leader. Ages in the report count back from here.
    pub heartbeat_ns: u64,
    /// The report.
    pub report: Arc<ProbeReport>,
}

impl LeaderView {
    /// Keeps the reports of a node's present incarnation. Drops reports of former incarnations, of nodes that are gone,
    /// and about servers that `state` does not name.
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
            // Readers share it, so that a change would copy it.
            return;
        }
        let servers = Arc::make_mut(&mut self.servers);
        servers.retain(|addr, by| {
            by.retain(|id, seen| present(id, seen));
            named.contains(addr)
        });
        for (addr, report) in reports.iter().filter(|(addr, _)| named.contains(addr)) {
            let seen = ReceivedReport { incarnation, heartbeat_ns: now_ns, report: Arc::new(report.clone()) };
            servers.entry(addr.clone()).or_default().insert(node, seen);
        }
    }

    /// What nodes reported, with its age at `now_ns`; empty on a node that does not lead.
    #[must_use]
    pub fn observation(&self, now_ns: u64) -> Observation {
        let reported = |(node, seen): (&NodeId, &ReceivedReport)| {
            let age_ms = now_ns.saturating_sub(seen.heartbeat_ns) / NS_PER_MS;
            (*node, AgedReport { report: (*seen.report).clone(), age_ms })
        };
        self.servers.iter().map(|(addr, by)| (addr.clone(), by.iter().map(reported).collect())).collect()
    }

    /// Whether this leader has not led for a lease yet, so that nodes which are alive may not have sent it a heartbeat.
    #[must_use]
    pub fn is_early(&self, lease: Duration, now_ns: u64) -> bool {
        now_ns < self.since_ns.saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Those of `voters` that are alive at `now_ns`: they sent a heartbeat within a lease. While the leader has not led
    /// for that long, all count as alive, since a majority of the few that came first is no majority.
    #[must_use]
    pub fn alive(&self, voters: impl IntoIterator<Item = NodeId>, lease: Duration, now_ns: u64) -> BTreeSet<NodeId> {
        let lease_ns = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let early = self.is_early(lease, now_ns);
        let recent = |node: &NodeId| {
            self.nodes.get(node).is_some_and(|seen| now_ns < seen.heartbeat_ns.saturating_add(lease_ns))
        };
        voters.into_iter().filter(|node| early || recent(node)).collect()
    }
}

/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// A node as its last heartbeat described it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// When the heartbeat arrived, nanoseconds of `CLOCK_BOOTTIME` of the leader.
    pub heartbeat_ns: u64,
    /// When its lease has provably ended, on the leader's clock; 0: none was granted in this term.
    pub lease_ends_ns: u64,
    /// The route epoch that all its workers have reached.
    pub route_epoch: Epoch,
    /// The last log entry that it had applied.
    pub applied: Epoch,
    /// The version of its program.
    pub version: String,
    /// Its listeners.
    pub listeners: BTreeMap<ProductId, ListenerView>,
    /// What its memory budget did to its clients.
    pub memory: MemoryReport,
    /// Its cluster secrets; `None`: a node of an earlier version.
    pub secrets: Option<SecretReport>,
}

/// A product's listener on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerView {
    /// HOST:PORT.
    pub address: String,
    /// Why it could not be bound; empty: it is bound.
    pub error: String,
    /// A note for the operator; may be empty.
    pub note: String,
}
