//! Carries out what `plan::migration` and `plan::sweep` decide: one task per open migration and sweep, on the leader,
//! started again by each leader and in each term. Decides nothing, and keeps nothing beyond its term.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{endpoint_selection, preflight};
use crate::{
    clock::boottime_ns,
    control::{
        leadership::{
            context::{LeaderContext, ProposalFailure, wait_for_news},
            peers::PeerAddress,
            view::LeaderView,
        },
        servers::fence::ControlTarget,
    },
    faults::{self, Point, Rule},
    model::{
        change::{
            Change, Cleaned, EndSweep, MigrationProgress, PauseMigration, Release, RestartMigration, StartMigration,
            StartRun,
        },
        ids::{GroupId, HoldId, HostPort, NodeId, Term},
        migration::{Job, run_prefix},
        outcome::Outcome,
        promotion::ReplicationOffset,
        state::{ClusterState, Group, Product},
    },
    plan::{
        self,
        job::{JobObservation, JobStep, NodeObservation},
        job_memory::JobMemory,
        lease::Barrier,
        mover::MoverView,
    },
    wire::pb::node as pb,
};

/// How long the servers of both groups may take for an endpoint selection: a few answers each.
const SELECT_ENDPOINTS_MAX: Duration = Duration::from_secs(2);
/// How long a server may take for the fence. One that takes longer counts as down; in a hold, clients wait for it.
pub const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long the answer to Finish may take beyond the node's own deadline: the way there and back.
pub const FINISH_GRACE: Duration = Duration::from_millis(20);

/// Drives a job until it is over, or until this node no longer leads.
pub async fn run(ctx: LeaderContext, job: Job) {
    let task = JobDriver { ctx, job };
    task.run().await;
    task.ctx.leases.job_waits(job, None);
}

struct JobDriver {
    ctx: LeaderContext,
    job: Job,
}

/// When the parts of a cut-over ended, for the log: clients wait during a hold.
#[derive(Clone, Copy, Debug)]
struct CutoverTimes {
    proposed: Instant,
    held: Instant,
    barrier: Option<Instant>,
    finished: Option<Instant>,
    closed: Option<Instant>,
}

impl JobDriver {
    async fn run(&self) {
        let (mut state, mut view) = (self.ctx.consensus.state(), self.ctx.leases.view());
        let mut memory = JobMemory::new(boottime_ns());
        let mut cutover: Option<CutoverTimes> = None;
        while self.ctx.leads() {
            let (newest, seen) = (state.borrow_and_update().clone(), view.borrow_and_update().clone());
            match self.decide(&newest, &seen, &mut memory) {
                JobStep::Over => return,
                JobStep::Wait { wait, until_ns } => {
                    self.ctx.leases.job_waits(self.job, Some(wait));
                    wait_for_news(&mut state, &mut view, until_ns, memory.hold.is_some()).await;
                }
                JobStep::SelectEndpoints => {
                    let found = self.select_endpoints(&newest).await;
                    memory.endpoints_selected(boottime_ns(), found);
                }
                JobStep::Preflight => {
                    let result = self.preflight(&newest).await;
                    memory.preflighted(boottime_ns(), result);
                }
                JobStep::Close { server, group, runs } => {
                    if cutover.is_some() {
                        faults::pause_at(Point::Finished).await;
                    }
                    let result = self.close(&newest, &server, group, runs).await;
                    if let Err(why) = &result {
                        warn!(job = %self.job, runs, %server, %why, "runs could not be closed");
                    }
                    if let Some(times) = &mut cutover {
                        times.closed = Some(Instant::now());
                        faults::pause_at(Point::BeforeSwitch).await;
                    }
                    memory.closed(boottime_ns(), server, runs, result, self.ctx.leases.timing());
                }
                JobStep::Finish { hold, run, node, by_ns } => {
                    if let Some(times) = &mut cutover {
                        times.barrier = Some(Instant::now());
                    }
                    faults::pause_at(Point::BarrierPassed).await;
                    let result = self.finish(&newest, hold, run, node, by_ns).await;
                    if let Some(times) = &mut cutover {
                        times.finished = Some(Instant::now());
                    }
                    memory.finished(hold, result);
                }
                JobStep::Propose(change) => {
                    if !self.propose_step(change, &mut memory, &mut cutover).await {
                        return;
                    }
                }
            }
        }
    }

    /// Appends a change and records the result. `false`: leadership or the quorum is gone.
    async fn propose_step(&self, change: Change, memory: &mut JobMemory, cutover: &mut Option<CutoverTimes>) -> bool {
        if matches!(change, Change::OpenHold(_)) {
            faults::pause_at(Point::BeforeHold).await;
        }
        let (proposed, proposed_ns) = (Instant::now(), boottime_ns());
        let Some(result) = self.propose(change.clone()).await else { return false };
        self.log(&change, &result);
        match (&change, &result) {
            (Change::OpenHold(_), Ok(_)) => {
                let held = Instant::now();
                *cutover = Some(CutoverTimes { proposed, held, barrier: None, finished: None, closed: None });
                faults::pause_at(Point::Held).await;
            }
            (Change::Switch(_), Ok(_)) => {
                self.log_cutover(cutover.take());
                faults::pause_at(Point::Switched).await;
            }
            (Change::Release(_) | Change::RestartMigration(_), _) => *cutover = None,
            _ => {}
        }
        let times = (proposed_ns, boottime_ns());
        let timing = self.ctx.leases.timing();
        memory.proposed(times, &change, result.as_ref().map_err(Clone::clone), timing);
        true
    }

    /// The step that is to be done now, from everything that is known now.
    fn decide(&self, state: &ClusterState, view: &LeaderView, memory: &mut JobMemory) -> JobStep {
        let nodes: BTreeMap<NodeId, NodeObservation> = view
            .nodes
            .iter()
            .map(|(id, n)| {
                (*id, NodeObservation { incarnation: n.incarnation, heartbeat_ns: n.heartbeat_ns, applied: n.applied })
            })
            .collect();
        let hold = match self.job {
            Job::Migration(id) => state.migrations.get(&id).and_then(|m| m.hold()).and_then(|h| state.holds.get(&h)),
            Job::Sweep { .. } => None,
        };
        let mut barrier: Option<Barrier> = hold.map(|hold| self.ctx.leases.barrier(hold, self.term()));
        if barrier.is_some() && faults::without(Rule::Barrier) {
            barrier = Some(Barrier::Passed);
        }
        let mover: Option<&MoverView> = view.movers.get(&self.job);
        let seen = JobObservation {
            state,
            term: self.term(),
            me: self.ctx.me,
            now_ns: boottime_ns(),
            nodes: &nodes,
            mover,
            barrier: barrier.as_ref(),
            timing: self.ctx.leases.timing(),
        };
        memory.observe(&seen, self.job);
        match self.job {
            Job::Migration(id) => plan::migration::next(&seen, memory, id),
            Job::Sweep { product, group } => plan::sweep::next(&seen, memory, product, group),
        }
    }

    fn term(&self) -> Term {
        self.ctx.fence.term()
    }

    async fn select_endpoints(&self, state: &ClusterState) -> Result<plan::job::SelectedEndpoints, String> {
        let Job::Migration(id) = self.job else { return Err("a sweep needs no endpoint selection".into()) };
        endpoint_selection::select_endpoints(state, id, Instant::now() + SELECT_ENDPOINTS_MAX).await
    }

    /// Every possible server answers, and the leader's connections to both primaries are open and quick.
    async fn preflight(&self, state: &ClusterState) -> Result<(), String> {
        let Some((product, from, to)) = self.groups(state) else { return Err("its groups are gone".into()) };
        let by = Instant::now() + CLOSE_MAX;
        let max = self.ctx.leases.timing().ping_timeout;
        let answers_quickly = async |group: &Group| {
            let at = primary(group).ok_or_else(|| format!("group {} has no server", group.id))?;
            let took = self.ctx.fence.ping(&at, by).await.map_err(|error| error.to_string())?;
            // A connection that was just opened has taken longer than its later answers will: the next preflight is
            // quick.
            if took > max {
                return Err(format!("{} took {} ms to answer; a hold would be long", at.addr, took.as_millis()));
            }
            Ok(())
        };
        let silent = preflight::silent(&self.ctx.leases, &self.ctx.peers, product.isolated);
        let (silent, source, target) = tokio::join!(silent, answers_quickly(from), answers_quickly(to));
        source?;
        target?;
        match silent?.first() {
            None => Ok(()),
            Some(node) => Err(format!(
                "node {node} does not answer and may still serve; bring it back, or run `pontoon node remove {node}`"
            )),
        }
    }

    async fn close(&self, state: &ClusterState, server: &HostPort, group: GroupId, runs: u32) -> Result<(), String> {
        let credentials = self.group(state, group).and_then(|group| group.credentials.clone());
        let at = ControlTarget { addr: server.clone(), credentials };
        // Marked before connections are killed, so that no connection is authorized after they are listed.
        let Some(known) = self.ctx.authorizer.close(self.term(), self.job, runs) else {
            return Err("this node no longer leads".into());
        };
        if faults::without(Rule::Fence) {
            return Ok(());
        }
        let ids: Vec<u64> = known.iter().filter(|c| c.server == *server).map(|c| c.client_id).collect();
        let name = run_prefix(self.ctx.cluster, self.job);
        let closed = self.ctx.fence.close(&at, &name, &ids, Instant::now() + CLOSE_MAX).await;
        let closed = closed.map_err(|error| error.to_string())?;
        let ms = closed.took.as_secs_f64() * 1e3;
        info!(job = %self.job, runs, %server, killed = closed.killed, ms, "runs are closed");
        Ok(())
    }

    async fn finish(
        &self,
        state: &ClusterState,
        hold: HoldId,
        run: u32,
        node: NodeId,
        by_ns: u64,
    ) -> Result<ReplicationOffset, String> {
        let Some(member) = state.members.get(&node) else { return Err(format!("node {node} is gone")) };
        let left = Duration::from_nanos(by_ns.saturating_sub(boottime_ns()));
        let within_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let order = pb::FinishRequest { job: Some(job_to_wire(self.job)), run, hold: hold.0, within_ms };
        match self.ctx.peers.finish(&PeerAddress::of(member), order, left + FINISH_GRACE).await {
            Ok(reply) if reply.finished && reply.target_replid.is_empty() => {
                Err(format!("node {node} reported no replication id of the target"))
            }
            Ok(reply) if reply.finished => {
                Ok(ReplicationOffset { replid: reply.target_replid, offset: reply.target_offset })
            }
            Ok(reply) => Err(reply.why_not),
            Err(status) => Err(status.message().to_owned()),
        }
    }

    /// Appends a change. `None`: leadership or the quorum is gone, and it is not known whether the change was made. The
    /// next leader finds that in the log.
    async fn propose(&self, change: Change) -> Option<Result<Outcome, String>> {
        match self.ctx.propose_in_term(change).await {
            Ok((_, outcome)) => Some(Ok(outcome)),
            Err(ProposalFailure::Refused(why)) => Some(Err(why)),
            Err(ProposalFailure::Gone) => None,
        }
    }

    fn groups<'a>(&self, state: &'a ClusterState) -> Option<(&'a Product, &'a Group, &'a Group)> {
        let Job::Migration(id) = self.job else { return None };
        let open = state.migrations.get(&id)?;
        let product = state.products.get(&open.product)?;
        Some((product, product.groups.get(&open.from)?, product.groups.get(&open.to)?))
    }

    fn group<'a>(&self, state: &'a ClusterState, group: GroupId) -> Option<&'a Group> {
        let product = match self.job {
            Job::Migration(id) => state.migrations.get(&id)?.product,
            Job::Sweep { product, .. } => product,
        };
        state.products.get(&product)?.groups.get(&group)
    }

    fn log(&self, change: &Change, result: &Result<Outcome, String>) {
        let job = self.job;
        let what = match change {
            Change::StartMigration(StartMigration { node, feed, target, .. }) => {
                format!("an attempt begins: node {node}, from {feed} to {target}")
            }
            Change::MigrationProgress(MigrationProgress { phase, counters, .. }) => {
                format!("{phase:?}, {} keys", counters.keys)
            }
            Change::OpenHold(_) => "its slots are held".into(),
            Change::Release(Release { why, .. }) => format!("its slots are released: {why}"),
            Change::Switch(_) => "its slots have a new owner".into(),
            Change::RestartMigration(RestartMigration { why, .. }) => format!("the attempt ends: {why}"),
            Change::PauseMigration(PauseMigration { why, .. }) => format!("it is paused: {why}"),
            Change::StartRun(StartRun { run, node, server, .. }) => {
                format!("run {run} begins: node {node}, at {server}")
            }
            Change::Cleaned(Cleaned { deleted, .. }) => format!("its leftovers are deleted, {deleted} keys"),
            Change::EndSweep(EndSweep { why, .. }) => format!("the sweep ends: {why}"),
            _ => "a step".into(),
        };
        match result {
            Ok(_) => info!(%job, "{what}"),
            Err(why) => warn!(%job, %why, "refused: {what}"),
        }
    }

    fn log_cutover(&self, times: Option<CutoverTimes>) {
        let Some(CutoverTimes {
            proposed,
            held,
            barrier: Some(barrier),
            finished: Some(finished),
            closed: Some(closed),
        }) = times
        else {
            return;
        };
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let now = Instant::now();
        info!(
            job = %self.job,
            commit_ms = ms(proposed, held),
            barrier_ms = ms(held, barrier),
            finish_ms = ms(barrier, finished),
            fence_ms = ms(finished, closed),
            switch_ms = ms(closed, now),
            total_ms = ms(proposed, now),
            "the durations of a cut-over"
        );
    }
}

fn primary(group: &Group) -> Option<ControlTarget> {
    let server = group.servers.first()?;
    Some(ControlTarget { addr: server.addr.clone(), credentials: group.credentials.clone() })
}

/// A job as messages between nodes name it.
#[must_use]
pub fn job_to_wire(job: Job) -> pb::Job {
    match job {
        Job::Migration(id) => pb::Job { migration: id.0, product: 0, group: 0 },
        Job::Sweep { product, group } => pb::Job { migration: 0, product: product.0, group: group.0 },
    }
}
