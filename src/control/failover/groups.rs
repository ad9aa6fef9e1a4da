//! Failover and replication of all groups, on the leader: begins the failovers that `plan::failover` decides, and keeps
//! one task for each open promotion and each server whose replication is reconciled. Keeps nothing beyond its term.

use std::{collections::BTreeMap, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{ejections::EjectionController, group_name::group_name, notes::GroupNotes, promotion};
use crate::{
    clock::boottime_ns,
    control::{
        leadership::{
            context::LeaderContext,
            waits::{Waits, not_written},
        },
        servers::{libraries::LibraryController, reconciler::ReplicationReconciler, scripts::ScriptController},
    },
    faults::{self, Rule},
    model::{
        change::{Change, GroupNote, NoteGroup, StartPromotion},
        ids::{GroupId, HostPort, ProductId, PromotionId},
        state::ClusterState,
    },
    panics,
    plan::{
        failover::{
            FailoverDecision, FollowingPrimaries, PRIMARY_FOLLOWS_MS, decide, following_primaries, held_back,
            not_failed_over,
        },
        guard::GUARD_ENDS_WHEN,
        impairment::writes_refused,
        leadership_transfer::{TransferCandidates, transfer_candidates},
        libraries,
        liveness::Watchers,
        observation::Observation,
        scripts,
        waiting::Wait,
    },
};

/// The pause between the second failover of a group and the third; doubled with each. The log shows each of them, so
/// they must not come too fast.
const FAILOVER_PAUSE: Duration = Duration::from_secs(2);
/// The longest of these pauses: an operator who has repaired something waits no longer than this.
const FAILOVER_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The work at the groups' servers in one term. Dropping it ends the work.
#[derive(Debug, Default)]
pub struct GroupController {
    promotions: BTreeMap<PromotionId, JoinHandle<()>>,
    waits: Waits<PromotionId>,
    reconciler: ReplicationReconciler,
    ejections: EjectionController,
    notes: GroupNotes,
    scripts: ScriptController,
    libraries: LibraryController,
    /// Primaries that follow another server, and since when.
    following_primaries: BTreeMap<HostPort, Instant>,
    /// For groups whose primary has been down without a break: how many failovers were begun, and when the last one
    /// was.
    begun: BTreeMap<(ProductId, GroupId), (u32, Instant)>,
}

impl Drop for GroupController {
    fn drop(&mut self) {
        self.promotions.values().for_each(JoinHandle::abort);
    }
}

impl GroupController {
    /// Decides once about all groups, and begins what is decided. Returns what is waited for.
    pub async fn step(&mut self, ctx: &LeaderContext) -> Vec<Wait> {
        let state = ctx.consensus.state().borrow().clone();
        let now_ns = boottime_ns();
        let seen = ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&seen, ctx.leases.alive_voters(now_ns));
        let following_primaries = self.following_primaries(&state, &watchers);
        let mut waiting = self.reconciler.step(ctx, &state, &seen, &following_primaries);
        let reversed = faults::without(Rule::LargestOffset).then(|| reverse_offsets(&seen));
        let decisions = decide(&state, reversed.as_ref().unwrap_or(&seen), &watchers, &following_primaries, ctx.me);
        waiting.extend(self.scripts.step(ctx, scripts::decide(&state, &seen, &watchers)));
        self.libraries.step(ctx, libraries::targets(&state, &seen));
        self.notes.write(ctx, notes(&state, &seen, &watchers, &following_primaries, &decisions)).await;
        let open = |place: &(ProductId, GroupId)| state.promotion_of(place.0, place.1).is_some();
        self.begun.retain(|place, _| open(place) || decisions.iter().any(|d| (d.product, d.group) == *place));
        for decision in decisions {
            let place = (decision.product, decision.group);
            match decision.action {
                // A failover that failed repeatedly may fail for a long time, and each one writes to the log.
                Ok(_) if self.begun.get(&place).is_some_and(|(times, last)| last.elapsed() < pause(*times)) => {
                    let group = group_name(&state, place);
                    let max = FAILOVER_PAUSE_MAX.as_secs();
                    waiting.push(Wait::new(
                        format!("{group} is failed over again after a pause"),
                        format!("the pause is over, at most {max} s (pontoon events says why it failed before)"),
                    ));
                }
                Ok(changes) => {
                    let (times, _) = self.begun.get(&place).copied().unwrap_or((0, Instant::now()));
                    self.begun.insert(place, (times.saturating_add(1), Instant::now()));
                    if let Err(why) = begin(ctx, changes).await {
                        let group = group_name(&state, place);
                        warn!(%group, %why, "a failover could not be begun; it is tried again");
                        waiting.push(not_written(format!("the failover of {group} could not begin yet"), &why));
                    }
                }
                Err(why) => waiting.push(why),
            }
        }
        let now = ctx.consensus.state().borrow().clone();
        waiting.extend(self.ejections.step(ctx, &now, (&seen, &watchers), now_ns).await);
        let newest = ctx.consensus.state().borrow().clone();
        self.promote(ctx, &newest).await;
        for promotion in state.promotions.values() {
            let (kind, to) = (promotion.kind.name(), &promotion.to);
            let group = group_name(&state, (promotion.product, promotion.group));
            waiting.push(self.waits.of(promotion.id).of(&format!("{kind} of {group} to {to}")));
        }
        waiting
    }

    /// The nodes that should lead instead, see [`transfer_candidates`].
    #[must_use]
    pub fn transfer_candidates(&self, ctx: &LeaderContext) -> Option<TransferCandidates> {
        let state = ctx.consensus.state().borrow().clone();
        let now_ns = boottime_ns();
        let seen = ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&seen, ctx.leases.alive_voters(now_ns));
        transfer_candidates(&state, &seen, &watchers, &self.lasting_following_primaries(), ctx.me)
    }

    /// Records which primaries follow another server; returns those that have done so for long enough.
    fn following_primaries(&mut self, state: &ClusterState, watchers: &Watchers<'_>) -> FollowingPrimaries {
        let now = Instant::now();
        let seen = following_primaries(state, watchers);
        self.following_primaries.retain(|addr, _| seen.contains(addr));
        seen.into_iter().for_each(|addr| _ = self.following_primaries.entry(addr).or_insert(now));
        self.lasting_following_primaries()
    }

    /// Primaries that have followed another server for [`PRIMARY_FOLLOWS_MS`].
    fn lasting_following_primaries(&self) -> FollowingPrimaries {
        let for_ms = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let all = self.following_primaries.iter().map(|(addr, since)| (addr.clone(), for_ms(since)));
        all.filter(|(_, for_ms)| *for_ms >= PRIMARY_FOLLOWS_MS).collect()
    }

    /// Every open promotion has one task.
    async fn promote(&mut self, ctx: &LeaderContext, state: &ClusterState) {
        panics::reap(&mut self.promotions).await;
        for id in state.promotions.keys() {
            let run = || faults::or_panic("promotion", promotion::run(ctx.clone(), *id, self.waits.clone()));
            let begin = || tokio::spawn(run());
            self.promotions.entry(*id).or_insert_with(begin);
        }
    }
}

/// The pause before a group is failed over again, after this number of failovers. The second follows immediately: the
/// candidate of the first may just have died.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        times => FAILOVER_PAUSE.saturating_mul(1 << (times - 2).min(10)).min(FAILOVER_PAUSE_MAX),
    }
}

/// The conditions of groups that get an event when they begin.
fn notes(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &FollowingPrimaries,
    decisions: &[FailoverDecision],
) -> Vec<NoteGroup> {
    let held = held_back(state, seen, watchers, following_primaries);
    let with_remedy = |(product, group, why): (ProductId, GroupId, String)| {
        (product, group, format!("{why}; ends when {GUARD_ENDS_WHEN}"))
    };
    let stuck = not_failed_over(state, decisions, &held);
    let refused = writes_refused(state, watchers);
    let all = [
        (GroupNote::FailoverHeldBack, held.into_iter().map(with_remedy).collect()),
        (GroupNote::NotFailedOver, stuck),
        (GroupNote::WritesRefused, refused),
    ];
    let of = |note| move |(product, group, text)| NoteGroup { product, group, note, text };
    all.into_iter().flat_map(|(note, groups)| groups.into_iter().map(of(note))).collect()
}

/// For a test that needs the replica that lags most to be chosen: offsets in reverse order.
fn reverse_offsets(seen: &Observation) -> Observation {
    let mut seen = seen.clone();
    for (probe, _) in seen.values_mut().flat_map(|by_node| by_node.values_mut()).filter_map(|r| r.report.probe.as_mut())
    {
        probe.offset = u64::MAX - probe.offset;
    }
    seen
}

/// Appends the changes that begin a failover; stops at the first that is refused.
async fn begin(ctx: &LeaderContext, changes: Vec<Change>) -> Result<(), String> {
    for change in changes {
        if let Change::StartPromotion(StartPromotion { group, to, why, .. }) = &change {
            info!(%group, %to, %why, "a failover begins");
        }
        ctx.propose(change).await?;
    }
    Ok(())
}
