//! The invariants of ejections.
//! Knows nothing of changes: it checks one state.

use std::collections::BTreeSet;

use super::Found;
use crate::model::{
    ids::SlotId,
    limits::EJECT_AFTER_MS,
    route::Mode,
    state::{ClusterState, Keys},
};

pub(super) fn ejections(state: &ClusterState, found: &mut Found) {
    for product in state.products.values() {
        let mut ejected: BTreeSet<SlotId> = BTreeSet::new();
        for group in product.groups.values() {
            let (id, after) = (group.id, group.options.eject_after_ms);
            found.unless(after == 0 || EJECT_AFTER_MS.contains(&after), || {
                format!("group {id}: ejected after {after} ms")
            });
            let Some(ejection) = &group.ejection else { continue };
            found.unless(product.mode == Mode::Cache, || format!("group {id} of a store ejects slots"));
            found.unless(ejection.id <= state.applied, || {
                format!("group {id} is ejected by an entry that is not applied")
            });
            found.unless(product.owned(id).is_empty(), || format!("group {id} is ejected, and owns slots"));
            for slot in &ejection.slots {
                found.unless(ejected.insert(*slot), || format!("slot {slot} is ejected by two groups"));
                let owned = product.slots.get(usize::from(slot.0)).is_some_and(|s| s.owner.is_some());
                found.unless(owned, || format!("slot {slot} is ejected and has no owner"));
            }
        }
    }
    for assignment in state.assignments.values().filter(|a| a.keys == Keys::Ejected) {
        let group = state.products.get(&assignment.product).and_then(|p| p.groups.get(&assignment.to?));
        let ejection = group.and_then(|g| g.ejection.as_ref());
        found.unless(ejection.is_some_and(|ejection| ejection.slots == assignment.slots), || {
            format!("assignment {} returns what group {:?} does not eject", assignment.id, assignment.to)
        });
    }
}
