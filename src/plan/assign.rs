//! The next step of an assignment of slots that have an owner (issue 3; serving.md, "Hold").
//! Knows nothing of servers, probes or the log: the caller observes and acts, and keeps nothing that cannot be lost.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    lease::Barrier,
    timing::{MS, Timing},
};
use crate::model::{
    ids::{Epoch, GroupId, HoldId, SlotId, Term},
    slot::spans,
    state::{Assignment, Cause, ClusterState, Hold},
};

/// What a SCAN of the owners' databases found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No key of these slots.
    Empty,
    /// A key of one of them.
    Key {
        /// Its name, made printable.
        key: String,
        /// Its slot.
        slot: SlotId,
        /// At which server and database, for people.
        place: String,
    },
    /// It could not be done, or not in its time.
    Unfinished(String),
}

/// A finished SCAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// When it began.
    pub began: u64,
    /// Epochs of the groups concerned when it began.
    pub epochs: BTreeMap<GroupId, Epoch>,
    /// What it found.
    pub found: Found,
}

/// What the leader knows of an assignment beyond the state. All of it may be lost with the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest scan without a hold.
    pub scan_before: Option<Scan>,
    /// When the newest preflight was made and what it said.
    pub preflight: Option<(u64, Result<(), String>)>,
    /// When this leader first saw the open hold, which hold, and the newest verdict on its barrier.
    pub hold: Option<HoldSeen>,
    /// No new attempt before this time.
    pub not_before: u64,
    /// Why the last attempt was released.
    pub last_failure: Option<String>,
}

/// What is known of an open hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldSeen {
    /// Which.
    pub id: HoldId,
    /// When this leader first saw it open.
    pub since: u64,
    /// The newest verdict, with its time.
    pub barrier: Option<(u64, Barrier)>,
    /// The newest scan under this hold.
    pub scan: Option<Scan>,
}

/// What to do next. Each is repeatable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// SCAN the owners, before a hold or (under `Some` hold) behind its barrier.
    Scan {
        /// Which slots to look for at which owner.
        owners: BTreeMap<GroupId, BTreeSet<SlotId>>,
        /// Under which hold.
        hold: Option<HoldId>,
    },
    /// Probe all nodes.
    Preflight,
    /// Propose `Change::Hold` with this attempt.
    Hold {
        /// Its number.
        attempt: u32,
    },
    /// Look at the barrier again, at the next heartbeat.
    WaitBarrier,
    /// Propose `Change::FinishAssign`.
    Finish {
        /// The hold.
        hold: HoldId,
        /// Term of the verdict.
        term: Term,
        /// Epochs of the groups concerned.
        epochs: BTreeMap<GroupId, Epoch>,
    },
    /// Propose `Change::Release`, then wait `Timing::backoff_after(attempt)`.
    Release {
        /// The hold.
        hold: HoldId,
        /// Its attempt.
        attempt: u32,
        /// For people.
        why: String,
    },
    /// Propose `Change::GiveUpAssign`.
    GiveUp(String),
    /// Nothing until then.
    Sleep {
        /// When to look again.
        until: u64,
    },
}

/// A decision: what to do, and what the operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Why it is not done yet.
    pub waiting_on: String,
}

/// The groups that own slots of the assignment now, with these slots.
#[must_use]
pub fn owners(state: &ClusterState, a: &Assignment) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
    let mut owners: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    let Some(product) = state.products.get(&a.product) else { return owners };
    for slot in &a.slots {
        if let Some(owner) = product.slots.get(usize::from(slot.0)).and_then(|s| s.owner) {
            owners.entry(owner).or_default().insert(*slot);
        }
    }
    owners
}

/// Epochs of all groups concerned, owners and target, as `FinishAssign` carries them.
#[must_use]
pub fn group_epochs(state: &ClusterState, a: &Assignment) -> BTreeMap<GroupId, Epoch> {
    let Some(product) = state.products.get(&a.product) else { return BTreeMap::new() };
    let concerned = owners(state, a).into_keys().chain([a.to]);
    concerned.filter_map(|id| product.groups.get(&id).map(|g| (id, g.epoch))).collect()
}

/// The next step of assignment `a`, for the leader of `term` at `now`.
#[must_use]
pub fn decide(state: &ClusterState, a: &Assignment, seen: &Seen, term: Term, timing: &Timing, now: u64) -> Decision {
    match state.holds.values().find(|h| h.cause == Cause::Assignment(a.id)) {
        Some(hold) => held(state, a, hold, seen, term, timing, now),
        None => free(state, a, seen, timing, now),
    }
}

/// No hold is open: look for keys, make sure that a hold can succeed, open one.
fn free(state: &ClusterState, a: &Assignment, seen: &Seen, timing: &Timing, now: u64) -> Decision {
    let what = || format!("slots {} to group {}", spans(&a.slots), a.to);
    if a.attempts >= timing.attempts_max {
        let why = seen.last_failure.as_deref().unwrap_or("see the log of the node that led then");
        return decision(
            Action::GiveUp(format!("{} attempts failed, the last one: {why}", a.attempts)),
            "it is given up",
        );
    }
    if now < seen.not_before {
        let last = seen.last_failure.as_deref().unwrap_or("an attempt failed");
        return decision(Action::Sleep { until: seen.not_before }, &format!("{}: tried again soon; {last}", what()));
    }
    let epochs = group_epochs(state, a);
    let fresh = |s: &&Scan| now <= s.began.saturating_add(timing.scan_fresh) && s.epochs == epochs;
    match seen.scan_before.as_ref().filter(fresh).map(|s| &s.found) {
        None => {
            let action = Action::Scan { owners: owners(state, a), hold: None };
            return decision(action, &format!("{}: its present owners are searched for keys", what()));
        }
        Some(Found::Key { key, slot, place }) => {
            let why = format!(
                "slot {slot} has keys at {place}, such as '{key}'; only empty slots can be assigned, move or delete them first"
            );
            return decision(Action::GiveUp(why), "it is given up");
        }
        Some(Found::Unfinished(why)) => {
            let why = format!("it could not be made sure that the slots are empty: {why}");
            return decision(Action::GiveUp(why), "it is given up");
        }
        Some(Found::Empty) => {}
    }
    let recent = |at: u64| now <= at.saturating_add(timing.heartbeat);
    match &seen.preflight {
        Some((at, Ok(()))) if recent(*at) => {
            decision(Action::Hold { attempt: a.attempts + 1 }, &format!("{}: a hold is opened", what()))
        }
        Some((at, Err(why))) if recent(*at) => {
            let action = Action::Sleep { until: at.saturating_add(timing.heartbeat) + 1 };
            decision(action, &format!("{}: {why}", what()))
        }
        Some(_) | None => {
            decision(Action::Preflight, &format!("{}: all nodes are asked whether they are there", what()))
        }
    }
}

/// A hold is open: barrier, scan, then exactly one of change and release.
fn held(
    state: &ClusterState,
    a: &Assignment,
    hold: &Hold,
    seen: &Seen,
    term: Term,
    timing: &Timing,
    now: u64,
) -> Decision {
    let release = |why: &str| {
        decision(Action::Release { hold: hold.id, attempt: hold.attempt, why: why.to_owned() }, "the hold is released")
    };
    let budget = u64::from(state.settings.hold_ms_max) * MS;
    let here = seen.hold.as_ref().filter(|h| h.id == hold.id);
    let since = here.map_or(now, |h| h.since);
    // A verdict is of its term; an older one is as good as none.
    let passed = match here.and_then(|h| h.barrier.as_ref()) {
        Some((at, Barrier::Passed { term: verdict })) if *verdict == term => Ok(*at),
        Some((_, Barrier::Waiting(why))) => Err(why.as_str()),
        Some((_, Barrier::Passed { .. })) | None => Err("the nodes have not said yet that they hold"),
    };
    let passed_at = match passed {
        Ok(at) => at,
        Err(why) if now > since.saturating_add(budget) => return release(why),
        Err(why) => return decision(Action::WaitBarrier, why),
    };
    let epochs = group_epochs(state, a);
    // The scan confirms only if it began behind the barrier. It has its own time, as the one before the hold had:
    // barrier and scan together stay below what a request is parked.
    let confirming = here.and_then(|h| h.scan.as_ref()).filter(|s| s.began >= passed_at);
    match confirming {
        None if now > passed_at.saturating_add(timing.scan).saturating_add(timing.heartbeat) => {
            release("the search for keys behind the barrier did not end in its time")
        }
        None => {
            let action = Action::Scan { owners: owners(state, a), hold: Some(hold.id) };
            decision(action, "its present owners are searched for keys once more")
        }
        Some(scan) if scan.epochs != epochs => release("the primary of a group concerned changed"),
        Some(scan) => match &scan.found {
            Found::Empty => decision(Action::Finish { hold: hold.id, term, epochs }, "its end is being written"),
            Found::Key { key, slot, .. } => release(&format!("key '{key}' of slot {slot} appeared meanwhile")),
            Found::Unfinished(why) => release(why),
        },
    }
}

fn decision(action: Action, waiting_on: &str) -> Decision {
    Decision { action, waiting_on: waiting_on.to_owned() }
}
