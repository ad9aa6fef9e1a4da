//! Makes servers follow their group's primary: carries out what `plan::replication` decides, one task per server, and gives a
//! promotion the same act for those it leaves behind. Decides nothing; looks at the log again before it acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{acts::host_and_port, fence::At, jobs::Jobs};
use crate::{
    faults::{self, Point},
    model::{
        change::Change,
        ids::{Epoch, GroupId, HostPort, ProductId},
        migration::{Job, Run},
        state::{ClusterState, Group},
    },
    plan::{
        failover::today,
        observation::{Observation, RoleSeen},
        replication::{Act, Wire, to_lead, wiring},
    },
    redis::Standing,
};

/// One server, some answers; a server that needs more is tried again.
const ACT_MAX: Duration = Duration::from_secs(2);
/// Longer than all waits of an act together; then it is given up, whatever it hangs on.
const TASK_MAX: Duration = Duration::from_secs(10);
/// After an act that failed, the next one at that server. Also after one that was done: what nodes see of it comes later.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What is odd for so long is told: right after a promotion, nodes still have looks of before.
const ODD_FOR: Duration = Duration::from_secs(2);
/// So often a promoted server is asked in one term to keep in its configuration what it is, if it does not answer: it may be
/// that which makes it silent (a slow disk), and it serves all the same.
const SAVES_MAX: u32 = 5;
/// After a server was given a password that its link needs: it tries by itself then, and if that is not it, asking helps no more.
const LOGIN_AGAIN: Duration = Duration::from_secs(10);
/// What is done at one server is told so often at most: one that flaps must not drive everything else out of the events.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Servers at a time: enough for all groups of a machine that returns, few beside a leader's other work.
const AT_ONCE: usize = 16;

/// A server, and what is done there: an act of one kind does not wait for one of the other.
type Place = (HostPort, Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its replication, and what the log knows of it.
    Wires,
    /// What it logs in to its primary with.
    Logins,
    /// Its configuration file.
    Saves,
}

impl Kind {
    fn of(act: &Act) -> Self {
        match act {
            Act::Save { .. } => Self::Saves,
            Act::Login => Self::Logins,
            Act::Repoint { .. } | Act::Note { .. } | Act::Resynced { .. } | Act::Lead { .. } => Self::Wires,
        }
    }
}

/// What is known beside what is to be done.
struct Aside {
    /// The nodes that see the server as it is, for people.
    seen_by: String,
    /// What is done there may be told.
    tell: bool,
    /// Keys that the process before had when it was last looked at.
    keys_before: Option<u64>,
}

/// The acts that are going on, and what came of the last ones. Belongs to one term; dropped, they end.
#[derive(Debug, Default)]
pub struct Wiring {
    tasks: JoinSet<(Wire, Result<Done, String>)>,
    busy: BTreeSet<Place>,
    /// When a server may be acted on again, and why the last act failed, if it did.
    not_before: BTreeMap<Place, (Instant, Option<String>)>,
    /// How often a server that was promoted then was asked to keep that.
    saves: BTreeMap<(HostPort, Epoch), u32>,
    /// What has been odd, and since when.
    odd: BTreeMap<String, Instant>,
    /// When something that was done at a server was last told.
    told: BTreeMap<HostPort, Instant>,
    /// Primaries: the process that the log knows, and the keys it had when it was last looked at.
    keys: BTreeMap<HostPort, (String, u64)>,
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It is not told: nothing was to be done, or the log has it.
    Quiet,
    /// The server was changed, and the events tell so.
    Told,
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
        self.count(state, seen);
        self.told.retain(|_, at| now.saturating_duration_since(*at) < TELL_AGAIN);
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
            let aside = Aside {
                seen_by: seen_by(seen, &wire.addr),
                tell: !self.told.contains_key(&wire.addr),
                keys_before: self.keys.get(&wire.addr).map(|(_, keys)| *keys),
            };
            self.tasks.spawn(async move {
                let done = timeout(TASK_MAX, act(&jobs, &wire, &aside)).await;
                (wire, done.unwrap_or_else(|_| Err("it took too long".into())))
            });
        }
        sentences
    }

    fn take_ended(&mut self, now: Instant) {
        while let Some(ended) = self.tasks.try_join_next() {
            let Ok((Wire { addr, act, .. }, result)) = ended else { continue };
            let place = (addr.clone(), Kind::of(&act));
            if result == Ok(Done::Told) {
                self.told.insert(addr.clone(), now);
            }
            let again = if act == Act::Login { LOGIN_AGAIN } else { AGAIN_AFTER };
            if let (Act::Save { promoted }, Ok(_)) = (act, &result) {
                self.saves.insert((addr, promoted), SAVES_MAX);
            }
            self.busy.remove(&place);
            self.not_before.insert(place, (now + again, result.err()));
        }
        if self.tasks.is_empty() {
            // Also after a panic, which names no server.
            self.busy.clear();
        }
    }

    /// Remembers how many keys primaries have, as long as they are the processes that the log knows.
    fn count(&mut self, state: &ClusterState, seen: &Observation) {
        let groups = || state.products.values().flat_map(|product| product.groups.values());
        let primaries: BTreeMap<&HostPort, &String> =
            groups().filter_map(|group| Some((&group.servers.first()?.addr, &group.run_id))).collect();
        // Before the log knows the process, it may be the one that it will know.
        let is = |known: &str, run_id: &str| known.is_empty() || known == run_id;
        self.keys.retain(|addr, (run_id, _)| primaries.get(addr).is_some_and(|known| is(known, run_id)));
        for (addr, known) in primaries {
            let look = today(seen, addr).filter(|look| !look.run_id.is_empty() && is(known, &look.run_id));
            if let Some(look) = look.filter(|look| !look.loading) {
                self.keys.insert(addr.clone(), (look.run_id.clone(), look.keys));
            }
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

/// The nodes whose last look at a server shows what the newest look of all shows, for people.
fn seen_by(seen: &Observation, addr: &HostPort) -> String {
    let of = |role: &RoleSeen| match role {
        RoleSeen::Primary { .. } => None,
        RoleSeen::Replica { of, link_up, .. } => Some((of.clone(), *link_up)),
    };
    let Some(role) = today(seen, addr).map(|look| of(&look.role)) else { return "nobody".into() };
    let nodes = seen.get(addr).into_iter().flatten();
    let same = nodes.filter(|(_, r)| r.sight.look.as_ref().is_some_and(|(look, _)| of(&look.role) == role));
    let same: Vec<String> = same.map(|(node, _)| format!("node {node}")).collect();
    same.join(", ")
}

/// Puts what was done at a server into the events. It is done: that it could not be told is no failure of it.
async fn tell(jobs: &Jobs, wire: &Wire, aside: &Aside, what: &str) -> Done {
    if !aside.tell {
        return Done::Quiet;
    }
    let text = format!("{what} (seen by {}; done by node {} in term {})", aside.seen_by, jobs.me, jobs.fence.term());
    let change = Change::NoteWired { product: wire.product, group: wire.group, addr: wire.addr.clone(), text };
    match jobs.propose(change).await {
        Ok(()) => Done::Told,
        Err(error) => {
            info!(addr = %wire.addr, %error, "what was done at a server is not in the events");
            Done::Quiet
        }
    }
}

async fn act(jobs: &Jobs, wire: &Wire, aside: &Aside) -> Result<Done, String> {
    let Wire { product, group, epoch, addr, act } = wire.clone();
    let state = jobs.consensus.state().borrow().clone();
    let found = still(&state, product, group, epoch).ok_or_else(|| format!("group {group} has changed"))?;
    let at = At { addr: addr.clone(), credentials: found.credentials.clone() };
    let change = match act {
        Act::Repoint { to, why } => {
            info!(%addr, primary = %to, %why, "a server is to follow its group's primary");
            return match follow(jobs, (product, group, epoch), &at, &to).await? {
                true => {
                    Ok(tell(jobs, wire, aside, &format!("was made a replica of {to}, its group's primary: {why}"))
                        .await)
                }
                false => Ok(Done::Quiet),
            };
        }
        Act::Lead { run_id } => {
            lead(jobs, &at, &run_id).await?;
            let what = "was made a primary again, which its group has it for: it had been started as a replica";
            return Ok(tell(jobs, wire, aside, what).await);
        }
        Act::Login => {
            let to = found.servers.first().map(|primary| primary.addr.clone()).unwrap_or_else(|| addr.clone());
            let check = || may_follow(jobs, (product, group, epoch), &addr, &to).map(|_| ());
            let by = Instant::now() + ACT_MAX;
            if !jobs.fence.login(&at, &to, &check, by).await.map_err(|error| error.to_string())? {
                return Ok(Done::Quiet);
            }
            save(jobs, &at).await;
            let what =
                format!("was given the password of {to}, its group's primary: it had another, and its link was down");
            return Ok(tell(jobs, wire, aside, &what).await);
        }
        Act::Save { .. } => {
            let by = Instant::now() + ACT_MAX;
            let standing = jobs.fence.standing(&at, by).await.map_err(|error| error.to_string())?;
            if standing.follows.is_some() {
                return Err(format!("{addr} is no primary"));
            }
            return jobs.fence.save_config(&at, by).await.map(|_| Done::Quiet).map_err(|error| error.to_string());
        }
        Act::Note { replid, run_id, keys } => {
            Change::NoteProcess { product, group, epoch, replid, run_id, keys, keys_before: aside.keys_before }
        }
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
    jobs.propose(change).await.map(|()| Done::Quiet)
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

/// Whether, by the newest state, `addr` is a replica of this group, at this epoch, and `to` its primary.
///
/// # Errors
/// A sentence.
fn may_follow(
    jobs: &Jobs,
    (product, group, epoch): (ProductId, GroupId, Epoch),
    addr: &HostPort,
    to: &HostPort,
) -> Result<Arc<ClusterState>, String> {
    let state = jobs.consensus.state().borrow().clone();
    let mine = |group: &Group| {
        let mut servers = group.servers.iter().map(|server| &server.addr);
        servers.next() == Some(to) && servers.any(|known| known == addr)
    };
    let fits = still(&state, product, group, epoch).is_some_and(mine);
    fits.then_some(state).ok_or_else(|| format!("group {group} has changed; {addr} is looked at again"))
}

/// Makes a server of this group, at this epoch, follow `to`, its primary. Runs on a server that was a primary are closed first:
/// they must not act on it, and not on one that is promoted again. Behind it the server keeps in its configuration whom it
/// follows, if it can.
///
/// # Errors
/// A sentence: it does not answer, refuses, or the group has changed.
pub async fn repoint(jobs: &Jobs, group: (ProductId, GroupId, Epoch), at: &At, to: &HostPort) -> Result<(), String> {
    follow(jobs, group, at, to).await.map(|_| ())
}

/// As `repoint`. False: it followed already.
async fn follow(jobs: &Jobs, group: (ProductId, GroupId, Epoch), at: &At, to: &HostPort) -> Result<bool, String> {
    let by = Instant::now() + ACT_MAX;
    let standing = jobs.fence.standing(at, by).await.map_err(|error| error.to_string())?;
    let state = may_follow(jobs, group, &at.addr, to)?;
    if standing.follows.is_none() {
        close_runs(jobs, &state, at, by).await?;
    }
    faults::pause_at(Point::Wiring).await;
    // Closing takes its time: by now it may be promoted, or belong to somebody else.
    let by = Instant::now() + ACT_MAX;
    let check = || may_follow(jobs, group, &at.addr, to).map(|_| ());
    match jobs.fence.follow(at, to, &check, by).await {
        Ok(followed) => {
            if followed {
                save(jobs, at).await;
            }
            Ok(followed)
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
