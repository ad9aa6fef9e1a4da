//! Holds: opening one for a cause, and ending it without a change of owner.
//! Knows nothing of time: the leader decides when a hold is released.

use std::collections::BTreeSet;

use super::{
    Apply, assignment,
    common::{clipped, product, routed},
    events::When,
    guard::no_promotion_open,
    migration, promotion,
};
use crate::model::{
    change::{OpenHold, Release},
    ids::{AssignmentId, HoldId, ProductId, SlotId},
    outcome::Outcome,
    reject::{MigrationReject, Reject},
    route::{HoldKind, Mode},
    state::{Cause, ClusterState, Hold},
};

impl Apply for OpenHold {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { cause, attempt, kind, ref reason } = *self;
        let (product, slots) = match cause {
            Cause::Assignment(id) => for_assignment(state, id, attempt, kind)?,
            Cause::Migration(id) => {
                if kind != HoldKind::Wait {
                    return Err(MigrationReject::WrongHoldKind.into());
                }
                migration::may_hold(state, id, attempt)?
            }
            Cause::Promotion(id) => promotion::may_hold(state, id, attempt, kind)?,
        };
        for held in state.holds.values().filter(|h| h.product == product) {
            if let Some(slot) = held.slots.intersection(&slots).next() {
                return Err(Reject::SlotHeld { slot: *slot, hold: held.id });
            }
        }

        let id = HoldId(when.at.index.0);
        let reason = clipped(reason);
        let hold = Hold {
            id,
            cause,
            attempt,
            product,
            slots,
            kind,
            term: when.at.term,
            since_ms: when.ms,
            reason: reason.clone(),
        };
        state.holds.insert(id, hold.clone());
        match cause {
            Cause::Assignment(cause) => {
                if let Some(assignment) = state.assignments.get_mut(&cause) {
                    assignment.attempts = attempt;
                }
            }
            Cause::Migration(cause) => migration::held(state, cause, id, &reason, when),
            Cause::Promotion(cause) => promotion::held(state, cause, &hold, when),
        }
        routed(state, when.at);
        Ok(Outcome::Held(id))
    }
}

impl Apply for Release {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { hold, ref why } = *self;
        let Some(ended) = state.holds.remove(&hold) else {
            return Err(Reject::HoldNotOpen(hold));
        };
        match ended.cause {
            Cause::Assignment(_) => {}
            Cause::Migration(id) => migration::released(state, id, &ended, why, when),
            Cause::Promotion(id) => promotion::released(state, id, &ended, why, when),
        }
        routed(state, when.at);
        Ok(Outcome::Done)
    }
}

/// The product and the slots that the assignment holds, if it may (other holds aside).
fn for_assignment(
    state: &ClusterState,
    id: AssignmentId,
    attempt: u32,
    kind: HoldKind,
) -> Result<(ProductId, BTreeSet<SlotId>), Reject> {
    let assignment = state.assignments.get(&id).ok_or(Reject::UnknownAssignment(id))?;
    let product = product(state, assignment.product)?;
    // A cache may abandon requests in flight to an owner that is down; a store must not.
    if kind != HoldKind::Wait && product.mode == Mode::Store {
        return Err(Reject::WrongHoldKind);
    }
    assignment::may_receive(product, assignment)?;
    no_promotion_open(state, product.id, assignment::concerned(product, assignment))?;
    if attempt != assignment.attempts + 1 {
        let attempts = assignment.attempts;
        return Err(Reject::WrongAttempt { assignment: id, attempts, given: attempt });
    }
    Ok((assignment.product, assignment.slots.clone()))
}
