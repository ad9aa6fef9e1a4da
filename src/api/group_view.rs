//! Converts groups to messages for operators: what the log has, and what nodes observe of the servers.

use std::collections::{BTreeMap, BTreeSet};

use super::show::present;
use crate::{
    model::{
        ejection::Ejection,
        ids::{GroupId, HostPort, NodeId, SlotId},
        promotion::{EndedPromotion, Promotion, PromotionKind},
        route::Mode,
        slot::spans,
        state::{Cause, ClusterState, Group, ImpairedOptions, Product, Server},
    },
    plan::{
        candidates::{CandidateChoice, choose},
        observation::{AgedReport, Observation, Probe, ReportedRole, last_in_sync_ms, newest},
    },
    wire::pb::admin::{self, LinkState, PromotionState, ServerRole, ServerState},
};

/// Two probes of a primary give a write rate only if at least this many milliseconds lie between them: the ages of
/// probes are not more exact.
const RATE_OVER_MS: u64 = 100;

/// A group of a product as the log has it, without observations.
#[must_use]
pub fn group(state: &ClusterState, product: &Product, group: &Group) -> admin::Group {
    let owned = product.slots.iter().filter(|slot| slot.owner == Some(group.id)).count();
    let servers = group.servers.iter().enumerate().map(|(i, server)| admin::Server {
        address: server.addr.to_string(),
        role: if i == 0 { ServerRole::Primary } else { ServerRole::Replica }.into(),
        run_id: server.run_id.clone(),
        keys_when_added: server.keys_when_added,
        priority: server.priority,
        zone: present(&server.zone),
        diverged: server.diverged,
        observed: None,
    });
    admin::Group {
        id: group.id.0,
        servers: servers.collect(),
        slot_count: u32::try_from(owned).unwrap_or(u32::MAX),
        has_password: group.credentials.is_some(),
        username: group.credentials.as_ref().and_then(|c| c.username.clone()),
        epoch: group.epoch.0,
        down_after_ms: group.options.down_after_ms,
        maintenance: group.options.maintenance,
        promotion: state.promotion_of(product.id, group.id).map(|open| promotion(state, open)),
        replid: present(&group.replid),
        eject_after_ms: (product.mode == Mode::Cache).then_some(group.options.eject_after_ms),
        ejection: group.ejection.as_ref().map(|ejected| ejection(product, group, ejected)),
        impaired: Some(impaired(group.options.impaired)),
        data_user: group.data_user.as_ref().and_then(|user| user.credentials.username.clone()),
        former_password: group.former.is_some(),
        warnings: Vec::new(),
    }
}

const fn impaired(options: ImpairedOptions) -> admin::ImpairedOptions {
    admin::ImpairedOptions {
        busy_failover_after_ms: options.busy_failover_after_ms,
        loading_failover_after_ms: options.loading_failover_after_ms,
        misconf_failover_after_ms: options.misconf_failover_after_ms,
        script_kill_after_ms: options.script_kill_after_ms,
    }
}

fn ejection(product: &Product, group: &Group, ejected: &Ejection) -> admin::Ejection {
    let owner = |(to, slots): (GroupId, BTreeSet<SlotId>)| admin::TemporaryOwner {
        group: to.0,
        slot_count: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        slots: spans(&slots),
    };
    let temporary_owners = product.temporary_owners(group).into_iter().map(owner).collect();
    admin::Ejection { id: ejected.id.0, ejected_at_ms: ejected.since_ms, temporary_owners }
}

/// A promotion that has not ended.
fn promotion(state: &ClusterState, p: &Promotion) -> admin::Promotion {
    let hold = state.holds.values().find(|hold| hold.cause == Cause::Promotion(p.id));
    admin::Promotion {
        state: if hold.is_some() { PromotionState::Held } else { PromotionState::Started }.into(),
        held_at_ms: hold.map(|hold| hold.since_ms),
        ..common(state, p)
    }
}

fn ended(state: &ClusterState, e: &EndedPromotion) -> admin::Promotion {
    admin::Promotion {
        state: if e.failed.is_none() { PromotionState::Done } else { PromotionState::GivenUp }.into(),
        ended_at_ms: Some(e.at_ms),
        given_up_because: e.failed.clone(),
        ..common(state, &e.promotion)
    }
}

/// The fields that an open and an ended promotion have in common, for struct update syntax.
fn common(state: &ClusterState, p: &Promotion) -> admin::Promotion {
    admin::Promotion {
        id: p.id.0,
        product: state.products.get(&p.product).map(|product| product.name.clone()).unwrap_or_default(),
        group: p.group.0,
        from: p.from.to_string(),
        to: p.to.to_string(),
        kind: match p.kind {
            PromotionKind::Failover => admin::PromotionKind::Failover,
            PromotionKind::Switchover => admin::PromotionKind::Switchover,
        }
        .into(),
        forced: p.forced,
        why: p.why.clone(),
        attempts: p.attempts,
        started_at_ms: p.started_ms,
        ..admin::Promotion::default()
    }
}

/// The promotions of a group that have ended and are remembered, oldest first.
#[must_use]
pub fn ended_of(state: &ClusterState, product: &Product, group: GroupId) -> Vec<admin::Promotion> {
    let of = |e: &&EndedPromotion| (e.promotion.product, e.promotion.group) == (product.id, group);
    state.ended_promotions.iter().filter(of).map(|e| ended(state, e)).collect()
}

/// Fills in what nodes observe of the servers of a group. `confirmations`: see `plan::restart`; `leader`: this node. `liveness`: the state of a server.
pub fn fill_observed(
    shown: &mut admin::Group,
    (confirmations, group): (u8, &Group),
    seen: &Observation,
    leader: NodeId,
    liveness: impl Fn(&HostPort) -> ServerState,
) {
    let choice = choose(confirmations, group, seen, leader);
    for (server, shown) in group.servers.iter().zip(&mut shown.servers) {
        shown.observed = Some(observed(group, server, seen, &choice, liveness(&server.addr)));
    }
}

fn observed(
    group: &Group,
    server: &Server,
    seen: &Observation,
    choice: &CandidateChoice,
    liveness: ServerState,
) -> admin::ServerObservation {
    let none = choice.excluded.iter().find(|(addr, _)| *addr == server.addr);
    let mut shown = admin::ServerObservation {
        state: liveness.into(),
        failures: seen.get(&server.addr).map(failures).unwrap_or_default(),
        not_candidate_because: none.map(|(_, why)| why.clone()),
        ..admin::ServerObservation::default()
    };
    let Some((probe, age_ms)) = newest(seen, &server.addr) else { return shown };
    shown.used_memory_bytes = Some(probe.used_memory);
    shown.keys = Some(probe.keys);
    shown.ops_per_second = Some(probe.ops_per_second);
    shown.ping_us = Some(probe.ping_us);
    shown.run_id = present(&probe.run_id);
    shown.replid = present(&probe.replid);
    shown.replication_offset = Some(probe.offset);
    shown.probe_age_ms = Some(age_ms);
    shown.persistent = probe.persistent;
    match &probe.role {
        ReportedRole::Primary { .. } => shown.role = Some(ServerRole::Primary.into()),
        ReportedRole::Replica { of, link_up, link_down_ms, syncing } => {
            shown.role = Some(ServerRole::Replica.into());
            shown.follows = Some(of.to_string());
            let link = match (syncing, link_up) {
                (true, _) => LinkState::Syncing,
                (false, true) => LinkState::Up,
                (false, false) => LinkState::Down,
            };
            shown.link = Some(link.into());
            let primary = group.servers.first().filter(|primary| primary.addr != server.addr);
            let lag = primary.and_then(|primary| lag(probe, age_ms, &probes(seen, &primary.addr)));
            shown.lag_bytes = lag.map(|(bytes, _)| bytes);
            shown.lag_ms = if *link_up {
                lag.and_then(|(_, ms)| ms)
            } else {
                let apart = primary.and_then(|primary| {
                    last_in_sync_ms(seen, &server.addr, &primary.addr, &probe.replid, &probe.run_id)
                });
                // The largest number means that the link was never up; then the sum overflows, and the lag is not
                // known.
                apart.or_else(|| link_down_ms.checked_add(age_ms))
            };
        }
    }
    shown
}

fn failures(by_node: &BTreeMap<NodeId, AgedReport>) -> Vec<admin::ProbeFailure> {
    let of = |(node, reported): (&NodeId, &AgedReport)| {
        let AgedReport { report, age_ms } = reported;
        let failing_for_ms = report.failing_ms.map(|ms| ms.saturating_add(*age_ms));
        let fails = failing_for_ms.is_some() || !report.error.is_empty();
        fails.then(|| admin::ProbeFailure { node: node.0, failing_for_ms, error: report.error.clone() })
    };
    by_node.iter().filter_map(of).collect()
}

/// All answered probes of a server, by every node, with their ages in milliseconds.
fn probes<'a>(seen: &'a Observation, addr: &HostPort) -> Vec<(&'a Probe, u64)> {
    let of = |reported: &'a AgedReport| {
        let (probe, age_ms) = reported.report.probe.as_ref()?;
        Some((probe, age_ms.saturating_add(reported.age_ms)))
    };
    seen.get(addr).into_iter().flat_map(|by_node| by_node.values().filter_map(of)).collect()
}

/// How far a replica is behind: in bytes, compared with the probe of the primary that is nearest in time; in
/// milliseconds, by the primary's write rate, if two of its probes give one. `None`: the offsets do not count the same
/// stream.
fn lag(replica: &Probe, age_ms: u64, primary: &[(&Probe, u64)]) -> Option<(u64, Option<u64>)> {
    let same = || primary.iter().filter(|(probe, _)| !probe.replid.is_empty() && probe.replid == replica.replid);
    let (nearest, _) = same().min_by_key(|(_, age)| age.abs_diff(age_ms))?;
    let bytes = nearest.offset.saturating_sub(replica.offset);
    if bytes == 0 {
        return Some((0, Some(0)));
    }
    let (first, first_age) = same().max_by_key(|(_, age)| *age)?;
    let (last, last_age) = same().min_by_key(|(_, age)| *age)?;
    let (written, within_ms) = (last.offset.saturating_sub(first.offset), first_age.saturating_sub(*last_age));
    let ms = (within_ms >= RATE_OVER_MS && written > 0)
        .then(|| u64::try_from(u128::from(bytes) * u128::from(within_ms) / u128::from(written)).unwrap_or(u64::MAX));
    Some((bytes, ms))
}
