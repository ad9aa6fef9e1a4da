//! Publishes to the workers how many replicas of each primary do not count for `min-acks`, by what this node's prober
//! found out. Knows nothing of how writes wait.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::probe::prober::Prober;
use crate::{
    model::{ids::HostPort, state::ClusterState},
    plan::{acks::unmanaged_replicas, liveness::REPORT_FRESH_MS},
    proxy::UnmanagedReplicas,
};

/// Time between two counts. The prober probes servers twice a second.
const EVERY: Duration = Duration::from_millis(250);
/// How long a count is in force, whatever comes after it: a replica that lost its link may have been seen in sync
/// shortly before, and would be mistaken for the one that is left. Twice the age up to which a probe is believed.
const IN_FORCE: Duration = Duration::from_millis(2 * REPORT_FRESH_MS);

/// Runs for as long as the node does.
pub async fn run(prober: Prober, state: watch::Receiver<Arc<ClusterState>>, published: UnmanagedReplicas) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counts = UnmanagedCounts::default();
    loop {
        ticks.tick().await;
        let state = state.borrow().clone();
        let groups = state.products.values().filter(|p| p.min_acks > 0).flat_map(|p| p.groups.values());
        let fresh = |addr: &_| {
            let report = prober.report(addr).filter(|report| report.failing_ms.is_none())?;
            report.probe.filter(|(_, ago_ms)| *ago_ms <= REPORT_FRESH_MS).map(|(probe, _)| probe)
        };
        let last = |addr: &_| prober.report(addr)?.probe.map(|(probe, _)| probe);
        let now = groups.filter_map(|group| {
            let primary = &group.servers.first()?.addr;
            Some((primary.clone(), unmanaged_replicas(group, last(primary), fresh)))
        });
        published.publish(counts.most(now.collect(), Instant::now()));
    }
}

/// What was counted of each primary in the last [`IN_FORCE`].
#[derive(Debug, Default)]
struct UnmanagedCounts(BTreeMap<HostPort, VecDeque<(Instant, u32)>>);

impl UnmanagedCounts {
    /// Adds the counts of now; returns the largest counts that are in force, without those that are 0.
    fn most(&mut self, now: BTreeMap<HostPort, u32>, at: Instant) -> BTreeMap<HostPort, u32> {
        self.0.retain(|addr, _| now.contains_key(addr));
        let mut most = BTreeMap::new();
        for (addr, count) in now {
            let counts = self.0.entry(addr.clone()).or_default();
            // A count that is not larger than a later one will never be the largest again.
            while counts.back().is_some_and(|(_, earlier)| *earlier <= count) {
                counts.pop_back();
            }
            counts.push_back((at, count));
            while counts.front().is_some_and(|(since, _)| at.saturating_duration_since(*since) > IN_FORCE) {
                counts.pop_front();
            }
            most.extend(counts.front().filter(|(_, count)| *count > 0).map(|(_, count)| (addr, *count)));
        }
        most
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_count_is_in_force_for_a_while() {
        let addr = HostPort::parse("127.0.0.1:1").unwrap();
        let (zero, mut counts) = (Instant::now(), UnmanagedCounts::default());
        let mut at = |ms: u64, count: u32| {
            let most = counts.most([(addr.clone(), count)].into(), zero + Duration::from_millis(ms));
            most.get(&addr).copied().unwrap_or_default()
        };
        assert_eq!([at(0, 0), at(250, 1), at(500, 0), at(2_000, 0), at(3_200, 0)], [0, 1, 1, 1, 1]);
        assert_eq!([at(3_300, 0), at(3_400, 2), at(3_500, 1), at(6_500, 1), at(6_600, 0)], [0, 2, 2, 1, 1]);
        assert_eq!(at(9_700, 0), 0);
    }
}
