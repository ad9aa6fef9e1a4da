//! The steps of a promotion in the log and at the nodes: preflight, hold, barrier, and its end.
//! Knows nothing of the state of servers.

use std::sync::atomic::Ordering;

use tokio::{task::JoinSet, time::Instant};
use tracing::info;

use super::{ACT_MAX, PromotionContext, PromotionDriver, PromotionFailure, PromotionResult};
use crate::{
    control::{
        leadership::context::{BarrierFailure, ProposalFailure},
        servers::{reconciler::repoint, replication_commands::host_and_port},
        slots::preflight,
    },
    faults::{self, Point},
    model::{
        change::{Change, FinishPromotion, GiveUpPromotion, MarkResynced, OpenHold, Release},
        ids::{Epoch, HoldId},
        outcome::Outcome,
        promotion::{Promotion, PromotionKind},
        route::Mode,
        state::Cause,
    },
};

impl PromotionDriver {
    /// Every possible server answers; for a switchover, both servers answer quickly too.
    pub(super) async fn preflight(&self, now: &PromotionContext) -> PromotionResult<()> {
        if now.promotion.kind == PromotionKind::Failover && now.mode == Mode::Cache {
            return Ok(());
        }
        let silent = preflight::silent(&self.ctx.leases, &self.ctx.peers, now.isolated);
        if let Some(node) = silent.await.map_err(PromotionFailure::Retry)?.first() {
            return Err(PromotionFailure::Retry(format!(
                "node {node} does not answer and may still serve; bring it back, or run `pontoon node remove {node}`"
            )));
        }
        if now.promotion.kind == PromotionKind::Failover {
            return Ok(());
        }
        let max = self.ctx.leases.timing().ping_timeout;
        for addr in [&now.promotion.from, &now.promotion.to] {
            let took = self.ctx.fence.warm(&now.control_target(addr), Instant::now() + ACT_MAX).await;
            let took = took.map_err(|error| PromotionFailure::Retry(error.to_string()))?;
            if took > max {
                let ms = took.as_millis();
                return Err(PromotionFailure::Retry(format!("{addr} took {ms} ms to answer; a hold would be long")));
            }
        }
        Ok(())
    }

    pub(super) async fn open_hold(&self, now: &PromotionContext) -> PromotionResult<HoldId> {
        faults::pause_at(Point::PromotionBegun).await;
        let Promotion { group, kind, to, attempts, .. } = &now.promotion;
        let reason = format!("{} of group {group} to {to}", kind.name());
        let cause = Cause::Promotion(self.id);
        let hold = Change::OpenHold(OpenHold { cause, attempt: attempts + 1, kind: kind.hold(), reason });
        let Outcome::Held(hold) = self.propose(hold).await? else {
            return Err(PromotionFailure::Retry("no hold was opened".into()));
        };
        self.holds.fetch_add(1, Ordering::Relaxed);
        faults::pause_at(Point::PromotionHeld).await;
        Ok(hold)
    }

    pub(super) async fn barrier(&self, hold: HoldId, end: Instant) -> PromotionResult<()> {
        let waiting = |nodes: &str| self.waits.set(self.id, Some(nodes.to_owned()));
        self.ctx.barrier(hold, end, waiting).await.map_err(|barrier_failure| match barrier_failure {
            BarrierFailure::Gone => PromotionFailure::Gone,
            BarrierFailure::Late(nodes) => PromotionFailure::Retry(format!("not all nodes held in time: {nodes}")),
        })
    }

    pub(super) async fn finish(&self, hold: HoldId) -> PromotionResult<Epoch> {
        let change = Change::FinishPromotion(FinishPromotion { promotion: self.id, hold, term: self.ctx.fence.term() });
        self.propose_at(change).await.map(|(index, _)| index)
    }

    /// Releases the hold when another attempt follows. (The end of the promotion ends it too.)
    pub(super) async fn release_on_retry<T>(&self, hold: HoldId, result: PromotionResult<T>) -> PromotionResult<T> {
        if let Err(PromotionFailure::Retry(why)) = &result {
            self.propose(Change::Release(Release { hold, why: why.clone() })).await?;
        }
        result
    }

    pub(super) async fn give_up(&self, now: &PromotionContext, why: String, (primary_back, forced): (bool, bool)) {
        info!(promotion = %self.id, %why, "the promotion is given up");
        let change = Change::GiveUpPromotion(GiveUpPromotion { promotion: self.id, why, primary_back, forced });
        if self.propose(change).await.is_err() || now.promotion.kind == PromotionKind::Failover {
            return;
        }
        // The log must assume that the candidate was promoted. Over this leader's control connection it can be shown
        // that it was not, and never will be. The primary may be down by now, and then this replica is needed.
        let Promotion { product, group, from, to, group_epoch, .. } = &now.promotion;
        let (host, port) = host_and_port(from);
        if let Ok(replication_status) = self.ask(now, to).await
            && replication_status.is_replica_of(host, port)
            && !replication_status.syncing
            && self.check_history(now, &replication_status, &now.group.replid).is_ok()
        {
            let (product, group, addr, epoch) = (*product, *group, to.clone(), *group_epoch);
            let _ = self.propose_at(Change::MarkResynced(MarkResynced { product, group, addr, epoch })).await;
        }
    }

    /// Makes the other servers follow the new primary immediately. Replication reconciliation repeats this for those
    /// that do not answer now.
    pub(super) async fn repoint_others(&self, before: &PromotionContext, epoch: Epoch) {
        let Promotion { product, group, to, .. } = before.promotion.clone();
        let mut acts = JoinSet::new();
        for server in before.group.servers.iter().filter(|server| server.addr != to) {
            let (ctx, at, to) = (self.ctx.clone(), before.control_target(&server.addr), to.clone());
            acts.spawn(async move { repoint(&ctx, (product, group, epoch), &at, &to).await });
        }
        acts.join_all().await;
    }

    pub(super) async fn propose(&self, change: Change) -> PromotionResult<Outcome> {
        self.propose_at(change).await.map(|(_, outcome)| outcome)
    }

    pub(super) async fn propose_at(&self, change: Change) -> PromotionResult<(Epoch, Outcome)> {
        self.ctx.make(change).await.map_err(|proposal_failure| match proposal_failure {
            ProposalFailure::Refused(why) => PromotionFailure::Retry(why),
            ProposalFailure::Gone => PromotionFailure::Gone,
        })
    }

    /// The newest context, or `before` if the promotion is gone.
    pub(super) fn newest_context_or(&self, before: &PromotionContext) -> PromotionContext {
        self.context().unwrap_or_else(|_| PromotionContext {
            state: before.state.clone(),
            promotion: before.promotion.clone(),
            mode: before.mode,
            min_acks: before.min_acks,
            isolated: before.isolated,
            group: before.group.clone(),
        })
    }

    pub(super) fn context(&self) -> PromotionResult<PromotionContext> {
        if !self.ctx.leads() {
            return Err(PromotionFailure::Gone);
        }
        let state = self.ctx.consensus.state().borrow().clone();
        let promotion = state.promotions.get(&self.id).ok_or(PromotionFailure::Gone)?.clone();
        let product = state.products.get(&promotion.product).ok_or(PromotionFailure::Gone)?;
        let (mode, isolated, min_acks) = (product.mode, product.isolated, product.min_acks);
        let group = product.groups.get(&promotion.group).ok_or(PromotionFailure::Gone)?.clone();
        Ok(PromotionContext { state, promotion, mode, isolated, min_acks, group })
    }
}
