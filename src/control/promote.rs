//! An open promotion, carried to its end by the leader of one term: one task each, begun anew by each leader. Its truth is in
//! the log; a new leader goes on with the same choice, and its control connection to the chosen one ends the former leader's.
//!
//! ```text
//! is the choice still fit -> preflight -> Hold -> barrier -> [switchover: the replica has everything] -> REPLICAOF NO ONE, ROLE
//!        | no: GiveUp          | wait        | budget spent: Release, pause, again                          -> FinishPromotion
//! ```
//! Chooses nobody: `plan::failover` or an operator did.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use super::{
    acts::host_and_port,
    fence::{At, FenceError},
    migrate::Jobs,
    preflight,
    promotion_waits::Waits,
    wiring::repoint,
};
use crate::{
    clock::boottime_ns,
    faults::{self, Point, Rule},
    model::{
        change::Change,
        ids::{Epoch, HoldId, HostPort, PromotionId, Uuid},
        outcome::Outcome,
        promotion::{Promotion, PromotionKind},
        route::{Isolated, Mode},
        state::{Cause, ClusterState, Group, Hold},
    },
    plan::{
        acks::{Missing, has_all_confirmed},
        failover::{primary_back, was_linked},
        lease::Barrier,
        liveness::{Verdict, Watchers, verdict},
    },
    redis::Standing,
};

/// A proposal that takes longer has lost its quorum, and with it the term.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// A server that takes longer for a few answers is not there; in a hold, clients wait for it.
const ACT_MAX: Duration = Duration::from_secs(1);
/// Budget of a failover's hold: longer than a lease, so that a silent node is outwaited; then requests are refused at once
/// rather than parked, until the next one.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// The chosen one may be unfit for so long before anything was held: a new leader has to hear first what nodes have seen.
const UNFIT_MAX: Duration = Duration::from_secs(3);
/// A switchover that cannot begin for so long ends: whoever asked for it waits. Longer than a lease and an election together.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// A hold that a former leader left for a switchover is open for so long at most while the chosen one does not answer.
const LEFT_MAX: Duration = Duration::from_secs(2);
/// Between two looks at something that does not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often a barrier is looked at beside news: lets a lease end unnoticed for no longer than this.
const BARRIER_LOOK: Duration = Duration::from_millis(5);
/// Between two looks at a replica that has almost everything: its primary sends in less.
const CATCH_UP_LOOK: Duration = Duration::from_millis(1);
/// The longest pause after a hold that was released.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A replica may lag so many bytes when its hold begins: about a millisecond's worth of replication and its execution.
const LAG_AT_HOLD: u64 = 256 << 10;

/// Why an attempt did not get through.
enum Stop {
    /// The promotion ends.
    GiveUp { why: String, primary_back: bool },
    /// It ends although it was held: a replica has confirmed writes that the chosen one lacks.
    Lacks { why: String },
    /// It ends although it was held: this very task knows that the chosen one was told nothing, and it is gone.
    Untold { why: String },
    /// Tried again after a pause.
    Retry(String),
    /// Leadership or the promotion is gone: nothing to do here.
    Gone,
}

type Step<T> = Result<T, Stop>;

/// Carries a promotion to its end, or until this node leads no more.
pub async fn run(jobs: Jobs, id: PromotionId, waits: Waits) {
    let task = Task { jobs, id, began: Instant::now(), waits, holds: AtomicU32::new(0), told: AtomicBool::new(false) };
    task.run().await;
    task.waits.tell(id, None);
}

struct Task {
    jobs: Jobs,
    id: PromotionId,
    began: Instant,
    waits: Waits,
    /// Holds that this task has opened.
    holds: AtomicU32,
    /// REPLICAOF NO ONE may have been sent by it.
    told: AtomicBool,
}

/// The promotion and what it is about, at one moment.
struct Now {
    state: Arc<ClusterState>,
    promotion: Promotion,
    mode: Mode,
    isolated: Isolated,
    min_acks: u8,
    group: Group,
}

impl Now {
    fn at(&self, addr: &HostPort) -> At {
        At { addr: addr.clone(), credentials: self.group.credentials.clone() }
    }

    fn hold(&self) -> Option<&Hold> {
        self.state.promotion_hold(self.promotion.id).and_then(|hold| self.state.holds.get(&hold))
    }
}

impl Task {
    async fn run(&self) {
        let timing = self.jobs.leases.timing();
        let mut backoff = timing.backoff;
        loop {
            let Ok(now) = self.now() else { return };
            let result = match now.promotion.kind {
                PromotionKind::Failover => self.failover(&now).await,
                PromotionKind::Switchover => self.switchover(&now).await,
            };
            let held = self.now().is_ok_and(|later| later.promotion.attempts > now.promotion.attempts);
            let why = match result {
                Ok(epoch) => {
                    info!(promotion = %self.id, to = %now.promotion.to, "a group has another primary");
                    self.repoint_others(&now, epoch).await;
                    return;
                }
                Err(Stop::Gone) => return,
                Err(Stop::GiveUp { why, primary_back }) => return self.give_up(&now, why, (primary_back, false)).await,
                Err(Stop::Untold { why } | Stop::Lacks { why }) => return self.give_up(&now, why, (false, true)).await,
                Err(Stop::Retry(why)) => why,
            };
            if now.promotion.kind == PromotionKind::Switchover {
                let attempts = now.promotion.attempts + u32::from(held);
                if attempts >= timing.attempts_max || self.began.elapsed() >= BEGIN_MAX {
                    let why = format!("{attempts} holds did not get through; the last: {why}");
                    return self.give_up(&now, why, (false, false)).await;
                }
            }
            if self.waits.of(self.id).as_ref() != Some(&why) {
                warn!(promotion = %self.id, %why, "a promotion did not get through yet");
            }
            self.waits.tell(self.id, Some(why));
            tokio::time::sleep(if held { backoff } else { LOOK_AGAIN }).await;
            if held {
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// The old primary is gone: hold, barrier, promote.
    async fn failover(&self, now: &Now) -> Step<Epoch> {
        let hold = match now.hold() {
            // Of this leader or of the one before, for the same choice.
            Some(hold) => hold.id,
            None => {
                self.not_back(now).await?;
                self.fit(now).await?;
                self.has_all_confirmed(now).await?;
                self.preflight(now).await?;
                self.hold(now).await?
            }
        };
        let end = Instant::now() + HOLD_MAX;
        let promoted = async {
            // Cached data may be stale or lost; a wait for nodes is worse (serving.md).
            if now.mode == Mode::Store {
                self.barrier(hold, end).await?;
            }
            faults::pause_at(Point::PromotionBarrier).await;
            // Until the barrier, nodes that reached the old primary may have acknowledged more.
            self.has_all_confirmed(now).await?;
            loop {
                self.not_back(now).await?;
                // Asked first: while it does not even answer that, it is told nothing.
                let promoted = match self.ask(now, &now.promotion.to).await {
                    Ok(_) => self.promote(now, &|_| Ok(()), end).await.map_err(|error| error.to_string()),
                    Err(why) => Err(why),
                };
                match promoted {
                    Ok(_) => break,
                    Err(why) => {
                        self.not_gone(&self.now()?, &why)?;
                        if Instant::now() + LOOK_AGAIN >= end {
                            return Err(Stop::Retry(why));
                        }
                        self.waits.tell(self.id, Some(why));
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
            }
            self.finish(hold).await
        };
        let result = promoted.await;
        self.released(hold, result).await
    }

    /// The old primary is there, and everything it has is brought over before it is replaced.
    async fn switchover(&self, now: &Now) -> Step<Epoch> {
        if let Some(left) = now.hold() {
            // A former leader got so far that it was promoted: by then it had everything, and nobody has written since.
            let to = match self.ask(now, &now.promotion.to).await {
                Ok(to) => to,
                // Clients wait. Whether it was promoted is not known; the old primary goes on, and that one resyncs.
                Err(why) if self.began.elapsed() >= LEFT_MAX => {
                    let why = format!("a former leader's hold is open, and {why}");
                    return Err(Stop::GiveUp { why, primary_back: false });
                }
                Err(why) => return Err(Stop::Retry(why)),
            };
            if to.follows.is_none() && self.is_the_chosen(now, &to, now.group.replid.as_str()).is_ok() {
                let end = Instant::now() + HOLD_MAX;
                let result = async {
                    self.barrier(left.id, end).await?;
                    self.finish(left.id).await
                };
                let result = result.await;
                return self.released(left.id, result).await;
            }
            self.propose(Change::Release { hold: left.id, why: "a new leader begins anew".into() }).await?;
        }
        let (from, to) = tokio::join!(self.ask(now, &now.promotion.from), self.ask(now, &now.promotion.to));
        let from = self.primary(now, from)?;
        let to = to.map_err(Stop::Retry)?;
        self.in_step(now, &from, &to)?;
        if from.replid != now.group.replid {
            // The next leader finds in the log of which history the new primary has to be.
            let (product, group, epoch) = (now.promotion.product, now.group.id, now.group.epoch);
            self.propose(Change::NotePrimary { product, group, epoch, replid: from.replid }).await?;
            return Err(Stop::Retry("the primary's replication id had to be noted first".into()));
        }
        self.fit(now).await?;
        let lag = from.offset.saturating_sub(to.offset);
        if lag > LAG_AT_HOLD {
            return Err(Stop::Retry(format!("{} lags {lag} bytes behind {}", now.promotion.to, now.promotion.from)));
        }
        self.preflight(now).await?;
        let asked = Instant::now();
        let hold = self.hold(now).await?;
        let budget = Duration::from_millis(u64::from(now.state.settings.hold_ms_max));
        let result = self.behind_switchover(now, hold, &from, asked + budget).await;
        self.released(hold, result).await
    }

    /// What happens while the slots are held for a switchover.
    async fn behind_switchover(&self, now: &Now, hold: HoldId, before: &Standing, end: Instant) -> Step<Epoch> {
        self.barrier(hold, end).await?;
        faults::pause_at(Point::PromotionBarrier).await;
        let Promotion { from, to, .. } = &now.promotion;
        // Asked behind the barrier: whatever was acknowledged is below it.
        let last = self.primary(now, self.ask_by(now, from, end).await)?;
        if (&last.run_id, &last.replid) != (&before.run_id, &before.replid) {
            return Err(Stop::Retry(format!("{from} is not the primary any more that it was before the hold")));
        }
        loop {
            let theirs = self.ask_by(now, to, end).await.map_err(Stop::Retry)?;
            self.in_step(now, &last, &theirs)?;
            if theirs.offset >= last.offset {
                break;
            }
            if Instant::now() >= end {
                let (theirs, last) = (theirs.offset, last.offset);
                return Err(Stop::Retry(format!("{to} was at {theirs} of {last} when the hold's budget was spent")));
            }
            tokio::time::sleep(CATCH_UP_LOOK).await;
        }
        let whole = |seen: &Standing| {
            let same = seen.replid == last.replid && seen.offset >= last.offset && seen.follows.is_some();
            same.then_some(()).ok_or_else(|| "it has not everything any more".to_owned())
        };
        match self.promote(now, &whole, end).await {
            Ok(_) => self.finish(hold).await,
            Err(why @ (FenceError::Refused { .. } | FenceError::NotLeader { .. })) => Err(Stop::Retry(why.to_string())),
            // It may be a primary by now, or become one: then it must not be taken for a replica.
            Err(why) => Err(Stop::GiveUp {
                why: format!("it is not known whether {to} was promoted: {why}"),
                primary_back: false,
            }),
        }
    }

    /// The old primary of a switchover, which must be one.
    fn primary(&self, now: &Now, asked: Result<Standing, String>) -> Step<Standing> {
        let from = &now.promotion.from;
        match asked {
            Ok(standing) if standing.follows.is_none() && !standing.loading => Ok(standing),
            Ok(_) => Err(Stop::Retry(format!("{from} is not ready, or no primary"))),
            Err(why) if self.is_down(now, from) => {
                let why = format!("{from} is down, so nothing can be brought over from it any more: {why}");
                Err(Stop::GiveUp { why, primary_back: false })
            }
            Err(why) => Err(Stop::Retry(why)),
        }
    }

    fn in_step(&self, now: &Now, from: &Standing, to: &Standing) -> Step<()> {
        let Promotion { from: primary, to: addr, .. } = &now.promotion;
        let (host, port) = host_and_port(primary);
        let follows = to.is_replica_of(host, port) && to.link_up && !to.syncing && to.replid == from.replid;
        if follows { Ok(()) } else { Err(Stop::Retry(format!("{addr} is not in step with {primary}"))) }
    }

    /// Unless the old primary is back with its data, and the chosen one is none yet: then it stays the primary.
    async fn not_back(&self, now: &Now) -> Step<()> {
        let Some(why) = self.is_back(now) else { return Ok(()) };
        match self.ask(now, &now.promotion.to).await {
            Ok(standing) if standing.follows.is_none() => Ok(()),
            Ok(_) | Err(_) => Err(Stop::GiveUp { why, primary_back: true }),
        }
    }

    fn is_back(&self, now: &Now) -> Option<String> {
        let at_ns = boottime_ns();
        let seen = self.jobs.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.jobs.leases.alive_voters(at_ns));
        primary_back(&now.group, &now.promotion, &seen, &watchers)
    }

    fn is_down(&self, now: &Now, server: &HostPort) -> bool {
        let at_ns = boottime_ns();
        let seen = self.jobs.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.jobs.leases.alive_voters(at_ns));
        matches!(verdict(&watchers, server, now.group.options.down_after_ms), Verdict::Down { .. })
    }

    /// The chosen one is there and still what it was chosen for. Before anything was held, it may also be given up.
    async fn fit(&self, now: &Now) -> Step<()> {
        let to = &now.promotion.to;
        let fit = match self.ask(now, to).await {
            Ok(standing) => self.may_be_promoted(now, &standing).map_err(|why| format!("{to}: {why}")),
            Err(why) => Err(why),
        };
        match fit {
            Ok(()) => Ok(()),
            Err(why) if now.promotion.attempts == 0 && self.began.elapsed() >= UNFIT_MAX => {
                Err(Stop::GiveUp { why: format!("the chosen one cannot be promoted: {why}"), primary_back: false })
            }
            Err(why) => {
                self.not_gone(now, &why)?;
                Err(Stop::Retry(why))
            }
        }
    }

    /// Unless the chosen one is down, and was surely told nothing: then another one can be chosen. What every attempt so far
    /// has done is known to this task alone, and only if it has made them all.
    fn not_gone(&self, now: &Now, why: &str) -> Step<()> {
        let all_mine = self.holds.load(Ordering::Relaxed) == now.promotion.attempts;
        if !all_mine || self.told.load(Ordering::Relaxed) || !self.is_down(now, &now.promotion.to) {
            return Ok(());
        }
        Err(Stop::Untold { why: format!("the chosen one went down before it was promoted: {why}") })
    }

    /// With `min-acks`: enough replicas answer, and none has more than the chosen one.
    async fn has_all_confirmed(&self, now: &Now) -> Step<()> {
        let Promotion { to, forced, .. } = &now.promotion;
        if now.min_acks == 0 || *forced {
            return Ok(());
        }
        let mut asking = JoinSet::new();
        let end = Instant::now() + ACT_MAX;
        for server in now.group.servers.iter().skip(1) {
            let (fence, at) = (self.jobs.fence.clone(), now.at(&server.addr));
            asking.spawn(async move { (fence.standing(&at, end).await, at.addr) });
        }
        let mut offsets: BTreeMap<HostPort, u64> = BTreeMap::new();
        for (standing, addr) in asking.join_all().await {
            let Ok(standing) = standing else { continue };
            // The chosen one may be a primary since an earlier attempt.
            let own = if standing.follows.is_some() { &standing.replid } else { &standing.former_replid };
            if !standing.loading && !standing.syncing && *own == now.group.replid {
                offsets.insert(addr, standing.offset);
            }
        }
        let all = has_all_confirmed(&now.group, now.min_acks, to, |addr| offsets.get(addr).copied());
        all.map_err(|missing| match missing {
            Missing::Answers(why) => Stop::Retry(why),
            Missing::Writes(why) => Stop::Lacks { why },
        })
    }

    /// What speaks against promoting it for a failover, where it stands now.
    fn may_be_promoted(&self, now: &Now, standing: &Standing) -> Result<(), String> {
        if standing.loading {
            return Err("it is loading its data".into());
        }
        if standing.syncing {
            return Err("it is in the middle of a full copy".into());
        }
        if now.promotion.forced {
            return Ok(());
        }
        if standing.follows.is_none() && now.promotion.attempts == 0 {
            return Err("it is a primary already, and nobody of us made it one".into());
        }
        self.is_the_chosen(now, standing, &now.group.replid)
    }

    /// Whether its data is of this history, up to where it was in step: the same process that nodes have seen in step, still
    /// under that replication id, or under another since it was promoted.
    fn is_the_chosen(&self, now: &Now, standing: &Standing, replid: &str) -> Result<(), String> {
        let own = if standing.follows.is_some() { &standing.replid } else { &standing.former_replid };
        if own != replid {
            return Err("its data is of another replication id than the primary's".into());
        }
        let seen = self.jobs.leases.observation(boottime_ns());
        if !was_linked(&seen, &now.promotion.to, replid, &standing.run_id) {
            return Err("no node has seen this process of it in step with the primary".into());
        }
        Ok(())
    }

    /// REPLICAOF NO ONE, with what always has to be true just before, and `more`.
    async fn promote(
        &self,
        now: &Now,
        more: &(dyn Fn(&Standing) -> Result<(), String> + Send + Sync),
        end: Instant,
    ) -> Result<Standing, FenceError> {
        let check =
            |standing: &Standing| self.may_be_promoted(&self.later(now), standing).and_then(|()| more(standing));
        let by = end.min(Instant::now() + ACT_MAX);
        let at = now.at(&now.promotion.to);
        self.told.store(true, Ordering::Relaxed);
        let promoted = self.jobs.fence.promote(&at, &check, by).await?;
        faults::pause_at(Point::Promoted).await;
        Ok(promoted)
    }

    async fn ask(&self, now: &Now, addr: &HostPort) -> Result<Standing, String> {
        self.ask_by(now, addr, Instant::now() + ACT_MAX).await
    }

    async fn ask_by(&self, now: &Now, addr: &HostPort, by: Instant) -> Result<Standing, String> {
        self.jobs.fence.standing(&now.at(addr), by).await.map_err(|error| error.to_string())
    }

    /// Every possible server answers, or is surely out of lease; for a switchover, both servers answer quickly, too.
    async fn preflight(&self, now: &Now) -> Step<()> {
        if now.promotion.kind == PromotionKind::Failover && now.mode == Mode::Cache {
            return Ok(());
        }
        let silent = preflight::silent(&self.jobs.leases, &self.jobs.peers, now.isolated);
        if let Some(node) = silent.await.map_err(Stop::Retry)?.first() {
            return Err(Stop::Retry(format!(
                "node {node} does not answer and may still serve; bring it back, or run `pontoon node remove {node}`"
            )));
        }
        if now.promotion.kind == PromotionKind::Failover {
            return Ok(());
        }
        let max = self.jobs.leases.timing().probe_max;
        for addr in [&now.promotion.from, &now.promotion.to] {
            let took = self.jobs.fence.warm(&now.at(addr), Instant::now() + ACT_MAX).await;
            let took = took.map_err(|error| Stop::Retry(error.to_string()))?;
            if took > max {
                let ms = took.as_millis();
                return Err(Stop::Retry(format!("{addr} took {ms} ms to answer; a hold would be long")));
            }
        }
        Ok(())
    }

    async fn hold(&self, now: &Now) -> Step<HoldId> {
        faults::pause_at(Point::PromotionBegun).await;
        let Promotion { group, kind, to, attempts, .. } = &now.promotion;
        let reason = format!("{} of group {group} to {to}", kind.name());
        let cause = Cause::Promotion(self.id);
        let hold = Change::Hold { cause, attempt: attempts + 1, kind: kind.hold(), reason };
        let Outcome::Held(hold) = self.propose(hold).await? else {
            return Err(Stop::Retry("no hold was opened".into()));
        };
        self.holds.fetch_add(1, Ordering::Relaxed);
        faults::pause_at(Point::PromotionHeld).await;
        Ok(hold)
    }

    async fn barrier(&self, hold: HoldId, end: Instant) -> Step<()> {
        if faults::without(Rule::Barrier) {
            return Ok(());
        }
        let mut view = self.jobs.leases.view();
        loop {
            view.borrow_and_update();
            let now = self.now()?;
            let open = now.state.holds.get(&hold).ok_or(Stop::Gone)?;
            let whom = match self.jobs.leases.barrier(open, self.jobs.fence.term()) {
                Barrier::Passed => return Ok(()),
                Barrier::Waiting(whom) => whom.join("; "),
            };
            if Instant::now() >= end {
                return Err(Stop::Retry(format!("not all nodes held in time: {whom}")));
            }
            self.waits.tell(self.id, Some(whom));
            let _ = tokio::time::timeout(BARRIER_LOOK, view.changed()).await;
        }
    }

    async fn finish(&self, hold: HoldId) -> Step<Epoch> {
        let change = Change::FinishPromotion { promotion: self.id, hold, term: self.jobs.fence.term() };
        self.propose_at(change).await.map(|(index, _)| index)
    }

    /// Every way out but success and giving up releases the hold.
    async fn released<T>(&self, hold: HoldId, result: Step<T>) -> Step<T> {
        if let Err(Stop::Retry(why)) = &result {
            self.propose(Change::Release { hold, why: why.clone() }).await?;
        }
        result
    }

    async fn give_up(&self, now: &Now, why: String, (primary_back, forced): (bool, bool)) {
        info!(promotion = %self.id, %why, "the promotion is given up");
        let change = Change::GiveUpPromotion { promotion: self.id, why, primary_back, forced };
        if self.propose(change).await.is_err() || now.promotion.kind == PromotionKind::Failover {
            return;
        }
        // The log must assume that it was promoted. Behind our own control connection we can see that it was not, and never
        // will be; the primary may be dead by now, and then it is needed.
        let Promotion { product, group, from, to, group_epoch, .. } = &now.promotion;
        let (host, port) = host_and_port(from);
        if let Ok(standing) = self.ask(now, to).await
            && standing.is_replica_of(host, port)
            && !standing.syncing
            && self.is_the_chosen(now, &standing, &now.group.replid).is_ok()
        {
            let (product, group, addr, epoch) = (*product, *group, to.clone(), *group_epoch);
            let _ = self.propose_at(Change::MarkResynced { product, group, addr, epoch }).await;
        }
    }

    /// The others follow the new primary at once; whoever does not answer now is seen to by the wiring.
    async fn repoint_others(&self, before: &Now, epoch: Epoch) {
        let Promotion { product, group, to, .. } = before.promotion.clone();
        let mut acts = JoinSet::new();
        for server in before.group.servers.iter().filter(|server| server.addr != to) {
            let (jobs, at, to) = (self.jobs.clone(), before.at(&server.addr), to.clone());
            acts.spawn(async move { repoint(&jobs, (product, group, epoch), &at, &to).await });
        }
        acts.join_all().await;
    }

    async fn propose(&self, change: Change) -> Step<Outcome> {
        self.propose_at(change).await.map(|(_, outcome)| outcome)
    }

    async fn propose_at(&self, change: Change) -> Step<(Epoch, Outcome)> {
        if !self.leads() {
            return Err(Stop::Gone);
        }
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        match self.jobs.consensus.propose(id, change, PROPOSE_WITHIN).await {
            Ok(applied) => {
                let outcome = applied.result.map_err(|reject| Stop::Retry(reject.to_string()))?;
                Ok((applied.index, outcome))
            }
            // Whoever leads next finds the promotion and its hold, and goes on.
            Err(_) => Err(Stop::Gone),
        }
    }

    fn leads(&self) -> bool {
        let leadership = self.jobs.consensus.leadership().borrow().clone();
        leadership.is_me && leadership.term == self.jobs.fence.term()
    }

    /// The newest of it, or what it was before.
    fn later(&self, before: &Now) -> Now {
        self.now().unwrap_or_else(|_| Now {
            state: before.state.clone(),
            promotion: before.promotion.clone(),
            mode: before.mode,
            min_acks: before.min_acks,
            isolated: before.isolated,
            group: before.group.clone(),
        })
    }

    fn now(&self) -> Step<Now> {
        if !self.leads() {
            return Err(Stop::Gone);
        }
        let state = self.jobs.consensus.state().borrow().clone();
        let promotion = state.promotions.get(&self.id).ok_or(Stop::Gone)?.clone();
        let product = state.products.get(&promotion.product).ok_or(Stop::Gone)?;
        let (mode, isolated, min_acks) = (product.mode, product.isolated, product.min_acks);
        let group = product.groups.get(&promotion.group).ok_or(Stop::Gone)?.clone();
        Ok(Now { state, promotion, mode, isolated, min_acks, group })
    }
}
