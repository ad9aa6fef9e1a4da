//! Every sentence about what a migration or a sweep waits for says what ends it: a table of all of them. `World::lead` looks
//! up each that occurs in any test of this folder, so a new one needs a row here.

use std::collections::BTreeSet;

use pontoon::{
    model::{
        change::{
            AddServer, AssignFree, CancelMigration, Change, CreateGroup, PauseMigration, PlanMigration, StartMigration,
            StartPromotion,
        },
        ids::{GroupId, HoldId, MigrationId, NodeId, SlotId},
        migration::{Counters, Job, MigrationOptions},
        outcome::Outcome,
        promotion::PromotionKind,
        state::Server,
    },
    plan::{
        job::JobStep,
        job_memory::JobMemory,
        mover::{MoverState, MoverView},
        waiting::Wait,
    },
};

use crate::world::{PRODUCT, World, addr, until, until_slowly};

/// What is waited for, and what ends it. `#` stands for any text.
const WAITS: &[(&str, &str)] = &[
    ("the promotion of # in group # comes first", "that has ended (pontoon group show #)"),
    ("migration # is copying from group #, and comes first", "is done, paused or cancelled (pontoon migrate show #)"),
    ("2 migrations are copying to group #, and come first", "one of them is done, paused or cancelled"),
    ("the sweep of group # is being ended", "its connections are closed, within seconds"),
    ("the last run failed: #", "a pause of at most 30 s is over"),
    ("a hold ended without a switch: #", "a pause of at most 30 s is over"),
    (
        "the connections of earlier runs at # cannot be closed: no answer",
        "# answers CLIENT LIST and CLIENT KILL; it is asked",
    ),
    (
        "the servers of its groups cannot be used for a copy: no answer",
        "they can (pontoon group show 1, pontoon group show 2)",
    ),
    ("no node is alive that could work on it", "has a heartbeat of a node (pontoon node ls)"),
    ("node # is to begin attempt #", "node # reports it, or has not for 3.035 s: then another attempt begins"),
    ("node # has not reported to this leader yet", "node # reports it, or has not for 3.035 s"),
    ("opening, # keys", "has opened its connections, or another attempt begins"),
    ("cleaning-target, # keys", "no old copy of its keys is left at the target"),
    ("copying, 50 keys", "only the keys that change now, in about 20 s (limits: pontoon migrate set # ..)"),
    ("copying, 0 keys", "only the keys that change now (limits: pontoon migrate set # ..)"),
    ("verifying, # keys", "all of the keys that are to be compared are compared"),
    ("finished, # keys", "node # reports it, or has not for"),
    (
        "the dirty keys take too long to copy for a hold: they take 50 ms",
        "clients change fewer keys; after 20 s the limit is 125 ms",
    ),
    ("the feed is behind by # bytes", "node # has read it up to 1048576 bytes, or clients write less"),
    (
        "a hold would be long: node 3 is silent",
        "all nodes and both primaries answer quickly; they are asked again every 0.1 s",
    ),
    (
        "hold # is open, and not all nodes hold: node 2 has not acked",
        "all nodes hold, or after 0.25 s: then the hold ends",
    ),
    ("node # deletes the keys that are left at #: #", "none is left, or the node cannot go on"),
    ("it is paused: #", "pontoon migrate resume #, pontoon migrate cancel #"),
    ("node # sweeps group #", "no leftover is found any more, or slots come to the group"),
    ("group # is swept after migration #", "migration # has ended"),
    ("it deletes what # slots may have left", "for 600 s (it begins in #); there is nothing to do"),
];

/// Whether a text begins with a pattern.
fn begins(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('#');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    parts.all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// The row of a sentence.
#[track_caller]
pub fn row(wait: &Wait) -> usize {
    let text = wait.text();
    let row = WAITS.iter().position(|(what, _)| begins(&text, what));
    let row = row.unwrap_or_else(|| panic!("no row: {text}"));
    let ends = WAITS[row].1;
    let says = (0..wait.ends_when().len())
        .any(|at| wait.ends_when().is_char_boundary(at) && begins(&wait.ends_when()[at..], ends));
    assert!(says, "wanted '{ends}': {text}");
    row
}

fn migrate(world: &mut World, slots: std::ops::Range<u16>, (from, to): (u32, u32)) -> MigrationId {
    let (slots, from, to) = (slots.map(SlotId).collect(), GroupId(from), GroupId(to));
    let options = MigrationOptions::default();
    match world.make(Change::PlanMigration(PlanMigration { product: PRODUCT, slots, from, to, options })) {
        Outcome::Migration(id) => id,
        other => panic!("{other:?}"),
    }
}

fn copies(step: &JobStep) -> bool {
    matches!(step, JobStep::Propose(Change::MigrationProgress(_)))
}

/// A few migrations with everything that may go wrong.
fn with_faults(seen: &mut BTreeSet<usize>) {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let id = world.plan();
        world.faults = 20;
        for _ in 0..200 {
            let ms = world.rng.u64(1..300);
            world.turn(Job::Migration(id), ms);
        }
        if let Some(open) = world.state.migrations.get(&id).filter(|open| open.hold().is_none()) {
            let (migration, why) = (open.id, "an operator wants it".to_owned());
            if world.apply(Change::PauseMigration(PauseMigration { migration, why })).is_ok() {
                world.faults = 0;
                world.turn(Job::Migration(id), 2_000);
            }
        }
        seen.append(&mut world.waits);
    }
}

/// Migrations that wait for others, and for a promotion.
fn behind_others(seen: &mut BTreeSet<usize>) {
    let mut world = World::new(1);
    for (group, slots) in [(3, 20..30), (4, 30..40)] {
        let servers = vec![Server::new(addr(6_000 + group), format!("run{group}"), 0)];
        let group = GroupId(group.try_into().unwrap());
        world.make(Change::CreateGroup(CreateGroup {
            product: PRODUCT,
            group,
            servers,
            credentials: None,
            data_user: None,
        }));
        world.make(Change::AssignFree(AssignFree { product: PRODUCT, slots: slots.map(SlotId).collect(), to: group }));
    }
    let first = migrate(&mut world, 0..5, (1, 2));
    let same_source = migrate(&mut world, 5..10, (1, 3));
    let second = migrate(&mut world, 20..25, (3, 2));
    let same_target = migrate(&mut world, 30..35, (4, 2));
    for id in [first, second] {
        let (from, to) = (world.state.migrations[&id].from, world.state.migrations[&id].to);
        let groups = &world.state.products[&PRODUCT].groups;
        let group_epochs = [from, to].map(|group| (group, groups[&group].epoch)).into();
        let [feed, target] = [from, to].map(|group| groups[&group].servers[0].addr.clone());
        let (node, term) = (NodeId(2), world.term);
        let start = StartMigration { migration: id, attempt: 1, node, feed, target, group_epochs, term };
        world.make(Change::StartMigration(start));
    }
    for id in [same_source, same_target] {
        world.memory = JobMemory::new(world.now_ns);
        assert!(matches!(world.lead(Job::Migration(id)), JobStep::Wait { .. }));
    }
    seen.append(&mut world.waits);

    let mut promoted = World::new(1);
    let id = promoted.plan();
    let (product, group) = (PRODUCT, GroupId(2));
    promoted.make(Change::AddServer(AddServer {
        product,
        group,
        server: Server::new(addr(7_000), "replica".into(), 0),
    }));
    let (to, kind, why) = (addr(7_000), PromotionKind::Switchover, "test".to_owned());
    let group_epoch = promoted.state.products[&PRODUCT].groups[&group].epoch;
    let start = StartPromotion { product, group, to, kind, group_epoch, required_offset: None, forced: false, why };
    promoted.make(Change::StartPromotion(start));
    assert!(matches!(promoted.lead(Job::Migration(id)), JobStep::Wait { .. }));
    seen.append(&mut promoted.waits);
}

/// A mover that has much to do, and nodes that are all silent.
fn slow(seen: &mut BTreeSet<usize>) {
    for load in
        [MoverView { queue_ms: 50, ..MoverView::default() }, MoverView { lag_bytes: 2 << 20, ..MoverView::default() }]
    {
        let mut world = World::new(1);
        let job = Job::Migration(world.plan());
        world.load = load;
        until(&mut world, job, copies);
        world.turn(job, 50);
        world.turn(job, 50);
        seen.append(&mut world.waits);
    }
    let counters = Counters { keys: 50, ..Counters::default() };
    for state in [MoverState::Opening, MoverState::Copying, MoverState::Verifying, MoverState::Finished(HoldId(1))] {
        let mut world = World::new(1);
        let job = Job::Migration(world.plan());
        until(&mut world, job, copies);
        world.load = MoverView { keys_total: 450, keys_per_second: 20, counters, ..MoverView::default() };
        world.stuck_at = Some(state);
        world.turn(job, 50);
        seen.append(&mut world.waits);
    }
    let mut silent = World::new(1);
    let job = Job::Migration(silent.plan());
    while !matches!(silent.lead(job), JobStep::Wait { .. }) {}
    seen.append(&mut silent.waits);
}

/// A sweep that waits, is ended for a migration, and comes to its end.
fn sweeps(seen: &mut BTreeSet<usize>) {
    let mut world = World::new(1);
    let migration = Job::Migration(world.plan());
    until_slowly(&mut world, migration, |s| matches!(s, JobStep::Over));
    let sweep = Job::Sweep { product: PRODUCT, group: GroupId(1) };
    world.memory = JobMemory::new(world.now_ns);
    world.turn(sweep, 1);
    let back = migrate(&mut world, 0..5, (2, 1));
    world.turn(sweep, 1);
    world.make(Change::CancelMigration(CancelMigration { migration: back, why: "a test".into() }));
    while world.state.migrations.contains_key(&back) {
        world.memory = JobMemory::new(world.now_ns);
        until_slowly(&mut world, Job::Migration(back), |s| matches!(s, JobStep::Over));
    }
    world.memory = JobMemory::new(world.now_ns);
    until_slowly(&mut world, sweep, |s| matches!(s, JobStep::Propose(Change::StartRun(_))));
    world.turn(sweep, 1);
    let again = migrate(&mut world, 0..5, (2, 1));
    world.memory = JobMemory::new(world.now_ns);
    world.lead(Job::Migration(again));
    seen.append(&mut world.waits);
}

#[test]
fn every_wait_says_what_ends_it() {
    let mut seen = BTreeSet::new();
    with_faults(&mut seen);
    behind_others(&mut seen);
    slow(&mut seen);
    sweeps(&mut seen);
    let missing: Vec<_> = (0..WAITS.len()).filter(|row| !seen.contains(row)).map(|row| WAITS[row].0).collect();
    assert!(missing.is_empty(), "nothing waits for: {missing:#?}");
}
