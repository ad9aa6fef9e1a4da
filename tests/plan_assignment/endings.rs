//! Refused changes, holds and assignments that others ended; and random worlds, in which every assignment ends and no
//! slot changes its owner unchecked.

use fastrand::Rng;
use pontoon::{
    model::{
        change::{Change, GiveUpAssign, OpenHold, Release},
        ids::NodeId,
        route::{HoldKind, Mode},
    },
    plan::{
        assignment::{AssignmentStep, SlotScan},
        timing::Timing,
    },
};

use crate::{
    found_key, held, scan_of_the_source, unreadable,
    world::{MS, PRODUCT, SECOND, SLOTS, World},
};

fn refuse(world: &mut World, why: &str) -> Change {
    let AssignmentStep::Propose(change) = world.decide() else { panic!("no change") };
    world.memory.proposed(world.now_ns, &change, Err(why.into()), Timing::default());
    change
}

#[test]
fn a_refused_hold_is_tried_again_after_a_pause() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    world.preflighted(&[]);
    assert!(matches!(refuse(&mut world, "slot 3 is held"), Change::OpenHold(_)));
    assert_eq!(world.waits(), ("slot 3 is held".into(), 200 * MS));
    world.now_ns += 200 * MS;
    assert_eq!(world.decide(), scan_of_the_source());
}

#[test]
fn a_refused_end_releases_the_hold_and_is_tried_again() {
    let mut world = held();
    world.pass_barrier();
    world.decide();
    world.memory.scanned(world.now_ns, SlotScan::Empty);
    assert!(matches!(refuse(&mut world, "a primary has changed"), Change::FinishAssign(_)));
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    assert_eq!(why, "a primary has changed");
    assert_eq!(world.waits(), ("a primary has changed".into(), 200 * MS));
}

#[test]
fn a_refused_release_is_tried_again_as_that_of_an_earlier_attempt() {
    let mut world = held();
    world.now_ns += 60 * SECOND;
    assert!(matches!(refuse(&mut world, "not now"), Change::Release(_)));
    assert_eq!(world.waits(), ("not now".into(), 200 * MS));
    world.now_ns += 200 * MS;
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    assert_eq!(why, "a new leader begins anew");
    assert_eq!(world.decide(), scan_of_the_source());
}

#[test]
fn the_task_ends_when_its_hold_or_its_assignment_was_ended_by_another() {
    let mut world = held();
    let hold = world.memory.hold().unwrap();
    world.make(Change::Release(Release { hold, why: "another leader".into() }));
    assert_eq!(world.decide(), AssignmentStep::Over);
    let mut world = held();
    world.make(Change::GiveUpAssign(GiveUpAssign { assignment: world.id, why: "the operator".into() }));
    assert_eq!(world.decide(), AssignmentStep::Over);
    assert!(world.state.holds.is_empty());
}

#[test]
fn a_refused_surrender_ends_the_task() {
    let mut world = World::new(Mode::Store, false);
    world.decide();
    world.memory.scanned(world.now_ns, found_key());
    refuse(&mut world, "unknown");
    assert_eq!(world.decide(), AssignmentStep::Over);
}

/// What the leader of a random world did since the last hold was opened.
#[derive(Default)]
struct Checks {
    first: bool,
    kind: Option<HoldKind>,
    barrier: bool,
    second: bool,
}

/// One step in a world where everything may fail; whether the assignment is still open.
fn random_step(world: &mut World, rng: &mut Rng, faults: u32, checks: &mut Checks) -> bool {
    let fails = rng.u32(0..100) < faults;
    match world.decide() {
        AssignmentStep::Over => {
            // The leader's loop begins another task.
            world.memory = Default::default();
            *checks = Checks::default();
        }
        AssignmentStep::Wait { until_ns, .. } => {
            world.now_ns = if rng.bool() { until_ns } else { world.now_ns + rng.u64(1..300) * MS };
            if !fails {
                world.pass_barrier();
            }
        }
        AssignmentStep::Scan(_) => {
            world.now_ns += rng.u64(1..100) * MS;
            let kinds = [SlotScan::Empty, SlotScan::Empty, SlotScan::Empty, found_key(), unreadable()];
            let found = if fails { kinds[rng.usize(0..kinds.len())].clone() } else { SlotScan::Empty };
            match world.memory.hold() {
                Some(hold) => {
                    checks.barrier = world.passed == Some(hold);
                    checks.second = found == SlotScan::Empty;
                }
                None => checks.first = !matches!(found, SlotScan::KeyFound(_)),
            }
            world.memory.scanned(world.now_ns, found);
        }
        AssignmentStep::EmptyPrimary(_) | AssignmentStep::CheckPrimary(_) => unreachable!("nothing was ejected"),
        AssignmentStep::Preflight { .. } => {
            let silent = if fails { vec![NodeId(3)] } else { Vec::new() };
            world.memory.preflighted(world.now_ns, Ok(silent), Timing::default());
        }
        AssignmentStep::Propose(change) => {
            if let Change::OpenHold(OpenHold { kind, attempt, .. }) = &change {
                assert!(checks.first, "a hold before the first scan");
                assert!(*attempt <= Timing::default().attempts_max + 1, "attempt {attempt}");
                checks.kind = Some(*kind);
            }
            if let Change::FinishAssign(_) = &change {
                let checked = checks.barrier && checks.second;
                assert!(checked || checks.kind == Some(HoldKind::Abandon), "slots change their owner unchecked");
            }
            match fails {
                true => world.memory.proposed(world.now_ns, &change, Err("refused".into()), Timing::default()),
                false => drop(world.propose(change)),
            }
        }
    }
    world.state.assignments.contains_key(&world.id)
}

#[test]
fn every_assignment_ends_and_no_slot_changes_its_owner_unchecked() {
    let (mut finished, mut given_up) = (0, 0);
    for seed in 0..1_000 {
        let mut rng = Rng::with_seed(seed);
        let mode = if rng.bool() { Mode::Store } else { Mode::Cache };
        let mut world = World::new(mode, false);
        let mut checks = Checks::default();
        let faults = [0, 5, 20, 50][(seed % 4) as usize];
        let mut steps = 0;
        while random_step(&mut world, &mut rng, if steps < 60 { faults } else { 0 }, &mut checks) {
            if steps < 60 && rng.u32(0..50) == 0 {
                world.elect();
                checks = Checks::default();
            }
            steps += 1;
            assert!(steps < 1_000, "seed {seed} does not end: {:?}", world.memory);
        }
        assert!(world.state.holds.is_empty(), "seed {seed}: {:?}", world.state.holds);
        let slots = &world.state.products[&PRODUCT].slots[..usize::from(SLOTS)];
        let owners: std::collections::BTreeSet<_> = slots.iter().filter_map(|slot| slot.owner).collect();
        assert_eq!(owners.len(), 1, "seed {seed}: half of the slots have changed their owner");
        match world.state.ended_assignments.back().unwrap().failed {
            None => finished += 1,
            Some(_) => given_up += 1,
        }
    }
    assert!(finished > 300 && given_up > 100, "too few to mean anything: {finished} finished, {given_up} given up");
}
