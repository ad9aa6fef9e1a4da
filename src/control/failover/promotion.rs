//! Carries out what `plan::promotion` decides: one task per open promotion, on the leader, started again by each leader
//! and in each term. Decides nothing, and keeps nothing beyond its term.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::{
    clock::boottime_ns,
    control::{
        leadership::{
            context::{LeaderContext, ProposalFailure, wait_for_news},
            waits::Waits,
        },
        servers::{
            fence::{ControlTarget, FenceError},
            reconciler::repoint,
        },
        slots::preflight,
    },
    faults::{self, Point, Rule},
    model::{
        change::{Change, FinishPromotion, GiveUpPromotion, NotePrimary},
        ids::{Epoch, GroupId, HostPort, ProductId, PromotionId},
        outcome::Outcome,
        route::Isolated,
        state::{ClusterState, Group},
    },
    plan::{
        lease::Barrier,
        liveness::Watchers,
        promotion::{
            ACT_MAX_NS, Answers, PreflightResult, PromoteResult, PromotionMemory, PromotionObservation, PromotionStep,
            Reports, SAVE_MAX_NS, ServerStatus, next,
        },
        restart::is_protected,
    },
    redis::ReplicationStatus,
};

const ACT_MAX: Duration = Duration::from_nanos(ACT_MAX_NS);

/// Drives a promotion to its end, or until this node no longer leads.
pub async fn run(ctx: LeaderContext, id: PromotionId, waits: Waits<PromotionId>) {
    let driver = PromotionDriver { ctx, id, waits, promoted: Mutex::default() };
    driver.run().await;
    driver.waits.set(id, None);
}

struct PromotionDriver {
    ctx: LeaderContext,
    id: PromotionId,
    waits: Waits<PromotionId>,
    /// The candidate when it had become a primary.
    promoted: Mutex<Option<ReplicationStatus>>,
}

impl PromotionDriver {
    async fn run(&self) {
        let (mut state, mut view) = (self.ctx.consensus.state(), self.ctx.leases.view());
        let mut memory = PromotionMemory::default();
        let (mut logged, mut behind_barrier) = (0, false);
        while self.ctx.leads() {
            let newest = state.borrow_and_update().clone();
            view.borrow_and_update();
            let step = self.with_observation(&newest, |seen| {
                memory.observe(seen, self.id);
                next(seen, &memory, self.id)
            });
            if let (failures, why) = memory.failures()
                && failures > logged
            {
                warn!(promotion = %self.id, failures, %why, "an attempt of a promotion failed");
                logged = failures;
            }
            if memory.is_behind_barrier() != behind_barrier {
                behind_barrier = memory.is_behind_barrier();
                if behind_barrier {
                    faults::pause_at(Point::PromotionBarrier).await;
                    continue;
                }
            }
            match step {
                PromotionStep::Over => return,
                PromotionStep::Wait { wait, until_ns } => {
                    self.waits.set(self.id, Some(wait));
                    let holds = newest.promotion_hold(self.id).is_some();
                    wait_for_news(&mut state, &mut view, until_ns, holds).await;
                }
                step => {
                    if self.act(&newest, &mut memory, step).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Carries out a step and records its result. `None`: another leader goes on.
    async fn act(&self, state: &ClusterState, memory: &mut PromotionMemory, step: PromotionStep) -> Option<()> {
        match step {
            PromotionStep::Over | PromotionStep::Wait { .. } => {}
            PromotionStep::Ask { servers, until_ns } => {
                let answers = self.ask(state, servers, until_ns).await;
                self.with_reports(|seen, reports| memory.asked(seen, reports, self.id, answers));
            }
            PromotionStep::Preflight { isolated, servers } => {
                let result = self.preflight(state, isolated, servers).await;
                self.with_newest(|seen| memory.preflighted(seen, self.id, result));
            }
            PromotionStep::Promote { candidate, until_ns } => {
                let result = self.promote(state, memory, &candidate, until_ns).await;
                self.with_reports(|seen, reports| memory.promoted(seen, reports, self.id, result));
            }
            PromotionStep::SaveConfig { candidate } => {
                let answered = self.save_config(state, &candidate).await;
                self.with_newest(|seen| memory.saved(seen, self.id, answered));
            }
            PromotionStep::Propose(change) => {
                let result = self.propose(&change).await?;
                let result = result.as_ref().map(|(at, outcome)| (*at, outcome)).map_err(Clone::clone);
                self.with_newest(|seen| memory.proposed(seen, self.id, &change, result));
            }
            PromotionStep::Repoint { group, epoch, primary } => {
                self.repoint_others(state, group, epoch, &primary).await;
                memory.repointed();
            }
        }
        Some(())
    }

    /// What is known of the promotion now, with the newest state.
    fn with_newest<T>(&self, act: impl FnOnce(&PromotionObservation<'_>) -> T) -> T {
        let newest = self.ctx.consensus.state().borrow().clone();
        self.with_observation(&newest, act)
    }

    fn with_observation<T>(&self, state: &ClusterState, act: impl FnOnce(&PromotionObservation<'_>) -> T) -> T {
        let term = self.ctx.fence.term();
        let hold = state.promotion_hold(self.id).and_then(|hold| state.holds.get(&hold));
        let barrier = hold.map(|hold| match faults::without(Rule::Barrier) {
            true => Barrier::Passed,
            false => self.ctx.leases.barrier(hold, term),
        });
        let timing = self.ctx.leases.timing();
        act(&PromotionObservation { state, term, now_ns: boottime_ns(), barrier: barrier.as_ref(), timing })
    }

    /// As `with_newest`, and what the nodes reported.
    fn with_reports<T>(&self, act: impl FnOnce(&PromotionObservation<'_>, &Reports<'_>) -> T) -> T {
        let now_ns = boottime_ns();
        let servers = self.ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&servers, self.ctx.leases.alive_voters(now_ns));
        self.with_newest(|seen| act(seen, &Reports { servers: &servers, watchers: &watchers }))
    }

    /// The replication status of servers, asked over the control connections.
    async fn ask(&self, state: &ClusterState, servers: BTreeSet<HostPort>, until_ns: u64) -> Answers {
        let deadline = instant(until_ns);
        let mut asking = JoinSet::new();
        for addr in servers {
            let (fence, at) = (self.ctx.fence.clone(), control_target(state, &addr));
            asking.spawn(async move { (fence.replication_status(&at, deadline).await, addr) });
        }
        let answer = |(status, addr): (Result<ReplicationStatus, FenceError>, HostPort)| {
            (addr, status.map(server_status).map_err(|error| error.to_string()))
        };
        asking.join_all().await.into_iter().map(answer).collect()
    }

    async fn preflight(
        &self,
        state: &ClusterState,
        isolated: Option<Isolated>,
        servers: BTreeSet<HostPort>,
    ) -> Result<PreflightResult, String> {
        let silent = async {
            match isolated {
                Some(isolated) => preflight::silent(&self.ctx.leases, &self.ctx.peers, isolated).await,
                None => Ok(Vec::new()),
            }
        };
        // Before the hold, so that no request waits for it.
        let (silent, ()) = tokio::join!(silent, self.make_data_user(state));
        let mut result = PreflightResult { silent: silent?, ..PreflightResult::default() };
        for addr in servers {
            let at = control_target(state, &addr);
            let took = self.ctx.fence.ping(&at, Instant::now() + ACT_MAX).await;
            result.pings.insert(addr, took.map_err(|error| error.to_string()));
        }
        Ok(result)
    }

    /// Makes the data user of the group at the candidate, so that it is there when the candidate gets clients' requests. If
    /// that fails, a server that refuses them is still better than none: nodes make the user again as soon as they can.
    async fn make_data_user(&self, state: &ClusterState) {
        let Some(promotion) = state.promotions.get(&self.id) else { return };
        let Some(user) = group_of(state, &promotion.to).and_then(|group| group.data_user.as_ref()) else { return };
        let at = control_target(state, &promotion.to);
        if let Err(error) = self.ctx.fence.make_data_user(&at, user, Instant::now() + ACT_MAX).await {
            warn!(addr = %at.addr, %error, "the data user could not be made at a server that may be promoted");
        }
    }

    /// Sends REPLICAOF NO ONE, if the plan accepts the candidate's status just before.
    async fn promote(
        &self,
        state: &ClusterState,
        memory: &PromotionMemory,
        candidate: &HostPort,
        until_ns: u64,
    ) -> PromoteResult {
        let accepted = AtomicBool::new(false);
        let check = |status: &ReplicationStatus| {
            let status = server_status(status.clone());
            self.with_reports(|seen, reports| memory.may_promote(seen, reports, self.id, &status))?;
            accepted.store(true, Ordering::Relaxed);
            Ok(())
        };
        let at = control_target(state, candidate);
        let promoted = self.ctx.fence.promote(&at, &check, instant(until_ns), ACT_MAX).await;
        match promoted {
            Ok(status) => {
                *self.promoted.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                faults::pause_at(Point::Promoted).await;
                PromoteResult::Promoted
            }
            Err(error) if matches!(error, FenceError::Refused { .. }) || !accepted.into_inner() => {
                PromoteResult::NotExecuted(error.to_string())
            }
            Err(error) => PromoteResult::Unknown(error.to_string()),
        }
    }

    /// Returns whether the server answered. One that cannot save its configuration answers too. In a protected group the
    /// replicas may log in afterwards.
    async fn save_config(&self, state: &ClusterState, candidate: &HostPort) -> bool {
        let at = control_target(state, candidate);
        let by = Instant::now() + Duration::from_nanos(SAVE_MAX_NS);
        let saved = self.save_role(&at, by).await;
        let product = state.promotions.get(&self.id).and_then(|promotion| state.products.get(&promotion.product));
        if let Some(promoted) = self.promoted()
            && saved
            && product.is_some_and(is_protected)
            && let Err(error) = self.ctx.fence.admit_replicas(&at, &promoted.run_id, by).await
        {
            // Replication reconciliation repeats it.
            warn!(promotion = %self.id, addr = %at.addr, %error, "the candidate does not admit its replicas yet");
        }
        saved
    }

    fn promoted(&self) -> Option<ReplicationStatus> {
        self.promoted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn save_role(&self, at: &ControlTarget, by: Instant) -> bool {
        match self.ctx.fence.save_config(at, by).await {
            Ok(saved) => {
                info!(promotion = %self.id, addr = %at.addr, saved, "the candidate was asked to save its configuration");
                faults::pause_at(Point::PromotionSaved).await;
                true
            }
            Err(error) => {
                warn!(promotion = %self.id, addr = %at.addr, %error, "the candidate has not saved its configuration");
                false
            }
        }
    }

    /// Appends a change. `None`: leadership or the quorum is gone, and the next leader finds the result in the log.
    async fn propose(&self, change: &Change) -> Option<Result<(Epoch, Outcome), String>> {
        if matches!(change, Change::OpenHold(_)) {
            faults::pause_at(Point::PromotionBegun).await;
        }
        let result = match self.ctx.propose_in_term(change.clone()).await {
            Ok(applied) => Ok(applied),
            Err(ProposalFailure::Refused(why)) => Err(why),
            Err(ProposalFailure::Gone) => return None,
        };
        match change {
            Change::OpenHold(_) if result.is_ok() => faults::pause_at(Point::PromotionHeld).await,
            Change::FinishPromotion(FinishPromotion { promotion, .. }) if result.is_ok() => {
                info!(%promotion, "a group has another primary");
                faults::pause_at(Point::PromotionFinished).await;
            }
            Change::GiveUpPromotion(GiveUpPromotion { promotion, why, .. }) => {
                info!(%promotion, %why, accepted = result.is_ok(), "the promotion is given up");
            }
            _ => {}
        }
        Some(result)
    }

    /// Notes in the log which process was promoted, so that a restart of it is noticed from now on. If this is not known,
    /// or fails, replication reconciliation notes the process that nodes see.
    async fn note_promoted(&self, product: ProductId, group: GroupId, epoch: Epoch) {
        let Some(ReplicationStatus { replid, run_id, keys, .. }) = self.promoted() else { return };
        if replid.is_empty() || run_id.is_empty() {
            return;
        }
        let note = NotePrimary { product, group, epoch, replid, run_id, keys, keys_before: None };
        if let Err(why) = self.ctx.propose(Change::NotePrimary(note)).await {
            info!(promotion = %self.id, %why, "the process that was promoted could not be noted yet");
        }
    }

    /// Makes the other servers follow the new primary immediately. Replication reconciliation repeats this for those
    /// that do not answer now.
    async fn repoint_others(
        &self,
        state: &ClusterState,
        (product, group): (ProductId, GroupId),
        epoch: Epoch,
        primary: &HostPort,
    ) {
        if state.products.get(&product).is_some_and(is_protected) {
            self.note_promoted(product, group, epoch).await;
        }
        let others = state.products.get(&product).and_then(|product| product.groups.get(&group));
        let others = others.into_iter().flat_map(|group| &group.servers).filter(|server| server.addr != *primary);
        let mut acts = JoinSet::new();
        for server in others {
            let (ctx, at, to) = (self.ctx.clone(), control_target(state, &server.addr), primary.clone());
            acts.spawn(async move { repoint(&ctx, (product, group, epoch), &at, &to).await });
        }
        acts.join_all().await;
    }
}

/// The group of a server.
fn group_of<'a>(state: &'a ClusterState, addr: &HostPort) -> Option<&'a Group> {
    let mut groups = state.products.values().flat_map(|product| product.groups.values());
    groups.find(|group| group.servers.iter().any(|server| server.addr == *addr))
}

/// A server with the credentials of its group.
fn control_target(state: &ClusterState, addr: &HostPort) -> ControlTarget {
    let credentials = group_of(state, addr).and_then(|group| group.credentials.clone());
    ControlTarget { addr: addr.clone(), credentials }
}

/// The moment at which the leader's clock (`CLOCK_BOOTTIME`) shows `ns`.
fn instant(ns: u64) -> Instant {
    Instant::now() + Duration::from_nanos(ns.saturating_sub(boottime_ns()))
}

fn server_status(status: ReplicationStatus) -> ServerStatus {
    let ReplicationStatus { run_id, follows, link_up, syncing, loading, replid, .. } = status;
    let ReplicationStatus { former_replid, former_offset, offset, .. } = status;
    ServerStatus { run_id, follows, link_up, syncing, loading, replid, former_replid, former_offset, offset }
}
