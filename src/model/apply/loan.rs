//! Loans: the slots of a cache's group that is out go to other groups, and come back.
//! Knows nothing of who is down or back, nor of keys: who proposes has looked, and has flushed the server that gets slots back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    assign::not_swept,
    events::{self, When},
    group, product, product_mut,
    promotion::{none_open, same_epoch, subject},
    slot, slots_usable,
};
use crate::model::{
    event::EventKind,
    ids::{AssignmentId, Epoch, GroupId, ProductId, SlotId},
    limits::ASSIGNMENTS_MAX,
    loan::Loan,
    outcome::Outcome,
    reject::{LoanReject, MigrationReject, Reject},
    route::Mode,
    state::{Assignment, ClusterState, Group, Keys},
};

/// What Lend carries.
pub(super) struct Lend<'a> {
    pub product: ProductId,
    pub group: GroupId,
    pub group_epoch: Epoch,
    pub to: &'a BTreeMap<GroupId, BTreeSet<SlotId>>,
    pub why: &'a str,
}

/// One entry, no hold: what is in flight to a server that is gone is answered by nobody, and a reply that comes all the same
/// is of another slot epoch.
pub(super) fn lend(state: &mut ClusterState, new: &Lend<'_>, when: When) -> Result<Outcome, Reject> {
    let product = product(state, new.product)?;
    let lender = group(product, new.group)?;
    if product.mode != Mode::Cache {
        return Err(LoanReject::NotCache(product.name.clone()).into());
    }
    in_place(lender)?;
    same_epoch(lender, new.group_epoch)?;
    none_open(state, product.id, new.to.keys().copied().chain([lender.id]))?;
    let owned = product.owned(lender.id);
    slots_usable(state, product, &owned)?;
    let comes =
        |m: &&crate::model::migration::Migration| m.product == product.id && m.to == lender.id && m.phase.attempting();
    if let Some(open) = state.migrations.values().find(comes) {
        let by = format!("migration {}", open.id);
        return Err(MigrationReject::GroupReceives { group: lender.id, by }.into());
    }
    let mut left = owned.clone();
    for (to, slots) in new.to {
        let to = group(product, *to)?;
        in_place(to)?;
        not_swept(to)?;
        if let Some(slot) = slots.intersection(&to.given_away).next() {
            return Err(LoanReject::Leftovers { slot: *slot, group: to.id }.into());
        }
        if to.id == lender.id || !slots.iter().all(|slot| left.remove(slot)) {
            return Err(LoanReject::NotAll(lender.id).into());
        }
    }
    if !left.is_empty() {
        return Err(LoanReject::NotAll(lender.id).into());
    }

    // What it had borrowed itself stays in the loan of whose it is.
    let others = product.groups.values().filter_map(|g| Some((g.id, &g.loan.as_ref()?.slots & &owned)));
    let borrowed: BTreeMap<GroupId, BTreeSet<SlotId>> = others.filter(|(_, slots)| !slots.is_empty()).collect();
    let shares: Vec<String> = new.to.iter().map(|(to, slots)| format!("group {to} ({})", slots.len())).collect();
    let text = format!("{} slot(s) go to {}: {}", owned.len(), shares.join(", "), new.why);
    for (to, slots) in new.to {
        slot::give(state, new.product, slots.iter().copied(), *to, true, when.at)?;
    }
    let groups = &mut product_mut(state, new.product)?.groups;
    let mut own = owned;
    for (home, slots) in borrowed {
        own.retain(|slot| !slots.contains(slot));
        if let Some(loan) = groups.get_mut(&home).and_then(|home| home.loan.as_mut()) {
            loan.slots.extend(slots);
        }
    }
    if let Some(lender) = groups.get_mut(&new.group) {
        lender.loan = Some(Loan { id: when.at.index, slots: own, since_ms: when.ms });
    }
    events::push(state, when, EventKind::Lent, Some(new.product), subject(new.group), &text);
    Ok(Outcome::Done)
}

/// A loan begins to come back: an assignment, for which the group's primary is flushed. One of no slots just ends.
pub(super) fn give_back(
    state: &mut ClusterState,
    (product_id, id): (ProductId, GroupId),
    loan: Epoch,
    group_epoch: Epoch,
    when: When,
) -> Result<Outcome, Reject> {
    let product = product(state, product_id)?;
    let lender = group(product, id)?;
    let open = lender.loan.as_ref().filter(|open| open.id == loan).ok_or(LoanReject::NotOut(id))?;
    same_epoch(lender, group_epoch)?;
    none_open(state, product_id, product.borrowers(lender).into_keys().chain([id]))?;
    if open.slots.is_empty() {
        returned(state, (product_id, id), "it lends nothing any more", when)?;
        return Ok(Outcome::Done);
    }
    slots_usable(state, product, &open.slots)?;
    if state.assignments.len() >= ASSIGNMENTS_MAX {
        return Err(Reject::TooManyAssignments { max: ASSIGNMENTS_MAX });
    }

    let assignment = AssignmentId(when.at.index.0);
    let slots = open.slots.clone();
    let new = Assignment { id: assignment, product: product_id, slots, to: id, attempts: 0, keys: Keys::Lent };
    state.assignments.insert(assignment, new);
    Ok(Outcome::Assignment(assignment))
}

/// The group is in its place again; it was flushed, so nothing of before is left there.
pub(super) fn returned(
    state: &mut ClusterState,
    (product_id, id): (ProductId, GroupId),
    text: &str,
    when: When,
) -> Result<(), Reject> {
    if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
        group.loan = None;
    }
    events::push(state, when, EventKind::Returned, Some(product_id), subject(id), text);
    Ok(())
}

/// Refuses to give slots to a group whose own slots are lent: it is flushed before it gets them back.
pub(super) fn in_place(group: &Group) -> Result<(), Reject> {
    if group.loan.is_some() { Err(LoanReject::Out(group.id).into()) } else { Ok(()) }
}
