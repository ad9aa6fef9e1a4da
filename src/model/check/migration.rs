//! The invariants of migrations, runs, sweeps and events.
//! Knows nothing of changes: it checks one state.

use std::collections::{BTreeMap, BTreeSet};

use super::Found;
use crate::model::{
    ids::{GroupId, ProductId, SlotId},
    limits::{ATTEMPTS_PER_TARGET_MAX, ENDED_MIGRATIONS_MAX, MIGRATIONS_MAX, TEXT_LEN_MAX},
    migration::{Migration, MigrationPhase, RunKind},
    state::{Cause, ClusterState},
};

/// `moving`: the slots of open assignments; slots of migrations join them.
pub(super) fn migrations(state: &ClusterState, moving: &mut BTreeSet<(ProductId, SlotId)>, found: &mut Found) {
    found.unless(state.migrations.len() <= MIGRATIONS_MAX, || format!("{} migrations", state.migrations.len()));
    let ended = &state.ended_migrations;
    found.unless(ended.len() <= ENDED_MIGRATIONS_MAX, || format!("{} ended migrations", ended.len()));
    found.unless(ended.iter().map(|e| e.at).is_sorted() && ended.iter().all(|e| e.at <= state.applied), || {
        "ended migrations out of order".to_owned()
    });
    let (mut from, mut to): (BTreeMap<_, usize>, BTreeMap<_, usize>) = Default::default();
    for (id, m) in &state.migrations {
        found.unless(*id == m.id && id.0 <= state.applied.0, || format!("migration key {id}, id {}", m.id));
        found.unless(ended.iter().all(|e| e.id != *id), || format!("migration {id} ended, yet is open"));
        for slot in &m.slots {
            let alone = moving.insert((m.product, *slot));
            found.unless(alone, || {
                format!("slot {slot} of migration {id} is also in another migration or in an assignment")
            });
        }
        if m.phase.attempting() {
            *from.entry((m.product, m.from)).or_default() += 1;
            *to.entry((m.product, m.to)).or_default() += 1;
        }
        place(state, m, found);
        phase(state, m, found);
    }
    for ((product, group), n) in from {
        found.unless(n == 1, || format!("{n} attempts read group {group} of product {product}"));
    }
    for ((product, group), n) in to {
        found.unless(n <= ATTEMPTS_PER_TARGET_MAX, || format!("{n} attempts into group {group} of product {product}"));
    }
}

/// Groups and owners.
fn place(state: &ClusterState, m: &Migration, found: &mut Found) {
    let id = m.id;
    found.unless(!m.slots.is_empty(), || format!("migration {id} has no slots"));
    found.unless(m.from != m.to, || format!("the source of migration {id} is its target"));
    let Some(product) = state.products.get(&m.product) else {
        found.unless(false, || format!("the product of migration {id} does not exist"));
        return;
    };
    for group in [m.from, m.to] {
        found.unless(product.groups.contains_key(&group), || format!("migration {id}: there is no group {group}"));
    }
    let expected = if m.phase == MigrationPhase::Switched { m.to } else { m.from };
    for slot in &m.slots {
        let owner = product.slots.get(usize::from(slot.0)).and_then(|s| s.owner);
        found.unless(owner == Some(expected), || {
            format!("migration {id} is {}, yet slot {slot} belongs to {owner:?}", m.phase.name())
        });
    }
}

/// Hold, run and counts fit the phase.
fn phase(state: &ClusterState, m: &Migration, found: &mut Found) {
    let (id, name) = (m.id, m.phase.name());
    let open: Vec<_> = state.holds.values().filter(|h| h.cause == Cause::Migration(id)).map(|h| h.id).collect();
    found.unless(open == Vec::from_iter(m.hold()), || format!("migration {id} is {name}, its holds are {open:?}"));

    let kinds: &[Option<RunKind>] = match m.phase {
        MigrationPhase::Planned | MigrationPhase::Paused => &[None],
        MigrationPhase::CleaningTarget
        | MigrationPhase::Copying
        | MigrationPhase::CaughtUp
        | MigrationPhase::Held(_) => &[Some(RunKind::Copy)],
        MigrationPhase::Switched => &[None, Some(RunKind::CleanSource)],
        MigrationPhase::Cancelling => &[None, Some(RunKind::WipeTarget)],
    };
    let kind = m.run.as_ref().map(|r| r.kind);
    found.unless(kinds.contains(&kind), || format!("migration {id} is {name} with a run of kind {kind:?}"));
    if let Some(run) = &m.run {
        found.unless(run.run == m.runs && run.began <= state.applied, || format!("migration {id}: run {}", run.run));
        let epoch = |id: &GroupId| state.products.get(&m.product).and_then(|p| p.groups.get(id)).map(|g| g.epoch);
        let today = run.group_epochs.iter().all(|(id, then)| epoch(id) == Some(*then));
        found.unless(run.kind != RunKind::Copy || today, || {
            format!("migration {id} goes on although a primary of its attempt was replaced")
        });
        found.unless(run.feed.is_some() == (run.kind == RunKind::Copy), || {
            format!("migration {id}: only an attempt has a feed")
        });
    }

    found.unless(m.attempt <= m.runs, || format!("migration {id}: {} attempts, {} runs", m.attempt, m.runs));
    let started = m.phase.attempting() || matches!(m.phase, MigrationPhase::Switched | MigrationPhase::Cancelling);
    found.unless(m.attempt > 0 || !started, || format!("migration {id} is {name} without an attempt"));
    let copied = matches!(
        m.phase,
        MigrationPhase::Copying | MigrationPhase::CaughtUp | MigrationPhase::Held(_) | MigrationPhase::Switched
    );
    found.unless(m.staged || !copied, || format!("migration {id} is {name} with nothing staged"));
    found.unless(m.attempt > 0 || !m.staged, || format!("migration {id} has staged keys without an attempt"));
    found.unless(m.why.len() <= TEXT_LEN_MAX, || format!("the reason of migration {id} is too long"));
}

pub(super) fn sweeps(state: &ClusterState, found: &mut Found) {
    for product in state.products.values() {
        for group in product.groups.values() {
            let Some(sweep) = &group.sweep else { continue };
            let id = group.id;
            found.unless(sweep.run.kind == RunKind::Sweep && sweep.run.run <= product.sweep_runs, || {
                format!("the sweep of group {id} has run {}", sweep.run.run)
            });
            found.unless(!sweep.slots.is_empty() && sweep.slots.is_subset(&group.given_away), || {
                format!("the sweep of group {id} is of slots that it did not give away")
            });
            found.unless(!receives(state, product.id, id), || format!("group {id} is swept while slots come to it"));
        }
    }
}

/// A run writes or deletes keys of coming slots in the group.
fn receives(state: &ClusterState, product: ProductId, group: GroupId) -> bool {
    let to = |m: &&Migration| m.product == product && m.to == group;
    state
        .migrations
        .values()
        .filter(to)
        .any(|m| m.phase.attempting() || (m.phase == MigrationPhase::Cancelling && m.run.is_some()))
}
