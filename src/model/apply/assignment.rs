//! Assignments: slots change their owner without data, under a hold.
//! Knows nothing of keys and barriers: the proposer of the end has checked both, and names the term of its verdict.

use std::collections::BTreeSet;

use super::{
    Apply,
    common::{clipped, group, product, product_mut, routed},
    ejection,
    events::When,
    guard::{no_promotion_open, not_ejected, not_swept, same_term, slots_usable},
    slot,
};
use crate::model::{
    change::{AssignFree, FinishAssign, GiveUpAssign, StartAssign},
    ids::{AssignmentId, GroupId, SlotId, Term},
    limits::{ASSIGNMENTS_MAX, ENDED_MAX},
    outcome::Outcome,
    reject::Reject,
    state::{Assignment, Cause, ClusterState, EndedAssignment, Group, Keys, Product},
};

impl Apply for StartAssign {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, ref slots, to, abandon } = *self;
        let at = when.at;
        let product = product(state, product_id)?;
        let target = to.map(|to| group(product, to)).transpose()?;
        if let Some(target) = target {
            not_ejected(target)?;
        }
        slots_usable(state, product, slots)?;
        let owner = |slot: &SlotId| product.slots[usize::from(slot.0)].owner;
        let moving: BTreeSet<SlotId> = slots.iter().copied().filter(|s| owner(s) != to).collect();
        match to {
            // Keys of slots that the target gave away may still be there: it is searched for them first.
            Some(to)
                if moving.iter().all(|s| owner(s).is_none())
                    && target.is_none_or(|target| target.given_away.is_disjoint(&moving)) =>
            {
                return AssignFree { product: product_id, slots: slots.clone(), to }.apply(state, when);
            }
            None if moving.is_empty() => return Ok(Outcome::Unchanged),
            Some(_) | None => {}
        }
        if state.assignments.len() >= ASSIGNMENTS_MAX {
            return Err(Reject::TooManyAssignments { max: ASSIGNMENTS_MAX });
        }
        let id = AssignmentId(at.index.0);
        let keys = if abandon { Keys::Abandoned } else { Keys::None };
        let new = Assignment { id, product: product_id, slots: moving, to, attempts: 0, keys };
        no_promotion_open(state, product_id, concerned(product, &new))?;

        state.assignments.insert(id, new);
        Ok(Outcome::Assignment(id))
    }
}

impl Apply for FinishAssign {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { assignment: id, hold, term, ref group_epochs } = *self;
        let assignment = state.assignments.get(&id).ok_or(Reject::UnknownAssignment(id))?;
        let open = state.holds.get(&hold).ok_or(Reject::HoldNotOpen(hold))?;
        if open.cause != Cause::Assignment(id) {
            return Err(Reject::OtherCause { hold, assignment: id });
        }
        let at = when.at;
        same_term(term, at)?;
        let product = product(state, assignment.product)?;
        let target = may_receive(product, assignment)?;
        for id in concerned(product, assignment) {
            let now = group(product, id)?.epoch;
            let given = group_epochs.get(&id).copied().unwrap_or_default();
            if now != given {
                return Err(Reject::GroupChanged { group: id, given, now });
            }
        }
        let (product_id, slots, to) = (assignment.product, assignment.slots.clone(), assignment.to);
        let keys = assignment.keys;
        let temporary_owners = target.map(|target| product.temporary_owners(target)).unwrap_or_default();
        let temporary_owners: Vec<String> = temporary_owners.keys().map(ToString::to_string).collect();

        slot::give(state, product_id, slots.iter().copied(), to, keys != Keys::Abandoned, at)?;
        if let (Keys::Ejected, Some(to)) = (keys, to) {
            // It was flushed: there are no leftovers to sweep.
            if let Some(flushed) = product_mut(state, product_id)?.groups.get_mut(&to) {
                flushed.given_away.clear();
            }
            let text = format!(
                "{} slot(s) are back from group(s) {}, flushed first",
                slots.len(),
                temporary_owners.join(", ")
            );
            ejection::reinstated(state, (product_id, to), &text, when)?;
        }
        state.holds.remove(&hold);
        ended(state, EndedAssignment { id, at: at.index, failed: None });
        Ok(Outcome::Slots(slots.len() as u32))
    }

    fn term(&self) -> Option<Term> {
        Some(self.term)
    }
}

impl Apply for GiveUpAssign {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { assignment: id, ref why } = *self;
        let at = when.at;
        if !state.assignments.contains_key(&id) {
            return Err(Reject::UnknownAssignment(id));
        }

        let open = state.holds.values().find(|h| h.cause == Cause::Assignment(id)).map(|h| h.id);
        if let Some(open) = open {
            state.holds.remove(&open);
            routed(state, at);
        }
        ended(state, EndedAssignment { id, at: at.index, failed: Some(clipped(why)) });
        Ok(Outcome::Done)
    }
}

/// The owners of its slots, and the target.
pub(super) fn concerned(product: &Product, assignment: &Assignment) -> BTreeSet<GroupId> {
    let owners = assignment.slots.iter().filter_map(|s| product.slots[usize::from(s.0)].owner);
    owners.chain(assignment.to).collect()
}

/// The group that gets its slots, if it may; `None`: they are released.
pub(super) fn may_receive<'a>(product: &'a Product, assignment: &Assignment) -> Result<Option<&'a Group>, Reject> {
    let Some(to) = assignment.to else { return Ok(None) };
    let target = group(product, to)?;
    not_swept(target)?;
    if assignment.keys != Keys::Ejected {
        not_ejected(target)?;
    }
    Ok(Some(target))
}

fn ended(state: &mut ClusterState, end: EndedAssignment) {
    state.assignments.remove(&end.id);
    if state.ended_assignments.len() >= ENDED_MAX {
        state.ended_assignments.pop_front();
    }
    state.ended_assignments.push_back(end);
}
