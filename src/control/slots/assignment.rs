//! Slots that have an owner change it without data: shown empty, held, shown empty again, given.
//!
//! ```text
//! scan: no key of these slots -> preflight: every possible server is there -> Hold -> barrier -> scan again -> FinishAssign
//!          | a key, or no answer           | not there: wait                    | budget spent: Release, back off, again
//!          v                               v                                    v
//!       GiveUpAssign                    GiveUpAssign after a while          GiveUpAssign after five
//! ```
//! What a cache's group reinstates comes back the same way: its primary is emptied instead of the first scan, and probed at once more
//! instead of the second.
//! Keeps no truth: a new leader releases a hold that another term left open and begins anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{preflight, scan};
use crate::{
    clock::boottime_ns,
    control::{
        failover::ejections::{ejected_group, same_primary},
        leadership::context::{BarrierFailure, LeaderContext, ProposalFailure},
        servers::fence::ControlTarget,
    },
    faults::{self, Point},
    model::{
        change::{Change, FinishAssign, GiveUpAssign, OpenHold, Release},
        ids::{AssignmentId, Epoch, GroupId, HoldId, SlotId},
        outcome::Outcome,
        route::{HoldKind, Mode},
        state::{Assignment, Cause, ClusterState, Keys, Product},
    },
    plan::{ejection::process, liveness::Watchers},
};

/// A preflight that fails for so long is told to the operator: longer than a lease and an election together.
const PREFLIGHT_MAX: Duration = Duration::from_secs(30);
/// Emptying a server, and a probe at it: a few answers; in a hold, clients wait for the probe.
const ACT_MAX: Duration = Duration::from_secs(1);

/// One assignment, carried out by the leader of one term.
pub struct AssignmentDriver {
    /// The log, barriers, probes and control connections, of the term this task acts in.
    pub ctx: LeaderContext,
    /// Which.
    pub id: AssignmentId,
}

/// Why an attempt did not get through.
enum AssignmentFailure {
    /// The assignment ends, and why.
    GiveUp(String),
    /// Tried again after a pause.
    Retry(String),
    /// Leadership or the assignment is gone: nothing to do here.
    Gone,
}

/// What the scan before the hold has shown.
struct EmptyEvidence {
    group_epochs: BTreeMap<GroupId, Epoch>,
    kind: HoldKind,
    /// Of a ejection: the process that was emptied, and where it is.
    emptied: Option<(ControlTarget, String)>,
}

/// Carries an assignment to its end, or until this node leads no more.
pub async fn run(task: AssignmentDriver) {
    let timing = task.ctx.leases.timing();
    let mut backoff = timing.backoff;
    let end = loop {
        match task.attempt().await {
            Ok(()) => {
                info!(assignment = %task.id, "slots have a new owner");
                return;
            }
            Err(AssignmentFailure::Gone) => return,
            Err(AssignmentFailure::GiveUp(why)) => break why,
            Err(AssignmentFailure::Retry(why)) => {
                let attempts = task.assignment().map_or(0, |(_, a)| a.attempts);
                if attempts >= timing.attempts_max {
                    break format!("{attempts} attempts did not get through; the last: {why}");
                }
                warn!(assignment = %task.id, attempts, %why, "an attempt to assign slots did not get through");
            }
        }
        tokio::time::sleep(backoff).await;
        backoff *= 2;
    };
    info!(assignment = %task.id, why = %end, "the assignment is given up");
    let _ = task.propose(Change::GiveUpAssign(GiveUpAssign { assignment: task.id, why: end })).await;
}

impl AssignmentDriver {
    async fn attempt(&self) -> Result<(), AssignmentFailure> {
        let (state, assignment) = self.assignment().ok_or(AssignmentFailure::Gone)?;
        if let Some(left) = state.holds.values().find(|h| h.cause == Cause::Assignment(self.id)) {
            let why = "a new leader begins anew".to_owned();
            self.propose(Change::Release(Release { hold: left.id, why })).await?;
        }
        let mut shown = match assignment.keys {
            Keys::Ejected => self.empty_before(&state, &assignment).await?,
            Keys::None | Keys::Abandoned => self.scan_before().await?,
        };
        // A ejection comes back even while a node that may serve is silent, or a borrower is gone: it is a cache's.
        let patience = if shown.emptied.is_some() { Duration::ZERO } else { PREFLIGHT_MAX };
        match self.preflight(&assignment, patience).await {
            Err(AssignmentFailure::GiveUp(_)) if shown.emptied.is_some() => shown.kind = HoldKind::Abandon,
            other => other?,
        }
        let reason = format!("{} slots are assigned to group {}", assignment.slots.len(), assignment.to);
        let cause = Cause::Assignment(self.id);
        let hold = Change::OpenHold(OpenHold { cause, attempt: assignment.attempts + 1, kind: shown.kind, reason });
        let Outcome::Held(hold) = self.propose(hold).await? else {
            return Err(AssignmentFailure::Retry("no hold was opened".into()));
        };
        match self.behind(hold, &shown).await {
            Ok(()) => Ok(()),
            Err(AssignmentFailure::Gone) => Err(AssignmentFailure::Gone),
            Err(stop) => {
                let (AssignmentFailure::Retry(why) | AssignmentFailure::GiveUp(why)) = &stop else { return Err(stop) };
                self.propose(Change::Release(Release { hold, why: why.clone() })).await?;
                Err(stop)
            }
        }
    }

    /// What happens while the slots are held. Every way out but success releases them.
    async fn behind(&self, hold: HoldId, shown: &EmptyEvidence) -> Result<(), AssignmentFailure> {
        // Abandon: the cache product's old owner is dead; a stale read is allowed there, a wait is not.
        if shown.kind == HoldKind::Wait {
            self.barrier(hold).await?;
        }
        match &shown.emptied {
            // One that was started again may have loaded what it had before.
            Some((at, run_id)) => {
                faults::pause_at(Point::Returning).await;
                let replication_status = self.ctx.fence.replication_status(at, Instant::now() + ACT_MAX).await;
                let replication_status =
                    replication_status.map_err(|error| AssignmentFailure::Retry(error.to_string()))?;
                same_primary(&replication_status, run_id)
                    .map_err(|why| AssignmentFailure::Retry(format!("{}: {why}", at.addr)))?;
            }
            None if shown.kind == HoldKind::Wait => {
                if let Some(found) = self.scan().await? {
                    return Err(AssignmentFailure::GiveUp(found));
                }
            }
            None => {}
        }
        let group_epochs = shown.group_epochs.clone();
        self.propose(Change::FinishAssign(FinishAssign {
            assignment: self.id,
            hold,
            term: self.ctx.fence.term(),
            group_epochs,
        }))
        .await?;
        Ok(())
    }

    async fn barrier(&self, hold: HoldId) -> Result<(), AssignmentFailure> {
        let (state, _) = self.assignment().ok_or(AssignmentFailure::Gone)?;
        let budget = state.settings.hold_ms_max;
        let end = Instant::now() + Duration::from_millis(u64::from(budget));
        self.ctx.barrier(hold, end, |_| ()).await.map_err(|barrier_failure| match barrier_failure {
            BarrierFailure::Gone => AssignmentFailure::Gone,
            BarrierFailure::Late(whom) => {
                AssignmentFailure::Retry(format!("not all nodes held within {budget} ms: {whom}"))
            }
        })
    }

    /// The scan before the hold: names a key, or shows that there is none.
    async fn scan_before(&self) -> Result<EmptyEvidence, AssignmentFailure> {
        let (state, assignment) = self.assignment().ok_or(AssignmentFailure::Gone)?;
        let product = state.products.get(&assignment.product).ok_or(AssignmentFailure::Gone)?;
        let group_epochs = concerned(product, &owners(product, &assignment), assignment.to);
        match self.scan().await {
            Ok(None) => Ok(EmptyEvidence { group_epochs, kind: HoldKind::Wait, emptied: None }),
            Ok(Some(found)) => Err(AssignmentFailure::GiveUp(found)),
            Err(AssignmentFailure::GiveUp(why)) if product.mode == Mode::Cache => {
                info!(assignment = %self.id, %why, "the owner of cached slots does not answer; they are given away unseen");
                Ok(EmptyEvidence { group_epochs, kind: HoldKind::Abandon, emptied: None })
            }
            Err(stop) => Err(stop),
        }
    }

    /// Empties the primary of the group that gets back what it reinstates, if it is up and the group is still out.
    async fn empty_before(
        &self,
        state: &ClusterState,
        assignment: &Assignment,
    ) -> Result<EmptyEvidence, AssignmentFailure> {
        let (product_id, to) = (assignment.product, assignment.to);
        let product = state.products.get(&product_id).ok_or(AssignmentFailure::Gone)?;
        let group = product.groups.get(&to).ok_or(AssignmentFailure::Gone)?;
        let now_ns = boottime_ns();
        let seen = self.ctx.leases.observation(now_ns);
        let watchers = Watchers::new(&seen, self.ctx.leases.alive_voters(now_ns));
        let Some(run_id) = process(group, &seen, &watchers) else {
            return Err(AssignmentFailure::GiveUp(format!("the primary of group {to} is not up any more")));
        };
        let at = ejected_group(&self.ctx, product_id, to).ok_or(AssignmentFailure::Gone)?;
        let still = || match ejected_group(&self.ctx, product_id, to) {
            Some(now) if now.addr == at.addr => Ok(()),
            Some(_) | None => Err(format!("group {to} has changed since it was probed at")),
        };
        let emptied = self.ctx.fence.flush(&at, &run_id, &still, Instant::now() + ACT_MAX).await;
        emptied.map_err(|error| AssignmentFailure::Retry(error.to_string()))?;
        let owners = owners(product, assignment);
        let group_epochs = concerned(product, &owners, to);
        // What is in flight to a borrower that is gone is not waited for.
        let mut temporary_owners = owners.keys().filter_map(|id| product.groups.get(id));
        let all_up = temporary_owners.all(|group| process(group, &seen, &watchers).is_some());
        let kind = if all_up { HoldKind::Wait } else { HoldKind::Abandon };
        Ok(EmptyEvidence { group_epochs, kind, emptied: Some((at, run_id)) })
    }

    /// Looks at all owners for keys of the slots: a sentence that names one, or `None`. `GiveUp`: an owner could not be read.
    async fn scan(&self) -> Result<Option<String>, AssignmentFailure> {
        let (state, assignment) = self.assignment().ok_or(AssignmentFailure::Gone)?;
        if assignment.keys != Keys::None {
            return Ok(None);
        }
        let product = state.products.get(&assignment.product).ok_or(AssignmentFailure::Gone)?;
        // What the new owner once gave away is probed for there, too: late writes of that time would come alive.
        let left = product.groups.get(&assignment.to).map(|to| &to.given_away & &assignment.slots);
        let left = left.filter(|slots| !slots.is_empty()).map(|slots| (assignment.to, slots));
        for (owner, slots) in owners(product, &assignment).into_iter().chain(left) {
            let Some(group) = product.groups.get(&owner) else { continue };
            let Some(primary) = group.servers.first() else { continue };
            let budget = self.ctx.leases.timing().scan_max;
            let found = scan::scan_for_slots(
                &primary.addr,
                group.credentials.as_ref(),
                product.layout,
                &slots,
                product.databases,
                budget,
            );
            match found.await {
                scan::ScanResult::Empty { .. } => {}
                scan::ScanResult::Found { key, slot, db } if owner == assignment.to => {
                    let key = key.escape_ascii().to_string();
                    return Ok(Some(format!(
                        "slot {slot} was group {owner}'s before, and a late write of that time has left key '{key}' in database \
                         {db} of {}: it would come alive. Delete it there, or migrate the slot, which deletes it first",
                        primary.addr
                    )));
                }
                scan::ScanResult::Found { key, slot, db } => {
                    let key = key.escape_ascii().to_string();
                    return Ok(Some(format!(
                        "slot {slot} is not empty: group {owner} ({}) has key '{key}' in database {db}; move the slot with \
                         its keys (pontoon migrate start {slot} --to {}), or give them up (--abandon-data)",
                        primary.addr, assignment.to
                    )));
                }
                scan::ScanResult::Unfinished { why } => {
                    return Err(AssignmentFailure::GiveUp(format!(
                        "group {owner} could not be searched for keys of these slots: {why}"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Every possible server answers, or is surely out of lease: a hold is not opened to discover a dead node.
    async fn preflight(&self, assignment: &Assignment, patience: Duration) -> Result<(), AssignmentFailure> {
        let deadline = Instant::now() + patience;
        loop {
            let (state, _) = self.assignment().ok_or(AssignmentFailure::Gone)?;
            let isolated = state.products.get(&assignment.product).ok_or(AssignmentFailure::Gone)?.isolated;
            let silent = preflight::silent(&self.ctx.leases, &self.ctx.peers, isolated)
                .await
                .map_err(AssignmentFailure::Retry)?;
            if silent.is_empty() {
                return Ok(());
            }
            let who = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if Instant::now() >= deadline {
                return Err(AssignmentFailure::GiveUp(format!(
                    "node {who} does not answer and may still serve; bring it back, or run `pontoon node remove {who}`"
                )));
            }
            if !self.ctx.leads() {
                return Err(AssignmentFailure::Gone);
            }
            tokio::time::sleep(self.ctx.leases.timing().ping_timeout).await;
        }
    }

    async fn propose(&self, change: Change) -> Result<Outcome, AssignmentFailure> {
        match self.ctx.make(change).await {
            Ok((_, outcome)) => Ok(outcome),
            Err(ProposalFailure::Refused(why)) => Err(AssignmentFailure::Retry(why)),
            Err(ProposalFailure::Gone) => Err(AssignmentFailure::Gone),
        }
    }

    fn assignment(&self) -> Option<(std::sync::Arc<ClusterState>, Assignment)> {
        let state = self.ctx.consensus.state().borrow().clone();
        let assignment = state.assignments.get(&self.id)?.clone();
        Some((state, assignment))
    }
}

/// Epochs of the owners and of the group that gets their slots.
fn concerned(product: &Product, owners: &BTreeMap<GroupId, BTreeSet<SlotId>>, to: GroupId) -> BTreeMap<GroupId, Epoch> {
    let groups = owners.keys().copied().chain([to]);
    groups.filter_map(|g| product.groups.get(&g)).map(|g| (g.id, g.epoch)).collect()
}

/// The slots by their present owner; those that nobody owns are empty by nature.
fn owners(product: &Product, assignment: &Assignment) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
    let mut owners: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    for slot in &assignment.slots {
        let owner = product.slots.get(usize::from(slot.0)).and_then(|s| s.owner);
        if let Some(owner) = owner.filter(|o| *o != assignment.to) {
            owners.entry(owner).or_default().insert(*slot);
        }
    }
    owners
}
