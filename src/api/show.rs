//! Converts the replicated state, and what the leader observes, to messages for operators. Never includes a password.

use crate::{
    consensus::Leadership,
    control::{
        handle::Control,
        leadership::view::{LeaderView, NodeView},
    },
    model::{
        ids::{GroupId, HoldId, NodeId, SlotId},
        reads::ReadFrom,
        route::{Isolated, Mode},
        slot::Layout,
        state::{Cause, ClusterState, Member, Product, Role},
    },
    plan::health::{Severity, Warning},
    wire::pb::admin::{self, NodeRole, NodeState},
};

/// A text that is present only if it is not empty.
pub(super) fn present(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A warning.
#[must_use]
pub fn warning(warning: &Warning) -> admin::Warning {
    admin::Warning {
        code: warning.kind.code().into(),
        severity: severity(warning.severity()).into(),
        text: warning.text.clone(),
        to_clear: warning.to_clear.clone(),
    }
}

/// How bad something is.
#[must_use]
pub const fn severity(severity: Severity) -> admin::Severity {
    match severity {
        Severity::Ok => admin::Severity::Ok,
        Severity::Advice => admin::Severity::Advice,
        Severity::Warning => admin::Severity::Warning,
        Severity::Unknown => admin::Severity::Unknown,
        Severity::Critical => admin::Severity::Critical,
    }
}

/// A member. [`live`] fills in what only the leader knows.
#[must_use]
pub fn node(member: &Member, leadership: &Leadership) -> admin::Node {
    admin::Node {
        id: member.id.0,
        uuid: member.uuid.to_string(),
        admin: member.admin.to_string(),
        advertise: member.advertise.clone(),
        port_offset: member.port_offset.into(),
        desired_role: match member.role {
            Role::Auto => NodeRole::Auto,
            Role::Voter => NodeRole::Voter,
            Role::Learner => NodeRole::Learner,
        }
        .into(),
        role: if leadership.voters.contains(&member.id) { NodeRole::Voter } else { NodeRole::Learner }.into(),
        incarnation: member.admitted.map(|admission| admission.incarnation.0),
        leaving: member.leaving.is_some(),
        state: NodeState::Unknown.into(),
        ..admin::Node::default()
    }
}

/// Fills in what a node has reported to the leader.
pub fn live(node: &mut admin::Node, control: &Control, view: &LeaderView, now_ns: u64) {
    let Some(seen) = view.nodes.get(&NodeId(node.id)) else {
        let lease = u64::try_from(control.lease.as_nanos()).unwrap_or(u64::MAX);
        // A lease that a leader of an earlier term granted may still be valid.
        let recent = now_ns < view.since_ns.saturating_add(lease);
        node.state = if recent { NodeState::Unknown } else { NodeState::Silent }.into();
        return;
    };
    node.state = if control.alive(seen, now_ns) { NodeState::Alive } else { NodeState::Silent }.into();
    node.heartbeat_age_ms = Some(now_ns.saturating_sub(seen.heartbeat_ns) / 1_000_000);
    node.route_epoch = seen.route_epoch.0;
    node.applied = seen.applied.0;
    node.version.clone_from(&seen.version);
    node.secrets_accepted = seen.secrets.as_ref().map(|report| report.tags.map_or(0, |tags| tags.accepted()));
    node.secrets_age_ms = seen.secrets.as_ref().filter(|report| report.tags.is_some()).map(|report| report.age_ms);
}

/// Copies what only the leader knows from the leader's answer.
pub fn overlay(nodes: &mut [admin::Node], leaders: &[admin::Node]) {
    for node in nodes {
        let Some(seen) = leaders.iter().find(|seen| seen.id == node.id && seen.uuid == node.uuid) else { continue };
        node.state = seen.state;
        node.heartbeat_age_ms = seen.heartbeat_age_ms;
        node.route_epoch = seen.route_epoch;
        node.applied = seen.applied;
        node.version.clone_from(&seen.version);
        node.secrets_accepted = seen.secrets_accepted;
        node.secrets_age_ms = seen.secrets_age_ms;
    }
}

/// A product. [`listeners`] gives its listeners.
#[must_use]
pub fn product(product: &Product) -> admin::Product {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    admin::Product {
        id: product.id.0,
        name: product.name.clone(),
        port: product.port.into(),
        layout: match product.layout {
            Layout::Codis => admin::Layout::Codis,
            Layout::Redis => admin::Layout::Redis,
        }
        .into(),
        mode: match product.mode {
            Mode::Store => admin::Mode::Store,
            Mode::Cache => admin::Mode::Cache,
        }
        .into(),
        isolated: match product.isolated {
            Isolated::Refuse => admin::Isolated::Refuse,
            Isolated::Serve => admin::Isolated::Serve,
        }
        .into(),
        databases: product.databases,
        has_password: product.auth.is_required(),
        former_password_valid: product.auth.former.is_some(),
        username: product.auth.credentials.as_ref().and_then(|auth| auth.username.clone()),
        group_count: count(product.groups.len()),
        assigned_slot_count: count(product.slots.iter().filter(|slot| slot.owner.is_some()).count()),
        slot_count: product.layout.slots().into(),
        listeners: Vec::new(),
        auto_rebalance: product.auto_rebalance,
        min_acks: product.min_acks.into(),
        min_acks_timeout_ms: product.min_acks_ms,
        read_from: match product.reads.from {
            ReadFrom::Primary => admin::ReadFrom::Primary,
            ReadFrom::PreferReplica => admin::ReadFrom::PreferReplica,
            ReadFrom::Replica => admin::ReadFrom::Replica,
            ReadFrom::Nearest => admin::ReadFrom::Nearest,
        }
        .into(),
        clients_max: product.clients_max,
        ops_max: product.rules.ops_max,
        bytes_max: product.rules.bytes_max,
        scripts_off: product.rules.scripts_off,
        script_loads_max: product.rules.script_loads_max,
        script_count: count(product.scripts.scripts().len()),
        script_bytes: product.scripts.script_bytes() as u64,
        library_count: count(product.scripts.libraries().len()),
        errors_detailed: product.rules.errors_detailed,
        blocked_errors: product.rules.blocked_errors,
        server_commands: product.rules.server_commands,
        debug_commands: product.rules.debug_commands,
        redis_version: product.rules.redis_version.to_string(),
        idle_timeout_ms: product.rules.idle_ms,
        max_lag_ms: product.reads.max_lag_ms,
        read_your_writes: product.reads.own_writes,
        read_confirmed: product.reads.confirmed,
    }
}

/// Where members listen for a product, as they last reported to the leader. The report of a node that is not alive is
/// out of date; its listener has an error.
#[must_use]
pub fn listeners(
    product: &Product,
    state: &ClusterState,
    view: &LeaderView,
    alive: impl Fn(&NodeView) -> bool,
) -> Vec<admin::Listener> {
    let of = |(node, seen): (&NodeId, &NodeView)| {
        let listener = seen.listeners.get(&product.id).filter(|_| state.members.contains_key(node))?;
        let error = if alive(seen) { present(&listener.error) } else { Some("the node is not alive".into()) };
        let (address, note) = (listener.address.clone(), present(&listener.note));
        Some(admin::Listener { node: node.0, address, error, note })
    };
    view.nodes.iter().filter_map(of).collect()
}

/// The slots of a product as ranges, ascending and without gaps. The slots of a range have the same owner, epoch and
/// hold.
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
        let group = slot.owner.map(|GroupId(id)| id);
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

/// Assignments and migrations of a product that have not ended, one sentence each.
#[must_use]
pub fn in_progress(state: &ClusterState, product: &Product) -> Vec<String> {
    let of = |assignment: &crate::model::state::Assignment| {
        let cause = Cause::Assignment(assignment.id);
        let held = if state.holds.values().any(|hold| hold.cause == cause) { ", held now" } else { "" };
        let to = assignment.to.map_or_else(|| "are released".to_owned(), |to| format!("to group {to}"));
        let (id, slots) = (assignment.id, crate::model::slot::brief(&assignment.slots));
        format!("assignment {id}: slots {slots} {to}, {} attempt(s) so far{held}", assignment.attempts)
    };
    let assigned = state.assignments.values().filter(|assignment| assignment.product == product.id).map(of);
    let migrating = state.migrations.values().filter(|m| m.product == product.id).map(|m| {
        let slots = crate::model::slot::brief(&m.slots);
        format!("migration {}: slots {slots} from group {} to group {}, {}", m.id, m.from, m.to, m.phase.name())
    });
    assigned.chain(migrating).collect()
}

/// The slot, group and primary of a key.
#[must_use]
pub fn locate(product: &Product, key: &[u8]) -> admin::LocateKeyReply {
    let SlotId(slot) = product.layout.slot(key);
    let owner = product.slots.get(usize::from(slot)).and_then(|state| state.owner);
    let server = owner.and_then(|id| product.groups.get(&id)?.servers.first());
    admin::LocateKeyReply {
        slot: slot.into(),
        group: owner.map(|GroupId(id)| id),
        server: server.map(|server| server.addr.to_string()),
    }
}
