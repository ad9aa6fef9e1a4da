//! Replication reconciliation: where the replication that nodes report differs from the one that the log names, and
//! what is done about it. It covers only servers of groups, begins nothing in maintenance, and leaves a group alone
//! while its promotion is open. Knows nothing of how a server is changed.

use std::collections::BTreeSet;

use super::{
    candidates::choose,
    observation::{Observation, Probe, ReportedRole, fresh_probe},
};
use crate::model::{
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId},
    route::Mode,
    state::{ClusterState, Group, Product, Server},
};

/// For how long a link must have been down before the primary may have refused the replica, milliseconds. Longer than a
/// replica takes to connect again (it tries every second).
const LINK_DOWN_MS: u64 = 2_000;

/// Something to do at one server of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationFix {
    /// The group's product.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Epoch of the group when this was decided.
    pub epoch: Epoch,
    /// The server.
    pub addr: HostPort,
    /// What to do.
    pub action: ReplicationAction,
}

/// What to do at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationAction {
    /// Make it follow the group's primary.
    Repoint {
        /// The primary.
        to: HostPort,
        /// What it does instead ("it follows 10.0.0.1:6379"), for people.
        why: String,
    },
    /// Note in the log which process the primary is, and under which replication id it writes.
    Note {
        /// The replication id.
        replid: String,
        /// The `run_id` of the process; empty: it does not report one.
        run_id: String,
        /// The number of its keys.
        keys: u64,
    },
    /// It follows its primary, which answers, but its link is down: set the group's password there again.
    Login,
    /// It seems to be in sync with its primary again: check this at the server, and note it in the log.
    Resynced {
        /// The primary.
        of: HostPort,
        /// The primary's replication id.
        replid: String,
    },
    /// It is the primary, but follows a server that it has never reached since it was started: make it a primary again.
    RestorePrimary {
        /// The `run_id` of its process, which has the data that it was started with.
        run_id: String,
    },
    /// It was promoted: save that in its own configuration, once. Otherwise it follows another server again after a
    /// restart. A promotion itself does not save it, since clients wait for its end.
    SaveConfig {
        /// The log index of the entry that made it the primary.
        promoted: Epoch,
    },
}

/// A [`ReplicationAction::SaveConfig`] for each primary that answers and that was promoted as far as the log remembers.
/// Also in maintenance, since it completes a promotion that was made. The caller has to remember which of them it has
/// done.
fn configs_to_save<'a>(state: &'a ClusterState, seen: &'a Observation) -> impl Iterator<Item = ReplicationFix> + 'a {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p.id, g)));
    groups.filter_map(|(product, group)| {
        let primary = &group.servers.first()?.addr;
        let ended = state.ended_promotions.iter().rev();
        let mut ended = ended.filter(|e| (e.promotion.product, e.promotion.group) == (product, group.id));
        let last = ended.find(|e| e.failed.is_none()).filter(|e| e.promotion.to == *primary)?;
        let answers = fresh_probe(seen, primary).is_some_and(|probe| !probe.loading);
        let promoted = state.promotion_of(product, group.id).is_some();
        let action = ReplicationAction::SaveConfig { promoted: last.at };
        let fix = ReplicationFix { product, group: group.id, epoch: group.epoch, addr: primary.clone(), action };
        (answers && !promoted).then_some(fix)
    })
}

/// Primaries among `following_primaries` (see `plan::failover`) that no replica can replace, and whose data is what
/// they were started with: their link was never up since. Such a primary is in the same state as one that was simply
/// restarted, so that restoring it loses nothing that was not lost before, while the server that it follows may come
/// back at any moment and overwrite its data. An operator has to choose where another server of the group answers and
/// has data that may be the better (data of a diverged server is not), and where this one has no keys. `me`: the
/// leader.
#[must_use]
pub fn to_restore_as_primary(
    state: &ClusterState,
    seen: &Observation,
    following_primaries: &BTreeSet<HostPort>,
    me: NodeId,
) -> Vec<ReplicationFix> {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p.id, g)));
    let fix = |(product, group): (ProductId, &Group)| {
        let addr = &group.servers.first()?.addr;
        let quiet = state.settings.maintenance || group.options.maintenance;
        if quiet || !following_primaries.contains(addr) || state.promotion_of(product, group.id).is_some() {
            return None;
        }
        let probe = fresh_probe(seen, addr).filter(|probe| !probe.loading)?;
        let own =
            matches!(probe.role, ReportedRole::Replica { link_up: false, link_down_ms: u64::MAX, syncing: false, .. });
        let has_data = |server: &Server| {
            !server.diverged && fresh_probe(seen, &server.addr).is_some_and(|l| l.keys > 0 || l.loading)
        };
        let best = probe.keys > 0 && !group.servers.iter().skip(1).any(has_data);
        let action = ReplicationAction::RestorePrimary { run_id: probe.run_id.clone() };
        let fix = ReplicationFix { product, group: group.id, epoch: group.epoch, addr: addr.clone(), action };
        (own && best && !probe.run_id.is_empty() && choose(group, seen, me).best().is_none()).then_some(fix)
    };
    groups.filter_map(fix).collect()
}

/// What is done in all groups, and texts about differences that are left to the operator.
#[must_use]
pub fn reconcile(state: &ClusterState, seen: &Observation) -> (Vec<ReplicationFix>, Vec<String>) {
    let (mut fixes, mut left): (Vec<ReplicationFix>, _) = (configs_to_save(state, seen).collect(), Vec::new());
    if state.settings.maintenance {
        return (fixes, left);
    }
    for product in state.products.values() {
        for group in product.groups.values().filter(|group| !group.options.maintenance) {
            let promoted = |(id, g): (ProductId, GroupId)| id == product.id && g == group.id;
            if !state.promotions.values().any(|p| promoted((p.product, p.group))) {
                reconcile_group(product, group, seen, &mut fixes, &mut left);
            }
        }
    }
    (fixes, left)
}

fn reconcile_group(
    product: &Product,
    group: &Group,
    seen: &Observation,
    fixes: &mut Vec<ReplicationFix>,
    left: &mut Vec<String>,
) {
    let Some((primary, replicas)) = group.servers.split_first() else { return };
    // While the primary does not answer, a replica keeps its data and tries to connect automatically.
    let Some(probe) = fresh_probe(seen, &primary.addr).filter(|probe| !probe.loading) else { return };
    let fix = |addr: &HostPort, action| ReplicationFix {
        product: product.id,
        group: group.id,
        epoch: group.epoch,
        addr: addr.clone(),
        action,
    };
    let name = format!("group {} of product '{}'", group.id, product.name);
    if let ReportedRole::Replica { of, .. } = &probe.role {
        left.push(format!(
            "{}, primary of {name}, is a replica of {of} and accepts no writes; if its data is the right data, run \
             REPLICAOF NO ONE there, otherwise promote another server (pontoon group promote)",
            primary.addr
        ));
        return;
    }
    let other_process = !probe.run_id.is_empty() && probe.run_id != group.run_id;
    if !probe.replid.is_empty() && (other_process || probe.replid != group.replid) {
        let (replid, run_id) = (probe.replid.clone(), probe.run_id.clone());
        fixes.push(fix(&primary.addr, ReplicationAction::Note { replid, run_id, keys: probe.keys }));
    }
    let restarts = other_process && !group.run_id.is_empty();
    let began_with = if restarts { Some(probe.keys) } else { group.restarted_with };
    let leads = PrimaryView { addr: &primary.addr, probe, began_with, cache: product.mode == Mode::Cache };
    let password = group.credentials.is_some();
    for server in replicas {
        let Some(theirs) = fresh_probe(seen, &server.addr).filter(|probe| !probe.loading) else { continue };
        match replica(server, theirs, &leads, password, seen) {
            Ok(Some(action)) => fixes.push(fix(&server.addr, action)),
            Ok(None) => {}
            Err(why) => left.push(format!("{} of {name} {why}", server.addr)),
        }
    }
}

/// A group's primary that answers as a primary.
struct PrimaryView<'a> {
    addr: &'a HostPort,
    probe: &'a Probe,
    /// The number of keys with which it restarted, if it restarted since it became the primary.
    began_with: Option<u64>,
    /// The product is a cache: keys may be lost.
    cache: bool,
}

impl PrimaryView<'_> {
    /// Whether a server that does not follow this primary was seen in sync with its present data: then its own data has
    /// been overwritten already, and what it has came from this primary.
    fn was_followed_by(&self, addr: &HostPort, seen: &Observation) -> bool {
        let mut reports = seen.get(addr).into_iter().flat_map(|by_node| by_node.values());
        reports.any(|reported| {
            reported.report.in_sync.as_ref().is_some_and(|l| l.to == *self.addr && l.replid == self.probe.replid)
        })
    }

    /// Why a server with data of its own must not be made a replica of this primary, which deletes that data; a
    /// predicate without its subject, the server.
    ///
    /// A primary that did not restart has the data that counts, and the old primary may be overwritten. One that
    /// restarted may have come back with few keys or none, and then the server has the last copy. The present number of
    /// keys does not show this, since clients have written in the meantime: a primary that restarted with at most half
    /// of the server's keys counts as one that lost keys, however many it has by now.
    fn must_not_wipe(&self, server: &Server, theirs: &Probe, seen: &Observation) -> Option<String> {
        let (keys, now) = (theirs.keys, self.probe.keys);
        if keys == 0 || (self.cache && server.diverged) {
            return None;
        }
        let has = match self.began_with {
            _ if now == 0 => "has none".to_owned(),
            Some(began) if !self.cache && (now < keys || began <= keys / 2) => {
                if self.was_followed_by(&server.addr, seen) {
                    return None;
                }
                format!("restarted with {began} keys and has {now}")
            }
            Some(_) | None => return None,
        };
        Some(format!(
            "does not follow the primary {}, and has {keys} keys, while the primary {has}: it is not made a replica, \
             since that would delete them; if they are wanted, promote it (pontoon group promote --force), otherwise \
             delete them (FLUSHALL there)",
            self.addr
        ))
    }
}

/// What is done at a replica.
///
/// # Errors
/// Why the difference is left to the operator, as a predicate without its subject, the replica.
fn replica(
    server: &Server,
    theirs: &Probe,
    leads: &PrimaryView<'_>,
    password: bool,
    seen: &Observation,
) -> Result<Option<ReplicationAction>, String> {
    let repoint = |why: String, own: bool| match leads.must_not_wipe(server, theirs, seen).filter(|_| own) {
        Some(why_not) => Err(why_not),
        None => Ok(Some(ReplicationAction::Repoint { to: leads.addr.clone(), why })),
    };
    match &theirs.role {
        ReportedRole::Primary { .. } => repoint("it is a primary".into(), true),
        ReportedRole::Replica { of, link_up, .. } if of != leads.addr => repoint(format!("it follows {of}"), !link_up),
        ReportedRole::Replica { link_up: false, link_down_ms, syncing: false, .. } => {
            Ok((password && *link_down_ms >= LINK_DOWN_MS).then_some(ReplicationAction::Login))
        }
        ReportedRole::Replica { link_up, syncing, .. } => {
            let in_sync = *link_up && !syncing && theirs.replid == leads.probe.replid;
            let resynced = ReplicationAction::Resynced { of: leads.addr.clone(), replid: leads.probe.replid.clone() };
            Ok((server.diverged && in_sync).then_some(resynced))
        }
    }
}
