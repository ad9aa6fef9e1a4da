//! The leader's lease table and its verdict on a barrier, for one term (serving.md, "Heartbeat and lease", "Hold").
//! Knows nothing of clocks and quorum rounds: times and terms are arguments, and the caller makes the rounds.

use std::collections::{BTreeMap, BTreeSet};

use super::timing::Timing;
use crate::model::{
    ids::{Epoch, HoldId, Incarnation, NodeId, Term, Uuid},
    route::Isolated,
    state::{ClusterState, Hold, Member},
};

/// What a heartbeat says, as far as leases go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Who.
    pub node: NodeId,
    /// Its identity.
    pub uuid: Uuid,
    /// This start of its process.
    pub start: Uuid,
    /// The admission it knows of; 0: none.
    pub incarnation: Incarnation,
    /// The holds it has applied and drained.
    pub drained: BTreeSet<HoldId>,
    /// It has stopped serving and asks for no lease.
    pub stopping: bool,
}

/// A permission to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Length in nanoseconds, counted by the node from when it sent the heartbeat.
    pub lease: u64,
    /// The node's workers serve only with tables at this route epoch or later.
    pub min_applied: Epoch,
}

/// Why there is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGrant {
    /// The quorum round was of another term than this table.
    #[error("leadership changed, ask again")]
    OtherTerm,
    /// The node is no member, or its id belongs to another.
    #[error("node {0} is no member of this cluster under this identity")]
    NotAMember(NodeId),
    /// It is being removed.
    #[error("node {0} is being removed")]
    Leaving(NodeId),
    /// This start is not the admitted one.
    #[error("this start of node {0} is not admitted (yet)")]
    NotAdmitted(NodeId),
    /// The node is stopping.
    #[error("node {0} is stopping")]
    Stopping(NodeId),
    /// A hold is open that this incarnation has not acked.
    #[error("hold {0} is open and not acked")]
    HoldOpen(HoldId),
}

/// Whether a barrier has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// All possible servers hold, or are surely out of lease. Good in this term only.
    Passed {
        /// The term of the verdict.
        term: Term,
    },
    /// Whom it waits for, and why, for people.
    Waiting(String),
}

/// Leases and acks of one term. A new leader, or the same one in a new term, begins with an empty one.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    term: Term,
    timing: Timing,
    /// Until then every possible server may hold a lease of a leader before.
    quiet_until: u64,
    nodes: BTreeMap<NodeId, NodeLease>,
}

#[derive(Clone, Debug, Default)]
struct NodeLease {
    uuid: Uuid,
    /// When all leases granted to it in this term have surely ended.
    ends: u64,
    /// When it was heard last.
    heard: u64,
    /// The incarnation that the acks belong to.
    incarnation: Incarnation,
    acked: BTreeSet<HoldId>,
    stopped: bool,
}

impl LeaseTable {
    /// The table of a leader that applied its first own entry of `term` at `now`. Before that there must be none.
    #[must_use]
    pub fn new(term: Term, now: u64, timing: Timing) -> Self {
        Self { term, timing, quiet_until: timing.surely_ended(now), nodes: BTreeMap::new() }
    }

    /// Its term. Verdicts are compared by it, never by "am I leader".
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Records what a heartbeat said. Acks count only from the incarnation that is admitted.
    pub fn heard(&mut self, beat: &Beat, state: &ClusterState, now: u64) {
        if admitted(beat, state).is_err() {
            return;
        }
        let node = self.nodes.entry(beat.node).or_default();
        if node.uuid != beat.uuid || node.incarnation != beat.incarnation {
            // Acks are the former incarnation's; its lease is remembered, it may still be valid (same node, same ends).
            node.acked.clear();
            node.stopped = false;
            node.uuid = beat.uuid;
            node.incarnation = beat.incarnation;
        }
        node.heard = node.heard.max(now);
        // An ack is for ever: no node ends a hold by itself. Holds that are over are forgotten.
        node.acked.extend(beat.drained.iter().filter(|h| state.holds.contains_key(h)));
        node.acked.retain(|h| state.holds.contains_key(h));
        node.stopped |= beat.stopping;
    }

    /// Grants a lease, or says why not; records it. To be called in one step with answering, at `now`, after a quorum
    /// round of `round` that began after the heartbeat arrived.
    ///
    /// # Errors
    /// Why there is none.
    pub fn grant(&mut self, beat: &Beat, state: &ClusterState, round: Term, now: u64) -> Result<Grant, NoGrant> {
        if round != self.term {
            return Err(NoGrant::OtherTerm);
        }
        self.heard(beat, state, now);
        let member = admitted(beat, state)?;
        if member.leaving.is_some() {
            return Err(NoGrant::Leaving(beat.node));
        }
        let node = self.nodes.entry(beat.node).or_default();
        if node.stopped {
            return Err(NoGrant::Stopping(beat.node));
        }
        if let Some(open) = state.holds.keys().find(|h| !node.acked.contains(h)) {
            return Err(NoGrant::HoldOpen(*open));
        }
        node.ends = node.ends.max(self.timing.surely_ended(now));
        Ok(Grant { lease: self.timing.lease, min_applied: state.route_epoch })
    }

    /// When all leases of `node` have surely ended, also those of leaders before.
    #[must_use]
    pub fn ends(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |n| n.ends).max(self.quiet_until)
    }

    /// Whether `node` has surely no lease at `now`.
    #[must_use]
    pub fn surely_out(&self, node: NodeId, now: u64) -> bool {
        now >= self.ends(node)
    }

    /// Whether `node` was heard within the last four heartbeats.
    #[must_use]
    pub fn alive(&self, node: NodeId, now: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| now < n.heard.saturating_add(4 * self.timing.heartbeat))
    }

    /// Whether all possible servers hold, or are surely out of lease while the product is `refuse`.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, state: &ClusterState, now: u64) -> Barrier {
        let serves = state.products.get(&hold.product).is_none_or(|p| p.isolated == Isolated::Serve);
        let waits: Vec<String> = state
            .members
            .values()
            .filter_map(|member| {
                let admission = member.admitted?; // Without an admission it never had a lease, of any leader.
                let acked = self.nodes.get(&member.id).is_some_and(|n| {
                    n.uuid == member.uuid && n.incarnation == admission.incarnation && n.acked.contains(&hold.id)
                });
                if acked || (!serves && self.surely_out(member.id, now)) {
                    return None;
                }
                let why = match (serves, self.alive(member.id, now)) {
                    (_, true) => "has requests of these slots in flight",
                    (true, false) => "is silent and may go on serving (isolated = serve): start it, or `pontoon node remove --assume-dead`",
                    (false, false) => "is silent and may still have a lease",
                };
                Some(format!("node {} {why}", member.id))
            })
            .collect();
        if waits.is_empty() { Barrier::Passed { term: self.term } } else { Barrier::Waiting(waits.join("; ")) }
    }

    /// Whether a hold on `hold_product_serves` can succeed: every possible server answered a probe, or is surely out
    /// of lease and the product is `refuse`. No hold is opened to discover a dead node.
    ///
    /// # Errors
    /// Who did not answer, for people.
    pub fn preflight(
        &self,
        isolated: Isolated,
        answered: &BTreeSet<NodeId>,
        state: &ClusterState,
        now: u64,
    ) -> Result<(), String> {
        let missing: Vec<String> = state
            .members
            .values()
            .filter(|m| m.admitted.is_some() && !answered.contains(&m.id))
            .filter(|m| isolated == Isolated::Serve || !self.surely_out(m.id, now))
            .map(|m| format!("node {} does not answer and may still serve", m.id))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    /// Whether a node whose removal has begun surely serves no more, so that FinishRemove may be proposed in this term.
    ///
    /// # Errors
    /// What is waited for, for people.
    pub fn removal(&self, node: NodeId, state: &ClusterState, now: u64) -> Result<(), String> {
        let Some(member) = state.members.get(&node) else { return Err(format!("node {node} is no member")) };
        let Some(leaving) = member.leaving else { return Err(format!("node {node} is not being removed")) };
        let stopped = self.nodes.get(&node).is_some_and(|n| {
            n.uuid == member.uuid && n.stopped && member.admitted.is_some_and(|a| a.incarnation == n.incarnation)
        });
        if leaving.assume_dead || member.admitted.is_none() || stopped {
            return Ok(());
        }
        if !self.surely_out(node, now) {
            return Err(format!("node {node} may still have a lease; it ends by itself within seconds"));
        }
        match state.products.values().find(|p| p.isolated == Isolated::Serve) {
            Some(p) => Err(format!(
                "node {node} is silent and may go on serving product '{}' (isolated = serve): if it is surely dead, `pontoon node remove {node} --assume-dead`",
                p.name
            )),
            None => Ok(()),
        }
    }
}

/// The member whose admitted start sent this heartbeat.
fn admitted<'a>(beat: &Beat, state: &'a ClusterState) -> Result<&'a Member, NoGrant> {
    let member = state.members.get(&beat.node).filter(|m| m.uuid == beat.uuid);
    let member = member.ok_or(NoGrant::NotAMember(beat.node))?;
    let current = member.admitted.is_some_and(|a| a.start == beat.start && a.incarnation == beat.incarnation);
    if current { Ok(member) } else { Err(NoGrant::NotAdmitted(beat.node)) }
}
