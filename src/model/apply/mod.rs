//! Applies entries: the only way in which a `ClusterState` changes. It reads no clock and no randomness, so that equal
//! logs give equal states. It asks no server: the proposer has done that.
//!
//! Each family of changes has a file. Each function makes all its checks before its first modification, so that a
//! reject leaves the state as it was (except for the record of the result itself).

mod assignment;
mod attempt;
mod cluster;
mod common;
mod default_event;
mod describe;
mod ejection;
mod events;
mod facts;
mod group;
mod guard;
mod hold;
mod member;
mod migration;
mod note;
mod product;
mod promotion;
mod run;
mod slot;
mod subject;

use self::{
    common::clipped,
    events::{Before, When},
};
use super::{
    change::{Change, for_every_change},
    ids::{Epoch, Term, Uuid},
    limits::RESULTS_MAX,
    outcome::Outcome,
    reject::Reject,
    state::{ClusterState, Entry, Position, Recorded},
};

/// Applies an entry of the log. Afterwards `state.applied` is its index, also if the change was rejected.
///
/// A repeated request (the same change id and request hash) gets the first result again, and nothing else happens.
/// `first_index` returns the index of its first entry.
///
/// # Errors
/// Returns why nothing changed. A repeated request that was rejected gets the same text, as `Reject::First`. Another
/// request under a used change id gets `Reject::ChangeIdReused`.
pub fn apply(state: &mut ClusterState, entry: &Entry, at: Position) -> Result<Outcome, Reject> {
    if at.index <= state.applied {
        return Err(Reject::OldEntry { index: at.index, applied: state.applied });
    }
    state.applied = at.index;
    if let Some(first) = state.results.get(&entry.id) {
        if first.request_hash != entry.request_hash {
            return Err(Reject::ChangeIdReused { id: entry.id, first: first.index });
        }
        return first.outcome.clone();
    }
    let when = When { at, ms: entry.at_ms };
    let before = Before::of(entry, state);
    let result = change(state, &entry.change, when);
    if let Ok(outcome) = &result {
        events::record(state, entry, when, &before, outcome);
    }
    record(
        state,
        entry.id,
        Recorded { index: at.index, request_hash: entry.request_hash, outcome: as_recorded(&result) },
    );
    result
}

/// Notes an entry that carries no change (a new leader's blank entry, a Raft membership).
pub fn note_applied(state: &mut ClusterState, index: Epoch) {
    state.applied = state.applied.max(index);
}

/// Log index of the first entry under a change id, while it is remembered.
#[must_use]
pub fn first_index(state: &ClusterState, id: Uuid) -> Option<Epoch> {
    state.results.get(&id).map(|r| r.index)
}

/// The change summary of what `change` would do; empty: nothing. Leaves `state` as it is.
///
/// # Errors
/// Returns why the change would be rejected.
pub fn dry_run(state: &ClusterState, change: &Change) -> Result<Vec<String>, Reject> {
    Ok(describe::differences(state, &after(state, change)?))
}

/// What `state` would be after `change`.
///
/// # Errors
/// Returns why the change would be rejected.
pub fn after(state: &ClusterState, change: &Change) -> Result<ClusterState, Reject> {
    let mut after = state.clone();
    // In the term of its verdict, if it has one: another term would be refused.
    let term = applicable(change).term().unwrap_or_default();
    let at = Position { index: Epoch(state.applied.0 + 1), term };
    self::change(&mut after, change, When { at, ms: 0 })?;
    Ok(after)
}

fn change(state: &mut ClusterState, change: &Change, when: When) -> Result<Outcome, Reject> {
    if state.members.is_empty() && !matches!(change, Change::Bootstrap(_)) {
        return Err(Reject::NotBootstrapped);
    }
    applicable(change).apply(state, when)
}

/// Every change implements it, in the file of its family.
trait Apply {
    /// Changes `state`, or returns why it refuses and leaves `state` as it was.
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject>;

    /// The term of the verdict that the change depends on, if there is one. The change is refused in another term.
    fn term(&self) -> Option<Term> {
        None
    }
}

macro_rules! dispatch {
    ($($variant:ident($change:ident),)*) => {
        fn applicable(change: &Change) -> &dyn Apply {
            match change {
                $(Change::$variant(change) => change,)*
            }
        }
    };
}
for_every_change!(dispatch);

/// Keeps a reject as its text: a repeated request needs no more, and a later version cannot change its meaning.
fn as_recorded(result: &Result<Outcome, Reject>) -> Result<Outcome, Reject> {
    result.clone().map_err(|reject| Reject::First(clipped(&reject.to_string())))
}

fn record(state: &mut ClusterState, id: Uuid, recorded: Recorded) {
    state.results.insert(id, recorded);
    state.results_order.push_back(id);
    while state.results_order.len() > RESULTS_MAX {
        if let Some(oldest) = state.results_order.pop_front() {
            state.results.remove(&oldest);
        }
    }
}
