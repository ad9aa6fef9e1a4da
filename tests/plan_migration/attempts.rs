//! The attempts of a migration: which node works, which connections are authorized, what ends a hold, and what it waits
//! for.

use pontoon::{
    model::{
        change::{
            AddServer, Change, GiveUpPromotion, PauseMigration, Release, RestartMigration, StartMigration,
            StartPromotion,
        },
        ids::{GroupId, MigrationId, NodeId, Term},
        migration::{ConnectionId, Job, MigrationPhase},
        outcome::Outcome,
        promotion::PromotionKind,
        state::Server,
    },
    plan::{
        self,
        authorization::{Authorizations, CONNECTIONS_MAX},
        job::JobStep,
        job_memory::JobMemory,
    },
};

use super::world::{MS, PRODUCT, World, addr, until, until_slowly};

fn is_hold(step: &JobStep) -> bool {
    matches!(step, JobStep::Propose(Change::OpenHold(_)))
}

#[test]
fn a_hold_that_does_not_get_through_is_released_and_after_five_it_pauses() {
    let mut world = World::new(1);
    let id = world.plan();
    let job = Job::Migration(id);
    let mut pauses = Vec::new();
    for _ in 0..plan::migration::RELEASES_MAX {
        until(&mut world, job, is_hold);
        let held_ns = world.now_ns;
        // The barrier never passes.
        let release = loop {
            world.now_ns += MS;
            world.faults = 100;
            let step = world.lead(job);
            world.faults = 0;
            if !matches!(step, JobStep::Wait { .. }) {
                break step;
            }
        };
        let JobStep::Propose(Change::Release(Release { why, .. })) = release else { panic!("{release:?}") };
        assert!(why.contains("node 2 has not acked"), "{why}");
        assert!((200..=250).contains(&((world.now_ns - held_ns) / MS)), "the budget is 250 ms");
        let released_ns = world.now_ns;
        let next = until(&mut world, job, |s| matches!(s, JobStep::Preflight | JobStep::Propose(_)));
        pauses.push((world.now_ns - released_ns) / MS);
        if let JobStep::Propose(change) = next {
            assert!(
                matches!(&change, Change::PauseMigration(PauseMigration { why, .. }) if why.contains("node 2")),
                "{change:?}"
            );
        }
    }
    assert_eq!(world.state.migrations[&id].phase, MigrationPhase::Paused);
    assert_eq!(world.state.migrations[&id].attempt, 1, "a release costs no attempt");
    assert!(pauses.windows(2).take(3).all(|p| p[1] > p[0] + p[0] / 2), "they double: {pauses:?}");
    // Its run is closed, although nothing begins.
    until(&mut world, job, |s| matches!(s, JobStep::Wait { wait, .. } if wait.text().contains("paused")));
    assert!(world.open.is_empty());
}

#[test]
fn a_new_leader_releases_a_hold_that_is_not_its_own() {
    let mut world = World::new(1);
    let job = Job::Migration(world.plan());
    until(&mut world, job, is_hold);
    world.term = Term(2);
    (world.memory, world.authorizations) = (JobMemory::new(world.now_ns), Authorizations::new(Term(2)));
    let step = world.lead(job);
    assert!(matches!(step, JobStep::Propose(Change::Release(_))), "{step:?}");
}

/// Otherwise an attempt or a hold would be refused again and again, until the migration is paused.
#[test]
fn a_migration_waits_while_one_of_its_groups_has_a_promotion() {
    for group in [1, 2] {
        let mut world = World::new(1);
        let id = world.plan();
        let job = Job::Migration(id);
        let replica = Server::new(addr(7_000), "replica".into(), 0);
        world.make(Change::AddServer(AddServer { product: PRODUCT, group: GroupId(group), server: replica }));
        let promoted = |world: &mut World| {
            let start = Change::StartPromotion(StartPromotion {
                product: PRODUCT,
                group: GroupId(group),
                to: addr(7_000),
                kind: PromotionKind::Switchover,
                group_epoch: world.state.products[&PRODUCT].groups[&GroupId(group)].epoch,
                required_offset: None,
                forced: false,
                why: "test".into(),
            });
            let Outcome::Promotion(promotion) = world.make(start) else { panic!() };
            promotion
        };
        let waits = |world: &mut World| {
            let phase = world.state.migrations[&id].phase;
            for _ in 0..500 {
                world.now_ns += 5 * MS;
                world.others(job);
                let step = world.lead(job);
                let moves = matches!(step, JobStep::Propose(Change::StartMigration(_) | Change::OpenHold(_)));
                assert!(!moves, "{step:?}");
            }
            assert_eq!(world.state.migrations[&id].phase, phase);
            let last = world.lead(job);
            let why = format!("the promotion of {} in group {group} comes first", addr(7_000));
            assert!(matches!(&last, JobStep::Wait { wait, .. } if wait.text().starts_with(&why)), "{last:?}");
        };
        let gives_up = |world: &mut World, promotion| {
            let (why, primary_back, forced) = ("test".into(), false, false);
            world.make(Change::GiveUpPromotion(GiveUpPromotion { promotion, why, primary_back, forced }));
        };
        let promotion = promoted(&mut world);
        waits(&mut world);
        gives_up(&mut world, promotion);
        until(&mut world, job, |s| matches!(s, JobStep::Propose(Change::MigrationProgress(_))));
        until(&mut world, job, |s| matches!(s, JobStep::Propose(Change::MigrationProgress(_))));
        assert_eq!(world.state.migrations[&id].phase, MigrationPhase::CaughtUp);
        let promotion = promoted(&mut world);
        waits(&mut world);
        gives_up(&mut world, promotion);
        until(&mut world, job, is_hold);
    }
}

#[test]
fn a_release_after_its_run_was_closed_is_a_restart() {
    let mut world = World::new(1);
    let job = Job::Migration(world.plan());
    until(&mut world, job, is_hold);
    until(&mut world, job, |s| matches!(s, JobStep::Finish { .. }));
    world.now_ns += MS;
    world.faults = 100;
    let close = world.lead(job);
    assert!(matches!(close, JobStep::Close { .. }), "{close:?}");
    world.faults = 0;
    let step = world.lead(job);
    assert!(matches!(step, JobStep::Propose(Change::RestartMigration(_))), "{step:?}");
}

#[test]
fn the_node_with_the_fewest_runs_works_and_the_leader_comes_last() {
    let mut world = World::new(1);
    let job = Job::Migration(world.plan());
    let started = |s: &JobStep| matches!(s, JobStep::Propose(Change::StartMigration(_)));
    let JobStep::Propose(Change::StartMigration(StartMigration { node, .. })) = until(&mut world, job, started) else {
        panic!()
    };
    assert_eq!(node, NodeId(2), "node 1 leads");
    // It ends: another node works, and not the leader as long as there is a third node.
    world.alive.remove(&node);
    let silent = until_silent(&mut world, job);
    assert!(
        matches!(&silent, JobStep::Propose(Change::RestartMigration(RestartMigration { why, .. })) if why.contains("silent")),
        "{silent:?}"
    );
    let JobStep::Propose(Change::StartMigration(StartMigration { node, .. })) = until(&mut world, job, started) else {
        panic!()
    };
    assert_eq!(node, NodeId(3));
}

#[track_caller]
fn until_silent(world: &mut World, job: Job) -> JobStep {
    let began_ns = world.now_ns;
    let step = until_slowly(world, job, |s| matches!(s, JobStep::Propose(Change::RestartMigration(_))));
    assert!(world.now_ns - began_ns > 3_000 * MS, "a lease must pass");
    step
}

#[test]
fn authorizations_are_for_the_current_run_at_its_server_until_it_is_closed() {
    let mut world = World::new(1);
    let job = Job::Migration(world.plan());
    until(&mut world, job, |s| matches!(s, JobStep::Propose(Change::StartMigration(_))));
    let run = world.state.current_run(job).unwrap().clone();
    let mut table = Authorizations::new(world.term);
    let at = |server: u32, n| vec![ConnectionId { server: addr(6_000 + u64::from(server)), client_id: 1 }; n];
    let state = world.state.clone();
    let mut ask = |job, run, node, connections: &[ConnectionId]| table.authorize(&state, (job, run), node, connections);
    assert!(ask(job, run.run + 1, run.node, &at(2, 1)).unwrap_err().contains("not current"));
    assert!(ask(Job::Migration(MigrationId(99)), run.run, run.node, &at(2, 1)).is_err());
    assert!(ask(job, run.run, NodeId(3), &at(2, 1)).unwrap_err().contains("belongs to node 2"));
    assert!(ask(job, run.run, run.node, &at(1, 1)).unwrap_err().contains("changes 127.0.0.1:6002"));
    assert!(ask(job, run.run, run.node, &at(2, CONNECTIONS_MAX + 1)).is_err());
    ask(job, run.run, run.node, &at(2, 2)).unwrap();
    assert_eq!(table.close(&state, job, run.run).len(), 2);
    let refused = table.authorize(&state, (job, run.run), run.node, &at(2, 1)).unwrap_err();
    assert!(refused.contains("being closed"), "{refused}");
}
