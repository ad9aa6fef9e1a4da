//! The next step of an assignment, from the state, from what the leader observes and from what it has done in this
//! term.
//! Knows nothing of how a step is carried out, nor of how long that takes.
//!
//! ```text
//! Scan: no key of these slots -> Preflight: all nodes answer -> Hold -> barrier -> Scan again -> FinishAssign
//!          | a key, or no answer           | one is silent: wait           | hold-max is over: Release, pause, again
//!          v                               v                               v
//!       GiveUpAssign                    GiveUpAssign after 30 s         GiveUpAssign after five attempts
//! ```
//! A reinstatement empties the primary of the group that gets its slots back instead of the first scan, and checks that
//! this primary is still the same process instead of the second. A new leader releases a hold that an earlier term left
//! open, and starts over.

mod waits;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ejection::ready_primary_run_id,
    lease::{Barrier, barrier_wait},
    liveness::Watchers,
    observation::Observation,
    timing::{Timing, as_ns},
    waiting::Wait,
};
use crate::model::{
    change::{Change, FinishAssign, GiveUpAssign, OpenHold, Release},
    ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, SlotId, Term},
    outcome::Outcome,
    route::{HoldKind, Isolated, Mode},
    state::{Assignment, Cause, ClusterState, Group, Keys, Product},
};

/// How long the preflights of one attempt may fail before the assignment is given up and the operator is informed:
/// longer than a lease and an election together, after which a node that is down is no longer a possible server.
pub const PREFLIGHT_MAX_NS: u64 = 30_000_000_000;

/// What the leader knows at one moment about an assignment.
#[derive(Clone, Copy, Debug)]
pub struct AssignmentObservation<'a> {
    /// The newest applied state.
    pub state: &'a ClusterState,
    /// The term in which this node leads.
    pub term: Term,
    /// The leader's clock.
    pub now_ns: u64,
    /// The barrier of the hold that this leader opened for the assignment, if it is open.
    pub barrier: Option<&'a Barrier>,
    /// What all nodes reported about servers. Only a reinstatement reads it.
    pub servers: &'a Observation,
    /// The nodes whose reports count. Only a reinstatement reads them.
    pub watchers: &'a Watchers<'a>,
    /// The ping timeout, the pauses and the number of attempts.
    pub timing: Timing,
}

/// What the leader does next for an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignmentStep {
    /// Nothing is left to do in this task.
    Over,
    /// Decide again with news, or at `until_ns`.
    Wait {
        /// What the assignment waits for.
        wait: Wait,
        /// Time on the leader's clock, nanoseconds.
        until_ns: u64,
    },
    /// Search the primaries of these groups for keys of these slots, one after the other, until a key is found.
    Scan(Vec<(GroupId, BTreeSet<SlotId>)>),
    /// Delete all keys of the primary of the group that gets its slots back, if it is still this process.
    EmptyPrimary(PrimaryProcess),
    /// Check that the emptied primary is still this process, and a primary that is ready.
    CheckPrimary(PrimaryProcess),
    /// Ping every possible server of the product.
    Preflight {
        /// The product's setting.
        isolated: Isolated,
    },
    /// Append this change.
    Propose(Change),
}

/// One start of the server that is the primary of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryProcess {
    /// The group.
    pub group: GroupId,
    /// Its primary.
    pub server: HostPort,
    /// The `run_id` of its process.
    pub run_id: String,
}

/// What a scan of all groups of an [`AssignmentStep::Scan`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotScan {
    /// None of them has a key of these slots.
    Empty,
    /// One of them has a key; the text for the operator says which, where, and what to do.
    KeyFound(String),
    /// One of them could not be searched completely; the text for the operator says why.
    Unreadable(String),
}

/// What must not change during an attempt. It is observed when the first check is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AttemptBasis {
    /// Epochs of the slots' owners and of the group that gets the slots. The log refuses to finish with others.
    group_epochs: BTreeMap<GroupId, Epoch>,
    kind: HoldKind,
    mode: Mode,
}

/// The slots were shown to be empty, or need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EmptyEvidence {
    group_epochs: BTreeMap<GroupId, Epoch>,
    kind: HoldKind,
    /// Of a reinstatement: the process that was emptied.
    emptied: Option<PrimaryProcess>,
}

/// Why an attempt ended without a new owner.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AttemptFailure {
    /// The assignment ends with this text.
    GiveUp(String),
    /// Another attempt follows after a pause.
    Retry(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum AttemptStage {
    /// No attempt is open.
    #[default]
    Begin,
    /// The first scan, or the emptying of a primary, is due.
    FirstCheck(AttemptBasis),
    /// Every possible server must answer. `silent`: what the last preflight found, and until when no other one is made.
    Preflight { evidence: EmptyEvidence, since_ns: u64, silent: Option<(String, u64)> },
    /// The hold is to be opened.
    OpenHold(EmptyEvidence),
    /// The hold is open since `since_ns`. `checked`: the check after the barrier has succeeded.
    Held { evidence: EmptyEvidence, hold: HoldId, since_ns: u64, checked: bool },
    /// The hold is to be released.
    Release { hold: HoldId, failure: AttemptFailure },
    /// The next attempt begins at `until_ns`.
    Pause { until_ns: u64, why: String },
    /// The assignment is to be given up.
    GiveUp(String),
    /// The log knows how the assignment ended.
    Over,
}

/// What this leader has done for an assignment in this term. Another leader, or another term, begins with an empty one.
/// Every result of a step is recorded here before the next decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentMemory {
    stage: AttemptStage,
    /// Attempts of this task that failed and are followed by another one.
    failures: u32,
}

impl AssignmentMemory {
    /// Begins an attempt when one is due. Call it before each decision.
    pub fn observe(&mut self, seen: &AssignmentObservation<'_>, id: AssignmentId) {
        let Some((assignment, product)) = open(seen.state, id) else { return };
        if let AttemptStage::Pause { until_ns, .. } = self.stage
            && seen.now_ns >= until_ns
            && assignment.attempts < seen.timing.attempts_max
        {
            self.stage = AttemptStage::Begin;
        }
        if self.stage != AttemptStage::Begin || left_open(seen.state, id).is_some() {
            return;
        }
        let owners = owners(product, assignment);
        let group_epochs = group_epochs(product, &owners, assignment.to);
        self.stage = match assignment.keys {
            Keys::None => {
                AttemptStage::FirstCheck(AttemptBasis { group_epochs, kind: HoldKind::Wait, mode: product.mode })
            }
            // The operator gives the owners' keys up, but not that clients see old ones at the target.
            Keys::Abandoned if !searches(product, assignment).is_empty() => {
                AttemptStage::FirstCheck(AttemptBasis { group_epochs, kind: HoldKind::Wait, mode: product.mode })
            }
            Keys::Abandoned => preflight_stage(seen.now_ns, group_epochs, HoldKind::Wait, None),
            Keys::Ejected => {
                // Requests that are in flight to a temporary owner that is down are not waited for.
                let up = |id: &GroupId| product.groups.get(id).is_none_or(|group| is_up(group, seen));
                let kind = if owners.keys().all(up) { HoldKind::Wait } else { HoldKind::Abandon };
                AttemptStage::FirstCheck(AttemptBasis { group_epochs, kind, mode: product.mode })
            }
        };
    }

    /// Attempts that failed and are followed by another one, and why the last of them did.
    #[must_use]
    pub fn failures(&self) -> (u32, Option<&str>) {
        let why = if let AttemptStage::Pause { why, .. } = &self.stage { Some(why.as_str()) } else { None };
        (self.failures, why)
    }

    /// The hold that this leader opened, if it has not ended it.
    #[must_use]
    pub fn hold(&self) -> Option<HoldId> {
        match &self.stage {
            AttemptStage::Held { hold, .. } | AttemptStage::Release { hold, .. } => Some(*hold),
            AttemptStage::Begin
            | AttemptStage::FirstCheck(_)
            | AttemptStage::Preflight { .. }
            | AttemptStage::OpenHold(_)
            | AttemptStage::Pause { .. }
            | AttemptStage::GiveUp(_)
            | AttemptStage::Over => None,
        }
    }

    /// A scan has ended.
    pub fn scanned(&mut self, now_ns: u64, found: SlotScan) {
        match &mut self.stage {
            AttemptStage::FirstCheck(AttemptBasis { group_epochs, mode, .. }) => {
                let group_epochs = std::mem::take(group_epochs);
                self.stage = match (found, mode) {
                    (SlotScan::Empty, _) => preflight_stage(now_ns, group_epochs, HoldKind::Wait, None),
                    // The owner of cached slots does not answer: a stale read is allowed there, a wait is not.
                    (SlotScan::Unreadable(_), Mode::Cache) => {
                        preflight_stage(now_ns, group_epochs, HoldKind::Abandon, None)
                    }
                    (SlotScan::KeyFound(why) | SlotScan::Unreadable(why), _) => AttemptStage::GiveUp(why),
                };
            }
            AttemptStage::Held { hold, checked, .. } => match found {
                SlotScan::Empty => *checked = true,
                SlotScan::KeyFound(why) | SlotScan::Unreadable(why) => {
                    self.stage = AttemptStage::Release { hold: *hold, failure: AttemptFailure::GiveUp(why) };
                }
            },
            AttemptStage::Begin
            | AttemptStage::Preflight { .. }
            | AttemptStage::OpenHold(_)
            | AttemptStage::Release { .. }
            | AttemptStage::Pause { .. }
            | AttemptStage::GiveUp(_)
            | AttemptStage::Over => {}
        }
    }

    /// A primary was emptied, or this failed.
    pub fn emptied(&mut self, now_ns: u64, primary: PrimaryProcess, result: Result<(), String>, timing: Timing) {
        let AttemptStage::FirstCheck(AttemptBasis { group_epochs, kind, .. }) = &mut self.stage else { return };
        let (group_epochs, kind) = (std::mem::take(group_epochs), *kind);
        match result {
            Ok(()) => self.stage = preflight_stage(now_ns, group_epochs, kind, Some(primary)),
            Err(why) => self.fails(now_ns, AttemptFailure::Retry(why), timing),
        }
    }

    /// A preflight has ended: the possible servers that did not answer.
    pub fn preflighted(&mut self, now_ns: u64, silent: Result<Vec<NodeId>, String>, timing: Timing) {
        let AttemptStage::Preflight { evidence, since_ns, silent: last } = &mut self.stage else { return };
        let silent = match silent {
            Ok(silent) => silent,
            Err(why) => return self.fails(now_ns, AttemptFailure::Retry(why), timing),
        };
        if silent.is_empty() {
            self.stage = AttemptStage::OpenHold(evidence.clone());
        } else if evidence.emptied.is_some() {
            // A reinstatement proceeds although a possible server is silent: the slots are a cache's.
            self.stage = AttemptStage::OpenHold(EmptyEvidence { kind: HoldKind::Abandon, ..evidence.clone() });
        } else {
            let nodes = silent.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let why = match &silent[..] {
                [node] => format!(
                    "node {node} does not answer and may still serve; bring it back, or run `pontoon node remove {node}`"
                ),
                _ => format!(
                    "nodes {nodes} do not answer and may still serve; bring them back, or remove each: `pontoon node remove ID`"
                ),
            };
            if now_ns >= *since_ns + PREFLIGHT_MAX_NS {
                self.stage = AttemptStage::GiveUp(why);
            } else {
                *last = Some((why, now_ns + as_ns(timing.ping_timeout)));
            }
        }
    }

    /// The emptied primary was checked after the barrier.
    pub fn primary_checked(&mut self, result: Result<(), String>) {
        if let AttemptStage::Held { hold, checked, .. } = &mut self.stage {
            match result {
                Ok(()) => *checked = true,
                Err(why) => {
                    self.stage = AttemptStage::Release { hold: *hold, failure: AttemptFailure::Retry(why) };
                }
            }
        }
    }

    /// A change was appended and accepted, or refused with this text.
    pub fn proposed(&mut self, now_ns: u64, change: &Change, result: Result<&Outcome, String>, timing: Timing) {
        match (&mut self.stage, change, result) {
            (AttemptStage::OpenHold(evidence), Change::OpenHold(_), Ok(Outcome::Held(hold))) => {
                let (evidence, hold) = (evidence.clone(), *hold);
                self.stage = AttemptStage::Held { evidence, hold, since_ns: now_ns, checked: false };
            }
            (_, Change::OpenHold(_), Ok(_)) => {
                self.fails(now_ns, AttemptFailure::Retry("no hold was opened".into()), timing);
            }
            // The hold of an earlier term; the attempt begins now.
            (AttemptStage::Begin, Change::Release(_), Ok(_)) => {}
            (AttemptStage::Release { failure, .. }, Change::Release(_), Ok(_)) => {
                let failure = failure.clone();
                self.fails(now_ns, failure, timing);
            }
            (AttemptStage::Held { .. }, Change::Release(Release { why, .. }), Ok(_)) => {
                self.fails(now_ns, AttemptFailure::Retry(why.clone()), timing);
            }
            (AttemptStage::Held { hold, .. }, Change::FinishAssign(_), Err(why)) => {
                self.stage = AttemptStage::Release { hold: *hold, failure: AttemptFailure::Retry(why) };
            }
            (_, Change::FinishAssign(_) | Change::GiveUpAssign(_), _) => self.stage = AttemptStage::Over,
            (_, _, Ok(_)) => {}
            (_, _, Err(why)) => self.fails(now_ns, AttemptFailure::Retry(why), timing),
        }
    }

    fn fails(&mut self, now_ns: u64, failure: AttemptFailure, timing: Timing) {
        self.stage = match failure {
            AttemptFailure::GiveUp(why) => AttemptStage::GiveUp(why),
            AttemptFailure::Retry(why) => {
                // Doubled each time. An attempt that opens no hold does not count for the limit, so it may be tried
                // often.
                let factor = 1u64.checked_shl(self.failures).unwrap_or(u64::MAX);
                let pause_ns = as_ns(timing.backoff).saturating_mul(factor);
                self.failures = self.failures.saturating_add(1);
                AttemptStage::Pause { until_ns: now_ns.saturating_add(pause_ns), why }
            }
        };
    }
}

/// The next step of assignment `id`. Call [`AssignmentMemory::observe`] with `seen` before.
#[must_use]
pub fn next(seen: &AssignmentObservation<'_>, memory: &AssignmentMemory, id: AssignmentId) -> AssignmentStep {
    let Some((assignment, product)) = open(seen.state, id) else { return AssignmentStep::Over };
    match &memory.stage {
        AttemptStage::Over => AssignmentStep::Over,
        AttemptStage::Begin => match left_open(seen.state, id) {
            Some(hold) => release(hold, "a new leader starts over".into()),
            None => AssignmentStep::Wait { wait: waits::next_attempt(), until_ns: seen.now_ns },
        },
        AttemptStage::FirstCheck(_) if assignment.keys == Keys::Ejected => empty_primary(seen, product, assignment),
        AttemptStage::FirstCheck(_) => AssignmentStep::Scan(searches(product, assignment)),
        AttemptStage::Preflight { silent: Some((why, until_ns)), .. } if seen.now_ns < *until_ns => {
            AssignmentStep::Wait { wait: waits::silent(why), until_ns: *until_ns }
        }
        AttemptStage::Preflight { .. } => AssignmentStep::Preflight { isolated: product.isolated },
        AttemptStage::OpenHold(evidence) => AssignmentStep::Propose(Change::OpenHold(OpenHold {
            cause: Cause::Assignment(id),
            attempt: assignment.attempts + 1,
            kind: evidence.kind,
            reason: match assignment.to {
                Some(to) => format!("{} slots are assigned to group {to}", assignment.slots.len()),
                None => format!("{} slots are released", assignment.slots.len()),
            },
        })),
        AttemptStage::Held { evidence, hold, since_ns, checked } => {
            let group_epochs = || evidence.group_epochs.clone();
            let finish = || {
                let (assignment, hold, term) = (id, *hold, seen.term);
                AssignmentStep::Propose(Change::FinishAssign(FinishAssign {
                    assignment,
                    hold,
                    term,
                    group_epochs: group_epochs(),
                }))
            };
            if *checked {
                return finish();
            }
            // Abandon: the owner of a cache's slots is down. A stale read is allowed there, a wait is not.
            if evidence.kind == HoldKind::Wait
                && let Some(step) = barrier(seen, *hold, *since_ns)
            {
                return step;
            }
            match (&evidence.emptied, evidence.kind, assignment.keys) {
                // A process that was started again may have loaded the keys that it had before.
                (Some(primary), _, _) => AssignmentStep::CheckPrimary(primary.clone()),
                (None, HoldKind::Wait, Keys::None | Keys::Abandoned) => match searches(product, assignment) {
                    none if none.is_empty() => finish(),
                    searches => AssignmentStep::Scan(searches),
                },
                (None, HoldKind::Abandon, _) | (None, _, Keys::Ejected) => finish(),
            }
        }
        AttemptStage::Release { hold, failure } => {
            let (AttemptFailure::GiveUp(why) | AttemptFailure::Retry(why)) = failure;
            release(*hold, why.clone())
        }
        AttemptStage::Pause { why, .. } if assignment.attempts >= seen.timing.attempts_max => {
            give_up(id, format!("{} attempts failed; the last: {why}", assignment.attempts))
        }
        AttemptStage::Pause { until_ns, why } => {
            AssignmentStep::Wait { wait: waits::failed(why, seen.timing.attempts_max), until_ns: *until_ns }
        }
        AttemptStage::GiveUp(why) => give_up(id, why.clone()),
    }
}

/// What is to be done before the barrier has passed; `None`: it has passed.
fn barrier(seen: &AssignmentObservation<'_>, hold: HoldId, since_ns: u64) -> Option<AssignmentStep> {
    if !seen.state.holds.contains_key(&hold) {
        return Some(AssignmentStep::Over);
    }
    let hold_ms_max = seen.state.settings.hold_ms_max;
    let until_ns = since_ns + u64::from(hold_ms_max) * 1_000_000;
    let waiting = match seen.barrier {
        Some(Barrier::Passed) => return None,
        Some(Barrier::Waiting(nodes)) => nodes.join("; "),
        None => "the barrier was not evaluated".into(),
    };
    Some(if seen.now_ns >= until_ns {
        release(hold, format!("not all nodes held within {hold_ms_max} ms: {waiting}"))
    } else {
        let nodes = if let Some(Barrier::Waiting(nodes)) = seen.barrier { nodes.as_slice() } else { &[] };
        AssignmentStep::Wait { wait: barrier_wait(hold, nodes, until_ns - since_ns), until_ns }
    })
}

fn empty_primary(seen: &AssignmentObservation<'_>, product: &Product, assignment: &Assignment) -> AssignmentStep {
    let Some(to) = assignment.to else { return AssignmentStep::Over };
    let group = product.groups.get(&to).filter(|group| group.ejection.is_some());
    let Some((group, primary)) = group.and_then(|group| Some((group, group.servers.first()?))) else {
        return AssignmentStep::Over;
    };
    match ready_primary_run_id(group, seen.servers, seen.watchers) {
        Some(run_id) => {
            AssignmentStep::EmptyPrimary(PrimaryProcess { group: to, server: primary.addr.clone(), run_id })
        }
        None => give_up(assignment.id, format!("the primary of group {to} is no longer up")),
    }
}

fn preflight_stage(
    now_ns: u64,
    group_epochs: BTreeMap<GroupId, Epoch>,
    kind: HoldKind,
    emptied: Option<PrimaryProcess>,
) -> AttemptStage {
    let evidence = EmptyEvidence { group_epochs, kind, emptied };
    AttemptStage::Preflight { evidence, since_ns: now_ns, silent: None }
}

fn release(hold: HoldId, why: String) -> AssignmentStep {
    AssignmentStep::Propose(Change::Release(Release { hold, why }))
}

fn give_up(assignment: AssignmentId, why: String) -> AssignmentStep {
    AssignmentStep::Propose(Change::GiveUpAssign(GiveUpAssign { assignment, why }))
}

fn open(state: &ClusterState, id: AssignmentId) -> Option<(&Assignment, &Product)> {
    let assignment = state.assignments.get(&id)?;
    Some((assignment, state.products.get(&assignment.product)?))
}

/// The hold that is open for this assignment.
fn left_open(state: &ClusterState, id: AssignmentId) -> Option<HoldId> {
    state.holds.values().find(|hold| hold.cause == Cause::Assignment(id)).map(|hold| hold.id)
}

fn is_up(group: &Group, seen: &AssignmentObservation<'_>) -> bool {
    ready_primary_run_id(group, seen.servers, seen.watchers).is_some()
}

/// Which groups are searched for keys of which slots: the owners for theirs, unless they are given up, and the group that
/// gets the slots for those that it once gave away. (A late write of that time would become visible there.)
fn searches(product: &Product, assignment: &Assignment) -> Vec<(GroupId, BTreeSet<SlotId>)> {
    let owners = match assignment.keys {
        Keys::None => owners(product, assignment),
        Keys::Abandoned => BTreeMap::new(),
        // The target was emptied.
        Keys::Ejected => return Vec::new(),
    };
    let target = assignment.to.and_then(|to| product.groups.get(&to));
    let given_away = target.map(|to| (to.id, &to.given_away & &assignment.slots));
    let given_away = given_away.filter(|(_, slots)| !slots.is_empty());
    owners.into_iter().chain(given_away).collect()
}

/// Epochs of the owners and of the group that gets their slots, if any.
fn group_epochs(
    product: &Product,
    owners: &BTreeMap<GroupId, BTreeSet<SlotId>>,
    to: Option<GroupId>,
) -> BTreeMap<GroupId, Epoch> {
    let groups = owners.keys().copied().chain(to);
    groups.filter_map(|id| product.groups.get(&id)).map(|group| (group.id, group.epoch)).collect()
}

/// The slots by their present owner. Slots without an owner have no keys.
fn owners(product: &Product, assignment: &Assignment) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
    let mut owners: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    for slot in &assignment.slots {
        let owner = product.slots.get(usize::from(slot.0)).and_then(|entry| entry.owner);
        if let Some(owner) = owner.filter(|owner| Some(*owner) != assignment.to) {
            owners.entry(owner).or_default().insert(*slot);
        }
    }
    owners
}
