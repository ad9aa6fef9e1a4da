//! The replicated state to bytes and back: the durable format (proto/state.proto).
//! Knows nothing of chunks and files.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;

use super::{
    client_auth::{auth_from, former_to},
    convert::{
        DecodeError, LEVEL, bad, cause_from, cause_to, check_level, credentials_from, credentials_to, data_user_from,
        data_user_to, id_from, id_to, kind_from, kind_to, member_from, member_to, min_acks_from, need, product_from,
        product_to, raft_membership_from, raft_membership_to, role_from, role_to, server_from, server_to, slots_from,
        slots_to, told_version_from, u8_from,
    },
    ejection::{ejection_from, ejection_to},
    migration::{self, event_from, event_to, migration_from, migration_to, sweep_from, sweep_to},
    pb::state as pb,
    promotion::{self, offset_from, offset_to, promotion_from, promotion_to},
    reads::{policy_from, policy_to},
    scan_history::{history_from, history_to},
    script::{catalogue_from, catalogue_to},
};
use crate::model::{
    change::{NewMember, NewProduct},
    client_rules::ClientRules,
    ids::{AssignmentId, Epoch, GroupId, HoldId, Incarnation, MigrationId, NodeId, ProductId, PromotionId, Term, Uuid},
    outcome::Outcome,
    reject::Reject,
    state::{
        Admission, Assignment, ClusterState, EndedAssignment, FormerControlUser, Group, Hold, Keys, Leaving, Member,
        Product, RaftMembership, Recorded, RemovedMember, Settings, SlotState,
    },
};

/// The longest encoded state, in bytes. It is far above what `model::limits` allow in practice, so only damage exceeds
/// it.
pub const STATE_LEN_MAX: usize = 256 << 20;

/// Encodes a state. Equal states give equal bytes.
#[must_use]
pub fn encode_state(state: &ClusterState) -> Vec<u8> {
    let results = state.results_order.iter().filter_map(|id| state.results.get(id).map(|r| result_to(*id, r)));
    pb::State {
        level: LEVEL,
        applied: state.applied.0,
        route_epoch: state.route_epoch.0,
        voters: u32::from(state.settings.voters),
        hold_ms_max: state.settings.hold_ms_max,
        members: state.members.values().map(member_state_to).collect(),
        products: state.products.values().map(product_state_to).collect(),
        next_product: state.next_product,
        holds: state.holds.values().map(hold_to).collect(),
        assignments: state.assignments.values().map(assignment_to).collect(),
        ended_assignments: state.ended_assignments.iter().map(ended_to).collect(),
        results: results.collect(),
        migrations: state.migrations.values().map(migration_to).collect(),
        ended_migrations: state.ended_migrations.iter().map(migration::ended_to).collect(),
        events: state.events.iter().map(|event| event_to(event)).collect(),
        maintenance: state.settings.maintenance,
        failover_share_max: u32::from(state.settings.failover_share_max),
        promotions: state.promotions.values().map(promotion_to).collect(),
        ended_promotions: state.ended_promotions.iter().map(promotion::ended_to).collect(),
        removed: state.removed.iter().map(removed_to).collect(),
        raft_membership: raft_membership_of(state),
    }
    .encode_to_vec()
}

/// Decodes a state.
///
/// # Errors
/// `TooNew` when a later version wrote it, else what is wrong with the bytes.
pub fn decode_state(bytes: &[u8]) -> Result<ClusterState, DecodeError> {
    if bytes.len() > STATE_LEN_MAX {
        return Err(DecodeError::TooLong { what: "a state", len: bytes.len(), max: STATE_LEN_MAX });
    }
    let state = pb::State::decode(bytes).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    check_level(state.level)?;
    let results = state.results.into_iter().map(result_from).collect::<Result<Vec<_>, _>>()?;
    Ok(ClusterState {
        applied: Epoch(state.applied),
        route_epoch: Epoch(state.route_epoch),
        settings: Settings {
            voters: u8_from(state.voters, "the number of voters")?,
            hold_ms_max: state.hold_ms_max,
            maintenance: state.maintenance,
            failover_share_max: u8_from(state.failover_share_max, "a share of primaries")?,
        },
        members: keyed(state.members, member_state_from, |m| m.id, "two members")?,
        products: keyed(state.products, product_state_from, |p| p.id, "two products")?,
        next_product: state.next_product,
        holds: keyed(state.holds, hold_from, |h| h.id, "two holds")?,
        assignments: keyed(state.assignments, assignment_from, |a| a.id, "two assignments")?,
        ended_assignments: state.ended_assignments.into_iter().map(ended_from).collect(),
        results_order: results.iter().map(|(id, _)| *id).collect(),
        results: results.into_iter().collect(),
        migrations: keyed(state.migrations, migration_from, |m| m.id, "two migrations")?,
        ended_migrations: state.ended_migrations.into_iter().map(migration::ended_from).collect::<Result<_, _>>()?,
        events: state.events.into_iter().map(|e| event_from(e).map(Arc::new)).collect::<Result<_, _>>()?,
        promotions: keyed(state.promotions, promotion_from, |p| p.id, "two promotions")?,
        ended_promotions: state.ended_promotions.into_iter().map(promotion::ended_from).collect::<Result<_, _>>()?,
        removed: state.removed.into_iter().map(removed_from).collect::<Result<_, _>>()?,
        raft_membership: state.raft_membership.map(raft_membership_from).unwrap_or_default(),
    })
}

/// `None`: none was noted.
fn raft_membership_of(state: &ClusterState) -> Option<pb::RaftMembership> {
    let noted = &state.raft_membership;
    (*noted != RaftMembership::default()).then(|| raft_membership_to(noted))
}

/// A map of decoded values. Refuses a key that occurs twice.
fn keyed<W, K: Ord + ToString + Copy, V>(
    values: Vec<W>,
    from: impl Fn(W) -> Result<V, DecodeError>,
    key: impl Fn(&V) -> K,
    what: &'static str,
) -> Result<BTreeMap<K, V>, DecodeError> {
    let mut map = BTreeMap::new();
    for value in values {
        let value = from(value)?;
        let key = key(&value);
        if map.insert(key, value).is_some() {
            return bad(what, key.to_string());
        }
    }
    Ok(map)
}

fn member_state_to(m: &Member) -> pb::Member {
    let node = NewMember {
        id: m.id,
        uuid: m.uuid,
        admin: m.admin.clone(),
        advertise: m.advertise.clone(),
        port_offset: m.port_offset,
    };
    pb::Member {
        node: Some(member_to(&node)),
        role: role_to(m.role),
        admitted: m.admitted.map(|a| pb::Admission { start: id_to(a.start), incarnation: a.incarnation.0 }),
        leaving: m.leaving.map(|l| pb::Leaving { since: l.since.0, assume_dead: l.assume_dead }),
    }
}

fn member_state_from(m: pb::Member) -> Result<Member, DecodeError> {
    let node = member_from(need(m.node, "the node of a member")?)?;
    let admitted = match m.admitted {
        Some(a) => Some(Admission { start: id_from(a.start, "a start")?, incarnation: Incarnation(a.incarnation) }),
        None => None,
    };
    Ok(Member {
        id: node.id,
        uuid: node.uuid,
        admin: node.admin,
        advertise: node.advertise,
        port_offset: node.port_offset,
        role: role_from(m.role)?,
        admitted,
        leaving: m.leaving.map(|l| Leaving { since: Epoch(l.since), assume_dead: l.assume_dead }),
    })
}

fn removed_to(m: &RemovedMember) -> pb::RemovedMember {
    pb::RemovedMember { id: m.id.0, uuid: id_to(m.uuid), at: m.at.0 }
}

fn removed_from(m: pb::RemovedMember) -> Result<RemovedMember, DecodeError> {
    Ok(RemovedMember { id: NodeId(m.id), uuid: id_from(m.uuid, "the uuid of a removed node")?, at: Epoch(m.at) })
}

fn product_state_to(p: &Product) -> pb::Product {
    let settings = NewProduct {
        name: p.name.clone(),
        port: p.port,
        layout: p.layout,
        mode: p.mode,
        isolated: p.isolated,
        databases: p.databases,
        auth: p.auth.credentials.clone(),
    };
    pb::Product {
        id: p.id.0,
        settings: Some(product_to(&settings)),
        groups: p.groups.values().map(group_to).collect(),
        slots: slot_states_to(&p.slots),
        auto_rebalance: p.auto_rebalance,
        reads: Some(policy_to(p.reads)),
        sweep_runs: p.sweep_runs,
        min_acks: u32::from(p.min_acks),
        min_acks_ms: p.min_acks_ms,
        clients_max: p.clients_max,
        ops_max: p.rules.ops_max,
        bytes_max: p.rules.bytes_max,
        scripts_off: p.rules.scripts_off,
        errors_detailed: p.rules.errors_detailed,
        blocked_errors: p.rules.blocked_errors,
        server_commands: p.rules.server_commands,
        debug_commands: p.rules.debug_commands,
        redis_version: p.rules.redis_version.number(),
        auth_version: p.auth.version.0,
        former_auth: former_to(&p.auth),
        idle_ms: p.rules.idle_ms,
        scan_history: history_to(&p.scans),
        script_loads_max: p.rules.script_loads_max,
        scripts: catalogue_to(&p.scripts),
    }
}

fn product_state_from(p: pb::Product) -> Result<Product, DecodeError> {
    let settings = product_from(need(p.settings, "the settings of a product")?)?;
    Ok(Product {
        id: ProductId(p.id),
        slots: slot_states_from(&p.slots, usize::from(settings.layout.slots()))?,
        groups: keyed(p.groups, group_from, |g| g.id, "two groups")?,
        name: settings.name,
        port: settings.port,
        layout: settings.layout,
        mode: settings.mode,
        isolated: settings.isolated,
        databases: settings.databases,
        auth: auth_from(settings.auth, p.auth_version, p.former_auth)?,
        auto_rebalance: p.auto_rebalance,
        reads: policy_from(need(p.reads, "where reads go")?)?,
        sweep_runs: p.sweep_runs,
        min_acks: min_acks_from(p.min_acks)?,
        min_acks_ms: p.min_acks_ms,
        clients_max: p.clients_max,
        rules: ClientRules {
            ops_max: p.ops_max,
            bytes_max: p.bytes_max,
            scripts_off: p.scripts_off,
            errors_detailed: p.errors_detailed,
            blocked_errors: p.blocked_errors,
            server_commands: p.server_commands,
            debug_commands: p.debug_commands,
            redis_version: told_version_from(p.redis_version)?,
            idle_ms: p.idle_ms,
            script_loads_max: p.script_loads_max,
        },
        scans: history_from(p.scan_history)?,
        scripts: catalogue_from(p.scripts)?,
    })
}

fn slot_states_to(slots: &[SlotState]) -> Vec<pb::SlotStates> {
    let mut runs: Vec<pb::SlotStates> = Vec::new();
    for (slot, state) in (0u32..).zip(slots) {
        let owner = state.owner.map_or(0, |o| o.0);
        match runs.last_mut() {
            Some(run) if run.owner == owner && run.epoch == state.epoch.0 => run.last = slot,
            Some(_) | None => runs.push(pb::SlotStates { last: slot, owner, epoch: state.epoch.0 }),
        }
    }
    runs
}

fn slot_states_from(runs: &[pb::SlotStates], len: usize) -> Result<Vec<SlotState>, DecodeError> {
    let mut slots = Vec::with_capacity(len);
    for run in runs {
        let end = run.last as usize + 1;
        if end <= slots.len() || end > len {
            return bad("the last slot of a run", run.last);
        }
        let owner = (run.owner != 0).then_some(GroupId(run.owner));
        slots.resize(end, SlotState { owner, epoch: Epoch(run.epoch) });
    }
    if slots.len() == len { Ok(slots) } else { bad("the number of slots", slots.len()) }
}

fn group_to(g: &Group) -> pb::Group {
    pb::Group {
        id: g.id.0,
        servers: g.servers.iter().map(server_to).collect(),
        credentials: g.credentials.as_ref().map(credentials_to),
        former: g.former.as_ref().map(|former| pb::FormerControlUser {
            credentials: former.credentials.as_ref().map(credentials_to),
            at: former.at.0,
        }),
        data_user: g.data_user.as_ref().map(data_user_to),
        epoch: g.epoch.0,
        given_away: slots_to(&g.given_away),
        sweep: g.sweep.as_ref().map(sweep_to),
        options: Some(promotion::options_to(g.options)),
        replid: g.replid.clone(),
        run_id: g.run_id.clone(),
        restarted_with: g.restarted_with,
        required_offset: g.required_offset.as_ref().map(offset_to),
        ejection: g.ejection.as_ref().map(ejection_to),
    }
}

fn group_from(g: pb::Group) -> Result<Group, DecodeError> {
    Ok(Group {
        id: GroupId(g.id),
        servers: g.servers.into_iter().map(server_from).collect::<Result<_, _>>()?,
        credentials: g.credentials.map(credentials_from),
        former: g.former.map(|former| FormerControlUser {
            credentials: former.credentials.map(credentials_from),
            at: Epoch(former.at),
        }),
        data_user: g.data_user.map(data_user_from).transpose()?,
        epoch: Epoch(g.epoch),
        given_away: slots_from(&g.given_away)?,
        sweep: g.sweep.map(sweep_from).transpose()?,
        options: promotion::options_from(need(g.options, "the options of a group")?),
        replid: g.replid,
        run_id: g.run_id,
        restarted_with: g.restarted_with,
        required_offset: g.required_offset.map(offset_from),
        ejection: g.ejection.map(ejection_from).transpose()?,
    })
}

fn hold_to(h: &Hold) -> pb::Hold {
    pb::Hold {
        id: h.id.0,
        cause: cause_to(h.cause),
        attempt: h.attempt,
        product: h.product.0,
        slots: slots_to(&h.slots),
        kind: kind_to(h.kind),
        term: h.term.0,
        since_ms: h.since_ms,
        reason: h.reason.clone(),
    }
}

fn hold_from(h: pb::Hold) -> Result<Hold, DecodeError> {
    Ok(Hold {
        id: HoldId(h.id),
        cause: cause_from(h.cause)?,
        attempt: h.attempt,
        product: ProductId(h.product),
        slots: slots_from(&h.slots)?,
        kind: kind_from(h.kind)?,
        term: Term(h.term),
        since_ms: h.since_ms,
        reason: h.reason,
    })
}

fn assignment_to(a: &Assignment) -> pb::Assignment {
    pb::Assignment {
        id: a.id.0,
        product: a.product.0,
        slots: slots_to(&a.slots),
        to: a.to.map(|to| to.0),
        attempts: a.attempts,
        keys: match a.keys {
            Keys::None => pb::Keys::None,
            Keys::Abandoned => pb::Keys::Abandoned,
            Keys::Ejected => pb::Keys::Ejected,
        }
        .into(),
    }
}

fn assignment_from(a: pb::Assignment) -> Result<Assignment, DecodeError> {
    Ok(Assignment {
        id: AssignmentId(a.id),
        product: ProductId(a.product),
        slots: slots_from(&a.slots)?,
        to: a.to.map(GroupId),
        attempts: a.attempts,
        keys: match a.keys() {
            pb::Keys::None => Keys::None,
            pb::Keys::Abandoned => Keys::Abandoned,
            pb::Keys::Ejected => Keys::Ejected,
            pb::Keys::Unspecified => return bad("what becomes of an assignment's keys", a.keys),
        },
    })
}

fn ended_to(e: &EndedAssignment) -> pb::EndedAssignment {
    pb::EndedAssignment { id: e.id.0, at: e.at.0, failed: e.failed.clone() }
}

fn ended_from(e: pb::EndedAssignment) -> EndedAssignment {
    EndedAssignment { id: AssignmentId(e.id), at: Epoch(e.at), failed: e.failed }
}

fn result_to(id: Uuid, recorded: &Recorded) -> pb::Result {
    use pb::result::Outcome as Kind;
    let outcome = match &recorded.outcome {
        // `apply` records rejects as `Reject::First`, which displays its text.
        Err(reject) => Kind::Refused(reject.to_string()),
        Ok(Outcome::Done) => Kind::Done(pb::Nothing {}),
        Ok(Outcome::Unchanged) => Kind::Unchanged(pb::Nothing {}),
        Ok(Outcome::Product(id)) => Kind::Product(id.0),
        Ok(Outcome::Admitted(incarnation)) => Kind::Admitted(incarnation.0),
        Ok(Outcome::Assignment(id)) => Kind::Assignment(id.0),
        Ok(Outcome::Held(id)) => Kind::Held(id.0),
        Ok(Outcome::Migration(id)) => Kind::Migration(id.0),
        Ok(Outcome::Promotion(id)) => Kind::Promotion(id.0),
        Ok(Outcome::Slots(n)) => Kind::Slots(*n),
    };
    pb::Result { id: id_to(id), index: recorded.index.0, request_hash: recorded.request_hash, outcome: Some(outcome) }
}

fn result_from(r: pb::Result) -> Result<(Uuid, Recorded), DecodeError> {
    use pb::result::Outcome as Kind;
    let outcome = match need(r.outcome, "the outcome of a change")? {
        Kind::Refused(sentence) => Err(Reject::First(sentence)),
        Kind::Done(_) => Ok(Outcome::Done),
        Kind::Unchanged(_) => Ok(Outcome::Unchanged),
        Kind::Product(id) => Ok(Outcome::Product(ProductId(id))),
        Kind::Admitted(incarnation) => Ok(Outcome::Admitted(Incarnation(incarnation))),
        Kind::Assignment(id) => Ok(Outcome::Assignment(AssignmentId(id))),
        Kind::Held(id) => Ok(Outcome::Held(HoldId(id))),
        Kind::Migration(id) => Ok(Outcome::Migration(MigrationId(id))),
        Kind::Promotion(id) => Ok(Outcome::Promotion(PromotionId(id))),
        Kind::Slots(n) => Ok(Outcome::Slots(n)),
    };
    Ok((id_from(r.id, "a change id")?, Recorded { index: Epoch(r.index), request_hash: r.request_hash, outcome }))
}
