//! Makes servers follow their group's primary: carries out what `plan::replication` decides, one task per server, and gives a
//! promotion the same action for those it leaves behind. Decides nothing; probes at the log again before it acts.

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

use super::{fence::ControlTarget, replication_commands::host_and_port};
use crate::{
    control::leadership::context::LeaderContext,
    faults::{self, Point},
    model::{
        change::{Change, MarkResynced, NotePrimary, NoteReconciled},
        ids::{Epoch, GroupId, HostPort, ProductId},
        migration::{Job, Run},
        state::{ClusterState, Group},
    },
    panics,
    plan::{
        failover::fresh_probe,
        observation::{Observation, ReportedRole},
        replication::{ReplicationAction, ReplicationFix, reconcile, to_restore_as_primary},
    },
    redis::ReplicationStatus,
};

/// One server, some answers; a server that needs more is tried again.
const ACT_MAX: Duration = Duration::from_secs(2);
/// Longer than all waits of an action together; then it is given up, whatever it hangs on.
const TASK_MAX: Duration = Duration::from_secs(10);
/// After an action that failed, the next one at that server. Also after one that was done: what nodes see of it comes later.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What is odd for so long is told: right after a promotion, nodes still have probes of before.
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

/// A server, and what is done there: an action of one kind does not wait for one of the other.
type ActionKey = (HostPort, ActionKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ActionKind {
    /// Its replication, and what the log knows of it.
    Replication,
    /// What it logs in to its primary with.
    Credentials,
    /// Its configuration file.
    Config,
}

impl ActionKind {
    fn of(action: &ReplicationAction) -> Self {
        match action {
            ReplicationAction::SaveConfig { .. } => Self::Config,
            ReplicationAction::Login => Self::Credentials,
            ReplicationAction::Repoint { .. }
            | ReplicationAction::Note { .. }
            | ReplicationAction::Resynced { .. }
            | ReplicationAction::RestorePrimary { .. } => Self::Replication,
        }
    }
}

/// What is known beside what is to be done.
struct ActionContext {
    /// The nodes that see the server as it is, for people.
    seen_by: String,
    /// What is done there may be told.
    tell: bool,
    /// Keys that the process before had when it was last probed at.
    keys_before: Option<u64>,
}

/// The acts that are going on, and what came of the last ones. Belongs to one term; dropped, they end.
#[derive(Debug, Default)]
pub struct ReplicationReconciler {
    tasks: JoinSet<(ReplicationFix, Result<ActionOutcome, String>)>,
    busy: BTreeSet<ActionKey>,
    /// When a server may be acted on again, and why the last action failed, if it did.
    not_before: BTreeMap<ActionKey, (Instant, Option<String>)>,
    /// How often a server that was promoted then was asked to keep that.
    saves: BTreeMap<(HostPort, Epoch), u32>,
    /// What has been odd, and since when.
    odd: BTreeMap<String, Instant>,
    /// When something that was done at a server was last told.
    told: BTreeMap<HostPort, Instant>,
    /// Primaries: the process that the log knows, and the keys it had when it was last probed at.
    keys: BTreeMap<HostPort, (String, u64)>,
}

/// What came of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ActionOutcome {
    /// It is not told: nothing was to be done, or the log has it.
    Quiet,
    /// The server was changed, and the events tell so.
    Told,
}

impl ReplicationReconciler {
    /// Begins what is to be done now. Sentences about what does not get done.
    /// `following_primaries`: primaries that have followed another server for some time.
    pub fn probe(
        &mut self,
        ctx: &LeaderContext,
        state: &ClusterState,
        seen: &Observation,
        following_primaries: &BTreeSet<HostPort>,
    ) -> Vec<String> {
        let now = Instant::now();
        self.take_ended(now);
        self.count(state, seen);
        self.told.retain(|_, at| now.saturating_duration_since(*at) < TELL_AGAIN);
        let (mut fixes, odd) = reconcile(state, seen);
        fixes.extend(to_restore_as_primary(state, seen, following_primaries, ctx.me));
        self.odd.retain(|why, _| odd.contains(why));
        odd.into_iter().for_each(|why| _ = self.odd.entry(why).or_insert(now));
        let lasting = self.odd.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= ODD_FOR);
        let mut sentences: Vec<String> = lasting.map(|(why, _)| why.clone()).collect();
        let wanted: BTreeSet<ActionKey> =
            fixes.iter().map(|fix| (fix.addr.clone(), ActionKind::of(&fix.action))).collect();
        self.not_before.retain(|place, (at, _)| *at > now || wanted.contains(place));
        self.saves.retain(|(_, promoted), _| state.ended_promotions.iter().any(|ended| ended.at == *promoted));
        for fix in fixes {
            let place = (fix.addr.clone(), ActionKind::of(&fix.action));
            if let ReplicationAction::Repoint { to, why } = &fix.action {
                let failed = self.not_before.get(&place).and_then(|(_, failed)| failed.as_ref());
                let failed = failed.map_or_else(String::new, |failed| format!("; it could not be done yet: {failed}"));
                sentences.push(format!("{} is to follow {to}, and {why}{failed}", fix.addr));
            }
            let resting = self.not_before.get(&place).is_some_and(|(at, _)| *at > now);
            if resting || self.busy.len() >= AT_ONCE || self.busy.contains(&place) || !self.may_save(&fix) {
                continue;
            }
            self.busy.insert(place);
            let ctx = ctx.clone();
            let aside = ActionContext {
                seen_by: seen_by(seen, &fix.addr),
                tell: !self.told.contains_key(&fix.addr),
                keys_before: self.keys.get(&fix.addr).map(|(_, keys)| *keys),
            };
            self.tasks.spawn(async move {
                let done = timeout(TASK_MAX, action(&ctx, &fix, &aside)).await;
                (fix, done.unwrap_or_else(|_| Err("it took too long".into())))
            });
        }
        sentences
    }

    fn take_ended(&mut self, now: Instant) {
        while let Some(ended) = self.tasks.try_join_next() {
            let Some((ReplicationFix { addr, action, .. }, result)) = panics::pass_on(ended) else { continue };
            let place = (addr.clone(), ActionKind::of(&action));
            if result == Ok(ActionOutcome::Told) {
                self.told.insert(addr.clone(), now);
            }
            let again = if action == ReplicationAction::Login { LOGIN_AGAIN } else { AGAIN_AFTER };
            if let (ReplicationAction::SaveConfig { promoted }, Ok(_)) = (action, &result) {
                self.saves.insert((addr, promoted), SAVES_MAX);
            }
            self.busy.remove(&place);
            self.not_before.insert(place, (now + again, result.err()));
        }
        if self.tasks.is_empty() {
            // Also after a task was aborted, which names no server.
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
            let probe = fresh_probe(seen, addr).filter(|probe| !probe.run_id.is_empty() && is(known, &probe.run_id));
            if let Some(probe) = probe.filter(|probe| !probe.loading) {
                self.keys.insert(addr.clone(), (probe.run_id.clone(), probe.keys));
            }
        }
    }

    /// Counts what is to be saved; whether it was not done yet, nor tried too often.
    fn may_save(&mut self, fix: &ReplicationFix) -> bool {
        let ReplicationAction::SaveConfig { promoted } = fix.action else { return true };
        let times = self.saves.entry((fix.addr.clone(), promoted)).or_default();
        let may = *times < SAVES_MAX;
        *times += u32::from(may);
        may
    }
}

/// The nodes whose last probe at a server shows what the newest probe of all shows, for people.
fn seen_by(seen: &Observation, addr: &HostPort) -> String {
    let of = |role: &ReportedRole| match role {
        ReportedRole::Primary { .. } => None,
        ReportedRole::Replica { of, link_up, .. } => Some((of.clone(), *link_up)),
    };
    let Some(role) = fresh_probe(seen, addr).map(|probe| of(&probe.role)) else { return "nobody".into() };
    let nodes = seen.get(addr).into_iter().flatten();
    let same = nodes.filter(|(_, r)| r.report.probe.as_ref().is_some_and(|(probe, _)| of(&probe.role) == role));
    let same: Vec<String> = same.map(|(node, _)| format!("node {node}")).collect();
    same.join(", ")
}

/// Puts what was done at a server into the events. It is done: that it could not be told is no failure of it.
async fn tell(ctx: &LeaderContext, fix: &ReplicationFix, aside: &ActionContext, what: &str) -> ActionOutcome {
    if !aside.tell {
        return ActionOutcome::Quiet;
    }
    let text = format!("{what} (seen by {}; done by node {} in term {})", aside.seen_by, ctx.me, ctx.fence.term());
    let change =
        Change::NoteReconciled(NoteReconciled { product: fix.product, group: fix.group, addr: fix.addr.clone(), text });
    match ctx.propose(change).await {
        Ok(()) => ActionOutcome::Told,
        Err(error) => {
            info!(addr = %fix.addr, %error, "what was done at a server is not in the events");
            ActionOutcome::Quiet
        }
    }
}

async fn action(ctx: &LeaderContext, fix: &ReplicationFix, aside: &ActionContext) -> Result<ActionOutcome, String> {
    let ReplicationFix { product, group, epoch, addr, action } = fix.clone();
    let state = ctx.consensus.state().borrow().clone();
    let found = still(&state, product, group, epoch).ok_or_else(|| format!("group {group} has changed"))?;
    let at = ControlTarget { addr: addr.clone(), credentials: found.credentials.clone() };
    let change = match action {
        ReplicationAction::Repoint { to, why } => {
            info!(%addr, primary = %to, %why, "a server is to follow its group's primary");
            return match follow(ctx, (product, group, epoch), &at, &to).await? {
                true => {
                    Ok(tell(ctx, fix, aside, &format!("was made a replica of {to}, its group's primary: {why}")).await)
                }
                false => Ok(ActionOutcome::Quiet),
            };
        }
        ReplicationAction::RestorePrimary { run_id } => {
            lead(ctx, &at, &run_id).await?;
            let what = "was made a primary again, which its group has it for: it had been started as a replica";
            return Ok(tell(ctx, fix, aside, what).await);
        }
        ReplicationAction::Login => {
            let to = found.servers.first().map(|primary| primary.addr.clone()).unwrap_or_else(|| addr.clone());
            let check = || may_follow(ctx, (product, group, epoch), &addr, &to).map(|_| ());
            let by = Instant::now() + ACT_MAX;
            if !ctx.fence.login(&at, &to, &check, by).await.map_err(|error| error.to_string())? {
                return Ok(ActionOutcome::Quiet);
            }
            save(ctx, &at).await;
            let what =
                format!("was given the password of {to}, its group's primary: it had another, and its link was down");
            return Ok(tell(ctx, fix, aside, &what).await);
        }
        ReplicationAction::SaveConfig { .. } => {
            let by = Instant::now() + ACT_MAX;
            let replication_status = ctx.fence.replication_status(&at, by).await.map_err(|error| error.to_string())?;
            if replication_status.follows.is_some() {
                return Err(format!("{addr} is no primary"));
            }
            return ctx
                .fence
                .save_config(&at, by)
                .await
                .map(|_| ActionOutcome::Quiet)
                .map_err(|error| error.to_string());
        }
        ReplicationAction::Note { replid, run_id, keys } => Change::NotePrimary(NotePrimary {
            product,
            group,
            epoch,
            replid,
            run_id,
            keys,
            keys_before: aside.keys_before,
        }),
        ReplicationAction::Resynced { of, replid } => {
            // The control connection makes sure that nothing older is on its way to it.
            let replication_status =
                ctx.fence.replication_status(&at, Instant::now() + ACT_MAX).await.map_err(|e| e.to_string())?;
            let (host, port) = host_and_port(&of);
            let in_sync =
                replication_status.link_up && !replication_status.syncing && replication_status.replid == replid;
            if !in_sync || !replication_status.is_replica_of(host, port) {
                return Err(format!("{addr} does not follow {of} yet"));
            }
            Change::MarkResynced(MarkResynced { product, group, addr, epoch })
        }
    };
    ctx.propose(change).await.map(|()| ActionOutcome::Quiet)
}

/// Makes this process of a primary one again, unless it has data of somebody else by now.
async fn lead(ctx: &LeaderContext, at: &ControlTarget, run_id: &str) -> Result<(), String> {
    let own = |replication_status: &ReplicationStatus| {
        let own = replication_status.run_id == run_id
            && !replication_status.link_up
            && !replication_status.syncing
            && !replication_status.loading;
        own.then_some(()).ok_or_else(|| "its data may be somebody else's by now".to_owned())
    };
    ctx.fence.promote(at, &own, Instant::now() + ACT_MAX, ACT_MAX).await.map_err(|error| error.to_string())?;
    warn!(addr = %at.addr, "a primary had been started as a replica, and is a primary again, with the data that it had then");
    save(ctx, at).await;
    Ok(())
}

/// Lets a server keep what it is now. What it cannot keep does not matter before it is started anew.
async fn save(ctx: &LeaderContext, at: &ControlTarget) {
    if let Err(error) = ctx.fence.save_config(at, Instant::now() + ACT_MAX).await {
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
    ctx: &LeaderContext,
    (product, group, epoch): (ProductId, GroupId, Epoch),
    addr: &HostPort,
    to: &HostPort,
) -> Result<Arc<ClusterState>, String> {
    let state = ctx.consensus.state().borrow().clone();
    let mine = |group: &Group| {
        let mut servers = group.servers.iter().map(|server| &server.addr);
        servers.next() == Some(to) && servers.any(|known| known == addr)
    };
    let fits = still(&state, product, group, epoch).is_some_and(mine);
    fits.then_some(state).ok_or_else(|| format!("group {group} has changed; {addr} is probed at again"))
}

/// Makes a server of this group, at this epoch, follow `to`, its primary. Runs on a server that was a primary are closed first:
/// they must not action on it, and not on one that is promoted again. Behind it the server keeps in its configuration whom it
/// follows, if it can.
///
/// # Errors
/// A sentence: it does not answer, refuses, or the group has changed.
pub async fn repoint(
    ctx: &LeaderContext,
    group: (ProductId, GroupId, Epoch),
    at: &ControlTarget,
    to: &HostPort,
) -> Result<(), String> {
    follow(ctx, group, at, to).await.map(|_| ())
}

/// As `repoint`. False: it followed already.
async fn follow(
    ctx: &LeaderContext,
    group: (ProductId, GroupId, Epoch),
    at: &ControlTarget,
    to: &HostPort,
) -> Result<bool, String> {
    let by = Instant::now() + ACT_MAX;
    let replication_status = ctx.fence.replication_status(at, by).await.map_err(|error| error.to_string())?;
    let state = may_follow(ctx, group, &at.addr, to)?;
    if replication_status.follows.is_none() {
        close_runs(ctx, &state, at, by).await?;
    }
    faults::pause_at(Point::Reconciliation).await;
    // Closing takes its time: by now it may be promoted, or belong to somebody else.
    let by = Instant::now() + ACT_MAX;
    let check = || may_follow(ctx, group, &at.addr, to).map(|_| ());
    match ctx.fence.follow(at, to, &check, by).await {
        Ok(followed) => {
            if followed {
                save(ctx, at).await;
            }
            Ok(followed)
        }
        Err(error) => {
            warn!(addr = %at.addr, primary = %to, %error, "a server could not be made to follow its group's primary");
            Err(error.to_string())
        }
    }
}

/// Marks the runs that action on this server closed, then kills their connections there.
async fn close_runs(ctx: &LeaderContext, state: &ClusterState, at: &ControlTarget, by: Instant) -> Result<(), String> {
    let mut known = Vec::new();
    let here = |run: Option<&Run>| run.is_some_and(|run| run.server == at.addr);
    let migrations = state.migrations.values().filter(|m| here(m.run.as_ref())).map(|m| (Job::Migration(m.id), m.runs));
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let sweeps = groups.filter(|(_, g)| here(g.sweep.as_ref().map(|sweep| &sweep.run)));
    let sweeps = sweeps.map(|(p, g)| (Job::Sweep { product: p.id, group: g.id }, p.sweep_runs));
    for (job, runs) in migrations.chain(sweeps) {
        let closed = ctx.authorizer.close(ctx.fence.term(), job, runs).ok_or("this node does not lead any more")?;
        known.extend(closed.into_iter().filter(|c| c.server == at.addr).map(|c| c.client_id));
    }
    let name = format!("pt:{}:run:", ctx.cluster);
    let closed = ctx.fence.close(at, &name, &known, by).await.map_err(|error| error.to_string())?;
    if closed.killed > 0 {
        info!(addr = %at.addr, killed = closed.killed, "runs on a replaced primary are closed");
    }
    Ok(())
}
