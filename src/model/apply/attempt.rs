//! Attempts of migrations: their start and their progress (docs/design/migration.md).
//! Knows nothing of keys and servers: the proposer has checked them, and names the term of its verdict.

use super::{
    Apply,
    common::{group, product},
    events::When,
    guard::{is_primary, none_open, not_ejected, not_server, same_term, serving},
    migration,
};
use crate::model::{
    change::{MigrationProgress, StartMigration},
    event::EventKind,
    ids::Term,
    limits::ATTEMPTS_PER_TARGET_MAX,
    migration::{Counters, MigrationPhase, ProgressPhase, Run, RunKind},
    outcome::Outcome,
    reject::{MigrationReject, Reject},
    state::ClusterState,
};

impl Apply for StartMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let id = self.migration;
        let migration = migration::find(state, id)?;
        if migration.phase != MigrationPhase::Planned {
            return Err(migration::wrong_phase(migration, "start", "an attempt begins when it is planned"));
        }
        if self.attempt != migration.attempt.saturating_add(1) {
            return Err(migration::wrong_attempt(migration, self.attempt, migration.attempt.saturating_add(1)));
        }
        same_term(self.term, when.at)?;
        let product = product(state, migration.product)?;
        for slot in &migration.slots {
            migration::owned_by(product.slots[usize::from(slot.0)].owner, *slot, migration.from)?;
        }
        let (from, to) = (group(product, migration.from)?, group(product, migration.to)?);
        migration::epochs_unchanged([from, to], &self.group_epochs)?;
        none_open(state, migration.product, [from.id, to.id])?;
        if !from.servers.iter().any(|s| s.addr == self.feed) {
            return Err(not_server(&self.feed, "a server", from.id));
        }
        is_primary(to, &self.target)?;
        not_ejected(to)?;
        serving(state, self.node)?;
        if to.sweep.is_some() {
            return Err(MigrationReject::SweepOpen(to.id).into());
        }
        let attempts = || state.migrations.values().filter(|m| m.product == migration.product && m.phase.attempting());
        if let Some(other) = attempts().find(|m| m.from == from.id) {
            return Err(MigrationReject::SourceBusy { migration: id, other: other.id, from: from.id }.into());
        }
        if attempts().filter(|m| m.to == to.id).count() >= ATTEMPTS_PER_TARGET_MAX {
            let max = ATTEMPTS_PER_TARGET_MAX;
            return Err(MigrationReject::TargetBusy { migration: id, to: to.id, max }.into());
        }

        let run = Run {
            run: migration.runs.saturating_add(1),
            kind: RunKind::Copy,
            node: self.node,
            feed: Some(self.feed.clone()),
            server: self.target.clone(),
            group_epochs: self.group_epochs.clone(),
            term: self.term,
            began: when.at.index,
        };
        let text = format!(
            "attempt {} (run {}) by node {}: from {} (group {}) to {} (group {})",
            self.attempt, run.run, self.node, self.feed, from.id, self.target, to.id
        );
        if let Some(m) = state.migrations.get_mut(&id) {
            m.attempt = self.attempt;
            m.runs = run.run;
            m.run = Some(run);
            m.counters = Counters::default();
            m.verified = None;
        }
        migration::enter(state, id, MigrationPhase::CleaningTarget, when);
        migration::tell(state, id, when, EventKind::Started, &text);
        Ok(Outcome::Done)
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for MigrationProgress {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, attempt, phase, counters, verified } = *self;
        let migration = migration::find(state, id)?;
        match migration.phase {
            MigrationPhase::CleaningTarget | MigrationPhase::Copying | MigrationPhase::CaughtUp => {}
            MigrationPhase::Planned
            | MigrationPhase::Held(_)
            | MigrationPhase::Switched
            | MigrationPhase::Cancelling
            | MigrationPhase::Paused => {
                return Err(migration::wrong_phase(
                    migration,
                    "report progress",
                    "only a running attempt can, before its hold",
                ));
            }
        }
        if attempt != migration.attempt {
            return Err(migration::wrong_attempt(migration, attempt, migration.attempt));
        }

        let (next, kind) = match phase {
            ProgressPhase::Copying => (MigrationPhase::Copying, EventKind::Copying),
            ProgressPhase::CaughtUp => (MigrationPhase::CaughtUp, EventKind::CaughtUp),
        };
        let (news, compared) = (migration.phase != next, verified.is_some() && verified != migration.verified);
        if let Some(m) = state.migrations.get_mut(&id) {
            m.counters = counters;
            m.staged = true;
            m.verified = verified.or(m.verified);
        }
        let copied = format!("{} keys, {} bytes copied, {} dirty", counters.keys, counters.bytes, counters.dirty);
        if news {
            migration::enter(state, id, next, when);
        }
        // One event per entry: the one about the comparison contains the counters too.
        match verified {
            Some(found) if compared => {
                let text = format!("{} keys compared, {} differ; {copied}", found.keys, found.different);
                migration::tell(state, id, when, EventKind::Verified, &text);
            }
            Some(_) | None if news => migration::tell(state, id, when, kind, &copied),
            Some(_) | None => {}
        }
        Ok(Outcome::Done)
    }
}
