//! Migrations as answers: what the log says, and what the leader has heard of the workers since.
//! Knows nothing of how a migration is carried on.

use crate::{
    control::leadership::view::LeaderView,
    model::{
        ids::ProductId,
        migration::{
            Counters, EndedMigration, Job, Limits, Migration, MigrationOptions, MigrationPhase, Verified, Verify,
        },
        slot::spans,
        state::ClusterState,
    },
    plan::mover::MoverView,
    wire::pb::admin,
};

/// Every migration that is known, ascending by id. `view`: the leader's, or an empty one.
#[must_use]
pub fn all(state: &ClusterState, view: &LeaderView) -> Vec<admin::Migration> {
    let open = state.migrations.values().map(|m| {
        let job = Job::Migration(m.id);
        let mover = view.movers.get(&job).filter(|seen| m.run.as_ref().is_some_and(|run| run.run == seen.run));
        live(open(state, m), m, mover, view.jobs.get(&job))
    });
    let mut all: Vec<_> = state.ended_migrations.iter().map(|e| ended(state, e)).chain(open).collect();
    all.sort_by_key(|m| m.id);
    all
}

fn open(state: &ClusterState, m: &Migration) -> admin::Migration {
    let MigrationOptions { verify, wipe, limits } = m.options;
    let run = m.run.as_ref();
    admin::Migration {
        id: m.id.0,
        product: product(state, m.product),
        from: m.from.0,
        to: m.to.0,
        slots: spans(&m.slots),
        slot_count: count(m.slots.len()),
        state: m.phase.name().to_owned(),
        attempt: m.attempt,
        eta_ms: -1,
        why: m.why.clone(),
        node: run.map_or(0, |run| run.node.0),
        feed: run.and_then(|run| run.feed.as_ref()).map(ToString::to_string).unwrap_or_default(),
        server: run.map(|run| run.server.to_string()).unwrap_or_default(),
        runs: m.runs,
        releases: m.releases,
        verify: verify_name(verify).to_owned(),
        verified: m.verified.map(verified),
        wipe,
        limits: Some(shown_limits(limits)),
        planned_ms: m.planned_ms,
        changed_ms: m.changed_ms,
        ..counters(&m.counters)
    }
}

fn ended(state: &ClusterState, e: &EndedMigration) -> admin::Migration {
    admin::Migration {
        id: e.id.0,
        product: product(state, e.product),
        from: e.from.0,
        to: e.to.0,
        slots: spans(&e.slots),
        slot_count: count(e.slots.len()),
        state: e.end.name().to_owned(),
        attempt: e.attempt,
        eta_ms: -1,
        why: e.why.clone(),
        verified: e.verified.map(verified),
        planned_ms: e.planned_ms,
        changed_ms: e.ended_ms,
        ..counters(&e.counters)
    }
}

/// What came since the log was written: the node's own numbers, and what the leader waits for.
fn live(
    mut shown: admin::Migration,
    m: &Migration,
    mover: Option<&MoverView>,
    waits: Option<&String>,
) -> admin::Migration {
    let mut waiting: Vec<String> = waits.cloned().into_iter().collect();
    if let Some(seen) = mover {
        if m.phase.attempting() {
            let numbers = counters(&seen.counters);
            shown.keys_copied = numbers.keys_copied;
            shown.bytes_copied = numbers.bytes_copied;
            shown.keys_scanned = numbers.keys_scanned;
            shown.keys_refetched = numbers.keys_refetched;
            shown.keys_deleted = numbers.keys_deleted;
            shown.dirty = numbers.dirty;
            shown.verified = seen.verified.map(verified).or(shown.verified);
        } else {
            // A cleaning run counts what it deletes; the attempt before it deleted at the target.
            shown.keys_deleted += seen.counters.deleted;
        }
        shown.keys_total = seen.keys_total;
        shown.keys_per_second = seen.keys_per_second;
        shown.lag_bytes = seen.lag_bytes;
        shown.queue_ms = seen.queue_ms;
        shown.eta_ms = eta(m, seen);
        shown.write_contended.clone_from(&seen.write_contended);
        // The leader's sentence often has the node's in it.
        if !seen.waiting_on.is_empty() && !waiting.iter().any(|why| why.contains(&seen.waiting_on)) {
            waiting.push(seen.waiting_on.clone());
        }
    }
    shown.waiting_on = waiting.join("; ");
    shown
}

/// Time until all keys are there, at the present rate, milliseconds; -1: not known.
fn eta(m: &Migration, seen: &MoverView) -> i64 {
    let known = m.phase == MigrationPhase::Copying && seen.keys_total > 0 && seen.keys_per_second > 0;
    if !known {
        return -1;
    }
    let left = seen.keys_total.saturating_sub(seen.counters.keys);
    i64::try_from(left.saturating_mul(1000) / seen.keys_per_second).unwrap_or(-1)
}

/// Only the counters; the rest is for `..`.
fn counters(c: &Counters) -> admin::Migration {
    admin::Migration {
        keys_copied: c.keys,
        bytes_copied: c.bytes,
        keys_scanned: c.scanned,
        keys_refetched: c.refetched,
        keys_deleted: c.deleted,
        dirty: c.dirty,
        ..admin::Migration::default()
    }
}

const fn verified(Verified { keys, different }: Verified) -> admin::MigrationVerified {
    admin::MigrationVerified { keys, different }
}

const fn shown_limits(limits: Limits) -> admin::MigrationLimits {
    let Limits { keys_per_second, bytes_per_second, hold_ms_max } = limits;
    admin::MigrationLimits { keys_per_second, bytes_per_second, hold_ms_max }
}

const fn verify_name(verify: Verify) -> &'static str {
    match verify {
        Verify::None => "none",
        Verify::Sample => "sample",
        Verify::Full => "full",
    }
}

fn product(state: &ClusterState, id: ProductId) -> String {
    state.products.get(&id).map(|product| product.name.clone()).unwrap_or_default()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
