//! The next step of a sweep, which deletes the leftovers of slots that a group gave away, once no slot has come to the
//! group or left it for some time. Leftovers of late, unacknowledged writes are harmless until the slots come back, and
//! a migration to the group ends the sweep before it starts. Knows nothing of keys.

use super::{
    job::{JobObservation, JobStep},
    job_memory::{JobMemory, no_node},
    waiting::{Wait, left, seconds},
};
use crate::model::{
    change::{Change, Cleaned, EndSweep, StartRun},
    ids::{GroupId, ProductId},
    migration::{Job, MigrationPhase},
    route::Mode,
};

/// For how long a group must not have given slots away or received any before it is swept, nanoseconds: longer than an
/// earlier request can take to arrive, and long enough for a rebalance with many migrations to be over.
pub const QUIET_NS: u64 = 600_000_000_000;
/// The same in a cache, where a temporary owner cannot get the same slots again before their leftovers are deleted.
/// Longer than a request's deadline and a lease.
pub const QUIET_CACHE_NS: u64 = 10_000_000_000;
/// How often the leader decides again without news, nanoseconds: a sweep is not urgent.
const POLL_NS: u64 = 5_000_000_000;

/// The next step of the sweep of a group. Call [`JobMemory::observe`] with `seen` before. A new leader waits the whole
/// time again.
#[must_use]
pub fn next(seen: &JobObservation<'_>, memory: &JobMemory, product: ProductId, group: GroupId) -> JobStep {
    let job = Job::Sweep { product, group };
    let found = seen.state.products.get(&product).and_then(|p| Some((p, p.groups.get(&group)?)));
    let Some((product_state, group_state)) = found else { return JobStep::Over };
    let Some(primary) = group_state.servers.first() else { return JobStep::Over };
    let runs = product_state.sweep_runs;
    let wait = |wait: Wait| JobStep::Wait { wait, until_ns: seen.now_ns + POLL_NS };
    let fence = || memory.fence(seen.now_ns, &primary.addr, group, runs);
    if let Some(sweep) = &group_state.sweep {
        let (run, term) = (sweep.run.run, seen.term);
        // A new primary may still have the keys that were deleted at the former one.
        let there = sweep.run.server == primary.addr;
        if let Some((_, deleted)) = memory.cleaned.filter(|(cleaned, _)| *cleaned == run && there) {
            return fence().unwrap_or(JobStep::Propose(Change::Cleaned(Cleaned { job, run, term, deleted })));
        }
        let why = match incoming_slots(seen, product, group) {
            Some(what) => Some(format!("{what} brings slots to group {group}")),
            None if !there => Some("the primary has changed".into()),
            None => memory.run_failure(seen, job, &sweep.run),
        };
        return match why {
            Some(why) => {
                fence().unwrap_or(JobStep::Propose(Change::EndSweep(EndSweep { product, group, run, term, why })))
            }
            None => wait(Wait::new(
                format!("node {} sweeps group {group}", sweep.run.node),
                "no leftover is found any more, or slots come to the group: then it begins again later",
            )),
        };
    }
    if seen.state.sweepable(product, group).is_empty() {
        return JobStep::Over;
    }
    if let Some(what) = incoming_slots(seen, product, group) {
        let ends_when = format!("{what} has ended; then it begins when the group's slots stay as they are");
        return wait(Wait::new(format!("group {group} is swept after {what}"), ends_when));
    }
    let quiet_ns = match product_state.mode {
        Mode::Store => QUIET_NS,
        Mode::Cache => QUIET_CACHE_NS,
    };
    let quiet_until_ns = memory.quiet_since_ns() + quiet_ns;
    if seen.now_ns < quiet_until_ns {
        let slots = seen.state.sweepable(product, group).len();
        let (left, all) = (left(quiet_until_ns - seen.now_ns), seconds(quiet_ns));
        let ends_when = format!(
            "no slot has come to the group or left it for {all} s (it begins in {left}); there is nothing to do"
        );
        return wait(Wait::new(format!("it deletes what {slots} slots may have left"), ends_when));
    }
    if let Some(pause) = memory.pending_pause(seen.now_ns) {
        return pause;
    }
    if let Some(fence) = fence() {
        return fence;
    }
    let Some(node) = memory.choose_node(seen) else { return wait(no_node()) };
    let (run, server) = (runs.saturating_add(1), primary.addr.clone());
    JobStep::Propose(Change::StartRun(StartRun { job, run, node, server, term: seen.term }))
}

/// The migration or assignment that brings slots to the group now, or would if there were no sweep.
fn incoming_slots(seen: &JobObservation<'_>, product: ProductId, group: GroupId) -> Option<String> {
    let coming = seen.state.migrations.values().find(|m| {
        m.product == product && m.to == group && !matches!(m.phase, MigrationPhase::Switched | MigrationPhase::Paused)
    });
    let assigned = seen.state.assignments.values().find(|a| a.product == product && a.to == Some(group));
    coming.map(|m| format!("migration {}", m.id)).or_else(|| assigned.map(|a| format!("assignment {}", a.id)))
}
