//! Whether the chosen one surely has every write that replicas have confirmed (`min-acks`): the replicas are asked.
//! Knows nothing of when that is looked at.

use std::collections::BTreeMap;

use tokio::{task::JoinSet, time::Instant};

use super::{ACT_MAX, CATCH_UP_LOOK, Now, Step, Stop, Task};
use crate::{
    model::{ids::HostPort, promotion::Promotion},
    plan::acks::{Missing, has_all_confirmed},
    redis::Standing,
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
        for server in now.group.servers.iter().skip(1).filter(|server| server.addr != *to) {
            let (fence, at) = (self.jobs.fence.clone(), now.at(&server.addr));
            asking.spawn(async move { (fence.standing(&at, end).await, at.addr) });
        }
        let mut offsets: BTreeMap<HostPort, u64> = BTreeMap::new();
        for (standing, addr) in asking.join_all().await {
            let offset = standing.ok().and_then(|standing| offset_of_history(&standing, &now.group.replid));
            offsets.extend(offset.map(|offset| (addr, offset)));
        }
        // The chosen one last: what it still gets from a primary that only the nodes do not reach, it gets in a moment. What was
        // acknowledged lies before, so nothing is lost by waiting for it.
        let most = offsets.values().copied().max().unwrap_or_default();
        loop {
            let standing = self.ask_by(now, to, end).await.ok();
            let offset = standing.and_then(|standing| offset_of_history(&standing, &now.group.replid));
            offsets.extend(offset.map(|offset| (to.clone(), offset)));
            if offset.is_none_or(|offset| offset >= most) || Instant::now() + CATCH_UP_LOOK >= end {
                break;
            }
            tokio::time::sleep(CATCH_UP_LOOK).await;
        }
        let all = has_all_confirmed(&now.group, now.min_acks, to, |addr| offsets.get(addr).copied());
        all.map_err(|missing| match missing {
            Missing::Answers(why) => Stop::Retry(why),
            Missing::Writes(why) => Stop::Lacks { why },
        })
    }
}

/// How far a server has the stream of this history; `None`: its data is not of it, or not whole. The chosen one may be a primary
/// since an earlier attempt: what it has written since (expired keys, for one) is not of that stream.
fn offset_of_history(standing: &Standing, replid: &str) -> Option<u64> {
    if standing.loading || standing.syncing {
        return None;
    }
    match &standing.follows {
        Some(_) => (standing.replid == replid).then_some(standing.offset),
        None if standing.former_replid == replid => Some(standing.former_offset.unwrap_or(standing.offset)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_promoted_server_wrote_itself_does_not_count() {
        let replica =
            Standing { follows: Some(("a".into(), 1)), replid: "old".into(), offset: 100, ..Standing::default() };
        assert_eq!(offset_of_history(&replica, "old"), Some(100));
        assert_eq!(offset_of_history(&replica, "other"), None);
        assert_eq!(offset_of_history(&Standing { syncing: true, ..replica.clone() }, "old"), None);
        let promoted = Standing {
            replid: "new".into(),
            former_replid: "old".into(),
            former_offset: Some(90),
            offset: 5_000,
            ..Standing::default()
        };
        assert_eq!(offset_of_history(&promoted, "old"), Some(90));
        assert_eq!(offset_of_history(&promoted, "new"), None, "of its own making");
    }
}
