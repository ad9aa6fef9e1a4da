//! The leftovers of a migration are swept after the quiet time, and a new primary ends the sweep.

use pontoon::{
    model::{
        change::{AddServer, Change, EndSweep, FinishPromotion, OpenHold, PlanMigration, StartPromotion, StartRun},
        ids::{GroupId, SlotId},
        migration::{Job, MigrationOptions},
        outcome::Outcome,
        promotion::PromotionKind,
        state::{Cause, Server},
    },
    plan::{job::JobStep, job_memory::JobMemory, mover::MoverState, sweep::QUIET_NS},
};

use super::world::{MS, PRODUCT, World, addr, until_slowly};

#[test]
fn leftovers_are_swept_after_the_quiet_time_and_the_start_of_a_migration_ends_the_sweep() {
    let mut world = World::new(1);
    let id = world.plan();
    let migration = Job::Migration(id);
    until_slowly(&mut world, migration, |s| matches!(s, JobStep::Over));
    let sweep = Job::Sweep { product: PRODUCT, group: GroupId(1) };
    world.memory = JobMemory::new(world.now_ns);
    let began_ns = world.now_ns;
    let run = |s: &JobStep| matches!(s, JobStep::Propose(Change::StartRun(_)));
    until_slowly(&mut world, sweep, run);
    assert!(world.now_ns - began_ns >= QUIET_NS);
    // The slots will come back: the sweep is closed first.
    let slots = (0..10).map(SlotId).collect();
    let (from, to) = (GroupId(2), GroupId(1));
    world.make(Change::PlanMigration(PlanMigration {
        product: PRODUCT,
        slots,
        from,
        to,
        options: MigrationOptions::default(),
    }));
    until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Propose(Change::EndSweep(_))));
    assert!(world.open.is_empty());
}

#[test]
fn an_undisturbed_sweep_comes_to_its_end() {
    let mut world = World::new(1);
    let migration = Job::Migration(world.plan());
    until_slowly(&mut world, migration, |s| matches!(s, JobStep::Over));
    let sweep = Job::Sweep { product: PRODUCT, group: GroupId(1) };
    world.memory = JobMemory::new(world.now_ns);
    until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Over));
    assert!(world.state.products[&PRODUCT].groups[&GroupId(1)].given_away.is_empty());
}

/// The new primary may still have the keys that were deleted at the old one.
#[test]
fn a_sweep_of_a_replaced_primary_ends_and_begins_anew() {
    let mut world = World::new(1);
    let migration = Job::Migration(world.plan());
    until_slowly(&mut world, migration, |s| matches!(s, JobStep::Over));
    let (sweep, group) = (Job::Sweep { product: PRODUCT, group: GroupId(1) }, GroupId(1));
    world.memory = JobMemory::new(world.now_ns);
    until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Propose(Change::StartRun(_))));
    while world.mover(sweep).is_none_or(|mover| mover.work != MoverState::Cleaned) {
        world.now_ns += MS;
        world.others(sweep);
    }
    let replica = Server::new(addr(7_000), "replica".into(), 0);
    world.make(Change::AddServer(AddServer { product: PRODUCT, group, server: replica }));
    let start = Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group,
        to: addr(7_000),
        kind: PromotionKind::Failover,
        group_epoch: world.state.products[&PRODUCT].groups[&group].epoch,
        required_offset: None,
        forced: false,
        why: "test".into(),
    });
    let Outcome::Promotion(promotion) = world.make(start) else { panic!() };
    let (cause, kind) = (Cause::Promotion(promotion), PromotionKind::Failover.hold());
    let Outcome::Held(hold) = world.make(Change::OpenHold(OpenHold { cause, attempt: 1, kind, reason: "test".into() }))
    else {
        panic!()
    };
    world.make(Change::FinishPromotion(FinishPromotion { promotion, hold, term: world.term }));
    // It has ended, and with it every connection.
    world.open.clear();
    let ended = until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Propose(_)));
    let JobStep::Propose(Change::EndSweep(EndSweep { why, .. })) = &ended else { panic!("{ended:?}") };
    assert_eq!(why, "the primary has changed");
    let next = until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Propose(_)));
    assert!(
        matches!(&next, JobStep::Propose(Change::StartRun(StartRun { server, .. })) if *server == addr(7_000)),
        "{next:?}"
    );
}
