//! What the leader has seen of a primary's process, or done at a server, written down.
//! Knows nothing of why it did.

use super::{
    events::{self, When},
    group, product, product_mut,
    promotion::{replid_allowed, same_epoch, server_at, subject},
};
use crate::model::{
    event::EventKind,
    ids::{Epoch, GroupId, HostPort, ProductId},
    outcome::Outcome,
    reject::{PromotionReject, Reject},
    state::ClusterState,
};

/// A primary's process.
pub(super) struct Process<'a> {
    pub replid: &'a str,
    pub run_id: &'a str,
    /// Now, and those of the process before, where they are known.
    pub keys: (u64, Option<u64>),
}

pub(super) fn process(
    state: &mut ClusterState,
    (product_id, group_id): (ProductId, GroupId),
    epoch: Epoch,
    now: &Process<'_>,
    when: When,
) -> Result<Outcome, Reject> {
    let group = group(product(state, product_id)?, group_id)?;
    same_epoch(group, epoch)?;
    let Process { replid, run_id, keys: (keys, before) } = *now;
    if !replid_allowed(replid) || !(run_id.is_empty() || replid_allowed(run_id)) {
        return Err(PromotionReject::BadReplid(group_id).into());
    }
    let other = !run_id.is_empty() && group.run_id != run_id;
    if group.replid == replid && !other {
        return Ok(Outcome::Unchanged);
    }

    let primary = group.servers.first().map_or("nobody", |s| s.addr.as_str());
    let restarted = other && !group.run_id.is_empty();
    let text = if restarted {
        let had = before.map_or_else(|| "how many it had is not known".into(), |keys| format!("{keys} before"));
        let what = if keys == 0 { "restarted empty" } else { "restarted" };
        let lost = keys == 0 || before.is_some_and(|before| keys < before);
        let lost = if lost { "; what it had not saved is lost, also on the replicas that copy it" } else { "" };
        format!("{primary} {what}: {keys} keys, {had}{lost} (run_id {run_id} instead of {})", group.run_id)
    } else {
        let instead = &group.replid;
        format!("{primary} has replication id {replid} instead of {instead}, without a restart that was seen")
    };
    let known = !group.replid.is_empty() && group.replid != replid;
    if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&group_id) {
        replid.clone_into(&mut group.replid);
        if other {
            run_id.clone_into(&mut group.run_id);
        }
        if restarted {
            group.restarted_with = Some(keys);
        }
    }
    if known || restarted {
        events::push(state, when, EventKind::PrimaryNoted, Some(product_id), subject(group_id), &text);
    }
    Ok(Outcome::Done)
}

pub(super) fn reconciled(
    state: &mut ClusterState,
    (product_id, group_id): (ProductId, GroupId),
    addr: &HostPort,
    text: &str,
    when: When,
) -> Result<Outcome, Reject> {
    let product = product(state, product_id)?;
    let group = group(product, group_id)?;
    let addr = group.servers[server_at(product, group, addr)?].addr.clone();
    let text = format!("{addr} {text}");
    events::push(state, when, EventKind::Reconciled, Some(product_id), subject(group_id), &text);
    Ok(Outcome::Done)
}
