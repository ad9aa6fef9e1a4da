//! Changes of the cluster's settings.

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable},
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

/// Groups that stay in maintenance after maintenance of the whole cluster ends.
fn still_maintained(state: &ClusterState) -> Vec<String> {
    let groups = state.products.values().flat_map(|product| product.groups.values().map(move |group| (product, group)));
    let maintained = groups.filter(|(_, group)| group.options.maintenance);
    maintained
        .map(|(product, group)| {
            format!(
                "group {} of product '{}' stays in maintenance (pontoon maintenance off {} --product {})",
                group.id, product.name, group.id, product.name
            )
        })
        .collect()
}

impl MutationHandler for SetClusterRequest {
    forwardable!(set_cluster);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let voters = self.voters.map(validate::voters).transpose()?;
        let hold_ms_max = self.hold_max_ms.map(validate::hold_max_ms).transpose()?;
        let failover_share_max = self.failover_share_max_percent.map(validate::failover_share_max).transpose()?;
        let maintenance = self.maintenance;
        if voters.is_none() && hold_ms_max.is_none() && failover_share_max.is_none() && maintenance.is_none() {
            return Err(CallFailure::Bad(
                "nothing to set; give voters=N, hold-max=250ms, failover-share-max=PERCENT or maintenance=on|off"
                    .into(),
            ));
        }
        let mut summary = ChangeSummary::default();
        if let Some(voters) = voters {
            summary.done.push(format!("voters: {voters}"));
            if voters % 2 == 0 {
                let survives = (voters - 1) / 2;
                summary
                    .warnings
                    .push(format!("{voters} voters survive {survives} failure(s), no more than {} voters", voters - 1));
            }
        }
        summary.done.extend(hold_ms_max.map(|ms| format!("hold-max: {ms} ms")));
        summary.done.extend(failover_share_max.map(|share| format!("failover-share-max: {share} %")));
        summary.done.extend(maintenance.map(|on| change::maintenance(on, "the whole cluster")));
        if maintenance == Some(false) {
            summary.warnings.extend(still_maintained(&api.state()));
        }
        let change = Change::SetCluster(SetCluster { voters, hold_ms_max, maintenance, failover_share_max });
        if !self.force {
            api.keeps_quorum(call, &change).await?;
        }
        api.make(call, change, summary).await
    }
}
