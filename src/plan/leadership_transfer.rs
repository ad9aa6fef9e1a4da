//! Which nodes should lead instead: those that reach the replica that can replace a primary that is down, while the
//! leader, which would have to promote it, does not. Knows nothing of how leadership is transferred.

use std::collections::BTreeSet;

use super::{
    acks::has_all_confirmed,
    candidates::{GroupHistory, answering_offset, choose},
    failover::{DownGroup, FollowingPrimaries, groups_down},
    liveness::Watchers,
    observation::Observation,
    restart::{confirmations, failed_replicas},
};
use crate::model::{
    ids::{HostPort, NodeId},
    promotion::{Promotion, PromotionKind},
    state::{ClusterState, Group, Product},
};

/// The voters that can do what the leader cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferCandidates {
    /// Voters that are alive and reach the servers.
    pub nodes: BTreeSet<NodeId>,
    /// Which server the leader does not reach, and what it is needed for, for people.
    pub why: String,
}

/// The transfer candidates of a leader that has no file descriptor left: it cannot open connections, not even to the
/// replica that is to replace a primary. Any other voter can do more.
#[must_use]
pub fn without_files(voters: &BTreeSet<NodeId>, me: NodeId) -> Option<TransferCandidates> {
    let nodes: BTreeSet<NodeId> = voters.iter().copied().filter(|node| *node != me).collect();
    let why = format!("node {me} has no file descriptor left, so that it can open no connection");
    (!nodes.is_empty()).then_some(TransferCandidates { nodes, why })
}

/// The transfer candidates of the first group that has some. A server counts as out of the leader's reach (`me`) when
/// it has not answered for the group's `down-after`, so that one slow answer does not depose the leader. `None` while
/// slots are held: the next leader would have to release them while clients wait.
#[must_use]
pub fn transfer_candidates(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &FollowingPrimaries,
    me: NodeId,
) -> Option<TransferCandidates> {
    let (groups_down, guard) = groups_down(state, seen, watchers, following_primaries);
    if !state.holds.is_empty() {
        return None;
    }
    groups_down.into_iter().find_map(|DownGroup { product, group, lasting_ms, restarted, .. }| {
        if !restarted {
            guard.may_fail_over(lasting_ms).ok()?;
        }
        if state.settings.maintenance || group.options.maintenance || group.ejection.is_some() {
            return None;
        }
        let out_of_reach = |addr: &HostPort| {
            let mine = seen.get(addr).and_then(|by_node| by_node.get(&me));
            mine.is_some_and(|r| r.report.failing_ms.is_some_and(|ms| ms >= u64::from(group.options.down_after_ms)))
        };
        let unreached: Vec<&HostPort> =
            group.servers.iter().skip(1).map(|server| &server.addr).filter(|addr| out_of_reach(addr)).collect();
        let first = unreached.first()?;
        let open = state.promotion_of(product.id, group.id);
        let can = |node: NodeId| match open {
            Some(open) => reaches_more(seen, group, open, product.min_acks, node, &unreached),
            None => can_begin_failover(seen, product, group, node),
        };
        if can(me) {
            return None;
        }
        let others = watchers.alive().difference(watchers.blind()).copied();
        let nodes: BTreeSet<NodeId> = others.filter(|node| *node != me && can(*node)).collect();
        let why = || {
            let (group, name) = (group.id, &product.name);
            format!("{first} does not answer node {me}, and is needed to fail over group {group} of product '{name}'")
        };
        (!nodes.is_empty()).then(|| TransferCandidates { nodes, why: why() })
    })
}

/// Whether this node would begin a failover of the group if it led.
fn can_begin_failover(seen: &Observation, product: &Product, group: &Group, node: NodeId) -> bool {
    let history = GroupHistory::of(confirmations(product), group, seen);
    let choice = choose(confirmations(product), group, seen, node);
    let required = (product.min_acks, failed_replicas(confirmations(product), group, seen));
    let all = |to| has_all_confirmed(group, required, to, |addr| answering_offset(addr, &history, seen));
    choice.best().is_some_and(|best| all(&best.addr).is_ok())
}

/// Whether this node reaches the candidate of an open failover and, of all replicas that the failover has to ask (with
/// `min-acks` all of the group), more than the leader does.
fn reaches_more(
    seen: &Observation,
    group: &Group,
    open: &Promotion,
    min_acks: u8,
    node: NodeId,
    unreached: &[&HostPort],
) -> bool {
    let reaches = |addr: &HostPort| {
        let its = seen.get(addr).and_then(|by_node| by_node.get(&node));
        its.is_some_and(|r| r.report.failing_ms.is_none() && r.report.error.is_empty())
    };
    let asked = |addr: &HostPort| *addr == open.to || min_acks > 0;
    let wanted = group.servers.iter().skip(1).map(|server| &server.addr).filter(|addr| asked(addr));
    let theirs = wanted.clone().filter(|addr| reaches(addr)).count();
    let mine = wanted.filter(|addr| !unreached.contains(addr)).count();
    open.kind == PromotionKind::Failover && reaches(&open.to) && theirs > mine
}
