//! Whether servers live, by what the nodes have seen of them: one node suspects, a majority of the voters that are alive decides.
//! Knows nothing of how it is seen, nor of what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use super::observation::{AgedReport, Observation};
use crate::model::ids::{HostPort, NodeId};

/// A report counts for so long, milliseconds: three heartbeats. A node says at once when a server begins or ceases to fail,
/// so in between its last report still holds.
pub const FRESH_MS: u64 = 1_500;
/// Primaries that may be down at once whatever the share says: in a small cluster one machine carries two of them.
pub const DOWN_AT_ONCE: usize = 2;
/// A node that sees at least so many servers, and none of them answers it, suspects itself rather than all of them.
const BLIND_FROM: u32 = 2;

/// What is known of a server's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers all who probe.
    Up,
    /// It answers, and nobody has got more out of it than that it loads its data or cannot be asked (`ProbeReport::error` says why).
    Loading,
    /// Not all are answered, or not for long enough.
    Suspect {
        /// Who is not.
        by: BTreeSet<NodeId>,
    },
    /// A majority of the voters that are alive have not been answered for longer than down-after.
    DownGroup {
        /// All who are not answered.
        by: BTreeSet<NodeId>,
        /// For how long the majority has not been, milliseconds.
        for_ms: u64,
    },
    /// No fresh report of a node that trusts its own eyes.
    Unknown,
}

/// Who probes, and who of them is to be believed.
#[derive(Clone, Debug)]
pub struct Watchers<'a> {
    observation: &'a Observation,
    alive: BTreeSet<NodeId>,
    blind: BTreeSet<NodeId>,
}

impl<'a> Watchers<'a> {
    /// `alive`: the voters heard within a lease.
    #[must_use]
    pub fn new(observation: &'a Observation, alive: BTreeSet<NodeId>) -> Self {
        let mut seen: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for (node, reported) in observation.values().flatten().filter(|(_, reported)| reported.age_ms <= FRESH_MS) {
            let (servers, failing) = seen.entry(*node).or_default();
            *servers += 1;
            *failing += u32::from(reported.report.failing_ms.is_some());
        }
        let blind = |(servers, failing): (u32, u32)| servers >= BLIND_FROM && servers == failing;
        let mut blind: BTreeSet<NodeId> = seen.into_iter().filter(|(_, of)| blind(*of)).map(|(node, _)| node).collect();
        // If every voter says so, it is the servers.
        if !alive.is_empty() && alive.is_subset(&blind) {
            blind.clear();
        }
        Self { observation, alive, blind }
    }

    /// The voters that are alive.
    #[must_use]
    pub fn alive(&self) -> &BTreeSet<NodeId> {
        &self.alive
    }

    /// Nodes that no server answers, while servers answer others: it is them, and what they see does not count.
    #[must_use]
    pub fn blind(&self) -> &BTreeSet<NodeId> {
        &self.blind
    }

    /// Fresh reports of a server by nodes that are to be believed.
    pub fn reports(&self, server: &HostPort) -> impl Iterator<Item = (NodeId, &'a AgedReport)> {
        let by = self.observation.get(server).into_iter().flatten();
        let counts =
            |(node, reported): &(&NodeId, &AgedReport)| reported.age_ms <= FRESH_MS && !self.blind.contains(node);
        by.filter(counts).map(|(node, reported)| (*node, reported))
    }
}

/// For how long a majority of the voters that are alive have not been answered by `server`, milliseconds; `None`: they are.
#[must_use]
pub fn fails_for(watchers: &Watchers<'_>, server: &HostPort) -> Option<u64> {
    // It would have said that it is answered again.
    let failing = |(_, r): &(NodeId, &AgedReport)| Some(r.report.failing_ms?.saturating_add(r.age_ms));
    let voters = watchers.reports(server).filter(|(node, _)| watchers.alive.contains(node));
    let mut failing_ms: Vec<u64> = voters.filter_map(|report| failing(&report)).collect();
    failing_ms.sort_unstable_by(|a, b| b.cmp(a));
    // The last of a majority: for so long all of them have seen it.
    failing_ms.get(watchers.alive.len() / 2).copied()
}

/// What is known of `server`'s life; `down_after_ms` is its group's.
#[must_use]
pub fn liveness(watchers: &Watchers<'_>, server: &HostPort, down_after_ms: u32) -> Liveness {
    let mut by = BTreeSet::new();
    let (mut answered, mut usable) = (false, false);
    for (node, AgedReport { report, .. }) in watchers.reports(server) {
        match report.failing_ms {
            Some(_) => _ = by.insert(node),
            None => {
                answered = true;
                usable |= report.error.is_empty() && report.probe.as_ref().is_some_and(|(probe, _)| !probe.loading);
            }
        }
    }
    match fails_for(watchers, server) {
        Some(for_ms) if for_ms >= u64::from(down_after_ms) => Liveness::DownGroup { by, for_ms },
        _ if !by.is_empty() => Liveness::Suspect { by },
        _ if usable => Liveness::Up,
        _ if answered => Liveness::Loading,
        _ => Liveness::Unknown,
    }
}

/// Whether groups may be failed over without an operator while `down` of `primaries` primaries do not answer: at most
/// [`DOWN_AT_ONCE`], or `share_max` percent of all if that is more. Many at once are a network or a rack, and promoting
/// replicas there spends candidates without making anything reachable.
///
/// # Errors
/// A sentence for the operator.
pub fn may_fail_over(down: usize, primaries: usize, share_max: u8) -> Result<(), String> {
    let most = (primaries.saturating_mul(share_max.into()) / 100).max(DOWN_AT_ONCE);
    if down <= most {
        return Ok(());
    }
    Err(format!(
        "{down} of {primaries} primaries do not answer and nothing is failed over by itself when more than {most} do not (`pontoon \
         cluster set failover-share-max=..`); probe for what they have in common, or promote by hand: `pontoon group promote`"
    ))
}
