//! Which nodes had better lead: those that reach the replica that can replace a dead primary, while the leader, who would have to
//! promote it, does not. Knows nothing of how leadership changes hands.

use std::collections::BTreeSet;

use super::{
    acks::has_all_confirmed,
    failover::{DownGroup, GroupHistory, answering, choose, downs},
    liveness::Watchers,
    observation::Observation,
};
use crate::model::{
    ids::{HostPort, NodeId},
    promotion::{Promotion, PromotionKind},
    state::{ClusterState, Group},
};

/// Who could carry out what the leader cannot, and what that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferCandidates {
    /// Voters that are alive and reach the servers.
    pub nodes: BTreeSet<NodeId>,
    /// For people.
    pub why: String,
}

/// The transfer candidates of the first group for which there are some. The leader `me` has been unanswered by a server for the group's
/// `down-after`, so that one slow answer deposes nobody. None while slots are held: whoever leads next would have to release them,
/// and clients wait.
#[must_use]
pub fn transfer_candidates(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &BTreeSet<HostPort>,
    me: NodeId,
) -> Option<TransferCandidates> {
    let (all_down, guard) = downs(state, seen, watchers, following_primaries);
    guard.ok()?;
    if !state.holds.is_empty() {
        return None;
    }
    all_down.into_iter().find_map(|DownGroup { product, group, .. }| {
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
            None => can_begin(seen, group, product.min_acks, node),
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

/// Whether this node, if it led, would begin a failover of the group.
fn can_begin(seen: &Observation, group: &Group, min_acks: u8, node: NodeId) -> bool {
    let history = GroupHistory::of(group, seen);
    let choice = choose(group, seen, node);
    let all = |to| has_all_confirmed(group, min_acks, to, |addr| answering(addr, &history, seen));
    choice.best().is_some_and(|best| all(&best.addr).is_ok())
}

/// Whether this node reaches the chosen one of a failover and, with `min-acks`, whom else it has to ask, more of them than the
/// leader does.
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
