//! The liveness of servers, from the reports of the nodes: one node suspects, a majority of the live voters decides.
//! Knows nothing of how servers are probed, nor of what follows from the result.

use std::collections::{BTreeMap, BTreeSet};

use super::observation::{AgedReport, Impairment, Observation};
use crate::model::ids::{HostPort, NodeId};

/// For how long a report counts, milliseconds: three heartbeats. A node reports immediately when a server begins or
/// ceases to fail, so that its last report holds in between.
pub const REPORT_FRESH_MS: u64 = 1_500;
/// From this number of probed servers on, a node that none of them answers does not count: two servers rarely fail
/// together while others answer, a node's network does.
const BLIND_FROM: u32 = 2;

/// The liveness of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers all nodes that count.
    Up,
    /// It answers, but only that it loads its data.
    Loading,
    /// It answers, but not so that it can be probed (`ProbeReport::error` says why): it refuses the login or a command, or
    /// is busy.
    NotProbed,
    /// It does not answer some of the nodes, or has not failed for long enough.
    Suspect {
        /// The nodes that are not answered.
        by: BTreeSet<NodeId>,
    },
    /// A majority of the live voters have not been answered for longer than down-after.
    Down {
        /// All nodes that are not answered.
        by: BTreeSet<NodeId>,
        /// For how long the majority has not been answered, milliseconds.
        for_ms: u64,
    },
    /// No node that counts has a fresh report.
    Unknown,
}

/// The nodes that probe, and which of them count.
#[derive(Clone, Debug)]
pub struct Watchers<'a> {
    observation: &'a Observation,
    alive: BTreeSet<NodeId>,
    blind: BTreeSet<NodeId>,
}

impl<'a> Watchers<'a> {
    /// `alive`: the voters that sent a heartbeat within a lease.
    #[must_use]
    pub fn new(observation: &'a Observation, alive: BTreeSet<NodeId>) -> Self {
        let mut seen: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for (node, reported) in
            observation.values().flatten().filter(|(_, reported)| reported.age_ms <= REPORT_FRESH_MS)
        {
            let (servers, failing) = seen.entry(*node).or_default();
            *servers += 1;
            *failing += u32::from(reported.report.failing_ms.is_some());
        }
        let blind = |(servers, failing): (u32, u32)| servers >= BLIND_FROM && servers == failing;
        let mut blind: BTreeSet<NodeId> = seen.into_iter().filter(|(_, of)| blind(*of)).map(|(node, _)| node).collect();
        // If no server answers any live voter, the servers are down, and not the nodes blind.
        if !alive.is_empty() && alive.is_subset(&blind) {
            blind.clear();
        }
        Self { observation, alive, blind }
    }

    /// All reports.
    #[must_use]
    pub fn observation(&self) -> &'a Observation {
        self.observation
    }

    /// The voters that are alive.
    #[must_use]
    pub fn alive(&self) -> &BTreeSet<NodeId> {
        &self.alive
    }

    /// Nodes that no server answers while servers answer other nodes: the nodes have failed, and their reports do not
    /// count.
    #[must_use]
    pub fn blind(&self) -> &BTreeSet<NodeId> {
        &self.blind
    }

    /// The fresh reports about a server by nodes that count.
    pub fn reports(&self, server: &HostPort) -> impl Iterator<Item = (NodeId, &'a AgedReport)> {
        let by = self.observation.get(server).into_iter().flatten();
        let counts = |(node, reported): &(&NodeId, &AgedReport)| {
            reported.age_ms <= REPORT_FRESH_MS && !self.blind.contains(node)
        };
        by.filter(counts).map(|(node, reported)| (*node, reported))
    }
}

/// For how long a majority of the live voters have not been answered by `server`, milliseconds; `None`: it answers
/// them.
#[must_use]
pub fn majority_failing_ms(watchers: &Watchers<'_>, server: &HostPort) -> Option<u64> {
    // The report's age is added: the node would have reported that the server answers again.
    let failing = |(_, r): &(NodeId, &AgedReport)| Some(r.report.failing_ms?.saturating_add(r.age_ms));
    let voters = watchers.reports(server).filter(|(node, _)| watchers.alive.contains(node));
    let mut failing_ms: Vec<u64> = voters.filter_map(|report| failing(&report)).collect();
    failing_ms.sort_unstable_by(|a, b| b.cmp(a));
    // The shortest time of a majority: each of them has seen it fail for at least that long.
    failing_ms.get(watchers.alive.len() / 2).copied()
}

/// The liveness of `server`; `down_after_ms` is its group's.
#[must_use]
pub fn liveness(watchers: &Watchers<'_>, server: &HostPort, down_after_ms: u32) -> Liveness {
    let mut by = BTreeSet::new();
    let (mut usable, mut loading, mut not_probed) = (false, false, false);
    for (node, AgedReport { report, .. }) in watchers.reports(server) {
        match report.failing_ms {
            Some(_) => _ = by.insert(node),
            None => {
                // An older probe says nothing of now.
                let probe = report.probe.as_ref().filter(|_| report.error.is_empty()).map(|(probe, _)| probe);
                usable |= probe.is_some_and(|probe| !probe.loading);
                loading |= matches!(report.impaired, Some((Impairment::Loading, _)));
                loading |= probe.is_some_and(|probe| probe.loading);
                not_probed |= !report.error.is_empty();
            }
        }
    }
    match majority_failing_ms(watchers, server) {
        Some(for_ms) if for_ms >= u64::from(down_after_ms) => Liveness::Down { by, for_ms },
        _ if !by.is_empty() => Liveness::Suspect { by },
        _ if usable => Liveness::Up,
        _ if loading => Liveness::Loading,
        _ if not_probed => Liveness::NotProbed,
        _ => Liveness::Unknown,
    }
}
