//! Ejections: a group of a cache is ejected and reinstated; which changes exclude each other.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    change::{
        AssignFree, Change, CreateGroup, Eject, FinishAssign, NewProduct, OpenHold, PlanMigration, Reinstate,
        RemoveGroup, StartAssign, StartMigration, StartRun,
    },
    event::EventKind,
    ids::{AssignmentId, Epoch, GroupId, HoldId, ProductId, SlotId, Term},
    migration::{Job, MigrationOptions},
    outcome::Outcome,
    route::{HoldKind, Isolated, Mode},
    slot::Layout,
    state::{Cause, Group, Server},
};

use crate::world::{TERM, World, addr, slots};

const CACHE: ProductId = ProductId(2);

/// In addition to the store: a cache with groups 11 to 13, with slots 0 to 99, 100 to 199 and 200 to 299.
fn cache() -> World {
    let mut world = World::new();
    world.does(Change::CreateProduct(NewProduct {
        name: "cache".into(),
        port: 19_010,
        layout: Layout::Codis,
        mode: Mode::Cache,
        isolated: Isolated::Serve,
        databases: 16,
        auth: None,
    }));
    for group in 11..=13 {
        let servers = vec![Server::new(addr(group, 1), format!("{group}-1"), 0)];
        world.does(Change::CreateGroup(CreateGroup {
            product: CACHE,
            group: GroupId(group),
            servers,
            credentials: None,
            data_user: None,
        }));
    }
    for (first, last, to) in [(0, 99, 11), (100, 199, 12), (200, 299, 13)] {
        world.does(Change::AssignFree(AssignFree { product: CACHE, slots: slots(first, last), to: GroupId(to) }));
    }
    world
}

fn group(world: &World, id: u32) -> &Group {
    &world.state.products[&CACHE].groups[&GroupId(id)]
}

fn owned(world: &World, id: u32) -> usize {
    world.state.products[&CACHE].owned(GroupId(id)).len()
}

type Shares<'a> = &'a [(u32, u16, u16)];

fn eject(world: &World, id: u32, shares: Shares<'_>) -> Change {
    let to: BTreeMap<GroupId, BTreeSet<SlotId>> =
        shares.iter().map(|(to, first, last)| (GroupId(*to), slots(*first, *last))).collect();
    Change::Eject(Eject {
        product: CACHE,
        group: GroupId(id),
        group_epoch: group(world, id).epoch,
        to,
        why: "it is gone".into(),
    })
}

fn reinstate(world: &World, id: u32) -> Change {
    let ejection = group(world, id).ejection.as_ref().map_or(Epoch(0), |ejection| ejection.id);
    Change::Reinstate(Reinstate { product: CACHE, group: GroupId(id), ejection, group_epoch: group(world, id).epoch })
}

/// Group 11 is ejected: groups 12 and 13 own half of its slots each.
fn ejected() -> World {
    let mut world = cache();
    let change = eject(&world, 11, &[(12, 0, 49), (13, 50, 99)]);
    assert_eq!(world.does(change), Outcome::Done);
    world
}

/// Makes all steps of an assignment.
fn finish(world: &mut World, id: AssignmentId) -> Outcome {
    let hold = hold(world, id);
    let change = finished(world, id, hold);
    world.does(change)
}

fn hold(world: &mut World, id: AssignmentId) -> HoldId {
    let attempt = world.state.assignments[&id].attempts + 1;
    let change = Change::OpenHold(OpenHold {
        cause: Cause::Assignment(id),
        attempt,
        kind: HoldKind::Wait,
        reason: "a test".into(),
    });
    match world.does(change) {
        Outcome::Held(hold) => hold,
        other => panic!("{other:?}"),
    }
}

fn finished(world: &World, id: AssignmentId, hold: HoldId) -> Change {
    let group_epochs = world.state.products[&CACHE].groups.values().map(|g| (g.id, g.epoch)).collect();
    Change::FinishAssign(FinishAssign { assignment: id, hold, term: TERM, group_epochs })
}

#[test]
fn a_group_is_ejected_and_reinstated() {
    let mut world = ejected();
    assert_eq!([11, 12, 13].map(|id| owned(&world, id)), [0, 150, 150]);
    assert_eq!(group(&world, 11).ejection.as_ref().unwrap().slots, slots(0, 99));
    let event = world.state.events.back().unwrap();
    assert_eq!((event.kind, event.subject.as_str()), (EventKind::Ejected, "group 11"));
    assert_eq!(event.text, "100 slot(s) go to group 12 (50), group 13 (50): it is gone");
    // Its leftovers are not swept while it is ejected: it is flushed.
    assert!(world.state.sweepable(CACHE, GroupId(11)).is_empty() && !group(&world, 11).given_away.is_empty());

    let change = reinstate(&world, 11);
    let Outcome::Assignment(id) = world.does(change) else { panic!() };
    assert_eq!(finish(&mut world, id), Outcome::Slots(100));
    assert_eq!([11, 12, 13].map(|id| owned(&world, id)), [100, 100, 100]);
    assert!(group(&world, 11).ejection.is_none() && group(&world, 11).given_away.is_empty());
    assert_eq!(world.state.sweepable(CACHE, GroupId(12)), slots(0, 49), "a temporary owner sweeps what it had");
    let event = world.state.events.back().unwrap();
    assert_eq!(event.kind, EventKind::Reinstated);
    assert_eq!(event.text, "100 slot(s) are back from group(s) 12, 13, flushed first");

    // It is not ejected again before the leftovers are deleted.
    let change = eject(&world, 11, &[(12, 0, 49), (13, 50, 99)]);
    world.refuses(change, "group 12 still has leftovers of slot 0");
    let change = eject(&world, 11, &[(12, 50, 99), (13, 0, 49)]);
    world.does(change);
}

#[test]
fn eject_demands() {
    let mut world = cache();
    for (shares, why) in [
        (&[(12, 0, 98)][..], "owns other slots than those of this ejection"),
        (&[(12, 0, 100)], "owns other slots"),
        (&[(12, 0, 60), (13, 60, 99)], "owns other slots"),
        (&[(11, 0, 99)], "owns other slots"),
        (&[(12, 0, 49), (19, 50, 99)], "19"),
        (&[], "owns other slots"),
    ] {
        let change = eject(&world, 11, shares);
        world.refuses(change, why);
    }
    let mut old = eject(&world, 11, &[(12, 0, 99)]);
    if let Change::Eject(Eject { group_epoch, .. }) = &mut old {
        group_epoch.0 -= 1;
    }
    world.refuses(old, "group 11 changed since");
    let store = Change::Eject(Eject {
        product: crate::world::PRODUCT,
        group: GroupId(1),
        group_epoch: world.state.products[&crate::world::PRODUCT].groups[&GroupId(1)].epoch,
        to: [(GroupId(2), slots(0, 99))].into(),
        why: String::new(),
    });
    world.refuses(store, "product 'default' is a store");
    let change = reinstate(&world, 11);
    world.refuses(change, "is not ejected any more by this ejection");
    // Nor with slots that are moving already.
    let assign =
        Change::StartAssign(StartAssign { product: CACHE, slots: slots(7, 7), to: Some(GroupId(12)), abandon: true });
    world.does(assign);
    let change = eject(&world, 11, &[(12, 0, 99)]);
    world.refuses(change, "slot 7 is being assigned");
}

#[test]
fn an_ejected_group_gets_no_slots() {
    let mut world = ejected();
    let sentence = "group 11 is ejected, because its primary is down";
    let free = slots(400, 409);
    world.refuses(Change::AssignFree(AssignFree { product: CACHE, slots: free.clone(), to: GroupId(11) }), sentence);
    world.refuses(
        Change::StartAssign(StartAssign {
            product: CACHE,
            slots: slots(100, 109),
            to: Some(GroupId(11)),
            abandon: true,
        }),
        sentence,
    );
    let (from, to, options) = (GroupId(12), GroupId(11), MigrationOptions::default());
    world.refuses(
        Change::PlanMigration(PlanMigration { product: CACHE, slots: slots(100, 109), from, to, options }),
        sentence,
    );
    let change = eject(&world, 12, &[(11, 100, 199)]);
    world.refuses(change, sentence);
    let again = eject(&world, 11, &[(12, 0, 99)]);
    world.refuses(again, sentence);

    // A migration that was planned before does not begin; one that has begun prevents the ejection.
    let mut world = cache();
    let plan = Change::PlanMigration(PlanMigration { product: CACHE, slots: slots(100, 109), from, to, options });
    let Outcome::Migration(id) = world.does(plan) else { panic!() };
    let change = eject(&world, 11, &[(13, 0, 99)]);
    world.does(change);
    let epochs = [11, 12].map(|g| (GroupId(g), group(&world, g).epoch)).into();
    let start = Change::StartMigration(StartMigration {
        migration: id,
        attempt: 1,
        node: pontoon::model::ids::NodeId(2),
        feed: addr(12, 1),
        target: addr(11, 1),
        group_epochs: epochs,
        term: TERM,
    });
    world.refuses(start, sentence);
    // An assignment that was begun before can neither hold nor finish.
    let mut world = cache();
    let assign = Change::StartAssign(StartAssign {
        product: CACHE,
        slots: slots(100, 109),
        to: Some(GroupId(11)),
        abandon: true,
    });
    let Outcome::Assignment(id) = world.does(assign) else { panic!() };
    let open = hold(&mut world, id);
    let change = eject(&world, 11, &[(13, 0, 99)]);
    world.does(change);
    let change = finished(&world, id, open);
    world.refuses(change, sentence);
}

#[test]
fn a_slot_that_an_operator_assigns_is_not_given_back() {
    let mut world = ejected();
    let assign =
        Change::StartAssign(StartAssign { product: CACHE, slots: slots(0, 9), to: Some(GroupId(13)), abandon: true });
    let Outcome::Assignment(id) = world.does(assign) else { panic!() };
    let change = reinstate(&world, 11);
    world.refuses(change, "slot 0 is being assigned");
    finish(&mut world, id);
    assert_eq!(group(&world, 11).ejection.as_ref().unwrap().slots, slots(10, 99));
    // Without slots the ejection just ends.
    let assign =
        Change::StartAssign(StartAssign { product: CACHE, slots: slots(10, 49), to: Some(GroupId(13)), abandon: true });
    let Outcome::Assignment(id) = world.does(assign) else { panic!() };
    finish(&mut world, id);
    let assign =
        Change::StartAssign(StartAssign { product: CACHE, slots: slots(50, 99), to: Some(GroupId(12)), abandon: true });
    let Outcome::Assignment(id) = world.does(assign) else { panic!() };
    finish(&mut world, id);
    let change = reinstate(&world, 11);
    assert_eq!(world.does(change), Outcome::Done);
    assert!(group(&world, 11).ejection.is_none() && owned(&world, 11) == 0);
}

#[test]
fn a_temporary_owner_that_is_ejected_passes_ejected_slots_on() {
    let mut world = ejected();
    let change = eject(&world, 12, &[(13, 0, 49)]);
    world.refuses(change, "owns other slots");
    let to = [(GroupId(13), &slots(0, 49) | &slots(100, 199))].into();
    let group_epoch = group(&world, 12).epoch;
    world.does(Change::Eject(Eject { product: CACHE, group: GroupId(12), group_epoch, to, why: "it is gone".into() }));
    assert_eq!([11, 12, 13].map(|id| owned(&world, id)), [0, 0, 300]);
    assert_eq!(group(&world, 12).ejection.as_ref().unwrap().slots, slots(100, 199));
    assert_eq!(group(&world, 11).ejection.as_ref().unwrap().slots, slots(0, 99));
    let change = reinstate(&world, 11);
    let Outcome::Assignment(id) = world.does(change) else { panic!() };
    finish(&mut world, id);
    let change = reinstate(&world, 12);
    let Outcome::Assignment(id) = world.does(change) else { panic!() };
    finish(&mut world, id);
    assert_eq!([11, 12, 13].map(|id| owned(&world, id)), [100, 100, 100]);
}

#[test]
fn an_ejected_group_can_be_removed_and_its_slots_stay() {
    let mut world = ejected();
    world.does(Change::RemoveGroup(RemoveGroup { product: CACHE, group: GroupId(11), keys_left: None }));
    assert_eq!([12, 13].map(|id| owned(&world, id)), [150, 150]);
    let mut world = ejected();
    let change = reinstate(&world, 11);
    world.does(change);
    world.refuses(
        Change::RemoveGroup(RemoveGroup { product: CACHE, group: GroupId(11), keys_left: None }),
        "assignment",
    );
}

#[test]
fn a_reinstatement_needs_the_flushed_primary_and_the_term() {
    let mut world = ejected();
    let change = reinstate(&world, 11);
    let Outcome::Assignment(id) = world.does(change) else { panic!() };
    let change = reinstate(&world, 11);
    world.refuses(change, "slot 0 is being assigned");
    let open = hold(&mut world, id);
    let change = finished(&world, id, open);
    let why = world.act_in(change.clone(), Term(9)).unwrap_err();
    assert!(why.contains("in term 1"), "{why}");
    let mut other = change;
    if let Change::FinishAssign(FinishAssign { group_epochs, .. }) = &mut other {
        group_epochs.get_mut(&GroupId(11)).unwrap().0 -= 1;
    }
    world.refuses(other, "group 11");
    // A sweep of the group ends before its slots come back.
    let mut world = cache();
    let assign =
        Change::StartAssign(StartAssign { product: CACHE, slots: slots(0, 9), to: Some(GroupId(12)), abandon: false });
    let Outcome::Assignment(id) = world.does(assign) else { panic!() };
    finish(&mut world, id);
    let job = Job::Sweep { product: CACHE, group: GroupId(11) };
    let run = Change::StartRun(StartRun {
        job,
        run: 1,
        node: pontoon::model::ids::NodeId(2),
        server: addr(11, 1),
        term: TERM,
    });
    world.does(run);
    let change = eject(&world, 12, &[(11, 0, 9), (13, 100, 199)]);
    world.refuses(change, "leftovers of slots that group 11 gave away are being deleted there");
}
