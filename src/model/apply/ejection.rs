//! Ejections: the slots of a cache's group that is down go to other groups, and come back.
//! Knows nothing of liveness and keys: the proposer has probed the servers, and has flushed the server that gets slots
//! back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Apply,
    common::{group, product, product_mut, subject},
    events::{self, When},
    guard::{no_promotion_open, not_ejected, not_swept, same_epoch, slots_usable},
    slot,
};
use crate::model::{
    change::{Eject, Reinstate},
    ejection::Ejection,
    event::EventKind,
    ids::{AssignmentId, GroupId, ProductId, SlotId},
    limits::ASSIGNMENTS_MAX,
    migration::Migration,
    outcome::Outcome,
    reject::{EjectionReject, MigrationReject, Reject},
    route::Mode,
    state::{Assignment, ClusterState, Keys},
};

/// One entry without a hold: a server that is down does not answer requests in flight, and a reply that comes
/// nevertheless belongs to an old slot epoch.
impl Apply for Eject {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let product = product(state, self.product)?;
        let ejected_group = group(product, self.group)?;
        if product.mode != Mode::Cache {
            return Err(EjectionReject::NotCache(product.name.clone()).into());
        }
        not_ejected(ejected_group)?;
        same_epoch(ejected_group, self.group_epoch)?;
        no_promotion_open(state, product.id, self.to.keys().copied().chain([ejected_group.id]))?;
        let owned = product.owned(ejected_group.id);
        slots_usable(state, product, &owned)?;
        let comes = |m: &&Migration| m.product == product.id && m.to == ejected_group.id && m.phase.attempting();
        if let Some(open) = state.migrations.values().find(comes) {
            let by = format!("migration {}", open.id);
            return Err(MigrationReject::GroupReceives { group: ejected_group.id, by }.into());
        }
        let mut left = owned.clone();
        for (to, slots) in &self.to {
            let to = group(product, *to)?;
            not_ejected(to)?;
            not_swept(to)?;
            if let Some(slot) = slots.intersection(&to.given_away).next() {
                return Err(EjectionReject::Leftovers { slot: *slot, group: to.id }.into());
            }
            if to.id == ejected_group.id || !slots.iter().all(|slot| left.remove(slot)) {
                return Err(EjectionReject::NotAll(ejected_group.id).into());
            }
        }
        if !left.is_empty() {
            return Err(EjectionReject::NotAll(ejected_group.id).into());
        }

        // Slots that it owned temporarily stay in the ejection of their group.
        let others = product.groups.values().filter_map(|g| Some((g.id, &g.ejection.as_ref()?.slots & &owned)));
        let temporarily_owned: BTreeMap<GroupId, BTreeSet<SlotId>> =
            others.filter(|(_, slots)| !slots.is_empty()).collect();
        let shares: Vec<String> = self.to.iter().map(|(to, slots)| format!("group {to} ({})", slots.len())).collect();
        let text = format!("{} slot(s) go to {}: {}", owned.len(), shares.join(", "), self.why);
        for (to, slots) in &self.to {
            slot::give(state, self.product, slots.iter().copied(), Some(*to), true, when.at)?;
        }
        let groups = &mut product_mut(state, self.product)?.groups;
        let mut own = owned;
        for (home, slots) in temporarily_owned {
            own.retain(|slot| !slots.contains(slot));
            if let Some(ejection) = groups.get_mut(&home).and_then(|home| home.ejection.as_mut()) {
                ejection.slots.extend(slots);
            }
        }
        if let Some(ejected_group) = groups.get_mut(&self.group) {
            ejected_group.ejection = Some(Ejection { id: when.at.index, slots: own, since_ms: when.ms });
        }
        events::push(state, when, EventKind::Ejected, Some(self.product), subject(self.group), &text);
        Ok(Outcome::Done)
    }
}

/// Begins the assignment that gives the slots back, for which the group's primary is flushed. Without slots, the
/// ejection just ends.
impl Apply for Reinstate {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, ejection, group_epoch } = *self;
        let product = product(state, product_id)?;
        let ejected_group = group(product, id)?;
        let open =
            ejected_group.ejection.as_ref().filter(|open| open.id == ejection).ok_or(EjectionReject::NotEjected(id))?;
        same_epoch(ejected_group, group_epoch)?;
        no_promotion_open(state, product_id, product.temporary_owners(ejected_group).into_keys().chain([id]))?;
        if open.slots.is_empty() {
            reinstated(state, (product_id, id), "no slot of it is ejected any more", when)?;
            return Ok(Outcome::Done);
        }
        slots_usable(state, product, &open.slots)?;
        if state.assignments.len() >= ASSIGNMENTS_MAX {
            return Err(Reject::TooManyAssignments { max: ASSIGNMENTS_MAX });
        }

        let assignment = AssignmentId(when.at.index.0);
        let slots = open.slots.clone();
        let new =
            Assignment { id: assignment, product: product_id, slots, to: Some(id), attempts: 0, keys: Keys::Ejected };
        state.assignments.insert(assignment, new);
        Ok(Outcome::Assignment(assignment))
    }
}

/// Ends the ejection of the group. The group was flushed, so it has no old keys.
pub(super) fn reinstated(
    state: &mut ClusterState,
    (product_id, id): (ProductId, GroupId),
    text: &str,
    when: When,
) -> Result<(), Reject> {
    if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
        group.ejection = None;
    }
    events::push(state, when, EventKind::Reinstated, Some(product_id), subject(id), text);
    Ok(())
}
