//! The leader's table of leases and acks, and what follows from it: which node gets a lease, whether a barrier has
//! passed, whether a node has provably stopped serving. It belongs to one term; a new term begins with an empty table.
//! Knows nothing of quorum confirmation: before it calls `grant`, the caller waits for one that began after the
//! heartbeat arrived.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    timing::{Timing, as_ns},
    waiting::{Wait, left, seconds},
};
use crate::model::{
    ids::{Epoch, HoldId, Incarnation, NodeId, Term},
    route::Isolated,
    state::{ClusterState, Hold, Member},
};

/// Leases and acks of one term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTable {
    term: Term,
    /// Until then every possible server counts as leased: the former leader may have granted a lease at its very end.
    quiet_until_ns: u64,
    nodes: BTreeMap<NodeId, NodeLease>,
    timing: Timing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeLease {
    /// The time at which its lease has provably ended; 0: none was granted in this term.
    lease_ends_ns: u64,
    /// The incarnation to which the acks belong.
    incarnation: Incarnation,
    acks: BTreeSet<HoldId>,
    /// This incarnation reported that it has stopped serving for good.
    stopped: bool,
}

/// The answer to a heartbeat, after the quorum confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseDecision {
    /// A lease from the moment at which the heartbeat was sent, with route tables of this route epoch or later.
    Lease(Epoch),
    /// No lease now; why, for people.
    NotYet(String),
}

/// Whether the change behind a hold may be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Every possible server has acked the hold or has provably stopped serving.
    Passed,
    /// The nodes that the barrier waits for, with the reason, one text for each.
    Waiting(Vec<String>),
}

/// Waits for the barrier of a hold. `nodes`: as in [`Barrier::Waiting`]; `budget_ns`: how long the hold may last.
#[must_use]
pub fn barrier_wait(hold: HoldId, nodes: &[String], budget_ns: u64) -> Wait {
    let max = seconds(budget_ns);
    let ends_when =
        format!("all nodes hold, or after {max} s: then the hold ends, and another one follows after a pause");
    let detail = if nodes.is_empty() { String::new() } else { format!(": {}", nodes.join("; ")) };
    Wait::new(format!("hold {hold} is open, and not all nodes hold"), ends_when).with_detail(detail)
}

impl LeaseTable {
    /// The empty table of a term whose leader has applied an entry of its own by `now_ns`.
    #[must_use]
    pub fn new(term: Term, now_ns: u64, timing: Timing) -> Self {
        Self { term, quiet_until_ns: now_ns + as_ns(timing.lease_at_leader()), nodes: BTreeMap::new(), timing }
    }

    /// The term this table belongs to.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Records acks: this incarnation of a node holds these slots and has no earlier request in flight. It continues to
    /// hold until it applies the hold's end, so that acks need no quorum confirmation.
    pub fn ack(&mut self, node: NodeId, incarnation: Incarnation, drained: &BTreeSet<HoldId>) {
        let known = self.known(node, incarnation);
        known.acks.extend(drained);
    }

    /// Records that this incarnation has stopped serving for good.
    pub fn stopped(&mut self, node: NodeId, incarnation: Incarnation) {
        self.known(node, incarnation).stopped = true;
    }

    /// Decides on a heartbeat and records the lease, in one step with reading `state` (the newest applied).
    pub fn grant(
        &mut self,
        member: &Member,
        incarnation: Incarnation,
        state: &ClusterState,
        now_ns: u64,
    ) -> LeaseDecision {
        if member.leaving.is_some() {
            return LeaseDecision::NotYet(format!("node {} is being removed", member.id));
        }
        if member.admitted.is_none_or(|a| a.incarnation != incarnation) {
            return LeaseDecision::NotYet(format!("this start of node {} is not admitted yet", member.id));
        }
        let lease_ns = as_ns(self.timing.lease_at_leader());
        let known = self.known(member.id, incarnation);
        if known.stopped {
            return LeaseDecision::NotYet(format!("node {} reported that it stops", member.id));
        }
        known.acks.retain(|hold| state.holds.contains_key(hold));
        if let Some(hold) = state.holds.keys().find(|hold| !known.acks.contains(hold)) {
            return LeaseDecision::NotYet(format!("hold {hold} is open and node {} has not acked it", member.id));
        }
        known.lease_ends_ns = known.lease_ends_ns.max(now_ns + lease_ns);
        LeaseDecision::Lease(state.route_epoch)
    }

    /// The time on this clock at which the last lease of a node has provably ended; at least the end of the first
    /// lease of the term, within which every possible server counts as leased.
    #[must_use]
    pub fn lease_ends_ns(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |k| k.lease_ends_ns).max(self.quiet_until_ns)
    }

    /// The nodes whose last lease has provably ended, with the time of its end; also nodes that are members no more.
    #[must_use]
    pub fn ended(&self, state: &ClusterState, now_ns: u64) -> BTreeMap<NodeId, u64> {
        let admitted = state.members.values().filter(|member| member.admitted.is_some()).map(|member| member.id);
        let all = admitted.chain(self.nodes.keys().copied()).map(|node| (node, self.lease_ends_ns(node)));
        all.filter(|(_, ends_ns)| now_ns > *ends_ns).collect()
    }

    /// Whether a member has provably stopped serving a product with this `isolated`, until it gets a new lease.
    #[must_use]
    pub fn has_stopped_serving(&self, member: &Member, isolated: Isolated, now_ns: u64) -> bool {
        // A node that was never admitted never had a lease, and serves nothing before its first one.
        let Some(admission) = member.admitted else { return true };
        if self.nodes.get(&member.id).is_some_and(|k| k.stopped && k.incarnation == admission.incarnation) {
            return true;
        }
        if member.leaving.is_some_and(|l| l.assume_dead) {
            return true;
        }
        match isolated {
            Isolated::Refuse => now_ns > self.lease_ends_ns(member.id),
            Isolated::Serve => false,
        }
    }

    /// Whether every possible server has acked `hold` or has provably stopped serving its slots.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, state: &ClusterState, now_ns: u64) -> Barrier {
        let isolated = state.products.get(&hold.product).map_or(Isolated::Refuse, |p| p.isolated);
        let waiting: Vec<String> = state
            .members
            .values()
            .filter(|m| !self.acked(m, hold.id) && !self.has_stopped_serving(m, isolated, now_ns))
            .map(|m| match isolated {
                Isolated::Refuse => format!("node {} has not acked, its lease may not have ended", m.id),
                Isolated::Serve => format!("node {} has not acked and may continue to serve without a lease", m.id),
            })
            .collect();
        if waiting.is_empty() { Barrier::Passed } else { Barrier::Waiting(waiting) }
    }

    /// Whether a node that is being removed can be dropped from the members.
    ///
    /// # Errors
    /// Returns what that waits for.
    pub fn removable(&self, member: &Member, state: &ClusterState, now_ns: u64) -> Result<(), Wait> {
        let serves_alone = state.products.values().find(|p| p.isolated == Isolated::Serve);
        let isolated = if serves_alone.is_some() { Isolated::Serve } else { Isolated::Refuse };
        if self.has_stopped_serving(member, isolated, now_ns) {
            return Ok(());
        }
        let id = member.id;
        Err(match serves_alone {
            Some(product) => Wait::new(
                format!(
                    "node {id}, which is removed, has not said that it stops, and product '{}' lets it serve without a lease",
                    product.name
                ),
                format!("its process says so, or you know that it has ended: pontoon node remove {id} --assume-dead"),
            ),
            None => Wait::new(
                format!("the lease of node {id}, which is removed, may not have ended"),
                format!("it says that it stops, or {} later", left(self.lease_ends_ns(id).saturating_sub(now_ns))),
            ),
        })
    }

    fn acked(&self, member: &Member, hold: HoldId) -> bool {
        let Some(admission) = member.admitted else { return false };
        self.nodes.get(&member.id).is_some_and(|k| k.incarnation == admission.incarnation && k.acks.contains(&hold))
    }

    /// The row of a node. Acks of a former incarnation are dropped, its lease is kept.
    fn known(&mut self, node: NodeId, incarnation: Incarnation) -> &mut NodeLease {
        let known = self.nodes.entry(node).or_default();
        if known.incarnation < incarnation {
            known.incarnation = incarnation;
            known.acks.clear();
            known.stopped = false;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        ids::{HostPort, ProductId, Uuid},
        route::{HoldKind, Mode},
        slot::Layout,
        state::{Admission, Cause, Leaving, Product},
    };

    const SECOND: u64 = 1_000_000_000;

    fn member(id: u64) -> Member {
        Member {
            id: NodeId(id),
            uuid: Uuid(u128::from(id)),
            admin: HostPort::parse(&format!("127.0.0.1:{}", 19100 + id)).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: 0,
            role: crate::model::state::Role::Auto,
            admitted: Some(Admission { start: Uuid(7), incarnation: Incarnation(id) }),
            leaving: None,
        }
    }

    /// Members 1 and 2, one product, and one hold of it if asked for.
    fn state(isolated: Isolated, hold: bool) -> ClusterState {
        let mut state = ClusterState { route_epoch: Epoch(40), ..ClusterState::default() };
        state.members = [1, 2].map(|id| (NodeId(id), member(id))).into();
        let product = Product {
            id: ProductId(1),
            name: "default".into(),
            port: 19000,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated,
            databases: 16,
            auth: Default::default(),
            groups: BTreeMap::new(),
            auto_rebalance: false,
            min_acks: 0,
            min_acks_ms: 1000,
            clients_max: 0,
            rules: Default::default(),
            reads: crate::model::reads::ReadPolicy::default(),
            scripts: Default::default(),
            sweep_runs: 0,
            slots: Vec::new(),
            scans: Default::default(),
        };
        state.products.insert(product.id, product);
        if hold {
            state.holds.insert(HoldId(41), hold_41());
        }
        state
    }

    fn hold_41() -> Hold {
        Hold {
            id: HoldId(41),
            cause: Cause::Assignment(crate::model::ids::AssignmentId(30)),
            attempt: 1,
            product: ProductId(1),
            slots: BTreeSet::new(),
            kind: HoldKind::Wait,
            term: Term(3),
            since_ms: 0,
            reason: String::new(),
        }
    }

    fn table() -> LeaseTable {
        LeaseTable::new(Term(3), 0, Timing::default())
    }

    fn ack(table: &mut LeaseTable, node: u64) {
        table.ack(NodeId(node), Incarnation(node), &BTreeSet::from([HoldId(41)]));
    }

    fn passed(table: &LeaseTable, state: &ClusterState, now_ns: u64) -> bool {
        table.barrier(&hold_41(), state, now_ns) == Barrier::Passed
    }

    #[test]
    fn a_lease_requires_admission_and_the_acks_of_all_open_holds() {
        let mut table = table();
        let free = state(Isolated::Refuse, false);
        assert_eq!(table.grant(&member(1), Incarnation(1), &free, 0), LeaseDecision::Lease(Epoch(40)));
        assert!(matches!(table.grant(&member(1), Incarnation(9), &free, 0), LeaseDecision::NotYet(_)));
        let never = Member { admitted: None, ..member(1) };
        assert!(matches!(table.grant(&never, Incarnation(1), &free, 0), LeaseDecision::NotYet(_)));
        let leaving = Member { leaving: Some(Leaving { since: Epoch(1), assume_dead: false }), ..member(1) };
        assert!(matches!(table.grant(&leaving, Incarnation(1), &free, 0), LeaseDecision::NotYet(_)));
        let held = state(Isolated::Refuse, true);
        assert!(matches!(table.grant(&member(1), Incarnation(1), &held, 0), LeaseDecision::NotYet(_)));
        ack(&mut table, 1);
        assert_eq!(table.grant(&member(1), Incarnation(1), &held, 0), LeaseDecision::Lease(Epoch(40)));
        table.stopped(NodeId(1), Incarnation(1));
        assert!(matches!(table.grant(&member(1), Incarnation(1), &held, 0), LeaseDecision::NotYet(_)));
    }

    #[test]
    fn a_barrier_waits_for_acks_or_for_the_end_of_leases() {
        let mut table = table();
        let held = state(Isolated::Refuse, true);
        assert!(!passed(&table, &held, 0));
        ack(&mut table, 1);
        assert!(!passed(&table, &held, 0));
        ack(&mut table, 2);
        assert!(passed(&table, &held, 0));
    }

    #[test]
    fn a_new_leader_waits_for_a_lease_and_a_margin_for_nodes_that_sent_no_heartbeat() {
        let mut table = table();
        let held = state(Isolated::Refuse, true);
        ack(&mut table, 1);
        // 3 s + 1 % + 5 ms.
        assert!(!passed(&table, &held, 3_035_000_000));
        assert!(passed(&table, &held, 3_035_000_001));
    }

    #[test]
    fn a_barrier_waits_until_a_granted_lease_has_ended() {
        let mut table = table();
        let now = 10 * SECOND;
        table.grant(&member(2), Incarnation(2), &state(Isolated::Refuse, false), now);
        let held = state(Isolated::Refuse, true);
        ack(&mut table, 1);
        assert!(!passed(&table, &held, now + 3_035_000_000));
        assert!(passed(&table, &held, now + 3_035_000_001));
    }

    #[test]
    fn a_barrier_waits_for_a_silent_node_of_a_product_that_serves_isolated() {
        let mut table = table();
        let held = state(Isolated::Serve, true);
        ack(&mut table, 1);
        assert!(!passed(&table, &held, 3600 * SECOND));
        let mut assumed_dead = held.clone();
        assumed_dead.members.get_mut(&NodeId(2)).unwrap().leaving =
            Some(Leaving { since: Epoch(1), assume_dead: true });
        assert!(passed(&table, &assumed_dead, 3600 * SECOND));
        table.stopped(NodeId(2), Incarnation(2));
        assert!(passed(&table, &held, 0));
    }

    #[test]
    fn acks_belong_to_an_incarnation() {
        let mut table = table();
        ack(&mut table, 1);
        ack(&mut table, 2);
        let mut held = state(Isolated::Refuse, true);
        let restarted = Admission { start: Uuid(8), incarnation: Incarnation(50) };
        held.members.get_mut(&NodeId(2)).unwrap().admitted = Some(restarted);
        assert!(!passed(&table, &held, 0));
        table.ack(NodeId(2), Incarnation(50), &BTreeSet::from([HoldId(41)]));
        assert!(passed(&table, &held, 0));
    }

    #[test]
    fn a_lease_that_has_ended_is_known_by_its_end() {
        let mut table = table();
        let free = state(Isolated::Refuse, false);
        let now = 10 * SECOND;
        assert_eq!(table.ended(&free, 3_035_000_000), [].into(), "the former leader may have granted leases");
        table.grant(&member(2), Incarnation(2), &free, now);
        let of_1 = (NodeId(1), 3_035_000_000);
        assert_eq!(table.ended(&free, now), [of_1].into());
        let ends = now + 3_035_000_000;
        assert_eq!(table.ended(&free, ends + 1), [of_1, (NodeId(2), ends)].into());
        // It is removed before its connections are closed.
        let mut removed = free.clone();
        removed.members.remove(&NodeId(2));
        assert_eq!(table.ended(&removed, ends + 1), [of_1, (NodeId(2), ends)].into());
        // It serves again, and falls silent again.
        table.grant(&member(2), Incarnation(2), &free, ends + SECOND);
        assert_eq!(table.ended(&free, ends + SECOND), [of_1].into());
        assert_eq!(table.ended(&free, ends + 5 * SECOND)[&NodeId(2)], ends + SECOND + 3_035_000_000);
    }

    #[test]
    fn a_node_is_dropped_when_it_has_provably_stopped_serving() {
        let table = table();
        let leaving = |assume_dead| Member { leaving: Some(Leaving { since: Epoch(1), assume_dead }), ..member(2) };
        let refuse = state(Isolated::Refuse, false);
        assert!(table.removable(&leaving(false), &refuse, SECOND).is_err());
        assert!(table.removable(&leaving(false), &refuse, 4 * SECOND).is_ok());
        let serve = state(Isolated::Serve, false);
        assert!(table.removable(&leaving(false), &serve, 400 * SECOND).unwrap_err().text().contains("--assume-dead"));
        assert!(table.removable(&leaving(true), &serve, SECOND).is_ok());
    }
}
