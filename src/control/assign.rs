//! Slots that have an owner change it without data: shown empty, held, shown empty again, given.
//!
//! ```text
//! scan: no key of these slots -> preflight: every possible server is there -> Hold -> barrier -> scan again -> FinishAssign
//!          | a key, or no answer           | not there: wait                    | budget spent: Release, back off, again
//!          v                               v                                    v
//!       GiveUpAssign                    GiveUpAssign after a while          GiveUpAssign after five
//! ```
//! Keeps no truth: a new leader releases a hold that another term left open and begins anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{leases::Leases, peers::Peers, preflight, scan};
use crate::{
    consensus::Consensus,
    model::{
        change::Change,
        ids::{AssignmentId, Epoch, GroupId, HoldId, SlotId, Term, Uuid},
        outcome::Outcome,
        route::{HoldKind, Mode},
        state::{Assignment, Cause, ClusterState, Product},
    },
    plan::lease::Barrier,
};

/// A proposal that takes longer has lost its quorum, and with it the term.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// A preflight that fails for so long is told to the operator: longer than a lease and an election together.
const PREFLIGHT_MAX: Duration = Duration::from_secs(30);
/// How often a barrier is looked at beside news: lets a lease end unnoticed for no longer than this.
const BARRIER_LOOK: Duration = Duration::from_millis(5);

/// One assignment, carried out by the leader of one term.
pub struct Assign {
    /// The log.
    pub consensus: Consensus,
    /// Barriers.
    pub leases: Leases,
    /// Probes.
    pub peers: Peers,
    /// The term this task acts in.
    pub term: Term,
    /// Which.
    pub id: AssignmentId,
}

/// Why an attempt did not get through.
enum Stop {
    /// The assignment ends, and why.
    GiveUp(String),
    /// Tried again after a pause.
    Retry(String),
    /// Leadership or the assignment is gone: nothing to do here.
    Gone,
}

/// What the scan before the hold has shown.
struct Shown {
    group_epochs: BTreeMap<GroupId, Epoch>,
    kind: HoldKind,
}

/// Carries an assignment to its end, or until this node leads no more.
pub async fn run(task: Assign) {
    let timing = task.leases.timing();
    let mut backoff = timing.backoff;
    let end = loop {
        match task.attempt().await {
            Ok(()) => {
                info!(assignment = %task.id, "slots have a new owner");
                return;
            }
            Err(Stop::Gone) => return,
            Err(Stop::GiveUp(why)) => break why,
            Err(Stop::Retry(why)) => {
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
    let _ = task.propose(Change::GiveUpAssign { assignment: task.id, why: end }).await;
}

impl Assign {
    async fn attempt(&self) -> Result<(), Stop> {
        let (state, assignment) = self.assignment().ok_or(Stop::Gone)?;
        if let Some(left) = state.holds.values().find(|h| h.cause == Cause::Assignment(self.id)) {
            let why = "a new leader begins anew".to_owned();
            self.propose(Change::Release { hold: left.id, why }).await?;
        }
        let shown = self.scan_before().await?;
        self.preflight(&assignment).await?;
        let reason = format!("{} slots are assigned to group {}", assignment.slots.len(), assignment.to);
        let cause = Cause::Assignment(self.id);
        let hold = Change::Hold { cause, attempt: assignment.attempts + 1, kind: shown.kind, reason };
        let Outcome::Held(hold) = self.propose(hold).await? else {
            return Err(Stop::Retry("no hold was opened".into()));
        };
        match self.behind(hold, &shown).await {
            Ok(()) => Ok(()),
            Err(Stop::Gone) => Err(Stop::Gone),
            Err(stop) => {
                let (Stop::Retry(why) | Stop::GiveUp(why)) = &stop else { return Err(stop) };
                self.propose(Change::Release { hold, why: why.clone() }).await?;
                Err(stop)
            }
        }
    }

    /// What happens while the slots are held. Every way out but success releases them.
    async fn behind(&self, hold: HoldId, shown: &Shown) -> Result<(), Stop> {
        // Abandon: the cache product's old owner is dead; a stale read is allowed there, a wait is not.
        if shown.kind == HoldKind::Wait {
            self.barrier(hold).await?;
            if let Some(found) = self.scan().await? {
                return Err(Stop::GiveUp(found));
            }
        }
        let group_epochs = shown.group_epochs.clone();
        self.propose(Change::FinishAssign { assignment: self.id, hold, term: self.term, group_epochs }).await?;
        Ok(())
    }

    async fn barrier(&self, hold: HoldId) -> Result<(), Stop> {
        let (state, _) = self.assignment().ok_or(Stop::Gone)?;
        let hold = state.holds.get(&hold).cloned().ok_or(Stop::Gone)?;
        let deadline = Instant::now() + Duration::from_millis(u64::from(state.settings.hold_ms_max));
        let mut view = self.leases.view();
        loop {
            view.borrow_and_update();
            let whom = match self.leases.barrier(&hold, self.term) {
                Barrier::Passed => return Ok(()),
                Barrier::Waiting(whom) => whom,
            };
            if Instant::now() >= deadline {
                let budget = state.settings.hold_ms_max;
                return Err(Stop::Retry(format!("not all nodes held within {budget} ms: {}", whom.join("; "))));
            }
            let _ = tokio::time::timeout(BARRIER_LOOK, view.changed()).await;
        }
    }

    /// The scan before the hold: names a key, or shows that there is none.
    async fn scan_before(&self) -> Result<Shown, Stop> {
        let (state, assignment) = self.assignment().ok_or(Stop::Gone)?;
        let product = state.products.get(&assignment.product).ok_or(Stop::Gone)?;
        let concerned = owners(product, &assignment).into_keys().chain([assignment.to]);
        let group_epochs = concerned.filter_map(|g| product.groups.get(&g)).map(|g| (g.id, g.epoch)).collect();
        match self.scan().await {
            Ok(None) => Ok(Shown { group_epochs, kind: HoldKind::Wait }),
            Ok(Some(found)) => Err(Stop::GiveUp(found)),
            Err(Stop::GiveUp(why)) if product.mode == Mode::Cache => {
                info!(assignment = %self.id, %why, "the owner of cached slots does not answer; they are given away unseen");
                Ok(Shown { group_epochs, kind: HoldKind::Abandon })
            }
            Err(stop) => Err(stop),
        }
    }

    /// Looks at all owners for keys of the slots: a sentence that names one, or `None`. `GiveUp`: an owner could not be read.
    async fn scan(&self) -> Result<Option<String>, Stop> {
        let (state, assignment) = self.assignment().ok_or(Stop::Gone)?;
        if assignment.abandon {
            return Ok(None);
        }
        let product = state.products.get(&assignment.product).ok_or(Stop::Gone)?;
        // What the new owner once gave away is looked for there, too: late writes of that time would come alive.
        let left = product.groups.get(&assignment.to).map(|to| &to.given_away & &assignment.slots);
        let left = left.filter(|slots| !slots.is_empty()).map(|slots| (assignment.to, slots));
        for (owner, slots) in owners(product, &assignment).into_iter().chain(left) {
            let Some(group) = product.groups.get(&owner) else { continue };
            let Some(primary) = group.servers.first() else { continue };
            let budget = self.leases.timing().scan_max;
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
                    return Err(Stop::GiveUp(format!(
                        "group {owner} could not be searched for keys of these slots: {why}"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Every possible server answers, or is surely out of lease: a hold is not opened to discover a dead node.
    async fn preflight(&self, assignment: &Assignment) -> Result<(), Stop> {
        let deadline = Instant::now() + PREFLIGHT_MAX;
        loop {
            let (state, _) = self.assignment().ok_or(Stop::Gone)?;
            let isolated = state.products.get(&assignment.product).ok_or(Stop::Gone)?.isolated;
            let silent = preflight::silent(&self.leases, &self.peers, isolated).await.map_err(Stop::Retry)?;
            if silent.is_empty() {
                return Ok(());
            }
            let who = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if Instant::now() >= deadline {
                return Err(Stop::GiveUp(format!(
                    "node {who} does not answer and may still serve; bring it back, or run `pontoon node remove {who}`"
                )));
            }
            if !self.leads() {
                return Err(Stop::Gone);
            }
            tokio::time::sleep(self.leases.timing().probe_max).await;
        }
    }

    async fn propose(&self, change: Change) -> Result<Outcome, Stop> {
        if !self.leads() {
            return Err(Stop::Gone);
        }
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        match self.consensus.propose(id, change, PROPOSE_WITHIN).await {
            Ok(applied) => applied.result.map_err(|reject| Stop::Retry(reject.to_string())),
            // Whoever leads next finds the hold, if there is one, and begins anew.
            Err(_) => Err(Stop::Gone),
        }
    }

    fn leads(&self) -> bool {
        let leadership = self.consensus.leadership().borrow().clone();
        leadership.is_me && leadership.term == self.term
    }

    fn assignment(&self) -> Option<(std::sync::Arc<ClusterState>, Assignment)> {
        let state = self.consensus.state().borrow().clone();
        let assignment = state.assignments.get(&self.id)?.clone();
        Some((state, assignment))
    }
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
