//! Tables of what the leader decides: leases and barriers, who votes, the next step of an assignment.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use pontoon::{
    model::{
        apply::apply,
        change::{Change, NewMember},
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, Incarnation, NodeId, ProductId, SlotId, Term, Uuid},
        route::{HoldKind, Isolated},
        state::{Cause, ClusterState, Entry, Position, Role, Server},
    },
    plan::{
        assign::{self, Action, Found, HoldSeen, Scan, Seen, group_epochs},
        lease::{Barrier, Beat, LeaseTable, NoGrant},
        membership,
        timing::{MS, Timing},
    },
};

const TERM: Term = Term(1);

fn member(id: u64) -> NewMember {
    let admin = HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap();
    NewMember { id: NodeId(id), uuid: Uuid(u128::from(id)), admin, advertise: format!("n{id}"), port_offset: 0 }
}

fn act(state: &mut ClusterState, change: Change) -> u64 {
    let index = state.applied.0 + 1;
    let entry = Entry { id: Uuid(u128::from(index)), at_ms: 0, change };
    apply(state, &entry, Position { index: Epoch(index), term: TERM }).unwrap();
    index
}

/// Two nodes, both admitted (entries 2 and 3); groups 1 and 2; slots 0-9 of group 1 are to go to group 2.
fn cluster() -> (ClusterState, AssignmentId) {
    let mut state = ClusterState::default();
    act(&mut state, Change::Bootstrap { members: vec![member(1), member(2)], port: 19000 });
    for id in 1..=2 {
        act(&mut state, Change::Admit { member: member(id), start: Uuid(50 + u128::from(id)) });
    }
    let product = ProductId(1);
    for n in 1..=2 {
        let addr = HostPort::parse(&format!("10.0.1.{n}:6379")).unwrap();
        let servers = vec![Server { addr, run_id: String::new(), keys_when_added: 0 }];
        act(&mut state, Change::CreateGroup { product, group: GroupId(n), servers, credentials: None });
    }
    let slots: BTreeSet<SlotId> = (0..10).map(SlotId).collect();
    act(&mut state, Change::AssignFree { product, slots: slots.clone(), to: GroupId(1) });
    let id = act(&mut state, Change::StartAssign { product, slots, to: GroupId(2) });
    (state, AssignmentId(id))
}

fn hold(state: &mut ClusterState, id: AssignmentId) -> HoldId {
    let attempt = state.assignments[&id].attempts + 1;
    let cause = Cause::Assignment(id);
    HoldId(act(state, Change::Hold { cause, attempt, kind: HoldKind::Wait, reason: String::new() }))
}

fn beat(id: u64, drained: &[HoldId]) -> Beat {
    Beat {
        node: NodeId(id),
        uuid: Uuid(u128::from(id)),
        start: Uuid(50 + u128::from(id)),
        incarnation: Incarnation(1 + id),
        drained: drained.iter().copied().collect(),
        stopping: false,
    }
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Long after the quiet time of a table made at 0.
const LATER: u64 = 100_000 * MS;
/// A lease, 1 % and 5 ms: when a grant has surely ended.
const ENDED: u64 = 3_035 * MS;

#[test]
fn a_grant_needs_its_term_its_start_and_all_acks() {
    let (mut state, id) = cluster();
    let mut table = LeaseTable::new(TERM, 0, Timing::default());
    assert_eq!(table.grant(&beat(1, &[]), &state, TERM, 5).unwrap().min_applied, state.route_epoch);
    assert_eq!(table.grant(&beat(1, &[]), &state, Term(2), 5), Err(NoGrant::OtherTerm));
    assert_eq!(table.grant(&beat(3, &[]), &state, TERM, 5), Err(NoGrant::NotAMember(NodeId(3))));
    let former = Beat { start: Uuid(9), ..beat(1, &[]) };
    assert_eq!(table.grant(&former, &state, TERM, 5), Err(NoGrant::NotAdmitted(NodeId(1))));
    let open = hold(&mut state, id);
    assert_eq!(table.grant(&beat(1, &[]), &state, TERM, 5), Err(NoGrant::HoldOpen(open)));
    assert!(table.grant(&beat(1, &[open]), &state, TERM, 5).is_ok());
    act(&mut state, Change::BeginRemove { node: NodeId(1), assume_dead: false });
    assert_eq!(table.grant(&beat(1, &[open]), &state, TERM, 5), Err(NoGrant::Leaving(NodeId(1))));
}

#[test]
fn a_barrier_passes_by_acks_or_by_leases_that_ended() {
    let (mut state, id) = cluster();
    let mut table = LeaseTable::new(TERM, 0, Timing::default());
    table.grant(&beat(2, &[]), &state, TERM, LATER).unwrap();
    let id = hold(&mut state, id);
    let open = state.holds[&id].clone();
    let passes = |table: &LeaseTable, state: &ClusterState, now| {
        matches!(table.barrier(&open, state, now), Barrier::Passed { term: TERM })
    };
    table.heard(&beat(1, &[id]), &state, LATER);
    assert!(!passes(&table, &state, LATER), "node 2 has a lease");
    assert!(!passes(&table, &state, LATER + ENDED - 1));
    assert!(passes(&table, &state, LATER + ENDED), "its lease has surely ended");
    let mut serve = state.clone();
    serve.products.values_mut().for_each(|p| p.isolated = Isolated::Serve);
    assert!(!passes(&table, &serve, LATER + ENDED), "a silent node may go on serving");
    let mut acked = table.clone();
    acked.heard(&beat(2, &[id]), &serve, LATER);
    assert!(passes(&acked, &serve, LATER), "an ack is enough");
    // Acks are of an incarnation: a new start has not acked.
    act(&mut serve, Change::Admit { member: member(1), start: Uuid(77) });
    assert!(!passes(&acked, &serve, LATER));
    // A new leader's empty table treats everybody as leased for a while.
    let new = LeaseTable::new(TERM, LATER, Timing::default());
    assert!(!passes(&new, &state, LATER + ENDED - 1) && passes(&new, &state, LATER + ENDED));
}

#[test]
fn a_node_is_dropped_when_it_surely_serves_no_more() {
    let (mut state, _) = cluster();
    let mut table = LeaseTable::new(TERM, 0, Timing::default());
    assert!(table.removal(NodeId(2), &state, LATER).is_err(), "nobody asked for it");
    table.grant(&beat(2, &[]), &state, TERM, LATER).unwrap();
    act(&mut state, Change::BeginRemove { node: NodeId(2), assume_dead: false });
    assert!(table.removal(NodeId(2), &state, LATER + ENDED - 1).is_err());
    assert!(table.removal(NodeId(2), &state, LATER + ENDED).is_ok());
    let mut serve = state.clone();
    serve.products.values_mut().for_each(|p| p.isolated = Isolated::Serve);
    assert!(table.removal(NodeId(2), &serve, LATER + ENDED).unwrap_err().contains("--assume-dead"));
    let mut stopped = table.clone();
    stopped.heard(&Beat { stopping: true, ..beat(2, &[]) }, &serve, LATER);
    assert!(stopped.removal(NodeId(2), &serve, LATER).is_ok());
    act(&mut serve, Change::BeginRemove { node: NodeId(2), assume_dead: true });
    assert!(table.removal(NodeId(2), &serve, LATER).is_ok());
}

#[test]
fn no_hold_is_opened_to_discover_a_dead_node() {
    let (state, _) = cluster();
    let table = LeaseTable::new(TERM, 0, Timing::default());
    let cases = [
        (Isolated::Refuse, ids(&[1, 2]), 0, true),
        (Isolated::Refuse, ids(&[1]), 0, false),
        (Isolated::Refuse, ids(&[1]), LATER, true),
        (Isolated::Serve, ids(&[1]), LATER, false),
    ];
    for (isolated, answered, now, good) in cases {
        assert_eq!(table.preflight(isolated, &answered, &state, now).is_ok(), good, "{isolated:?} {answered:?} {now}");
    }
}

#[test]
fn membership_follows_roles_and_keeps_a_quorum() {
    let mut state = ClusterState::default();
    act(&mut state, Change::Bootstrap { members: (1..=6).map(member).collect(), port: 19000 });
    for id in 1..=6 {
        act(&mut state, Change::Admit { member: member(id), start: Uuid(1) });
    }
    let all = ids(&[1, 2, 3, 4, 5, 6]);
    let voters = |state: &ClusterState, v: &[u64], l: &[u64], alive: &BTreeSet<NodeId>| {
        membership::decide(&ids(v), &ids(l), state, alive).voters
    };
    assert_eq!(voters(&state, &[1, 2, 3], &[4, 5, 6], &all), ids(&[1, 2, 3, 4, 5]), "filled up to five by lowest id");
    assert_eq!(
        voters(&state, &[1, 2, 3], &[4, 5, 6], &ids(&[1, 2, 3, 6])),
        ids(&[1, 2, 3, 6]),
        "the dead are not promoted"
    );
    assert_eq!(
        voters(&state, &[1, 2, 3, 4, 5, 6], &[], &ids(&[1, 3, 4, 5, 6])),
        ids(&[1, 3, 4, 5, 6]),
        "the dead go first"
    );
    assert_eq!(
        voters(&ClusterState::default(), &[1, 2], &[3], &all),
        ids(&[1, 2]),
        "before Bootstrap nothing is touched"
    );
    let mut roles = state.clone();
    act(&mut roles, Change::SetRole { node: NodeId(6), role: Role::Voter });
    act(&mut roles, Change::SetRole { node: NodeId(1), role: Role::Learner });
    assert_eq!(voters(&roles, &[1, 2, 3, 4, 5], &[6], &all), ids(&[2, 3, 4, 5, 6]));
    let stuck = membership::decide(&ids(&[1, 2, 3]), &ids(&[]), &roles, &ids(&[1, 2]));
    assert!(stuck.voters.contains(&NodeId(1)) && !stuck.waiting_on.is_empty(), "2 and dead 3 would be no quorum");
}

#[test]
fn an_assignment_goes_step_by_step() {
    let (mut state, id) = cluster();
    let timing = Timing::default();
    let next = |state: &ClusterState, seen: &Seen, now: u64| {
        assign::decide(state, &state.assignments[&id], seen, TERM, &timing, now).action
    };
    let scan = |state: &ClusterState, began: u64, found: Found| {
        Some(Scan { began, epochs: group_epochs(state, &state.assignments[&id]), found })
    };
    let mut seen = Seen::default();
    assert!(matches!(next(&state, &seen, 0), Action::Scan { hold: None, .. }));
    let key = Found::Key { key: "user:1".into(), slot: SlotId(3), place: "s".into() };
    seen.scan_before = scan(&state, 0, key.clone());
    assert!(matches!(next(&state, &seen, 1), Action::GiveUp(why) if why.contains("user:1")));
    seen.scan_before = scan(&state, 0, Found::Empty);
    assert_eq!(next(&state, &seen, 1), Action::Preflight);
    assert!(matches!(next(&state, &seen, timing.scan_fresh + 1), Action::Scan { .. }), "an old scan says nothing");
    seen.preflight = Some((1, Err("node 2 is silent".into())));
    assert!(matches!(next(&state, &seen, 2), Action::Sleep { .. }));
    seen.preflight = Some((1, Ok(())));
    assert_eq!(next(&state, &seen, 2), Action::Hold { attempt: 1 });
    seen.not_before = 9;
    assert_eq!(next(&state, &seen, 2), Action::Sleep { until: 9 });

    let open = hold(&mut state, id);
    let mut here = HoldSeen { id: open, since: 0, barrier: None, scan: None };
    let with = |here: &HoldSeen| Seen { hold: Some(here.clone()), ..Seen::default() };
    assert_eq!(next(&state, &with(&here), 1), Action::WaitBarrier);
    assert!(matches!(next(&state, &with(&here), 251 * MS), Action::Release { .. }), "the budget is spent");
    here.barrier = Some((100, Barrier::Passed { term: Term(0) }));
    assert_eq!(next(&state, &with(&here), 101), Action::WaitBarrier, "a verdict of another term is none");
    here.barrier = Some((100, Barrier::Passed { term: TERM }));
    here.scan = scan(&state, 99, Found::Empty);
    assert!(matches!(next(&state, &with(&here), 101), Action::Scan { hold: Some(_), .. }), "a scan before the barrier");
    here.scan = scan(&state, 101, key);
    assert!(matches!(next(&state, &with(&here), 102), Action::Release { .. }));
    here.scan = scan(&state, 101, Found::Empty);
    let Action::Finish { hold, term, epochs } = next(&state, &with(&here), 102) else { panic!("it can end") };
    act(&mut state, Change::FinishAssign { assignment: id, hold, term, group_epochs: epochs });
    assert!(state.assignments.is_empty() && state.holds.is_empty());
    assert_eq!(state.products[&ProductId(1)].slots[0].owner, Some(GroupId(2)));
}

#[test]
fn an_assignment_is_given_up_after_its_attempts() {
    let (mut state, id) = cluster();
    for _ in 0..5 {
        let open = hold(&mut state, id);
        act(&mut state, Change::Release { hold: open, why: String::new() });
    }
    let seen = Seen { last_failure: Some("node 2 was slow".into()), ..Seen::default() };
    let next = assign::decide(&state, &state.assignments[&id], &seen, TERM, &Timing::default(), 0);
    assert!(matches!(next.action, Action::GiveUp(why) if why.contains("node 2 was slow")));
}
