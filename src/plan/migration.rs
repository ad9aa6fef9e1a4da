//! The next step of a migration (docs/design/migration.md), from the state, from what the leader observes and from what
//! it has done in this term. Knows nothing of how a step is carried out, nor of how long that takes.
//!
//! ```text
//! Planned: SelectEndpoints, Close, Start -> reports: Progress -> caught up: Preflight, Hold -> barrier -> Finish, Close
//!    ^  Restart (run failed, primary changed)                      ^  Release (budget)        -> Switch
//!                                                                                        -> StartRun, Close, Cleaned
//! ```

use std::collections::BTreeMap;

use super::{
    job::{JobObservation, JobStep, SelectedEndpoints},
    job_memory::JobMemory,
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

/// Released holds in a row after which the migration is paused for an operator (docs/design/migration.md).
pub const RELEASES_MAX: u32 = 5;
/// Attempts in a row that did not catch up after which the migration is paused for an operator; with the pauses between
/// them about two minutes.
pub const FAILURES_MAX: u32 = 10;
/// How long the dirty keys may take to copy when a hold begins, milliseconds, or the hold would be long: a fifth of
/// what a switch may take at worst.
const QUEUE_MS_MAX: u64 = 10;
/// How many bytes of the feed may be unread when a hold begins. They are read within a few milliseconds; with more the
/// hold would be long.
const LAG_MAX: u64 = 1 << 20;
/// How long a migration waits for a short queue, nanoseconds. If clients write too fast for it, the hold may be longer
/// after this, within its budget.
const SHORT_QUEUE_AWAITED_NS: u64 = 20_000_000_000;
/// The part of a hold's budget that is kept for the fence and the switch, as a divisor.
const BUDGET_KEPT: u64 = 5;
/// How often counters are written to the log, nanoseconds: often enough for a new leader's display, and few entries.
const PROGRESS_LOGGED_EVERY_NS: u64 = 10_000_000_000;
/// How often the leader decides again without news, nanoseconds: that a node is silent causes no event.
const POLL_NS: u64 = 200_000_000;

/// The next step of migration `id`. Call [`JobMemory::observe`] with `seen` before.
#[must_use]
pub fn next(seen: &JobObservation<'_>, memory: &JobMemory, id: MigrationId) -> JobStep {
    let Some(migration) = seen.state.migrations.get(&id) else { return JobStep::Over };
    let view = || {
        let product = seen.state.products.get(&migration.product)?;
        let (from, to) = (product.groups.get(&migration.from)?, product.groups.get(&migration.to)?);
        Some(MigrationView { seen, memory, migration, from, to })
    };
    // The model keeps the product and the groups of an open migration.
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

    /// The report about the current run.
    fn mover(&self, run: &Run) -> Option<&MoverView> {
        self.seen.mover.filter(|m| m.run == run.run && m.node == run.node)
    }

    /// The fence at the primary of `group` as a step; `None`: it has been done.
    fn fence(&self, group: &Group) -> Option<JobStep> {
        let Some(primary) = group.servers.first() else { return Some(self.wait("the group has no server")) };
        self.memory.fence(self.seen.now_ns, &primary.addr, group.id, self.migration.runs)
    }

    /// Waits while one of the groups gets another primary: neither an attempt nor a hold begins then.
    fn open_promotion(&self) -> Option<JobStep> {
        let of = |group: &Group| self.seen.state.promotion_of(self.migration.product, group.id);
        let open = of(self.from).or_else(|| of(self.to))?;
        Some(self.wait(format!("the promotion of {} in group {} comes first", open.to, open.group)))
    }

    fn planned(&self) -> JobStep {
        let m = self.migration;
        if self.memory.failures >= FAILURES_MAX {
            let why = format!("{FAILURES_MAX} attempts in a row failed; the last: {}", m.why);
            return JobStep::Propose(Change::PauseMigration(PauseMigration { migration: m.id, why }));
        }
        if let Some(pause) = self.memory.pending_pause(self.seen.now_ns) {
            return pause;
        }
        let attempts = || {
            let same = self.seen.state.migrations.values().filter(|o| o.product == m.product);
            same.filter(|o| o.phase.attempting())
        };
        if let Some(other) = attempts().find(|o| o.from == m.from) {
            return self.wait(format!("migration {} is copying from group {}, and comes first", other.id, m.from));
        }
        if attempts().filter(|o| o.to == m.to).count() >= ATTEMPTS_PER_TARGET_MAX {
            return self
                .wait(format!("{ATTEMPTS_PER_TARGET_MAX} migrations are copying to group {}, and come first", m.to));
        }
        if self.to.sweep.is_some() {
            return self.wait(format!("the sweep of group {} is being ended", m.to));
        }
        if let Some(step) = self.open_promotion() {
            return step;
        }
        if let Some(fence) = self.fence(self.to) {
            return fence;
        }
        let SelectedEndpoints { feed, target, group_epochs } = match self.memory.endpoints(self.seen.now_ns) {
            None => return JobStep::SelectEndpoints,
            Some(Err(why)) => return self.wait(why.clone()),
            Some(Ok(found)) if found.group_epochs != self.group_epochs() => return JobStep::SelectEndpoints,
            Some(Ok(found)) => found.clone(),
        };
        let Some(node) = self.memory.choose_node(self.seen) else {
            return self.wait("no node is alive that could work on it");
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

    /// The end of an attempt whose run failed, or during which a primary has changed.
    fn failed_attempt(&self, run: &Run) -> Option<JobStep> {
        let failure = self.memory.run_failure(self.seen, self.job(), run);
        let changed = || (run.group_epochs != self.group_epochs()).then(|| "a primary has changed".to_owned());
        let why = failure.or_else(changed)?;
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
        if let Some(end) = self.failed_attempt(run) {
            return end;
        }
        let Some(mover) = self.mover(run) else {
            return self.wait(format!("node {} is to begin attempt {}", run.node, m.attempt));
        };
        match &mover.work {
            MoverState::CaughtUp => self.progress(ProgressPhase::CaughtUp, mover),
            MoverState::Copying | MoverState::Verifying if m.phase == MigrationPhase::CleaningTarget => {
                self.progress(ProgressPhase::Copying, mover)
            }
            MoverState::Copying | MoverState::Verifying if self.progress_is_due() => {
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
            | MoverState::Failed(_)) => self.wait(mover_text(work, mover)),
        }
    }

    fn progress_is_due(&self) -> bool {
        self.seen.now_ns > self.memory.progress_logged_ns + PROGRESS_LOGGED_EVERY_NS
    }

    fn caught_up(&self) -> JobStep {
        let m = self.migration;
        let now_ns = self.seen.now_ns;
        let Some(run) = &m.run else { return self.wait("its run is not known") };
        if let Some(end) = self.failed_attempt(run) {
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
        // A run whose connections this leader has begun to close cannot continue, whether its node reports that or not.
        if self.memory.is_closed(&run.server, m.runs) {
            let why = "its connections were closed during a hold that did not get through".to_owned();
            return JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        }
        if let Some(step) = self.memory.pending_pause(now_ns).or_else(|| self.open_promotion()) {
            return step;
        }
        let Some(mover) = self.mover(run) else {
            return self.wait(format!("node {} has not reported to this leader yet", run.node));
        };
        if mover.work != MoverState::CaughtUp {
            return self.wait(mover_text(&mover.work, mover));
        }
        if let Some(step) = self.short_queue(mover) {
            return step;
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

    /// Waits while so much is left to copy that a hold would be long.
    fn short_queue(&self, mover: &MoverView) -> Option<JobStep> {
        let now_ns = self.seen.now_ns;
        let waited_ns = self.memory.caught_up_ns.map_or(0, |since| now_ns.saturating_sub(since));
        let budget_ms = self.budget_ns() / 1_000_000;
        let queue_max = if waited_ns > SHORT_QUEUE_AWAITED_NS { budget_ms / 2 } else { QUEUE_MS_MAX };
        if mover.queue_ms > queue_max {
            let ms = mover.queue_ms;
            let why = format!("the dirty keys take {ms} ms to copy, and a hold begins at {queue_max} ms or less");
            return Some(self.wait(why));
        }
        if mover.lag_bytes > LAG_MAX {
            let lag = mover.lag_bytes;
            let why = format!("the feed is {lag} bytes behind, and a hold begins at {LAG_MAX} bytes or less");
            return Some(self.wait(why));
        }
        None
    }

    /// The budget of a hold, nanoseconds.
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
        if let Some(end) = self.failed_attempt(run) {
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
                        let waiting = match self.seen.barrier {
                            Some(Barrier::Waiting(nodes)) => nodes.join("; "),
                            Some(Barrier::Passed) | None => "the mover was not asked to finish in time".into(),
                        };
                        release(format!("not all nodes held in time (hold-max {ms} ms): {waiting}"))
                    }
                    Some(Barrier::Passed) => JobStep::Finish { hold: id, run: run.run, node: run.node, by_ns },
                    Some(Barrier::Waiting(nodes)) => {
                        let why = format!("hold {id}: {}", nodes.join("; "));
                        JobStep::Wait { why, until_ns: by_ns }
                    }
                    None => JobStep::Wait { why: format!("hold {id}"), until_ns: by_ns },
                }
            }
        }
    }

    /// Runs that delete the keys that are left at the primary of `group`, until one of them finds none.
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
            if self.memory.run_failure(self.seen, self.job(), run).is_none() {
                let what = self.mover(run).map_or_else(|| "begins".to_owned(), |mover| mover_text(&mover.work, mover));
                return self
                    .wait(format!("node {} deletes the keys that are left at {}: {what}", run.node, run.server));
            }
        }
        if let Some(pause) = self.memory.pending_pause(self.seen.now_ns) {
            return pause;
        }
        if let Some(fence) = self.fence(group) {
            return fence;
        }
        let Some(node) = self.memory.choose_node(self.seen) else {
            return self.wait("no node is alive that could work on it");
        };
        let (job, run, server) = (self.job(), m.runs.saturating_add(1), primary.addr.clone());
        JobStep::Propose(Change::StartRun(StartRun { job, run, node, server, term: self.seen.term }))
    }

    /// Nothing begins, and earlier runs cannot change the target any more.
    fn paused(&self) -> JobStep {
        self.fence(self.to).unwrap_or_else(|| self.wait(format!("it is paused: {}", self.migration.why)))
    }
}

/// What a mover does, for people.
fn mover_text(work: &MoverState, mover: &MoverView) -> String {
    let on = if mover.waiting_on.is_empty() { String::new() } else { format!(": {}", mover.waiting_on) };
    format!("{}, {} keys, {} dirty{on}", work.name(), mover.counters.keys, mover.counters.dirty)
}
