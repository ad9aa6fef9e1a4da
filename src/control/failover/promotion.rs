//! Drives an open promotion to its end: one task for each, on the leader, begun anew by each leader. The log has its
//! whole state; a new leader continues with the same candidate, and its control connection to the candidate closes the
//! former leader's.
//!
//! ```text
//! check the candidate -> preflight -> Hold -> barrier -> [switchover: the candidate has all data] -> REPLICAOF NO ONE
//!     | unfit: GiveUp       | wait        | the budget is spent: Release, pause, again           -> FinishPromotion
//! ```
//! Without an answer to REPLICAOF NO ONE, the candidate's role is asked over another connection before anything else is
//! done. Does not choose the candidate: `plan::failover` or an operator has.

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

/// How long a server may take for a few answers. A server that takes longer counts as down; in a hold, clients wait for
/// it.
const ACT_MAX: Duration = Duration::from_secs(1);
/// Budget of a failover's hold: longer than a lease, so that the lease of a silent node ends within it. Afterwards
/// requests are refused immediately instead of parked, until the next hold.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// How long a switchover may fail to begin before it is given up, since an operator waits for it. Longer than a lease
/// and an election together.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// By how much a switchover's hold may exceed its budget while it is unknown whether the candidate, which may have been
/// sent REPLICAOF NO ONE, is a primary. Giving up leaves two primaries for a while, and one of them must copy
/// everything again. Together with the time before (hold-max, [`ACT_MAX`] for the answer) and after it (the last
/// [`ACT_MAX`]) it is shorter than the 5 s for which requests are parked by default, so that no request fails because
/// of it.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// The interval at which a server that does not answer is asked again: an answer takes less than a millisecond when it
/// is up.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The interval at which a replica that has almost everything is asked: its primary sends more often.
const CATCH_UP_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// The longest pause after a hold that was released: requests are refused in the meantime.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How many bytes a replica may lag when its hold begins: replicating and executing them takes about a millisecond.
const LAG_AT_HOLD: u64 = 256 << 10;

/// This many refusals of the candidate are no accident (no right to REPLICAOF, other data): another candidate is
/// better, since clients wait.
const REFUSED_MAX: u32 = 10;

/// Why an attempt did not get through.
enum PromotionFailure {
    /// The promotion ends.
    GiveUp { why: String, primary_back: bool },
    /// It ends although its slots are held: this task knows that the candidate was not sent REPLICAOF NO ONE.
    NotSent { why: String },
    /// It ends although its slots are held: another replica has confirmed writes that the candidate lacks.
    Lacks { why: String },
    /// Another attempt follows after a pause.
    Retry(String),
    /// Leadership or the promotion is gone: nothing is left to do here.
    Gone,
}

type PromotionResult<T> = Result<T, PromotionFailure>;

/// Drives a promotion to its end, or until this node does not lead any more.
pub async fn run(ctx: LeaderContext, id: PromotionId, waits: PromotionWaits) {
    let task = PromotionDriver {
        ctx,
        id,
        began: Instant::now(),
        waits,
        holds: AtomicU32::new(0),
        promote_sent: AtomicBool::new(false),
    };
    task.run().await;
    task.waits.set(id, None);
}

struct PromotionDriver {
    ctx: LeaderContext,
    id: PromotionId,
    began: Instant,
    waits: PromotionWaits,
    /// Holds that this task has opened.
    holds: AtomicU32,
    /// This task may have sent REPLICAOF NO ONE; set just before.
    promote_sent: AtomicBool,
}

/// The promotion, its group and its product's settings at one moment.
struct PromotionContext {
    state: Arc<ClusterState>,
    promotion: Promotion,
    mode: Mode,
    isolated: Isolated,
    min_acks: u8,
    group: Group,
}

impl PromotionContext {
    fn control_target(&self, addr: &HostPort) -> ControlTarget {
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
            let Ok(now) = self.context() else { return };
            let result = match now.promotion.kind {
                PromotionKind::Failover => self.failover(&now).await,
                PromotionKind::Switchover => self.switchover(&now).await,
            };
            let held = self.context().is_ok_and(|later| later.promotion.attempts > now.promotion.attempts);
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
            self.waits.set(self.id, Some(why));
            tokio::time::sleep(if held { backoff } else { POLL_INTERVAL }).await;
            if held {
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// The old primary is down: hold, barrier, promote.
    async fn failover(&self, now: &PromotionContext) -> PromotionResult<Epoch> {
        let hold = match now.hold() {
            // Opened by this leader or by the one before, for the same candidate.
            Some(hold) => hold.id,
            None => {
                self.check_primary_not_back(now).await?;
                self.check_candidate(now).await?;
                self.has_all_confirmed(now).await?;
                self.preflight(now).await?;
                self.open_hold(now).await?
            }
        };
        let end = Instant::now() + HOLD_MAX;
        let promoted = async {
            // Data of a cache may be stale or lost; waiting for nodes is worse (docs/design/failover.md).
            if now.mode == Mode::Store {
                self.barrier(hold, end).await?;
            }
            faults::pause_at(Point::PromotionBarrier).await;
            self.check_primary_not_back_between_holds(now).await?;
            // Until the barrier, nodes that reached the old primary may have acknowledged more.
            self.has_all_confirmed(now).await?;
            let mut refused = 0;
            loop {
                self.check_primary_not_back(now).await?;
                // Asked first: while it does not answer this, REPLICAOF NO ONE is not sent.
                let promoted = match self.ask(now, &now.promotion.to).await {
                    Ok(replication_status) => {
                        self.check_same_process(now, &replication_status)?;
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
                        self.give_up_if_nothing_was_sent(&self.context()?, &why)?;
                        return Err(PromotionFailure::Retry(why));
                    }
                    Err(why) => {
                        self.give_up_if_candidate_is_down(&self.context()?, &why)?;
                        if Instant::now() + POLL_INTERVAL >= end {
                            return Err(PromotionFailure::Retry(why));
                        }
                        self.waits.set(self.id, Some(why));
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
            self.finish(hold).await
        };
        let result = promoted.await;
        self.release_on_retry(hold, result).await
    }

    /// The old primary is up, and is replaced only when the candidate has all its data.
    async fn switchover(&self, now: &PromotionContext) -> PromotionResult<Epoch> {
        if let Some(left) = now.hold() {
            // A former leader has promoted it: it had all data then, and the slots have been held since.
            if self.was_promoted(&now.group.replid).await? {
                let end = Instant::now() + HOLD_MAX;
                let result = async {
                    self.barrier(left.id, end).await?;
                    self.finish(left.id).await
                };
                let result = result.await;
                return self.release_on_retry(left.id, result).await;
            }
            self.propose(Change::Release(Release { hold: left.id, why: "a new leader begins anew".into() })).await?;
        }
        let (from, to) = tokio::join!(self.ask(now, &now.promotion.from), self.ask(now, &now.promotion.to));
        let from = self.primary(now, from)?;
        let to = to.map_err(PromotionFailure::Retry)?;
        self.in_sync(now, &from, &to)?;
        if from.replid != now.group.replid {
            // The next leader finds in the log which history the new primary must have.
            let (product, group, epoch) = (now.promotion.product, now.group.id, now.group.epoch);
            self.propose(NotePrimary::replication_id(product, group, epoch, from.replid).into()).await?;
            return Err(PromotionFailure::Retry(
                "the primary's replication id had to be written to the log first".into(),
            ));
        }
        self.check_candidate(now).await?;
        let lag = from.offset.saturating_sub(to.offset);
        if lag > LAG_AT_HOLD {
            return Err(PromotionFailure::Retry(format!(
                "{} lags {lag} bytes behind {}",
                now.promotion.to, now.promotion.from
            )));
        }
        self.preflight(now).await?;
        let asked = Instant::now();
        let hold = self.open_hold(now).await?;
        let budget = Duration::from_millis(u64::from(now.state.settings.hold_ms_max));
        let result = self.switch_over_held(now, hold, &from, asked + budget).await;
        self.release_on_retry(hold, result).await
    }

    /// The part of a switchover during which its slots are held.
    async fn switch_over_held(
        &self,
        now: &PromotionContext,
        hold: HoldId,
        before: &ReplicationStatus,
        end: Instant,
    ) -> PromotionResult<Epoch> {
        self.barrier(hold, end).await?;
        faults::pause_at(Point::PromotionBarrier).await;
        let Promotion { from, to, .. } = &now.promotion;
        // Asked after the barrier: every acknowledged write is below this offset.
        let last = self.primary(now, self.ask_by(now, from, end).await)?;
        if (&last.run_id, &last.replid) != (&before.run_id, &before.replid) {
            return Err(PromotionFailure::Retry(format!(
                "{from} was restarted, or changed its replication id, since the hold began"
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
                    "{to} was at offset {theirs} of {last} when the hold's budget was spent"
                )));
            }
            tokio::time::sleep(CATCH_UP_POLL_INTERVAL).await;
        }
        let promote_was_due = AtomicBool::new(false);
        let has_all_data = |seen: &ReplicationStatus| {
            let same = seen.replid == last.replid && seen.offset >= last.offset && seen.follows.is_some();
            promote_was_due.store(same, Ordering::Relaxed);
            same.then_some(()).ok_or_else(|| "it does not have all data any more".to_owned())
        };
        match self.promote(now, &has_all_data, end).await {
            Ok(_) => self.finish(hold).await,
            Err(_) if promote_was_due.into_inner() && self.was_promoted(&last.replid).await? => self.finish(hold).await,
            // The command was not sent, or will not be executed any more.
            Err(why) => Err(PromotionFailure::Retry(why.to_string())),
        }
    }

    /// The state of a switchover's old primary.
    ///
    /// # Errors
    /// `GiveUp` when it is down; `Retry` when it does not answer, loads its data or is a replica.
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
            Ok(_) => Err(PromotionFailure::Retry(format!("{from} is loading its data, or is not a primary"))),
            Err(why) if self.is_down(now, from) => {
                let why = format!("{from} is down, so that its last writes cannot be copied any more: {why}");
                Err(PromotionFailure::GiveUp { why, primary_back: false })
            }
            Err(why) => Err(PromotionFailure::Retry(why)),
        }
    }

    fn in_sync(&self, now: &PromotionContext, from: &ReplicationStatus, to: &ReplicationStatus) -> PromotionResult<()> {
        let Promotion { from: primary, to: addr, .. } = &now.promotion;
        let (host, port) = host_and_port(primary);
        let follows = to.is_replica_of(host, port) && to.link_up && !to.syncing && to.replid == from.replid;
        if follows { Ok(()) } else { Err(PromotionFailure::Retry(format!("{addr} is not in sync with {primary}"))) }
    }
}
