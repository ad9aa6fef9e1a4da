//! Promotions and everything else that changes owners or servers: which changes exclude each other, and what is
//! restarted.

use pontoon::model::{
    change::{
        AddServer, AssignFree, Change, GiveUpAssign, MarkResynced, OpenHold, Release, RemoveGroup, RemoveServer,
        StartAssign, StartMigration, StartPromotion, StartRun, Switch,
    },
    event::EventKind,
    ids::{GroupId, HostPort, NodeId},
    migration::{Job, MigrationPhase, ProgressPhase},
    outcome::Outcome,
    promotion::ReplicationOffset,
    route::HoldKind,
    state::{Cause, Server},
};

use super::{
    promotions::{FAILOVER, SWITCHOVER, finish, give_up, required_offset},
    world::{PRODUCT, TERM, World, addr, slots, sweep, sweep_start},
};

#[test]
fn servers_and_group_stay_while_it_is_promoted() {
    let mut world = World::new();
    let id = world.starts(3, FAILOVER);
    let remove = Change::RemoveServer(RemoveServer { product: PRODUCT, group: GroupId(3), addr: addr(3, 2) });
    let sentence = &format!("group 3 is getting 10.1.3.2:6379 as its primary (promotion {id})");
    world.refuses(remove.clone(), sentence);
    world.refuses(Change::RemoveGroup(RemoveGroup { product: PRODUCT, group: GroupId(3), keys_left: None }), sentence);
    let add = Server::new(addr(3, 3), "3-3".into(), 0);
    world.does(Change::AddServer(AddServer { product: PRODUCT, group: GroupId(3), server: add }));
    // Nor does it get slots, because no hold covers them.
    world
        .refuses(Change::AssignFree(AssignFree { product: PRODUCT, slots: slots(500, 500), to: GroupId(3) }), sentence);
    let assign = |slot, to| {
        Change::StartAssign(StartAssign {
            product: PRODUCT,
            slots: slots(slot, slot),
            to: Some(GroupId(to)),
            abandon: false,
        })
    };
    world.refuses(assign(600, 3), sentence);
    world.refuses(assign(0, 3), sentence);
    world.does(give_up(id, false, false));
    world.does(remove);
    world.does(assign(600, 3));
}

#[test]
fn an_assignment_and_a_promotion_exclude_each_other() {
    let mut world = World::new();
    // Open before the promotion, of slots of group 1 that go to group 2.
    let start =
        Change::StartAssign(StartAssign { product: PRODUCT, slots: slots(0, 9), to: Some(GroupId(2)), abandon: false });
    let Outcome::Assignment(assignment) = world.does(start.clone()) else { panic!() };
    let holds = |attempt| {
        Change::OpenHold(OpenHold {
            cause: Cause::Assignment(assignment),
            attempt,
            kind: HoldKind::Wait,
            reason: "test".into(),
        })
    };
    for group in [1, 2] {
        let id = world.starts(group, FAILOVER);
        world.refuses(holds(1), &format!("group {group} is getting 10.1.{group}.2:6379 as its primary"));
        world.does(give_up(id, false, false));
    }
    let Outcome::Held(hold) = world.does(holds(1)) else { panic!() };
    for group in [1, 2] {
        let sentence = format!("slots of group {group} are held for assignment {assignment} (hold {hold})");
        world.refuses(world.promote(group, FAILOVER), &sentence);
    }
    // Other groups do not matter.
    let id = world.starts(4, FAILOVER);
    world.does(give_up(id, false, false));
    world.does(Change::Release(Release { hold, why: "".into() }));
    world.starts(1, FAILOVER);
    world.does(Change::GiveUpAssign(GiveUpAssign { assignment, why: "".into() }));
    world.refuses(start, "group 1 is getting 10.1.1.2:6379 as its primary");
}

#[test]
fn a_migration_neither_begins_nor_holds_while_a_group_of_it_is_promoted() {
    for group in [1, 2] {
        let sentence = &format!("group {group} is getting 10.1.{group}.2:6379 as its primary");
        let (mut world, id) = World::at("planned");
        let promotion = world.starts(group, FAILOVER);
        world.refuses(world.start(id), sentence);
        world.does(give_up(promotion, false, false));
        world.does(world.start(id));

        let (mut world, id) = World::at("caught-up");
        let promotion = world.starts(group, SWITCHOVER);
        world.refuses(world.hold(id), sentence);
        world.does(give_up(promotion, false, false));
        world.does(world.hold(id));
        let hold = world.migration(id).hold().unwrap();
        let sentence = format!("slots of group {group} are held for migration {id} (hold {hold})");
        world.refuses(world.promote(group, FAILOVER), &sentence);
        world.does(world.switch(id));
        world.starts(group, FAILOVER);
    }
    // Groups that are not concerned.
    let (mut world, _) = World::at("held");
    world.promoted(4, FAILOVER);
}

#[test]
fn another_primary_ends_the_attempts_from_and_to_its_group() {
    for (group, phase) in [(1, "cleaning-target"), (1, "copying"), (2, "copying"), (2, "caught-up"), (1, "caught-up")] {
        let (mut world, id) = World::at(phase);
        let run = world.migration(id).run.clone().unwrap();
        // An attempt of other groups goes on.
        let other = world.plan(200, 209, 4, 3);
        world.does(world.start(other));
        world.promoted(group, FAILOVER);
        let m = world.migration(id);
        assert_eq!((m.phase, &m.run, m.attempt, m.runs), (MigrationPhase::Planned, &None, 1, 1));
        assert_eq!(m.why, format!("group {group} has another primary: 10.1.{group}.2:6379"));
        assert!(world.last_event().2.ends_with(&format!("; restarted: migration {id}")), "{:?}", world.last_event());
        assert_eq!(world.migration(other).phase, MigrationPhase::CleaningTarget);
        assert_ne!(run.group_epochs, world.epochs(id));
        // Reports of the old attempt do not count any more, and its servers are not the right ones.
        let progress = world.progress(id, ProgressPhase::Copying);
        world.refuses(progress, "is planned, so it cannot report progress");
        let Change::StartMigration(StartMigration { attempt, node, term, .. }) = world.start(id) else { panic!() };
        let again = |feed: HostPort, target: HostPort, group_epochs| {
            Change::StartMigration(StartMigration { migration: id, attempt, node, feed, target, group_epochs, term })
        };
        let primary = |g: u32| world.servers(g)[0].clone();
        let right = again(primary(1), primary(2), world.epochs(id));
        let stale = again(primary(1), primary(2), run.group_epochs);
        world.refuses(stale, &format!("group {group} changed since"));
        world.does(right);
    }
}

/// Two switches to one target may be proposed in another order than that in which its primary was checked.
#[test]
fn a_switch_keeps_a_larger_required_offset() {
    for (before, after) in
        [(required_offset(9), required_offset(9)), (required_offset(5), required_offset(7)), (None, required_offset(7))]
    {
        let (mut world, id) = World::at("held");
        world.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&GroupId(2)).unwrap().required_offset = before;
        world.does(world.switch(id));
        assert_eq!(world.group(2).required_offset, after);
    }
    // Offsets of another replication id cannot be compared.
    let (mut world, id) = World::at("held");
    let other = Some(ReplicationOffset { replid: "cd".into(), offset: 9 });
    world.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&GroupId(2)).unwrap().required_offset = other;
    world.does(world.switch(id));
    assert_eq!(world.group(2).required_offset, required_offset(7));
}

#[test]
fn a_switch_sets_the_required_offset() {
    let (mut world, id) = World::at("switched");
    assert_eq!((&world.group(2).required_offset, &world.group(1).required_offset), (&required_offset(7), &None));
    let text = world.state.events.iter().find(|e| e.kind == EventKind::Switched).unwrap().text.clone();
    assert!(text.ends_with("; the primary of group 2 was at offset 7 of ab"), "{text}");
    // A check before the switch does not know it.
    let Change::StartPromotion(StartPromotion { product, group, to, kind, group_epoch, why, .. }) =
        world.promote(2, FAILOVER)
    else {
        panic!()
    };
    let knowing = |required_offset| {
        Change::StartPromotion(StartPromotion {
            product,
            group,
            to: to.clone(),
            kind,
            group_epoch,
            required_offset,
            forced: false,
            why: why.clone(),
        })
    };
    let sentence = "slots came to group 2 since its replicas were checked";
    world.refuses(knowing(None), sentence);
    world.refuses(knowing(required_offset(6)), sentence);
    let Outcome::Promotion(promotion) = world.does(knowing(required_offset(7))) else { panic!() };
    let hold = world.holds(promotion);
    world.does(finish(promotion, hold));
    assert_eq!(world.group(2).required_offset, None, "its replicas copy it whole");
    assert_eq!(world.migration(id).phase, MigrationPhase::Switched);

    // A switch whose offset is lower, being of an earlier check, keeps the offset that is required already.
    let (mut world, id) = World::at("held");
    let Change::Switch(Switch { attempt, hold, term, group_epochs, .. }) = world.switch(id) else { panic!() };
    let switch = |target_offset| {
        Change::Switch(Switch { migration: id, attempt, hold, term, group_epochs: group_epochs.clone(), target_offset })
    };
    let at_one = |replid: &str| switch(ReplicationOffset { replid: replid.into(), offset: 1 });
    for replid in ["", "not one", &"a".repeat(65)] {
        world.refuses(at_one(replid), "the replication id or run id of the primary of group 2 is not one");
    }
    let group = GroupId(2);
    world.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&group).unwrap().required_offset =
        required_offset(5);
    world.does(at_one("ab"));
    assert_eq!(world.group(2).required_offset, required_offset(5));
}

#[test]
fn a_run_at_a_replaced_primary_does_not_count() {
    // The source of a switched migration.
    let (mut world, id) = World::at("switched");
    world.does(world.clean(id, addr(1, 1)));
    let stale = world.cleaned(Job::Migration(id));
    world.promoted(1, FAILOVER);
    world.refuses(stale, "10.1.1.1:6379 is not the primary of group 1");
    world.refuses(world.clean(id, addr(1, 1)), "10.1.1.1:6379 is not the primary of group 1");
    world.does(world.clean(id, addr(1, 2)));
    world.does(world.cleaned(Job::Migration(id)));
    // A sweep.
    world.does(Change::StartRun(StartRun { job: sweep(1), run: 1, node: NodeId(1), server: addr(1, 2), term: TERM }));
    let stale = world.cleaned(sweep(1));
    let back = Change::MarkResynced(MarkResynced {
        product: PRODUCT,
        group: GroupId(1),
        addr: addr(1, 1),
        epoch: world.group(1).epoch,
    });
    world.does(back);
    let (group_epoch, why) = (world.group(1).epoch, String::new());
    let start = Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group: GroupId(1),
        to: addr(1, 1),
        kind: SWITCHOVER,
        group_epoch,
        required_offset: None,
        forced: false,
        why,
    });
    let Outcome::Promotion(promotion) = world.does(start) else { panic!() };
    let hold = world.holds(promotion);
    world.does(finish(promotion, hold));
    world.refuses(stale, "10.1.1.2:6379 is not the primary of group 1");
    let again = sweep_start(&world, 1);
    world.does(again);
    world.does(world.cleaned(sweep(1)));
    assert!(world.given_away(1).is_empty());
    // The target of a cancelled one.
    let (mut world, id) = World::at("cancelling");
    world.does(world.clean(id, addr(2, 1)));
    let stale = world.cleaned(Job::Migration(id));
    world.promoted(2, FAILOVER);
    world.refuses(stale, "10.1.2.1:6379 is not the primary of group 2");
}
