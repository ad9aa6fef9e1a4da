//! The replicated state, and what the leader sees, as messages for operators. Passwords never leave through here.
//! Knows nothing of how either came about.

use crate::{
    consensus::Leadership,
    control::{
        handle::Control,
        leadership::view::{LeaderView, NodeView},
    },
    model::{
        ids::{GroupId, HoldId, NodeId, SlotId},
        route::{Isolated, Mode},
        slot::Layout,
        state::{Cause, ClusterState, Member, Product, Role},
    },
    wire::pb::admin,
};

/// A member; what only the leader sees is filled in by [`live`].
#[must_use]
pub fn node(member: &Member, leadership: &Leadership) -> admin::Node {
    admin::Node {
        id: member.id.0,
        uuid: member.uuid.to_string(),
        admin: member.admin.to_string(),
        advertise: member.advertise.clone(),
        port_offset: member.port_offset.into(),
        role_wanted: match member.role {
            Role::Auto => "auto",
            Role::Voter => "voter",
            Role::Learner => "learner",
        }
        .into(),
        role: if leadership.voters.contains(&member.id) { "voter" } else { "learner" }.into(),
        incarnation: member.admitted.map_or(0, |admission| admission.incarnation.0),
        leaving: member.leaving.is_some(),
        heard_ms: -1,
        unknown: true,
        ..admin::Node::default()
    }
}

/// Fills in what the leader has heard of a node.
pub fn live(node: &mut admin::Node, control: &Control, view: &LeaderView, now_ns: u64) {
    let Some(seen) = view.nodes.get(&NodeId(node.id)) else {
        let lease = u64::try_from(control.lease.as_nanos()).unwrap_or(u64::MAX);
        node.unknown = now_ns < view.since_ns.saturating_add(lease);
        return;
    };
    node.unknown = false;
    node.alive = control.alive(seen, now_ns);
    node.heard_ms = i64::try_from(now_ns.saturating_sub(seen.heartbeat_ns) / 1_000_000).unwrap_or(i64::MAX);
    node.route_epoch = seen.route_epoch.0;
    node.applied = seen.applied.0;
    node.version.clone_from(&seen.version);
}

/// Takes over what another node, the leader, said is live.
pub fn overlay(nodes: &mut [admin::Node], leaders: &[admin::Node]) {
    for node in nodes {
        let Some(seen) = leaders.iter().find(|seen| seen.id == node.id && seen.uuid == node.uuid) else { continue };
        node.alive = seen.alive;
        node.unknown = seen.unknown;
        node.heard_ms = seen.heard_ms;
        node.route_epoch = seen.route_epoch;
        node.applied = seen.applied;
        node.version.clone_from(&seen.version);
    }
}

/// A product; its listeners are filled in by [`listeners`].
#[must_use]
pub fn product(product: &Product) -> admin::Product {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    admin::Product {
        id: product.id.0,
        name: product.name.clone(),
        port: product.port.into(),
        layout: match product.layout {
            Layout::Codis => "codis",
            Layout::Redis => "redis",
        }
        .into(),
        mode: match product.mode {
            Mode::Store => "store",
            Mode::Cache => "cache",
        }
        .into(),
        isolated: match product.isolated {
            Isolated::Refuse => "refuse",
            Isolated::Serve => "serve",
        }
        .into(),
        databases: product.databases,
        password: product.auth.is_some(),
        username: product.auth.as_ref().and_then(|auth| auth.username.clone()).unwrap_or_default(),
        groups: count(product.groups.len()),
        slots_assigned: count(product.slots.iter().filter(|slot| slot.owner.is_some()).count()),
        slots: product.layout.slots().into(),
        listeners: Vec::new(),
        auto_rebalance: product.auto_rebalance,
        min_acks: product.min_acks.into(),
        min_acks_ms: product.min_acks_ms,
        read_from: product.reads.from.name().into(),
        max_lag_ms: product.reads.max_lag_ms,
        read_your_writes: product.reads.own_writes,
    }
}

/// Where members listen for a product, as the leader last heard. Of one that is not alive this is no news.
#[must_use]
pub fn listeners(
    product: &Product,
    state: &ClusterState,
    view: &LeaderView,
    alive: impl Fn(&NodeView) -> bool,
) -> Vec<admin::Listener> {
    let of = |(node, seen): (&NodeId, &NodeView)| {
        let listener = seen.listeners.get(&product.id).filter(|_| state.members.contains_key(node))?;
        let error = if alive(seen) { listener.error.clone() } else { "the node is not alive".into() };
        let (address, note) = (listener.address.clone(), listener.note.clone());
        Some(admin::Listener { node: node.0, address, error, note })
    };
    view.nodes.iter().filter_map(of).collect()
}

/// The slots of a product as ranges that are alike in owner, epoch and hold, ascending and without gaps.
#[must_use]
pub fn slots(state: &ClusterState, product: &Product) -> Vec<admin::SlotRange> {
    let mut held: Vec<Option<HoldId>> = vec![None; product.slots.len()];
    for hold in state.holds.values().filter(|hold| hold.product == product.id) {
        for slot in &hold.slots {
            if let Some(entry) = held.get_mut(usize::from(slot.0)) {
                *entry = Some(hold.id);
            }
        }
    }
    let mut ranges: Vec<admin::SlotRange> = Vec::new();
    for ((number, slot), hold) in (0u32..).zip(&product.slots).zip(&held) {
        let group = slot.owner.map_or(0, |GroupId(id)| id);
        match ranges.last_mut() {
            Some(last) if (last.group, last.epoch, last.held) == (group, slot.epoch.0, hold.is_some()) => {
                last.last = number;
            }
            _ => ranges.push(admin::SlotRange {
                first: number,
                last: number,
                group,
                held: hold.is_some(),
                epoch: slot.epoch.0,
            }),
        }
    }
    ranges
}

/// Assignments and migrations of a product that have not ended, a sentence each.
#[must_use]
pub fn in_progress(state: &ClusterState, product: &Product) -> Vec<String> {
    let of = |assignment: &crate::model::state::Assignment| {
        let cause = Cause::Assignment(assignment.id);
        let held = if state.holds.values().any(|hold| hold.cause == cause) { ", held now" } else { "" };
        format!(
            "assignment {}: slots {} to group {}, {} attempt(s) so far{held}",
            assignment.id,
            crate::model::slot::spans(&assignment.slots),
            assignment.to,
            assignment.attempts
        )
    };
    let assigned = state.assignments.values().filter(|assignment| assignment.product == product.id).map(of);
    let migrating = state.migrations.values().filter(|m| m.product == product.id).map(|m| {
        let slots = crate::model::slot::spans(&m.slots);
        format!("migration {}: slots {slots} from group {} to group {}, {}", m.id, m.from, m.to, m.phase.name())
    });
    assigned.chain(migrating).collect()
}

/// Where a key is: slot, group, primary.
#[must_use]
pub fn locate(product: &Product, key: &[u8]) -> admin::LocateKeyReply {
    let SlotId(slot) = product.layout.slot(key);
    let owner = product.slots.get(usize::from(slot)).and_then(|state| state.owner);
    let server = owner.and_then(|id| product.groups.get(&id)?.servers.first());
    admin::LocateKeyReply {
        slot: slot.into(),
        group: owner.map_or(0, |GroupId(id)| id),
        server: server.map(|server| server.addr.to_string()).unwrap_or_default(),
    }
}

/// What an operator should change, from the state alone.
#[must_use]
pub fn warnings(state: &ClusterState, leadership: &Leadership) -> Vec<String> {
    let mut said = Vec::new();
    for product in state.products.values() {
        let free = product.slots.iter().filter(|slot| slot.owner.is_none()).count();
        if free > 0 && !product.groups.is_empty() {
            said.push(format!("product '{}': {free} slots belong to no group; their keys are refused", product.name));
        }
    }
    if state.settings.maintenance {
        said.push("maintenance is on: nothing is failed over or wired by itself (pontoon maintenance off)".into());
    }
    for product in state.products.values() {
        for group in product.groups.values().filter(|group| group.options.maintenance) {
            said.push(format!(
                "group {} of product '{}' is in maintenance: nothing is failed over or wired by itself there (pontoon \
                 maintenance off {} --product {})",
                group.id, product.name, group.id, product.name
            ));
        }
    }
    if leadership.voters.len() == 2 {
        said.push("two voters survive no failure; three survive one".into());
    }
    for left in &state.not_cleaned {
        let servers: Vec<_> = left.servers.iter().map(|server| server.as_str()).collect();
        said.push(format!(
            "group {} of product '{}' was removed with {} slots not cleaned; keys may be left on {}",
            left.group,
            left.product,
            left.slots,
            servers.join(", ")
        ));
    }
    said
}
