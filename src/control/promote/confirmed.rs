//! Whether the chosen one surely has every write that replicas have confirmed (`min-acks`): the replicas are asked.
//! Knows nothing of when that is looked at.

use std::collections::BTreeMap;

use tokio::{task::JoinSet, time::Instant};

use super::{ACT_MAX, Now, Step, Stop, Task};
use crate::{
    model::{ids::HostPort, promotion::Promotion},
    plan::acks::{Missing, has_all_confirmed},
};

impl Task {
    /// With `min-acks`: enough replicas answer, and none has more than the chosen one.
    pub(super) async fn has_all_confirmed(&self, now: &Now) -> Step<()> {
        let Promotion { to, forced, .. } = &now.promotion;
        if now.min_acks == 0 || *forced {
            return Ok(());
        }
        let mut asking = JoinSet::new();
        let end = Instant::now() + ACT_MAX;
        for server in now.group.servers.iter().skip(1) {
            let (fence, at) = (self.jobs.fence.clone(), now.at(&server.addr));
            asking.spawn(async move { (fence.standing(&at, end).await, at.addr) });
        }
        let mut offsets: BTreeMap<HostPort, u64> = BTreeMap::new();
        for (standing, addr) in asking.join_all().await {
            let Ok(standing) = standing else { continue };
            // The chosen one may be a primary since an earlier attempt.
            let own = if standing.follows.is_some() { &standing.replid } else { &standing.former_replid };
            if !standing.loading && !standing.syncing && *own == now.group.replid {
                offsets.insert(addr, standing.offset);
            }
        }
        let all = has_all_confirmed(&now.group, now.min_acks, to, |addr| offsets.get(addr).copied());
        all.map_err(|missing| match missing {
            Missing::Answers(why) => Stop::Retry(why),
            Missing::Writes(why) => Stop::Lacks { why },
        })
    }
}
