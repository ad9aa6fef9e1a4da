//! The change summary of a dry run: the differences between two states, as text.
//! Knows nothing of changes: it compares states. Never shows a password.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    auth::ProductAuth,
    ids::{GroupId, HostPort, SlotId},
    slot::brief,
    state::{ClusterState, Group, Keys, Member, Product, Role},
};

pub(super) fn differences(before: &ClusterState, after: &ClusterState) -> Vec<String> {
    let mut lines = Vec::new();
    members(before, after, &mut lines);
    products(before, after, &mut lines);
    for hold in after.holds.values().filter(|h| !before.holds.contains_key(&h.id)) {
        lines.push(format!("{} slot(s) are held: {}", hold.slots.len(), hold.reason));
    }
    for hold in before.holds.values().filter(|h| !after.holds.contains_key(&h.id)) {
        lines.push(format!("{} slot(s) are no longer held", hold.slots.len()));
    }
    for new in after.assignments.values().filter(|a| !before.assignments.contains_key(&a.id)) {
        let slots = brief(&new.slots);
        let keys = match new.keys {
            Keys::Abandoned => "; the keys that their present owners have in them are abandoned and stay there",
            Keys::None => ", if their present owners have no keys in them",
            Keys::Ejected => {
                " again; it is flushed first, and their present owners delete the keys that they have in them"
            }
        };
        lines.push(match new.to {
            Some(to) => format!("slots {slots} get group {to} as their owner, under a hold{keys}"),
            None => format!("slots {slots} are released and have no owner then, under a hold{keys}"),
        });
    }
    migrations(before, after, &mut lines);
    promotions(before, after, &mut lines);
    if before.settings.voters != after.settings.voters {
        lines.push(format!("voters: {} instead of {}", after.settings.voters, before.settings.voters));
    }
    if before.settings.hold_ms_max != after.settings.hold_ms_max {
        lines
            .push(format!("hold-max: {} ms instead of {} ms", after.settings.hold_ms_max, before.settings.hold_ms_max));
    }
    if before.settings.maintenance != after.settings.maintenance {
        lines.push(maintenance("all groups", after.settings.maintenance));
    }
    let (old, new) = (before.settings.failover_share_max, after.settings.failover_share_max);
    if old != new {
        lines.push(format!("automatic failovers while at most {new} % of the primaries are down, instead of {old} %"));
    }
    lines
}

fn migrations(before: &ClusterState, after: &ClusterState, lines: &mut Vec<String>) {
    for new in after.migrations.values() {
        let Some(old) = before.migrations.get(&new.id) else {
            let slots = brief(&new.slots);
            lines.push(format!("slots {slots} migrate from group {} to group {}, with their keys", new.from, new.to));
            continue;
        };
        let (id, a, b) = (new.id, &old.options.limits, &new.options.limits);
        if old.phase != new.phase {
            lines.push(format!("migration {id}: {} instead of {}", new.phase.name(), old.phase.name()));
        }
        if old.attempt != new.attempt {
            lines.push(format!("migration {id}: attempt {} begins", new.attempt));
        } else if old.run != new.run && new.run.is_some() {
            lines.push(format!("migration {id}: run {} begins", new.runs));
        }
        if (old.counters, old.verified) != (new.counters, new.verified) {
            lines.push(format!("migration {id}: the progress of its mover is noted"));
        }
        if a.keys_per_second != b.keys_per_second {
            lines.push(format!("migration {id}: {} keys/s at most", number(b.keys_per_second)));
        }
        if a.bytes_per_second != b.bytes_per_second {
            lines.push(format!("migration {id}: {} bytes/s at most", number(b.bytes_per_second)));
        }
        if a.hold_ms_max != b.hold_ms_max {
            let ms = if b.hold_ms_max == 0 { "the cluster's".to_owned() } else { format!("{} ms", b.hold_ms_max) };
            lines.push(format!("migration {id}: hold-max is {ms}"));
        }
    }
    for end in after.ended_migrations.iter().filter(|e| before.migrations.contains_key(&e.id)) {
        lines.push(format!("migration {} is {}", end.id, end.end.name()));
    }
}

fn promotions(before: &ClusterState, after: &ClusterState, lines: &mut Vec<String>) {
    for new in after.promotions.values() {
        let (group, to) = (new.group, &new.to);
        match before.promotions.get(&new.id) {
            None => {
                lines.push(format!("{to} becomes the primary of group {group} instead of {}, under a hold", new.from))
            }
            Some(old) if old.attempts != new.attempts => {
                lines.push(format!("promotion {}: attempt {} begins", new.id, new.attempts));
            }
            Some(_) => {}
        }
    }
    for end in after.ended_promotions.iter().filter(|e| before.promotions.contains_key(&e.promotion.id)) {
        let (id, group) = (end.promotion.id, end.promotion.group);
        lines.push(match end.failed {
            None => format!("promotion {id}: {} is the primary of group {group}", end.promotion.to),
            Some(_) => format!("promotion {id} is given up: {} stays the primary of group {group}", end.promotion.from),
        });
    }
}

fn maintenance(what: &str, on: bool) -> String {
    let now = if on { "nothing is changed automatically any more" } else { "changes are made automatically again" };
    format!("{what}: {now}")
}

fn number(limit: u64) -> String {
    if limit == 0 { "any number of".to_owned() } else { limit.to_string() }
}

fn members(before: &ClusterState, after: &ClusterState, lines: &mut Vec<String>) {
    for old in before.members.values() {
        match after.members.get(&old.id) {
            None => lines.push(format!("node {} is not a member any more", old.id)),
            Some(new) => member(old, new, lines),
        }
    }
    for new in after.members.values().filter(|m| !before.members.contains_key(&m.id)) {
        lines.push(format!("node {} at {} becomes a member", new.id, new.admin));
    }
}

fn member(old: &Member, new: &Member, lines: &mut Vec<String>) {
    if (&old.admin, &old.advertise, old.port_offset) != (&new.admin, &new.advertise, new.port_offset) {
        lines.push(format!(
            "node {}: at {}, advertised as {}, port offset {}",
            new.id, new.admin, new.advertise, new.port_offset
        ));
    }
    if old.role != new.role {
        let role = match new.role {
            Role::Auto => "voter or learner as the cluster decides",
            Role::Voter => "voter",
            Role::Learner => "learner",
        };
        lines.push(format!("node {} becomes {role}", new.id));
    }
    if old.admitted != new.admitted {
        lines.push(format!("node {}: a new start is admitted", new.id));
    }
    match new.leaving {
        Some(leaving) if old.leaving != new.leaving && leaving.assume_dead => {
            lines.push(format!("node {} is removed at once: you vouch that it is dead", new.id));
        }
        Some(_) if old.leaving != new.leaving => {
            lines.push(format!("node {} is removed as soon as it has provably stopped serving", new.id));
        }
        Some(_) | None => {}
    }
}

fn products(before: &ClusterState, after: &ClusterState, lines: &mut Vec<String>) {
    for old in before.products.values().filter(|p| !after.products.contains_key(&p.id)) {
        lines.push(format!("product '{}' (port {}) is removed", old.name, old.port));
    }
    for new in after.products.values() {
        match before.products.get(&new.id) {
            Some(old) => product(old, new, lines),
            None => lines.push(format!(
                "product '{}' is created: port {}, {} slots, {} databases",
                new.name,
                new.port,
                new.layout.slots(),
                new.databases
            )),
        }
    }
}

/// How the credentials of clients change.
fn auth(old: &ProductAuth, new: &ProductAuth) -> Option<&'static str> {
    let kept = new.former.as_ref().is_some_and(|former| former.version == old.version);
    match (&old.credentials, &new.credentials) {
        (None, Some(_)) => Some("clients must log in; all clients are closed"),
        (Some(_), None) => Some("clients need no password any more; all clients are closed"),
        (Some(old), Some(new)) if old != new && kept => {
            Some("clients log in with other credentials, or with the former ones; clients stay connected")
        }
        (Some(before), Some(after)) if before != after => {
            Some("clients log in with other credentials; those that logged in with others are closed")
        }
        (Some(_), Some(_)) if old.former != new.former => {
            Some("the former credentials are no longer valid; clients that logged in with them are closed")
        }
        (Some(_), Some(_)) | (None, None) => None,
    }
}

/// How nodes log in at the servers of a group.
fn users(name: &str, old: &Group, new: &Group, lines: &mut Vec<String>) {
    let group = format!("product '{name}': group {}", new.id);
    if old.credentials != new.credentials {
        lines.push(format!("{group}: nodes log in at its servers with other credentials"));
    }
    if new.former.is_none() && old.former.is_some() {
        lines.push(format!("{group}: its servers do not accept the former credentials any more"));
    }
    if old.data_user != new.data_user {
        lines.push(format!(
            "{group}: nodes carry out what its clients ask for as another user, or with another password"
        ));
    }
}

fn product(old: &Product, new: &Product, lines: &mut Vec<String>) {
    let name = &new.name;
    if old.port != new.port {
        lines.push(format!("product '{name}': port {} instead of {}; clients must follow", new.port, old.port));
    }
    if old.databases != new.databases {
        lines.push(format!("product '{name}': {} databases instead of {}", new.databases, old.databases));
    }
    if old.min_acks != new.min_acks {
        lines.push(match new.min_acks {
            0 => format!("product '{name}': writes are acknowledged without waiting for replicas"),
            n => format!("product '{name}': writes are acknowledged when {n} replica(s) have them"),
        });
    }
    if old.min_acks_ms != new.min_acks_ms {
        lines.push(format!("product '{name}': a write waits at most {} ms for replicas", new.min_acks_ms));
    }
    if old.auto_rebalance != new.auto_rebalance {
        let now = if new.auto_rebalance { "slots are rebalanced automatically" } else { "slots move only on request" };
        lines.push(format!("product '{name}': {now}"));
    }
    if old.reads != new.reads {
        lines.push(format!("product '{name}': {}", new.reads));
    }
    if old.clients_max != new.clients_max {
        lines.push(match new.clients_max {
            0 => format!("product '{name}': only a node's own limit of clients applies"),
            n => format!("product '{name}': each node accepts {n} client(s)"),
        });
    }
    if old.rules != new.rules {
        lines.push(format!("product '{name}': {}", new.rules));
    }
    let loaded = |product: &Product| (product.scripts.scripts().len(), product.scripts.libraries().len());
    if old.scripts != new.scripts {
        let (scripts, libraries) = loaded(new);
        lines.push(format!("product '{name}': {scripts} script(s) and {libraries} libraries are loaded"));
    }
    if let Some(now) = auth(&old.auth, &new.auth) {
        lines.push(format!("product '{name}': {now}"));
    }
    for group in old.groups.values().filter(|g| !new.groups.contains_key(&g.id)) {
        lines.push(format!("product '{name}': group {} is removed", group.id));
    }
    for group in new.groups.values() {
        match old.groups.get(&group.id) {
            Some(before) => {
                users(name, before, group, lines);
                servers(name, before, group, lines);
            }
            None => lines.push(format!(
                "product '{name}': group {} is created of {}",
                group.id,
                group.servers.iter().map(|s| s.addr.as_str()).collect::<Vec<_>>().join(", ")
            )),
        }
    }
    let mut moved: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    for (slot, (a, b)) in (0u16..).zip(old.slots.iter().zip(&new.slots)) {
        match b.owner {
            Some(owner) if a.owner != b.owner => {
                moved.entry(owner).or_default().insert(SlotId(slot));
            }
            Some(_) | None => {}
        }
    }
    for (to, slots) in moved {
        lines.push(format!("product '{name}': slots {} belong to group {to}", brief(&slots)));
    }
}

fn servers(name: &str, old: &Group, new: &Group, lines: &mut Vec<String>) {
    let same = |group: &Group, addr: &HostPort| group.servers.iter().find(|s| s.addr == *addr).cloned();
    for server in &new.servers {
        let addr = &server.addr;
        let Some(before) = same(old, addr) else {
            lines.push(format!("product '{name}': group {} gets server {addr}", new.id));
            continue;
        };
        if before.priority != server.priority {
            lines.push(format!("server {addr}: priority {} instead of {}", server.priority, before.priority));
        }
        if before.zone != server.zone {
            lines.push(format!("server {addr}: zone '{}' instead of '{}'", server.zone, before.zone));
        }
        if before.diverged && !server.diverged {
            lines.push(format!("server {addr} may be promoted again"));
        }
        if server.diverged && !before.diverged {
            lines.push(format!("server {addr} is not a candidate until it is resynced"));
        }
    }
    for server in old.servers.iter().filter(|s| same(new, &s.addr).is_none()) {
        lines.push(format!("product '{name}': group {} loses server {}", new.id, server.addr));
    }
    if old.options.down_after_ms != new.options.down_after_ms {
        let (after, instead) = (new.options.down_after_ms, old.options.down_after_ms);
        lines.push(format!("product '{name}': group {}: down-after {after} ms instead of {instead} ms", new.id));
    }
    if old.options.eject_after_ms != new.options.eject_after_ms {
        lines.push(match new.options.eject_after_ms {
            0 => format!("product '{name}': group {} never ejects its slots", new.id),
            ms => format!("product '{name}': group {} ejects its slots after {ms} ms without its primary", new.id),
        });
    }
    let options = new.options.impaired.named().into_iter().zip(old.options.impaired.named());
    for ((option, after), (_, instead)) in options.filter(|(after, instead)| after != instead) {
        let text = |ms: u32| if ms == 0 { "off".to_owned() } else { format!("{ms} ms") };
        lines.push(format!(
            "product '{name}': group {}: {option} {} instead of {}",
            new.id,
            text(after),
            text(instead)
        ));
    }
    if old.ejection.is_some() != new.ejection.is_some() {
        let now = if new.ejection.is_some() { "is ejected: its slots go to other groups" } else { "is reinstated" };
        lines.push(format!("product '{name}': group {} {now}", new.id));
    }
    if old.options.maintenance != new.options.maintenance {
        lines.push(maintenance(&format!("product '{name}': group {}", new.id), new.options.maintenance));
    }
    if old.replid != new.replid && !new.replid.is_empty() {
        lines.push(format!("group {}: its primary's replication id is noted", new.id));
    }
    if old.run_id != new.run_id && !new.run_id.is_empty() {
        lines.push(format!("group {}: the process of its primary is noted", new.id));
    }
    if old.sweep != new.sweep {
        let now = if new.sweep.is_some() { "are being deleted" } else { "are no longer being deleted" };
        lines.push(format!("product '{name}': leftovers of slots that group {} gave away {now}", new.id));
    }
}
