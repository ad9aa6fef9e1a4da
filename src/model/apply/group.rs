//! Groups and their servers.
//! Knows nothing of the processes: server admission has checked roles, versions and keys.

use std::collections::BTreeSet;

use super::{
    Apply,
    common::{group, product, product_mut, routed, server_at, subject},
    events::{self, When},
    guard::{credentials_usable, no_promotion_open},
};
use crate::model::{
    change::{
        AddServer, CreateGroup, ForgetFormer, RemoveGroup, RemoveServer, SetControlUser, SetDataUser, SetGroup,
        SetServer,
    },
    event::EventKind,
    ids::{GroupId, SlotId},
    limits::{DOWN_AFTER_MS, EJECT_AFTER_MS, GROUPS_MAX, RUN_ID_LEN_MAX, SERVERS_MAX, ZONE_LEN_MAX},
    migration::Migration,
    outcome::Outcome,
    ports::{NodePorts, addr_key, check_listeners, products, servers},
    reject::{EjectionReject, MigrationReject, PromotionReject, Reject},
    route::Mode,
    scan_history::GroupChange,
    state::{ClusterState, FormerControlUser, Group, GroupOptions, Server},
};

impl Apply for CreateGroup {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, servers: ref new, ref credentials, ref data_user } = *self;
        let at = when.at;
        let product = product(state, product_id)?;
        if id.0 == 0 {
            return Err(Reject::GroupIdZero);
        }
        if product.groups.contains_key(&id) {
            return Err(Reject::GroupExists { product: product.name.clone(), group: id });
        }
        if product.groups.len() >= GROUPS_MAX {
            return Err(Reject::TooManyGroups { product: product.name.clone(), max: GROUPS_MAX });
        }
        if new.is_empty() {
            return Err(Reject::NoServers(id));
        }
        if new.len() > SERVERS_MAX {
            return Err(Reject::TooManyServers { group: id, max: SERVERS_MAX });
        }
        if let Some(credentials) = credentials {
            credentials_usable(credentials)?;
        }
        if let Some(user) = data_user {
            user.check()?;
            credentials_usable(&user.credentials)?;
        }
        for (i, server) in new.iter().enumerate() {
            server_new(state, server)?;
            for before in &new[..i] {
                distinct(before, server, &product.name, id)?;
            }
        }
        no_listener_at(state, new)?;

        let group = Group {
            id,
            servers: new.iter().map(fresh).collect(),
            credentials: credentials.clone(),
            former: None,
            data_user: data_user.clone(),
            epoch: at.index,
            given_away: BTreeSet::new(),
            sweep: None,
            options: GroupOptions::default(),
            replid: String::new(),
            run_id: String::new(),
            restarted_with: None,
            required_offset: None,
            ejection: None,
        };
        let product = product_mut(state, product_id)?;
        product.groups.insert(id, group);
        product.scans.record(GroupChange::Created(id));
        routed(state, at);
        Ok(Outcome::Done)
    }
}

impl Apply for AddServer {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, server: ref new } = *self;
        let at = when.at;
        let group = group(product(state, product_id)?, id)?;
        if group.servers.len() >= SERVERS_MAX {
            return Err(Reject::TooManyServers { group: id, max: SERVERS_MAX });
        }
        server_new(state, new)?;
        no_listener_at(state, std::slice::from_ref(new))?;

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            group.servers.push(fresh(new));
        }
        routed(state, at);
        Ok(Outcome::Done)
    }
}

impl Apply for RemoveServer {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, ref addr } = *self;
        let at = when.at;
        let product = product(state, product_id)?;
        let group = group(product, id)?;
        let place = server_at(product, group, addr)?;
        if place == 0 {
            return Err(Reject::PrimaryStays { addr: addr.clone(), group: id });
        }
        no_promotion_open(state, product_id, [id])?;

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            group.servers.remove(place);
        }
        routed(state, at);
        Ok(Outcome::Done)
    }
}

impl Apply for RemoveGroup {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, keys_left } = *self;
        let at = when.at;
        let product = product(state, product_id)?;
        let group = group(product, id)?;
        let mut owned = (0u16..).zip(&product.slots).filter(|(_, s)| s.owner == Some(id)).map(|(slot, _)| SlotId(slot));
        if let Some(first) = owned.next() {
            return Err(Reject::GroupOwnsSlots { group: id, count: 1 + owned.count(), first });
        }
        if let Some(open) = state.assignments.values().find(|a| a.product == product_id && a.to == Some(id)) {
            return Err(Reject::GroupInAssignment { group: id, assignment: open.id });
        }
        let migrates = |m: &&Migration| m.product == product_id && (m.from == id || m.to == id);
        if let Some(open) = state.migrations.values().find(migrates) {
            return Err(MigrationReject::GroupMigrates { group: id, migration: open.id }.into());
        }
        if group.sweep.is_some() {
            return Err(MigrationReject::SweepOpen(id).into());
        }
        no_promotion_open(state, product_id, [id])?;
        // Without keys there is nothing that a sweep would have deleted.
        let left_behind = (!group.given_away.is_empty() && keys_left != Some(0)).then(|| {
            let servers: Vec<_> = group.servers.iter().map(|server| server.addr.as_str()).collect();
            let held = keys_left
                .map_or_else(|| "how many is not known".into(), |keys| format!("the primary had {keys} key(s)"));
            let (slots, servers) = (group.given_away.len(), servers.join(", "));
            format!("the group was removed; keys of {slots} slots that it gave away may be left on {servers} ({held})")
        });

        let product = product_mut(state, product_id)?;
        product.groups.remove(&id);
        product.scans.record(GroupChange::Removed(id));
        if let Some(text) = left_behind {
            events::push(state, when, EventKind::GroupRemoved, Some(product_id), subject(id), &text);
        }
        routed(state, at);
        Ok(Outcome::Done)
    }
}

impl Apply for SetGroup {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, down_after_ms, maintenance, eject_after_ms, impaired } = *self;
        let before = group(product(state, product_id)?, id)?.options;
        let new = GroupOptions {
            down_after_ms: down_after_ms.unwrap_or(before.down_after_ms),
            maintenance: maintenance.unwrap_or(before.maintenance),
            eject_after_ms: eject_after_ms.unwrap_or(before.eject_after_ms),
            impaired: impaired.apply_to(before.impaired),
        };
        if !DOWN_AFTER_MS.contains(&new.down_after_ms) {
            return Err(PromotionReject::BadDownAfter(new.down_after_ms).into());
        }
        if let Some(bad) = new.impaired.out_of_range() {
            return Err(PromotionReject::BadImpairedAfter(bad).into());
        }
        if new.eject_after_ms != 0 && !EJECT_AFTER_MS.contains(&new.eject_after_ms) {
            return Err(EjectionReject::BadEjectAfter(new.eject_after_ms).into());
        }
        if eject_after_ms.is_some() && product(state, product_id)?.mode != Mode::Cache {
            return Err(EjectionReject::NotCache(product(state, product_id)?.name.clone()).into());
        }
        if new == before {
            return Ok(Outcome::Unchanged);
        }

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            group.options = new;
        }
        if new.maintenance != before.maintenance {
            let (kind, text) = if new.maintenance {
                (EventKind::MaintenanceOn, "nothing is changed automatically in this group")
            } else {
                (EventKind::MaintenanceOff, "maintenance of this group ended")
            };
            events::push(state, when, kind, Some(product_id), subject(id), text);
        }
        Ok(Outcome::Done)
    }
}

impl Apply for SetDataUser {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, ref data_user } = *self;
        data_user.check()?;
        credentials_usable(&data_user.credentials)?;
        if group(product(state, product_id)?, id)?.data_user.as_ref() == Some(data_user) {
            return Ok(Outcome::Unchanged);
        }

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            group.data_user = Some(data_user.clone());
        }
        routed(state, when.at);
        Ok(Outcome::Done)
    }
}

impl Apply for SetControlUser {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, ref credentials } = *self;
        credentials_usable(credentials)?;
        let product = product(state, product_id)?;
        let before = group(product, id)?;
        // Otherwise servers would lose their only password with the former one.
        if before.credentials.as_ref().is_some_and(|present| present.is_same_login(credentials)) {
            return Ok(Outcome::Unchanged);
        }
        if before.former.is_some() {
            return Err(Reject::FormerPassword { product: product.name.clone(), group: id });
        }

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            let former = group.credentials.replace(credentials.clone());
            group.former = Some(FormerControlUser { credentials: former, at: when.at.index });
        }
        routed(state, when.at);
        Ok(Outcome::Done)
    }
}

impl Apply for ForgetFormer {
    fn apply(&self, state: &mut ClusterState, _when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, replaced_at } = *self;
        if group(product(state, product_id)?, id)?.former.as_ref().is_none_or(|former| former.at != replaced_at) {
            return Ok(Outcome::Unchanged);
        }

        if let Some(group) = product_mut(state, product_id)?.groups.get_mut(&id) {
            group.former = None;
        }
        Ok(Outcome::Done)
    }
}

impl Apply for SetServer {
    fn apply(&self, state: &mut ClusterState, _when: When) -> Result<Outcome, Reject> {
        let Self { product: product_id, group: id, ref addr, priority, ref zone } = *self;
        let zone = zone.as_deref();
        let product = product(state, product_id)?;
        let group = group(product, id)?;
        let place = server_at(product, group, addr)?;
        zone.map_or(Ok(()), zone_allowed)?;
        let before = &group.servers[place];
        if priority.is_none_or(|p| p == before.priority) && zone.is_none_or(|z| z == before.zone) {
            return Ok(Outcome::Unchanged);
        }

        let servers = product_mut(state, product_id)?.groups.get_mut(&id).map(|group| &mut group.servers);
        if let Some(server) = servers.and_then(|servers| servers.get_mut(place)) {
            server.priority = priority.unwrap_or(server.priority);
            if let Some(zone) = zone {
                zone.clone_into(&mut server.zone);
            }
        }
        Ok(Outcome::Done)
    }
}

/// A server as it enters a group: it has not diverged there.
fn fresh(new: &Server) -> Server {
    Server { diverged: false, ..new.clone() }
}

fn zone_allowed(zone: &str) -> Result<(), Reject> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if zone.len() <= ZONE_LEN_MAX && zone.bytes().all(allowed) {
        return Ok(());
    }
    Err(PromotionReject::BadZone(zone.chars().take(ZONE_LEN_MAX).collect()).into())
}

/// Refuses a server that is in a group of any product, under this address or another.
fn server_new(state: &ClusterState, new: &Server) -> Result<(), Reject> {
    if new.run_id.len() > RUN_ID_LEN_MAX {
        return Err(Reject::BadRunId(new.addr.clone()));
    }
    zone_allowed(&new.zone)?;
    for product in state.products.values() {
        for group in product.groups.values() {
            for known in &group.servers {
                distinct(known, new, &product.name, group.id)?;
            }
        }
    }
    Ok(())
}

fn distinct(known: &Server, new: &Server, product: &str, group: GroupId) -> Result<(), Reject> {
    if addr_key(&known.addr) == addr_key(&new.addr) {
        return Err(Reject::ServerTaken { addr: known.addr.clone(), product: product.to_owned(), group });
    }
    // An empty run_id is unknown (a managed server may hide it).
    if !new.run_id.is_empty() && known.run_id == new.run_id {
        return Err(Reject::SameServer {
            addr: new.addr.clone(),
            known: known.addr.clone(),
            product: product.to_owned(),
            group,
            run_id: new.run_id.clone(),
        });
    }
    Ok(())
}

/// Refuses a new server at the address of a node's listener: it would be this proxy, or take a port from it.
fn no_listener_at(state: &ClusterState, new: &[Server]) -> Result<(), Reject> {
    let all = servers(state).chain(new.iter().map(|s| &s.addr));
    check_listeners(state.members.values().map(NodePorts::from), &products(state), all)
}
