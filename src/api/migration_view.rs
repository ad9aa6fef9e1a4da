//! Converts migrations to messages for operators: what the log has, and what the movers have reported to the leader
//! since.

use super::show::present;
use crate::{
    control::leadership::view::LeaderView,
    model::{
        ids::ProductId,
        migration::{
            Counters, EndPhase, EndedMigration, Job, Limits, Migration, MigrationOptions, MigrationPhase, Verified,
            Verify,
        },
        slot::spans,
        state::ClusterState,
    },
    plan::{mover::MoverView, waiting::LastingWait},
    wire::pb::admin::{self, MigrationState, Verification},
};

/// Every migration in the state, ascending by id. `view`: the leader's, or an empty one; `now_ns`: its clock.
#[must_use]
pub fn all(state: &ClusterState, view: &LeaderView, now_ns: u64) -> Vec<admin::Migration> {
    let open = state.migrations.values().map(|m| {
        let job = Job::Migration(m.id);
        let mover = view.movers.get(&job).filter(|seen| m.run.as_ref().is_some_and(|run| run.run == seen.run));
        live(open(state, m), m, mover, view.jobs.get(&job), now_ns)
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
        state: state_of(m.phase).into(),
        attempt: m.attempt,
        why: present(&m.why),
        node: run.map(|run| run.node.0),
        source_server: run.and_then(|run| run.feed.as_ref()).map(ToString::to_string),
        changed_server: run.map(|run| run.server.to_string()),
        runs: m.runs,
        releases: m.releases,
        verification: Some(verification(verify).into()),
        verified: m.verified.map(verified),
        wipe,
        limits: Some(shown_limits(limits)),
        planned_at_ms: m.planned_ms,
        changed_at_ms: m.changed_ms,
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
        state: match e.end {
            EndPhase::Done => MigrationState::Done,
            EndPhase::Cancelled => MigrationState::Cancelled,
        }
        .into(),
        attempt: e.attempt,
        why: present(&e.why),
        verified: e.verified.map(verified),
        planned_at_ms: e.planned_ms,
        changed_at_ms: e.ended_ms,
        ..counters(&e.counters)
    }
}

/// Fills in what is newer than the log: the mover's numbers, and what the leader waits for.
fn live(
    mut shown: admin::Migration,
    m: &Migration,
    mover: Option<&MoverView>,
    waits: Option<&LastingWait>,
    now_ns: u64,
) -> admin::Migration {
    let mut waits = waits.cloned();
    if let Some(seen) = mover {
        if m.phase.attempting() {
            let numbers = counters(&seen.counters);
            shown.keys_copied = numbers.keys_copied;
            shown.bytes_copied = numbers.bytes_copied;
            shown.keys_scanned = numbers.keys_scanned;
            shown.keys_refetched = numbers.keys_refetched;
            shown.keys_deleted = numbers.keys_deleted;
            shown.dirty_keys = numbers.dirty_keys;
            shown.verified = seen.verified.map(verified).or(shown.verified);
        } else {
            // A run that cleans counts what it deletes itself.
            shown.keys_cleaned += seen.counters.deleted;
        }
        shown.keys_total = (seen.keys_total > 0).then_some(seen.keys_total);
        shown.keys_per_second = seen.keys_per_second;
        shown.lag_bytes = seen.lag_bytes;
        shown.dirty_keys_ms = seen.queue_ms;
        shown.eta_ms = eta(m, seen);
        shown.write_contended_keys.clone_from(&seen.write_contended);
        // The leader's sentence often contains the node's sentence.
        let new = |wait: &&mut LastingWait| !wait.wait.text().contains(&seen.waiting_on);
        if let Some(lasting) = waits.as_mut().filter(new) {
            lasting.wait = lasting.wait.clone().and_detail(&format!("; {}", seen.waiting_on));
        }
    }
    shown.waiting_on = waits.map(|wait| wait.text(now_ns));
    shown
}

/// Time until all keys are copied at the present rate, milliseconds; `None`: not known.
fn eta(m: &Migration, seen: &MoverView) -> Option<u64> {
    let known = m.phase == MigrationPhase::Copying && seen.keys_total > 0 && seen.keys_per_second > 0;
    let left = seen.keys_total.saturating_sub(seen.counters.keys);
    known.then(|| left.saturating_mul(1000) / seen.keys_per_second)
}

/// A message with the counters alone, for struct update syntax.
fn counters(c: &Counters) -> admin::Migration {
    admin::Migration {
        keys_copied: c.keys,
        bytes_copied: c.bytes,
        keys_scanned: c.scanned,
        keys_refetched: c.refetched,
        keys_deleted: c.deleted,
        keys_cleaned: c.cleaned,
        dirty_keys: c.dirty,
        ..admin::Migration::default()
    }
}

const fn verified(Verified { keys, different }: Verified) -> admin::VerificationResult {
    admin::VerificationResult { keys, different_keys: different }
}

const fn shown_limits(limits: Limits) -> admin::MigrationLimits {
    let Limits { keys_per_second, bytes_per_second, hold_ms_max } = limits;
    admin::MigrationLimits { keys_per_second, bytes_per_second, hold_max_ms: hold_ms_max }
}

const fn verification(verify: Verify) -> Verification {
    match verify {
        Verify::None => Verification::None,
        Verify::Sample => Verification::Sample,
        Verify::Full => Verification::Full,
    }
}

const fn state_of(phase: MigrationPhase) -> MigrationState {
    match phase {
        MigrationPhase::Planned => MigrationState::Planned,
        MigrationPhase::CleaningTarget => MigrationState::CleaningTarget,
        MigrationPhase::Copying => MigrationState::Copying,
        MigrationPhase::CaughtUp => MigrationState::CaughtUp,
        MigrationPhase::Held(_) => MigrationState::Held,
        MigrationPhase::Switched => MigrationState::Switched,
        MigrationPhase::Cancelling => MigrationState::Cancelling,
        MigrationPhase::Paused => MigrationState::Paused,
    }
}

fn product(state: &ClusterState, id: ProductId) -> String {
    state.products.get(&id).map(|product| product.name.clone()).unwrap_or_default()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
