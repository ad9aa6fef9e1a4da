//! The answers of the heartbeat handler, heartbeat by heartbeat.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    model::state::{Admission, Leaving, Role},
    plan::observation::AgedReport,
};

const FORMER: Uuid = Uuid(1);
const NEW: Uuid = Uuid(2);
/// Half a heartbeat.
const HALF: u64 = 250_000_000;

fn member() -> Member {
    Member {
        id: NodeId(1),
        uuid: Uuid(9),
        admin: HostPort::parse("127.0.0.1:24101").unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 1,
        role: Role::Auto,
        admitted: Some(Admission { start: FORMER, incarnation: Incarnation(5) }),
        leaving: None,
    }
}

fn heartbeat(start: Uuid, incarnation: Option<u64>) -> Heartbeat {
    let m = member();
    Heartbeat {
        node: NewMember { id: m.id, uuid: m.uuid, admin: m.admin, advertise: m.advertise, port_offset: m.port_offset },
        start,
        incarnation: incarnation.map(Incarnation),
        applied: Epoch(5),
        route_epoch: Epoch(5),
        drained: BTreeSet::new(),
        waiting: BTreeMap::new(),
        listeners: BTreeMap::new(),
        version: String::new(),
        stopping: false,
        movers: Vec::new(),
        servers: Vec::new(),
        memory: MemoryReport::default(),
        secrets: None,
    }
}

fn former_sends(handler: &mut HeartbeatHandler, now: u64) {
    handler.note(&heartbeat(FORMER, Some(5)), Incarnation(5), now);
}

fn new_sends(handler: &mut HeartbeatHandler, now: u64) -> &'static str {
    match handler.admit_start(&heartbeat(NEW, None), &member(), now) {
        HandlerReply::Admit => "admit",
        HandlerReply::Grant(Grant::DuplicateNode) => "duplicate",
        HandlerReply::Grant(_) => "wait",
    }
}

#[test]
fn late_heartbeats_of_a_start_that_has_ended_do_not_prove_that_it_is_alive() {
    let mut handler = HeartbeatHandler::new(Timing::default());
    former_sends(&mut handler, 0);
    assert_eq!(new_sends(&mut handler, HALF), "wait");
    // The leader was starved: heartbeats of the start that has ended are in its sockets, and are read in any order.
    for late in 1..5 {
        former_sends(&mut handler, 4 * HALF + late);
    }
    assert_eq!(new_sends(&mut handler, 4 * HALF + 9), "wait");
    assert_eq!(new_sends(&mut handler, 9 * HALF), "admit");
    assert_eq!(new_sends(&mut handler, 9 * HALF + 1), "wait");
}

#[test]
fn a_start_beside_one_that_is_alive_is_a_duplicate_and_never_admitted() {
    let mut handler = HeartbeatHandler::new(Timing::default());
    let mut last = "";
    for i in 0..6 {
        former_sends(&mut handler, 2 * i * HALF);
        last = new_sends(&mut handler, 2 * i * HALF + 1);
        assert_ne!(last, "admit");
    }
    assert_eq!(last, "duplicate");
}

/// Member 1, admitted as `FORMER`, in a cluster at route epoch 40.
fn state(change: impl FnOnce(&mut Member)) -> ClusterState {
    let mut member = member();
    change(&mut member);
    ClusterState { route_epoch: Epoch(40), members: [(NodeId(1), member)].into(), ..ClusterState::default() }
}

fn open_handler() -> HeartbeatHandler {
    let mut handler = HeartbeatHandler::new(Timing::default());
    handler.open(Some(Term(3)), 0);
    handler
}

#[test]
fn a_lease_is_granted_after_a_round_only_and_in_its_term_only() {
    let (mut handler, state, heartbeat) = (open_handler(), state(|_| ()), heartbeat(FORMER, Some(5)));
    let asked = RoundPurpose::Lease(Incarnation(5));
    assert_eq!(handler.arrives(&heartbeat, &state, HALF), HandlerStep::Round(asked));
    assert_eq!(handler.view().nodes[&NodeId(1)].lease_ends_ns, 0, "nothing is granted before the round");
    let lease = HandlerReply::Grant(Grant::Lease { length: Timing::default().lease, min_applied: Epoch(40) });
    assert_eq!(handler.after_round(&heartbeat, asked, Term(3), &state, 2 * HALF), lease);
    let leader_counts = as_ns(Timing::default().lease_at_leader());
    assert_eq!(handler.view().nodes[&NodeId(1)].lease_ends_ns, 2 * HALF + leader_counts, "from the answer on");
    // A confirmation of a former term proves nothing now; one of a later term begins with an empty table.
    assert_eq!(handler.after_round(&heartbeat, asked, Term(2), &state, HALF), HandlerReply::Grant(Grant::NotLeader));
    assert_eq!(handler.after_round(&heartbeat, asked, Term(4), &state, HALF), lease);
    assert_eq!(handler.view().term, Some(Term(4)));
}

/// A former leader that was paused before the node became a member (or was admitted) must not order it to stop.
#[test]
fn a_node_is_ordered_to_stop_only_after_a_quorum_confirmation() {
    let gone = ClusterState { members: BTreeMap::new(), ..state(|_| ()) };
    let other = state(|m| m.uuid = Uuid(8));
    let leaving = state(|m| m.leaving = Some(Leaving { since: Epoch(1), assume_dead: false }));
    let mut handler = open_handler();
    let former = heartbeat(FORMER, Some(5));
    for state in [&other, &leaving] {
        assert_eq!(handler.arrives(&former, state, 0), HandlerStep::Round(RoundPurpose::End));
        assert_eq!(
            handler.after_round(&former, RoundPurpose::End, Term(3), state, 0),
            HandlerReply::Grant(Grant::NotMember)
        );
    }
    assert!(matches!(handler.arrives(&former, &gone, 0), HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_)))));
    // Entries that were applied in the meantime change the decision: it is a member, and gets its lease.
    assert_eq!(handler.arrives(&former, &other, 0), HandlerStep::Round(RoundPurpose::End));
    let reply = handler.after_round(&former, RoundPurpose::End, Term(3), &state(|_| ()), 0);
    assert!(matches!(reply, HandlerReply::Grant(Grant::Lease { .. })), "{reply:?}");
}

/// Two starts wait for admission, the leader is stopped, and finds the heartbeats of both: the start that has ended may
/// be admitted last, which must not stop the one that is alive. Found by the simulation.
#[test]
fn a_start_that_was_replaced_by_an_ended_start_is_admitted_again() {
    let retired = state(|m| m.admitted = Some(Admission { start: NEW, incarnation: Incarnation(6) }));
    let (living, ended) = (heartbeat(FORMER, Some(5)), heartbeat(NEW, Some(6)));
    let waits = |step: &HandlerStep| matches!(step, HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_))));
    let mut handler = open_handler();
    assert!(waits(&handler.arrives(&living, &retired, 0)));
    // Its late heartbeats are read together.
    handler.arrives(&ended, &retired, 1);
    handler.arrives(&ended, &retired, 2);
    assert!(waits(&handler.arrives(&living, &retired, 2 * HALF)));
    assert_eq!(handler.arrives(&living, &retired, 5 * HALF), HandlerStep::Done(HandlerReply::Admit));
    // A start that has sent no heartbeat does not make the wait longer.
    let mut handler = open_handler();
    assert!(waits(&handler.arrives(&living, &retired, 0)));
    assert!(waits(&handler.arrives(&living, &retired, 2 * HALF)));
    assert_eq!(handler.arrives(&living, &retired, 4 * HALF), HandlerStep::Done(HandlerReply::Admit));
    // But one that still sends heartbeats is alive.
    let mut handler = open_handler();
    for i in 0..2 {
        assert!(waits(&handler.arrives(&living, &retired, 2 * i * HALF)));
        handler.arrives(&ended, &retired, 2 * i * HALF + HALF);
    }
    assert_eq!(handler.arrives(&living, &retired, 4 * HALF), HandlerStep::Round(RoundPurpose::End));
    let reply = handler.after_round(&living, RoundPurpose::End, Term(3), &retired, 4 * HALF);
    assert_eq!(reply, HandlerReply::Grant(Grant::DuplicateNode));
}

/// A process that was ordered to stop ends and does not come back. If two of three voters were removed together, the
/// third could decide nothing; if a cluster's only voter was removed, a node that never voted would be left. Found by
/// the simulation.
#[test]
fn a_voter_is_ordered_to_stop_only_when_raft_does_not_need_it() {
    let leaving = state(|m| m.leaving = Some(Leaving { since: Epoch(1), assume_dead: false }));
    let mut handler = open_handler();
    handler.set_voters([NodeId(1), NodeId(2)]);
    for heartbeat in [heartbeat(FORMER, Some(5)), heartbeat(NEW, None)] {
        let step = handler.arrives(&heartbeat, &leaving, 10 * HALF);
        assert!(matches!(step, HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_)))), "{step:?}");
    }
    handler.open(Some(Term(4)), 20 * HALF);
    let step = handler.arrives(&heartbeat(FORMER, Some(5)), &leaving, 20 * HALF);
    assert!(
        matches!(step, HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_)))),
        "a later term needs it as well: {step:?}"
    );
    handler.set_voters([NodeId(2)]);
    assert_eq!(
        handler.arrives(&heartbeat(FORMER, Some(5)), &leaving, 21 * HALF),
        HandlerStep::Round(RoundPurpose::End)
    );
    let reply = handler.after_round(&heartbeat(FORMER, Some(5)), RoundPurpose::End, Term(4), &leaving, 21 * HALF);
    assert_eq!(reply, HandlerReply::Grant(Grant::NotMember));
}

/// Its last heartbeat was lost. Found by the simulation.
#[test]
fn a_restart_during_a_removal_proves_that_the_former_start_has_ended() {
    let leaving = state(|m| m.leaving = Some(Leaving { since: Epoch(1), assume_dead: false }));
    let silent = |handler: &HeartbeatHandler| {
        handler.table().unwrap().has_stopped_serving(&leaving.members[&NodeId(1)], Isolated::Serve, 0)
    };
    let mut handler = open_handler();
    assert_eq!(handler.arrives(&heartbeat(FORMER, Some(5)), &leaving, 0), HandlerStep::Round(RoundPurpose::End));
    let step = handler.arrives(&heartbeat(NEW, None), &leaving, HALF);
    assert!(
        matches!(step, HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_)))),
        "it sent a heartbeat just now: {step:?}"
    );
    assert!(!silent(&handler));
    assert_eq!(handler.arrives(&heartbeat(NEW, None), &leaving, 5 * HALF), HandlerStep::Round(RoundPurpose::End));
    let reply = handler.after_round(&heartbeat(NEW, None), RoundPurpose::End, Term(3), &leaving, 5 * HALF);
    assert_eq!(reply, HandlerReply::Grant(Grant::NotMember));
    assert!(silent(&handler));
}

#[test]
fn reports_are_kept_of_the_admitted_start_and_for_the_term() {
    let server = HostPort::parse("127.0.0.1:6379").unwrap();
    let mut state = state(|_| ());
    named(&mut state, std::slice::from_ref(&server));
    let sees = |failing_ms| ProbeReport { failing_ms, ..ProbeReport::default() };
    let says = |start, incarnation, failing_ms| Heartbeat {
        servers: vec![(server.clone(), sees(failing_ms)), (HostPort::parse("127.0.0.1:1").unwrap(), sees(None))],
        ..heartbeat(start, incarnation)
    };
    let mut handler = HeartbeatHandler::new(Timing::default());
    assert_eq!(handler.keep_reports(&says(FORMER, Some(5), None), &state, 0), None, "it does not lead");
    handler.open(Some(Term(3)), 0);
    assert_eq!(handler.keep_reports(&says(NEW, None, None), &state, 0), None, "not admitted");
    let unknown_node =
        Heartbeat { node: NewMember { uuid: Uuid(8), ..says(FORMER, Some(5), None).node }, ..heartbeat(FORMER, None) };
    assert_eq!(handler.keep_reports(&unknown_node, &state, 0), None);
    assert!(handler.view().servers.is_empty());
    assert_eq!(handler.keep_reports(&says(FORMER, Some(5), Some(9)), &state, HALF), Some(Term(3)));
    let observed = handler.view().observation(3 * HALF);
    assert_eq!(observed.keys().collect::<Vec<_>>(), [&server], "the log names no other");
    assert_eq!(observed[&server][&NodeId(1)], AgedReport { report: sees(Some(9)), age_ms: 500 });
    // A heartbeat without reports leaves earlier ones in place.
    assert_eq!(handler.keep_reports(&heartbeat(FORMER, Some(5)), &state, 2 * HALF), Some(Term(3)));
    assert_eq!(handler.view().observation(3 * HALF), observed);
    // A later start has reported nothing yet; reports of the former one are dropped.
    let admitted = Some(Admission { start: NEW, incarnation: Incarnation(6) });
    state.members.get_mut(&NodeId(1)).unwrap().admitted = admitted;
    assert_eq!(handler.keep_reports(&heartbeat(NEW, Some(6)), &state, 3 * HALF), Some(Term(3)));
    assert!(handler.view().observation(3 * HALF).values().all(BTreeMap::is_empty));
    assert_eq!(handler.keep_reports(&says(FORMER, Some(5), None), &state, 3 * HALF), None, "it is over");
    assert_eq!(handler.keep_reports(&says(NEW, Some(6), None), &state, 3 * HALF), Some(Term(3)));
    assert_eq!(handler.view().observation(3 * HALF)[&server][&NodeId(1)].report, sees(None));
    // Another term begins without reports; those about a server or of a node that is gone are dropped.
    let of_3 = handler.view().clone();
    handler.open(Some(Term(4)), 4 * HALF);
    assert!(handler.view().servers.is_empty());
    for gone in [ClusterState { products: BTreeMap::new(), ..state.clone() }, ClusterState::default()] {
        let mut view = of_3.clone();
        view.keep_reports(NodeId(2), Incarnation(9), &[], &gone, 4 * HALF);
        assert!(view.observation(4 * HALF).values().all(BTreeMap::is_empty));
    }
}

#[test]
fn the_live_voters_are_known_after_a_lease() {
    let mut handler = open_handler();
    handler.note(&heartbeat(FORMER, Some(5)), Incarnation(5), HALF);
    let lease = Timing::default().lease;
    let alive = |now: u64| handler.view().alive([NodeId(1), NodeId(2)], lease, now);
    assert_eq!(alive(5 * HALF), BTreeSet::from([NodeId(1), NodeId(2)]), "the second may be about to send a heartbeat");
    assert_eq!(alive(12 * HALF), BTreeSet::from([NodeId(1)]));
    assert_eq!(alive(13 * HALF), BTreeSet::new());
}

/// A group of these servers.
fn named(state: &mut ClusterState, servers: &[HostPort]) {
    use crate::model::{
        apply::apply,
        change::{Change, CreateGroup, NewProduct},
        ids::GroupId,
        outcome::Outcome,
        route::Mode,
        slot::Layout,
        state::{Entry, Position, Server},
    };
    let product = NewProduct {
        name: "p".into(),
        port: 19_000,
        layout: Layout::Codis,
        mode: Mode::Store,
        isolated: Isolated::Refuse,
        databases: 16,
        auth: None,
    };
    let server = |addr: &HostPort| Server::new(addr.clone(), "run".into(), 0);
    let servers = servers.iter().map(server).collect();
    let mut make = |index: u64, change| {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, author: Default::default(), change };
        apply(state, &entry, Position { index: Epoch(index), term: Term(3) }).unwrap()
    };
    let Outcome::Product(product) = make(50, Change::CreateProduct(product)) else { panic!("another outcome") };
    make(
        51,
        Change::CreateGroup(CreateGroup { product, group: GroupId(1), servers, credentials: None, data_user: None }),
    );
}

#[test]
fn a_start_that_stops_is_neither_admitted_nor_leased() {
    let mut handler = open_handler();
    let stopping = |start, incarnation| Heartbeat { stopping: true, ..heartbeat(start, incarnation) };
    for heartbeat in [stopping(FORMER, Some(5)), stopping(NEW, None)] {
        let step = handler.arrives(&heartbeat, &state(|_| ()), 0);
        assert!(matches!(step, HandlerStep::Done(HandlerReply::Grant(Grant::NotYet(_)))), "{step:?}");
    }
    assert!(handler.table().unwrap().has_stopped_serving(&member(), Isolated::Serve, 0), "nobody waits for it");
}
