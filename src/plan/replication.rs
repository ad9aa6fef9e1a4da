//! Who is to follow whom: what differs, in each group, between the replication that nodes see and the one that the log wants,
//! and what is to be done about it. Only about servers of groups, nothing new in maintenance, never while a promotion is open.
//! Knows nothing of how it is done at a server.

use std::collections::BTreeSet;

use super::{
    failover::{choose, fresh_probe},
    observation::{Observation, Probe, ReportedRole},
};
use crate::model::{
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId},
    route::Mode,
    state::{ClusterState, Group, Product, Server},
};

/// A link that has been down for so long, while its primary answers, is perhaps refused: milliseconds. Longer than a replica
/// takes to connect again (it tries every second).
const LINK_DOWN_MS: u64 = 2_000;

/// Something to do, in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationFix {
    /// In which product.
    pub product: ProductId,
    /// Of which group.
    pub group: GroupId,
    /// Epoch of the group when this was decided.
    pub epoch: Epoch,
    /// Which server.
    pub addr: HostPort,
    /// What.
    pub action: ReplicationAction,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationAction {
    /// Make it follow the group's primary.
    Repoint {
        /// The primary.
        to: HostPort,
        /// What it does instead, for people.
        why: String,
    },
    /// Note in the log which process the primary is, and under which replication id it writes.
    Note {
        /// The id.
        replid: String,
        /// The process; empty: it does not tell.
        run_id: String,
        /// Keys that it has.
        keys: u64,
    },
    /// It follows its primary, which answers, and does not get through: give it the group's password again.
    Login,
    /// It seems to follow its primary again: probe closely, and say so in the log.
    Resynced {
        /// The primary.
        of: HostPort,
        /// Under this replication id.
        replid: String,
    },
    /// It is the primary, and follows somebody whom it has never reached since it was started: make it one again.
    RestorePrimary {
        /// Of its process, which has the data that it was started with.
        run_id: String,
    },
    /// It was made the primary: let it keep that in its own configuration, once. Else it follows somebody again when it is
    /// started anew. A promotion does not do it: clients wait for that.
    SaveConfig {
        /// When it was: the log index of the entry that made it one.
        promoted: Epoch,
    },
}

/// Primaries of which the log remembers that they were promoted, and that answer: also in maintenance, since that belongs to
/// what was done then. Whoever acts on it knows which of them it has seen to.
fn to_save<'a>(state: &'a ClusterState, seen: &'a Observation) -> impl Iterator<Item = ReplicationFix> + 'a {
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

/// Primaries that are `following_primaries` (see `plan::failover`), that no replica can replace, and whose data is what they were started
/// with: their link was never up since. They are then what a primary is that was started again, and nothing is lost by it that
/// was not lost before; while whoever they follow may come back any moment, and would overwrite it. Not where another server
/// of the group answers and has data that may be the better one (diverged data is not), nor where this one has none: then
/// an operator has to choose. `me`: the leader.
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

/// What is to be done, in all groups, and sentences about what is odd and is left to the operator.
#[must_use]
pub fn reconcile(state: &ClusterState, seen: &Observation) -> (Vec<ReplicationFix>, Vec<String>) {
    let (mut fixes, mut odd): (Vec<ReplicationFix>, _) = (to_save(state, seen).collect(), Vec::new());
    if state.settings.maintenance {
        return (fixes, odd);
    }
    for product in state.products.values() {
        for group in product.groups.values().filter(|group| !group.options.maintenance) {
            let promoted = |(id, g): (ProductId, GroupId)| id == product.id && g == group.id;
            if !state.promotions.values().any(|p| promoted((p.product, p.group))) {
                reconcile_group(product, group, seen, &mut fixes, &mut odd);
            }
        }
    }
    (fixes, odd)
}

fn reconcile_group(
    product: &Product,
    group: &Group,
    seen: &Observation,
    fixes: &mut Vec<ReplicationFix>,
    odd: &mut Vec<String>,
) {
    let Some((primary, replicas)) = group.servers.split_first() else { return };
    // Where the primary does not answer, a replica keeps what it has and goes on trying by itself.
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
        odd.push(format!(
            "{}, primary of {name}, is a replica of {of} and takes no writes; if its data is the right one, run REPLICAOF \
             NO ONE there, else promote another server (pontoon group promote)",
            primary.addr
        ));
        return;
    }
    let other = !probe.run_id.is_empty() && probe.run_id != group.run_id;
    if !probe.replid.is_empty() && (other || probe.replid != group.replid) {
        let (replid, run_id) = (probe.replid.clone(), probe.run_id.clone());
        fixes.push(fix(&primary.addr, ReplicationAction::Note { replid, run_id, keys: probe.keys }));
    }
    let restarts = other && !group.run_id.is_empty();
    let began_with = if restarts { Some(probe.keys) } else { group.restarted_with };
    let leads = PrimaryView { addr: &primary.addr, probe, began_with, cache: product.mode == Mode::Cache };
    let password = group.credentials.is_some();
    for server in replicas {
        let Some(theirs) = fresh_probe(seen, &server.addr).filter(|probe| !probe.loading) else { continue };
        match replica(server, theirs, &leads, password, seen) {
            Ok(Some(action)) => fixes.push(fix(&server.addr, action)),
            Ok(None) => {}
            Err(why) => odd.push(format!("{} of {name} {why}", server.addr)),
        }
    }
}

/// A group's primary that answers, as one.
struct PrimaryView<'a> {
    addr: &'a HostPort,
    probe: &'a Probe,
    /// It restarted since it became the primary, and began with so many keys.
    began_with: Option<u64>,
    /// Its keys may be lost.
    cache: bool,
}

impl PrimaryView<'_> {
    /// Whether a server that does not follow it was seen in step with what it writes now: then it has been overwritten already,
    /// and what it has is of it.
    fn was_followed_by(&self, addr: &HostPort, seen: &Observation) -> bool {
        let mut reports = seen.get(addr).into_iter().flat_map(|by_node| by_node.values());
        reports.any(|reported| {
            reported.report.in_sync.as_ref().is_some_and(|l| l.to == *self.addr && l.replid == self.probe.replid)
        })
    }

    /// Why a server with data of its own must not be made its replica, which deletes that: the rest of a sentence.
    ///
    /// A primary that lives on has what counts, and its old primary heals by itself. One that restarted may have come back
    /// with nothing, or little, and then that server's is the last copy. What clients have written since does not tell: so
    /// less than half of what that server has is too few to have begun with, however many they are by now.
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
            "does not follow the primary {}, and has {keys} keys, while that {has}: it is not made a replica, since that would \
             delete them; if they are what is wanted, promote it (pontoon group promote --force), else delete them \
             (FLUSHALL there)",
            self.addr
        ))
    }
}

/// What is to be done at a replica; `Err`: left to the operator, the rest of a sentence.
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
