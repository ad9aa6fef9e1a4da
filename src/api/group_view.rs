//! Groups as answers: what the log says of them, and what nodes see of their servers.
//! Knows nothing of what is done about it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    clock::utc,
    control::admission::server::not_persistent,
    model::{
        ejection::Ejection,
        event::{Event, EventKind},
        ids::{GroupId, HostPort, NodeId, SlotId},
        promotion::{EndedPromotion, Promotion},
        route::Mode,
        slot::spans,
        state::{Cause, ClusterState, Group, Product, Server},
    },
    plan::{
        acks::unmanaged_replicas,
        candidates::{CandidateChoice, choose},
        observation::{AgedReport, Observation, Probe, ReportedRole, fresh_probe, last_in_sync_ms, newest},
    },
    wire::pb::admin,
};

/// Two probes at a primary that are nearer to each other tell no rate, milliseconds: probes are not that exact.
const RATE_OVER_MS: u64 = 100;

/// A group of a product, as the log has it.
#[must_use]
pub fn group(state: &ClusterState, product: &Product, group: &Group) -> admin::Group {
    let owned = product.slots.iter().filter(|slot| slot.owner == Some(group.id)).count();
    let servers = group.servers.iter().enumerate().map(|(i, server)| admin::Server {
        address: server.addr.to_string(),
        role: if i == 0 { "primary" } else { "replica" }.into(),
        run_id: server.run_id.clone(),
        keys_when_added: server.keys_when_added,
        priority: server.priority,
        zone: server.zone.clone(),
        diverged: server.diverged,
        seen: None,
    });
    admin::Group {
        id: group.id.0,
        servers: servers.collect(),
        slots: u32::try_from(owned).unwrap_or(u32::MAX),
        password: group.credentials.is_some(),
        username: group.credentials.as_ref().and_then(|c| c.username.clone()).unwrap_or_default(),
        epoch: group.epoch.0,
        down_after_ms: group.options.down_after_ms,
        maintenance: group.options.maintenance,
        promotion: state.promotion_of(product.id, group.id).map(|open| promotion(state, open)),
        replid: group.replid.clone(),
        eject_after_ms: (product.mode == Mode::Cache).then_some(group.options.eject_after_ms),
        ejection: group.ejection.as_ref().map(|ejected| ejection(product, group, ejected)),
    }
}

fn ejection(product: &Product, group: &Group, ejected: &Ejection) -> admin::Ejection {
    let share = |(to, slots): (GroupId, BTreeSet<SlotId>)| admin::EjectionShare {
        group: to.0,
        count: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        slots: spans(&slots),
    };
    let to = product.temporary_owners(group).into_iter().map(share).collect();
    admin::Ejection { id: ejected.id.0, since_ms: ejected.since_ms, to }
}

/// A promotion that has not ended.
fn promotion(state: &ClusterState, p: &Promotion) -> admin::Promotion {
    let hold = state.holds.values().find(|hold| hold.cause == Cause::Promotion(p.id));
    admin::Promotion {
        state: if hold.is_some() { "held" } else { "started" }.into(),
        held_since_ms: hold.map_or(0, |hold| hold.since_ms),
        ..known(state, p)
    }
}

fn ended(state: &ClusterState, e: &EndedPromotion) -> admin::Promotion {
    admin::Promotion {
        state: if e.failed.is_none() { "done" } else { "given-up" }.into(),
        ended_ms: e.at_ms,
        failed: e.failed.clone().unwrap_or_default(),
        ..known(state, &e.promotion)
    }
}

/// What is the same of both; the rest is for `..`.
fn known(state: &ClusterState, p: &Promotion) -> admin::Promotion {
    admin::Promotion {
        id: p.id.0,
        product: state.products.get(&p.product).map(|product| product.name.clone()).unwrap_or_default(),
        group: p.group.0,
        from: p.from.to_string(),
        to: p.to.to_string(),
        kind: p.kind.name().into(),
        forced: p.forced,
        why: p.why.clone(),
        attempts: p.attempts,
        started_ms: p.started_ms,
        ..admin::Promotion::default()
    }
}

/// The promotions of a group that ended and are remembered, oldest first.
#[must_use]
pub fn ended_of(state: &ClusterState, product: &Product, group: GroupId) -> Vec<admin::Promotion> {
    let of = |e: &&EndedPromotion| (e.promotion.product, e.promotion.group) == (product.id, group);
    state.ended_promotions.iter().filter(of).map(|e| ended(state, e)).collect()
}

/// What nodes see of the servers of a group, put into its answer. `liveness`: "up", "down" and so on.
pub fn see(
    shown: &mut admin::Group,
    group: &Group,
    seen: &Observation,
    leader: NodeId,
    liveness: impl Fn(&HostPort) -> &'static str,
) {
    let choice = choose(group, seen, leader);
    for (server, shown) in group.servers.iter().zip(&mut shown.servers) {
        shown.seen = Some(server_seen(group, server, seen, &choice, liveness(&server.addr)));
    }
}

fn server_seen(
    group: &Group,
    server: &Server,
    seen: &Observation,
    choice: &CandidateChoice,
    liveness: &str,
) -> admin::ServerSeen {
    let none = choice.excluded.iter().find(|(addr, _)| *addr == server.addr);
    let mut shown = admin::ServerSeen {
        state: liveness.into(),
        failing: seen.get(&server.addr).map(failing).unwrap_or_default(),
        no_candidate: none.map(|(_, why)| why.clone()).unwrap_or_default(),
        ..admin::ServerSeen::default()
    };
    let Some((probe, ago_ms)) = newest(seen, &server.addr) else { return shown };
    shown.used_memory = probe.used_memory;
    shown.keys = probe.keys;
    shown.ops_per_second = probe.ops_per_second;
    shown.ping_us = probe.ping_us;
    shown.run_id.clone_from(&probe.run_id);
    shown.replid.clone_from(&probe.replid);
    shown.offset = probe.offset;
    shown.ago_ms = Some(ago_ms);
    shown.persistent = probe.persistent;
    match &probe.role {
        ReportedRole::Primary { .. } => shown.role = "primary".into(),
        ReportedRole::Replica { of, link_up, link_down_ms, syncing } => {
            shown.role = "replica".into();
            shown.follows = of.to_string();
            shown.link = match (syncing, link_up) {
                (true, _) => "syncing",
                (false, true) => "up",
                (false, false) => "down",
            }
            .into();
            let primary = group.servers.first().filter(|primary| primary.addr != server.addr);
            let lag = primary.and_then(|primary| lag(probe, ago_ms, &probes(seen, &primary.addr)));
            shown.lag_bytes = lag.map(|(bytes, _)| bytes);
            shown.lag_ms = if *link_up {
                lag.and_then(|(_, ms)| ms)
            } else {
                let apart = primary.and_then(|primary| {
                    last_in_sync_ms(seen, &server.addr, &primary.addr, &probe.replid, &probe.run_id)
                });
                // (The largest number stands for a link that never was.)
                apart.or_else(|| link_down_ms.checked_add(ago_ms))
            };
        }
    }
    shown
}

fn failing(by_node: &BTreeMap<NodeId, AgedReport>) -> Vec<admin::FailureSeen> {
    let of = |(node, reported): (&NodeId, &AgedReport)| {
        let AgedReport { report, age_ms } = reported;
        let for_ms = report.failing_ms.map(|ms| ms.saturating_add(*age_ms));
        let fails = for_ms.is_some() || !report.error.is_empty();
        fails.then(|| admin::FailureSeen { node: node.0, for_ms, error: report.error.clone() })
    };
    by_node.iter().filter_map(of).collect()
}

/// All answered probes at a server, of whatever node, with their ages in milliseconds.
fn probes<'a>(seen: &'a Observation, addr: &HostPort) -> Vec<(&'a Probe, u64)> {
    let of = |reported: &'a AgedReport| {
        let (probe, ago_ms) = reported.report.probe.as_ref()?;
        Some((probe, ago_ms.saturating_add(reported.age_ms)))
    };
    seen.get(addr).into_iter().flat_map(|by_node| by_node.values().filter_map(of)).collect()
}

/// How far a replica is behind: in bytes against the probe at the primary that is nearest in time, in milliseconds by the
/// rate at which the primary writes, where two probes tell one. `None`: their offsets do not count the same stream.
fn lag(replica: &Probe, ago_ms: u64, primary: &[(&Probe, u64)]) -> Option<(u64, Option<u64>)> {
    let same = || primary.iter().filter(|(probe, _)| !probe.replid.is_empty() && probe.replid == replica.replid);
    let (nearest, _) = same().min_by_key(|(_, ago)| ago.abs_diff(ago_ms))?;
    let bytes = nearest.offset.saturating_sub(replica.offset);
    if bytes == 0 {
        return Some((0, Some(0)));
    }
    let (first, first_ago) = same().max_by_key(|(_, ago)| *ago)?;
    let (last, last_ago) = same().min_by_key(|(_, ago)| *ago)?;
    let (written, within_ms) = (last.offset.saturating_sub(first.offset), first_ago.saturating_sub(*last_ago));
    let ms = (within_ms >= RATE_OVER_MS && written > 0)
        .then(|| u64::try_from(u128::from(bytes) * u128::from(within_ms) / u128::from(written)).unwrap_or(u64::MAX));
    Some((bytes, ms))
}

/// What an operator should know of a group.
#[must_use]
pub fn warnings(state: &ClusterState, product: &Product, group: &Group, seen: &Observation) -> Vec<String> {
    let Some((primary, replicas)) = group.servers.split_first() else { return Vec::new() };
    let mut said = Vec::new();
    if state.settings.maintenance {
        said.push(
            "maintenance is on in the whole cluster: nothing is failed over or wired by itself (pontoon maintenance off)"
                .to_owned(),
        );
    }
    let probe = newest(seen, &primary.addr).map(|(probe, _)| probe);
    // A primary begins a new history for its first replica, too: then it is the process that it was when it was added.
    // Likewise when it is the process that the log knows, and that did not begin while it was the primary.
    let same = probe.is_some_and(|probe| {
        let first = group.restarted_with.is_none() && probe.run_id == group.run_id;
        !probe.run_id.is_empty() && (first || probe.run_id == primary.run_id)
    });
    if let Some(at_ms) = new_history(state, product, group).filter(|_| !same) {
        let empty = probe.is_some_and(|probe| probe.keys == 0 && !probe.loading);
        said.push(restarted(&primary.addr, at_ms, if empty { Some(0) } else { group.restarted_with }));
    }
    if product.mode == Mode::Store && probe.is_some_and(|probe| probe.persistent == Some(false)) {
        said.push(not_persistent(&primary.addr));
    }
    if let Some(Probe { role: ReportedRole::Primary { replicas: in_sync }, .. }) = probe {
        said.extend(unmanaged(group, in_sync).iter().map(|addr| {
            format!(
                "an unmanaged replica is in sync to the primary: {addr}; add it to the group (pontoon group add-server {} \
                 {addr}), or see that it may have the data",
                group.id
            )
        }));
    }
    if let Some(unnamed) = probe.map(|probe| probe.unnamed_replicas).filter(|unnamed| *unnamed > 0) {
        said.push(format!(
            "{unnamed} unmanaged replica(s) that tell no port are in sync to the primary and acknowledge its writes (tools that \
             copy do so); see in CLIENT LIST TYPE replica on {} whether they may have the data",
            primary.addr
        ));
    }
    let (min_acks, count) = (u32::from(product.min_acks), replicas.len());
    if count < usize::from(product.min_acks) {
        said.push(format!(
            "min-acks is {min_acks}, and there are {count} replica(s): every write is answered -NOREPLICAS (pontoon group \
             add-server {}, or product set {} min-acks=0)",
            group.id, product.name
        ));
    }
    let demanded = min_acks + unmanaged_replicas(group, probe.cloned(), |addr| answered_now(seen, addr).cloned());
    if min_acks > 0 && demanded > min_acks {
        said.push(format!(
            "min-acks is {min_acks}, and because of the unmanaged ones a write waits for {demanded} replicas"
        ));
    }
    if replicas.is_empty() && product.mode == Mode::Store {
        said.push(format!("there is no replica: while {} is down, its slots are not served", primary.addr));
    }
    said
}

/// The newest probe at a server, unless it fails since, for somebody.
pub(super) fn answered_now<'a>(seen: &'a Observation, addr: &HostPort) -> Option<&'a Probe> {
    let failing = |r: &AgedReport| r.report.failing_ms.is_some();
    fresh_probe(seen, addr).filter(|_| !seen.get(addr).is_some_and(|by_node| by_node.values().any(failing)))
}

/// When the present primary was last seen to have begun another history.
fn new_history(state: &ClusterState, product: &Product, group: &Group) -> Option<u64> {
    let subject = format!("group {}", group.id);
    let of = |e: &&Event| e.kind == EventKind::PrimaryNoted && e.product == Some(product.id) && e.subject == subject;
    // What was before the group had this primary is of another one.
    state.events.iter().rev().find(of).filter(|e| e.index > group.epoch).map(|e| e.at_ms)
}

/// `with`: the keys it began with, if that is known.
fn restarted(primary: &HostPort, at_ms: u64, with: Option<u64>) -> String {
    let at = utc(at_ms);
    match with {
        Some(0) => format!(
            "the primary {primary} restarted empty at {at}: if it had keys, they are lost, also on its replicas, which \
             copy it; restore a backup, and let it persist"
        ),
        Some(keys) => format!(
            "the primary {primary} restarted at {at}, with {keys} keys: what it had not saved is lost, also on its replicas, \
             which copy it"
        ),
        None => format!("the primary {primary} restarted, or was replaced by hand, at {at}"),
    }
}

/// Replicas that a primary has and that are not of its group. Hosts have many names, so the port decides where no address
/// does: as many of one port as the group has are taken for its own.
fn unmanaged(group: &Group, in_sync: &[(HostPort, u64)]) -> Vec<HostPort> {
    let mut own: Vec<&HostPort> = group.servers.iter().skip(1).map(|server| &server.addr).collect();
    let mut take = |same: &dyn Fn(&HostPort) -> bool| {
        own.iter().position(|addr| same(addr)).map(|place| own.swap_remove(place)).is_some()
    };
    let unnamed: Vec<&HostPort> =
        in_sync.iter().map(|(addr, _)| addr).filter(|addr| !take(&|own| own == *addr)).collect();
    unnamed.into_iter().filter(|addr| !take(&|own| own.port() == addr.port())).cloned().collect()
}
