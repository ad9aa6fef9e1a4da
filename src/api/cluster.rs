//! Changes of the cluster's settings.
//! Knows nothing of what the settings do.

use super::{
    Api,
    change::{ChangeSummary, MutationCall, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    model::{
        change::{Change, SetCluster},
        state::ClusterState,
    },
    wire::pb::admin::{ChangeReply, SetClusterRequest},
};

/// What maintenance means, for the whole cluster or a group.
#[must_use]
pub fn maintained(on: bool, whose: &str) -> String {
    if on {
        format!("maintenance is on in {whose}: no failover and no wiring by itself, until it is off")
    } else {
        format!("maintenance is off in {whose}")
    }
}

/// Groups that stay in maintenance when the whole cluster is not any more.
fn still_maintained(state: &ClusterState) -> Vec<String> {
    let groups = state.products.values().flat_map(|product| product.groups.values().map(move |group| (product, group)));
    let maintained = groups.filter(|(_, group)| group.options.maintenance);
    maintained
        .map(|(product, group)| {
            format!(
                "group {} of product '{}' stays in maintenance of its own (pontoon maintenance off {} --product {})",
                group.id, product.name, group.id, product.name
            )
        })
        .collect()
}

impl MutationHandler for SetClusterRequest {
    forwardable!(set_cluster);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let voters = self.voters.map(validate::voters).transpose()?;
        let hold_ms_max = self.hold_ms_max.map(validate::hold_ms).transpose()?;
        let failover_share_max = self.failover_share_max.map(validate::failover_share).transpose()?;
        let maintenance = self.maintenance;
        if voters.is_none() && hold_ms_max.is_none() && failover_share_max.is_none() && maintenance.is_none() {
            return Err(CallFailure::Bad(
                "nothing to set; give voters=N, hold-max=250ms, failover-share-max=PERCENT or maintenance=on|off"
                    .into(),
            ));
        }
        let mut said = ChangeSummary::default();
        if let Some(voters) = voters {
            said.done.push(format!("voters: {voters}"));
            if voters % 2 == 0 {
                let survives = (voters - 1) / 2;
                said.warnings.push(format!("{voters} voters survive {survives} failure(s), as {} do", voters - 1));
            }
        }
        said.done.extend(hold_ms_max.map(|ms| format!("hold-max: {ms} ms")));
        said.done.extend(failover_share_max.map(|share| format!("failover-share-max: {share} %")));
        said.done.extend(maintenance.map(|on| maintained(on, "the whole cluster")));
        if maintenance == Some(false) {
            said.warnings.extend(still_maintained(&api.state()));
        }
        api.make(call, Change::SetCluster(SetCluster { voters, hold_ms_max, maintenance, failover_share_max }), said)
            .await
    }
}
