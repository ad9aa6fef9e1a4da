//! What the leader remembers of its own steps for a job (a migration or a sweep) in this term. The driver of a job
//! records here what came of each step. Knows nothing of clocks, servers or calls: times are the leader's own, as they
//! are passed in.

use std::collections::BTreeSet;

use super::{
    job::{JobObservation, JobStep, SelectedEndpoints},
    mover::{MoverState, MoverView},
    timing::{Timing, as_ns},
    waiting::{Wait, seconds},
};
use crate::model::{
    change::{Change, EndSweep, Release, RestartMigration},
    ids::{GroupId, HoldId, HostPort, NodeId, SlotId},
    migration::{Job, MigrationPhase, Run},
    outcome::Outcome,
    promotion::ReplicationOffset,
    state::ClusterState,
};

/// For how long an endpoint selection is valid, nanoseconds: it only chooses where an attempt begins.
pub const ENDPOINTS_FRESH_NS: u64 = 2_000_000_000;
/// The pause between a preflight that failed and the next one, nanoseconds: an answer takes a few milliseconds.
pub const PREFLIGHT_PAUSE_NS: u64 = 100_000_000;
/// For how long a preflight is valid, nanoseconds: a hold that begins later might meet a node that died in the
/// meantime.
pub const PREFLIGHT_FRESH_NS: u64 = 250_000_000;
/// After a fence that failed, the next one follows after the pause of this many failures: about a second.
const CLOSE_FAILURES: u32 = 3;
/// The longest pause between attempts, nanoseconds: an operator who has repaired something waits no longer than this.
const BACKOFF_MAX_NS: u64 = 30_000_000_000;

/// The hold that this leader opened for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnHold {
    /// The hold.
    pub id: HoldId,
    /// When it was proposed.
    pub since_ns: u64,
    /// The node's answer to [`JobStep::Finish`]: the target's replication offset when it was done, if the target
    /// reports one.
    pub finished: Option<Result<ReplicationOffset, String>>,
    /// Why the run could not be closed, or the switch was refused.
    pub broken: Option<String>,
}

/// What this leader has done for a job in this term. Another leader, or another term, begins with an empty one.
/// Every result of a step is recorded here before the next decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobMemory {
    /// When this leader began to drive the job.
    pub began_ns: u64,
    /// Runs up to this number are closed at this server; no connection of theirs was authorized since.
    closed: Option<(HostPort, u32)>,
    /// The last endpoint selection.
    endpoints: Option<(u64, Result<SelectedEndpoints, String>)>,
    /// The last preflight.
    preflight: Option<(u64, Result<(), String>)>,
    /// The hold, once it is open.
    pub hold: Option<OwnHold>,
    /// Nothing begins before this time, because of the last failure.
    not_before: Option<(u64, Wait)>,
    /// No fence begins before this time, because the last one failed. Failures of other steps do not delay it.
    no_fence_before: Option<(u64, Wait)>,
    /// Attempts in a row that did not reach a hold, and runs in a row that did not reach their end.
    pub failures: u32,
    /// Holds in a row that were released.
    releases: u32,
    /// The node of the last run: after a failure another node is tried first.
    last_node: Option<NodeId>,
    /// Since when the current run has been caught up, and waits for a short queue.
    pub caught_up_ns: Option<u64>,
    /// The current run, and when this leader first saw it.
    run_seen: Option<(u32, u64)>,
    /// When counters were last written to the log.
    pub progress_logged_ns: u64,
    /// A run that has deleted everything, and how many keys that were.
    pub cleaned: Option<(u32, u64)>,
    /// The slots that are to be swept, and since when these have been the same.
    sweepable: Option<(BTreeSet<SlotId>, u64)>,
}

impl JobMemory {
    /// The memory of a leader that begins to drive a job now.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        Self { began_ns: now_ns, progress_logged_ns: now_ns, ..Self::default() }
    }

    /// Records what the observation shows. Call it before each decision.
    pub fn observe(&mut self, seen: &JobObservation<'_>, job: Job) {
        if let Job::Migration(id) = job
            && let Some(migration) = seen.state.migrations.get(&id)
        {
            match migration.phase {
                MigrationPhase::CaughtUp => self.caught_up_ns = self.caught_up_ns.or(Some(seen.now_ns)),
                // The operator who resumes it has checked it: failures are counted from zero.
                MigrationPhase::Paused => (self.failures, self.releases) = (0, 0),
                MigrationPhase::Planned
                | MigrationPhase::CleaningTarget
                | MigrationPhase::Copying
                | MigrationPhase::Held(_)
                | MigrationPhase::Switched
                | MigrationPhase::Cancelling => {}
            }
        }
        if let Job::Sweep { product, group } = job {
            let slots = seen.state.sweepable(product, group);
            if self.sweepable.as_ref().is_none_or(|(known, _)| *known != slots) {
                self.sweepable = Some((slots, seen.now_ns));
            }
        }
        let Some(run) = seen.state.current_run(job) else {
            self.run_seen = None;
            self.caught_up_ns = None;
            return;
        };
        if self.run_seen.is_none_or(|(known, _)| known != run.run) {
            self.run_seen = Some((run.run, seen.now_ns));
            self.caught_up_ns = None;
            self.last_node = Some(run.node);
        }
        if let Some(mover) = seen.mover.filter(|m| m.run == run.run && m.node == run.node)
            && mover.work == MoverState::Cleaned
        {
            self.cleaned = Some((run.run, mover.counters.deleted));
        }
    }

    /// Whether all runs so far are closed at `server`, by this leader in this term.
    #[must_use]
    pub fn is_closed(&self, server: &HostPort, runs: u32) -> bool {
        // A job that never had a run has no connections either.
        runs == 0 || self.closed.as_ref().is_some_and(|(at, up_to)| at == server && *up_to >= runs)
    }

    /// Since when the slots that are to be swept have been the same.
    #[must_use]
    pub fn quiet_since_ns(&self) -> u64 {
        self.sweepable.as_ref().map_or(self.began_ns, |(_, since_ns)| *since_ns)
    }

    /// The last endpoint selection, if it is fresh.
    #[must_use]
    pub fn endpoints(&self, now_ns: u64) -> Option<&Result<SelectedEndpoints, String>> {
        self.endpoints.as_ref().filter(|(at, _)| now_ns < at + ENDPOINTS_FRESH_NS).map(|(_, found)| found)
    }

    /// The last preflight, if it is fresh.
    #[must_use]
    pub fn preflight(&self, now_ns: u64) -> Option<&Result<(), String>> {
        let fresh = |at: u64, result: &Result<(), String>| {
            now_ns < at + if result.is_ok() { PREFLIGHT_FRESH_NS } else { PREFLIGHT_PAUSE_NS }
        };
        self.preflight.as_ref().filter(|(at, result)| fresh(*at, result)).map(|(_, result)| result)
    }

    /// The pause after the last failure as a step; `None`: it is over.
    #[must_use]
    pub fn pending_pause(&self, now_ns: u64) -> Option<JobStep> {
        wait_until(self.not_before.as_ref(), now_ns)
    }

    /// The fence at `server` for all runs so far, as a step; `None`: it has been done.
    #[must_use]
    pub fn fence(&self, now_ns: u64, server: &HostPort, group: GroupId, runs: u32) -> Option<JobStep> {
        if self.is_closed(server, runs) {
            return None;
        }
        let close = || JobStep::Close { server: server.clone(), group, runs };
        Some(wait_until(self.no_fence_before.as_ref(), now_ns).unwrap_or_else(close))
    }

    /// An endpoint selection has ended.
    pub fn endpoints_selected(&mut self, now_ns: u64, found: Result<SelectedEndpoints, String>) {
        self.endpoints = Some((now_ns, found));
    }

    /// A preflight has ended.
    pub fn preflighted(&mut self, now_ns: u64, result: Result<(), String>) {
        self.preflight = Some((now_ns, result));
    }

    /// Runs were closed, or this failed.
    pub fn closed(&mut self, now_ns: u64, server: HostPort, runs: u32, result: Result<(), String>, timing: Timing) {
        match result {
            Ok(()) => self.closed = Some((server, runs)),
            Err(why) => match &mut self.hold {
                Some(hold) => hold.broken = Some(why),
                None => {
                    let wait = Wait::new(
                        format!("the connections of earlier runs at {server} cannot be closed"),
                        format!("{server} answers CLIENT LIST and CLIENT KILL; it is asked again about every second"),
                    );
                    let at_ns = now_ns + backoff_ns(timing, CLOSE_FAILURES);
                    self.no_fence_before = Some((at_ns, wait.with_detail(format!(": {why}"))));
                }
            },
        }
    }

    /// The node has answered [`JobStep::Finish`], or the call failed.
    pub fn finished(&mut self, hold: HoldId, result: Result<ReplicationOffset, String>) {
        if let Some(own) = self.hold.as_mut().filter(|own| own.id == hold) {
            own.finished = Some(result);
        }
    }

    /// A change was appended and accepted, or refused with this text. `proposed_ns`: when it was proposed.
    pub fn proposed(
        &mut self,
        (proposed_ns, now_ns): (u64, u64),
        change: &Change,
        result: Result<&Outcome, String>,
        timing: Timing,
    ) {
        match (change, result) {
            (Change::OpenHold(_), Ok(Outcome::Held(id))) => {
                self.hold = Some(OwnHold { id: *id, since_ns: proposed_ns, finished: None, broken: None });
                self.failures = 0;
            }
            (Change::Release(Release { why, .. }), _) => {
                self.hold = None;
                self.preflight = None;
                self.releases += 1;
                self.pause(now_ns, "a hold ended without a switch", why, timing, self.releases);
            }
            (Change::RestartMigration(RestartMigration { why, .. }) | Change::EndSweep(EndSweep { why, .. }), _) => {
                self.hold = None;
                self.preflight = None;
                self.endpoints = None;
                self.releases = 0;
                self.failures += 1;
                self.pause(now_ns, "the last run failed", why, timing, self.failures);
            }
            (Change::MigrationProgress(_), _) => self.progress_logged_ns = now_ns,
            (Change::Switch(_), Ok(_)) => {
                self.hold = None;
                self.failures = 0;
                self.not_before = None;
            }
            (Change::Switch(_), Err(why)) => {
                if let Some(hold) = &mut self.hold {
                    hold.broken = Some(why);
                }
            }
            (Change::StartRun(_), Ok(_)) => {
                // If this run fails too, the next one does not follow immediately.
                self.failures += 1;
                self.pause(now_ns, "the last run failed", "just now", timing, self.failures);
            }
            (_, Ok(_)) => {}
            (_, Err(why)) => {
                self.endpoints = None;
                self.failures += 1;
                self.pause(now_ns, "a step was refused", &why, timing, self.failures);
            }
        }
    }

    fn pause(&mut self, now_ns: u64, what: &str, why: &str, timing: Timing, failures: u32) {
        let max = seconds(BACKOFF_MAX_NS);
        let wait = Wait::new(what, format!("a pause of at most {max} s is over; then it is tried again"));
        self.not_before = Some((now_ns + backoff_ns(timing, failures), wait.with_detail(format!(": {why}"))));
    }

    /// Why the current run cannot continue, if it cannot: its node was restarted or removed, is silent, reported a
    /// failure, or does not know of the run.
    #[must_use]
    pub fn run_failure(&self, seen: &JobObservation<'_>, job: Job, run: &Run) -> Option<String> {
        let node = run.node;
        let Some(member) = seen.state.members.get(&node) else {
            return Some(format!("node {node}, which worked on it, was removed"));
        };
        if member.leaving.is_some() {
            return Some(format!("node {node}, which worked on it, is being removed"));
        }
        // An incarnation that was admitted later knows nothing of the run: connections and memory ended with the former
        // one.
        if member.admitted.is_none_or(|a| a.incarnation.0 > run.began.0) {
            return Some(format!("node {node}, which worked on it, was restarted"));
        }
        let lease_ns = as_ns(seen.timing.lease_at_leader());
        let observed = seen.nodes.get(&node);
        let heartbeat_ns = observed.map_or(0, |n| n.heartbeat_ns).max(self.began_ns);
        if seen.now_ns > heartbeat_ns + lease_ns {
            return Some(format!("node {node}, which worked on it, is silent"));
        }
        let mover = seen.mover.filter(|m| m.run == run.run && m.node == node);
        match mover {
            Some(MoverView { work: MoverState::Failed(why), .. }) => Some(why.clone()),
            Some(_) => None,
            None => {
                let since_ns = self.run_seen.filter(|(known, _)| *known == run.run).map_or(seen.now_ns, |(_, at)| at);
                let knows = observed.is_some_and(|n| n.applied >= run.began && n.heartbeat_ns > since_ns);
                (knows && seen.now_ns > since_ns + lease_ns)
                    .then(|| format!("node {node} does not report run {} of {job}", run.run))
            }
        }
    }

    /// The node for the next run: the live node with the fewest runs. Among equals the node that failed last and the
    /// leader come last.
    #[must_use]
    pub fn choose_node(&self, seen: &JobObservation<'_>) -> Option<NodeId> {
        let lease_ns = as_ns(seen.timing.lease);
        let live = seen.state.members.values().filter(|m| m.leaving.is_none()).filter(|m| {
            let node = seen.nodes.get(&m.id).filter(|n| m.admitted.is_some_and(|a| a.incarnation == n.incarnation));
            node.is_some_and(|n| seen.now_ns <= n.heartbeat_ns + lease_ns)
        });
        live.map(|m| m.id).min_by_key(|id| {
            (runs_of(seen.state, *id), self.failures > 0 && Some(*id) == self.last_node, *id == seen.me, *id)
        })
    }
}

/// Nobody could work on a job.
#[must_use]
pub fn no_node() -> Wait {
    Wait::new("no node is alive that could work on it", "the leader has a heartbeat of a node (pontoon node ls)")
}

/// The pause after this number of failures in a row: doubled each time.
fn backoff_ns(timing: Timing, failures: u32) -> u64 {
    let first_ns = as_ns(timing.backoff);
    let factor = 1u64 << failures.saturating_sub(1).min(16);
    first_ns.saturating_mul(factor).min(BACKOFF_MAX_NS)
}

fn wait_until(until: Option<&(u64, Wait)>, now_ns: u64) -> Option<JobStep> {
    let (until_ns, wait) = until.filter(|(until_ns, _)| now_ns < *until_ns)?;
    Some(JobStep::Wait { wait: wait.clone(), until_ns: *until_ns })
}

/// The number of runs of a node.
fn runs_of(state: &ClusterState, node: NodeId) -> usize {
    let migrations = state.migrations.values().filter_map(|m| m.run.as_ref());
    let sweeps = state.products.values().flat_map(|p| p.groups.values()).filter_map(|g| g.sweep.as_ref());
    migrations.chain(sweeps.map(|s| &s.run)).filter(|run| run.node == node).count()
}
