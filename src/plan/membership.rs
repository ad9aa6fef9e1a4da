//! Who should vote in Raft, from who the members are and who lives.
//! Knows nothing of Raft's mechanics; the caller takes one safe step at a time towards the answer.

use std::collections::BTreeSet;

use crate::model::{
    ids::NodeId,
    limits::VOTERS_MAX,
    state::{ClusterState, Role},
};

/// Raft's membership as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Who votes; never empty while there are members.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// What keeps it from what was asked for, a sentence each.
    pub waiting_on: Vec<String>,
}

/// Decides from Raft's membership now, the replicated members, and who was heard lately (`alive`).
///
/// Voters stay voters unless they leave, were made learners, or there are more than wanted; free places go to living
/// learners that were admitted, those the operator wants first, then by lowest id. A living voter goes only if those
/// that live afterwards are still a quorum.
#[must_use]
pub fn decide(
    voters_now: &BTreeSet<NodeId>,
    learners_now: &BTreeSet<NodeId>,
    state: &ClusterState,
    alive: &BTreeSet<NodeId>,
) -> Wanted {
    // Before Bootstrap is applied Raft's first membership is all there is.
    if state.members.is_empty() {
        return Wanted { voters: voters_now.clone(), learners: learners_now.clone(), waiting_on: Vec::new() };
    }
    let role = |id: &NodeId| state.members.get(id).filter(|m| m.leaving.is_none()).map(|m| m.role);
    let target = usize::from(state.settings.voters);
    let mut voters = voters_now.clone();
    let mut waiting_on = Vec::new();

    // Additions first: they make removals possible.
    let ready = |id: &NodeId| {
        learners_now.contains(id) && alive.contains(id) && state.members.get(id).is_some_and(|m| m.admitted.is_some())
    };
    for id in state.members.keys().filter(|id| role(id) == Some(Role::Voter)) {
        if voters.contains(id) {
            continue;
        }
        if staying(&voters, role).count() >= usize::from(VOTERS_MAX) {
            waiting_on.push(format!("node {id} is to vote, but there are {VOTERS_MAX} voters; make one a learner"));
        } else if ready(id) {
            voters.insert(*id);
        } else {
            waiting_on.push(format!("node {id} is to vote; it is not there yet"));
        }
    }
    for id in state.members.keys().filter(|id| role(id) == Some(Role::Auto)) {
        if staying(&voters, role).count() < target && !voters.contains(id) && ready(id) {
            voters.insert(*id);
        }
    }

    // Who must go, then who is too many: the dead first, then the highest ids.
    let mut go: Vec<NodeId> =
        voters.iter().copied().filter(|id| matches!(role(id), None | Some(Role::Learner))).collect();
    let excess = staying(&voters, role).count().saturating_sub(target);
    let mut spare: Vec<NodeId> = voters.iter().copied().filter(|id| role(id) == Some(Role::Auto)).collect();
    spare.sort_by_key(|id| (alive.contains(id), std::cmp::Reverse(*id)));
    go.extend(spare.into_iter().take(excess));
    go.sort_by_key(|id| alive.contains(id));
    for id in go {
        let mut without = voters.clone();
        without.remove(&id);
        if without.is_empty() || (alive.contains(&id) && !has_quorum(&without, alive)) {
            waiting_on.push(format!("node {id} is to stop voting; without it the voters that live are no quorum"));
        } else {
            voters = without;
        }
    }

    let learners = state.members.keys().copied().filter(|id| !voters.contains(id)).collect();
    Wanted { voters, learners, waiting_on }
}

/// Those of `voters` that neither leave nor were made learners.
fn staying<'a>(
    voters: &'a BTreeSet<NodeId>,
    role: impl Fn(&NodeId) -> Option<Role> + 'a,
) -> impl Iterator<Item = &'a NodeId> {
    voters.iter().filter(move |id| matches!(role(id), Some(Role::Auto | Role::Voter)))
}

fn has_quorum(voters: &BTreeSet<NodeId>, alive: &BTreeSet<NodeId>) -> bool {
    voters.intersection(alive).count() > voters.len() / 2
}
