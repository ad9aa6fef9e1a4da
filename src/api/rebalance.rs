//! Rebalances the groups of a product, and drains one: moves that become migrations.
//! Knows nothing of which slots should move; that is for the plan.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Api,
    call::MutationCall,
    change::{self, MutationHandler, forwardable},
    error::CallFailure,
    migrations, validate,
};
use crate::{
    control::slots::rebalance::{self, RebalanceBy, move_text, waiting_migrations},
    model::{
        ids::GroupId,
        migration::MigrationOptions,
        state::{ClusterState, Product},
    },
    plan::rebalance::SlotMove,
    wire::pb::admin::{ChangeReply, DrainGroupRequest, GroupWeight, RebalanceRequest},
};

/// Largest weight. Weights are compared with each other, and a million gives shares that are finer than any use needs.
const WEIGHT_MAX: u32 = 1_000_000;

impl MutationHandler for RebalanceRequest {
    forwardable!(rebalance);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let by = validate::rebalance_by(self.by)?;
        let weights = weights(&self.weights)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let apply = self.apply && !call.dry_run;
        // A repeat finds slots that move, whose keys cannot be counted: what the first call planned is all there is.
        let planned_before = apply && !planned(&state, product, call)?.is_empty();
        let moves = if planned_before && by != RebalanceBy::Slots {
            Vec::new()
        } else {
            rebalance::plan(&state, product, by, &weights).await.map_err(CallFailure::Refused)?
        };
        if apply {
            return make(api, call, moves, &self.product).await;
        }
        let mut done: Vec<String> = moves.iter().map(|m| move_text(m, product)).collect();
        done.extend(waiting_migrations(&moves));
        let (unchanged, moves) = (moves.is_empty(), moves.iter().map(migrations::shown).collect());
        Ok(ChangeReply { unchanged, done, moves, warnings: left_out(product), ..ChangeReply::default() })
    }
}

impl MutationHandler for DrainGroupRequest {
    forwardable!(drain_group);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let group = validate::group(self.id)?;
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let moves = rebalance::plan_drain(&state, product, group).map_err(CallFailure::Refused)?;
        make(api, call, moves, &self.product).await
    }
}

/// Starts the planned moves. A repeat of the call finds the migrations that it started before, and plans the rest.
async fn make(api: &Api, call: &MutationCall, moves: Vec<SlotMove>, product: &str) -> Result<ChangeReply, CallFailure> {
    let state = api.state();
    let product = change::product(&state, product).map_err(change::refused)?;
    let earlier = if call.dry_run { Vec::new() } else { planned(&state, product, call)? };
    let known: BTreeSet<(GroupId, GroupId)> = earlier.iter().map(|(_, pair)| *pair).collect();
    let moves: Vec<SlotMove> = moves.into_iter().filter(|m| !known.contains(&(m.from, m.to))).collect();
    let waits = waiting_migrations(&moves);
    let earlier = earlier.into_iter().map(|(planned, _)| planned).collect();
    let mut reply = migrations::start(api, call, &state, product, moves, earlier, MigrationOptions::default()).await?;
    reply.done.extend(waits);
    reply.warnings.extend(left_out(product));
    Ok(reply)
}

type PlannedMoves = ((crate::model::ids::Epoch, crate::model::ids::MigrationId), (GroupId, GroupId));

fn planned(state: &ClusterState, product: &Product, call: &MutationCall) -> Result<Vec<PlannedMoves>, CallFailure> {
    let mut all = Vec::new();
    for from in product.groups.keys() {
        for to in product.groups.keys() {
            let found = migrations::planned_before(state, std::iter::once((*from, *to)), call)?;
            all.extend(found.into_iter().map(|planned| (planned, (*from, *to))));
        }
    }
    Ok(all)
}

fn weights(given: &[GroupWeight]) -> Result<BTreeMap<GroupId, u32>, CallFailure> {
    let mut weights = BTreeMap::new();
    for GroupWeight { group, weight } in given {
        if *weight > WEIGHT_MAX {
            return Err(CallFailure::Bad(format!("weight {weight} of group {group} is larger than {WEIGHT_MAX}")));
        }
        if weights.insert(validate::group(*group)?, *weight).is_some() {
            return Err(CallFailure::Bad(format!("group {group} has two weights")));
        }
    }
    Ok(weights)
}

/// Warnings about slots without an owner, and about groups that are short of replicas: a rebalance moves none to them.
fn left_out(product: &Product) -> Vec<String> {
    let mut warnings = Vec::new();
    let free = product.slots.iter().filter(|slot| slot.owner.is_none()).count();
    if free > 0 {
        warnings.push(format!("{free} slots have no owner and were not counted; assign them: pontoon slot assign"));
    }
    let short: Vec<String> = rebalance::short_of_replicas(product).iter().map(ToString::to_string).collect();
    if !short.is_empty() {
        warnings.push(format!(
            "group(s) {} have fewer replicas than the product demands (min-acks, read-from) and were left out; add replicas: \
             pontoon group add-server",
            short.join(", ")
        ));
    }
    warnings
}
