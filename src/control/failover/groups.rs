//! The leader's probe at the groups: begins the failovers that `plan::failover` decides, has open promotions carried on and
//! servers wired, one task each. Keeps nothing beyond its term.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{ejections::EjectionController, promotion, waits::PromotionWaits};
use crate::{
    clock::boottime_ns,
    control::{leadership::context::LeaderContext, servers::reconciler::ReplicationReconciler},
    faults::{self, Rule},
    model::{
        change::{Change, StartPromotion},
        ids::{GroupId, HostPort, ProductId, PromotionId},
        state::ClusterState,
    },
    panics,
    plan::{
        failover::{PRIMARY_FOLLOWS_MS, decide, following_primaries},
        leadership_transfer::{TransferCandidates, transfer_candidates},
        liveness::Watchers,
        observation::Observation,
    },
};

/// Between the second failover of a group and the third; doubled with each.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// The longest pause between two: an operator who mends what is wrong waits no longer.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// What is going on at the groups' servers, in one term. Dropped, it ends.
#[derive(Debug, Default)]
pub struct GroupController {
    promotions: BTreeMap<PromotionId, JoinHandle<()>>,
    waits: PromotionWaits,
    reconciler: ReplicationReconciler,
    ejections: EjectionController,
    /// Primaries that follow another server, and since when.
    following_primaries: BTreeMap<HostPort, Instant>,
    /// Failovers of groups whose primary has been down all the time: how many were begun, and when the last was.
    begun: BTreeMap<(ProductId, GroupId), (u32, Instant)>,
}

impl Drop for GroupController {
    fn drop(&mut self) {
        self.promotions.values().for_each(JoinHandle::abort);
    }
}

impl GroupController {
    /// Looks at everything once, and begins what is to be done. Sentences about what is waited for.
    pub async fn probe(&mut self, ctx: &LeaderContext) -> Vec<String> {
        let state = ctx.consensus.state().borrow().clone();
        let now_ns = boottime_ns();
        let seen = ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&seen, ctx.leases.alive_voters(now_ns));
        let following_primaries = self.following_primaries(&state, &watchers);
        let mut sentences = self.reconciler.probe(ctx, &state, &seen, &following_primaries);
        let told = faults::without(Rule::LargestOffset).then(|| upside_down(&seen));
        let decisions = decide(&state, told.as_ref().unwrap_or(&seen), &watchers, &following_primaries, ctx.me);
        let open = |place: &(ProductId, GroupId)| state.promotion_of(place.0, place.1).is_some();
        self.begun.retain(|place, _| open(place) || decisions.iter().any(|d| (d.product, d.group) == *place));
        for decision in decisions {
            let place = (decision.product, decision.group);
            match decision.action {
                // What did not work three times may not work for long: each try stands in the log.
                Ok(_) if self.begun.get(&place).is_some_and(|(times, last)| last.elapsed() < pause(*times)) => {
                    let group = of_product(&state, place);
                    sentences
                        .push(format!("{group} is failed over again in a moment (`pontoon events` says why not yet)"));
                }
                Ok(changes) => {
                    let (times, _) = self.begun.get(&place).copied().unwrap_or((0, Instant::now()));
                    self.begun.insert(place, (times.saturating_add(1), Instant::now()));
                    if let Err(why) = begin(ctx, changes).await {
                        let group = of_product(&state, place);
                        warn!(%group, %why, "a failover could not be begun; it is tried again");
                        sentences.push(format!("{group} is to be failed over, and could not be yet: {why}"));
                    }
                }
                Err(why) => sentences.push(why),
            }
        }
        let now = ctx.consensus.state().borrow().clone();
        sentences.extend(self.ejections.probe(ctx, &now, (&seen, &watchers), now_ns).await);
        let newest = ctx.consensus.state().borrow().clone();
        self.promote(ctx, &newest).await;
        for promotion in state.promotions.values() {
            let why = self.waits.of(promotion.id).unwrap_or_else(|| "it goes on".into());
            let (kind, to) = (promotion.kind.name(), &promotion.to);
            let group = of_product(&state, (promotion.product, promotion.group));
            sentences.push(format!("{kind} of {group} to {to}: {why}"));
        }
        sentences
    }

    /// Who had better lead, see [`transfer_candidates`].
    #[must_use]
    pub fn transfer_candidates(&self, ctx: &LeaderContext) -> Option<TransferCandidates> {
        let state = ctx.consensus.state().borrow().clone();
        let now_ns = boottime_ns();
        let seen = ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&seen, ctx.leases.alive_voters(now_ns));
        transfer_candidates(&state, &seen, &watchers, &self.lasting(), ctx.me)
    }

    /// Those that have been so for long enough.
    fn following_primaries(&mut self, state: &ClusterState, watchers: &Watchers<'_>) -> BTreeSet<HostPort> {
        let now = Instant::now();
        let seen = following_primaries(state, watchers);
        self.following_primaries.retain(|addr, _| seen.contains(addr));
        seen.into_iter().for_each(|addr| _ = self.following_primaries.entry(addr).or_insert(now));
        self.lasting()
    }

    fn lasting(&self) -> BTreeSet<HostPort> {
        let lasting = |since: &Instant| since.elapsed() >= Duration::from_millis(PRIMARY_FOLLOWS_MS);
        self.following_primaries.iter().filter(|(_, since)| lasting(since)).map(|(addr, _)| addr.clone()).collect()
    }

    /// Every open promotion has one task.
    async fn promote(&mut self, ctx: &LeaderContext, state: &ClusterState) {
        panics::reap(&mut self.promotions).await;
        for id in state.promotions.keys() {
            let begin = || tokio::spawn(promotion::run(ctx.clone(), *id, self.waits.clone()));
            self.promotions.entry(*id).or_insert_with(begin);
        }
    }
}

/// A group for people: those of several products have the same numbers.
pub fn of_product(state: &ClusterState, (product, group): (ProductId, GroupId)) -> String {
    let name = state.products.get(&product).map_or("", |product| product.name.as_str());
    format!("group {group} of product '{name}'")
}

/// Before a group whose primary stays down is failed over again after so many times. The second comes at once: the one that was
/// chosen may just have died.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        times => AGAIN_AFTER.saturating_mul(1 << (times - 2).min(10)).min(AGAIN_AFTER_MAX),
    }
}

/// What a test makes of offsets that wants the replica that lags most to probe best.
fn upside_down(seen: &Observation) -> Observation {
    let mut seen = seen.clone();
    for (probe, _) in seen.values_mut().flat_map(|by_node| by_node.values_mut()).filter_map(|r| r.report.probe.as_mut())
    {
        probe.offset = u64::MAX - probe.offset;
    }
    seen
}

/// Appends what a failover begins with; stops at the first that is refused.
async fn begin(ctx: &LeaderContext, changes: Vec<Change>) -> Result<(), String> {
    for change in changes {
        if let Change::StartPromotion(StartPromotion { group, to, why, .. }) = &change {
            info!(%group, %to, %why, "a failover begins");
        }
        ctx.propose(change).await?;
    }
    Ok(())
}
