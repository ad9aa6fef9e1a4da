//! `plan::replication` by tables: which servers are made to follow which, what is noted in the log, which primaries are
//! restored. Knows nothing of servers: the tests make up the nodes' reports.

use std::collections::BTreeSet;

use pontoon::{
    model::{
        change::{Change, ForgetFormer, GiveUpPromotion, SetControlUser},
        ids::{GroupId, NodeId},
        reject::Reject,
        route::Mode,
        secret::{Credentials, Secret},
    },
    plan::{
        candidates::STALE_MS,
        failover::{PRIMARY_FOLLOWS_MS, following_primaries},
        liveness::Watchers,
        observation::{InSync, Probe, ReportedRole},
        replication::{ReplicationAction, RestoredData, reconcile, to_restore_as_primary},
        waiting::Wait,
    },
};

use crate::{
    says,
    world::{GROUP, ME, PRIMARY, PRODUCT, World, addr, follows, voters},
};

#[test]
fn servers_that_do_not_follow_the_primary_are_repointed() {
    let repoint = |port| ReplicationAction::Repoint { to: addr(PRIMARY), why: port };
    assert_eq!(World::up().actions(), []);
    let mut world = World::up();
    world.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    world.probe(7003, |l| l.role = follows(7002));
    let wanted = [(7002, repoint("it is a primary".into())), (7003, repoint("it follows 127.0.0.1:7002".into()))];
    assert_eq!(world.actions(), wanted);
    for quiet in [
        |w: &mut World| w.state.settings.maintenance = true,
        |w: &mut World| w.edit(|g| g.options.maintenance = true),
        |w: &mut World| w.fail(PRIMARY, 10_000),
        |w: &mut World| w.probe(PRIMARY, |l| l.loading = true),
        |w: &mut World| w.probe(PRIMARY, |l| l.role = follows(7009)),
    ] {
        let mut quiet_world = World::up();
        quiet_world.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
        quiet(&mut quiet_world);
        assert_eq!(quiet_world.actions(), []);
    }
    let mut open = World::up();
    open.probe(7003, |l| l.role = follows(7002));
    open.start(7002, false);
    assert_eq!(open.actions(), [], "a promotion is open");
    // The primary came back empty, and this server has the keys that it lost.
    let mut empty = World::up();
    empty.probe(PRIMARY, |l| l.keys = 0);
    empty.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    assert_eq!(empty.actions(), []);
    assert!(reconcile(&empty.state, &empty.seen).1[0].text().contains("it is not made a replica"));
    empty.edit(|g| g.servers[1].diverged = true);
    assert_eq!(empty.actions(), [], "it is the old primary, and no other server has its keys");
    empty.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache;
    assert_eq!(empty.actions(), [(7002, repoint("it is a primary".into()))], "a cache may lose them");
}

#[test]
fn former_credentials_are_removed_unless_a_promotion_is_open() {
    let credentials = |password: &str| Credentials { username: None, password: Secret::new(password.into()) };
    let mut world = World::up();
    let (product, group) = (PRODUCT, GROUP);
    let set =
        |password: &str| Change::SetControlUser(SetControlUser { product, group, credentials: credentials(password) });
    world.make(set("first"));
    let replaced_at = world.state.applied;
    let remove = [(PRIMARY, ReplicationAction::RemoveFormer { replaced_at })];
    assert_eq!(world.actions(), remove);
    world.edit(|g| g.options.maintenance = true);
    assert_eq!(world.actions(), remove, "maintenance does not end what an operator has begun");
    let open = || {
        let mut open = World::up();
        open.make(set("first"));
        open.start(7002, false);
        open.actions()
    };
    assert_eq!(open(), []);

    // Servers know two passwords at most.
    assert!(matches!(world.try_make(set("second")), Err(Reject::FormerPassword { .. })));
    world.make(Change::ForgetFormer(ForgetFormer { product, group, replaced_at }));
    assert_eq!(world.actions(), []);
    world.make(set("second"));
    let now = world.state.products[&PRODUCT].groups[&GROUP].clone();
    assert_eq!(
        (now.credentials, now.former.unwrap().credentials),
        (Some(credentials("second")), Some(credentials("first")))
    );
}

/// 7002 is the old primary, with 10 keys; the present one was promoted, and restarted empty since.
fn restarted() -> World {
    let mut world = World::up();
    world.edit(|g| g.servers[1].diverged = true);
    world.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    world.edit_reports(7002, |report| report.in_sync = None);
    let GroupId(group) = GROUP;
    world.restart(group, "again", 0);
    world.probe(PRIMARY, |l| {
        (l.run_id, l.replid, l.keys) = ("again".into(), "again".into(), 1);
    });
    world
}

#[test]
fn the_last_copy_is_not_wiped_by_a_primary_that_restarted() {
    let repoint = |to| [(7002, ReplicationAction::Repoint { to: addr(to), why: "it is a primary".into() })];
    let left_to_operator =
        |world: &World| reconcile(&world.state, &world.seen).1.iter().map(Wait::text).collect::<Vec<_>>();
    let mut world = restarted();
    assert_eq!(world.actions(), [], "one write does not bring the lost keys back");
    let left = left_to_operator(&world);
    assert!(
        says(&left[0], "it is not made a replica", "promote it (pontoon group promote 1 127.0.0.1:7002 --force)"),
        "{left:?}"
    );
    world.probe(PRIMARY, |l| l.keys = 50);
    assert_eq!(world.actions(), [], "neither do many: it began empty");
    // Its configuration makes it follow a server that is down: it is not repointed either.
    world.probe(7002, |l| l.role = follows(7009));
    assert_eq!(world.actions(), []);
    world.probe(7002, |l| {
        l.role = ReportedRole::Replica { of: addr(7003), link_up: true, link_down_ms: 0, syncing: false };
    });
    assert_eq!(world.actions().len(), 1, "it has what 7003 has");

    // The log does not know yet that it restarted.
    let mut unnoted = restarted();
    unnoted.edit(|g| (g.run_id, g.replid, g.restarted_with) = (format!("run{PRIMARY}"), "id1".into(), None));
    let note = ReplicationAction::Note { replid: "again".into(), run_id: "again".into(), keys: 1 };
    assert_eq!(unnoted.actions(), [(PRIMARY, note)]);
    assert!(left_to_operator(&unnoted)[0].contains("restarted with 1 keys"), "{:?}", left_to_operator(&unnoted));

    for heals in [
        // It has not restarted since it was promoted; its replication id changed with its first replica.
        |w: &mut World| w.edit(|g| g.restarted_with = None),
        // It restarted with most of the keys, and has more now.
        |w: &mut World| {
            w.edit(|g| g.restarted_with = Some(9));
            w.probe(PRIMARY, |l| l.keys = 11);
        },
        // The other server is empty too.
        |w: &mut World| w.probe(7002, |l| l.keys = 0),
        // It had already copied the primary's present data.
        |w: &mut World| {
            let in_sync = InSync { to: addr(PRIMARY), replid: "again".into(), run_id: "x".into(), ago_ms: 9_000 };
            w.edit_reports(7002, |report| report.in_sync = Some(in_sync.clone()));
        },
        |w: &mut World| w.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache,
    ] {
        let mut world = restarted();
        heals(&mut world);
        assert_eq!(world.actions(), repoint(PRIMARY));
    }
    // Another primary resets what the log knows of the process.
    let mut promoted = restarted();
    promoted.start(7003, true);
    promoted.finish();
    assert_eq!((promoted.tested_group().restarted_with, promoted.tested_group().run_id.as_str()), (None, ""));
}

#[test]
fn a_replica_whose_link_is_refused_gets_its_credentials_again() {
    let mut world = World::up();
    let down = |ms, syncing| ReportedRole::Replica { of: addr(PRIMARY), link_up: false, link_down_ms: ms, syncing };
    world.probe(7002, |l| l.role = down(2_000, false));
    assert_eq!(world.actions(), [(7002, ReplicationAction::Login)], "it may have those of the replication user");
    world.edit(|g| g.credentials = Some(Credentials { username: None, password: Secret::new("p".into()) }));
    assert_eq!(world.actions(), [(7002, ReplicationAction::Login)]);
    world.probe(7002, |l| l.role = down(u64::MAX, false));
    assert_eq!(world.actions(), [(7002, ReplicationAction::Login)]);
    for role in [down(1_999, false), down(5_000, true)] {
        world.probe(7002, |l| l.role = role.clone());
        assert_eq!(world.actions(), []);
    }
}

#[test]
fn primaries_and_resynced_replicas_are_noted_in_the_log() {
    let mut world = World::up();
    world.probe(PRIMARY, |l| l.replid = "new".into());
    let note = |run_id: &str| ReplicationAction::Note { replid: "new".into(), run_id: run_id.into(), keys: 10 };
    assert_eq!(world.actions(), [(PRIMARY, note("run7001"))]);
    world.note(1, "new");
    assert_eq!(world.actions(), []);
    world.probe(PRIMARY, |l| l.run_id = "other".into());
    assert_eq!(world.actions(), [(PRIMARY, note("other"))]);
    world.probe(PRIMARY, |l| l.run_id = String::new());
    assert_eq!(world.actions(), [], "it does not report its run_id");
    let mut back = World::up();
    back.edit(|g| g.servers[1].diverged = true);
    let resynced = ReplicationAction::Resynced { of: addr(PRIMARY), replid: "id1".into() };
    assert_eq!(back.actions(), [(7002, resynced)]);
    for edit in [
        |l: &mut Probe| l.replid = "other".into(),
        |l: &mut Probe| {
            l.role = ReportedRole::Replica { of: addr(PRIMARY), link_up: false, link_down_ms: 1, syncing: false };
        },
        |l: &mut Probe| {
            l.role = ReportedRole::Replica { of: addr(PRIMARY), link_up: true, link_down_ms: 0, syncing: true };
        },
    ] {
        let mut not_yet = World::up();
        not_yet.edit(|g| g.servers[1].diverged = true);
        not_yet.probe(7002, edit);
        assert_eq!(not_yet.actions(), []);
    }
}

#[test]
fn a_promoted_server_saves_its_configuration() {
    let mut world = World::up();
    world.start(7002, false);
    world.finish();
    let promoted = world.tested_group().epoch;
    let saves = |world: &World| {
        let saves = |(port, action)| match action {
            ReplicationAction::SaveConfig { promoted } => Some((port, promoted)),
            _ => None,
        };
        world.actions().into_iter().filter_map(saves).collect::<Vec<_>>()
    };
    assert_eq!(saves(&world), [(7002, promoted)]);
    world.state.settings.maintenance = true;
    assert_eq!(saves(&world), [(7002, promoted)], "it completes the promotion");
    world.probe(7002, |l| l.loading = true);
    assert_eq!(saves(&world), []);
    world.probe(7002, |l| l.loading = false);
    world.start(PRIMARY, true);
    assert_eq!(saves(&world), [], "it is being replaced");
    let id = *world.state.promotions.keys().next().unwrap();
    world.make(Change::GiveUpPromotion(GiveUpPromotion {
        promotion: id,
        why: "a test".into(),
        primary_back: false,
        forced: true,
    }));
    assert_eq!(saves(&world), [(7002, promoted)]);
    world.edit_reports(7002, |report| report.probe = None);
    assert_eq!(saves(&world), []);
}

#[test]
fn a_primary_that_follows_another_server_is_replaced() {
    let following = |world: &World| following_primaries(&world.state, &Watchers::new(&world.seen, voters()));
    let lasting = |world: &World| following(world).into_iter().map(|addr| (addr, PRIMARY_FOLLOWS_MS)).collect();
    let mut world = World::up();
    assert_eq!(following(&world), BTreeSet::new());
    // It was restarted as the replica that it was before it was promoted; its own replicas have lost it.
    world.probe(PRIMARY, |l| l.role = follows(7002));
    [7002, 7003].iter().for_each(|port| world.probe(*port, |l| l.role = follows(PRIMARY)));
    assert_eq!(following(&world), BTreeSet::from([addr(PRIMARY)]));
    assert_eq!(world.decisions().1, [0_u16; 0], "it may be a primary again in a moment");
    world.following_primaries = lasting(&world);
    assert_eq!(world.decisions(), (vec![], vec![7002]));

    let mut ours = World::up();
    ours.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    assert_eq!(following(&ours), BTreeSet::new(), "only the group's primary counts");
    world.probe(PRIMARY, |l| l.loading = true);
    assert_eq!(following(&world), BTreeSet::new());
    world.probe(PRIMARY, |l| l.loading = false);
    world.fail(PRIMARY, 100);
    assert_eq!(following(&world), BTreeSet::new(), "no node sees now whether it follows another server");

    // No replica can replace it, and it has the data that it was started with.
    let restored = |world: &World| to_restore_as_primary(&world.state, &world.seen, &world.following_primaries, ME).0;
    let mut alone = World::up();
    alone.probe(PRIMARY, |l| l.role = follows(7002));
    alone.following_primaries = lasting(&alone);
    [7002, 7003].iter().for_each(|port| alone.fail(*port, 9_000));
    assert_eq!(restored(&alone), [], "its link was up, so it may have the other server's data");
    let never = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: false };
    alone.probe(PRIMARY, |l| l.role = never.clone());
    let fixes = restored(&alone);
    assert_eq!((fixes[0].addr.port(), fixes.len()), (PRIMARY, 1));
    let data = RestoredData::Loaded;
    assert_eq!(fixes[0].action, ReplicationAction::RestorePrimary { run_id: format!("run{PRIMARY}"), data });
    alone.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(restored(&alone), [], "it may have been started empty");
    alone.probe(PRIMARY, |l| l.keys = 10);
    // It was in sync too long ago to be a candidate, but may have more data.
    alone.edit_reports(7003, |report| (report.failing_ms, report.error) = (None, String::new()));
    alone.edit_reports(7003, |report| report.probe.as_mut().unwrap().1 = 0);
    alone.probe(7003, |l| (l.role, l.offset) = (follows(PRIMARY), 1_001));
    alone.edit_reports(7003, |report| report.in_sync.as_mut().unwrap().ago_ms = STALE_MS * 2);
    assert_eq!(restored(&alone), []);
    alone.edit(|g| g.servers[2].diverged = true);
    assert_eq!(restored(&alone).len(), 1, "its data was replaced");
    let syncing = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: true };
    alone.probe(PRIMARY, |l| l.role = syncing.clone());
    assert_eq!(restored(&alone), []);
    alone.probe(PRIMARY, |l| l.role = never.clone());
    alone.state.settings.maintenance = true;
    assert_eq!(restored(&alone), []);
    world.probe(PRIMARY, |l| l.role = never.clone());
    assert_eq!(restored(&world), [], "a replica is promoted instead");

    let mut few = World::up();
    let one = few.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(2)).unwrap();
    one.report.probe.as_mut().unwrap().0.role = follows(7002);
    assert_eq!(following(&few), BTreeSet::new(), "a majority must see it");

    let mut maintained = World::up();
    maintained.probe(PRIMARY, |l| l.role = follows(7002));
    maintained.following_primaries = lasting(&maintained);
    maintained.state.settings.maintenance = true;
    let (why, begun) = maintained.decisions();
    assert!(begun.is_empty() && why[0].contains("is a replica of 127.0.0.1:7002 and accepts no writes"), "{why:?}");
}

/// What `to_restore_as_primary` decides about the primary of this group.
fn restored(world: &World) -> Result<RestoredData, String> {
    let (fixes, left) = to_restore_as_primary(&world.state, &world.seen, &world.following_primaries, ME);
    match (&fixes[..], &left[..]) {
        ([fix], []) => match &fix.action {
            ReplicationAction::RestorePrimary { data, .. } => Ok(data.clone()),
            other => panic!("{other:?}"),
        },
        ([], [wait]) => {
            let text = wait.text();
            let decide = "or you decide: REPLICAOF NO ONE and CONFIG REWRITE there, or pontoon group promote 1 HOST:PORT --force";
            assert!(says(&text, "is not made a primary again automatically", decide), "{text}");
            Err(text)
        }
        other => panic!("{other:?}"),
    }
}

/// 7002 has replaced 7001 and was restarted with its former configuration. Both follow each other; 7003 was made to
/// follow 7002 and has never reached it.
fn cycle() -> World {
    let mut world = World::up();
    world.start(7002, false);
    world.finish();
    let never = |port| ReportedRole::Replica { of: addr(port), link_up: false, link_down_ms: u64::MAX, syncing: false };
    world.probe(7002, |l| {
        (l.role, l.run_id, l.replid, l.offset) = (never(PRIMARY), "again".into(), "new".into(), 0);
    });
    [PRIMARY, 7003].iter().for_each(|port| world.probe(*port, |l| l.role = follows(7002)));
    world.edit_reports(7002, |report| report.in_sync = None);
    let following = following_primaries(&world.state, &Watchers::new(&world.seen, voters()));
    world.following_primaries = following.into_iter().map(|addr| (addr, PRIMARY_FOLLOWS_MS)).collect();
    world
}

#[test]
fn a_cycle_is_resolved_when_no_other_server_has_better_data() {
    assert_eq!(restored(&cycle()), Ok(RestoredData::LoadedFromAof), "7003 has the data from before the promotion");

    for (what, makes_unsafe) in [
        ("it was started empty", (|w: &mut World| w.probe(7002, |l| l.keys = 0)) as fn(&mut World)),
        ("it was started with too few keys", |w| w.probe(7002, |l| l.keys = 5)),
        ("it copies", |w| {
            let copies = ReportedRole::Replica { of: addr(PRIMARY), link_up: false, link_down_ms: 9, syncing: true };
            w.probe(7002, |l| l.role = copies.clone());
        }),
        ("it has copied from a server of another group", |w| w.probe(7002, |l| l.role = follows(7009))),
        ("the other one loads its data", |w| w.probe(7003, |l| l.loading = true)),
        ("the other one is ahead in the same history", |w| w.probe(7002, |l| l.replid = "id1".into())),
    ] {
        let mut world = cycle();
        makes_unsafe(&mut world);
        assert!(restored(&world).is_err(), "{what}: {:?}", restored(&world));
    }
    // The old primary has the data of the switchover, so the new one must have lost nothing, whatever the third one has.
    let mut two = cycle();
    two.probe(7003, |l| l.keys = 0);
    assert_eq!(restored(&two), Ok(RestoredData::LoadedFromAof));
    two.probe(7002, |l| l.keys = 5);
    assert!(restored(&two).is_err(), "{:?}", restored(&two));

    let mut same = cycle();
    same.probe(7002, |l| (l.replid, l.offset) = ("id1".into(), 1_000));
    assert_eq!(restored(&same), Ok(RestoredData::Loaded), "the other one is not ahead");

    // No server has keys: nothing can be lost.
    let mut empty = cycle();
    [PRIMARY, 7002, 7003].iter().for_each(|port| empty.probe(*port, |l| l.keys = 0));
    assert_eq!(restored(&empty), Ok(RestoredData::Loaded));
    empty.edit_reports(7003, |report| report.probe = None);
    assert!(restored(&empty).is_err(), "the server that does not answer may have keys");
}

/// It has copied the data of the server that it had replaced, since that one did not follow it yet.
#[test]
fn a_primary_that_copied_the_old_primary_is_restored_with_that_data() {
    let copied = || {
        let mut world = cycle();
        world.probe(7002, |l| (l.role, l.replid, l.offset) = (follows(PRIMARY), "id1".into(), 1_000));
        world
    };
    assert_eq!(restored(&copied()), Ok(RestoredData::Copied { replid: "id1".into() }));
    // The server that it copied has restarted as a primary. Both have the same data.
    let mut primary = copied();
    primary.probe(7002, |l| l.role = follows(7003));
    primary.probe(7003, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    assert_eq!(restored(&primary), Ok(RestoredData::Copied { replid: "id1".into() }));
    for (what, makes_unsafe) in [
        (
            "the other one has copied the new primary's data",
            (|w: &mut World| w.probe(7003, |l| l.replid = "new".into())) as fn(&mut World),
        ),
        ("the other one does not answer", |w| w.edit_reports(7003, |report| report.probe = None)),
        ("it follows a primary that has more", |w| {
            w.probe(7002, |l| l.role = follows(7003));
            w.probe(7003, |l| (l.role, l.offset) = (ReportedRole::Primary { replicas: Vec::new() }, 1_001));
        }),
    ] {
        let mut world = copied();
        makes_unsafe(&mut world);
        assert!(restored(&world).is_err(), "{what}: {:?}", restored(&world));
    }
}

#[test]
fn the_operator_is_advised_what_lasts_over_a_restart() {
    let world = cycle();
    let (_, left) = reconcile(&world.state, &world.seen);
    let end = "REPLICAOF NO ONE there and then CONFIG REWRITE";
    assert!(says(&left[0].text(), "is a replica of 127.0.0.1:7001 and accepts no writes", end), "{left:?}");
}
