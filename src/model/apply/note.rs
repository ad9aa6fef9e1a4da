//! Records what the leader has observed at servers and nodes, or changed there.

use super::{
    Apply,
    common::{group, product, product_mut, routed, server_at, server_mut, subject},
    events::{self, When},
    guard::{no_promotion_open, replid_allowed, same_epoch},
};
use crate::model::{
    change::{MarkResynced, NoteGroup, NoteNode, NotePrimary, NoteReconciled},
    event::EventKind,
    outcome::Outcome,
    reject::{PromotionReject, Reject},
    scan_history::GroupChange,
    state::ClusterState,
};

impl Apply for NotePrimary {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: group_id, epoch, ref replid, ref run_id, keys, keys_before } = *self;
        let group = group(product(state, product_id)?, group_id)?;
        same_epoch(group, epoch)?;
        if !replid_allowed(replid) || !(run_id.is_empty() || replid_allowed(run_id)) {
            return Err(PromotionReject::BadReplid(group_id).into());
        }
        let other_process = !run_id.is_empty() && group.run_id != *run_id;
        if group.replid == *replid && !other_process {
            return Ok(Outcome::Unchanged);
        }

        let primary = group.servers.first().map_or("nobody", |s| s.addr.as_str());
        let restarted = other_process && !group.run_id.is_empty();
        let text = if restarted {
            let had = keys_before.map_or_else(
                || "the number of keys before is not known".into(),
                |keys| format!("{keys} at the last probe before"),
            );
            let what = if keys == 0 { "restarted empty" } else { "restarted" };
            let lost = keys == 0 || keys_before.is_some_and(|before| keys < before);
            let lost = if lost { "; what it had not saved is lost, also on the replicas that copy it" } else { "" };
            format!("{primary} {what}: {keys} keys, {had}{lost} (run_id {run_id} instead of {})", group.run_id)
        } else {
            let cause = if run_id.is_empty() {
                ": it restarted, was replaced by hand, or got its first replica"
            } else {
                ", without a restart that was observed"
            };
            format!("{primary} has replication id {replid} instead of {}{cause}", group.replid)
        };
        let replaced = !group.replid.is_empty() && group.replid != *replid;
        let product = product_mut(state, product_id)?;
        if let Some(group) = product.groups.get_mut(&group_id) {
            replid.clone_into(&mut group.replid);
            if other_process {
                run_id.clone_into(&mut group.run_id);
            }
            if restarted {
                group.restarted_with = Some(keys);
            }
        }
        if restarted {
            // Its hash table has another order. A node notices it by the run id, except for one of some dozens by chance.
            product.scans.record(GroupChange::Changed(group_id));
            routed(state, when.at);
        }
        if replaced || restarted {
            events::push(state, when, EventKind::PrimaryNoted, Some(product_id), subject(group_id), &text);
        }
        Ok(Outcome::Done)
    }
}

impl Apply for NoteReconciled {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: group_id, ref addr, ref text } = *self;
        let product = product(state, product_id)?;
        let group = group(product, group_id)?;
        let addr = group.servers[server_at(product, group, addr)?].addr.clone();
        let text = format!("{addr} {text}");
        events::push(state, when, EventKind::Reconciled, Some(product_id), subject(group_id), &text);
        Ok(Outcome::Done)
    }
}

impl Apply for NoteGroup {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: group_id, note, ref text } = *self;
        group(product(state, product_id)?, group_id)?;
        events::push(state, when, note.event_kind(), Some(product_id), subject(group_id), text);
        Ok(Outcome::Done)
    }
}

impl Apply for NoteNode {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { node, note, ref text, ref before, ref after } = *self;
        if !state.members.contains_key(&node) {
            return Err(Reject::UnknownNode(node));
        }
        events::push(state, when, note.event_kind(), None, format!("node {node}"), text);
        events::changed(state, before, after);
        Ok(Outcome::Done)
    }
}

impl Apply for MarkResynced {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: group_id, ref addr, epoch } = *self;
        let product = product(state, product_id)?;
        let group = group(product, group_id)?;
        same_epoch(group, epoch)?;
        let place = server_at(product, group, addr)?;
        let server = &group.servers[place];
        if place == 0 {
            return Err(PromotionReject::IsPrimary { addr: server.addr.clone(), group: group_id }.into());
        }
        // An observation before a promotion began says nothing of what the promotion has done to the server.
        no_promotion_open(state, product_id, [group_id])?;
        if !server.diverged {
            return Ok(Outcome::Unchanged);
        }

        let addr = server.addr.clone();
        if let Some(server) = server_mut(state, product_id, group_id, &addr) {
            server.diverged = false;
        }
        let text = format!("{addr} follows the primary and has copied all its data; it may be promoted again");
        events::push(state, when, EventKind::Resynced, Some(product_id), subject(group_id), &text);
        Ok(Outcome::Done)
    }
}
