//! Carries out what `plan::assignment` decides: one task per open assignment, on the leader, started again by each
//! leader and in each term. Decides nothing, and keeps nothing beyond its term.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{preflight, scan};
use crate::{
    clock::boottime_ns,
    control::{
        leadership::{
            context::{LeaderContext, ProposalFailure, wait_for_news},
            waits::Waits,
        },
        servers::{fence::ControlTarget, flush::same_primary},
    },
    faults::{self, Point, Rule},
    model::{
        change::{Change, GiveUpAssign, OpenHold, Release},
        ids::{AssignmentId, GroupId, HostPort, ProductId, SlotId},
        outcome::Outcome,
        state::{Assignment, ClusterState, Group, Keys, Product},
    },
    plan::{
        assignment::{AssignmentMemory, AssignmentObservation, AssignmentStep, PrimaryProcess, SlotScan, next},
        lease::Barrier,
        liveness::Watchers,
        observation::Observation,
    },
};

/// How long a server may take to be emptied, or to say which process it is: a few answers each. The second happens
/// behind a hold, while clients wait.
const PRIMARY_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Drives an assignment until it is over, or until this node no longer leads.
pub async fn run(ctx: LeaderContext, id: AssignmentId, waits: Waits<AssignmentId>) {
    let driver = AssignmentDriver { ctx, id, waits };
    driver.run().await;
    driver.waits.set(id, None);
}

struct AssignmentDriver {
    ctx: LeaderContext,
    id: AssignmentId,
    waits: Waits<AssignmentId>,
}

impl AssignmentDriver {
    async fn run(&self) {
        let (mut state, mut view) = (self.ctx.consensus.state(), self.ctx.leases.view());
        let timing = self.ctx.leases.timing();
        let mut memory = AssignmentMemory::default();
        let mut logged = 0;
        while self.ctx.leads() {
            if let (failures, Some(why)) = memory.failures()
                && failures > logged
            {
                warn!(assignment = %self.id, failures, %why, "an attempt to assign slots failed");
                logged = failures;
            }
            let newest = state.borrow_and_update().clone();
            view.borrow_and_update();
            let step = self.decide(&newest, &mut memory);
            if let Some(wait) = step.wait(timing) {
                self.waits.set(self.id, Some(wait));
            }
            match step {
                AssignmentStep::Over => return,
                AssignmentStep::Wait { until_ns, .. } => {
                    wait_for_news(&mut state, &mut view, until_ns, memory.hold().is_some()).await;
                }
                AssignmentStep::Scan(searches) => {
                    let found = self.scan(&newest, &searches).await;
                    if let SlotScan::KeyFound(why) | SlotScan::Unreadable(why) = &found {
                        info!(assignment = %self.id, %why, "the slots could not be shown to be empty");
                    }
                    memory.scanned(boottime_ns(), found);
                }
                AssignmentStep::EmptyPrimary(primary) => {
                    let result = self.empty(&newest, &primary).await;
                    memory.emptied(boottime_ns(), primary, result, timing);
                }
                AssignmentStep::CheckPrimary(primary) => {
                    memory.primary_checked(self.check_primary(&newest, &primary).await);
                }
                AssignmentStep::Preflight { isolated } => {
                    let silent = preflight::silent(&self.ctx.leases, &self.ctx.peers, isolated).await;
                    memory.preflighted(boottime_ns(), silent, timing);
                }
                AssignmentStep::Propose(change) => {
                    let result = match self.ctx.propose_in_term(change.clone()).await {
                        Ok((_, outcome)) => Ok(outcome),
                        Err(ProposalFailure::Refused(why)) => Err(why),
                        // The next leader finds the result in the log.
                        Err(ProposalFailure::Gone) => return,
                    };
                    self.log(&change, &result);
                    memory.proposed(boottime_ns(), &change, result.as_ref().map_err(Clone::clone), timing);
                }
            }
        }
    }

    /// The step that is to be done now, from everything that is known now.
    fn decide(&self, state: &ClusterState, memory: &mut AssignmentMemory) -> AssignmentStep {
        let now_ns = boottime_ns();
        let term = self.ctx.fence.term();
        let hold = memory.hold().and_then(|hold| state.holds.get(&hold));
        let barrier = hold.map(|hold| match faults::without(Rule::Barrier) {
            true => Barrier::Passed,
            false => self.ctx.leases.barrier(hold, term),
        });
        // Only a reinstatement asks how servers are; for others the reports are not collected.
        let reinstates = state.assignments.get(&self.id).is_some_and(|a| a.keys == Keys::Ejected);
        let (servers, voters) = match reinstates {
            true => (self.ctx.leases.observation(now_ns), self.ctx.leases.alive_voters(now_ns)),
            false => (Observation::new(), BTreeSet::new()),
        };
        let watchers = Watchers::new(&servers, voters);
        let seen = AssignmentObservation {
            state,
            term,
            now_ns,
            barrier: barrier.as_ref(),
            servers: &servers,
            watchers: &watchers,
            timing: self.ctx.leases.timing(),
        };
        memory.observe(&seen, self.id);
        next(&seen, memory, self.id)
    }

    /// Searches groups for keys of slots, one after the other, until a key is found.
    async fn scan(&self, state: &ClusterState, searches: &[(GroupId, BTreeSet<SlotId>)]) -> SlotScan {
        let Some((assignment, product)) = self.assignment(state) else { return SlotScan::Empty };
        let budget = self.ctx.leases.timing().scan_max;
        for (id, slots) in searches {
            let Some(group) = product.groups.get(id) else { continue };
            let Some(primary) = group.servers.first() else { continue };
            let (addr, credentials) = (&primary.addr, group.credentials.as_ref());
            match scan::scan_for_slots(addr, credentials, product.layout, slots, product.databases, budget).await {
                scan::ScanResult::Empty { .. } => {}
                scan::ScanResult::Found { key, slot, db } => {
                    let key = key.escape_ascii().to_string();
                    let to = assignment.to;
                    let target = to.map_or_else(|| "GID".to_owned(), |to| to.to_string());
                    let owned = product.slots.get(usize::from(slot.0)).is_some_and(|state| state.owner.is_some());
                    return SlotScan::KeyFound(if Some(*id) == to {
                        let instead = match owned {
                            true => "migrate the slot, which deletes it first".to_owned(),
                            false => format!(
                                "wait until the sweep of group {id} has deleted it (pontoon group show {id}), or assign the \
                                 slot to another group"
                            ),
                        };
                        format!(
                            "slot {slot} was group {id}'s before, and a late write of that time has left key '{key}' \
                             in database {db} of {addr}: clients would see it again. Delete it there, or {instead}"
                        )
                    } else {
                        format!(
                            "slot {slot} is not empty: group {id} ({addr}) has key '{key}' in database {db}; move the \
                             slot with its keys (pontoon migrate start {slot} --to {target}), or give them up \
                             (--abandon-data)"
                        )
                    });
                }
                scan::ScanResult::Unfinished { why } => {
                    return SlotScan::Unreadable(format!(
                        "group {id} could not be searched for keys of these slots: {why}"
                    ));
                }
            }
        }
        SlotScan::Empty
    }

    /// Empties the primary of the group that gets its slots back, unless the group has changed in the meantime.
    async fn empty(&self, state: &ClusterState, primary: &PrimaryProcess) -> Result<(), String> {
        let (assignment, target) = self.control_target(state, primary)?;
        let unchanged = || match ejected_primary(&self.ctx, assignment.product, primary.group) {
            Some(now) if now == primary.server => Ok(()),
            Some(_) | None => Err(format!("group {} has changed since it was probed", primary.group)),
        };
        let deadline = Instant::now() + PRIMARY_ANSWERS_WITHIN;
        self.ctx
            .fence
            .flush(&target, &primary.run_id, &unchanged, deadline)
            .await
            .map_err(|error| error.to_string())?;
        // A server that was down may have been restarted without its users.
        let product = state.products.get(&assignment.product);
        let user = product.and_then(|product| product.groups.get(&primary.group)?.data_user.as_ref());
        let Some(user) = user else { return Ok(()) };
        let made = self.ctx.fence.make_data_user(&target, user, deadline).await;
        made.map(drop).map_err(|error| format!("the data user could not be made: {error}"))
    }

    /// Whether the emptied primary is still the same process, as a primary that is ready.
    async fn check_primary(&self, state: &ClusterState, primary: &PrimaryProcess) -> Result<(), String> {
        faults::pause_at(Point::Reinstating).await;
        let (_, target) = self.control_target(state, primary)?;
        let deadline = Instant::now() + PRIMARY_ANSWERS_WITHIN;
        let status = self.ctx.fence.replication_status(&target, deadline).await.map_err(|error| error.to_string())?;
        same_primary(&status, &primary.run_id).map_err(|why| format!("{}: {why}", primary.server))
    }

    fn control_target<'a>(
        &self,
        state: &'a ClusterState,
        primary: &PrimaryProcess,
    ) -> Result<(&'a Assignment, ControlTarget), String> {
        let gone = || format!("group {} is gone", primary.group);
        let (assignment, product) = self.assignment(state).ok_or_else(gone)?;
        let group: &Group = product.groups.get(&primary.group).ok_or_else(gone)?;
        Ok((assignment, ControlTarget { addr: primary.server.clone(), credentials: group.credentials.clone() }))
    }

    fn assignment<'a>(&self, state: &'a ClusterState) -> Option<(&'a Assignment, &'a Product)> {
        let assignment = state.assignments.get(&self.id)?;
        Some((assignment, state.products.get(&assignment.product)?))
    }

    fn log(&self, change: &Change, result: &Result<Outcome, String>) {
        let assignment = self.id;
        let what = match change {
            Change::OpenHold(OpenHold { attempt, .. }) => format!("attempt {attempt}: its slots are held"),
            Change::Release(Release { why, .. }) => format!("its slots are released: {why}"),
            Change::FinishAssign(_) => "its slots have a new owner".into(),
            Change::GiveUpAssign(GiveUpAssign { why, .. }) => format!("it is given up: {why}"),
            _ => "a step".into(),
        };
        match result {
            Ok(_) => info!(%assignment, "{what}"),
            Err(why) => warn!(%assignment, %why, "refused: {what}"),
        }
    }
}

/// The address of the primary of an ejected group, by the newest state; `None`: the group is no longer ejected, or
/// is gone.
fn ejected_primary(ctx: &LeaderContext, product: ProductId, group: GroupId) -> Option<HostPort> {
    let state = ctx.consensus.state().borrow().clone();
    let group = state.products.get(&product)?.groups.get(&group).filter(|group| group.ejection.is_some())?;
    Some(group.servers.first()?.addr.clone())
}
