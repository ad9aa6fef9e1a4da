//! Asks the replicas whether the candidate provably has every confirmed write (`min-acks`).
//! Knows nothing of when that must be checked.

use std::collections::BTreeMap;

use tokio::{task::JoinSet, time::Instant};

use super::{ACT_MAX, CATCH_UP_POLL_INTERVAL, PromotionContext, PromotionDriver, PromotionFailure, PromotionResult};
use crate::{
    model::{ids::HostPort, promotion::Promotion},
    plan::acks::{MissingConfirmation, has_all_confirmed},
    redis::ReplicationStatus,
};

impl PromotionDriver {
    /// With `min-acks`: enough replicas answer, and none has a higher offset than the candidate.
    pub(super) async fn has_all_confirmed(&self, now: &PromotionContext) -> PromotionResult<()> {
        let Promotion { to, forced, .. } = &now.promotion;
        if now.min_acks == 0 || *forced {
            return Ok(());
        }
        let mut asking = JoinSet::new();
        let end = Instant::now() + ACT_MAX;
        for server in now.group.servers.iter().skip(1).filter(|server| server.addr != *to) {
            let (fence, at) = (self.ctx.fence.clone(), now.control_target(&server.addr));
            asking.spawn(async move { (fence.replication_status(&at, end).await, at.addr) });
        }
        let mut offsets: BTreeMap<HostPort, u64> = BTreeMap::new();
        for (replication_status, addr) in asking.join_all().await {
            let offset = replication_status
                .ok()
                .and_then(|replication_status| offset_of_history(&replication_status, &now.group.replid));
            offsets.extend(offset.map(|offset| (addr, offset)));
        }
        // The candidate is asked last, and again until it has caught up: a primary that only the nodes do not reach may
        // still send to it. The acknowledged writes are older than the first answers, so that waiting loses nothing.
        let most = offsets.values().copied().max().unwrap_or_default();
        loop {
            let replication_status = self.ask_by(now, to, end).await.ok();
            let offset = replication_status
                .and_then(|replication_status| offset_of_history(&replication_status, &now.group.replid));
            offsets.extend(offset.map(|offset| (to.clone(), offset)));
            if offset.is_none_or(|offset| offset >= most) || Instant::now() + CATCH_UP_POLL_INTERVAL >= end {
                break;
            }
            tokio::time::sleep(CATCH_UP_POLL_INTERVAL).await;
        }
        let all = has_all_confirmed(&now.group, now.min_acks, to, |addr| offsets.get(addr).copied());
        all.map_err(|missing| match missing {
            MissingConfirmation::Answers(why) => PromotionFailure::Retry(why),
            MissingConfirmation::Writes(why) => PromotionFailure::Lacks { why },
        })
    }
}

/// Up to which offset a server has the stream of this history; `None`: its data has another history, or is incomplete.
/// The candidate may be a primary since an earlier attempt: what it has written since (expired keys, for example) does
/// not count.
fn offset_of_history(replication_status: &ReplicationStatus, replid: &str) -> Option<u64> {
    if replication_status.loading || replication_status.syncing {
        return None;
    }
    match &replication_status.follows {
        Some(_) => (replication_status.replid == replid).then_some(replication_status.offset),
        None if replication_status.former_replid == replid => {
            Some(replication_status.former_offset.unwrap_or(replication_status.offset))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_promoted_server_wrote_itself_does_not_count() {
        let replica = ReplicationStatus {
            follows: Some(("a".into(), 1)),
            replid: "old".into(),
            offset: 100,
            ..ReplicationStatus::default()
        };
        assert_eq!(offset_of_history(&replica, "old"), Some(100));
        assert_eq!(offset_of_history(&replica, "other"), None);
        assert_eq!(offset_of_history(&ReplicationStatus { syncing: true, ..replica.clone() }, "old"), None);
        let promoted = ReplicationStatus {
            replid: "new".into(),
            former_replid: "old".into(),
            former_offset: Some(90),
            offset: 5_000,
            ..ReplicationStatus::default()
        };
        assert_eq!(offset_of_history(&promoted, "old"), Some(90));
        assert_eq!(offset_of_history(&promoted, "new"), None, "of its own making");
    }
}
