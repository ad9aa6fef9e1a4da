//! `plan::migration` and `plan::sweep` with the real model under them: whatever ends, fails or is cancelled, nothing is
//! switched, begun or ended before its fence, and every migration ends when nothing fails any more.
//! Knows nothing of servers: connections are members of a set here, and a mover of a former start may ask for
//! authorization at any time.
#![allow(clippy::unwrap_used)]

mod attempts;
mod sweeps;
mod waits;
mod world;

use std::collections::BTreeSet;

use pontoon::{
    model::{
        ids::{MigrationId, NodeId},
        migration::{Job, MigrationPhase},
    },
    plan::job::JobStep,
};

use world::{NODES, World};

fn ended(world: &World, id: MigrationId) -> bool {
    world.state.migrations.get(&id).is_none_or(|m| m.phase == MigrationPhase::Paused)
}

#[test]
fn nothing_happens_before_its_fence_and_every_migration_ends() {
    let (mut switched, mut phases) = (0, BTreeSet::new());
    for seed in 0..500 {
        let mut world = World::new(seed);
        let id = world.plan();
        let job = Job::Migration(id);
        world.faults = [0, 5, 15, 30][(seed % 4) as usize];
        for _ in 0..300 {
            let ms = world.rng.u64(1..300);
            world.turn(job, ms);
            if world.rng.u32(0..200) == 0 {
                world.operate(id);
            }
            if let Some(open) = world.state.migrations.get(&id) {
                phases.insert(open.phase.name());
            }
        }
        // Every node is alive, and nothing fails.
        world.faults = 0;
        world.alive = (1..=NODES).map(NodeId).collect();
        let mut turns = 0;
        while !ended(&world, id) {
            world.turn(job, 400);
            turns += 1;
            assert!(turns < 2_000, "seed {seed} does not end:\n{}", world.trace.join("\n"));
        }
        if world.state.migrations.is_empty() {
            assert_eq!(world.lead(job), JobStep::Over);
            assert!(world.state.holds.is_empty());
        }
        switched += world.switches;
    }
    assert!(switched > 250, "too few switches to mean anything: {switched}");
    let all = ["planned", "cleaning-target", "copying", "caught-up", "held", "switched", "cancelling", "paused"];
    assert_eq!(phases, BTreeSet::from(all), "a phase was never reached");
}
