//! Makes servers follow their group's primary: carries out what `plan::replication` decides, one task per server, and gives a
//! promotion the same act for those it leaves behind. Decides nothing; looks at the log again before it acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{acts::host_and_port, fence::At, migrate::Jobs};
use crate::{
    model::{
        change::Change,
        ids::{Epoch, GroupId, HostPort, ProductId, Uuid},
        migration::{Job, Run},
        state::{ClusterState, Group},
    },
    plan::{
        observation::Observation,
        replication::{Act, Wire, to_lead, wiring},
    },
    redis::Standing,
};

/// One server, some answers; a server that needs more is tried again.
const ACT_MAX: Duration = Duration::from_secs(2);
/// Longer than all waits of an act together; then it is given up, whatever it hangs on.
const TASK_MAX: Duration = Duration::from_secs(10);
/// A proposal that takes longer has lost its quorum, and with it the term.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// After an act that failed, the next one at that server. Also after one that was done: what nodes see of it comes later.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What is odd for so long is told: right after a promotion, nodes still have looks of before.
const ODD_FOR: Duration = Duration::from_secs(2);
/// So often a promoted server is asked in one term to keep in its configuration what it is, if it does not answer: it may be
/// that which makes it silent (a slow disk), and it serves all the same.
const SAVES_MAX: u32 = 5;
/// Servers at a time: enough for all groups of a machine that returns, few beside a leader's other work.
const AT_ONCE: usize = 16;

/// A server, and what is done there: an act of one kind does not wait for one of the other.
type Place = (HostPort, Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its replication, and what the log knows of it.
    Wires,
    /// Its configuration file.
    Saves,
}

impl Kind {
    fn of(act: &Act) -> Self {
        if matches!(act, Act::Save { .. }) { Self::Saves } else { Self::Wires }
    }
}

/// The acts that are going on, and what came of the last ones. Belongs to one term; dropped, they end.
#[derive(Debug, Default)]
pub struct Wiring {
    tasks: JoinSet<(Wire, Result<(), String>)>,
    busy: BTreeSet<Place>,
    /// When a server may be acted on again, and why the last act failed, if it did.
    not_before: BTreeMap<Place, (Instant, Option<String>)>,
    /// How often a server that was promoted then was asked to keep that.
    saves: BTreeMap<(HostPort, Epoch), u32>,
    /// What has been odd, and since when.
    odd: BTreeMap<String, Instant>,
}

impl Wiring {
    /// Begins what is to be done now. Sentences about what does not get done.
    /// `astray`: primaries that have followed another server for some time.
    pub fn look(
        &mut self,
        jobs: &Jobs,
        state: &ClusterState,
        seen: &Observation,
        astray: &BTreeSet<HostPort>,
    ) -> Vec<String> {
        let now = Instant::now();
        self.take_ended(now);
        let (mut wires, odd) = wiring(state, seen);
        wires.extend(to_lead(state, seen, astray, jobs.me));
        self.odd.retain(|why, _| odd.contains(why));
        odd.into_iter().for_each(|why| _ = self.odd.entry(why).or_insert(now));
        let lasting = self.odd.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= ODD_FOR);
        let mut sentences: Vec<String> = lasting.map(|(why, _)| why.clone()).collect();
        let wanted: BTreeSet<Place> = wires.iter().map(|wire| (wire.addr.clone(), Kind::of(&wire.act))).collect();
        self.not_before.retain(|place, (at, _)| *at > now || wanted.contains(place));
        self.saves.retain(|(_, promoted), _| state.ended_promotions.iter().any(|ended| ended.at == *promoted));
        for wire in wires {
            let place = (wire.addr.clone(), Kind::of(&wire.act));
            if let Act::Repoint { to, why } = &wire.act {
                let failed = self.not_before.get(&place).and_then(|(_, failed)| failed.as_ref());
                let failed = failed.map_or_else(String::new, |failed| format!("; it could not be done yet: {failed}"));
                sentences.push(format!("{} is to follow {to}, and {why}{failed}", wire.addr));
            }
            let resting = self.not_before.get(&place).is_some_and(|(at, _)| *at > now);
            if resting || self.busy.len() >= AT_ONCE || self.busy.contains(&place) || !self.may_save(&wire) {
                continue;
            }
            self.busy.insert(place);
            let jobs = jobs.clone();
            self.tasks.spawn(async move {
                let done = timeout(TASK_MAX, act(&jobs, &wire)).await;
                (wire, done.unwrap_or_else(|_| Err("it took too long".into())))
            });
        }
        sentences
    }

    fn take_ended(&mut self, now: Instant) {
        while let Some(ended) = self.tasks.try_join_next() {
            let Ok((Wire { addr, act, .. }, result)) = ended else { continue };
            let place = (addr.clone(), Kind::of(&act));
            if let (Act::Save { promoted }, Ok(())) = (act, &result) {
                self.saves.insert((addr, promoted), SAVES_MAX);
            }
            self.busy.remove(&place);
            self.not_before.insert(place, (now + AGAIN_AFTER, result.err()));
        }
        if self.tasks.is_empty() {
            // Also after a panic, which names no server.
            self.busy.clear();
        }
    }

    /// Counts what is to be saved; whether it was not done yet, nor tried too often.
    fn may_save(&mut self, wire: &Wire) -> bool {
        let Act::Save { promoted } = wire.act else { return true };
        let times = self.saves.entry((wire.addr.clone(), promoted)).or_default();
        let may = *times < SAVES_MAX;
        *times += u32::from(may);
        may
    }
}

async fn act(jobs: &Jobs, wire: &Wire) -> Result<(), String> {
    let Wire { product, group, epoch, addr, act } = wire.clone();
    let state = jobs.consensus.state().borrow().clone();
    let found = still(&state, product, group, epoch).ok_or_else(|| format!("group {group} has changed"))?;
    let at = At { addr: addr.clone(), credentials: found.credentials.clone() };
    let change = match act {
        Act::Repoint { to, why } => {
            info!(%addr, primary = %to, %why, "a server is to follow its group's primary");
            return repoint(jobs, (product, group, epoch), &at, &to).await;
        }
        Act::Lead { run_id } => return lead(jobs, &at, &run_id).await,
        Act::Save { .. } => {
            let by = Instant::now() + ACT_MAX;
            let standing = jobs.fence.standing(&at, by).await.map_err(|error| error.to_string())?;
            if standing.follows.is_some() {
                return Err(format!("{addr} is no primary"));
            }
            return jobs.fence.save_config(&at, by).await.map(|_| ()).map_err(|error| error.to_string());
        }
        Act::Note { replid } => Change::NotePrimary { product, group, epoch, replid },
        Act::Resynced { of, replid } => {
            // The control connection makes sure that nothing older is on its way to it.
            let standing = jobs.fence.standing(&at, Instant::now() + ACT_MAX).await.map_err(|e| e.to_string())?;
            let (host, port) = host_and_port(&of);
            let in_step = standing.link_up && !standing.syncing && standing.replid == replid;
            if !in_step || !standing.is_replica_of(host, port) {
                return Err(format!("{addr} does not follow {of} yet"));
            }
            Change::MarkResynced { product, group, addr, epoch }
        }
    };
    let id = Uuid(uuid::Uuid::new_v4().as_u128());
    let applied = jobs.consensus.propose(id, change, PROPOSE_WITHIN).await.map_err(|error| error.to_string())?;
    applied.result.map(|_| ()).map_err(|reject| reject.to_string())
}

/// Makes this process of a primary one again, unless it has data of somebody else by now.
async fn lead(jobs: &Jobs, at: &At, run_id: &str) -> Result<(), String> {
    let own = |standing: &Standing| {
        let own = standing.run_id == run_id && !standing.link_up && !standing.syncing && !standing.loading;
        own.then_some(()).ok_or_else(|| "its data may be somebody else's by now".to_owned())
    };
    jobs.fence.promote(at, &own, Instant::now() + ACT_MAX, ACT_MAX).await.map_err(|error| error.to_string())?;
    warn!(addr = %at.addr, "a primary had been started as a replica, and is a primary again, with the data that it had then");
    save(jobs, at).await;
    Ok(())
}

/// Lets a server keep what it is now. What it cannot keep does not matter before it is started anew.
async fn save(jobs: &Jobs, at: &At) {
    if let Err(error) = jobs.fence.save_config(at, Instant::now() + ACT_MAX).await {
        info!(addr = %at.addr, %error, "whether a server has kept in its configuration what it is now is not known");
    }
}

/// The group, if it is what it was at that epoch and is not being promoted.
fn still(state: &ClusterState, product: ProductId, group: GroupId, epoch: Epoch) -> Option<&Group> {
    let found = state.products.get(&product)?.groups.get(&group)?;
    (found.epoch == epoch && state.promotion_of(product, group).is_none()).then_some(found)
}

/// Makes a server of this group, at this epoch, follow `to`, its primary. Runs on a server that was a primary are closed first:
/// they must not act on it, and not on one that is promoted again. Behind it the server keeps in its configuration whom it
/// follows, if it can.
///
/// # Errors
/// A sentence: it does not answer, refuses, or the group has changed.
pub async fn repoint(
    jobs: &Jobs,
    (product, group, epoch): (ProductId, GroupId, Epoch),
    at: &At,
    to: &HostPort,
) -> Result<(), String> {
    let by = Instant::now() + ACT_MAX;
    let standing = jobs.fence.standing(at, by).await.map_err(|error| error.to_string())?;
    let state = jobs.consensus.state().borrow().clone();
    let mine = |group: &Group| {
        let mut servers = group.servers.iter().map(|server| &server.addr);
        servers.next() == Some(to) && servers.any(|addr| *addr == at.addr)
    };
    if !still(&state, product, group, epoch).is_some_and(mine) {
        return Err(format!("group {group} has changed; {} is looked at again", at.addr));
    }
    if standing.follows.is_none() {
        close_runs(jobs, &state, at, by).await?;
    }
    match jobs.fence.follow(at, to, by).await {
        Ok(false) => Ok(()),
        Ok(true) => {
            save(jobs, at).await;
            Ok(())
        }
        Err(error) => {
            warn!(addr = %at.addr, primary = %to, %error, "a server could not be made to follow its group's primary");
            Err(error.to_string())
        }
    }
}

/// Marks the runs that act on this server closed, then kills their connections there.
async fn close_runs(jobs: &Jobs, state: &ClusterState, at: &At, by: Instant) -> Result<(), String> {
    let mut known = Vec::new();
    let here = |run: Option<&Run>| run.is_some_and(|run| run.server == at.addr);
    let migrations = state.migrations.values().filter(|m| here(m.run.as_ref())).map(|m| (Job::Migration(m.id), m.runs));
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let sweeps = groups.filter(|(_, g)| here(g.sweep.as_ref().map(|sweep| &sweep.run)));
    let sweeps = sweeps.map(|(p, g)| (Job::Sweep { product: p.id, group: g.id }, p.sweep_runs));
    for (job, runs) in migrations.chain(sweeps) {
        let closed = jobs.approver.close(jobs.fence.term(), job, runs).ok_or("this node does not lead any more")?;
        known.extend(closed.into_iter().filter(|c| c.server == at.addr).map(|c| c.client_id));
    }
    let name = format!("pt:{}:run:", jobs.cluster);
    let closed = jobs.fence.close(at, &name, &known, by).await.map_err(|error| error.to_string())?;
    if closed.killed > 0 {
        info!(addr = %at.addr, killed = closed.killed, "runs on a replaced primary are closed");
    }
    Ok(())
}
