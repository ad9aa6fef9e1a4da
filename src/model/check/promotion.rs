//! The invariants of promotions, and of the values of groups and servers that they depend on.
//! Knows nothing of changes: it checks one state.

use std::collections::BTreeSet;

use super::Found;
use crate::model::{
    ids::{GroupId, ProductId},
    limits::{DOWN_AFTER_MS, PROMOTIONS_ENDED_MAX, REPLID_LEN_MAX, TEXT_LEN_MAX, ZONE_LEN_MAX},
    promotion::Promotion,
    state::{Cause, ClusterState, Group, Hold},
};

pub(super) fn promotions(state: &ClusterState, found: &mut Found) {
    let ended = &state.ended_promotions;
    found.unless(ended.len() <= PROMOTIONS_ENDED_MAX, || format!("{} ended promotions", ended.len()));
    found.unless(ended.iter().map(|e| e.at).is_sorted() && ended.iter().all(|e| e.at <= state.applied), || {
        "ended promotions out of order".to_owned()
    });
    let mut promoted: BTreeSet<(ProductId, GroupId)> = BTreeSet::new();
    for (id, p) in &state.promotions {
        found.unless(*id == p.id && id.0 <= state.applied.0, || format!("promotion key {id}, id {}", p.id));
        found.unless(ended.iter().all(|e| e.promotion.id != *id), || format!("promotion {id} ended, yet is open"));
        found.unless(promoted.insert((p.product, p.group)), || format!("group {} is promoted twice", p.group));
        found.unless(p.why.len() <= TEXT_LEN_MAX, || format!("the reason of promotion {id} is too long"));
        let holds: Vec<&Hold> = state.holds.values().filter(|h| h.cause == Cause::Promotion(*id)).collect();
        found.unless(holds.len() <= 1, || format!("promotion {id} has {} holds", holds.len()));
        match state.products.get(&p.product).and_then(|product| product.groups.get(&p.group)) {
            Some(group) => place(p, group, found),
            None => found.unless(false, || format!("the group of promotion {id} does not exist")),
        }
        alone(state, p, found);
    }
}

/// Its group has not changed since it began.
fn place(p: &Promotion, group: &Group, found: &mut Found) {
    let id = p.id;
    found.unless(group.epoch == p.group_epoch, || format!("promotion {id}: its group has epoch {}", group.epoch));
    let mut servers = group.servers.iter().map(|s| &s.addr);
    found.unless(servers.next() == Some(&p.from), || format!("promotion {id}: {} is not the primary", p.from));
    found.unless(servers.any(|addr| *addr == p.to), || format!("promotion {id}: {} is no replica there", p.to));
}

/// No other hold is open of slots that leave or reach the group.
fn alone(state: &ClusterState, p: &Promotion, found: &mut Found) {
    for hold in state.holds.values().filter(|h| h.product == p.product) {
        let concerned = match hold.cause {
            Cause::Migration(id) => state.migrations.get(&id).is_some_and(|m| m.from == p.group || m.to == p.group),
            Cause::Assignment(id) => {
                let owner = |slot: usize| state.products.get(&p.product).and_then(|p| p.slots.get(slot)?.owner);
                state.assignments.get(&id).is_some_and(|a| a.to == Some(p.group))
                    || hold.slots.iter().any(|s| owner(usize::from(s.0)) == Some(p.group))
            }
            Cause::Promotion(_) => false,
        };
        found.unless(!concerned, || format!("group {} is promoted while hold {} is open", p.group, hold.id));
    }
}

pub(super) fn groups(state: &ClusterState, found: &mut Found) {
    for group in state.products.values().flat_map(|p| p.groups.values()) {
        let id = group.id;
        found.unless(DOWN_AFTER_MS.contains(&group.options.down_after_ms), || {
            format!("group {id}: down after {} ms", group.options.down_after_ms)
        });
        found.unless(group.options.impaired.out_of_range().is_none(), || {
            format!("group {id}: options about impaired servers {:?}", group.options.impaired)
        });
        let required_offset = group.required_offset.as_ref().map(|r| &r.replid);
        found.unless(required_offset.is_none_or(|replid| !replid.is_empty()), || {
            format!("the required offset of group {id} has no replication id")
        });
        found.unless(
            required_offset.into_iter().chain([&group.replid, &group.run_id]).all(|id| id.len() <= REPLID_LEN_MAX),
            || format!("group {id}: a replication id or run_id is too long"),
        );
        found.unless(group.servers.first().is_none_or(|s| !s.diverged), || format!("group {id}: a diverged primary"));
        for server in group.servers.iter().filter(|s| s.zone.len() > ZONE_LEN_MAX) {
            found.unless(false, || format!("server {}: its zone is too long", server.addr));
        }
    }
}
