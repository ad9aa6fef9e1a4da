//! The next step of a migration: what migration.md's states ask for, from the state, what the leader sees and what it
//! has done in this term. Knows nothing of who carries the step out, nor of how long that takes.
//!
//! ```text
//! Planned: select endpoints, fence, Start -> node's reports: Progress -> caught up: preflight, Hold -> barrier -> Finish -> fence -> Switch
//!    ^  Restart (node lost, server changed)                        | Release (budget)        -> StartRun, fence, Cleaned
//! ```

use std::collections::BTreeMap;

use super::{
    job::{JobMemory, JobObservation, JobStep, SelectedEndpoints},
    lease::Barrier,
    mover::{MoverState, MoverView},
};
use crate::model::{
    change::{
        Change, Cleaned, MigrationProgress, OpenHold, PauseMigration, Release, RestartMigration, StartMigration,
        StartRun, Switch,
    },
    ids::{Epoch, GroupId, HoldId, MigrationId},
    limits::ATTEMPTS_PER_TARGET_MAX,
    migration::{Job, Migration, MigrationPhase, ProgressPhase, Run, RunKind},
    route::HoldKind,
    state::{Cause, Group},
};

/// Released holds in a row after which somebody has to probe (serving.md, "Hold").
pub const RELEASES_MAX: u32 = 5;
/// Attempts in a row that did not catch up after which somebody has to probe; with the pauses between them about two minutes.
pub const FAILURES_MAX: u32 = 10;
/// What is dirty must be copied in this time, or the hold would be long: a fifth of what a switch may take at worst.
const QUEUE_MS_MAX: u64 = 10;
/// So much of the feed is read within a few milliseconds; a replica that lags more would make the hold long.
const LAG_MAX: u64 = 1 << 20;
/// Writers that never let the queue get that short get a longer hold after this, within its budget.
const SHORT_QUEUE_AWAITED_NS: u64 = 20_000_000_000;
/// Of a hold's budget so much is left for the fence and the switch, as a divisor.
const BUDGET_KEPT: u64 = 5;
/// Counters come into the log so often: enough for a new leader's display, and few entries.
const TOLD_EVERY_NS: u64 = 10_000_000_000;
/// Without news it is probed at again so often: silence of a node is no event.
const POLL_NS: u64 = 200_000_000;

/// The next step of migration `id`. `memory` has observed `seen`.
#[must_use]
pub fn next(seen: &JobObservation<'_>, memory: &JobMemory, id: MigrationId) -> JobStep {
    let Some(migration) = seen.state.migrations.get(&id) else { return JobStep::Over };
    let view = || {
        let product = seen.state.products.get(&migration.product)?;
        let (from, to) = (product.groups.get(&migration.from)?, product.groups.get(&migration.to)?);
        Some(MigrationView { seen, memory, migration, from, to })
    };
    // The model keeps product and groups of an open migration.
    let Some(view) = view() else { return JobStep::Over };
    match migration.phase {
        MigrationPhase::Planned => view.planned(),
        MigrationPhase::CleaningTarget | MigrationPhase::Copying => view.copying(),
        MigrationPhase::CaughtUp => view.caught_up(),
        MigrationPhase::Held(hold) => view.held(hold),
        MigrationPhase::Switched => view.leftovers(RunKind::CleanSource, view.from),
        MigrationPhase::Cancelling => view.leftovers(RunKind::WipeTarget, view.to),
        MigrationPhase::Paused => view.paused(),
    }
}

struct MigrationView<'a> {
    seen: &'a JobObservation<'a>,
    memory: &'a JobMemory,
    migration: &'a Migration,
    from: &'a Group,
    to: &'a Group,
}

impl MigrationView<'_> {
    fn job(&self) -> Job {
        Job::Migration(self.migration.id)
    }

    fn wait(&self, why: impl Into<String>) -> JobStep {
        JobStep::Wait { why: why.into(), until_ns: self.seen.now_ns + POLL_NS }
    }

    fn group_epochs(&self) -> BTreeMap<GroupId, Epoch> {
        [(self.from.id, self.from.epoch), (self.to.id, self.to.epoch)].into()
    }

    /// What is reported of the current run.
    fn mover(&self, run: &Run) -> Option<&MoverView> {
        self.seen.mover.filter(|m| m.run == run.run && m.node == run.node)
    }

    /// The fence at the primary of `group`, if it is not there yet.
    fn fence(&self, group: &Group) -> Option<JobStep> {
        let Some(primary) = group.servers.first() else { return Some(self.wait("the group has no server")) };
        self.memory.fence(self.seen.now_ns, &primary.addr, group.id, self.migration.runs)
    }

    /// Neither attempt nor hold begins while one of the groups gets another primary.
    fn promoted(&self) -> Option<JobStep> {
        let of = |group: &Group| self.seen.state.promotion_of(self.migration.product, group.id);
        let open = of(self.from).or_else(|| of(self.to))?;
        Some(self.wait(format!("group {} gets {} as its primary first", open.group, open.to)))
    }

    fn planned(&self) -> JobStep {
        let m = self.migration;
        if self.memory.failures >= FAILURES_MAX {
            let why = format!("{FAILURES_MAX} attempts in a row failed; the last: {}", m.why);
            return JobStep::Propose(Change::PauseMigration(PauseMigration { migration: m.id, why }));
        }
        if let Some(pausing) = self.memory.pausing(self.seen.now_ns) {
            return pausing;
        }
        let attempts = || {
            let same = self.seen.state.migrations.values().filter(|o| o.product == m.product);
            same.filter(|o| o.phase.attempting())
        };
        if let Some(other) = attempts().find(|o| o.from == m.from) {
            return self.wait(format!("migration {} is copied from group {} first", other.id, m.from));
        }
        if attempts().filter(|o| o.to == m.to).count() >= ATTEMPTS_PER_TARGET_MAX {
            return self.wait(format!("{ATTEMPTS_PER_TARGET_MAX} migrations are copied to group {} first", m.to));
        }
        if self.to.sweep.is_some() {
            return self.wait(format!("the sweep of group {} is being ended", m.to));
        }
        if let Some(promoted) = self.promoted() {
            return promoted;
        }
        if let Some(fence) = self.fence(self.to) {
            return fence;
        }
        let SelectedEndpoints { feed, target, group_epochs } = match self.memory.select_endpoints(self.seen.now_ns) {
            None => return JobStep::SelectEndpoints,
            Some(Err(why)) => return self.wait(why.clone()),
            Some(Ok(found)) if found.group_epochs != self.group_epochs() => return JobStep::SelectEndpoints,
            Some(Ok(found)) => found.clone(),
        };
        let Some(node) = self.memory.choose_node(self.seen) else {
            return self.wait("no node is alive that could do it");
        };
        let (migration, attempt, term) = (m.id, m.attempt.saturating_add(1), self.seen.term);
        JobStep::Propose(Change::StartMigration(StartMigration {
            migration,
            attempt,
            node,
            feed,
            target,
            group_epochs,
            term,
        }))
    }

    /// What ends an attempt: its node is lost, or a primary is not what it was.
    fn ends(&self, run: &Run) -> Option<JobStep> {
        let lost = self.memory.lost(self.seen, self.job(), run);
        let changed = || (run.group_epochs != self.group_epochs()).then(|| "a primary has changed".to_owned());
        let why = lost.or_else(changed)?;
        Some(JobStep::Propose(Change::RestartMigration(RestartMigration { migration: self.migration.id, why })))
    }

    fn progress(&self, phase: ProgressPhase, mover: &MoverView) -> JobStep {
        JobStep::Propose(Change::MigrationProgress(MigrationProgress {
            migration: self.migration.id,
            attempt: self.migration.attempt,
            phase,
            counters: mover.counters,
            verified: mover.verified,
        }))
    }

    fn copying(&self) -> JobStep {
        let m = self.migration;
        let Some(run) = &m.run else { return self.wait("its run is not known") };
        if let Some(end) = self.ends(run) {
            return end;
        }
        let Some(mover) = self.mover(run) else {
            return self.wait(format!("node {} begins attempt {}", run.node, m.attempt));
        };
        match &mover.work {
            MoverState::CaughtUp => self.progress(ProgressPhase::CaughtUp, mover),
            MoverState::Copying | MoverState::Verifying if m.phase == MigrationPhase::CleaningTarget => {
                self.progress(ProgressPhase::Copying, mover)
            }
            MoverState::Copying | MoverState::Verifying if self.seen.now_ns > self.memory.told_ns + TOLD_EVERY_NS => {
                self.progress(ProgressPhase::Copying, mover)
            }
            work @ (MoverState::Copying
            | MoverState::Verifying
            | MoverState::Opening
            | MoverState::CleaningTarget
            | MoverState::Finishing(_)
            | MoverState::Finished(_)
            | MoverState::Cleaning
            | MoverState::Cleaned
            | MoverState::Failed(_)) => self.wait(told(work, mover)),
        }
    }

    fn caught_up(&self) -> JobStep {
        let m = self.migration;
        let now_ns = self.seen.now_ns;
        let Some(run) = &m.run else { return self.wait("its run is not known") };
        if let Some(end) = self.ends(run) {
            return end;
        }
        if let Some(different) = m.verified.map(|v| v.different).filter(|n| *n > 0) {
            let why = format!("{different} keys differ between source and target");
            return JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        }
        if m.releases >= RELEASES_MAX {
            let why = format!("{RELEASES_MAX} holds in a row did not get through; the last: {}", m.why);
            return JobStep::Propose(Change::PauseMigration(PauseMigration { migration: m.id, why }));
        }
        // A run whose connections this leader has begun to close cannot go on: the node will say so, or not.
        if self.memory.is_closed(&run.server, m.runs) {
            let why = "its connections were closed behind a hold that did not get through".to_owned();
            return JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        }
        if let Some(pausing) = self.memory.pausing(now_ns).or_else(|| self.promoted()) {
            return pausing;
        }
        let Some(mover) = self.mover(run) else {
            return self.wait(format!("node {} has not reported to this leader yet", run.node));
        };
        if mover.work != MoverState::CaughtUp {
            return self.wait(told(&mover.work, mover));
        }
        let waited_ns = self.memory.caught_up_ns.map_or(0, |since| now_ns.saturating_sub(since));
        let budget_ms = self.budget_ns() / 1_000_000;
        let queue_max = if waited_ns > SHORT_QUEUE_AWAITED_NS { budget_ms / 2 } else { QUEUE_MS_MAX };
        if mover.queue_ms > queue_max {
            let ms = mover.queue_ms;
            return self
                .wait(format!("what is dirty takes {ms} ms to copy, more than the {queue_max} ms before a hold"));
        }
        if mover.lag_bytes > LAG_MAX {
            let lag = mover.lag_bytes;
            return self.wait(format!("the feed is {lag} bytes behind, more than the {LAG_MAX} before a hold"));
        }
        match self.memory.preflight(now_ns) {
            None => JobStep::Preflight,
            Some(Err(why)) => self.wait(why.clone()),
            Some(Ok(())) => JobStep::Propose(Change::OpenHold(OpenHold {
                cause: Cause::Migration(m.id),
                attempt: m.attempt,
                kind: HoldKind::Wait,
                reason: format!("{} slot(s) move to group {}", m.slots.len(), m.to),
            })),
        }
    }

    /// Budget of a hold.
    fn budget_ns(&self) -> u64 {
        let own = self.migration.options.limits.hold_ms_max;
        let ms = if own == 0 { self.seen.state.settings.hold_ms_max } else { own };
        u64::from(ms) * 1_000_000
    }

    fn held(&self, id: HoldId) -> JobStep {
        let m = self.migration;
        let release = |why: String| JobStep::Propose(Change::Release(Release { hold: id, why }));
        let restart =
            |why: String| JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        let Some(run) = &m.run else { return restart("its run is not known".into()) };
        let Some(own) = self.memory.hold.as_ref().filter(|own| own.id == id) else {
            return release("a new leader begins anew".into());
        };
        if let Some(why) = &own.broken {
            return restart(why.clone());
        }
        if let Some(Ok(target_offset)) = &own.finished
            && self.memory.is_closed(&run.server, m.runs)
        {
            let (migration, attempt, term) = (m.id, m.attempt, self.seen.term);
            let (group_epochs, target_offset) = (self.group_epochs(), target_offset.clone());
            return JobStep::Propose(Change::Switch(Switch {
                migration,
                attempt,
                hold: id,
                term,
                group_epochs,
                target_offset,
            }));
        }
        if let Some(end) = self.ends(run) {
            return end;
        }
        let budget_ns = self.budget_ns();
        match &own.finished {
            Some(Ok(_)) => JobStep::Close { server: run.server.clone(), group: m.to, runs: m.runs },
            Some(Err(why)) => release(format!("node {} could not finish: {why}", run.node)),
            None => {
                let by_ns = own.since_ns + budget_ns - budget_ns / BUDGET_KEPT;
                let ms = budget_ns / 1_000_000;
                match self.seen.barrier {
                    _ if self.seen.now_ns >= by_ns => {
                        let whom = match self.seen.barrier {
                            Some(Barrier::Waiting(whom)) => whom.join("; "),
                            Some(Barrier::Passed) | None => "the node was not asked in time".into(),
                        };
                        release(format!("not all nodes held in time (hold-max {ms} ms): {whom}"))
                    }
                    Some(Barrier::Passed) => JobStep::Finish { hold: id, run: run.run, node: run.node, by_ns },
                    Some(Barrier::Waiting(whom)) => {
                        let why = format!("hold {id}: {}", whom.join("; "));
                        JobStep::Wait { why, until_ns: by_ns }
                    }
                    None => JobStep::Wait { why: format!("hold {id}"), until_ns: by_ns },
                }
            }
        }
    }

    /// Runs that delete what is left at the primary of `group`, until one has found nothing any more.
    fn leftovers(&self, kind: RunKind, group: &Group) -> JobStep {
        let m = self.migration;
        let Some(primary) = group.servers.first() else { return self.wait("the group has no server") };
        let current = m.run.as_ref().filter(|run| run.kind == kind && run.server == primary.addr);
        if let Some(run) = current {
            if let Some((_, deleted)) = self.memory.cleaned.filter(|(cleaned, _)| *cleaned == run.run) {
                let (job, run, term) = (self.job(), run.run, self.seen.term);
                return self.fence(group).unwrap_or(JobStep::Propose(Change::Cleaned(Cleaned {
                    job,
                    run,
                    term,
                    deleted,
                })));
            }
            if self.memory.lost(self.seen, self.job(), run).is_none() {
                let what = self.mover(run).map_or_else(|| "begins".to_owned(), |mover| told(&mover.work, mover));
                return self.wait(format!("node {} deletes what is left at {}: {what}", run.node, run.server));
            }
        }
        if let Some(pausing) = self.memory.pausing(self.seen.now_ns) {
            return pausing;
        }
        if let Some(fence) = self.fence(group) {
            return fence;
        }
        let Some(node) = self.memory.choose_node(self.seen) else {
            return self.wait("no node is alive that could do it");
        };
        let (job, run, server) = (self.job(), m.runs.saturating_add(1), primary.addr.clone());
        JobStep::Propose(Change::StartRun(StartRun { job, run, node, server, term: self.seen.term }))
    }

    /// Nothing is begun, and what ran does nothing any more.
    fn paused(&self) -> JobStep {
        self.fence(self.to).unwrap_or_else(|| self.wait(format!("it is paused: {}", self.migration.why)))
    }
}

/// What a mover does, for people.
fn told(work: &MoverState, mover: &MoverView) -> String {
    let on = if mover.waiting_on.is_empty() { String::new() } else { format!(": {}", mover.waiting_on) };
    format!("{}, {} keys, {} dirty{on}", work.name(), mover.counters.keys, mover.counters.dirty)
}
