//! Replication reconciliation: carries out what `plan::replication` decides, one task per server, and makes the other
//! servers of a group follow its new primary after a promotion. Decides nothing; reads the newest state again before it
//! changes a server.

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

use super::{
    control_user::remove_former, fence::ControlTarget, replication_commands::host_and_port,
    replication_user::login_at_primary,
};
use crate::{
    clock::boottime_ns,
    control::leadership::context::LeaderContext,
    faults::{self, Point},
    model::{
        change::{Change, ForgetFormer, MarkResynced, NotePrimary, NoteReconciled},
        ids::{Epoch, GroupId, HostPort, ProductId},
        migration::{Job, Run},
        state::{ClusterState, Group},
    },
    panics,
    plan::{
        failover::FollowingPrimaries,
        observation::{Observation, ReportedRole, fresh_probe},
        replication::{
            LoginProcesses, ReplicationAction, ReplicationFix, RestoredData, logins, reconcile, to_restore_as_primary,
        },
        waiting::{Wait, WaitTimes},
    },
    redis::ReplicationStatus,
};

/// How long one server may take for a few answers; one that takes longer is tried again.
const ACT_MAX: Duration = Duration::from_secs(2);
/// How long an action may take: longer than all its waits together. Then it is given up, whatever it waits for.
const TASK_MAX: Duration = Duration::from_secs(10);
/// The pause between two actions at a server. Also after one that succeeded, since nodes report its effect later.
const ACTION_PAUSE: Duration = Duration::from_secs(1);
/// How long a difference must last before it is reported to the operator: right after a promotion, nodes still report
/// earlier probes.
const REPORTED_AFTER: Duration = Duration::from_secs(2);
/// How often in one term a promoted server that does not answer is asked to save its configuration: saving may be what
/// makes it silent (a slow disk), and it can serve without.
const SAVES_MAX: u32 = 5;
/// The pause after a server got the password that its link needs: it connects again automatically, and if the password
/// was not the cause, repeating does not help.
const LOGIN_PAUSE: Duration = Duration::from_secs(10);
/// The interval between two events about one server: a server that flaps must not displace all other events.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);
/// What ends a difference that replication reconciliation repairs.
const DONE_AGAIN: &str = "the server has accepted it: it is told so about every second; let it, if it refuses";
/// How many servers are changed at the same time: enough for all groups of a machine that returns, few compared with a
/// leader's other work.
const CONCURRENT_MAX: usize = 16;

/// A server and a kind of action: actions of different kinds do not wait for each other.
type ActionKey = (HostPort, ActionKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ActionKind {
    /// Its replication, and what the log knows about it.
    Replication,
    /// The credentials that it uses at its primary.
    Credentials,
    /// Its configuration file.
    Config,
    /// The credentials with which nodes log in.
    ControlUser,
}

impl ActionKind {
    fn of(action: &ReplicationAction) -> Self {
        match action {
            ReplicationAction::SaveConfig { .. } => Self::Config,
            ReplicationAction::Login | ReplicationAction::SetLogin(_) => Self::Credentials,
            ReplicationAction::RemoveFormer { .. } => Self::ControlUser,
            ReplicationAction::Repoint { .. }
            | ReplicationAction::Note { .. }
            | ReplicationAction::Resynced { .. }
            | ReplicationAction::RestorePrimary { .. } => Self::Replication,
        }
    }
}

/// What an action needs to know besides the fix.
struct ActionContext {
    /// The nodes that report the server in its present state, for people.
    seen_by: String,
    /// An event about this server may be written.
    event_is_due: bool,
    /// The number of keys of the former process when it was last probed.
    keys_before: Option<u64>,
}

/// The actions in progress, and the results of the last ones. Belongs to one term; dropping it ends them.
#[derive(Debug, Default)]
pub struct ReplicationReconciler {
    tasks: JoinSet<(ReplicationFix, Result<ActionOutcome, String>)>,
    busy: BTreeSet<ActionKey>,
    /// When the next action at a server may begin, and why the last one failed, if it did.
    not_before: BTreeMap<ActionKey, (Instant, Option<String>)>,
    /// How often a promoted server was asked to save its configuration, by the epoch of its promotion.
    saves: BTreeMap<(HostPort, Epoch), u32>,
    /// For which processes the credentials of a replica were set.
    logins: BTreeMap<HostPort, LoginProcesses>,
    /// Differences that are left to the operator, and since when they have existed.
    left_to_operator: WaitTimes,
    /// When the last event about a server was written.
    last_event: BTreeMap<HostPort, Instant>,
    /// For each primary the `run_id` that the log knows, and its number of keys when it was last probed.
    keys: BTreeMap<HostPort, (String, u64)>,
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ActionOutcome {
    /// No event was written: nothing was to be done, or the log has it already.
    NoEvent,
    /// The server was changed, and an event says so.
    EventWritten,
}

impl ReplicationReconciler {
    /// Begins the actions that are due. Returns the differences that exist.
    /// `following_primaries`: primaries that have followed another server for some time.
    pub fn step(
        &mut self,
        ctx: &LeaderContext,
        state: &ClusterState,
        seen: &Observation,
        following_primaries: &FollowingPrimaries,
    ) -> Vec<Wait> {
        let now = Instant::now();
        self.take_ended(now);
        self.remember_keys(state, seen);
        self.last_event.retain(|_, at| now.saturating_duration_since(*at) < EVENT_INTERVAL);
        let (mut fixes, mut left_to_operator) = reconcile(state, seen);
        fixes.extend(logins(state, seen).into_iter().filter(|fix| !self.is_set(fix)));
        let (restored, not_restored) = to_restore_as_primary(state, seen, following_primaries, ctx.me);
        fixes.extend(restored);
        left_to_operator.extend(not_restored);
        let now_ns = boottime_ns();
        let lasting = self.left_to_operator.update(left_to_operator, now_ns).into_iter();
        let lasting = lasting.filter(|lasting| lasting.lasted(now_ns) >= REPORTED_AFTER);
        let mut waiting: Vec<Wait> = lasting.map(|lasting| lasting.wait).collect();
        let wanted: BTreeSet<ActionKey> =
            fixes.iter().map(|fix| (fix.addr.clone(), ActionKind::of(&fix.action))).collect();
        self.not_before.retain(|key, (at, _)| *at > now || wanted.contains(key));
        self.saves.retain(|(_, promoted), _| state.ended_promotions.iter().any(|ended| ended.at == *promoted));
        for fix in fixes {
            let key = (fix.addr.clone(), ActionKind::of(&fix.action));
            if let ReplicationAction::Repoint { to, why } = &fix.action {
                let failed = self.not_before.get(&key).and_then(|(_, failed)| failed.as_ref());
                let failed = failed.map_or_else(String::new, |failed| format!("; it could not be done yet: {failed}"));
                let wait = Wait::new(format!("{} should follow {to}, but {why}", fix.addr), DONE_AGAIN);
                waiting.push(wait.with_detail(failed));
            }
            if let ReplicationAction::RemoveFormer { .. } = &fix.action
                && let Some((_, Some(failed))) = self.not_before.get(&key)
            {
                waiting.push(former_is_left(state, &fix, failed));
            }
            if let ReplicationAction::RestorePrimary { .. } = &fix.action
                && let Some((_, Some(failed))) = self.not_before.get(&key)
            {
                let wait = Wait::new(format!("{} could not be made a primary again", fix.addr), DONE_AGAIN);
                waiting.push(wait.with_detail(format!(": {failed}")));
            }
            let pausing = self.not_before.get(&key).is_some_and(|(at, _)| *at > now);
            if pausing || self.busy.len() >= CONCURRENT_MAX || self.busy.contains(&key) || !self.may_save(&fix) {
                continue;
            }
            self.busy.insert(key);
            let ctx = ctx.clone();
            let context = ActionContext {
                seen_by: seen_by(seen, &fix.addr),
                event_is_due: !self.last_event.contains_key(&fix.addr),
                keys_before: self.keys.get(&fix.addr).map(|(_, keys)| *keys),
            };
            self.tasks.spawn(async move {
                let done = timeout(TASK_MAX, action(&ctx, &fix, &context)).await;
                (fix, done.unwrap_or_else(|_| Err("it took too long".into())))
            });
        }
        waiting
    }

    fn take_ended(&mut self, now: Instant) {
        while let Some(ended) = self.tasks.try_join_next() {
            let Some((ReplicationFix { addr, action, .. }, result)) = panics::pass_on(ended) else { continue };
            let key = (addr.clone(), ActionKind::of(&action));
            if result == Ok(ActionOutcome::EventWritten) {
                self.last_event.insert(addr.clone(), now);
            }
            let logged_in = action == ReplicationAction::Login && result.is_ok();
            let pause = if logged_in { LOGIN_PAUSE } else { ACTION_PAUSE };
            if let (ReplicationAction::SetLogin(processes), Ok(_)) = (&action, &result) {
                self.logins.insert(addr.clone(), processes.clone());
            }
            if let (ReplicationAction::SaveConfig { promoted }, Ok(_)) = (action, &result) {
                self.saves.insert((addr, promoted), SAVES_MAX);
            }
            self.busy.remove(&key);
            self.not_before.insert(key, (now + pause, result.err()));
        }
        if self.tasks.is_empty() {
            // Also after a task was aborted, which names no server.
            self.busy.clear();
        }
    }

    /// Remembers how many keys primaries have, as long as they are the processes that the log knows.
    fn remember_keys(&mut self, state: &ClusterState, seen: &Observation) {
        let groups = || state.products.values().flat_map(|product| product.groups.values());
        let primaries: BTreeMap<&HostPort, &String> =
            groups().filter_map(|group| Some((&group.servers.first()?.addr, &group.run_id))).collect();
        // While the log knows no process, the present one may be the one that it will know.
        let same_process = |known: &str, run_id: &str| known.is_empty() || known == run_id;
        self.keys.retain(|addr, (run_id, _)| primaries.get(addr).is_some_and(|known| same_process(known, run_id)));
        for (addr, known) in primaries {
            let probe =
                fresh_probe(seen, addr).filter(|probe| !probe.run_id.is_empty() && same_process(known, &probe.run_id));
            if let Some(probe) = probe.filter(|probe| !probe.loading) {
                self.keys.insert(addr.clone(), (probe.run_id.clone(), probe.keys));
            }
        }
    }

    /// Whether the credentials of a replica were set for these processes.
    fn is_set(&self, fix: &ReplicationFix) -> bool {
        matches!(&fix.action, ReplicationAction::SetLogin(wanted) if self.logins.get(&fix.addr) == Some(wanted))
    }

    /// Counts how often a configuration was to be saved. Returns whether it is neither saved yet nor was tried too
    /// often.
    fn may_save(&mut self, fix: &ReplicationFix) -> bool {
        let ReplicationAction::SaveConfig { promoted } = fix.action else { return true };
        let times = self.saves.entry((fix.addr.clone(), promoted)).or_default();
        let may = *times < SAVES_MAX;
        *times += u32::from(may);
        may
    }
}

/// The nodes whose last probe of a server shows the same role as the newest probe of all, for people.
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

/// Writes an event about what was done at a server. The action has succeeded even if the event cannot be written.
async fn write_event(ctx: &LeaderContext, fix: &ReplicationFix, context: &ActionContext, what: &str) -> ActionOutcome {
    if !context.event_is_due {
        return ActionOutcome::NoEvent;
    }
    let text = format!("{what} (seen by {}; done by node {} in term {})", context.seen_by, ctx.me, ctx.fence.term());
    let change =
        Change::NoteReconciled(NoteReconciled { product: fix.product, group: fix.group, addr: fix.addr.clone(), text });
    match ctx.propose(change).await {
        Ok(()) => ActionOutcome::EventWritten,
        Err(error) => {
            info!(addr = %fix.addr, %error, "an event about a changed server could not be written");
            ActionOutcome::NoEvent
        }
    }
}

/// Carries out one fix.
///
/// # Errors
/// Returns why it failed, as text for the operator.
async fn action(ctx: &LeaderContext, fix: &ReplicationFix, context: &ActionContext) -> Result<ActionOutcome, String> {
    let ReplicationFix { product, group, epoch, addr, action } = fix.clone();
    let state = ctx.consensus.state().borrow().clone();
    let found = unchanged_group(&state, product, group, epoch).ok_or_else(|| format!("group {group} has changed"))?;
    let at = ControlTarget { addr: addr.clone(), credentials: found.credentials.clone() };
    let change = match action {
        ReplicationAction::Repoint { to, why } => {
            info!(%addr, primary = %to, %why, "a server is made to follow its group's primary");
            if !follow(ctx, (product, group, epoch), &at, &to).await? {
                return Ok(ActionOutcome::NoEvent);
            }
            let what = format!("was made a replica of {to}, its group's primary: {why}");
            return Ok(write_event(ctx, fix, context, &what).await);
        }
        ReplicationAction::RestorePrimary { run_id, data } => {
            restore_primary(ctx, &at, &run_id, &data).await?;
            let what = "was made a primary again, since it is its group's primary and had been started as a replica";
            return Ok(write_event(ctx, fix, context, what).await);
        }
        ReplicationAction::Login => {
            let to = found.servers.first().map(|primary| primary.addr.clone()).unwrap_or_else(|| addr.clone());
            let check = || may_follow(ctx, (product, group, epoch), &addr, &to).map(|_| ());
            let by = Instant::now() + ACT_MAX;
            let login = login_at_primary(ctx, (product, group), &to, by).await?;
            let login = (&to, login.as_ref());
            if !ctx.fence.login(&at, login, false, &check, by).await.map_err(|error| error.to_string())? {
                return Ok(ActionOutcome::NoEvent);
            }
            save_config(ctx, &at).await;
            let what =
                format!("got the password of {to}, its group's primary: it had another one, and its link was down");
            return Ok(write_event(ctx, fix, context, &what).await);
        }
        ReplicationAction::SetLogin(LoginProcesses { protected, .. }) => {
            let to = found.servers.first().map(|primary| primary.addr.clone()).unwrap_or_else(|| addr.clone());
            let check = || may_follow(ctx, (product, group, epoch), &addr, &to).map(|_| ());
            let by = Instant::now() + ACT_MAX;
            let login = login_at_primary(ctx, (product, group), &to, by).await?;
            let (login, of_pontoon) = ((&to, login.as_ref()), !protected);
            let changed =
                ctx.fence.login(&at, login, of_pontoon, &check, by).await.map_err(|error| error.to_string())?;
            if changed {
                info!(%addr, primary = %to, protected, "a replica has other credentials for its primary");
            }
            // The replication user also if it is set already, perhaps in memory only: after a restart the replica would log
            // in with the group's credentials, and could copy a primary that was restarted too (`plan::restart`).
            if changed || protected {
                save_config(ctx, &at).await;
            }
            return Ok(ActionOutcome::NoEvent);
        }
        ReplicationAction::SaveConfig { .. } => {
            let by = Instant::now() + ACT_MAX;
            let replication_status = ctx.fence.replication_status(&at, by).await.map_err(|error| error.to_string())?;
            if replication_status.follows.is_some() {
                return Err(format!("{addr} is not a primary"));
            }
            return ctx
                .fence
                .save_config(&at, by)
                .await
                .map(|_| ActionOutcome::NoEvent)
                .map_err(|error| error.to_string());
        }
        ReplicationAction::RemoveFormer { replaced_at } => {
            remove_former(ctx, found, replaced_at).await?;
            Change::ForgetFormer(ForgetFormer { product, group, replaced_at })
        }
        ReplicationAction::Note { replid, run_id, keys } => Change::NotePrimary(NotePrimary {
            product,
            group,
            epoch,
            replid,
            run_id,
            keys,
            keys_before: context.keys_before,
        }),
        ReplicationAction::Resynced { of, replid } => {
            // Over the control connection, so that no older command is still on its way to the server.
            let replication_status =
                ctx.fence.replication_status(&at, Instant::now() + ACT_MAX).await.map_err(|e| e.to_string())?;
            let (host, port) = host_and_port(&of);
            // Its link may be down: its primary may have been restarted since.
            let copied =
                !replication_status.syncing && !replication_status.loading && replication_status.replid == replid;
            if !copied || !replication_status.is_replica_of(host, port) {
                return Err(format!("{addr} does not follow {of} yet"));
            }
            Change::MarkResynced(MarkResynced { product, group, addr, epoch })
        }
    };
    ctx.propose(change).await.map(|()| ActionOutcome::NoEvent)
}

/// The wait for the removal of the former credentials of a group.
fn former_is_left(state: &ClusterState, fix: &ReplicationFix, failed: &str) -> Wait {
    let product = state.products.get(&fix.product).map_or("", |product| product.name.as_str());
    let id = fix.group;
    let what = format!("servers of group {id} of product '{product}' accept the former password besides the new one");
    let ends = "it is removed when all of them answer, or have left the group (pontoon group remove-server)";
    Wait::new(what, ends).with_detail(format!(": {failed}"))
}

/// Makes this process a primary again, if its data is still what the decision was made for, and saves that in its
/// configuration.
async fn restore_primary(
    ctx: &LeaderContext,
    at: &ControlTarget,
    run_id: &str,
    data: &RestoredData,
) -> Result<(), String> {
    let unchanged = |status: &ReplicationStatus| still_has(status, run_id, data);
    ctx.fence.promote(at, &unchanged, Instant::now() + ACT_MAX, ACT_MAX).await.map_err(|error| error.to_string())?;
    warn!(addr = %at.addr, ?data, "a primary had been started as a replica, and is a primary again");
    save_config(ctx, at).await;
    Ok(())
}

/// Whether a server still is this process, with this data.
///
/// # Errors
/// Returns what has changed, as text for the operator; its subject is the server.
fn still_has(status: &ReplicationStatus, run_id: &str, data: &RestoredData) -> Result<(), String> {
    let same = status.run_id == run_id && !status.syncing && !status.loading;
    match data {
        RestoredData::Loaded | RestoredData::LoadedFromAof if !same || status.link_up => {
            Err("it may have another server's data by now".into())
        }
        RestoredData::LoadedFromAof if !status.appends => Err(
            "it keeps no append-only file, so it may have been started with old data, and other servers of its group \
             have data too; compare them, then run REPLICAOF NO ONE and CONFIG REWRITE there, or promote another \
             server (pontoon group promote --force)"
                .into(),
        ),
        RestoredData::Copied { replid } if !same || status.replid != *replid => {
            Err("it may have another server's data by now".into())
        }
        RestoredData::Loaded | RestoredData::LoadedFromAof | RestoredData::Copied { .. } => Ok(()),
    }
}

/// Makes a server save its configuration. A failure does not matter before the server is restarted.
async fn save_config(ctx: &LeaderContext, at: &ControlTarget) {
    if let Err(error) = ctx.fence.save_config(at, Instant::now() + ACT_MAX).await {
        info!(addr = %at.addr, %error, "it is not known whether a server has saved its configuration");
    }
}

/// The group, if it is unchanged since that epoch and has no open promotion.
fn unchanged_group(state: &ClusterState, product: ProductId, group: GroupId, epoch: Epoch) -> Option<&Group> {
    let found = state.products.get(&product)?.groups.get(&group)?;
    (found.epoch == epoch && state.promotion_of(product, group).is_none()).then_some(found)
}

/// Whether, by the newest state, `addr` is a replica of this group, at this epoch, and `to` its primary. Returns that
/// state.
///
/// # Errors
/// Returns that the group has changed, as text for the operator.
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
    let fits = unchanged_group(&state, product, group, epoch).is_some_and(mine);
    fits.then_some(state).ok_or_else(|| format!("group {group} has changed; {addr} is probed again"))
}

/// Makes a server of this group, at this epoch, follow `to`, its primary. Runs on a server that was a primary are
/// closed first: they must not change it, nor a server that is promoted again later. Afterwards the server saves its
/// configuration, if it can.
///
/// # Errors
/// Returns why it does not follow, as text for the operator: it does not answer, refuses, or the group has changed.
pub async fn repoint(
    ctx: &LeaderContext,
    group: (ProductId, GroupId, Epoch),
    at: &ControlTarget,
    to: &HostPort,
) -> Result<(), String> {
    follow(ctx, group, at, to).await.map(|_| ())
}

/// As `repoint`. Returns `false` if the server followed already.
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
    // Closing takes time: by now the server may be promoted, or belong to another group.
    let by = Instant::now() + ACT_MAX;
    let check = || may_follow(ctx, group, &at.addr, to).map(|_| ());
    let login = login_at_primary(ctx, (group.0, group.1), to, by).await?;
    match ctx.fence.follow(at, (to, login.as_ref()), &check, by).await {
        Ok(followed) => {
            if followed {
                save_config(ctx, at).await;
            }
            Ok(followed)
        }
        Err(error) => {
            warn!(addr = %at.addr, primary = %to, %error, "a server could not be made to follow its group's primary");
            Err(error.to_string())
        }
    }
}

/// Marks the runs that work at this server closed, then kills their connections there.
async fn close_runs(ctx: &LeaderContext, state: &ClusterState, at: &ControlTarget, by: Instant) -> Result<(), String> {
    let mut known = Vec::new();
    let here = |run: Option<&Run>| run.is_some_and(|run| run.server == at.addr);
    let migrations = state.migrations.values().filter(|m| here(m.run.as_ref())).map(|m| (Job::Migration(m.id), m.runs));
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let sweeps = groups.filter(|(_, g)| here(g.sweep.as_ref().map(|sweep| &sweep.run)));
    let sweeps = sweeps.map(|(p, g)| (Job::Sweep { product: p.id, group: g.id }, p.sweep_runs));
    for (job, runs) in migrations.chain(sweeps) {
        let closed = ctx.authorizer.close(ctx.fence.term(), job, runs).ok_or("this node no longer leads")?;
        known.extend(closed.into_iter().filter(|c| c.server == at.addr).map(|c| c.client_id));
    }
    let name = format!("pt:{}:run:", ctx.cluster);
    let closed = ctx.fence.close(at, &name, &known, by).await.map_err(|error| error.to_string())?;
    if closed.killed > 0 {
        info!(addr = %at.addr, killed = closed.killed, "runs on a replaced primary are closed");
    }
    Ok(())
}
