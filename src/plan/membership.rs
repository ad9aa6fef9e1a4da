//! Which members vote: first those that operators chose, then the lowest ids up to the configured number of voters.
//! Knows nothing of how Raft changes its membership.

use std::collections::BTreeSet;

use crate::model::{
    ids::NodeId,
    state::{ClusterState, Role},
};

/// The membership that Raft should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredMembership {
    /// The nodes that vote.
    pub voters: BTreeSet<NodeId>,
    /// The nodes that only follow.
    pub learners: BTreeSet<NodeId>,
}

/// Decides on the membership from the operators' settings and the present voters. A voter that stays is never exchanged
/// for another node: an exchange is a risk without a benefit. `None`: leave the membership as it is.
///
/// A node that was never admitted does not become a voter: it would count for the quorum before it has sent a
/// heartbeat. A voter that is being removed stops voting first, so that the quorum does not need it when it leaves.
#[must_use]
pub fn decide(state: &ClusterState, voters_now: &BTreeSet<NodeId>) -> Option<DesiredMembership> {
    let count_max = usize::from(state.settings.voters);
    let staying = || state.members.values().filter(|m| m.leaving.is_none());
    let may_vote = |m: &&crate::model::state::Member| m.admitted.is_some() || voters_now.contains(&m.id);
    let mut voters: BTreeSet<NodeId> =
        staying().filter(|m| m.role == Role::Voter).filter(may_vote).map(|m| m.id).collect();
    let auto = || staying().filter(|m| m.role == Role::Auto).filter(may_vote).map(|m| m.id);
    let present = auto().filter(|id| voters_now.contains(id));
    let others = auto().filter(|id| !voters_now.contains(id));
    for id in present.chain(others) {
        if voters.len() < count_max {
            voters.insert(id);
        }
    }
    // A cluster needs a voter: when no member may vote, the present voters stay until an operator changes that.
    if voters.is_empty() {
        return None;
    }
    let learners = staying().map(|m| m.id).filter(|id| !voters.contains(id)).collect();
    Some(DesiredMembership { voters, learners })
}

/// Voters of whom fewer than a majority is alive, so that they can neither elect a leader nor write a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostQuorum {
    /// The voters.
    pub voters: BTreeSet<NodeId>,
    /// Those of them that are alive.
    pub alive: BTreeSet<NodeId>,
}

impl LostQuorum {
    /// `None`: a majority of these voters is alive.
    #[must_use]
    pub fn of(voters: &BTreeSet<NodeId>, alive: &BTreeSet<NodeId>) -> Option<Self> {
        let alive: BTreeSet<NodeId> = voters.intersection(alive).copied().collect();
        (alive.len() < majority(voters.len())).then(|| Self { voters: voters.clone(), alive })
    }

    /// The voters that are not alive.
    #[must_use]
    pub fn dead(&self) -> BTreeSet<NodeId> {
        self.voters.difference(&self.alive).copied().collect()
    }
}

/// How many of these voters are a majority.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether a change of the state, from `before` to `after`, makes the cluster lose its quorum. Raft changes its voters
/// through a joint configuration, which needs a majority of the present voters and one of those that follow.
#[must_use]
pub fn loses_quorum(
    before: &ClusterState,
    after: &ClusterState,
    voters_now: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
) -> Option<LostQuorum> {
    let voters = |state| decide(state, voters_now).map(|wanted| wanted.voters);
    let wanted = voters(after).filter(|wanted| Some(wanted) != voters(before).as_ref() && wanted != voters_now)?;
    LostQuorum::of(&wanted, alive).or_else(|| LostQuorum::of(voters_now, alive))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        ids::{Epoch, HostPort, Incarnation, Uuid},
        state::{Admission, Leaving, Member},
    };

    fn member(id: u64, role: Role) -> Member {
        Member {
            id: NodeId(id),
            uuid: Uuid(u128::from(id)),
            admin: HostPort::parse(&format!("127.0.0.1:{}", 19100 + id)).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: id as u16,
            role,
            admitted: Some(Admission { start: Uuid(9), incarnation: Incarnation(id) }),
            leaving: None,
        }
    }

    fn check(members: &[Member], voters_max: u8, now: &[u64], voters: &[u64], learners: &[u64]) {
        let mut state = ClusterState::default();
        state.settings.voters = voters_max;
        state.members = members.iter().map(|m| (m.id, m.clone())).collect();
        let ids = |list: &[u64]| list.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let wanted = decide(&state, &ids(now)).unwrap_or_default();
        assert_eq!(wanted, DesiredMembership { voters: ids(voters), learners: ids(learners) });
        // Idempotent: once the membership is as decided, the decision stays the same.
        if !voters.is_empty() {
            assert_eq!(decide(&state, &wanted.voters), Some(wanted));
        }
    }

    #[test]
    fn the_lowest_ids_vote_and_no_voter_is_exchanged() {
        let auto = |id| member(id, Role::Auto);
        check(&[auto(1), auto(2), auto(3)], 5, &[1, 2, 3], &[1, 2, 3], &[]);
        check(&[auto(1), auto(2), auto(3), auto(4)], 3, &[1, 2, 3], &[1, 2, 3], &[4]);
        check(&[auto(1), auto(2), auto(3), auto(4)], 3, &[2, 3, 4], &[2, 3, 4], &[1]);
        check(&[auto(1), auto(2)], 5, &[1], &[1, 2], &[]);
    }

    #[test]
    fn the_operators_choice_comes_first() {
        let auto = |id| member(id, Role::Auto);
        check(&[auto(1), auto(2), member(3, Role::Voter)], 2, &[1, 2], &[1, 3], &[2]);
        check(&[member(1, Role::Learner), auto(2), auto(3)], 5, &[1, 2, 3], &[2, 3], &[1]);
        check(&[member(1, Role::Learner)], 5, &[1], &[], &[]);
    }

    #[test]
    fn a_leaving_node_stops_voting_and_one_that_was_never_admitted_does_not_begin() {
        let leaving =
            Member { leaving: Some(Leaving { since: Epoch(5), assume_dead: false }), ..member(2, Role::Auto) };
        let silent = Member { admitted: None, ..member(4, Role::Auto) };
        check(&[member(1, Role::Auto), leaving, member(3, Role::Auto), silent], 5, &[1, 2, 3], &[1, 3], &[4]);
    }

    /// Regression: the removal of a live voter beside a dead one was accepted, and took the cluster down.
    #[test]
    fn a_change_that_leaves_too_few_live_voters_loses_the_quorum() {
        let ids = |list: &[u64]| list.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let loses = |roles: &[(u64, Role)], voters_max: u8, leaving: Option<u64>, now: &[u64], alive: &[u64]| {
            let state = |members: Vec<Member>, voters_max| {
                let mut state = ClusterState::default();
                state.settings.voters = voters_max;
                state.members = members.into_iter().map(|m| (m.id, m)).collect();
                state
            };
            let before = state(now.iter().map(|id| member(*id, Role::Auto)).collect(), 5);
            let mut after = state(roles.iter().map(|(id, role)| member(*id, *role)).collect(), voters_max);
            if let Some(member) = leaving.and_then(|id| after.members.get_mut(&NodeId(id))) {
                member.leaving = Some(Leaving { since: Epoch(5), assume_dead: false });
            }
            loses_quorum(&before, &after, &ids(now), &ids(alive)).map(|lost| (lost.voters.clone(), lost.dead()))
        };
        let three = [1, 2, 3].map(|id| (id, Role::Auto));
        let lost = |voters: &[u64], dead: &[u64]| Some((ids(voters), ids(dead)));
        assert_eq!(loses(&three, 5, Some(2), &[1, 2, 3], &[1, 2]), lost(&[1, 3], &[3]), "a live one beside a dead one");
        assert_eq!(loses(&three, 5, Some(3), &[1, 2, 3], &[1, 2]), None, "the dead one");
        assert_eq!(loses(&three, 5, Some(2), &[1, 2, 3], &[1, 2, 3]), None, "all are alive");
        assert_eq!(loses(&three, 5, None, &[1, 2, 3], &[1, 2]), None, "the voters stay");
        let demoted = [(1, Role::Auto), (2, Role::Learner), (3, Role::Auto)];
        assert_eq!(loses(&demoted, 5, None, &[1, 2, 3], &[1, 2]), lost(&[1, 3], &[3]), "by its role");
        let five = [1, 2, 3, 4, 5].map(|id| (id, Role::Auto));
        assert_eq!(loses(&five, 3, None, &[1, 2, 3, 4, 5], &[1, 4, 5]), lost(&[1, 2, 3], &[2, 3]), "by their number");
        assert_eq!(loses(&three[..2], 1, None, &[1, 2], &[1]), lost(&[1, 2], &[2]), "the present ones must agree");
    }
}
