//! An ejected group gets its slots back: its primary is emptied before, and checked behind the barrier.

use pontoon::{
    model::{
        change::{Change, GiveUpAssign, OpenHold, Release},
        ids::GroupId,
        route::{HoldKind, Isolated},
    },
    plan::{
        assignment::{AssignmentStep, PrimaryProcess},
        timing::Timing,
    },
};

use crate::world::{MS, PRODUCT, World, primary};

fn process() -> PrimaryProcess {
    PrimaryProcess { group: GroupId(1), server: primary(1), run_id: "run1".into() }
}

fn emptied(world: &mut World, result: Result<(), String>) {
    assert_eq!(world.decide(), AssignmentStep::EmptyPrimary(process()));
    world.memory.emptied(world.now_ns, process(), result, Timing::default());
}

/// The primary is emptied, `silent` nodes do not answer, and the hold is open.
fn held(silent: &[u64]) -> (World, HoldKind) {
    let mut world = World::reinstatement();
    emptied(&mut world, Ok(()));
    assert_eq!(world.decide(), AssignmentStep::Preflight { isolated: Isolated::Refuse });
    world.preflighted(silent);
    let Change::OpenHold(OpenHold { kind, .. }) = world.proposes() else { panic!("no hold") };
    (world, kind)
}

#[test]
fn the_primary_is_emptied_and_checked_behind_the_barrier() {
    let (mut world, kind) = held(&[]);
    assert_eq!(kind, HoldKind::Wait);
    world.waits();
    world.pass_barrier();
    assert_eq!(world.decide(), AssignmentStep::CheckPrimary(process()));
    world.memory.primary_checked(Ok(()));
    assert!(matches!(world.proposes(), Change::FinishAssign(_)));
    assert_eq!(world.state.products[&PRODUCT].slots[0].owner, Some(GroupId(1)));
    assert!(world.group(1).ejection.is_none());
}

#[test]
fn a_primary_that_is_not_up_ends_the_reinstatement() {
    let mut world = World::reinstatement();
    world.report_down(1);
    let why = "the primary of group 1 is not up any more".to_owned();
    assert_eq!(
        world.decide(),
        AssignmentStep::Propose(Change::GiveUpAssign(GiveUpAssign { assignment: world.id, why }))
    );
}

#[test]
fn a_primary_that_could_not_be_emptied_is_emptied_again_after_a_pause() {
    let mut world = World::reinstatement();
    emptied(&mut world, Err("no answer".into()));
    assert_eq!(world.waits(), ("no answer".into(), 200 * MS));
    world.now_ns += 200 * MS;
    emptied(&mut world, Err("no answer".into()));
    assert_eq!(world.waits(), ("no answer".into(), 400 * MS));
    world.now_ns += 400 * MS;
    emptied(&mut world, Ok(()));
}

#[test]
fn a_silent_node_or_a_temporary_owner_that_is_down_does_not_delay_a_reinstatement() {
    let (mut world, kind) = held(&[3]);
    assert_eq!(kind, HoldKind::Abandon);
    assert_eq!(world.decide(), AssignmentStep::CheckPrimary(process()));
    let mut world = World::reinstatement();
    world.report_down(3);
    emptied(&mut world, Ok(()));
    world.preflighted(&[]);
    assert!(matches!(world.proposes(), Change::OpenHold(OpenHold { kind: HoldKind::Abandon, .. })));
}

#[test]
fn a_primary_that_was_restarted_behind_the_barrier_is_emptied_again() {
    let (mut world, _) = held(&[]);
    world.pass_barrier();
    world.decide();
    world.memory.primary_checked(Err("it was restarted".into()));
    let Change::Release(Release { why, .. }) = world.proposes() else { panic!("no release") };
    assert_eq!(why, "it was restarted");
    assert_eq!(world.waits(), ("it was restarted".into(), 200 * MS));
    world.now_ns += 200 * MS;
    emptied(&mut world, Ok(()));
}
