//! Changes of the cluster's settings.
//! Knows nothing of what the settings do.

use super::{
    Api,
    change::{Call, Perform, Said, forwardable},
    error::Failure,
    validate,
};
use crate::{
    model::change::Change,
    wire::pb::admin::{ChangeReply, SetClusterRequest},
};

impl Perform for SetClusterRequest {
    forwardable!(set_cluster);

    async fn perform(&self, api: &Api, call: &Call) -> Result<ChangeReply, Failure> {
        let voters = self.voters.map(validate::voters).transpose()?;
        let hold_ms_max = self.hold_ms_max.map(validate::hold_ms).transpose()?;
        if voters.is_none() && hold_ms_max.is_none() {
            return Err(Failure::Bad("nothing to set; give voters=N or hold-max=MS".into()));
        }
        let mut said = Said::default();
        if let Some(voters) = voters {
            said.done.push(format!("voters: {voters}"));
            if voters % 2 == 0 {
                let survives = (voters - 1) / 2;
                said.warnings.push(format!("{voters} voters survive {survives} failure(s), as {} do", voters - 1));
            }
        }
        said.done.extend(hold_ms_max.map(|ms| format!("hold-max: {ms} ms")));
        api.make(call, Change::SetCluster { voters, hold_ms_max, maintenance: None, failover_share_max: None }, said)
            .await
    }
}
