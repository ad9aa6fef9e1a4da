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
    job_memory::{ENDPOINTS_FRESH_NS, JobMemory, PREFLIGHT_PAUSE_NS, no_node},
    lease::{Barrier, barrier_wait},
    mover::{MoverState, MoverView},
    timing::as_ns,
    waiting::{Wait, left, seconds},
};
use crate::model::{
    change::{
        Change, Cleaned, MigrationProgress, OpenHold, PauseMigration, Release, RestartMigration, StartMigration,
        StartRun, Switch,
    },
    ids::{Epoch, GroupId, HoldId, MigrationId, NodeId},
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

    fn wait(&self, wait: Wait) -> JobStep {
        JobStep::Wait { wait, until_ns: self.seen.now_ns + POLL_NS }
    }

    /// Waits for something that the model makes impossible.
    fn wait_for_state(&self, what: &str) -> JobStep {
        self.wait(Wait::new(what, "the log says otherwise, which is read several times a second"))
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
        let Some(primary) = group.servers.first() else { return Some(self.wait_for_state("the group has no server")) };
        self.memory.fence(self.seen.now_ns, &primary.addr, group.id, self.migration.runs)
    }

    /// Waits while one of the groups gets another primary: neither an attempt nor a hold begins then.
    fn open_promotion(&self) -> Option<JobStep> {
        let of = |group: &Group| self.seen.state.promotion_of(self.migration.product, group.id);
        let open = of(self.from).or_else(|| of(self.to))?;
        let (to, group) = (&open.to, open.group);
        Some(self.wait(Wait::new(
            format!("the promotion of {to} in group {group} comes first"),
            format!("that has ended (pontoon group show {group})"),
        )))
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
            return self.wait(Wait::new(
                format!("migration {} is copying from group {}, and comes first", other.id, m.from),
                format!("that one is done, paused or cancelled (pontoon migrate show {})", other.id),
            ));
        }
        if attempts().filter(|o| o.to == m.to).count() >= ATTEMPTS_PER_TARGET_MAX {
            return self.wait(Wait::new(
                format!("{ATTEMPTS_PER_TARGET_MAX} migrations are copying to group {}, and come first", m.to),
                "one of them is done, paused or cancelled (pontoon migrate ls)",
            ));
        }
        if self.to.sweep.is_some() {
            return self.wait(Wait::new(
                format!("the sweep of group {} is being ended", m.to),
                "its connections are closed, within seconds if the server answers",
            ));
        }
        if let Some(step) = self.open_promotion() {
            return step;
        }
        if let Some(fence) = self.fence(self.to) {
            return fence;
        }
        let SelectedEndpoints { feed, target, group_epochs } = match self.memory.endpoints(self.seen.now_ns) {
            None => return JobStep::SelectEndpoints,
            Some(Err(why)) => {
                let groups = format!("pontoon group show {}, pontoon group show {}", m.from, m.to);
                let wait = Wait::new(
                    "the servers of its groups cannot be used for a copy",
                    format!("they can ({groups}); they are asked again every {} s", seconds(ENDPOINTS_FRESH_NS)),
                );
                return self.wait(wait.with_detail(format!(": {why}")));
            }
            Some(Ok(found)) if found.group_epochs != self.group_epochs() => return JobStep::SelectEndpoints,
            Some(Ok(found)) => found.clone(),
        };
        let Some(node) = self.memory.choose_node(self.seen) else { return self.wait(no_node()) };
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
        let Some(run) = &m.run else { return self.wait_for_state("its run is not known") };
        if let Some(end) = self.failed_attempt(run) {
            return end;
        }
        let Some(mover) = self.mover(run) else {
            let what = format!("node {} is to begin attempt {}", run.node, m.attempt);
            return self.wait(Wait::new(what, self.node_reports(run.node)));
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
            | MoverState::Failed(_)) => self.wait(self.mover_waits(work, mover)),
        }
    }

    fn node_reports(&self, node: NodeId) -> String {
        let lease = seconds(as_ns(self.seen.timing.lease_at_leader()));
        format!("node {node} reports it, or has not for {lease} s: then another attempt begins")
    }

    /// What a mover does, and what ends that.
    fn mover_waits(&self, work: &MoverState, mover: &MoverView) -> Wait {
        let (id, node) = (self.migration.id, mover.node);
        let ends_when = match work {
            MoverState::Opening => format!("node {node} has opened its connections, or another attempt begins"),
            MoverState::CleaningTarget => "no old copy of its keys is left at the target; then it copies".to_owned(),
            MoverState::Copying => {
                let keys_left = mover.keys_total.saturating_sub(mover.counters.keys);
                let eta = match keys_left.saturating_mul(1_000_000_000).checked_div(mover.keys_per_second) {
                    Some(ns) if keys_left > 0 => format!(", in about {}", left(ns)),
                    Some(_) | None => String::new(),
                };
                format!("the target lacks only the keys that change now{eta} (limits: pontoon migrate set {id} ..)")
            }
            MoverState::Verifying => "all of the keys that are to be compared are compared".to_owned(),
            MoverState::CaughtUp
            | MoverState::Finishing(_)
            | MoverState::Finished(_)
            | MoverState::Cleaning
            | MoverState::Cleaned
            | MoverState::Failed(_) => self.node_reports(node),
        };
        Wait::new(work.name(), ends_when).with_detail(mover_detail(mover))
    }

    fn progress_is_due(&self) -> bool {
        self.seen.now_ns > self.memory.progress_logged_ns + PROGRESS_LOGGED_EVERY_NS
    }

    fn caught_up(&self) -> JobStep {
        let m = self.migration;
        let now_ns = self.seen.now_ns;
        let Some(run) = &m.run else { return self.wait_for_state("its run is not known") };
        if let Some(end) = self.failed_attempt(run) {
            return end;
        }
        if let Some(different) = m.verified.map(|v| v.different).filter(|n| *n > 0) {
            let why = format!("{different} keys differ between source and target");
            return JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        }
        if m.releases >= RELEASES_MAX {
            let why = format!("{RELEASES_MAX} holds in a row ended without a switch; the last: {}", m.why);
            return JobStep::Propose(Change::PauseMigration(PauseMigration { migration: m.id, why }));
        }
        // A run whose connections this leader has begun to close cannot continue, whether its node reports that or not.
        if self.memory.is_closed(&run.server, m.runs) {
            let why = "its connections were closed during a hold that ended without a switch".to_owned();
            return JobStep::Propose(Change::RestartMigration(RestartMigration { migration: m.id, why }));
        }
        if let Some(step) = self.memory.pending_pause(now_ns).or_else(|| self.open_promotion()) {
            return step;
        }
        let Some(mover) = self.mover(run) else {
            let what = format!("node {} has not reported to this leader yet", run.node);
            return self.wait(Wait::new(what, self.node_reports(run.node)));
        };
        if mover.work != MoverState::CaughtUp {
            return self.wait(self.mover_waits(&mover.work, mover));
        }
        if let Some(step) = self.short_queue(mover) {
            return step;
        }
        match self.memory.preflight(now_ns) {
            None => JobStep::Preflight,
            Some(Err(why)) => {
                let pause = seconds(PREFLIGHT_PAUSE_NS);
                let ends = format!("all nodes and both primaries answer quickly; they are asked again every {pause} s");
                self.wait(Wait::new("a hold would be long", ends).with_detail(format!(": {why}")))
            }
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
            let detail = format!(": they take {} ms, and a hold begins at {queue_max} ms or less", mover.queue_ms);
            let (half, after) = (budget_ms / 2, seconds(SHORT_QUEUE_AWAITED_NS));
            let ends = format!(
                "clients change fewer keys; after {after} s the limit is {half} ms, half of hold-max (pontoon migrate set {} \
                 hold-max=..)",
                self.migration.id
            );
            return Some(
                self.wait(Wait::new("the dirty keys take too long to copy for a hold", ends).with_detail(detail)),
            );
        }
        if mover.lag_bytes > LAG_MAX {
            let detail = format!(" by {} bytes", mover.lag_bytes);
            let ends = format!("node {} has read it up to {LAG_MAX} bytes, or clients write less", mover.node);
            return Some(self.wait(Wait::new("the feed is behind", ends).with_detail(detail)));
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
            return release("a new leader starts over".into());
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
                        JobStep::Wait { wait: barrier_wait(id, nodes, budget_ns), until_ns: by_ns }
                    }
                    None => JobStep::Wait { wait: barrier_wait(id, &[], budget_ns), until_ns: by_ns },
                }
            }
        }
    }

    /// Runs that delete the keys that are left at the primary of `group`, until one of them finds none.
    fn leftovers(&self, kind: RunKind, group: &Group) -> JobStep {
        let m = self.migration;
        let Some(primary) = group.servers.first() else { return self.wait_for_state("the group has no server") };
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
                let detail = self.mover(run).map_or_else(
                    || ": it begins".to_owned(),
                    |mover| format!(": {}{}", mover.work.name(), mover_detail(mover)),
                );
                let wait = Wait::new(
                    format!("node {} deletes the keys that are left at {}", run.node, run.server),
                    "none is left, or the node cannot go on: then another run begins",
                );
                return self.wait(wait.with_detail(detail));
            }
        }
        if let Some(pause) = self.memory.pending_pause(self.seen.now_ns) {
            return pause;
        }
        if let Some(fence) = self.fence(group) {
            return fence;
        }
        let Some(node) = self.memory.choose_node(self.seen) else { return self.wait(no_node()) };
        let (job, run, server) = (self.job(), m.runs.saturating_add(1), primary.addr.clone());
        JobStep::Propose(Change::StartRun(StartRun { job, run, node, server, term: self.seen.term }))
    }

    /// Nothing begins, and earlier runs can no longer change the target.
    fn paused(&self) -> JobStep {
        let (id, why) = (self.migration.id, &self.migration.why);
        let ends = format!("you let it go on or end it: pontoon migrate resume {id}, pontoon migrate cancel {id}");
        let wait = || self.wait(Wait::new("it is paused", ends).with_detail(format!(": {why}")));
        self.fence(self.to).unwrap_or_else(wait)
    }
}

/// How far a mover is, and what limits its speed.
fn mover_detail(mover: &MoverView) -> String {
    let on = if mover.waiting_on.is_empty() { String::new() } else { format!(": {}", mover.waiting_on) };
    format!(", {} keys, {} dirty{on}", mover.counters.keys, mover.counters.dirty)
}
