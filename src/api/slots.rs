//! Changes of slots: assign, release.
//! Knows nothing of holds; the leader's assignment loop begins and ends them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    control::slots::scan::{SCAN_BUDGET, ScanResult, scan_for_slots, show_key},
    model::{
        change::{AssignFree, Change, StartAssign},
        ids::{Epoch, GroupId, SlotId},
        outcome::Outcome,
        reject::Reject,
        route::Mode,
        slot::brief,
        state::Product,
    },
    wire::pb::admin::{AssignSlotsRequest, ChangeReply, ReleaseSlotsRequest},
};

impl MutationHandler for AssignSlotsRequest {
    forwardable!(assign_slots);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let to = validate::group(self.group)?;
        let state = api.state();
        let product = change::product(&state, &self.product)?;
        let slots = validate::slots(&self.slots, product.layout)?;
        let summary =
            ChangeSummary::of(format!("slots {} of product '{}' belong to group {to}", brief(&slots), product.name))
                .about(&product.name);
        if let Some((index, outcome)) = api.recorded(call)? {
            return api.assigned(call, index, outcome?, summary).await;
        }
        let Some(target) = product.groups.get(&to) else {
            return Err(Reject::UnknownGroup { product: product.name.clone(), group: to }.into());
        };
        let owned = owned_by_others(product, &slots, Some(to));
        // What the target gave away before is searched for leftovers, which takes an assignment.
        let change = if owned.is_empty() && !self.abandon_data && target.given_away.is_disjoint(&slots) {
            Change::AssignFree(AssignFree { product: product.id, slots, to })
        } else {
            Change::StartAssign(StartAssign { product: product.id, slots, to: Some(to), abandon: self.abandon_data })
        };
        let would = api.dry_run(&change, Vec::new())?;
        if !self.force {
            api.keeps_replicas(call, &change)?;
        }
        if !self.abandon_data {
            check_empty(product, &owned).await?;
        }
        if call.dry_run {
            return Ok(would);
        }
        let (index, outcome) = api.propose(call, change).await?;
        api.assigned(call, index, outcome, summary).await
    }
}

impl MutationHandler for ReleaseSlotsRequest {
    forwardable!(release_slots);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let state = api.state();
        let product = change::product(&state, &self.product)?;
        let slots = validate::slots(&self.slots, product.layout)?;
        let summary = ChangeSummary::of(format!("slots {} of product '{}' have no owner", brief(&slots), product.name))
            .about(&product.name);
        if let Some((index, outcome)) = api.recorded(call)? {
            return api.assigned(call, index, outcome?, summary).await;
        }
        let owned = owned_by_others(product, &slots, None);
        let abandon = self.abandon_data;
        let change = Change::StartAssign(StartAssign { product: product.id, slots, to: None, abandon });
        let would = api.dry_run(&change, Vec::new())?;
        if !abandon {
            check_empty(product, &owned).await?;
        }
        if call.dry_run {
            return Ok(would);
        }
        let (index, outcome) = api.propose(call, change).await?;
        api.assigned(call, index, outcome, summary).await
    }
}

impl Api {
    /// The reply to an assignment; waits for its end if it takes a hold.
    pub(super) async fn assigned(
        &self,
        call: &MutationCall,
        index: Epoch,
        outcome: Outcome,
        summary: ChangeSummary,
    ) -> Result<ChangeReply, CallFailure> {
        if let Outcome::Assignment(id) = outcome {
            let ended = self.control.wait_assignment(id, call.deadline).await.map_err(|missing| {
                CallFailure::Deadline(format!(
                    "not done at the deadline: {missing}; `pontoon slot ls` shows its progress"
                ))
            })?;
            if let Some(why) = ended.failed {
                return Err(CallFailure::Refused(format!("no slot changed its owner: {why}")));
            }
        }
        self.conclude(call, index, outcome == Outcome::Unchanged, summary).await
    }
}

/// The slots that another group than `to` owns, by owner.
fn owned_by_others(
    product: &Product,
    slots: &BTreeSet<SlotId>,
    to: Option<GroupId>,
) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
    let mut owned: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    for slot in slots {
        if let Some(owner) =
            product.slots.get(usize::from(slot.0)).and_then(|state| state.owner).filter(|o| Some(*o) != to)
        {
            owned.entry(owner).or_default().insert(*slot);
        }
    }
    owned
}

/// Checks that the owners have no keys of these slots, so that no hold begins that must be released.
async fn check_empty(product: &Product, owned: &BTreeMap<GroupId, BTreeSet<SlotId>>) -> Result<(), CallFailure> {
    for (owner, slots) in owned {
        let Some(group) = product.groups.get(owner) else { continue };
        let Some(primary) = group.servers.first() else { continue };
        let found = scan_for_slots(
            &primary.addr,
            group.credentials.as_ref(),
            product.layout,
            slots,
            product.databases,
            SCAN_BUDGET,
        );
        match found.await {
            ScanResult::Empty { .. } => {}
            ScanResult::Found { key, slot, db } => {
                return Err(CallFailure::Refused(format!(
                    "slot {slot} is not empty: group {owner} ({}) has key '{}' in database {db}; slots with keys are not \
                     assigned or released, because the keys would stay at the old owner: move the slots with their keys (pontoon migrate \
                     start {slot} --to GID), or abandon the keys (--abandon-data)",
                    primary.addr,
                    show_key(&key)
                )));
            }
            // A cache abandons the keys of a group that is down. The assignment finds out whether the group is down.
            ScanResult::Unfinished { .. } if product.mode == Mode::Cache => {}
            ScanResult::Unfinished { why } => {
                return Err(CallFailure::Refused(format!(
                    "it is not certain that group {owner} has no keys of these slots: {why}; or abandon what it may have (--abandon-data)"
                )));
            }
        }
    }
    Ok(())
}
