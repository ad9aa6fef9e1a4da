//! What the servers of a promotion show, by what nodes have seen and by asking them over the control connections: whether the
//! old primary is back, whether the chosen one is still what it was chosen for. Changes one thing: promotes it.

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
        failover::{primary_back, was_in_sync, was_in_sync_as_another_process},
        liveness::{Liveness, Watchers, liveness},
    },
    redis::ReplicationStatus,
};

/// The chosen one may be unfit for so long before anything was held: a new leader has to hear first what nodes have seen.
const UNFIT_MAX: Duration = Duration::from_secs(3);

impl PromotionDriver {
    /// Unless the old primary is back with its data, and the chosen one was not made one yet: then it stays the primary. One
    /// that is a primary without having been promoted was started again as such.
    pub(super) async fn not_back(&self, now: &PromotionContext) -> PromotionResult<()> {
        let Some(why) = self.is_back(now) else { return Ok(()) };
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

    /// Whether the old primary cannot have acknowledged anything since the chosen one was promoted: its slots have been held all
    /// the time, by the one hold that there was. What it took between two holds the chosen one does not have.
    fn never_released(&self, before: &PromotionContext) -> PromotionResult<bool> {
        let now = self.now()?;
        Ok(before.promotion.forced || (now.promotion.attempts == 1 && now.hold().is_some()))
    }

    /// Behind the barrier of a later hold: the old primary may have been back, and have taken writes, between two probes at it.
    pub(super) async fn not_back_between_holds(&self, now: &PromotionContext) -> PromotionResult<()> {
        let later = self.now()?;
        let Promotion { from, attempts, forced, .. } = &later.promotion;
        if *attempts < 2 || *forced {
            return Ok(());
        }
        match self.ask(now, from).await {
            Ok(seen) if seen.follows.is_none() && !seen.loading && seen.replid == later.group.replid => {
                let why =
                    format!("{from} was back between two holds, as the primary that it was, and may have taken writes");
                Err(PromotionFailure::GiveUp { why, primary_back: true })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Unless the chosen one is another process than the one that nodes have seen in step: what that one was told went with it,
    /// and it never served, so another one can be chosen, whoever told it what.
    pub(super) fn same_process(
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
        Err(PromotionFailure::NotSent { why: format!("{to} was started again before it was promoted") })
    }

    pub(super) fn is_back(&self, now: &PromotionContext) -> Option<String> {
        let at_ns = boottime_ns();
        let seen = self.ctx.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.ctx.leases.alive_voters(at_ns));
        primary_back(&now.group, &now.promotion, &seen, &watchers)
    }

    pub(super) fn is_down(&self, now: &PromotionContext, server: &HostPort) -> bool {
        let at_ns = boottime_ns();
        let seen = self.ctx.leases.observation(at_ns);
        let watchers = Watchers::new(&seen, self.ctx.leases.alive_voters(at_ns));
        matches!(liveness(&watchers, server, now.group.options.down_after_ms), Liveness::DownGroup { .. })
    }

    /// The chosen one is there and still what it was chosen for. Before anything was held, it may also be given up.
    pub(super) async fn fit(&self, now: &PromotionContext) -> PromotionResult<()> {
        let to = &now.promotion.to;
        let fit = match self.ask(now, to).await {
            Ok(replication_status) => {
                self.same_process(now, &replication_status)?;
                self.may_be_promoted(now, &replication_status).map_err(|why| format!("{to}: {why}"))
            }
            Err(why) => Err(why),
        };
        match fit {
            Ok(()) => Ok(()),
            Err(why) if now.promotion.attempts == 0 && self.began.elapsed() >= UNFIT_MAX => {
                Err(PromotionFailure::GiveUp {
                    why: format!("the chosen one cannot be promoted: {why}"),
                    primary_back: false,
                })
            }
            Err(why) => {
                self.not_gone(now, &why)?;
                Err(PromotionFailure::Retry(why))
            }
        }
    }

    /// Unless the chosen one is down, and was surely told nothing: then another one can be chosen. What every attempt so far
    /// has done is known to this task alone, and only if it has made them all.
    pub(super) fn not_gone(&self, now: &PromotionContext, why: &str) -> PromotionResult<()> {
        if !self.is_down(now, &now.promotion.to) {
            return Ok(());
        }
        self.not_sent(now, &format!("the chosen one went down before it was promoted: {why}"))
    }

    /// Gives it up if the chosen one was surely told nothing, see [`PromotionDriver::not_gone`].
    pub(super) fn not_sent(&self, now: &PromotionContext, why: &str) -> PromotionResult<()> {
        let all_mine = self.holds.load(Ordering::Relaxed) == now.promotion.attempts;
        if !all_mine || self.told.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(PromotionFailure::NotSent { why: why.to_owned() })
    }

    /// What speaks against promoting it for a failover, where it stands now.
    pub(super) fn may_be_promoted(
        &self,
        now: &PromotionContext,
        replication_status: &ReplicationStatus,
    ) -> Result<(), String> {
        if replication_status.loading {
            return Err("it is loading its data".into());
        }
        if replication_status.syncing {
            return Err("it is in the middle of a full copy".into());
        }
        if now.promotion.forced {
            return Ok(());
        }
        if replication_status.follows.is_none() && now.promotion.attempts == 0 {
            return Err("it is a primary already, and nobody of us made it one".into());
        }
        self.is_the_chosen(now, replication_status, &now.group.replid)
    }

    /// Whether its data is of this history, up to where it was in step: the same process that nodes have seen in step, still
    /// under that replication id, or under another since it was promoted.
    pub(super) fn is_the_chosen(
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
            return Err("its data is of another replication id than the primary's".into());
        }
        let seen = self.ctx.leases.observation(boottime_ns());
        if !was_in_sync(&seen, &now.promotion.to, replid, &replication_status.run_id) {
            return Err("no node has seen this process of it in step with the primary".into());
        }
        Ok(())
    }

    /// REPLICAOF NO ONE, with what always has to be true just before, and `more`.
    pub(super) async fn promote(
        &self,
        now: &PromotionContext,
        more: &(dyn Fn(&ReplicationStatus) -> Result<(), String> + Send + Sync),
        end: Instant,
    ) -> Result<ReplicationStatus, FenceError> {
        let check = |replication_status: &ReplicationStatus| {
            self.may_be_promoted(&self.later(now), replication_status).and_then(|()| more(replication_status))?;
            // The next thing that is sent there.
            self.told.store(true, Ordering::Relaxed);
            Ok(())
        };
        let by = end.min(Instant::now() + ACT_MAX);
        let at = now.at(&now.promotion.to);
        let may_have_been_sent = self.told.load(Ordering::Relaxed);
        let promoted = self.ctx.fence.promote(&at, &check, by, ACT_MAX).await;
        if matches!(promoted, Err(FenceError::Refused { .. })) {
            // Nothing was done, so it is told nothing by this.
            self.told.store(may_have_been_sent, Ordering::Relaxed);
        }
        let promoted = promoted?;
        faults::pause_at(Point::Promoted).await;
        Ok(promoted)
    }

    /// Whether the chosen one of a switchover, which may have been told so, is a primary of this history. Asked until it
    /// answers, while its slots are held: what an older control connection has sent it is executed before the answer to a new
    /// one, or never. So "no" stays true, and the old primary may take writes again.
    pub(super) async fn was_promoted(&self, replid: &str) -> PromotionResult<bool> {
        let until = Instant::now() + UNKNOWN_MAX;
        loop {
            let now = self.now()?;
            let to = &now.promotion.to;
            let why = match self.ask(&now, to).await {
                Ok(seen) if seen.follows.is_some() => return Ok(false),
                // A new leader has to hear first what nodes have seen.
                Ok(seen) => match self.is_the_chosen(&now, &seen, replid) {
                    Ok(()) => return Ok(true),
                    Err(why) => format!("{to} is a primary, and {why}"),
                },
                Err(why) => format!("it is not known whether {to} was promoted: {why}"),
            };
            if Instant::now() + POLL_INTERVAL >= until {
                return Err(PromotionFailure::GiveUp { why, primary_back: false });
            }
            self.waits.tell(self.id, Some(why));
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
        self.ctx.fence.replication_status(&now.at(addr), by).await.map_err(|error| error.to_string())
    }
}

/// Whether a primary was promoted out of this group's history, or by force.
fn has_history(now: &PromotionContext, replication_status: &ReplicationStatus) -> bool {
    now.promotion.forced || replication_status.former_replid == now.group.replid
}
