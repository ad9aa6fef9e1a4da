//! Holds: opening one for a cause, and ending it without a change of owner.
//! Knows nothing of time: who opened it decides when it is released.

use super::{clipped, routed};
use crate::model::{
    ids::HoldId,
    outcome::Outcome,
    reject::Reject,
    route::{HoldKind, Mode},
    state::{Cause, ClusterState, Hold, Position},
};

pub(super) fn open(
    state: &mut ClusterState,
    cause: Cause,
    attempt: u32,
    kind: HoldKind,
    reason: &str,
    at_ms: u64,
    at: Position,
) -> Result<Outcome, Reject> {
    let Cause::Assignment(assignment_id) = cause;
    let assignment = state.assignments.get(&assignment_id).ok_or(Reject::UnknownAssignment(assignment_id))?;
    // A cache may lose what is in flight to an owner that is dead; a store may not.
    let mode = super::product(state, assignment.product)?.mode;
    if kind != HoldKind::Wait && mode == Mode::Store {
        return Err(Reject::WrongHoldKind);
    }
    for held in state.holds.values().filter(|h| h.product == assignment.product) {
        if let Some(slot) = held.slots.intersection(&assignment.slots).next() {
            return Err(Reject::SlotHeld { slot: *slot, hold: held.id });
        }
    }
    if attempt != assignment.attempts + 1 {
        let attempts = assignment.attempts;
        return Err(Reject::WrongAttempt { assignment: assignment_id, attempts, given: attempt });
    }

    let id = HoldId(at.index.0);
    let hold = Hold {
        id,
        cause,
        attempt,
        product: assignment.product,
        slots: assignment.slots.clone(),
        kind,
        term: at.term,
        since_ms: at_ms,
        reason: clipped(reason),
    };
    state.holds.insert(id, hold);
    if let Some(assignment) = state.assignments.get_mut(&assignment_id) {
        assignment.attempts = attempt;
    }
    routed(state, at);
    Ok(Outcome::Held(id))
}

pub(super) fn release(state: &mut ClusterState, hold: HoldId, at: Position) -> Result<Outcome, Reject> {
    if !state.holds.contains_key(&hold) {
        return Err(Reject::HoldNotOpen(hold));
    }

    state.holds.remove(&hold);
    routed(state, at);
    Ok(Outcome::Done)
}
