//! Runs that delete leftovers: at the source after a switch, at the target after a cancel, in a group by a sweep.
//! Knows nothing of connections: every change here is proposed behind the fence of the job's last run.

use std::collections::BTreeMap;

use super::{
    Apply,
    common::{group, product, product_mut},
    events::{self, When},
    guard::{is_primary, node_can_run, same_term},
    migration,
};
use crate::model::{
    change::{Cleaned, EndSweep, StartRun},
    event::EventKind,
    ids::{GroupId, MigrationId, ProductId, Term},
    migration::{EndPhase, Job, MigrationPhase, Run, RunKind, Sweep},
    outcome::Outcome,
    reject::{MigrationReject, Reject},
    slot::brief,
    state::{ClusterState, Group},
};

impl Apply for StartRun {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        same_term(self.term, when.at)?;
        node_can_run(state, self.node)?;
        match self.job {
            Job::Migration(id) => start_cleaning(state, id, self, when),
            Job::Sweep { product, group } => start_sweep(state, (product, group), self, when),
        }
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

fn start_cleaning(state: &mut ClusterState, id: MigrationId, new: &StartRun, when: When) -> Result<Outcome, Reject> {
    let open = migration::find(state, id)?;
    let (kind, at, what) = match open.phase {
        MigrationPhase::Switched => (RunKind::CleanSource, open.from, "the source"),
        MigrationPhase::Cancelling => (RunKind::WipeTarget, open.to, "the target"),
        MigrationPhase::Planned
        | MigrationPhase::CleaningTarget
        | MigrationPhase::Copying
        | MigrationPhase::CaughtUp
        | MigrationPhase::Held(_)
        | MigrationPhase::Paused => {
            return Err(migration::wrong_phase(open, "be cleaned up", "that follows its switch or cancel"));
        }
    };
    next_run(state, new)?;
    let group = group(product(state, open.product)?, at)?;
    is_primary(group, &new.server)?;
    if kind == RunKind::WipeTarget && group.sweep.is_some() {
        return Err(MigrationReject::SweepOpen(at).into());
    }

    let text = format!("run {} by node {} cleans {what}, {} (group {at})", new.run, new.node, new.server);
    if let Some(open) = state.migrations.get_mut(&id) {
        open.runs = new.run;
        open.run = Some(run(new, kind, when));
    }
    migration::add_event(state, id, when, EventKind::RunStarted, &text);
    Ok(Outcome::Done)
}

fn start_sweep(
    state: &mut ClusterState,
    (product_id, group_id): (ProductId, GroupId),
    new: &StartRun,
    when: When,
) -> Result<Outcome, Reject> {
    let product = product(state, product_id)?;
    let group = group(product, group_id)?;
    next_run(state, new)?;
    is_primary(group, &new.server)?;
    receives(state, product_id, group_id)?;
    let slots = state.sweepable(product_id, group_id);
    if slots.is_empty() {
        return Err(MigrationReject::NothingToSweep(group_id).into());
    }

    let text = format!("run {} by node {} at {}: slots {}", new.run, new.node, new.server, brief(&slots));
    let product = product_mut(state, product_id)?;
    product.sweep_runs = new.run;
    if let Some(group) = product.groups.get_mut(&group_id) {
        group.sweep = Some(Sweep { run: run(new, RunKind::Sweep, when), slots });
    }
    events::push(state, when, EventKind::RunStarted, Some(product_id), format!("group {group_id}"), &text);
    Ok(Outcome::Done)
}

impl Apply for Cleaned {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { job, run, term, deleted } = *self;
        same_term(term, when.at)?;
        if let Job::Migration(id) = job {
            migration::find(state, id)?;
        }
        let current = state.current_run(job).filter(|r| r.run == run && r.kind != RunKind::Copy);
        let Some(kind) = current.map(|r| r.kind) else {
            return Err(MigrationReject::RunNotCurrent { job: job.to_string(), run }.into());
        };
        // The new primary may still have the keys that the run deleted at a primary that was replaced since.
        if let (Some(current), Some(group)) = (current, cleaned_group(state, job, kind)) {
            is_primary(group, &current.server)?;
        }

        match job {
            Job::Migration(id) => {
                if let Some(open) = state.migrations.get_mut(&id) {
                    open.counters.cleaned = open.counters.cleaned.saturating_add(deleted);
                }
                let (end, place) = match kind {
                    RunKind::CleanSource => (EndPhase::Done, "source"),
                    RunKind::WipeTarget | RunKind::Copy | RunKind::Sweep => (EndPhase::Cancelled, "target"),
                };
                migration::ended(state, id, end, when, &format!("{deleted} keys deleted at the {place}"));
            }
            Job::Sweep { product, group } => {
                if let Some(open) = product_mut(state, product)?.groups.get_mut(&group) {
                    let swept = open.sweep.take().map(|s| s.slots).unwrap_or_default();
                    open.given_away.retain(|slot| !swept.contains(slot));
                }
                let text = format!("{deleted} leftover keys deleted");
                events::push(state, when, EventKind::Swept, Some(product), format!("group {group}"), &text);
            }
        }
        Ok(Outcome::Done)
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for EndSweep {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: group_id, run, term, ref why } = *self;
        same_term(term, when.at)?;
        let open = group(product(state, product_id)?, group_id)?.sweep.as_ref();
        let open = open.ok_or(MigrationReject::NoSweep(group_id))?;
        if open.run.run != run {
            let job = Job::Sweep { product: product_id, group: group_id };
            return Err(MigrationReject::RunNotCurrent { job: job.to_string(), run }.into());
        }

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&group_id) {
            group.sweep = None;
        }
        events::push(state, when, EventKind::SweepEnded, Some(product_id), format!("group {group_id}"), why);
        Ok(Outcome::Done)
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

/// The group where a run of this kind deletes.
fn cleaned_group(state: &ClusterState, job: Job, kind: RunKind) -> Option<&Group> {
    let (product, group) = match job {
        Job::Sweep { product, group } => (product, group),
        Job::Migration(id) => {
            let open = state.migrations.get(&id)?;
            (open.product, if kind == RunKind::CleanSource { open.from } else { open.to })
        }
    };
    state.products.get(&product)?.groups.get(&group)
}

fn run(new: &StartRun, kind: RunKind, when: When) -> Run {
    Run {
        run: new.run,
        kind,
        node: new.node,
        feed: None,
        server: new.server.clone(),
        group_epochs: BTreeMap::new(),
        term: new.term,
        began: when.at.index,
    }
}

fn next_run(state: &ClusterState, new: &StartRun) -> Result<(), Reject> {
    match state.next_run(new.job) {
        Some(expected) if expected == new.run => Ok(()),
        other => {
            let (job, expected) = (new.job.to_string(), other.unwrap_or_default());
            Err(MigrationReject::WrongRun { job, given: new.run, expected }.into())
        }
    }
}

/// Refuses while slots come to the group, or copies are wiped there: a late UNLINK of the sweep could delete their
/// keys.
fn receives(state: &ClusterState, product: ProductId, group: GroupId) -> Result<(), Reject> {
    let coming = state.migrations.values().find(|m| {
        m.product == product && m.to == group && (m.phase.attempting() || m.phase == MigrationPhase::Cancelling)
    });
    let assigned = || state.assignments.values().find(|a| a.product == product && a.to == Some(group));
    let by = match coming {
        Some(m) => format!("migration {}", m.id),
        None => match assigned() {
            Some(a) => format!("assignment {}", a.id),
            None => return Ok(()),
        },
    };
    Err(MigrationReject::GroupReceives { group, by }.into())
}
