//! The owner of a slot: how it changes, and how slots without one get one.
//! Slots that have an owner change it under a hold (`assignment`, `migration`), or when they are ejected.

use super::{
    Apply,
    common::{group, product, product_mut, routed},
    events::When,
    guard::{no_promotion_open, not_ejected, slots_usable},
};
use crate::model::{
    change::AssignFree,
    ids::{GroupId, ProductId, SlotId},
    outcome::Outcome,
    reject::Reject,
    scan_history::GroupChange,
    state::{ClusterState, Position, SlotState},
};

impl Apply for AssignFree {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, ref slots, to } = *self;
        let at = when.at;
        let product = product(state, product_id)?;
        let target = group(product, to)?;
        not_ejected(target)?;
        slots_usable(state, product, slots)?;
        let mut free = Vec::new();
        for slot in slots {
            let now = product.slots[usize::from(slot.0)];
            match now.owner {
                None => free.push(*slot),
                Some(owner) if owner == to => {}
                Some(owner) => return Err(Reject::SlotOwned { slot: *slot, owner, epoch: now.epoch, to }),
            }
        }
        if free.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        // A slot that was released: its former owner may still have keys of it, and deletes them.
        if let Some(slot) = free.iter().find(|slot| target.given_away.contains(slot)) {
            return Err(Reject::SlotLeftovers { slot: *slot, group: to });
        }
        // A promotion holds the slots that its group has when it opens the hold.
        no_promotion_open(state, product_id, [to])?;

        give(state, product_id, free.iter().copied(), Some(to), true, at)?;
        Ok(Outcome::Slots(free.len() as u32))
    }
}

/// Makes `to` the owner of `slots`, or leaves them without one: the only function that changes an owner. With `remember`, former owners note the
/// slots that they gave away: their keys there are leftovers, which a sweep deletes. The caller has checked everything;
/// product and groups exist.
pub(super) fn give(
    state: &mut ClusterState,
    product_id: ProductId,
    slots: impl Iterator<Item = SlotId>,
    to: Option<GroupId>,
    remember: bool,
    at: Position,
) -> Result<(), Reject> {
    let product = product_mut(state, product_id)?;
    for slot in slots {
        let entry = &mut product.slots[usize::from(slot.0)];
        let former = entry.owner;
        *entry = SlotState { owner: to, epoch: at.index };
        if let Some(former) = former.filter(|_| remember).and_then(|id| product.groups.get_mut(&id)) {
            former.given_away.insert(slot);
        }
        if let Some(owner) = to.and_then(|to| product.groups.get_mut(&to)) {
            owner.given_away.remove(&slot);
        }
        // The new owner is not temporary; Eject adds the ejected slots after this.
        for ejection in product.groups.values_mut().filter_map(|g| g.ejection.as_mut()) {
            ejection.slots.remove(&slot);
        }
    }
    if let Some(to) = to {
        product.scans.record(GroupChange::Changed(to));
    }
    routed(state, at);
    Ok(())
}
