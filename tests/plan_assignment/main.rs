//! `plan::assignment` with the real model under it: each transition by example, and that every assignment ends,
//! whatever fails.
//! Knows nothing of servers: each test determines what a scan, a ping or a server answers.
#![allow(clippy::unwrap_used)]

mod endings;
mod reinstatements;
mod waits;
mod world;

use std::collections::BTreeSet;

use pontoon::{
    model::{
        apply,
        change::{AssignFree, Change, GiveUpAssign, OpenHold, Release, StartAssign},
        ids::{GroupId, SlotId},
        route::{HoldKind, Isolated, Mode},
    },
    plan::assignment::{AssignmentStep, PREFLIGHT_MAX_NS, SlotScan},
};

use world::{MS, PRODUCT, SECOND, SLOTS, World};

const SOURCE: GroupId = GroupId(1);
const TARGET: GroupId = GroupId(2);

fn moved_slots() -> BTreeSet<SlotId> {
    (0..SLOTS).map(SlotId).collect()
}

fn scan_of_the_source() -> AssignmentStep {
    AssignmentStep::Scan(vec![(SOURCE, moved_slots())])
}

fn found_key() -> SlotScan {
    SlotScan::KeyFound("slot 3 is not empty".into())
}

fn unreadable() -> SlotScan {
    SlotScan::Unreadable("group 1 could not be searched".into())
}

fn give_up(world: &World, why: &str) -> AssignmentStep {
    AssignmentStep::Propose(Change::GiveUpAssign(GiveUpAssign { assignment: world.id, why: why.into() }))
}

/// The world in which the slots were scanned, every node has answered and the hold is open.
fn held() -> World {
    let mut world = World::new(Mode::Store, false);
    open_hold(&mut world);
    world
}

fn open_hold(world: &mut World) {
    assert_eq!(world.decide(), scan_of_the_source());
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(OpenHold { kind: HoldKind::Wait, .. })));
}

fn owner(world: &World) -> Option<GroupId> {
    world.state.products[&PRODUCT].slots[0].owner
}

#[test]
fn empty_slots_are_scanned_held_scanned_again_and_assigned() {
    let mut world = World::new(Mode::Store, false);
    assert_eq!(world.decide(), scan_of_the_source());
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    assert_eq!(world.decide(), AssignmentStep::Preflight { isolated: Isolated::Refuse });
    world.preflighted(&[]);
    let Change::OpenHold(OpenHold { attempt, kind, reason, .. }) = world.proposes() else { panic!("no hold") };
    assert_eq!((attempt, kind, reason.as_str()), (1, HoldKind::Wait, "10 slots are assigned to group 2"));
    let (why, left_ns) = world.waits();
    assert!(why.contains("node 2 has not acked"), "{why}");
    assert_eq!(left_ns, u64::from(world.state.settings.hold_ms_max) * MS);
    world.pass_barrier();
    assert_eq!(world.decide(), scan_of_the_source());
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    assert!(matches!(world.proposes(), Change::FinishAssign(_)));
    assert_eq!(world.decide(), AssignmentStep::Over);
    assert_eq!(owner(&world), Some(TARGET));
}

#[test]
fn a_key_before_the_hold_ends_the_assignment() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, found_key());
    assert_eq!(world.decide(), give_up(&world, "slot 3 is not empty"));
    world.proposes();
    assert_eq!(world.decide(), AssignmentStep::Over);
    assert_eq!(owner(&world), Some(SOURCE));
}

#[test]
fn a_key_behind_the_barrier_releases_the_hold_and_ends_the_assignment() {
    let mut world = held();
    world.pass_barrier();
    world.decide();
    world.memory.scanned(world.now_ns, found_key());
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    assert_eq!(why, "slot 3 is not empty");
    assert_eq!(world.decide(), give_up(&world, "slot 3 is not empty"));
}

#[test]
fn slots_of_a_store_are_not_assigned_while_their_owner_cannot_be_searched() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, unreadable());
    assert_eq!(world.decide(), give_up(&world, "group 1 could not be searched"));
    let mut world = held();
    world.pass_barrier();
    world.decide();
    world.memory.scanned(world.now_ns, unreadable());
    assert!(matches!(world.proposes(), Change::Release(_)));
    assert_eq!(world.decide(), give_up(&world, "group 1 could not be searched"));
}

#[test]
fn slots_of_a_cache_are_assigned_without_a_barrier_when_their_owner_cannot_be_searched() {
    let mut world = World::new(Mode::Cache, false);
    world.decide();
    world.memory.scanned(world.now_ns, unreadable());
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(OpenHold { kind: HoldKind::Abandon, .. })));
    assert!(matches!(world.proposes(), Change::FinishAssign(_)));
    assert_eq!(owner(&world), Some(TARGET));
}

#[test]
fn abandoned_keys_are_not_searched_for() {
    let mut world = World::new(Mode::Store, true);
    assert_eq!(world.decide(), AssignmentStep::Preflight { isolated: Isolated::Refuse });
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(OpenHold { kind: HoldKind::Wait, .. })));
    world.waits();
    world.pass_barrier();
    assert!(matches!(world.proposes(), Change::FinishAssign(_)));
}

#[test]
fn released_slots_have_no_owner() {
    for abandon in [false, true] {
        let mut world = World::release(abandon);
        if !abandon {
            assert_eq!(world.decide(), scan_of_the_source());
            world.memory.scanned(world.now_ns, SlotScan::Empty);
        }
        assert_eq!(world.decide(), AssignmentStep::Preflight { isolated: Isolated::Refuse });
        world.preflighted(&[]);
        let Change::OpenHold(OpenHold { kind, reason, .. }) = world.proposes() else { panic!("no hold") };
        assert_eq!((kind, reason.as_str()), (HoldKind::Wait, "10 slots are released"));
        world.waits();
        world.pass_barrier();
        if !abandon {
            assert_eq!(world.decide(), scan_of_the_source());
            world.memory.scanned(world.now_ns, SlotScan::Empty);
        }
        assert!(matches!(world.proposes(), Change::FinishAssign(_)));
        assert_eq!(world.decide(), AssignmentStep::Over);
        assert_eq!(owner(&world), None);
        // Abandoned keys are never deleted; a late write to slots that were empty is.
        let given_away = &world.state.products[&PRODUCT].groups[&SOURCE].given_away;
        assert_eq!(given_away.is_empty(), abandon, "{given_away:?}");
        // They can be assigned again, to the former owner only when it has no leftovers of them.
        let assign = |to| Change::AssignFree(AssignFree { product: PRODUCT, slots: moved_slots(), to });
        let back = apply::dry_run(&world.state, &assign(SOURCE));
        assert_eq!(back.is_ok(), abandon, "{back:?}");
        assert!(abandon || back.unwrap_err().to_string().contains("leftovers of slot 0"));
        // An assignment searches it for them.
        let (product, slots, to) = (PRODUCT, moved_slots(), Some(SOURCE));
        let searched = Change::StartAssign(StartAssign { product, slots, to, abandon: false });
        let after = apply::after(&world.state, &searched).unwrap();
        assert_eq!(after.assignments.len(), usize::from(!abandon), "{:?}", after.assignments);
        apply::dry_run(&world.state, &assign(TARGET)).unwrap();
    }
}

#[test]
fn slots_that_the_target_gave_away_are_searched_there_too() {
    let mut world = World::new(Mode::Store, false);
    let given_away: BTreeSet<SlotId> = [SlotId(4)].into();
    let groups = &mut world.state.products.get_mut(&PRODUCT).unwrap().groups;
    // Slot 4, and one that is not part of the assignment.
    groups.get_mut(&TARGET).unwrap().given_away = [SlotId(4), SlotId(1000)].into();
    let search = (TARGET, given_away);
    assert_eq!(world.decide(), AssignmentStep::Scan(vec![(SOURCE, moved_slots()), search.clone()]));

    // Also if the keys of the owner are given up: what the target has of before would become visible.
    let mut world = World::new(Mode::Store, true);
    let groups = &mut world.state.products.get_mut(&PRODUCT).unwrap().groups;
    groups.get_mut(&TARGET).unwrap().given_away = [SlotId(4), SlotId(1000)].into();
    assert_eq!(world.decide(), AssignmentStep::Scan(vec![search.clone()]));
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    world.decide();
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(_)));
    world.waits();
    world.pass_barrier();
    assert_eq!(world.decide(), AssignmentStep::Scan(vec![search]));
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    assert!(matches!(world.decide(), AssignmentStep::Propose(Change::FinishAssign(_))));
}

#[test]
fn a_preflight_is_repeated_while_a_node_is_silent_and_given_up_after_half_a_minute() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    let text =
        "nodes 2, 3 do not answer and may still serve; bring them back, or remove each: `pontoon node remove ID`";
    world.preflighted(&[2, 3]);
    assert_eq!(world.waits(), (text.into(), 100 * MS));
    world.now_ns += 100 * MS;
    assert!(matches!(world.decide(), AssignmentStep::Preflight { .. }));
    world.now_ns += PREFLIGHT_MAX_NS - 100 * MS - 1;
    world.preflighted(&[2, 3]);
    world.now_ns += 1;
    world.waits();
    world.preflighted(&[2, 3]);
    assert_eq!(world.decide(), give_up(&world, text));
}

#[test]
fn a_preflight_succeeds_once_every_node_answers() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    world.preflighted(&[2]);
    world.now_ns += PREFLIGHT_MAX_NS;
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(_)));
}

#[test]
fn a_late_barrier_releases_the_hold_and_five_of_them_end_the_assignment() {
    let mut world = held();
    let hold_ms_max = u64::from(world.state.settings.hold_ms_max);
    let late = format!("not all nodes held within {hold_ms_max} ms: node 2 has not acked");
    for pause_ms in [200, 400, 800, 1_600] {
        world.now_ns += hold_ms_max * MS - 1;
        world.waits();
        world.now_ns += 1;
        let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
        assert_eq!(why, late);
        assert_eq!(world.waits(), (late.clone(), pause_ms * MS));
        world.now_ns += pause_ms * MS;
        open_hold(&mut world);
    }
    world.now_ns += hold_ms_max * MS;
    world.proposes();
    assert_eq!(world.decide(), give_up(&world, &format!("5 attempts failed; the last: {late}")));
}

#[test]
fn a_barrier_that_has_passed_is_not_too_late() {
    let mut world = held();
    world.now_ns += 60 * SECOND;
    world.pass_barrier();
    assert_eq!(world.decide(), scan_of_the_source());
}

#[test]
fn another_leader_releases_the_hold_of_an_earlier_term_and_begins_anew() {
    let mut world = held();
    world.elect();
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    assert_eq!(why, "a new leader starts over");
    assert_eq!(world.decide(), scan_of_the_source());
}
