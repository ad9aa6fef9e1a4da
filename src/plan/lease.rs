//! The leader's table of leases and acks, and what follows from it: who gets a lease, whether a barrier has passed,
//! whether a node surely serves no more. Belongs to one term; a new term begins with an empty table.
//! Knows nothing of quorum rounds; whoever calls `grant` has had one that began after the heartbeat arrived.

use std::collections::{BTreeMap, BTreeSet};

use super::timing::{Timing, as_ns};
use crate::model::{
    ids::{Epoch, HoldId, Incarnation, NodeId, Term},
    route::Isolated,
    state::{ClusterState, Hold, Member},
};

/// Leases and acks of one term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTable {
    term: Term,
    /// Until then every possible server is treated as leased: a former leader may have granted at its very end.
    quiet_until_ns: u64,
    nodes: BTreeMap<NodeId, NodeLease>,
    timing: Timing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeLease {
    /// When its lease surely ends; 0: none granted in this term.
    lease_ends_ns: u64,
    /// Whose acks these are.
    incarnation: Incarnation,
    acks: BTreeSet<HoldId>,
    /// This incarnation said that it has stopped serving for good.
    stopped: bool,
}

/// What a heartbeat is answered, once its quorum round is through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseDecision {
    /// Lease from the send of the heartbeat; tables at this route epoch or later.
    Lease(Epoch),
    /// Not now; why.
    NotYet(String),
}

/// Whether the change behind a hold may be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Every possible server holds, or surely does not serve.
    Passed,
    /// Who is waited for, a sentence each.
    Waiting(Vec<String>),
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

    /// A node of this incarnation holds these and has nothing of before in flight. Acks are facts of an incarnation:
    /// it goes on holding until it applies the hold's end, so they need no round.
    pub fn ack(&mut self, node: NodeId, incarnation: Incarnation, drained: &BTreeSet<HoldId>) {
        let known = self.known(node, incarnation);
        known.acks.extend(drained);
    }

    /// This incarnation serves no more and never will again.
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
            return LeaseDecision::NotYet(format!("node {} said that it stops", member.id));
        }
        known.acks.retain(|hold| state.holds.contains_key(hold));
        if let Some(hold) = state.holds.keys().find(|hold| !known.acks.contains(hold)) {
            return LeaseDecision::NotYet(format!("hold {hold} is open and node {} has not acked it", member.id));
        }
        known.lease_ends_ns = known.lease_ends_ns.max(now_ns + lease_ns);
        LeaseDecision::Lease(state.route_epoch)
    }

    /// When the last lease of a node surely ends on this clock; in the quiet time at least its end.
    #[must_use]
    pub fn lease_ends_ns(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |k| k.lease_ends_ns).max(self.quiet_until_ns)
    }

    /// Whether a member surely delivers no reply of a product with this `isolated`, now and without a new lease.
    #[must_use]
    pub fn surely_silent(&self, member: &Member, isolated: Isolated, now_ns: u64) -> bool {
        // Never admitted: it never had a lease, and before its first one a node serves nothing.
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

    /// Whether every possible server has acked `hold`, or surely serves its slots no more.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, state: &ClusterState, now_ns: u64) -> Barrier {
        let isolated = state.products.get(&hold.product).map_or(Isolated::Refuse, |p| p.isolated);
        let waiting: Vec<String> = state
            .members
            .values()
            .filter(|m| !self.acked(m, hold.id) && !self.surely_silent(m, isolated, now_ns))
            .map(|m| match isolated {
                Isolated::Refuse => format!("node {} has not acked, its lease may not have ended", m.id),
                Isolated::Serve => format!("node {} has not acked and may go on serving without a lease", m.id),
            })
            .collect();
        if waiting.is_empty() { Barrier::Passed } else { Barrier::Waiting(waiting) }
    }

    /// Whether a node that is being removed can be dropped from the possible servers; `Err`: why not yet.
    ///
    /// # Errors
    /// The reason, for the operator.
    pub fn removable(&self, member: &Member, state: &ClusterState, now_ns: u64) -> Result<(), String> {
        let serves_alone = state.products.values().find(|p| p.isolated == Isolated::Serve);
        let isolated = if serves_alone.is_some() { Isolated::Serve } else { Isolated::Refuse };
        if self.surely_silent(member, isolated, now_ns) {
            return Ok(());
        }
        Err(match serves_alone {
            Some(product) => format!(
                "node {id} is silent, and product {name} lets a node serve without a lease: if it is surely dead, run \
                 `pontoon node remove {id} --assume-dead`",
                id = member.id,
                name = product.name
            ),
            None => format!("the lease of node {} may not have ended", member.id),
        })
    }

    fn acked(&self, member: &Member, hold: HoldId) -> bool {
        let Some(admission) = member.admitted else { return false };
        self.nodes.get(&member.id).is_some_and(|k| k.incarnation == admission.incarnation && k.acks.contains(&hold))
    }

    /// The row of a node; acks of a former incarnation are forgotten, its lease is not.
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
            auth: None,
            groups: BTreeMap::new(),
            auto_rebalance: false,
            min_acks: 0,
            min_acks_ms: 1000,
            reads: crate::model::reads::ReadPolicy::default(),
            sweep_runs: 0,
            slots: Vec::new(),
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
    fn a_lease_demands_admission_and_the_acks_of_all_open_holds() {
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
    fn a_new_leader_waits_a_lease_and_a_little_for_those_it_has_not_heard() {
        let mut table = table();
        let held = state(Isolated::Refuse, true);
        ack(&mut table, 1);
        // 3 s + 1 % + 5 ms.
        assert!(!passed(&table, &held, 3_035_000_000));
        assert!(passed(&table, &held, 3_035_000_001));
    }

    #[test]
    fn a_lease_granted_is_waited_for_to_its_end() {
        let mut table = table();
        let now = 10 * SECOND;
        table.grant(&member(2), Incarnation(2), &state(Isolated::Refuse, false), now);
        let held = state(Isolated::Refuse, true);
        ack(&mut table, 1);
        assert!(!passed(&table, &held, now + 3_035_000_000));
        assert!(passed(&table, &held, now + 3_035_000_001));
    }

    #[test]
    fn a_silent_node_of_a_serving_product_is_waited_for() {
        let mut table = table();
        let held = state(Isolated::Serve, true);
        ack(&mut table, 1);
        assert!(!passed(&table, &held, 3600 * SECOND));
        let mut vouched = held.clone();
        vouched.members.get_mut(&NodeId(2)).unwrap().leaving = Some(Leaving { since: Epoch(1), assume_dead: true });
        assert!(passed(&table, &vouched, 3600 * SECOND));
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
    fn a_node_is_dropped_when_it_surely_serves_no_more() {
        let table = table();
        let leaving = |assume_dead| Member { leaving: Some(Leaving { since: Epoch(1), assume_dead }), ..member(2) };
        let refuse = state(Isolated::Refuse, false);
        assert!(table.removable(&leaving(false), &refuse, SECOND).is_err());
        assert!(table.removable(&leaving(false), &refuse, 4 * SECOND).is_ok());
        let serve = state(Isolated::Serve, false);
        assert!(table.removable(&leaving(false), &serve, 400 * SECOND).unwrap_err().contains("--assume-dead"));
        assert!(table.removable(&leaving(true), &serve, SECOND).is_ok());
    }
}
