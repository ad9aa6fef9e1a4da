//! The next step of a sweep: deleting what is left of slots that a group gave away, when nothing has come or gone for long.
//! Knows nothing of keys: what late, unacknowledged writes left is harmless until the slots come back, and a start of a
//! migration to the group ends the sweep first.

use super::job::{JobMemory, JobObservation, JobStep};
use crate::model::{
    change::{Change, Cleaned, EndSweep, StartRun},
    ids::{GroupId, ProductId},
    migration::{Job, MigrationPhase},
    route::Mode,
};

/// A group's leftovers are swept when nothing was given away or taken for so long: longer than any request of before can
/// take to arrive, and so long that a rebalance with many migrations is over.
pub const QUIET_NS: u64 = 600_000_000_000;
/// The same in a cache: what a group had of slots that it was lent is deleted soon, since it is not lent them before. Longer
/// than a request's deadline and a lease.
pub const QUIET_CACHE_NS: u64 = 10_000_000_000;
/// Without news it is probed at again so often.
const POLL_NS: u64 = 5_000_000_000;

/// The next step of the sweep of a group. `memory` has observed `seen`. A new leader waits from the beginning.
#[must_use]
pub fn next(seen: &JobObservation<'_>, memory: &JobMemory, product: ProductId, group: GroupId) -> JobStep {
    let job = Job::Sweep { product, group };
    let found = seen.state.products.get(&product).and_then(|p| Some((p, p.groups.get(&group)?)));
    let Some((product_state, group_state)) = found else { return JobStep::Over };
    let Some(primary) = group_state.servers.first() else { return JobStep::Over };
    let runs = product_state.sweep_runs;
    let wait = |why: String| JobStep::Wait { why, until_ns: seen.now_ns + POLL_NS };
    let fence = || memory.fence(seen.now_ns, &primary.addr, group, runs);
    if let Some(sweep) = &group_state.sweep {
        let (run, term) = (sweep.run.run, seen.term);
        // What a replaced primary was cleaned of, the new one may have.
        let there = sweep.run.server == primary.addr;
        if let Some((_, deleted)) = memory.cleaned.filter(|(cleaned, _)| *cleaned == run && there) {
            return fence().unwrap_or(JobStep::Propose(Change::Cleaned(Cleaned { job, run, term, deleted })));
        }
        let why = match comes(seen, product, group) {
            Some(what) => Some(format!("{what} is to bring slots to group {group}")),
            None if !there => Some("the primary has changed".into()),
            None => memory.lost(seen, job, &sweep.run),
        };
        return match why {
            Some(why) => {
                fence().unwrap_or(JobStep::Propose(Change::EndSweep(EndSweep { product, group, run, term, why })))
            }
            None => wait(format!("node {} sweeps group {group}", sweep.run.node)),
        };
    }
    if seen.state.sweepable(product, group).is_empty() {
        return JobStep::Over;
    }
    if let Some(what) = comes(seen, product, group) {
        return wait(format!("group {group} is swept after {what}"));
    }
    let quiet_until_ns = memory.quiet_since_ns()
        + match product_state.mode {
            Mode::Store => QUIET_NS,
            Mode::Cache => QUIET_CACHE_NS,
        };
    if seen.now_ns < quiet_until_ns {
        return JobStep::Wait { why: format!("group {group} is swept later"), until_ns: quiet_until_ns };
    }
    if let Some(pausing) = memory.pausing(seen.now_ns) {
        return pausing;
    }
    if let Some(fence) = fence() {
        return fence;
    }
    let Some(node) = memory.choose_node(seen) else { return wait("no node is alive that could do it".into()) };
    let (run, server) = (runs.saturating_add(1), primary.addr.clone());
    JobStep::Propose(Change::StartRun(StartRun { job, run, node, server, term: seen.term }))
}

/// What brings slots to the group now, or would if there were no sweep.
fn comes(seen: &JobObservation<'_>, product: ProductId, group: GroupId) -> Option<String> {
    let coming = seen.state.migrations.values().find(|m| {
        m.product == product && m.to == group && !matches!(m.phase, MigrationPhase::Switched | MigrationPhase::Paused)
    });
    let assigned = seen.state.assignments.values().find(|a| a.product == product && a.to == group);
    coming.map(|m| format!("migration {}", m.id)).or_else(|| assigned.map(|a| format!("assignment {}", a.id)))
}
