//! The state of a promotion's servers, from the nodes' reports and from answers over the control connections: whether
//! the old primary has recovered, whether the candidate is still fit. Changes one thing: promotes the candidate.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    ACT_MAX, POLL_INTERVAL, PromotionContext, PromotionDriver, PromotionFailure, PromotionResult, UNKNOWN_MAX,
};
use crate::{
    clock::boottime_ns,
    control::servers::fence::FenceError,
    faults::{self, Point},
    model::{ids::HostPort, promotion::Promotion},
    plan::{
        failover::primary_back,
        liveness::{Liveness, Watchers, liveness},
        observation::{was_in_sync, was_in_sync_as_another_process},
    },
    redis::ReplicationStatus,
};

/// How long the candidate may be unfit before the promotion is given up, while nothing was held yet: a new leader must
/// first receive the nodes' reports.
const UNFIT_MAX: Duration = Duration::from_secs(3);

impl PromotionDriver {
    /// Gives up when the old primary has recovered and the candidate was not promoted yet: then the old primary stays.
    /// (A candidate that is a primary without having been promoted was restarted as one.)
    pub(super) async fn check_primary_not_back(&self, now: &PromotionContext) -> PromotionResult<()> {
        let Some(why) = self.primary_back_reason(now) else { return Ok(()) };
        match self.ask(now, &now.promotion.to).await {
            Ok(replication_status)
                if replication_status.follows.is_none()
                    && self.never_released(now)?
                    && has_history(now, &replication_status) =>
            {
                Ok(())
            }
            Ok(_) | Err(_) => Err(PromotionFailure::GiveUp { why, primary_back: true }),
        }
    }

    /// Whether the old primary cannot have acknowledged a write since the candidate was promoted: there was a single
    /// hold, and it is still open. The candidate does not have writes that the old primary accepted between two holds.
    fn never_released(&self, before: &PromotionContext) -> PromotionResult<bool> {
        let now = self.context()?;
        Ok(before.promotion.forced || (now.promotion.attempts == 1 && now.hold().is_some()))
    }

    /// After the barrier of a later hold: gives up when the old primary may have been up, and have accepted writes,
    /// between two probes.
    pub(super) async fn check_primary_not_back_between_holds(&self, now: &PromotionContext) -> PromotionResult<()> {
        let newest = self.context()?;
        let Promotion { from, attempts, forced, .. } = &newest.promotion;
        if *attempts < 2 || *forced {
            return Ok(());
        }
        match self.ask(now, from).await {
            Ok(seen) if seen.follows.is_none() && !seen.loading && seen.replid == newest.group.replid => {
                let why = format!(
                    "{from} answers as a primary with its old data, and may have accepted writes between two holds"
                );
                Err(PromotionFailure::GiveUp { why, primary_back: true })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Gives up when the candidate is another process than the one that nodes saw in sync: commands that were sent to
    /// the former process ended with it, and it never served, so that another candidate can be chosen whatever was
    /// sent.
    pub(super) fn check_same_process(
        &self,
        now: &PromotionContext,
        replication_status: &ReplicationStatus,
    ) -> PromotionResult<()> {
        let to = &now.promotion.to;
        let seen = self.ctx.leases.observation(boottime_ns());
        if now.promotion.forced
            || !was_in_sync_as_another_process(&seen, to, &now.group.replid, &replication_status.run_id)
        {
            return Ok(());
        }
        Err(PromotionFailure::NotSent { why: format!("{to} was restarted before it was promoted") })
    }

    pub(super) fn primary_back_reason(&self, now: &PromotionContext) -> Option<String> {
        let at_ns = boottime_ns();
        let seen = self.ctx.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.ctx.leases.alive_voters(at_ns));
        primary_back(&now.group, &now.promotion, &seen, &watchers)
    }

    pub(super) fn is_down(&self, now: &PromotionContext, server: &HostPort) -> bool {
        let at_ns = boottime_ns();
        let seen = self.ctx.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.ctx.leases.alive_voters(at_ns));
        matches!(liveness(&watchers, server, now.group.options.down_after_ms), Liveness::Down { .. })
    }

    /// The candidate answers and may still be promoted. While nothing was held yet, an unfit candidate ends the
    /// promotion.
    pub(super) async fn check_candidate(&self, now: &PromotionContext) -> PromotionResult<()> {
        let to = &now.promotion.to;
        let fit = match self.ask(now, to).await {
            Ok(replication_status) => {
                self.check_same_process(now, &replication_status)?;
                self.may_be_promoted(now, &replication_status).map_err(|why| format!("{to}: {why}"))
            }
            Err(why) => Err(why),
        };
        match fit {
            Ok(()) => Ok(()),
            Err(why) if now.promotion.attempts == 0 && self.began.elapsed() >= UNFIT_MAX => {
                Err(PromotionFailure::GiveUp {
                    why: format!("the candidate cannot be promoted: {why}"),
                    primary_back: false,
                })
            }
            Err(why) => {
                self.give_up_if_candidate_is_down(now, &why)?;
                Err(PromotionFailure::Retry(why))
            }
        }
    }

    /// Gives up when the candidate is down and was provably not sent REPLICAOF NO ONE: then another one can be chosen.
    /// Only this task knows what the attempts so far have sent, and only if it made all of them.
    pub(super) fn give_up_if_candidate_is_down(&self, now: &PromotionContext, why: &str) -> PromotionResult<()> {
        if !self.is_down(now, &now.promotion.to) {
            return Ok(());
        }
        self.give_up_if_nothing_was_sent(now, &format!("the candidate went down before it was promoted: {why}"))
    }

    /// Gives up when the candidate was provably not sent REPLICAOF NO ONE, see
    /// [`PromotionDriver::give_up_if_candidate_is_down`].
    pub(super) fn give_up_if_nothing_was_sent(&self, now: &PromotionContext, why: &str) -> PromotionResult<()> {
        let all_mine = self.holds.load(Ordering::Relaxed) == now.promotion.attempts;
        if !all_mine || self.promote_sent.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(PromotionFailure::NotSent { why: why.to_owned() })
    }

    /// Whether the candidate of a failover may be promoted in its present state.
    ///
    /// # Errors
    /// Why it may not, as text for the operator; its subject is the candidate ("it is loading its data").
    pub(super) fn may_be_promoted(
        &self,
        now: &PromotionContext,
        replication_status: &ReplicationStatus,
    ) -> Result<(), String> {
        if replication_status.loading {
            return Err("it is loading its data".into());
        }
        if replication_status.syncing {
            return Err("it is receiving a full copy".into());
        }
        if now.promotion.forced {
            return Ok(());
        }
        if replication_status.follows.is_none() && now.promotion.attempts == 0 {
            return Err("it is a primary already, and Pontoon did not promote it".into());
        }
        self.check_history(now, replication_status, &now.group.replid)
    }

    /// Whether the candidate has the data of this history up to when it was in sync: it is the process that nodes saw
    /// in sync, still under that replication id, or under another one since it was promoted.
    ///
    /// # Errors
    /// Why it has not, as text for the operator.
    pub(super) fn check_history(
        &self,
        now: &PromotionContext,
        replication_status: &ReplicationStatus,
        replid: &str,
    ) -> Result<(), String> {
        let own = if replication_status.follows.is_some() {
            &replication_status.replid
        } else {
            &replication_status.former_replid
        };
        if own != replid {
            return Err("its data has another replication id than the primary's".into());
        }
        let seen = self.ctx.leases.observation(boottime_ns());
        if !was_in_sync(&seen, &now.promotion.to, replid, &replication_status.run_id) {
            return Err("no node has seen its present process in sync with the primary".into());
        }
        Ok(())
    }

    /// Sends REPLICAOF NO ONE, if `may_be_promoted` and `more` succeed just before.
    pub(super) async fn promote(
        &self,
        now: &PromotionContext,
        more: &(dyn Fn(&ReplicationStatus) -> Result<(), String> + Send + Sync),
        end: Instant,
    ) -> Result<ReplicationStatus, FenceError> {
        let check = |replication_status: &ReplicationStatus| {
            self.may_be_promoted(&self.newest_context_or(now), replication_status)
                .and_then(|()| more(replication_status))?;
            // The next command that is sent to it.
            self.promote_sent.store(true, Ordering::Relaxed);
            Ok(())
        };
        let by = end.min(Instant::now() + ACT_MAX);
        let at = now.control_target(&now.promotion.to);
        let sent_before = self.promote_sent.load(Ordering::Relaxed);
        let promoted = self.ctx.fence.promote(&at, &check, by, ACT_MAX).await;
        if matches!(promoted, Err(FenceError::Refused { .. })) {
            // The command was not sent, or had no effect.
            self.promote_sent.store(sent_before, Ordering::Relaxed);
        }
        let promoted = promoted?;
        faults::pause_at(Point::Promoted).await;
        Ok(promoted)
    }

    /// Whether the candidate of a switchover, which may have been sent REPLICAOF NO ONE, is a primary of this history.
    /// It is asked until it answers, while its slots are held. A server executes what an older control connection has
    /// sent before it answers a new one, or never. So a "no" stays true, and the old primary may accept writes again.
    pub(super) async fn was_promoted(&self, replid: &str) -> PromotionResult<bool> {
        let until = Instant::now() + UNKNOWN_MAX;
        loop {
            let now = self.context()?;
            let to = &now.promotion.to;
            let why = match self.ask(&now, to).await {
                Ok(seen) if seen.follows.is_some() => return Ok(false),
                // A new leader must first receive the nodes' reports.
                Ok(seen) => match self.check_history(&now, &seen, replid) {
                    Ok(()) => return Ok(true),
                    Err(why) => format!("{to} is a primary, and {why}"),
                },
                Err(why) => format!("it is not known whether {to} was promoted: {why}"),
            };
            if Instant::now() + POLL_INTERVAL >= until {
                return Err(PromotionFailure::GiveUp { why, primary_back: false });
            }
            self.waits.set(self.id, Some(why));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub(super) async fn ask(&self, now: &PromotionContext, addr: &HostPort) -> Result<ReplicationStatus, String> {
        self.ask_by(now, addr, Instant::now() + ACT_MAX).await
    }

    pub(super) async fn ask_by(
        &self,
        now: &PromotionContext,
        addr: &HostPort,
        by: Instant,
    ) -> Result<ReplicationStatus, String> {
        self.ctx.fence.replication_status(&now.control_target(addr), by).await.map_err(|error| error.to_string())
    }
}

/// Whether a server was promoted from this group's history, or its promotion was forced.
fn has_history(now: &PromotionContext, replication_status: &ReplicationStatus) -> bool {
    now.promotion.forced || replication_status.former_replid == now.group.replid
}
