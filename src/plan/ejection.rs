//! Which groups of a cache are out and eject their slots, to whom, and which are back: from what nodes have seen.
//! Knows nothing of how slots change owner, nor of what is done at a server that gets them back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    failover::{DownGroup, FailoverDecision, choose, downs},
    liveness::{Liveness, Watchers, liveness},
    observation::{Observation, ReportedRole},
};
use crate::model::{
    change::{CancelMigration, Change, Eject, Reinstate},
    ids::{GroupId, NodeId, ProductId, SlotId},
    migration::MigrationPhase,
    route::Mode,
    state::{ClusterState, Group, GroupOptions, Keys, Product},
};

/// Since when the primaries of groups that are out have been up without a break, as one process, in this term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EjectedHealth(BTreeMap<(ProductId, GroupId), Up>);

/// A primary that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Up {
    run_id: String,
    since_ns: u64,
}

impl EjectedHealth {
    /// Takes in a probe. `now_ns`: the leader's clock.
    pub fn observe(&mut self, state: &ClusterState, seen: &Observation, watchers: &Watchers<'_>, now_ns: u64) {
        let mut now = BTreeMap::new();
        for (product, group) in all(state).filter(|(_, g)| g.ejection.is_some()) {
            let Some(run_id) = process(group, seen, watchers) else { continue };
            let before = self.0.get(&(product.id, group.id)).filter(|up| up.run_id == run_id);
            let since_ns = before.map_or(now_ns, |up| up.since_ns);
            now.insert((product.id, group.id), Up { run_id, since_ns });
        }
        self.0 = now;
    }

    /// It is waited for as if it were up since now: what was tried did not work.
    pub fn again(&mut self, product: ProductId, group: GroupId) {
        self.0.remove(&(product, group));
    }
}

/// The `run_id` of a group's primary, if all who probe are answered by it, as a primary that is ready.
#[must_use]
pub fn process(group: &Group, seen: &Observation, watchers: &Watchers<'_>) -> Option<String> {
    let primary = &group.servers.first()?.addr;
    let (probe, _) = super::failover::newest(seen, primary)?;
    let up = liveness(watchers, primary, group.options.down_after_ms) == Liveness::Up;
    (up && !probe.loading && matches!(probe.role, ReportedRole::Primary { .. })).then(|| probe.run_id.clone())
}

/// What is to be done about groups that are to eject their slots, and about those that are back. `me`: the leader.
#[must_use]
pub fn decide(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    health: &EjectedHealth,
    (me, now_ns): (NodeId, u64),
) -> Vec<FailoverDecision> {
    let mut decisions = Vec::new();
    // Where the guard says no, the failover says why.
    if let (downs, Ok(())) = downs(state, seen, watchers, &BTreeSet::new()) {
        for down in downs {
            let decision = eject(state, seen, watchers, &down, me);
            decisions.extend(decision.map(|action| FailoverDecision {
                product: down.product.id,
                group: down.group.id,
                action,
            }));
        }
    }
    for (product, group) in all(state) {
        if let Some(action) = give_back(state, product, group, health, now_ns) {
            decisions.push(FailoverDecision { product: product.id, group: group.id, action });
        }
    }
    decisions
}

/// `None`: nothing is to be done, or the failover says what is.
fn eject(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    DownGroup { product, group, primary, what, for_ms }: &DownGroup<'_>,
    me: NodeId,
) -> Option<Result<Vec<Change>, String>> {
    let after_ms = u64::from(group.options.eject_after_ms);
    let waits = after_ms == 0 || *for_ms < after_ms || maintenance(state, group);
    if product.mode != Mode::Cache || group.ejection.is_some() || waits {
        return None;
    }
    let slots = product.owned(group.id);
    if slots.is_empty() || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let choice = choose(group, seen, me);
    if choice.best().is_some() {
        return None;
    }
    let said = format!("group {} of product '{}' is to eject its slots", group.id, product.name);
    let none = if choice.none.is_empty() { "it has no replica".into() } else { choice.evidence() };
    let why = format!("{primary} {what}; {none}");
    let open = state.migrations.values().filter(|m| m.product == product.id && !m.slots.is_disjoint(&slots));
    let mut ends = Vec::new();
    for migration in open {
        match migration.phase {
            // Its slots are somewhere else now, or are wiped there: over soon.
            MigrationPhase::Switched | MigrationPhase::Cancelling => {
                return Some(Err(format!("{said}, and waits for migration {}", migration.id)));
            }
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Held(_)
            | MigrationPhase::Paused => {
                let why = format!("group {} ejects its slots: {why}", group.id);
                ends.push(Change::CancelMigration(CancelMigration { migration: migration.id, why }));
            }
        }
    }
    if !ends.is_empty() {
        return Some(Ok(ends));
    }
    let assigned = |a: &&crate::model::state::Assignment| a.product == product.id && !a.slots.is_disjoint(&slots);
    if let Some(open) = state.assignments.values().find(assigned) {
        return Some(Err(format!("{said}, and waits for assignment {}", open.id)));
    }
    let temporary_owners = temporary_owners(state, product, group, watchers);
    if temporary_owners.is_empty() {
        return Some(Err(format!("{said}, and there is no other group that is up, has slots and may be changed")));
    }
    let to = match spread(&slots, &temporary_owners) {
        Ok(to) => to,
        Err(slot) => {
            return Some(Err(format!(
                "{said}, and no group may have slot {slot} before it has deleted what it had of it the last time"
            )));
        }
    };
    Some(Ok(vec![Change::Eject(Eject { product: product.id, group: group.id, group_epoch: group.epoch, to, why })]))
}

fn give_back(
    state: &ClusterState,
    product: &Product,
    group: &Group,
    health: &EjectedHealth,
    now_ns: u64,
) -> Option<Result<Vec<Change>, String>> {
    let ejection = group.ejection.as_ref()?;
    let comes_back =
        |a: &crate::model::state::Assignment| a.product == product.id && a.to == group.id && a.keys == Keys::Ejected;
    if state.assignments.values().any(comes_back) || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let said = format!(
        "group {} of product '{}' is out since {} did not answer, and ejects {} slot(s)",
        group.id,
        product.name,
        group.servers.first().map_or("its primary", |s| s.addr.as_str()),
        ejection.slots.len()
    );
    if maintenance(state, group) {
        return Some(Err(format!("{said}; maintenance is on, so it gets nothing back by itself")));
    }
    let after_ms = match group.options.eject_after_ms {
        0 => GroupOptions::default().eject_after_ms,
        ms => ms,
    };
    let Some(up) = health.0.get(&(product.id, group.id)) else {
        let when =
            format!("it gets them back when it has answered every node, as a primary that is ready, for {after_ms} ms");
        return Some(Err(format!("{said}; {when}: start it again, or remove the group and they stay where they are")));
    };
    let up_ms = now_ns.saturating_sub(up.since_ns) / 1_000_000;
    if up_ms < u64::from(after_ms) {
        return Some(Err(format!("{said}; it is up again, and gets them back when it has been up for {after_ms} ms")));
    }
    let (product, group, ejection, group_epoch) = (product.id, group.id, ejection.id, group.epoch);
    Some(Ok(vec![Change::Reinstate(Reinstate { product, group, ejection, group_epoch })]))
}

/// Groups that may be lent slots, by id: those that are up and have slots of their own (one without is new, or drained for
/// its removal).
fn temporary_owners<'a>(
    state: &ClusterState,
    product: &'a Product,
    ejected_group: &Group,
    watchers: &Watchers<'_>,
) -> Vec<&'a Group> {
    let owners: BTreeSet<GroupId> = product.slots.iter().filter_map(|s| s.owner).collect();
    let fit = |group: &&Group| {
        let up = |addr| liveness(watchers, addr, group.options.down_after_ms) == Liveness::Up;
        group.id != ejected_group.id
            && owners.contains(&group.id)
            && group.ejection.is_none()
            && group.sweep.is_none()
            && !group.options.maintenance
            && state.promotion_of(product.id, group.id).is_none()
            && group.servers.first().is_some_and(|primary| up(&primary.addr))
    };
    product.groups.values().filter(fit).collect()
}

/// As evenly as can be, neighbours together; a slot whose leftovers a group has yet to delete is not lent to it.
///
/// # Errors
/// A slot that nobody may have.
fn spread(slots: &BTreeSet<SlotId>, to: &[&Group]) -> Result<BTreeMap<GroupId, BTreeSet<SlotId>>, SlotId> {
    let (each, more) = (slots.len() / to.len().max(1), slots.len() % to.len().max(1));
    let mut shares: Vec<BTreeSet<SlotId>> = vec![BTreeSet::new(); to.len()];
    for slot in slots {
        let allowed = || (0..to.len()).filter(|n| !to[*n].given_away.contains(slot));
        let wants = |n: &usize| shares[*n].len() < each + usize::from(*n < more);
        let place = allowed().find(wants).or_else(|| allowed().min_by_key(|n| shares[*n].len()));
        shares[place.ok_or(*slot)?].insert(*slot);
    }
    Ok(to.iter().map(|group| group.id).zip(shares).filter(|(_, share)| !share.is_empty()).collect())
}

fn maintenance(state: &ClusterState, group: &Group) -> bool {
    state.settings.maintenance || group.options.maintenance
}

fn all(state: &ClusterState) -> impl Iterator<Item = (&Product, &Group)> {
    state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)))
}
