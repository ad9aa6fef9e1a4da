//! An open promotion, carried to its end by the leader of one term: one task each, begun anew by each leader. Its truth is in
//! the log; a new leader goes on with the same choice, and its control connection to the chosen one ends the former leader's.
//!
//! ```text
//! is the choice still fit -> preflight -> Hold -> barrier -> [switchover: the replica has everything] -> REPLICAOF NO ONE, ROLE
//!        | no: GiveUp          | wait        | budget spent: Release, pause, again                          -> FinishPromotion
//! ```
//! No answer to REPLICAOF NO ONE: asked again, over another connection, before anything else is done.
//! Chooses nobody: `plan::failover` or an operator did.

mod confirmed;
mod servers;
mod steps;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::waits::PromotionWaits;
use crate::{
    control::{
        leadership::context::LeaderContext,
        servers::{
            fence::{ControlTarget, FenceError},
            replication_commands::host_and_port,
        },
    },
    faults::{self, Point},
    model::{
        change::{Change, NotePrimary, Release},
        ids::{Epoch, HoldId, HostPort, PromotionId},
        promotion::{Promotion, PromotionKind},
        route::{Isolated, Mode},
        state::{ClusterState, Group, Hold},
    },
    redis::ReplicationStatus,
};

/// A server that takes longer for a few answers is not there; in a hold, clients wait for it.
const ACT_MAX: Duration = Duration::from_secs(1);
/// Budget of a failover's hold: longer than a lease, so that a silent node is outwaited; then requests are refused at once
/// rather than parked, until the next one.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// A switchover that cannot begin for so long ends: whoever asked for it waits. Longer than a lease and an election together.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// A switchover's hold is open for so much longer than its budget while it is not known whether the chosen one, which may have
/// been told so, is a primary: to give up leaves two primaries for a while, and one of them to be copied anew. With what was
/// spent before (hold-max, [`ACT_MAX`] for the answer) and after it (the last [`ACT_MAX`]) shorter than the 5 s that requests
/// are parked by default, so that none fails for it.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// Between two probes at something that does not answer.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Between two probes at a replica that has almost everything: its primary sends in less.
const CATCH_UP_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// The longest pause after a hold that was released.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A replica may lag so many bytes when its hold begins: about a millisecond's worth of replication and its execution.
const LAG_AT_HOLD: u64 = 256 << 10;

/// So many refusals of the chosen one are no accident (no right to REPLICAOF, other data): while clients wait, another one may do.
const REFUSED_MAX: u32 = 10;

/// Why an attempt did not get through.
enum PromotionFailure {
    /// The promotion ends.
    GiveUp { why: String, primary_back: bool },
    /// It ends although it was held: this very task knows that the chosen one was told nothing, and it is gone.
    NotSent { why: String },
    /// It ends although it was held: a replica has confirmed writes that the chosen one lacks.
    Lacks { why: String },
    /// Tried again after a pause.
    Retry(String),
    /// Leadership or the promotion is gone: nothing to do here.
    Gone,
}

type PromotionResult<T> = Result<T, PromotionFailure>;

/// Carries a promotion to its end, or until this node leads no more.
pub async fn run(ctx: LeaderContext, id: PromotionId, waits: PromotionWaits) {
    let task = PromotionDriver {
        ctx,
        id,
        began: Instant::now(),
        waits,
        holds: AtomicU32::new(0),
        told: AtomicBool::new(false),
    };
    task.run().await;
    task.waits.tell(id, None);
}

struct PromotionDriver {
    ctx: LeaderContext,
    id: PromotionId,
    began: Instant,
    waits: PromotionWaits,
    /// Holds that this task has opened.
    holds: AtomicU32,
    /// REPLICAOF NO ONE may have been sent by it; set just before.
    told: AtomicBool,
}

/// The promotion and what it is about, at one moment.
struct PromotionContext {
    state: Arc<ClusterState>,
    promotion: Promotion,
    mode: Mode,
    isolated: Isolated,
    min_acks: u8,
    group: Group,
}

impl PromotionContext {
    fn at(&self, addr: &HostPort) -> ControlTarget {
        ControlTarget { addr: addr.clone(), credentials: self.group.credentials.clone() }
    }

    fn hold(&self) -> Option<&Hold> {
        self.state.promotion_hold(self.promotion.id).and_then(|hold| self.state.holds.get(&hold))
    }
}

impl PromotionDriver {
    async fn run(&self) {
        let timing = self.ctx.leases.timing();
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
                Err(PromotionFailure::Gone) => return,
                Err(PromotionFailure::GiveUp { why, primary_back }) => {
                    return self.give_up(&now, why, (primary_back, false)).await;
                }
                Err(PromotionFailure::NotSent { why } | PromotionFailure::Lacks { why }) => {
                    return self.give_up(&now, why, (false, true)).await;
                }
                Err(PromotionFailure::Retry(why)) => why,
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
            tokio::time::sleep(if held { backoff } else { POLL_INTERVAL }).await;
            if held {
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// The old primary is gone: hold, barrier, promote.
    async fn failover(&self, now: &PromotionContext) -> PromotionResult<Epoch> {
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
            self.not_back_between_holds(now).await?;
            // Until the barrier, nodes that reached the old primary may have acknowledged more.
            self.has_all_confirmed(now).await?;
            let mut refused = 0;
            loop {
                self.not_back(now).await?;
                // Asked first: while it does not even answer that, it is told nothing.
                let promoted = match self.ask(now, &now.promotion.to).await {
                    Ok(replication_status) => {
                        self.same_process(now, &replication_status)?;
                        let promoted = self.promote(now, &|_| Ok(()), end).await;
                        if let Err(FenceError::Refused { .. }) = &promoted {
                            refused += 1;
                        }
                        promoted.map_err(|error| error.to_string())
                    }
                    Err(why) => Err(why),
                };
                match promoted {
                    Ok(_) => break,
                    Err(why) if refused >= REFUSED_MAX => {
                        self.not_sent(&self.now()?, &why)?;
                        return Err(PromotionFailure::Retry(why));
                    }
                    Err(why) => {
                        self.not_gone(&self.now()?, &why)?;
                        if Instant::now() + POLL_INTERVAL >= end {
                            return Err(PromotionFailure::Retry(why));
                        }
                        self.waits.tell(self.id, Some(why));
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
            self.finish(hold).await
        };
        let result = promoted.await;
        self.released(hold, result).await
    }

    /// The old primary is there, and everything it has is brought over before it is replaced.
    async fn switchover(&self, now: &PromotionContext) -> PromotionResult<Epoch> {
        if let Some(left) = now.hold() {
            // A former leader got so far that it was promoted: by then it had everything, and nobody has written since.
            if self.was_promoted(&now.group.replid).await? {
                let end = Instant::now() + HOLD_MAX;
                let result = async {
                    self.barrier(left.id, end).await?;
                    self.finish(left.id).await
                };
                let result = result.await;
                return self.released(left.id, result).await;
            }
            self.propose(Change::Release(Release { hold: left.id, why: "a new leader begins anew".into() })).await?;
        }
        let (from, to) = tokio::join!(self.ask(now, &now.promotion.from), self.ask(now, &now.promotion.to));
        let from = self.primary(now, from)?;
        let to = to.map_err(PromotionFailure::Retry)?;
        self.in_sync(now, &from, &to)?;
        if from.replid != now.group.replid {
            // The next leader finds in the log of which history the new primary has to be.
            let (product, group, epoch) = (now.promotion.product, now.group.id, now.group.epoch);
            self.propose(NotePrimary::replication_id(product, group, epoch, from.replid).into()).await?;
            return Err(PromotionFailure::Retry("the primary's replication id had to be noted first".into()));
        }
        self.fit(now).await?;
        let lag = from.offset.saturating_sub(to.offset);
        if lag > LAG_AT_HOLD {
            return Err(PromotionFailure::Retry(format!(
                "{} lags {lag} bytes behind {}",
                now.promotion.to, now.promotion.from
            )));
        }
        self.preflight(now).await?;
        let asked = Instant::now();
        let hold = self.hold(now).await?;
        let budget = Duration::from_millis(u64::from(now.state.settings.hold_ms_max));
        let result = self.behind_switchover(now, hold, &from, asked + budget).await;
        self.released(hold, result).await
    }

    /// What happens while the slots are held for a switchover.
    async fn behind_switchover(
        &self,
        now: &PromotionContext,
        hold: HoldId,
        before: &ReplicationStatus,
        end: Instant,
    ) -> PromotionResult<Epoch> {
        self.barrier(hold, end).await?;
        faults::pause_at(Point::PromotionBarrier).await;
        let Promotion { from, to, .. } = &now.promotion;
        // Asked behind the barrier: whatever was acknowledged is below it.
        let last = self.primary(now, self.ask_by(now, from, end).await)?;
        if (&last.run_id, &last.replid) != (&before.run_id, &before.replid) {
            return Err(PromotionFailure::Retry(format!(
                "{from} is not the primary any more that it was before the hold"
            )));
        }
        loop {
            let theirs = self.ask_by(now, to, end).await.map_err(PromotionFailure::Retry)?;
            self.in_sync(now, &last, &theirs)?;
            if theirs.offset >= last.offset {
                break;
            }
            if Instant::now() >= end {
                let (theirs, last) = (theirs.offset, last.offset);
                return Err(PromotionFailure::Retry(format!(
                    "{to} was at {theirs} of {last} when the hold's budget was spent"
                )));
            }
            tokio::time::sleep(CATCH_UP_POLL_INTERVAL).await;
        }
        let told = AtomicBool::new(false);
        let whole = |seen: &ReplicationStatus| {
            let same = seen.replid == last.replid && seen.offset >= last.offset && seen.follows.is_some();
            told.store(same, Ordering::Relaxed);
            same.then_some(()).ok_or_else(|| "it has not everything any more".to_owned())
        };
        match self.promote(now, &whole, end).await {
            Ok(_) => self.finish(hold).await,
            Err(_) if told.into_inner() && self.was_promoted(&last.replid).await? => self.finish(hold).await,
            // It was told nothing, or something that it will not do any more.
            Err(why) => Err(PromotionFailure::Retry(why.to_string())),
        }
    }

    /// The old primary of a switchover, which must be one.
    fn primary(
        &self,
        now: &PromotionContext,
        asked: Result<ReplicationStatus, String>,
    ) -> PromotionResult<ReplicationStatus> {
        let from = &now.promotion.from;
        match asked {
            Ok(replication_status) if replication_status.follows.is_none() && !replication_status.loading => {
                Ok(replication_status)
            }
            Ok(_) => Err(PromotionFailure::Retry(format!("{from} is not ready, or no primary"))),
            Err(why) if self.is_down(now, from) => {
                let why = format!("{from} is down, so nothing can be brought over from it any more: {why}");
                Err(PromotionFailure::GiveUp { why, primary_back: false })
            }
            Err(why) => Err(PromotionFailure::Retry(why)),
        }
    }

    fn in_sync(&self, now: &PromotionContext, from: &ReplicationStatus, to: &ReplicationStatus) -> PromotionResult<()> {
        let Promotion { from: primary, to: addr, .. } = &now.promotion;
        let (host, port) = host_and_port(primary);
        let follows = to.is_replica_of(host, port) && to.link_up && !to.syncing && to.replid == from.replid;
        if follows { Ok(()) } else { Err(PromotionFailure::Retry(format!("{addr} is not in step with {primary}"))) }
    }
}
