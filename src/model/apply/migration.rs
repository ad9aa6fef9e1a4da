//! Migrations, entry by entry (docs/design/migration.md), except the runs that delete leftovers (`run`).
//! Knows nothing of keys, servers and barriers: the proposer has checked them, and names the term of its verdict.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Apply,
    common::{clipped, group, product, product_mut, routed},
    events::{self, When},
    guard::{no_promotion_open, not_ejected, replid_allowed, same_term, slots_usable},
    slot,
};
use crate::model::{
    change::{CancelMigration, PauseMigration, PlanMigration, RestartMigration, ResumeMigration, SetMigration, Switch},
    event::EventKind,
    ids::{Epoch, GroupId, HoldId, MigrationId, ProductId, SlotId, Term},
    limits::{ENDED_MIGRATIONS_MAX, HOLD_MS, MIGRATIONS_MAX},
    migration::{Counters, EndPhase, EndedMigration, Limits, Migration, MigrationPhase},
    outcome::Outcome,
    promotion::ReplicationOffset,
    reject::{MigrationReject, PromotionReject, Reject},
    slot::brief,
    state::{ClusterState, Group, Hold},
};

impl Apply for PlanMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, ref slots, from, to, options } = *self;
        let product = product(state, product_id)?;
        group(product, from)?;
        not_ejected(group(product, to)?)?;
        if from == to {
            return Err(MigrationReject::SameGroup(from).into());
        }
        slots_usable(state, product, slots)?;
        for slot in slots {
            owned_by(product.slots[usize::from(slot.0)].owner, *slot, from)?;
        }
        hold_ms_allowed(options.limits.hold_ms_max)?;
        if state.migrations.len() >= MIGRATIONS_MAX {
            return Err(MigrationReject::TooMany { max: MIGRATIONS_MAX }.into());
        }

        let id = MigrationId(when.at.index.0);
        let migration = Migration {
            id,
            product: product_id,
            slots: slots.clone(),
            from,
            to,
            options,
            phase: MigrationPhase::Planned,
            attempt: 0,
            runs: 0,
            run: None,
            staged: false,
            releases: 0,
            counters: Counters::default(),
            verified: None,
            why: String::new(),
            planned_ms: when.ms,
            changed_ms: when.ms,
        };
        state.migrations.insert(id, migration);
        add_event(
            state,
            id,
            when,
            EventKind::Planned,
            &format!("slots {} from group {from} to group {to}", brief(slots)),
        );
        Ok(Outcome::Migration(id))
    }
}

/// The product and the slots that a hold for this migration takes, if it may. `hold` checks other holds of the slots.
pub(super) fn may_hold(
    state: &ClusterState,
    id: MigrationId,
    attempt: u32,
) -> Result<(ProductId, BTreeSet<SlotId>), Reject> {
    let migration = find(state, id)?;
    if migration.phase != MigrationPhase::CaughtUp {
        return Err(wrong_phase(migration, "hold its slots", "it must have caught up"));
    }
    if attempt != migration.attempt {
        return Err(wrong_attempt(migration, attempt, migration.attempt));
    }
    no_promotion_open(state, migration.product, [migration.from, migration.to])?;
    Ok((migration.product, migration.slots.clone()))
}

/// The hold was opened.
pub(super) fn held(state: &mut ClusterState, id: MigrationId, hold: HoldId, reason: &str, when: When) {
    enter(state, id, MigrationPhase::Held(hold), when);
    add_event(state, id, when, EventKind::Held, &format!("hold {hold}: {reason}"));
}

/// The hold was released.
pub(super) fn released(state: &mut ClusterState, id: MigrationId, hold: &Hold, why: &str, when: When) {
    if let Some(m) = state.migrations.get_mut(&id) {
        m.releases = m.releases.saturating_add(1);
        m.why = clipped(why);
    }
    enter(state, id, MigrationPhase::CaughtUp, when);
    add_event(
        state,
        id,
        when,
        EventKind::Released,
        &format!("hold {} after {} ms: {why}", hold.id, held_ms(hold, when)),
    );
}

impl Apply for Switch {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, attempt, hold, term, ref group_epochs, ref target_offset } = *self;
        let migration = find(state, id)?;
        let Some(open) = migration.hold() else {
            return Err(wrong_phase(migration, "switch", "its slots must be held"));
        };
        let Some(open) = state.holds.get(&hold).filter(|h| h.id == open) else {
            return Err(MigrationReject::OtherHold { hold, migration: id }.into());
        };
        if attempt != migration.attempt {
            return Err(wrong_attempt(migration, attempt, migration.attempt));
        }
        same_term(term, when.at)?;
        let product = product(state, migration.product)?;
        let groups = [group(product, migration.from)?, group(product, migration.to)?];
        epochs_unchanged(groups, group_epochs)?;
        // Also unchanged since the attempt began: it copied from that primary and to that primary.
        if let Some(run) = &migration.run {
            epochs_unchanged(groups, &run.group_epochs)?;
        }
        // (No promotion of either group is open: none begins while slots are held, and no hold opens during one.)
        for slot in &migration.slots {
            owned_by(product.slots[usize::from(slot.0)].owner, *slot, migration.from)?;
        }
        if !replid_allowed(&target_offset.replid) {
            return Err(PromotionReject::BadReplid(migration.to).into());
        }
        let (product_id, slots, from, to) = (migration.product, migration.slots.clone(), migration.from, migration.to);

        let held = held_ms(open, when);
        slot::give(state, product_id, slots.iter().copied(), Some(to), true, when.at)?;
        state.holds.remove(&hold);
        let ReplicationOffset { replid, offset } = target_offset;
        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&to) {
            // An earlier switch may have been proposed after a later check: its offset stays required.
            let before = group.required_offset.as_ref().filter(|before| before.replid == *replid);
            let offset = before.map_or(*offset, |before| before.offset.max(*offset));
            group.required_offset = Some(ReplicationOffset { replid: replid.clone(), offset });
        }
        if let Some(m) = state.migrations.get_mut(&id) {
            m.run = None;
        }
        enter(state, id, MigrationPhase::Switched, when);
        let text = format!(
            "{} slot(s) from group {from} to group {to}, held {held} ms (hold {hold}); the primary of group {to} was at \
             offset {offset} of {replid}",
            slots.len()
        );
        add_event(state, id, when, EventKind::Switched, &text);
        Ok(Outcome::Slots(slots.len() as u32))
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for RestartMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, ref why } = *self;
        let migration = find(state, id)?;
        if !migration.phase.attempting() {
            return Err(wrong_phase(migration, "be restarted", "no attempt of it runs; nothing was done"));
        }

        let attempt = migration.attempt;
        end_attempt(state, id, MigrationPhase::Planned, why, when);
        add_event(state, id, when, EventKind::Restarted, &format!("attempt {attempt} ended: {why}"));
        Ok(Outcome::Done)
    }
}

/// A group has another primary: attempts that read or write it end, and start from the beginning. Adds no events of
/// their own, because an entry causes at most one.
pub(super) fn primary_changed(
    state: &mut ClusterState,
    product: ProductId,
    group: GroupId,
    why: &str,
    when: When,
) -> Vec<MigrationId> {
    let concerned = |m: &&Migration| m.product == product && (m.from == group || m.to == group) && m.phase.attempting();
    let ids: Vec<MigrationId> = state.migrations.values().filter(concerned).map(|m| m.id).collect();
    for id in &ids {
        end_attempt(state, *id, MigrationPhase::Planned, why, when);
    }
    ids
}

impl Apply for CancelMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, ref why } = *self;
        let migration = find(state, id)?;
        match migration.phase {
            MigrationPhase::Switched => {
                let remedy = "its slots belong to the target already: let it finish, then migrate them back";
                return Err(wrong_phase(migration, "be cancelled", remedy));
            }
            MigrationPhase::Cancelling => return Ok(Outcome::Unchanged),
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Held(_)
            | MigrationPhase::Paused => {}
        }

        let never_started = migration.attempt == 0;
        end_attempt(state, id, MigrationPhase::Cancelling, why, when);
        if never_started {
            ended(state, id, EndPhase::Cancelled, when, why);
        } else {
            add_event(state, id, when, EventKind::Cancelling, &format!("{why}; the copy at the target is wiped"));
        }
        Ok(Outcome::Done)
    }
}

impl Apply for PauseMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, ref why } = *self;
        let migration = find(state, id)?;
        match migration.phase {
            MigrationPhase::Switched | MigrationPhase::Cancelling => {
                let remedy = "only leftovers are being deleted: let it finish";
                return Err(wrong_phase(migration, "be paused", remedy));
            }
            MigrationPhase::Paused => return Ok(Outcome::Unchanged),
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Held(_) => {}
        }

        end_attempt(state, id, MigrationPhase::Paused, why, when);
        add_event(state, id, when, EventKind::Paused, why);
        Ok(Outcome::Done)
    }
}

impl Apply for ResumeMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id } = *self;
        let migration = find(state, id)?;
        match migration.phase {
            MigrationPhase::Paused => {}
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Held(_) => {
                return Ok(Outcome::Unchanged);
            }
            MigrationPhase::Switched | MigrationPhase::Cancelling => {
                return Err(wrong_phase(migration, "be resumed", "it is not paused: let it finish"));
            }
        }

        if let Some(m) = state.migrations.get_mut(&id) {
            m.releases = 0;
        }
        enter(state, id, MigrationPhase::Planned, when);
        add_event(state, id, when, EventKind::Resumed, "it starts from the beginning");
        Ok(Outcome::Done)
    }
}

impl Apply for SetMigration {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { migration: id, keys_per_second: keys, bytes_per_second: bytes, hold_ms_max: hold } = *self;
        let before = find(state, id)?.options.limits;
        let new = Limits {
            keys_per_second: keys.unwrap_or(before.keys_per_second),
            bytes_per_second: bytes.unwrap_or(before.bytes_per_second),
            hold_ms_max: hold.unwrap_or(before.hold_ms_max),
        };
        hold_ms_allowed(new.hold_ms_max)?;
        if new == before {
            return Ok(Outcome::Unchanged);
        }

        if let Some(m) = state.migrations.get_mut(&id) {
            m.options.limits = new;
        }
        let text = format!(
            "keys-per-second {}, bytes-per-second {}, hold-max {} ms (0: none, or the cluster's)",
            new.keys_per_second, new.bytes_per_second, new.hold_ms_max
        );
        add_event(state, id, when, EventKind::LimitsSet, &text);
        Ok(Outcome::Done)
    }
}

pub(super) fn find(state: &ClusterState, id: MigrationId) -> Result<&Migration, Reject> {
    state.migrations.get(&id).ok_or_else(|| MigrationReject::Unknown(id).into())
}

pub(super) fn wrong_phase(migration: &Migration, verb: &'static str, remedy: &'static str) -> Reject {
    let (migration, phase) = (migration.id, migration.phase.name());
    MigrationReject::WrongPhase { migration, phase, verb, remedy }.into()
}

pub(super) fn add_event(state: &mut ClusterState, id: MigrationId, when: When, kind: EventKind, text: &str) {
    let Some(product) = state.migrations.get(&id).map(|m| m.product) else { return };
    events::push(state, when, kind, Some(product), format!("migration {id}"), text);
}

/// Moves the migration from the open to the ended ones, with an event.
pub(super) fn ended(state: &mut ClusterState, id: MigrationId, end: EndPhase, when: When, text: &str) {
    let kind = match end {
        EndPhase::Done => EventKind::Done,
        EndPhase::Cancelled => EventKind::Cancelled,
    };
    add_event(state, id, when, kind, text);
    let Some(m) = state.migrations.remove(&id) else { return };
    if state.ended_migrations.len() >= ENDED_MIGRATIONS_MAX {
        state.ended_migrations.pop_front();
    }
    state.ended_migrations.push_back(EndedMigration {
        id,
        product: m.product,
        from: m.from,
        to: m.to,
        slots: m.slots,
        attempt: m.attempt,
        counters: m.counters,
        verified: m.verified,
        end,
        why: m.why,
        planned_ms: m.planned_ms,
        ended_ms: when.ms,
        at: when.at.index,
    });
}

pub(super) fn enter(state: &mut ClusterState, id: MigrationId, phase: MigrationPhase, when: When) {
    if let Some(m) = state.migrations.get_mut(&id) {
        m.phase = phase;
        m.changed_ms = when.ms;
    }
}

/// Ends the current run and the open hold.
fn end_attempt(state: &mut ClusterState, id: MigrationId, next: MigrationPhase, why: &str, when: When) {
    let Some(m) = state.migrations.get_mut(&id) else { return };
    m.run = None;
    m.why = clipped(why);
    if let Some(hold) = m.hold() {
        // The hold did not lead to a switch, like a released one; five of those pause the migration.
        m.releases = m.releases.saturating_add(1);
        state.holds.remove(&hold);
        routed(state, when.at);
    }
    enter(state, id, next, when);
}

/// How long the slots have been held, by the clocks of the proposing nodes. For people.
const fn held_ms(hold: &Hold, when: When) -> u64 {
    when.ms.saturating_sub(hold.since_ms)
}

pub(super) fn wrong_attempt(migration: &Migration, given: u32, expected: u32) -> Reject {
    MigrationReject::WrongAttempt { migration: migration.id, given, expected }.into()
}

pub(super) fn owned_by(owner: Option<GroupId>, slot: SlotId, from: GroupId) -> Result<(), Reject> {
    if owner == Some(from) {
        return Ok(());
    }
    let owner = owner.map_or_else(|| "nobody".to_owned(), |id| format!("group {id}"));
    Err(MigrationReject::NotOwned { slot, from, owner }.into())
}

pub(super) fn epochs_unchanged<'a>(
    groups: impl IntoIterator<Item = &'a Group>,
    given: &BTreeMap<GroupId, Epoch>,
) -> Result<(), Reject> {
    for group in groups {
        let given = given.get(&group.id).copied().unwrap_or_default();
        if group.epoch != given {
            return Err(Reject::GroupChanged { group: group.id, given, now: group.epoch });
        }
    }
    Ok(())
}

fn hold_ms_allowed(ms: u32) -> Result<(), Reject> {
    if ms == 0 || HOLD_MS.contains(&ms) { Ok(()) } else { Err(MigrationReject::BadHoldMax(ms).into()) }
}
