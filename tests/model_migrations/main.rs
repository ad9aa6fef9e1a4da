//! Migrations, entry by entry (docs/design/migration.md): what each change does, and that a change that does not fit is
//! refused with a text that says what to do, and leaves the state as it was.
#![allow(clippy::unwrap_used)]

mod ejections;
mod exclusion;
mod groups;
mod promotions;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    apply::{apply, dry_run},
    change::{
        AssignFree, BeginRemove, CancelMigration, Change, Cleaned, EndSweep, FinishAssign, GiveUpAssign,
        MigrationProgress, OpenHold, PauseMigration, PlanMigration, Release, RemoveGroup, RestartMigration,
        ResumeMigration, SetMigration, StartAssign, StartMigration, StartRun, Switch,
    },
    check::check,
    event::{EventClass, EventKind},
    ids::{AssignmentId, Epoch, GroupId, HoldId, MigrationId, NodeId, Term, Uuid},
    limits::{ENDED_MIGRATIONS_MAX, EVENTS_MAX, MIGRATIONS_MAX},
    migration::{Counters, EndPhase, Job, Limits, MigrationOptions, MigrationPhase, ProgressPhase, RunKind, Verified},
    outcome::Outcome,
    route::HoldKind,
    state::{Cause, Entry, Position},
};

use world::{PRODUCT, TERM, World, addr, plan, slots, sweep, sweep_start};

const PHASES: [&str; 8] =
    ["planned", "cleaning-target", "copying", "caught-up", "held", "switched", "cancelling", "paused"];

#[test]
fn a_migration_from_its_plan_to_its_end() {
    let (mut world, id) = World::at("held");
    let hold = world.migration(id).hold().unwrap();
    assert_eq!((world.owner(0), world.owner(9)), (GroupId(1), GroupId(1)));
    assert_eq!(world.does(world.switch(id)), Outcome::Slots(10));
    assert_eq!((world.owner(0), world.owner(9), world.owner(10)), (GroupId(2), GroupId(2), GroupId(1)));
    let slot = world.state.products[&PRODUCT].slots[3];
    assert_eq!((slot.epoch, world.state.route_epoch), (world.state.applied, world.state.applied));
    assert!(!world.state.holds.contains_key(&hold) && world.migration(id).run.is_none());
    assert_eq!(*world.given_away(1), slots(0, 9));
    world.does(world.clean(id, addr(1, 1)));
    assert_eq!(world.migration(id).run.as_ref().map(|r| (r.run, r.kind)), Some((2, RunKind::CleanSource)));
    // Another node takes over.
    world.does(world.clean(id, addr(1, 1)));
    world.does(world.cleaned(Job::Migration(id)));
    let end = world.state.ended_migrations.back().unwrap();
    assert_eq!((end.id, end.end, end.attempt, end.counters.keys, end.counters.cleaned), (id, EndPhase::Done, 1, 5, 9));
    // Late writes without an answer may still arrive at the source.
    assert_eq!(*world.given_away(1), slots(0, 9));
    let events = || world.state.events.iter().filter(|e| e.index.0 >= id.0);
    let kinds: Vec<EventKind> = events().map(|e| e.kind).collect();
    use EventKind::{CaughtUp, Copying, Done, Held, Planned, RunStarted, Started, Switched};
    assert_eq!(kinds, [Planned, Started, Copying, CaughtUp, Held, Switched, RunStarted, RunStarted, Done]);
    assert!(events().all(|e| e.subject == format!("migration {id}") && e.product == Some(PRODUCT)));
    let changes: Vec<(&str, &str)> = events().map(|e| (e.before.as_str(), e.after.as_str())).collect();
    assert_eq!(changes[0], ("migration=none", &*format!("migration={id} to group 2")));
    assert_eq!(changes[2], ("phase=cleaning-target", "phase=copying"));
    let switched =
        ("phase=held, owner=group 1 (10 slots), run=1 by node 2", "phase=switched, owner=group 2 (10 slots), run=none");
    assert_eq!(changes[5], switched);
    assert_eq!(changes[8], ("phase=switched", "phase=done"));
    // They move back: their keys are not leftovers any more.
    let back = world.plan(0, 9, 2, 1);
    assert_eq!(world.migration(back).deletable_at_target(&world.state), slots(0, 9));
    world.reach(back, "switched");
    assert_eq!((world.given_away(1).len(), world.given_away(2).len()), (0, 10));
}

#[test]
fn plan_demands() {
    let mut world = World::new();
    world.refuses(plan(0, 9, 1, 1), "both source and target; choose another");
    world.refuses(plan(0, 9, 9, 1), "no group 9");
    world.refuses(plan(0, 9, 1, 9), "no group 9");
    world.refuses(plan(95, 105, 1, 2), "slot 100 does not belong to group 1 but to group 2");
    world.refuses(plan(295, 305, 4, 2), "slot 300 does not belong to group 4 but to nobody");
    world.refuses(plan(1020, 1030, 1, 2), "there is no slot 1030");
    let none = Change::PlanMigration(PlanMigration {
        product: PRODUCT,
        slots: BTreeSet::new(),
        from: GroupId(1),
        to: GroupId(2),
        options: MigrationOptions::default(),
    });
    world.refuses(none, "no slots were named");
    let limits = Limits { hold_ms_max: 5, ..Limits::default() };
    let (from, to, options) = (GroupId(1), GroupId(2), MigrationOptions { limits, ..MigrationOptions::default() });
    let hasty = Change::PlanMigration(PlanMigration { product: PRODUCT, slots: slots(0, 9), from, to, options });
    world.refuses(hasty, "a hold cannot have a budget of 5 ms; choose 10 to 10000, or 0");
    let id = world.plan(0, 9, 1, 2);
    world.refuses(plan(5, 15, 1, 3), &format!("slot 5 is in migration {id} from group 1 to group 2"));
    world.refuses(plan(5, 15, 1, 3), &format!("pontoon migrate cancel {id}"));
    let assign = |first, last, to| {
        Change::StartAssign(StartAssign {
            product: PRODUCT,
            slots: slots(first, last),
            to: Some(GroupId(to)),
            abandon: true,
        })
    };
    world.refuses(assign(9, 20, 3), &format!("slot 9 is in migration {id}"));
    let Outcome::Assignment(assignment) = world.does(assign(20, 29, 3)) else { panic!("no assignment") };
    world.refuses(plan(29, 30, 1, 2), &format!("slot 29 is being assigned to group 3 (assignment {assignment}"));
}

#[test]
fn open_migrations_are_bounded() {
    let mut world = World::new();
    world.does(Change::AssignFree(AssignFree { product: PRODUCT, slots: slots(300, 1023), to: GroupId(3) }));
    for slot in 0..MIGRATIONS_MAX as u16 {
        world.plan(300 + slot, 300 + slot, 3, 1);
    }
    world.refuses(plan(900, 900, 3, 1), "256 migrations have not ended, the most there can be; wait for one");
}

#[test]
fn start_demands() {
    let (mut world, id) = World::at("planned");
    let with = |edit: &dyn Fn(&mut Change)| {
        let mut change = world.start(id);
        edit(&mut change);
        change
    };
    let mut cases = Vec::new();
    macro_rules! wrong {
        ($field:ident, $value:expr, $sentence:expr) => {
            let change = with(&|change| {
                if let Change::StartMigration(StartMigration { $field, .. }) = change {
                    *$field = $value;
                }
            });
            cases.push((change, $sentence));
        };
    }
    wrong!(migration, MigrationId(999), "migration 999 has ended or never existed; `pontoon migrate ls`");
    wrong!(attempt, 2, "attempt 2 of migration");
    wrong!(attempt, 0, "not the expected one (1)");
    wrong!(node, NodeId(9), "there is no node 9");
    wrong!(feed, addr(2, 1), "is not a server of group 1");
    wrong!(target, addr(2, 2), "is not the primary of group 2");
    wrong!(group_epochs, BTreeMap::new(), "group 1 changed since its servers were checked");
    wrong!(group_epochs, BTreeMap::from([(GroupId(1), Epoch(2))]), "group 2 changed since");
    wrong!(term, Term(2), "decided in term 2, its entry is of term 1");
    for (change, sentence) in cases {
        world.refuses(change, sentence);
    }
    let start = world.start(id);
    assert!(world.act_in(start, Term(2)).unwrap_err().contains("decided in term 1, its entry is of term 2"));
    world.does(Change::BeginRemove(BeginRemove { node: NodeId(2), assume_dead: false }));
    world.refuses(world.start(id), "node 2 is being removed");
    for phase in PHASES.iter().filter(|p| **p != "planned") {
        let (mut world, id) = World::at(phase);
        world.refuses(world.start(id), &format!("migration {id} is {phase}, so it cannot start"));
    }
}

#[test]
fn one_attempt_reads_a_source_and_two_fill_a_target() {
    let mut world = World::new();
    let (first, same_source) = (world.plan(0, 9, 1, 3), world.plan(10, 19, 1, 2));
    let (second, third) = (world.plan(100, 109, 2, 3), world.plan(200, 209, 4, 3));
    world.reach(first, "held");
    world.refuses(world.start(same_source), &format!("migration {first} copies from group 1 now"));
    world.reach(second, "cleaning-target");
    world.refuses(world.start(third), "2 migrations copy to group 3 now");
    // Cleaning may overlap with the next attempt.
    world.reach(first, "switched");
    world.does(world.start(same_source));
    world.does(world.start(third));
    // Paused and restarted migrations do not count.
    world.does(Change::PauseMigration(PauseMigration { migration: same_source, why: "test".into() }));
    let other = world.plan(20, 29, 1, 2);
    world.does(world.start(other));
}

#[test]
fn progress_demands() {
    let (mut world, id) = World::at("copying");
    let other = |attempt| {
        Change::MigrationProgress(MigrationProgress {
            migration: id,
            attempt,
            phase: ProgressPhase::CaughtUp,
            counters: Counters::default(),
            verified: None,
        })
    };
    world.refuses(other(2), "attempt 2 of migration");
    world.refuses(other(0), "not the expected one (1)");
    let events = world.state.events.len();
    world.does(world.progress(id, ProgressPhase::Copying));
    assert_eq!(world.state.events.len(), events, "the same phase again is no event");
    world.does(world.progress(id, ProgressPhase::CaughtUp));
    let verified = Some(Verified { keys: 7, different: 0 });
    let mut compared = world.progress(id, ProgressPhase::CaughtUp);
    if let Change::MigrationProgress(MigrationProgress { verified: v, .. }) = &mut compared {
        *v = verified;
    }
    world.does(compared);
    assert_eq!(world.state.events.back().map(|e| e.kind), Some(EventKind::Verified));
    world.does(world.progress(id, ProgressPhase::CaughtUp));
    assert_eq!(world.migration(id).verified, verified, "a report without a comparison keeps the last result");
    for phase in ["planned", "held", "switched", "cancelling", "paused"] {
        let (mut world, id) = World::at(phase);
        let change = world.progress(id, ProgressPhase::Copying);
        world.refuses(change, &format!("is {phase}, so it cannot report progress"));
    }
}

#[test]
fn hold_demands() {
    let (mut world, id) = World::at("caught-up");
    let hold = |cause, attempt, kind| Change::OpenHold(OpenHold { cause, attempt, kind, reason: String::new() });
    let cause = Cause::Migration(id);
    world.refuses(hold(Cause::Migration(MigrationId(999)), 1, HoldKind::Wait), "migration 999 has ended");
    world.refuses(hold(cause, 2, HoldKind::Wait), "attempt 2 of migration");
    world.refuses(hold(cause, 1, HoldKind::Abandon), "takes a hold of kind Wait");
    assert_eq!(world.does(hold(cause, 1, HoldKind::Wait)), Outcome::Held(HoldId(world.state.applied.0)));
    assert_eq!(world.state.route_epoch, world.state.applied);
    for phase in PHASES.iter().filter(|p| **p != "caught-up") {
        let (mut world, id) = World::at(phase);
        world.refuses(world.hold(id), &format!("is {phase}, so it cannot hold its slots; it must have caught up"));
    }
}

#[test]
fn switch_demands() {
    let (mut world, id) = World::at("held");
    let right = world.switch(id);
    let Change::Switch(Switch { hold, group_epochs, target_offset, .. }) = right.clone() else { panic!() };
    let other = |attempt, hold, term, group_epochs: &BTreeMap<GroupId, Epoch>| {
        Change::Switch(Switch {
            migration: id,
            attempt,
            hold,
            term,
            group_epochs: group_epochs.clone(),
            target_offset: target_offset.clone(),
        })
    };
    world.refuses(other(2, hold, TERM, &group_epochs), "attempt 2 of migration");
    world.refuses(other(1, HoldId(1), TERM, &group_epochs), "hold 1 is not the one of migration");
    world.refuses(other(1, hold, Term(2), &group_epochs), "decided in term 2, its entry is of term 1");
    world.refuses(other(1, hold, TERM, &BTreeMap::new()), "group 1 changed since");
    let stale = BTreeMap::from([(GroupId(1), group_epochs[&GroupId(1)]), (GroupId(2), Epoch(1))]);
    world.refuses(other(1, hold, TERM, &stale), "group 2 changed since");
    assert!(world.act_in(right.clone(), Term(3)).unwrap_err().contains("the leader decides again"));
    // They race in the log only: the first one wins.
    world.does(Change::Release(Release { hold, why: "budget spent".into() }));
    world.refuses(right.clone(), "is caught-up, so it cannot switch; its slots must be held");
    world.does(world.hold(id));
    world.refuses(right, &format!("hold {hold} is not the one of migration"));
    let (second, late) =
        (world.switch(id), Change::Release(Release { hold: world.migration(id).hold().unwrap(), why: "".into() }));
    world.does(second.clone());
    world.refuses(late, "is not open any more");
    world.refuses(second, "is switched, so it cannot switch");
}

/// A promotion ends the attempt, so no log reaches this state; Switch checks nevertheless. (The state is made by hand.)
#[test]
fn a_failover_since_the_start_refuses_the_switch() {
    let (mut world, id) = World::at("held");
    world.state.route_epoch = world.state.applied;
    let (now, index) = (world.state.applied, GroupId(2));
    world.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&index).unwrap().epoch = now;
    let [found] = &check(&world.state)[..] else { panic!("{:?}", check(&world.state)) };
    assert!(found.0.contains("goes on although a primary of its attempt was replaced"), "{found:?}");
    let fresh = world.switch(id);
    assert!(matches!(&fresh, Change::Switch(Switch { group_epochs, .. }) if group_epochs[&index] == now));
    let at = Position { index: Epoch(now.0 + 1), term: TERM };
    let refused = apply(
        &mut world.state,
        &Entry { id: Uuid(99), request_hash: 0, at_ms: 0, author: Default::default(), change: fresh },
        at,
    )
    .unwrap_err();
    assert!(refused.to_string().contains("group 2 changed since its servers were checked"), "{refused}");
    world.does(Change::RestartMigration(RestartMigration { migration: id, why: "group 2 has another primary".into() }));
    world.reach(id, "switched");
}

#[test]
fn a_release_goes_back_and_is_counted() {
    let (mut world, id) = World::at("held");
    for n in 1..=3 {
        let hold = world.migration(id).hold().unwrap();
        world.does(Change::Release(Release { hold, why: format!("node {n} has not drained") }));
        let m = world.migration(id);
        assert_eq!(
            (m.phase, m.releases, m.why.as_str()),
            (MigrationPhase::CaughtUp, n, &*format!("node {n} has not drained"))
        );
        assert!(m.run.is_some(), "the node goes on");
        assert!(world.state.events.back().unwrap().text.contains("1000 ms"));
        world.does(world.hold(id));
    }
    world.does(Change::PauseMigration(PauseMigration { migration: id, why: "five times".into() }));
    assert!(world.state.holds.is_empty());
    assert_eq!(world.migration(id).releases, 4);
    world.does(Change::ResumeMigration(ResumeMigration { migration: id }));
    assert_eq!((world.migration(id).phase, world.migration(id).releases), (MigrationPhase::Planned, 0));
}

#[test]
fn restart_cancel_pause_and_resume_by_phase() {
    // The phase before; the results of restart, cancel, pause, resume: a phase, "=" for unchanged, "!" for refused.
    let table = [
        ("planned", ["!", "cancelled", "paused", "="]),
        ("cleaning-target", ["planned", "cancelling", "paused", "="]),
        ("copying", ["planned", "cancelling", "paused", "="]),
        ("caught-up", ["planned", "cancelling", "paused", "="]),
        ("held", ["planned", "cancelling", "paused", "="]),
        ("switched", ["!", "!", "!", "!"]),
        ("cancelling", ["!", "=", "!", "!"]),
        ("paused", ["!", "cancelling", "=", "planned"]),
    ];
    for (phase, results) in table {
        for (i, expected) in results.into_iter().enumerate() {
            let (mut world, migration) = World::at(phase);
            let why = "test".to_owned();
            let change = match i {
                0 => Change::RestartMigration(RestartMigration { migration, why }),
                1 => Change::CancelMigration(CancelMigration { migration, why }),
                2 => Change::PauseMigration(PauseMigration { migration, why }),
                _ => Change::ResumeMigration(ResumeMigration { migration }),
            };
            let label = format!("{phase}: {change:?}");
            assert_eq!(dry_run(&world.state, &change).is_ok(), expected != "!", "{label}");
            let result = world.act(change);
            match expected {
                "!" => assert!(result.unwrap_err().contains(&format!("is {phase}, so it cannot")), "{label}"),
                "=" => assert_eq!(result, Ok(Outcome::Unchanged), "{label}"),
                "cancelled" => assert_eq!(world.state.ended_migrations[0].end, EndPhase::Cancelled, "{label}"),
                _ => {
                    assert_eq!(world.migration(migration).phase.name(), expected, "{label}");
                    assert!(world.migration(migration).run.is_none() && world.state.holds.is_empty(), "{label}");
                }
            }
        }
    }
}

#[test]
fn a_cancelled_copy_is_wiped() {
    let (mut world, id) = World::at("cancelling");
    let job = Job::Migration(id);
    world.refuses(world.clean(id, addr(1, 1)), "is not the primary of group 2");
    world.refuses(Change::Cleaned(Cleaned { job, run: 1, term: TERM, deleted: 0 }), "run 1 of migration");
    world.does(world.clean(id, addr(2, 1)));
    assert_eq!(world.migration(id).run.as_ref().map(|r| (r.run, r.kind)), Some((2, RunKind::WipeTarget)));
    world.does(world.cleaned(job));
    let end = &world.state.ended_migrations[0];
    assert_eq!((end.end, world.owner(0), world.given_away(2).len()), (EndPhase::Cancelled, GroupId(1), 0));
    // An attempt that never began to copy does not make the keys at the target copies.
    let (world, id) = World::at("cleaning-target");
    assert!(!world.migration(id).staged && world.migration(id).deletable_at_target(&world.state).is_empty());
    let (mut world, id) = World::at("copying");
    world.does(Change::RestartMigration(RestartMigration { migration: id, why: "test".into() }));
    assert_eq!(world.migration(id).deletable_at_target(&world.state), slots(0, 9));
}

#[test]
fn run_demands() {
    let (mut world, id) = World::at("switched");
    let job = Job::Migration(id);
    let start = |run, node, server, term| Change::StartRun(StartRun { job, run, node: NodeId(node), server, term });
    world.refuses(start(1, 3, addr(1, 1), TERM), "run 1 of migration");
    world.refuses(start(3, 3, addr(1, 1), TERM), "not the next one (2)");
    world.refuses(start(2, 8, addr(1, 1), TERM), "there is no node 8");
    world.refuses(start(2, 3, addr(2, 1), TERM), "is not the primary of group 1");
    world.refuses(start(2, 3, addr(1, 1), Term(2)), "decided in term 2");
    world.refuses(Change::Cleaned(Cleaned { job, run: 1, term: TERM, deleted: 0 }), "is not current");
    world.does(start(2, 3, addr(1, 1), TERM));
    world.does(start(3, 2, addr(1, 1), TERM));
    world.refuses(Change::Cleaned(Cleaned { job, run: 2, term: TERM, deleted: 0 }), "run 2 of migration");
    world.refuses(Change::Cleaned(Cleaned { job, run: 3, term: Term(2), deleted: 0 }), "decided in term 2");
    world.does(Change::Cleaned(Cleaned { job, run: 3, term: TERM, deleted: 0 }));
    world.refuses(Change::Cleaned(Cleaned { job, run: 3, term: TERM, deleted: 0 }), "has ended or never existed");
    for phase in ["planned", "cleaning-target", "copying", "caught-up", "held", "paused"] {
        let (mut world, id) = World::at(phase);
        let run = world.migration(id).runs;
        world.refuses(world.clean(id, addr(1, 1)), &format!("is {phase}, so it cannot be cleaned up"));
        let early = Change::Cleaned(Cleaned { job: Job::Migration(id), run, term: TERM, deleted: 0 });
        world.refuses(early, "is not current");
    }
}

#[test]
fn sweeps() {
    let mut world = World::new();
    world.refuses(sweep_start(&world, 1), "has given away no slots");
    let id = world.plan(0, 9, 1, 2);
    world.reach(id, "switched");
    // The migration's own run cleans them.
    world.refuses(sweep_start(&world, 1), "has given away no slots");
    world.does(world.clean(id, addr(1, 1)));
    world.does(world.cleaned(Job::Migration(id)));
    world.does(sweep_start(&world, 1));
    let open = world.state.products[&PRODUCT].groups[&GroupId(1)].sweep.clone().unwrap();
    assert_eq!((open.slots, open.run.run), (slots(0, 9), 1));
    // No slots come to the group meanwhile.
    let back = world.plan(5, 9, 2, 1);
    world.refuses(world.start(back), "leftovers of slots that group 1 gave away are being deleted there");
    let assign = Change::StartAssign(StartAssign {
        product: PRODUCT,
        slots: slots(100, 109),
        to: Some(GroupId(1)),
        abandon: false,
    });
    let Outcome::Assignment(assignment) = world.does(assign) else { panic!("no assignment") };
    let hold = |id: AssignmentId| {
        Change::OpenHold(OpenHold {
            cause: Cause::Assignment(id),
            attempt: 1,
            kind: HoldKind::Wait,
            reason: String::new(),
        })
    };
    world.refuses(hold(assignment), "the leader ends that first");
    world.refuses(
        Change::RemoveGroup(RemoveGroup { product: PRODUCT, group: GroupId(1), keys_left: None }),
        "still owns 90 slot(s)",
    );
    let end = |run, term| {
        Change::EndSweep(EndSweep { product: PRODUCT, group: GroupId(1), run, term, why: "slots come".into() })
    };
    world.refuses(end(2, TERM), "run 2 of the sweep of group 1 of product 1 is not current");
    world.refuses(end(1, Term(5)), "decided in term 5");
    world.does(end(1, TERM));
    world.refuses(end(1, TERM), "no sweep of group 1 is open");
    assert_eq!(world.given_away(1).len(), 10, "they are not swept, so they stay recorded");
    world.does(hold(assignment));
    world.refuses(sweep_start(&world, 1), &format!("slots come to group 1 (assignment {assignment})"));
    world.does(Change::GiveUpAssign(GiveUpAssign { assignment, why: "test".into() }));
    // Slots that return are left to the migration; run numbers are never used twice.
    world.does(sweep_start(&world, 1));
    let open = world.state.products[&PRODUCT].groups[&GroupId(1)].sweep.clone().unwrap();
    assert_eq!((open.slots, open.run.run), (slots(0, 4), 2));
    world.does(sweep_start(&world, 1));
    world.does(world.cleaned(sweep(1)));
    assert_eq!(*world.given_away(1), slots(5, 9));
    world.does(world.start(back));
    world.refuses(sweep_start(&world, 1), &format!("slots come to group 1 (migration {back})"));
}

#[test]
fn abandoned_keys_are_not_leftovers() {
    let mut world = World::new();
    for (abandon, first, remembered) in [(true, 0, 0), (false, 10, 10)] {
        let slots = slots(first, first + 9);
        let start = Change::StartAssign(StartAssign { product: PRODUCT, slots, to: Some(GroupId(2)), abandon });
        let Outcome::Assignment(assignment) = world.does(start) else { panic!("no assignment") };
        let cause = Cause::Assignment(assignment);
        world.does(Change::OpenHold(OpenHold { cause, attempt: 1, kind: HoldKind::Wait, reason: String::new() }));
        let hold = HoldId(world.state.applied.0);
        let groups = &world.state.products[&PRODUCT].groups;
        let group_epochs = [1, 2].map(|g| (GroupId(g), groups[&GroupId(g)].epoch)).into();
        world.does(Change::FinishAssign(FinishAssign { assignment, hold, term: TERM, group_epochs }));
        assert_eq!((world.owner(first), world.given_away(1).len()), (GroupId(2), remembered));
    }
}

#[test]
fn groups_of_open_migrations_stay() {
    let mut world = World::new();
    let id = world.plan(200, 299, 4, 3);
    let remove = |group| Change::RemoveGroup(RemoveGroup { product: PRODUCT, group: GroupId(group), keys_left: None });
    world.refuses(remove(3), &format!("group 3 is in migration {id}, which has not ended"));
    world.reach(id, "switched");
    world.refuses(remove(4), &format!("pontoon migrate watch {id}"));
    world.does(world.clean(id, addr(4, 1)));
    world.does(world.cleaned(Job::Migration(id)));
    world.does(sweep_start(&world, 4));
    world.refuses(remove(4), "try again in a moment");
    world.does(world.cleaned(sweep(4)));
    world.does(remove(4));
}

#[test]
fn the_event_of_a_group_that_is_removed_before_its_sweep_says_so_if_it_has_keys() {
    for (keys_left, said) in
        [(Some(0), None), (Some(7), Some("the primary had 7 key(s)")), (None, Some("is not known"))]
    {
        let mut world = World::new();
        let id = world.plan(200, 299, 4, 3);
        world.reach(id, "switched");
        world.does(world.clean(id, addr(4, 1)));
        world.does(world.cleaned(Job::Migration(id)));
        let events = world.state.events.len();
        world.does(Change::RemoveGroup(RemoveGroup { product: PRODUCT, group: GroupId(4), keys_left }));
        assert_eq!(world.state.events.len() - events, 1);
        let (kind, subject, text) = world.last_event();
        assert_eq!((kind, subject), (EventKind::GroupRemoved, "group 4"));
        match said {
            Some(said) => assert!(text.contains("keys of 100 slots") && text.contains(said), "{text}"),
            None => assert_eq!(text, "removed"),
        }
    }
}

#[test]
fn limits_change_while_it_runs() {
    let (mut world, id) = World::at("held");
    let set = |keys, hold| {
        Change::SetMigration(SetMigration {
            migration: id,
            keys_per_second: keys,
            bytes_per_second: None,
            hold_ms_max: hold,
        })
    };
    world.refuses(set(Some(5), Some(9)), "a hold cannot have a budget of 9 ms");
    world.does(set(Some(5), Some(400)));
    assert_eq!(world.does(set(None, Some(400))), Outcome::Unchanged);
    let limits = world.migration(id).options.limits;
    assert_eq!((limits.keys_per_second, limits.bytes_per_second, limits.hold_ms_max), (5, 0, 400));
    let gone = Change::SetMigration(SetMigration {
        migration: MigrationId(999),
        keys_per_second: None,
        bytes_per_second: None,
        hold_ms_max: None,
    });
    world.refuses(gone, "migration 999 has ended or never existed");
}

#[test]
fn ended_migrations_and_events_are_bounded() {
    let mut world = World::new();
    let why = "w".repeat(5000);
    for _ in 0..EVENTS_MAX / 2 + 10 {
        let migration = world.plan(0, 9, 1, 2);
        world.does(Change::CancelMigration(CancelMigration { migration, why: why.clone() }));
    }
    assert_eq!(world.state.ended_migrations.len(), ENDED_MIGRATIONS_MAX);
    let of = |class| world.state.events.iter().filter(|event| event.class() == class).count();
    // What nobody asked for has not displaced that the cluster was formed.
    assert_eq!((of(EventClass::Automatic), of(EventClass::Asked)), (EVENTS_MAX, 1));
    assert_eq!(world.state.events.front().unwrap().kind, EventKind::Bootstrapped);
    assert!(world.state.ended_migrations.back().unwrap().why.len() < 600);
    assert_eq!(world.state.events.back().unwrap().kind, EventKind::Cancelled);
}
