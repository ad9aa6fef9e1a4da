//! The only function that changes a `ClusterState`. Reads no clock and no randomness: same log, same state.
//! Knows nothing of who proposes a change, and asks nobody: servers were asked before.
//!
//! Each family of changes has a file. In each function everything that can refuse stands above the first assignment,
//! so that a refusal leaves the state as it was (but for the record of the result itself).

mod assignment;
mod cluster;
mod common;
mod describe;
mod ejection;
mod events;
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

use self::{common::clipped, events::When};
use super::{
    change::{Change, for_every_change},
    ids::{Epoch, Term, Uuid},
    limits::RESULTS_MAX,
    outcome::Outcome,
    reject::Reject,
    state::{ClusterState, Entry, Position, Recorded},
};

/// Applies an entry of the log. Afterwards `state.applied` is its index, whatever came of it.
///
/// A change id that was seen before gets its first result again (`first_index` tells where), and nothing happens.
///
/// # Errors
/// Why nothing changed. A repeat of a refused change gets the same sentence as `Reject::First`.
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
    let result = change(state, &entry.change, When { at, ms: entry.at_ms });
    record(
        state,
        entry.id,
        Recorded { index: at.index, request_hash: entry.request_hash, outcome: as_recorded(&result) },
    );
    result
}

/// Notes an entry that carries no change (a new leader's blank entry, a membership of Raft).
pub fn note_applied(state: &mut ClusterState, index: Epoch) {
    state.applied = state.applied.max(index);
}

/// Log index of the first entry under a change id, while it is remembered.
#[must_use]
pub fn first_index(state: &ClusterState, id: Uuid) -> Option<Epoch> {
    state.results.get(&id).map(|r| r.index)
}

/// What `change` would do, a sentence each; empty: nothing. `state` is not touched.
///
/// # Errors
/// Why it would be refused.
pub fn dry_run(state: &ClusterState, change: &Change) -> Result<Vec<String>, Reject> {
    let mut after = state.clone();
    // It is dry-run in the term of its verdict, where it carries one.
    let term = applicable(change).term().unwrap_or_default();
    let at = Position { index: Epoch(state.applied.0 + 1), term };
    self::change(&mut after, change, When { at, ms: 0 })?;
    Ok(describe::differences(state, &after))
}

fn change(state: &mut ClusterState, change: &Change, when: When) -> Result<Outcome, Reject> {
    if state.members.is_empty() && !matches!(change, Change::Bootstrap(_)) {
        return Err(Reject::NotBootstrapped);
    }
    applicable(change).apply(state, when)
}

/// What each change can do here.
trait Apply {
    /// Changes `state`, or returns why it refuses; then `state` is as it was.
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject>;

    /// The term of the verdict behind the change, where it carries one: it is refused in another.
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

/// Refusals are kept as their sentence: it is all that a repeat needs, and no later version can read it differently.
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
