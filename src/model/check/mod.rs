//! The invariants of the state. They are written independently of `apply`, to find its mistakes.
//! Knows nothing of changes: it checks one state.

mod ejection;
mod event;
mod migration;
mod promotion;
mod script;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{NodeId, ProductId, SlotId, Uuid},
    limits::{
        ASSIGNMENTS_MAX, CLIENTS_MAX, DATABASES_MAX, ENDED_MAX, FAILOVER_SHARE, GROUP_CHANGES_MAX, GROUPS_MAX, HOLD_MS,
        IDLE_MS, MAX_LAG_MS, MEMBERS_MAX, MIN_ACKS_MAX, MIN_ACKS_MS, PRODUCTS_MAX, REMOVED_MAX, RESULTS_MAX,
        SERVERS_MAX, VOTERS_MAX,
    },
    ports::host_key,
    state::{Cause, ClusterState, Product, Role},
};

/// A broken invariant, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// All violations of a state. There are none in a state that `apply` has made.
#[must_use]
pub fn check(state: &ClusterState) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    numbers(state, &mut found);
    members(state, &mut found);
    let mut servers = BTreeMap::new();
    let mut run_ids = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (id, p) in &state.products {
        found
            .unless(*id == p.id && id.0 >= 1 && id.0 < state.next_product, || format!("product key {id}, id {}", p.id));
        found.unless(names.insert(&p.name), || format!("two products '{}'", p.name));
        product(state, p, &mut found);
        for group in p.groups.values() {
            for server in &group.servers {
                let place = (host_key(server.addr.host()), server.addr.port());
                found.unless(servers.insert(place, *id).is_none(), || {
                    format!("server {} is in two groups", server.addr)
                });
                let unknown = server.run_id.is_empty();
                let new = unknown || run_ids.insert(&server.run_id, &server.addr).is_none();
                found.unless(new, || format!("run_id {} is there twice", server.run_id));
            }
        }
    }
    listeners(state, &servers, &mut found);
    let mut moving = BTreeSet::new();
    assignments(state, &mut moving, &mut found);
    migration::migrations(state, &mut moving, &mut found);
    migration::sweeps(state, &mut found);
    event::events(state, &mut found);
    promotion::promotions(state, &mut found);
    promotion::groups(state, &mut found);
    ejection::ejections(state, &mut found);
    holds(state, &mut found);
    found.0
}

struct Found(Vec<Violation>);

impl Found {
    fn unless(&mut self, good: bool, bad: impl FnOnce() -> String) {
        if !good {
            self.0.push(Violation(bad()));
        }
    }
}

fn numbers(state: &ClusterState, found: &mut Found) {
    let s = state;
    found.unless(s.route_epoch <= s.applied, || format!("route epoch {} > applied {}", s.route_epoch, s.applied));
    found.unless(s.members.len() <= MEMBERS_MAX, || format!("{} members", s.members.len()));
    found.unless(s.removed.len() <= REMOVED_MAX, || format!("{} removed members", s.removed.len()));
    found.unless(s.products.len() <= PRODUCTS_MAX, || format!("{} products", s.products.len()));
    found.unless(s.assignments.len() <= ASSIGNMENTS_MAX, || format!("{} assignments", s.assignments.len()));
    found.unless(s.ended_assignments.len() <= ENDED_MAX, || format!("{} ended", s.ended_assignments.len()));
    found.unless(s.results.len() <= RESULTS_MAX, || format!("{} results", s.results.len()));
    found.unless((1..=VOTERS_MAX).contains(&s.settings.voters), || format!("{} voters wanted", s.settings.voters));
    found.unless(HOLD_MS.contains(&s.settings.hold_ms_max), || format!("hold of {} ms", s.settings.hold_ms_max));
    found.unless(FAILOVER_SHARE.contains(&s.settings.failover_share_max), || {
        format!("failovers up to {} %", s.settings.failover_share_max)
    });
    let order: BTreeSet<&Uuid> = s.results_order.iter().collect();
    let same = order.len() == s.results_order.len() && order.into_iter().eq(s.results.keys());
    found.unless(same, || "results and their order name different changes".to_owned());
    let indexes: Vec<_> = s.results_order.iter().filter_map(|id| s.results.get(id)).map(|r| r.index).collect();
    found.unless(indexes.is_sorted() && indexes.last().is_none_or(|i| *i <= s.applied), || {
        "results out of order".into()
    });
}

fn members(state: &ClusterState, found: &mut Found) {
    let mut uuids: BTreeMap<Uuid, NodeId> = BTreeMap::new();
    for (id, m) in &state.members {
        found.unless(*id == m.id && id.0 >= 1, || format!("member key {id}, id {}", m.id));
        found.unless(uuids.insert(m.uuid, *id).is_none(), || format!("uuid {} is two members", m.uuid));
        found.unless(!state.was_removed(m.uuid), || format!("member {id} was removed"));
        found.unless(m.admitted.is_none_or(|a| a.incarnation.0 <= state.applied.0), || {
            format!("node {id} was admitted by an entry that is not applied")
        });
        found.unless(m.leaving.is_none_or(|l| l.since <= state.applied), || {
            format!("node {id} is being removed by an entry that is not applied")
        });
    }
    let may_vote = state.members.values().any(|m| m.leaving.is_none() && m.role != Role::Learner);
    found.unless(state.members.is_empty() || may_vote, || "no member may vote".to_owned());
}

fn product(state: &ClusterState, p: &Product, found: &mut Found) {
    let name = &p.name;
    for (group, former) in p.groups.values().filter_map(|group| Some((group, group.former.as_ref()?))) {
        found.unless(former.credentials != group.credentials && group.credentials.is_some(), || {
            format!("the former credentials of group {} of '{name}' are the present ones", group.id)
        });
        found.unless(former.at <= state.applied, || {
            format!("credentials of group {} of '{name}' are of an entry that is not applied", group.id)
        });
    }
    found.unless(p.slots.len() == usize::from(p.layout.slots()), || format!("'{name}' has {} slots", p.slots.len()));
    let (known, changes) = (p.scans.last.len(), p.scans.count);
    found.unless(known as u64 == changes.min(GROUP_CHANGES_MAX as u64), || {
        format!("'{name}' knows {known} of {changes} changes of its groups")
    });
    let lag = p.reads.max_lag_ms;
    found.unless(lag == 0 || MAX_LAG_MS.contains(&lag), || format!("replicas of '{name}' may be {lag} ms behind"));
    let (newest, former) = (p.auth.version, p.auth.former.as_ref().map(|former| former.version));
    found.unless(former.is_none() || p.auth.is_required(), || format!("'{name}' has only former credentials"));
    found.unless(former != Some(newest), || format!("both credentials of '{name}' have version {newest}"));
    found.unless(newest.max(former.unwrap_or_default()) <= state.applied, || {
        format!("credentials of '{name}' are of an entry that is not applied")
    });
    found.unless((1..=DATABASES_MAX).contains(&p.databases), || format!("'{name}' has {} databases", p.databases));
    found.unless(p.min_acks <= MIN_ACKS_MAX && MIN_ACKS_MS.contains(&p.min_acks_ms), || {
        format!("'{name}' waits for {} replicas, {} ms", p.min_acks, p.min_acks_ms)
    });
    found.unless(p.clients_max <= CLIENTS_MAX, || format!("'{name}' may have {} clients", p.clients_max));
    let idle = p.rules.idle_ms;
    found.unless(idle == 0 || IDLE_MS.contains(&idle), || format!("clients of '{name}' may be idle for {idle} ms"));
    script::catalogue(state, p, found);
    found.unless(p.groups.len() <= GROUPS_MAX, || format!("'{name}' has {} groups", p.groups.len()));
    for (i, slot) in p.slots.iter().enumerate() {
        found.unless(slot.epoch <= state.route_epoch, || format!("'{name}' slot {i} is newer than the routes"));
        // A slot without an owner has the epoch 0, or that of its release.
        if let Some(owner) = slot.owner {
            found.unless(p.groups.contains_key(&owner), || format!("'{name}' slot {i} belongs to no group"));
            found.unless(slot.epoch.0 > 0, || format!("'{name}' slot {i} has an owner, but its epoch is 0"));
        }
    }
    for (id, g) in &p.groups {
        found.unless(*id == g.id && id.0 >= 1, || format!("'{name}' group key {id}, id {}", g.id));
        found.unless((1..=SERVERS_MAX).contains(&g.servers.len()), || {
            format!("'{name}' group {id} has {} servers", g.servers.len())
        });
        found.unless(g.epoch.0 > 0 && g.epoch <= state.route_epoch, || {
            format!("'{name}' group {id}: epoch {}", g.epoch)
        });
        for slot in &g.given_away {
            let owner = p.slots.get(usize::from(slot.0)).and_then(|s| s.owner);
            found.unless(owner != Some(*id), || format!("'{name}' group {id} gave away slot {slot}, which it owns"));
        }
    }
}

/// No port of a host may be used twice, by listeners or by a listener and a server.
fn listeners(state: &ClusterState, servers: &BTreeMap<(String, u16), ProductId>, found: &mut Found) {
    let mut taken: BTreeSet<(String, u32)> =
        servers.keys().map(|(host, port)| (host.clone(), u32::from(*port))).collect();
    for m in state.members.values() {
        let hosts: BTreeSet<String> = [m.admin.host(), &m.advertise].into_iter().map(host_key).collect();
        let ports = state.products.values().map(|p| u32::from(p.port) + u32::from(m.port_offset));
        for port in ports.chain([u32::from(m.admin.port())]) {
            found.unless((1..=65535).contains(&port), || format!("node {} listens on port {port}", m.id));
            for host in &hosts {
                let free = taken.insert((host.clone(), port));
                found.unless(free, || {
                    format!("port {port} of host {host} is used twice, the second time by node {}", m.id)
                });
            }
        }
    }
}

fn assignments(state: &ClusterState, moving: &mut BTreeSet<(ProductId, SlotId)>, found: &mut Found) {
    for (id, a) in &state.assignments {
        found.unless(*id == a.id && id.0 <= state.applied.0, || format!("assignment key {id}, id {}", a.id));
        found.unless(!a.slots.is_empty(), || format!("assignment {id} has no slots"));
        found.unless(state.ended_assignments.iter().all(|e| e.id != *id), || {
            format!("assignment {id} ended, yet is open")
        });
        let Some(p) = state.products.get(&a.product) else {
            found.unless(false, || format!("the product of assignment {id} does not exist"));
            continue;
        };
        found.unless(a.to.is_none_or(|to| p.groups.contains_key(&to)), || {
            format!("the target of assignment {id} does not exist")
        });
        for slot in &a.slots {
            found.unless(moving.insert((a.product, *slot)), || format!("slot {slot} is in two assignments"));
            let slot_state = p.slots.get(usize::from(slot.0));
            found.unless(slot_state.is_some_and(|s| s.owner != a.to), || {
                format!("assignment {id}: slot {slot} does not exist, or has the owner {:?} already", a.to)
            });
        }
    }
}

fn holds(state: &ClusterState, found: &mut Found) {
    let mut held: BTreeSet<(ProductId, SlotId)> = BTreeSet::new();
    for (id, h) in &state.holds {
        found.unless(*id == h.id && id.0 <= state.route_epoch.0, || format!("hold key {id}, id {}", h.id));
        for slot in &h.slots {
            found.unless(held.insert((h.product, *slot)), || format!("slot {slot} is held twice"));
        }
        let (product, slots, attempt) = (h.product, &h.slots, h.attempt);
        let same = match h.cause {
            Cause::Assignment(cause) => (state.assignments.get(&cause))
                .is_some_and(|a| (a.product, &a.slots, a.attempts) == (product, slots, attempt)),
            Cause::Migration(cause) => (state.migrations.get(&cause)).is_some_and(|m| {
                m.hold() == Some(*id) && (m.product, &m.slots, m.attempt) == (product, slots, attempt)
            }),
            Cause::Promotion(cause) => (state.promotions.get(&cause)).is_some_and(|p| {
                // All slots that its group owns: no slot may come or go meanwhile.
                let slots_of = state.products.get(&p.product).into_iter().flat_map(|product| &product.slots);
                let owned = (0u16..).zip(slots_of).filter(|(_, s)| s.owner == Some(p.group)).map(|(i, _)| SlotId(i));
                (p.product, p.attempts, p.kind.hold()) == (product, attempt, h.kind) && owned.eq(slots.iter().copied())
            }),
        };
        found.unless(same, || format!("hold {id} is not what {:?} asked for", h.cause));
    }
}
