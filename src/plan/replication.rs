//! Replication reconciliation: where the replication that nodes report differs from the one that the log names, and
//! what is done about it. It covers only servers of groups, begins nothing in maintenance, and leaves a group alone
//! while its promotion is open. Knows nothing of how a server is changed.

use super::{
    candidates::choose,
    failover::FollowingPrimaries,
    observation::{Observation, Probe, ReportedRole, fresh_probe, last_in_sync_ms},
    restart::{confirmations, is_protected, undecided_restart},
    waiting::Wait,
};
use crate::model::{
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId},
    route::Mode,
    secret::Credentials,
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
    /// It follows its primary, which answers, but its link is down: let it log in there, and set its credentials again.
    Login,
    /// Its link is up: set the credentials with which it logs in at its primary, once for each pair of processes. The
    /// caller has to remember for which it has done so.
    SetLogin(LoginProcesses),
    /// It seems to have copied the data of its primary: check this at the server, and note it in the log.
    Resynced {
        /// The primary.
        of: HostPort,
        /// The primary's replication id; if the primary was restarted and that is not decided, that of its former process.
        replid: String,
    },
    /// It is the primary, but follows another server: make it a primary again, if it still is this process and its data
    /// is still what `data` says.
    RestorePrimary {
        /// The `run_id` of its process.
        run_id: String,
        /// What its data is.
        data: RestoredData,
    },
    /// It was promoted: save that in its own configuration, once. Otherwise it follows another server again after a
    /// restart. The promotion has done so too, but may not have received the answer.
    SaveConfig {
        /// The log index of the entry that made it the primary.
        promoted: Epoch,
    },
    /// Servers of the group still accept credentials that others have replaced: let all of them use the new ones, remove the
    /// former, and note that in the log. The server of this fix is the primary; the action is one of the whole group.
    RemoveFormer {
        /// Log index of the entry that replaced them. No node may use them any more.
        replaced_at: Epoch,
    },
}

/// For which processes the credentials of a replica are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginProcesses {
    /// The `run_id` of the replica.
    pub replica: String,
    /// The `run_id` of the primary.
    pub primary: String,
    /// The replica logs in with the replication user, see [`is_protected`].
    pub protected: bool,
    /// The credentials of the group.
    pub credentials: Option<Credentials>,
}

/// A [`ReplicationAction::SetLogin`] for each replica that answers and follows its primary, if the primary is the process
/// that the log knows. Not in maintenance.
#[must_use]
pub fn logins(state: &ClusterState, seen: &Observation) -> Vec<ReplicationFix> {
    let groups = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let mut fixes = Vec::new();
    for (product, group) in groups() {
        let maintenance = state.settings.maintenance || group.options.maintenance;
        let Some((primary, replicas)) = group.servers.split_first() else { continue };
        let Some(probe) = fresh_probe(seen, &primary.addr).filter(|probe| !probe.loading) else { continue };
        let known = !probe.run_id.is_empty() && probe.run_id == group.run_id;
        if maintenance || !known || state.promotion_of(product.id, group.id).is_some() {
            continue;
        }
        for server in replicas {
            let Some(theirs) = fresh_probe(seen, &server.addr) else { continue };
            let linked =
                matches!(&theirs.role, ReportedRole::Replica { of, link_up, .. } if *of == primary.addr && *link_up);
            if !linked || theirs.run_id.is_empty() {
                continue;
            }
            let processes = LoginProcesses {
                replica: theirs.run_id.clone(),
                primary: probe.run_id.clone(),
                protected: is_protected(product),
                credentials: group.credentials.clone(),
            };
            fixes.push(ReplicationFix {
                product: product.id,
                group: group.id,
                epoch: group.epoch,
                addr: server.addr.clone(),
                action: ReplicationAction::SetLogin(processes),
            });
        }
    }
    fixes
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

/// A [`ReplicationAction::RemoveFormer`] for each group whose servers may still accept former credentials. Also in
/// maintenance, since it completes what an operator has begun.
fn former_to_remove(state: &ClusterState) -> impl Iterator<Item = ReplicationFix> + '_ {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p.id, g)));
    let open = move |product, group| state.promotion_of(product, group).is_some();
    groups.filter(move |(product, group)| !open(*product, group.id)).filter_map(|(product, group)| {
        let (former, primary) = (group.former.as_ref()?, group.servers.first()?);
        let action = ReplicationAction::RemoveFormer { replaced_at: former.at };
        Some(ReplicationFix { product, group: group.id, epoch: group.epoch, addr: primary.addr.clone(), action })
    })
}

/// What the data of a primary is that is to be restored: the condition under which that is safe, to be checked at the
/// server again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoredData {
    /// What its process was started with. No other server has data that may be better.
    Loaded,
    /// What its process was started with. Others have data from before the promotion, or data that they copied from the
    /// former process, so that it must have lost nothing: it keeps an append-only file.
    LoadedFromAof,
    /// It has copied the data of another server of the group, under this replication id.
    Copied {
        /// The replication id.
        replid: String,
    },
}

/// Of primaries among `following_primaries` (see `plan::failover`) that no replica can replace: what makes them
/// primaries again; or why that is left to the operator. `me`: the leader.
#[must_use]
pub fn to_restore_as_primary(
    state: &ClusterState,
    seen: &Observation,
    following_primaries: &FollowingPrimaries,
    me: NodeId,
) -> (Vec<ReplicationFix>, Vec<Wait>) {
    let (mut fixes, mut left) = (Vec::new(), Vec::new());
    for product in state.products.values() {
        for group in product.groups.values() {
            let Some(addr) = group.servers.first().map(|server| &server.addr) else { continue };
            let maintenance = state.settings.maintenance || group.options.maintenance;
            let promoted = state.promotion_of(product.id, group.id).is_some();
            if maintenance || promoted || !following_primaries.contains_key(addr) {
                continue;
            }
            let Some(probe) = fresh_probe(seen, addr).filter(|probe| !probe.loading) else { continue };
            if choose(confirmations(product), group, seen, me).best().is_some() {
                continue;
            }
            match restored_data(group, addr, probe, seen) {
                Ok(data) => fixes.push(ReplicationFix {
                    product: product.id,
                    group: group.id,
                    epoch: group.epoch,
                    addr: addr.clone(),
                    action: ReplicationAction::RestorePrimary { run_id: probe.run_id.clone(), data },
                }),
                Err(why) => {
                    let what = format!(
                        "{addr}, primary of group {} of product '{}', is not made a primary again automatically",
                        group.id, product.name
                    );
                    let ends_when = format!(
                        "the other servers of the group answer and have nothing more; or you decide: REPLICAOF NO ONE and \
                         CONFIG REWRITE there, or pontoon group promote {} HOST:PORT --force",
                        group.id
                    );
                    left.push(Wait::new(what, ends_when).with_detail(format!(": {why}")));
                }
            }
        }
    }
    (fixes, left)
}

/// Whether the primary of a group, which follows another server, may be made a primary again, and what its data is
/// then. It is in the state of a primary that was restarted, and such a one stays the primary. But here the other
/// servers still have their data, so it must not be worse than that of any of them (docs/design/failover.md, "A primary
/// that follows another server"). What diverged servers have beyond the promotion does not count: it was given up.
///
/// # Errors
/// Returns why not, as text for the operator.
fn restored_data(group: &Group, addr: &HostPort, probe: &Probe, seen: &Observation) -> Result<RestoredData, String> {
    let ReportedRole::Replica { of, link_up, link_down_ms, syncing } = &probe.role else {
        return Err("it is a primary".into());
    };
    if *syncing || probe.run_id.is_empty() {
        return Err(format!("it copies the data of {of}"));
    }
    let others = || group.servers.iter().skip(1).map(|server| (server, fresh_probe(seen, &server.addr)));
    let loaded = !link_up && *link_down_ms == u64::MAX;
    if !loaded {
        // What it had acknowledged itself is gone from it, and that server has what is left.
        let copied = others().any(|(server, theirs)| {
            let same = theirs.is_some_and(|theirs| theirs.replid == probe.replid)
                || last_in_sync_ms(seen, addr, of, &probe.replid, &probe.run_id).is_some();
            server.addr == *of && same
        });
        if !copied {
            return Err(format!("it may have the data of {of}"));
        }
        if let Some((silent, _)) = others().find(|(server, theirs)| !server.diverged && theirs.is_none()) {
            return Err(format!("{} does not answer and may have newer data", silent.addr));
        }
    }
    let empty = |probe: Option<&Probe>| probe.is_some_and(|probe| probe.keys == 0 && !probe.loading);
    if probe.keys == 0 && !others().all(|(_, theirs)| empty(theirs)) {
        return Err("it has no keys, and other servers of the group have some or do not answer".into());
    }
    let mut data = match loaded {
        true => RestoredData::Loaded,
        false => RestoredData::Copied { replid: probe.replid.clone() },
    };
    for (server, theirs) in others().filter_map(|(server, theirs)| Some((server, theirs?))) {
        let same = theirs.replid == probe.replid;
        let behind = same && theirs.offset <= probe.offset && !theirs.loading;
        if empty(Some(theirs)) || behind || (server.diverged && (same || !loaded)) {
            continue;
        }
        if theirs.loading || same || !loaded || lost_keys(probe.keys, theirs.keys) {
            return Err(format!(
                "{} may have newer data ({} keys, and it has {})",
                server.addr, theirs.keys, probe.keys
            ));
        }
        data = RestoredData::LoadedFromAof;
    }
    Ok(data)
}

/// Whether a server that was started with `began` keys must have lost some, compared with another one that has `keys`.
/// A few fewer are normal: clients delete keys.
fn lost_keys(began: u64, keys: u64) -> bool {
    began <= keys / 2
}

/// What is done in all groups, and the differences that are left to the operator.
#[must_use]
pub fn reconcile(state: &ClusterState, seen: &Observation) -> (Vec<ReplicationFix>, Vec<Wait>) {
    let (mut fixes, mut left): (Vec<ReplicationFix>, _) =
        (configs_to_save(state, seen).chain(former_to_remove(state)).collect(), Vec::new());
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
    left: &mut Vec<Wait>,
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
    if undecided_restart(confirmations(product), group, seen).is_some() {
        // A replica replaces it, or the operator decides (`plan::failover`). Until then the log keeps the process and the
        // history of which the replicas have data, and no replica copies the present one. A diverged server that had
        // copied the former process can be the one that replaces it.
        let copied = replicas.iter().filter(|server| server.diverged && had_copied(group, server, seen));
        fixes.extend(copied.map(|server| {
            let resynced = ReplicationAction::Resynced { of: primary.addr.clone(), replid: group.replid.clone() };
            fix(&server.addr, resynced)
        }));
        return;
    }
    let name = format!("group {} of product '{}'", group.id, product.name);
    if let ReportedRole::Replica { of, .. } = &probe.role {
        let what = format!("{}, primary of {name}, is a replica of {of} and accepts no writes", primary.addr);
        let ends_when = format!(
            "a replica replaces it or it is made a primary again, both within seconds if that loses nothing; else you decide: \
             if its data is the right data, REPLICAOF NO ONE there and then CONFIG REWRITE (without it, it is a replica again \
             after its next restart), otherwise pontoon group promote {} HOST:PORT",
            group.id
        );
        left.push(Wait::new(what, ends_when));
        return;
    }
    let other_process = !probe.run_id.is_empty() && probe.run_id != group.run_id;
    if !probe.replid.is_empty() && (other_process || probe.replid != group.replid) {
        let (replid, run_id) = (probe.replid.clone(), probe.run_id.clone());
        fixes.push(fix(&primary.addr, ReplicationAction::Note { replid, run_id, keys: probe.keys }));
    }
    let restarts = other_process && !group.run_id.is_empty();
    let began_with = if restarts { Some(probe.keys) } else { group.restarted_with };
    let primary_view = PrimaryView { addr: &primary.addr, probe, began_with, cache: product.mode == Mode::Cache };
    for server in replicas {
        let Some(theirs) = fresh_probe(seen, &server.addr).filter(|probe| !probe.loading) else { continue };
        match replica(server, theirs, &primary_view, seen) {
            Ok(Some(action)) => fixes.push(fix(&server.addr, action)),
            Ok(None) => {}
            Err(kept) => left.push(Wait::new(
                format!("{} of {name} does not follow the primary {}", server.addr, primary.addr),
                format!(
                    "it follows it: if its keys are wanted, promote it (pontoon group promote {} {} --force), otherwise \
                     delete them (FLUSHALL there)",
                    group.id, server.addr
                ),
            )
            .with_detail(kept)),
        }
    }
}

/// Whether a replica has data that it has copied from the process that the log knows as its primary.
fn had_copied(group: &Group, server: &Server, seen: &Observation) -> bool {
    let Some(primary) = group.servers.first().map(|primary| &primary.addr) else { return false };
    let Some(theirs) = fresh_probe(seen, &server.addr).filter(|probe| !probe.loading) else { return false };
    let follows = matches!(&theirs.role, ReportedRole::Replica { of, syncing: false, .. } if of == primary);
    follows
        && theirs.replid == group.replid
        && last_in_sync_ms(seen, &server.addr, primary, &group.replid, &theirs.run_id).is_some()
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

    /// Why a server with data of its own must not be made a replica of this primary, which deletes that data; text that
    /// follows what is wrong.
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
            Some(began) if !self.cache && (now < keys || lost_keys(began, keys)) => {
                if self.was_followed_by(&server.addr, seen) {
                    return None;
                }
                format!("restarted with {began} keys and has {now}")
            }
            Some(_) | None => return None,
        };
        Some(format!(
            ", and has {keys} keys, while the primary {has}: it is not made a replica, since that would delete them"
        ))
    }
}

/// What is done at a replica.
///
/// # Errors
/// Returns why the difference is left to the operator, see [`PrimaryView::must_not_wipe`].
fn replica(
    server: &Server,
    theirs: &Probe,
    primary: &PrimaryView<'_>,
    seen: &Observation,
) -> Result<Option<ReplicationAction>, String> {
    let repoint = |why: String, own: bool| match primary.must_not_wipe(server, theirs, seen).filter(|_| own) {
        Some(why_not) => Err(why_not),
        None => Ok(Some(ReplicationAction::Repoint { to: primary.addr.clone(), why })),
    };
    match &theirs.role {
        ReportedRole::Primary { .. } => repoint("it is a primary".into(), true),
        ReportedRole::Replica { of, link_up, .. } if of != primary.addr => {
            repoint(format!("it follows {of}"), !link_up)
        }
        ReportedRole::Replica { link_up: false, link_down_ms, syncing: false, .. } => {
            // Also in a group without credentials: the replica may still have those of the replication user, which the
            // primary does not know any more if it was restarted before `min-acks` was set to 0.
            Ok((*link_down_ms >= LINK_DOWN_MS).then_some(ReplicationAction::Login))
        }
        ReportedRole::Replica { link_up, syncing, .. } => {
            let in_sync = *link_up && !syncing && theirs.replid == primary.probe.replid;
            let resynced =
                ReplicationAction::Resynced { of: primary.addr.clone(), replid: primary.probe.replid.clone() };
            Ok((server.diverged && in_sync).then_some(resynced))
        }
    }
}
