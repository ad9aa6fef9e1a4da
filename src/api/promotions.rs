//! Promotions that an operator asks for.
//! Knows nothing of what happens at the servers; that is for the leader's promotion task.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    control::admission::switchover::{self, AdmittedSwitchover, SwitchoverRequest},
    model::{
        ids::{Epoch, GroupId, HostPort, PromotionId, Uuid},
        outcome::Outcome,
        reject::Reject,
        state::Group,
    },
    wire::pb::admin::{ChangeReply, PromoteRequest},
};

impl MutationHandler for PromoteRequest {
    forwardable!(promote);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let group = validate::group(self.group)?;
        let to = validate::address(&self.address)?;
        let state = api.state();
        let product = change::product(&state, &self.product)?;
        let requested = RequestedPromotion { product: &product.name, group, to: &to };
        if let Some((index, outcome)) = api.recorded(call)? {
            return requested.conclude(api, call, index, &outcome?, Vec::new()).await;
        }
        if !product.groups.contains_key(&group) {
            return Err(Reject::UnknownGroup { product: product.name.clone(), group }.into());
        }
        let is_primary = |group: &Group| group.servers.first().is_some_and(|server| server.addr == to);
        if product.groups.get(&group).is_some_and(is_primary) && state.promotion_of(product.id, group).is_none() {
            return api.already(call, format!("{to} is the primary of group {group} already")).await;
        }
        let wanted = SwitchoverRequest { product: product.id, group, to: &to, force: self.force };
        let admitted = switchover::admit(&state, wanted, call.deadline).await;
        let AdmittedSwitchover { before, change, warnings } = admitted.map_err(CallFailure::Refused)?;
        match (before, call.dry_run) {
            (None, true) => return api.dry_run(&change, warnings),
            (Some(before), true) => {
                let mut reply = api.dry_run(&before, warnings)?;
                reply.done.push(format!("{to} becomes the primary of group {group}"));
                return Ok(reply);
            }
            (Some(before), false) => {
                api.propose(&MutationCall { id: before_id(call.id), ..call.clone() }, before).await?;
            }
            (None, false) => {}
        }
        let (index, outcome) = api.propose(call, change).await?;
        requested.conclude(api, call, index, &outcome, warnings).await
    }
}

/// Change id of the change that is proposed before the promotion itself.
const fn before_id(call: Uuid) -> Uuid {
    Uuid(!call.0)
}

/// What the operator asks for.
struct RequestedPromotion<'a> {
    product: &'a str,
    group: GroupId,
    to: &'a HostPort,
}

impl RequestedPromotion<'_> {
    /// The reply to a promotion that is in the log. With `wait`, first waits for its end.
    async fn conclude(
        &self,
        api: &Api,
        call: &MutationCall,
        index: Epoch,
        outcome: &Outcome,
        warnings: Vec<String>,
    ) -> Result<ChangeReply, CallFailure> {
        let Self { product, group, to } = *self;
        let Outcome::Promotion(id) = *outcome else {
            return api
                .conclude(
                    call,
                    index,
                    *outcome == Outcome::Unchanged,
                    ChangeSummary { warnings, ..ChangeSummary::default() },
                )
                .await;
        };
        let done = if call.wait {
            self.wait(api, call, id).await?;
            format!("promotion {id}: {to} is the primary of group {group}")
        } else {
            format!(
                "promotion {id}: {to} becomes the primary of group {group}; `pontoon group show {group}` shows its progress"
            )
        };
        let summary = ChangeSummary { warnings, ..ChangeSummary::of(done).about(product) };
        let reply = api.conclude(call, index, false, summary).await?;
        Ok(ChangeReply { promotion: Some(id.0), ..reply })
    }

    async fn wait(&self, api: &Api, call: &MutationCall, id: PromotionId) -> Result<(), CallFailure> {
        let group = self.group;
        match api.control.wait_promotion(id, call.deadline).await {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(CallFailure::Stuck(format!("promotion {id} of group {group} was given up: {why}"))),
            Err(missing) => Err(CallFailure::Deadline(format!(
                "not done at the deadline, it goes on: {missing}; `pontoon group show {group}` shows its progress"
            ))),
        }
    }
}
