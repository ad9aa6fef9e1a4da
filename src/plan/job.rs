//! What the leader knows when it decides about a job (a migration or a sweep), what it remembers of its own acts in this
//! term, and which steps there are. Who carries a step out tells the memory what came of it.
//! Knows nothing of clocks, servers or calls: times are the leader's own, as they are passed in.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    lease::Barrier,
    mover::{MoverState, MoverView},
    timing::Timing,
};
use crate::model::{
    change::{Change, EndSweep, Release, RestartMigration},
    ids::{Epoch, GroupId, HoldId, HostPort, Incarnation, NodeId, SlotId, Term},
    migration::{Job, MigrationPhase, Run},
    outcome::Outcome,
    promotion::ReplicationOffset,
    state::ClusterState,
};

/// A probe at the servers of both groups is good for so long: it only chooses where to begin.
pub const ENDPOINTS_FRESH_NS: u64 = 2_000_000_000;
/// After a preflight that said no, the next one.
pub const PREFLIGHT_AGAIN_NS: u64 = 100_000_000;
/// A hold that is begun later than this after its preflight would rest on yesterday's news.
pub const PREFLIGHT_FRESH_NS: u64 = 250_000_000;
/// A server that cannot be asked for a fence is asked again after the pause of so many failures: about a second.
const CLOSE_FAILURES: u32 = 3;
/// The longest pause between attempts.
const BACKOFF_MAX_NS: u64 = 30_000_000_000;

/// A node as the leader last heard it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeObservation {
    /// Its start.
    pub incarnation: Incarnation,
    /// When it was heard, on the leader's clock.
    pub heard_ns: u64,
    /// The last entry it had applied then.
    pub applied: Epoch,
}

/// What the leader sees at one moment.
#[derive(Clone, Copy, Debug)]
pub struct JobObservation<'a> {
    /// The newest applied state.
    pub state: &'a ClusterState,
    /// The term in which it leads.
    pub term: Term,
    /// The leader itself.
    pub me: NodeId,
    /// Its clock.
    pub now_ns: u64,
    /// The nodes heard in this term.
    pub nodes: &'a BTreeMap<NodeId, NodeObservation>,
    /// What was last reported of this job's runs.
    pub mover: Option<&'a MoverView>,
    /// Of the hold that is open for this job.
    pub barrier: Option<&'a Barrier>,
    /// Leases and pauses.
    pub timing: Timing,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// There is nothing to do for this job any more.
    Over,
    /// Probe again with news, or at `until_ns`.
    Wait {
        /// For people.
        why: String,
        /// On the leader's clock.
        until_ns: u64,
    },
    /// Ask the servers of the groups how they are.
    SelectEndpoints,
    /// Mark runs up to `runs` closed, then close their connections at `server`.
    Close {
        /// Where.
        server: HostPort,
        /// Whose credentials.
        group: GroupId,
        /// The highest number of a run so far.
        runs: u32,
    },
    /// See whether a hold would get through: every possible server there, target healthy, control connections open.
    Preflight,
    /// Append this change.
    Propose(Change),
    /// The barrier has passed: tell the node to bring over what is left.
    Finish {
        /// The hold.
        hold: HoldId,
        /// The run.
        run: u32,
        /// Its node.
        node: NodeId,
        /// When it must be through.
        by_ns: u64,
    },
}

/// What a probe at the servers found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedEndpoints {
    /// The server of the source group that is to serve feed and fetches.
    pub feed: HostPort,
    /// Primary of the target.
    pub target: HostPort,
    /// Epochs of both groups at that time.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
}

/// The hold that this leader opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnHold {
    /// Which.
    pub id: HoldId,
    /// When it was asked for.
    pub since_ns: u64,
    /// The answer of the node to Finish: the replication offset of the target when the mover was done, or why it is not.
    pub finished: Option<Result<ReplicationOffset, String>>,
    /// The run could not be closed, or the switch was refused; why.
    pub broken: Option<String>,
}

/// What this leader has done for a job in this term. Another leader, or another term, begins with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobMemory {
    /// When it was taken up.
    pub began_ns: u64,
    /// Runs up to this number are closed at this server; no more of them was authorized since.
    closed: Option<(HostPort, u32)>,
    /// The last select endpoints.
    select_endpoints: Option<(u64, Result<SelectedEndpoints, String>)>,
    /// The last preflight.
    preflight: Option<(u64, Result<(), String>)>,
    /// The hold, once it was opened.
    pub hold: Option<OwnHold>,
    /// Nothing is begun earlier, and why it did not work the last time.
    not_before: Option<(u64, String)>,
    /// The same for the fence: nothing that failed elsewhere makes it later.
    no_fence_before: Option<(u64, String)>,
    /// Attempts and runs in a row that did not get to a hold, or to their end.
    pub failures: u32,
    /// Holds in a row that were released.
    releases: u32,
    /// Whose node did the last run: after a failure another one is tried first.
    last_node: Option<NodeId>,
    /// Since when it has been waiting for a short queue.
    pub caught_up_ns: Option<u64>,
    /// When this leader first saw the current run.
    run_seen: Option<(u32, u64)>,
    /// When counters were last brought into the log.
    pub told_ns: u64,
    /// This run has deleted everything, and how much.
    pub cleaned: Option<(u32, u64)>,
    /// What there was to sweep when it was last probed at, and since when it has been that.
    quiet: Option<(BTreeSet<SlotId>, u64)>,
}

impl JobMemory {
    /// For a leader that takes a job up now.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        Self { began_ns: now_ns, told_ns: now_ns, ..Self::default() }
    }

    /// Takes in what only has to be noticed. Called before each decision.
    pub fn observe(&mut self, seen: &JobObservation<'_>, job: Job) {
        if let Job::Migration(id) = job
            && let Some(migration) = seen.state.migrations.get(&id)
        {
            match migration.phase {
                MigrationPhase::CaughtUp => self.caught_up_ns = self.caught_up_ns.or(Some(seen.now_ns)),
                // Whoever resumes it has probed: it gets all its tries again.
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
            if self.quiet.as_ref().is_none_or(|(known, _)| *known != slots) {
                self.quiet = Some((slots, seen.now_ns));
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
        self.quiet.as_ref().map_or(self.began_ns, |(_, since_ns)| *since_ns)
    }

    /// The select endpoints, if it is fresh.
    #[must_use]
    pub fn select_endpoints(&self, now_ns: u64) -> Option<&Result<SelectedEndpoints, String>> {
        self.select_endpoints.as_ref().filter(|(at, _)| now_ns < at + ENDPOINTS_FRESH_NS).map(|(_, found)| found)
    }

    /// The preflight, if it is fresh.
    #[must_use]
    pub fn preflight(&self, now_ns: u64) -> Option<&Result<(), String>> {
        let good = |at: u64, result: &Result<(), String>| {
            now_ns < at + if result.is_ok() { PREFLIGHT_FRESH_NS } else { PREFLIGHT_AGAIN_NS }
        };
        self.preflight.as_ref().filter(|(at, result)| good(*at, result)).map(|(_, result)| result)
    }

    /// A pause that is not over, as a step.
    #[must_use]
    pub fn pausing(&self, now_ns: u64) -> Option<JobStep> {
        wait_until(self.not_before.as_ref(), now_ns)
    }

    /// The fence at `server` for all runs so far, as a step; `None`: it is there.
    #[must_use]
    pub fn fence(&self, now_ns: u64, server: &HostPort, group: GroupId, runs: u32) -> Option<JobStep> {
        if self.is_closed(server, runs) {
            return None;
        }
        let close = || JobStep::Close { server: server.clone(), group, runs };
        Some(wait_until(self.no_fence_before.as_ref(), now_ns).unwrap_or_else(close))
    }

    /// A select endpoints is through.
    pub fn endpoints_selected(&mut self, now_ns: u64, found: Result<SelectedEndpoints, String>) {
        self.select_endpoints = Some((now_ns, found));
    }

    /// A preflight is through.
    pub fn preflighted(&mut self, now_ns: u64, result: Result<(), String>) {
        self.preflight = Some((now_ns, result));
    }

    /// A run was closed, or could not be.
    pub fn closed(&mut self, now_ns: u64, server: HostPort, runs: u32, result: Result<(), String>, timing: Timing) {
        match result {
            Ok(()) => self.closed = Some((server, runs)),
            Err(why) => match &mut self.hold {
                Some(hold) => hold.broken = Some(why),
                None => self.no_fence_before = Some((now_ns + backoff_ns(timing, CLOSE_FAILURES), why)),
            },
        }
    }

    /// The node answered to Finish, or did not.
    pub fn finished(&mut self, hold: HoldId, result: Result<ReplicationOffset, String>) {
        if let Some(own) = self.hold.as_mut().filter(|own| own.id == hold) {
            own.finished = Some(result);
        }
    }

    /// A change was appended: accepted, or refused with this sentence. `asked_ns`: when it was proposed.
    pub fn proposed(
        &mut self,
        (asked_ns, now_ns): (u64, u64),
        change: &Change,
        result: Result<&Outcome, String>,
        timing: Timing,
    ) {
        match (change, result) {
            (Change::OpenHold(_), Ok(Outcome::Held(id))) => {
                self.hold = Some(OwnHold { id: *id, since_ns: asked_ns, finished: None, broken: None });
                self.failures = 0;
            }
            (Change::Release(Release { why, .. }), _) => {
                self.hold = None;
                self.preflight = None;
                self.releases += 1;
                self.pause(now_ns, why.clone(), timing, self.releases);
            }
            (Change::RestartMigration(RestartMigration { why, .. }) | Change::EndSweep(EndSweep { why, .. }), _) => {
                self.hold = None;
                self.preflight = None;
                self.select_endpoints = None;
                self.releases = 0;
                self.failures += 1;
                self.pause(now_ns, why.clone(), timing, self.failures);
            }
            (Change::MigrationProgress(_), _) => self.told_ns = now_ns,
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
                // If this one fails, too, the next one does not come at once.
                self.failures += 1;
                self.pause(now_ns, "the last run failed just now".into(), timing, self.failures);
            }
            (_, Ok(_)) => {}
            (_, Err(why)) => {
                self.select_endpoints = None;
                self.failures += 1;
                self.pause(now_ns, why, timing, self.failures);
            }
        }
    }

    fn pause(&mut self, now_ns: u64, why: String, timing: Timing, failures: u32) {
        self.not_before = Some((now_ns + backoff_ns(timing, failures), why));
    }

    /// Why the current run is lost, if it is: its node restarted, is silent, gave up, or does not know of it.
    #[must_use]
    pub fn lost(&self, seen: &JobObservation<'_>, job: Job, run: &Run) -> Option<String> {
        let node = run.node;
        let Some(member) = seen.state.members.get(&node) else {
            return Some(format!("node {node}, which did it, was removed"));
        };
        if member.leaving.is_some() {
            return Some(format!("node {node}, which did it, is being removed"));
        }
        // A start that was admitted later knows nothing of it: connections and memory went with the former one.
        if member.admitted.is_none_or(|a| a.incarnation.0 > run.began.0) {
            return Some(format!("node {node}, which did it, was restarted"));
        }
        let lease_ns = u64::try_from(seen.timing.lease_at_leader().as_nanos()).unwrap_or(u64::MAX);
        let observed = seen.nodes.get(&node);
        let heard_ns = observed.map_or(0, |n| n.heard_ns).max(self.began_ns);
        if seen.now_ns > heard_ns + lease_ns {
            return Some(format!("node {node}, which did it, is silent"));
        }
        let mover = seen.mover.filter(|m| m.run == run.run && m.node == node);
        match mover {
            Some(MoverView { work: MoverState::Failed(why), .. }) => Some(why.clone()),
            Some(_) => None,
            None => {
                let since_ns = self.run_seen.filter(|(known, _)| *known == run.run).map_or(seen.now_ns, |(_, at)| at);
                let knows = observed.is_some_and(|n| n.applied >= run.began && n.heard_ns > since_ns);
                (knows && seen.now_ns > since_ns + lease_ns)
                    .then(|| format!("node {node} does not report run {} of {job}", run.run))
            }
        }
    }

    /// The node for the next run: of those that live the one with the fewest runs; the one that failed last and the leader
    /// come after others that have as few.
    #[must_use]
    pub fn choose_node(&self, seen: &JobObservation<'_>) -> Option<NodeId> {
        let lease_ns = u64::try_from(seen.timing.lease.as_nanos()).unwrap_or(u64::MAX);
        let live = seen.state.members.values().filter(|m| m.leaving.is_none()).filter(|m| {
            let node = seen.nodes.get(&m.id).filter(|n| m.admitted.is_some_and(|a| a.incarnation == n.incarnation));
            node.is_some_and(|n| seen.now_ns <= n.heard_ns + lease_ns)
        });
        live.map(|m| m.id).min_by_key(|id| {
            (runs_of(seen.state, *id), self.failures > 0 && Some(*id) == self.last_node, *id == seen.me, *id)
        })
    }
}

/// The pause after so many failures in a row: doubled each time.
fn backoff_ns(timing: Timing, failures: u32) -> u64 {
    let first_ns = u64::try_from(timing.backoff.as_nanos()).unwrap_or(BACKOFF_MAX_NS);
    let factor = 1u64 << failures.saturating_sub(1).min(16);
    first_ns.saturating_mul(factor).min(BACKOFF_MAX_NS)
}

fn wait_until(until: Option<&(u64, String)>, now_ns: u64) -> Option<JobStep> {
    let (until_ns, why) = until.filter(|(until_ns, _)| now_ns < *until_ns)?;
    Some(JobStep::Wait { why: why.clone(), until_ns: *until_ns })
}

/// How many runs a node has.
fn runs_of(state: &ClusterState, node: NodeId) -> usize {
    let migrations = state.migrations.values().filter_map(|m| m.run.as_ref());
    let sweeps = state.products.values().flat_map(|p| p.groups.values()).filter_map(|g| g.sweep.as_ref());
    migrations.chain(sweeps.map(|s| &s.run)).filter(|run| run.node == node).count()
}
