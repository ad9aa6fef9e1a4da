//! Observations of servers in the log, and settings of groups, servers and the cluster.

use pontoon::model::{
    change::{
        AddServer, Change, GroupNote, NodeNote, NoteGroup, NoteNode, NotePrimary, NoteReconciled, SetCluster, SetGroup,
        SetImpaired, SetServer,
    },
    event::EventKind,
    ids::{Epoch, GroupId, NodeId},
    outcome::Outcome,
    state::{GroupOptions, Server, Settings},
};

use super::{
    promotions::SWITCHOVER,
    world::{PRODUCT, World, addr},
};

#[test]
fn the_primary_is_noted() {
    let mut world = World::new();
    let note = |epoch, replid: &str| {
        Change::NotePrimary(NotePrimary::replication_id(PRODUCT, GroupId(1), epoch, replid.into()))
    };
    let epoch = world.group(1).epoch;
    world.refuses(note(Epoch(1), "ab"), "group 1 changed since");
    for replid in ["", "a b", "a\n", &"a".repeat(65)] {
        world.refuses(note(epoch, replid), "the replication id or run id of the primary of group 1 is not one");
    }
    let (events, route) = (world.state.events.len(), world.state.route_epoch);
    assert_eq!(world.does(note(epoch, "ab")), Outcome::Done);
    assert_eq!(world.does(note(epoch, "ab")), Outcome::Unchanged);
    assert_eq!((world.state.events.len(), world.state.route_epoch), (events, route), "the first note adds no event");
    assert_eq!(world.does(note(epoch, "cd")), Outcome::Done);
    let text = "10.1.1.1:6379 has replication id cd instead of ab: it restarted, was replaced by hand, or got its first replica";
    assert_eq!(world.last_event(), (EventKind::PrimaryNoted, "group 1", text));
    // After a promotion, the first note about the new primary adds no event either.
    world.promoted(1, SWITCHOVER);
    let events = world.state.events.len();
    world.refuses(note(epoch, "ef"), "group 1 changed since");
    world.does(note(world.group(1).epoch, "ef"));
    assert_eq!((world.group(1).replid.as_str(), world.state.events.len()), ("ef", events));
}

#[test]
fn a_primary_that_is_another_process_has_restarted() {
    let mut world = World::new();
    let note = |epoch, replid: &str, run_id: &str, keys, keys_before| {
        let (product, group, replid, run_id) = (PRODUCT, GroupId(1), replid.into(), run_id.into());
        Change::NotePrimary(NotePrimary { product, group, epoch, replid, run_id, keys, keys_before })
    };
    let epoch = world.group(1).epoch;
    world.refuses(note(Epoch(1), "ab", "r1", 5, None), "group 1 changed since");
    for (replid, run_id) in [("", "r1"), ("ab", "r 1"), ("ab", &*"a".repeat(65))] {
        world.refuses(
            note(epoch, replid, run_id, 5, None),
            "the replication id or run id of the primary of group 1 is not one",
        );
    }
    let events = world.state.events.len();
    assert_eq!(world.does(note(epoch, "ab", "r1", 5, None)), Outcome::Done);
    assert_eq!(world.does(note(epoch, "ab", "r1", 6, None)), Outcome::Unchanged);
    assert_eq!(world.does(note(epoch, "ab", "", 6, None)), Outcome::Unchanged, "it hides its run_id");
    assert_eq!(
        (world.state.events.len(), world.group(1).restarted_with),
        (events, None),
        "the first note adds no event"
    );
    // Its first replica.
    assert_eq!(world.does(note(epoch, "cd", "r1", 5, Some(5))), Outcome::Done);
    let text = "10.1.1.1:6379 has replication id cd instead of ab, without a restart that was observed";
    assert_eq!((world.last_event(), world.group(1).restarted_with), ((EventKind::PrimaryNoted, "group 1", text), None));
    for (run_id, before, keys, keys_before, what) in [
        ("r2", "r1", 5, Some(5), "restarted: 5 keys, 5 at the last probe before"),
        ("r3", "r2", 4, None, "restarted: 4 keys, the number of keys before is not known"),
        (
            "r4",
            "r3",
            0,
            Some(4),
            "restarted empty: 0 keys, 4 at the last probe before; what it had not saved is lost, also on the replicas \
          that copy it",
        ),
    ] {
        assert_eq!(world.does(note(epoch, run_id, run_id, keys, keys_before)), Outcome::Done);
        let text = format!("10.1.1.1:6379 {what} (run_id {run_id} instead of {before})");
        assert_eq!(world.last_event(), (EventKind::PrimaryNoted, "group 1", text.as_str()));
        assert_eq!(world.group(1).restarted_with, Some(keys));
    }
    // Another primary: nothing is known about its process.
    world.promoted(1, SWITCHOVER);
    assert_eq!((world.group(1).run_id.as_str(), world.group(1).restarted_with), ("", None));

    // What the leader did at a server changes only the events.
    let reconciled = |group, n| {
        Change::NoteReconciled(NoteReconciled {
            product: PRODUCT,
            group: GroupId(1),
            addr: addr(group, n),
            text: "x".into(),
        })
    };
    world.refuses(reconciled(2, 1), "10.1.2.1:6379");
    let before = super::world::decided(&world.state);
    assert_eq!(world.does(reconciled(1, 1)), Outcome::Done);
    assert_eq!(world.last_event(), (EventKind::Reconciled, "group 1", "10.1.1.1:6379 x"));
    assert_eq!(super::world::decided(&world.state).products, before.products);
}

#[test]
fn notes_of_a_group_change_only_the_events() {
    let mut world = World::new();
    let note =
        |group, note| Change::NoteGroup(NoteGroup { product: PRODUCT, group: GroupId(group), note, text: "x".into() });
    world.refuses(note(9, GroupNote::ScriptEnded), "group 9");
    let before = super::world::decided(&world.state);
    for (of, kind) in [
        (GroupNote::FailoverHeldBack, EventKind::FailoverHeldBack),
        (GroupNote::ScriptEnded, EventKind::ScriptEnded),
        (GroupNote::WritesRefused, EventKind::WritesRefused),
        (GroupNote::NotFailedOver, EventKind::NotFailedOver),
    ] {
        assert_eq!(world.does(note(1, of)), Outcome::Done);
        assert_eq!(world.last_event(), (kind, "group 1", "x"));
    }
    assert_eq!(super::world::decided(&world.state).products, before.products);
}

#[test]
fn notes_of_a_node_change_only_the_events() {
    let mut world = World::new();
    let note = |node, text: &str| {
        Change::NoteNode(NoteNode {
            node: NodeId(node),
            note: NodeNote::ClientsClosed,
            text: text.into(),
            before: String::new(),
            after: String::new(),
        })
    };
    world.refuses(note(9, "x"), "node 9");
    let before = super::world::decided(&world.state);
    assert_eq!(world.does(note(1, "x")), Outcome::Done);
    assert_eq!(world.last_event(), (EventKind::ClientsClosed, "node 1", "x"));
    assert_eq!(super::world::decided(&world.state).products, before.products);
}

#[test]
fn settings_of_groups_and_servers() {
    let mut world = World::new();
    assert_eq!(world.group(1).options, GroupOptions::default());
    let set = |down_after_ms, maintenance| {
        Change::SetGroup(SetGroup {
            product: PRODUCT,
            group: GroupId(1),
            down_after_ms,
            maintenance,
            eject_after_ms: None,
            impaired: SetImpaired::default(),
        })
    };
    for bad in [0, 499, 600_001] {
        world.refuses(set(Some(bad), None), &format!("down-after cannot be {bad} ms; choose 500 ms to 10 min"));
    }
    let (events, route) = (world.state.events.len(), world.state.route_epoch);
    assert_eq!(world.does(set(Some(500), None)), Outcome::Done);
    assert_eq!(world.last_event(), (EventKind::GroupSet, "group 1", "settings"));
    assert_eq!(world.last_change(), ("down-after=3s", "down-after=500ms"));
    assert_eq!(world.does(set(Some(500), Some(false))), Outcome::Unchanged);
    assert_eq!(world.does(set(None, None)), Outcome::Unchanged);
    assert_eq!(world.state.events.len(), events + 1, "what changes nothing has no event");
    world.does(set(None, Some(true)));
    assert_eq!(
        world.last_event(),
        (EventKind::MaintenanceOn, "group 1", "nothing is changed automatically in this group")
    );
    world.does(set(Some(600_000), Some(false)));
    assert_eq!(world.last_event().0, EventKind::MaintenanceOff);
    assert_eq!(world.last_change(), ("down-after=500ms, maintenance=on", "down-after=600s, maintenance=off"));
    assert_eq!(world.group(1).options, GroupOptions { down_after_ms: 600_000, ..GroupOptions::default() });

    // eject-after of a group of a cache; a store does not eject.
    let eject = |product, group, ms| {
        Change::SetGroup(SetGroup {
            product,
            group: GroupId(group),
            down_after_ms: None,
            maintenance: None,
            eject_after_ms: Some(ms),
            impaired: SetImpaired::default(),
        })
    };
    world.refuses(eject(PRODUCT, 1, 5_000), "product 'default' is a store");
    world.refuses(eject(PRODUCT, 1, 499), "499 ms was asked for");

    let set = |n: u32, priority, zone: Option<&str>| {
        Change::SetServer(SetServer {
            product: PRODUCT,
            group: GroupId(1),
            addr: addr(1, n),
            priority,
            zone: zone.map(str::to_owned),
        })
    };
    assert_eq!((world.server(1, 2).priority, world.server(1, 2).zone.as_str()), (100, ""));
    world.refuses(set(9, Some(1), None), "has no server 10.1.1.9:6379");
    for bad in ["a b", "ü", &"z".repeat(65)] {
        world.refuses(set(2, Some(1), Some(bad)), "is not a zone: at most 64 letters");
    }
    assert_eq!(world.does(set(2, Some(0), Some("eu-1.A_"))), Outcome::Done);
    assert_eq!(world.last_event(), (EventKind::ServerSet, "group 1", "10.1.1.2:6379"));
    assert_eq!(world.last_change(), ("priority=100, zone=none", "priority=0, zone=eu-1.A_"));
    assert_eq!(world.does(set(2, Some(0), None)), Outcome::Unchanged);
    assert_eq!(world.does(set(2, None, Some("eu-1.A_"))), Outcome::Unchanged);
    assert_eq!((world.server(1, 2).priority, world.server(1, 2).zone.as_str()), (0, "eu-1.A_"));
    assert_eq!(world.does(set(2, None, Some(""))), Outcome::Done);
    // The zone is also checked when a group is created; whether the server had diverged elsewhere does not matter.
    let odd = |zone: &str| {
        Change::AddServer(AddServer {
            product: PRODUCT,
            group: GroupId(1),
            server: Server {
                zone: zone.into(),
                diverged: true,
                priority: 7,
                ..Server::new(addr(1, 4), String::new(), 0)
            },
        })
    };
    world.refuses(odd("a b"), "is not a zone");
    world.does(odd("b"));
    let new = world.server(1, 4);
    assert_eq!((new.diverged, new.priority, new.zone.as_str()), (false, 7, "b"));
    assert_eq!(world.state.route_epoch, world.state.applied, "only the new server changes routes");
    assert!(route < world.state.applied);
}

#[test]
fn maintenance_and_failover_share_of_the_cluster() {
    let mut world = World::new();
    let set = |maintenance, failover_share_max| {
        Change::SetCluster(SetCluster { voters: None, hold_ms_max: None, maintenance, failover_share_max })
    };
    for bad in [0, 101] {
        world.refuses(set(None, Some(bad)), "choose 1 to 100");
    }
    assert_eq!(world.does(set(Some(false), Some(50))), Outcome::Unchanged);
    world.does(set(Some(true), Some(100)));
    assert_eq!(world.last_event().0, EventKind::MaintenanceOn);
    assert_eq!(world.state.events.back().unwrap().product, None);
    assert_eq!(world.does(set(Some(true), None)), Outcome::Unchanged);
    world.does(set(Some(false), None));
    assert_eq!(world.last_event().0, EventKind::MaintenanceOff);
    let default = Settings::default();
    assert_eq!(world.state.settings, Settings { failover_share_max: 100, ..default });
}
