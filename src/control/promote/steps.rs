//! The steps of a promotion in the log and at the nodes: preflight, hold, barrier, and its end.
//! Knows nothing of how servers stand.

use std::sync::atomic::Ordering;

use tokio::{task::JoinSet, time::Instant};
use tracing::info;

use super::{ACT_MAX, Now, Step, Stop, Task};
use crate::{
    control::{
        acts::host_and_port,
        jobs::{Unmade, Unpassed},
        preflight,
        wiring::repoint,
    },
    faults::{self, Point},
    model::{
        change::Change,
        ids::{Epoch, HoldId},
        outcome::Outcome,
        promotion::{Promotion, PromotionKind},
        route::Mode,
        state::Cause,
    },
};

impl Task {
    /// Every possible server answers, or is surely out of lease; for a switchover, both servers answer quickly, too.
    pub(super) async fn preflight(&self, now: &Now) -> Step<()> {
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

    pub(super) async fn hold(&self, now: &Now) -> Step<HoldId> {
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

    pub(super) async fn barrier(&self, hold: HoldId, end: Instant) -> Step<()> {
        let waiting = |whom: &str| self.waits.tell(self.id, Some(whom.to_owned()));
        self.jobs.barrier(hold, end, waiting).await.map_err(|unpassed| match unpassed {
            Unpassed::Gone => Stop::Gone,
            Unpassed::Late(whom) => Stop::Retry(format!("not all nodes held in time: {whom}")),
        })
    }

    pub(super) async fn finish(&self, hold: HoldId) -> Step<Epoch> {
        let change = Change::FinishPromotion { promotion: self.id, hold, term: self.jobs.fence.term() };
        self.propose_at(change).await.map(|(index, _)| index)
    }

    /// Every way out but success and giving up releases the hold.
    pub(super) async fn released<T>(&self, hold: HoldId, result: Step<T>) -> Step<T> {
        if let Err(Stop::Retry(why)) = &result {
            self.propose(Change::Release { hold, why: why.clone() }).await?;
        }
        result
    }

    pub(super) async fn give_up(&self, now: &Now, why: String, (primary_back, forced): (bool, bool)) {
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
    pub(super) async fn repoint_others(&self, before: &Now, epoch: Epoch) {
        let Promotion { product, group, to, .. } = before.promotion.clone();
        let mut acts = JoinSet::new();
        for server in before.group.servers.iter().filter(|server| server.addr != to) {
            let (jobs, at, to) = (self.jobs.clone(), before.at(&server.addr), to.clone());
            acts.spawn(async move { repoint(&jobs, (product, group, epoch), &at, &to).await });
        }
        acts.join_all().await;
    }

    pub(super) async fn propose(&self, change: Change) -> Step<Outcome> {
        self.propose_at(change).await.map(|(_, outcome)| outcome)
    }

    pub(super) async fn propose_at(&self, change: Change) -> Step<(Epoch, Outcome)> {
        self.jobs.make(change).await.map_err(|unmade| match unmade {
            Unmade::Refused(why) => Stop::Retry(why),
            Unmade::Gone => Stop::Gone,
        })
    }

    /// The newest of it, or what it was before.
    pub(super) fn later(&self, before: &Now) -> Now {
        self.now().unwrap_or_else(|_| Now {
            state: before.state.clone(),
            promotion: before.promotion.clone(),
            mode: before.mode,
            min_acks: before.min_acks,
            isolated: before.isolated,
            group: before.group.clone(),
        })
    }

    pub(super) fn now(&self) -> Step<Now> {
        if !self.jobs.leads() {
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
