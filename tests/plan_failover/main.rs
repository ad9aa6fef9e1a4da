//! `plan::failover` and `plan::replication` by tables: who is a candidate and who is not, who is chosen, who is failed over at
//! all, who is made to follow whom. Knows nothing of servers: what nodes have seen of them is made up here.
#![allow(clippy::unwrap_used)]

mod ejections;
mod leadership_transfer;
mod world;

use std::collections::BTreeSet;

use pontoon::{
    model::{
        change::{Change, GiveUpPromotion, NotePrimary, StartPromotion},
        ids::{GroupId, NodeId},
        promotion::{PromotionKind, ReplicationOffset},
        route::Mode,
        secret::{Credentials, Secret},
    },
    plan::{
        failover::{STALE_MS, decide, following_primaries},
        liveness::Watchers,
        observation::{InSync, Probe, ReportedRole},
        replication::{ReplicationAction, reconcile, to_restore_as_primary},
    },
};

use world::{GROUP, ME, PRIMARY, PRODUCT, World, addr, follows, voters};

#[test]
fn the_farthest_is_chosen_then_priority_then_zone_then_address() {
    assert_eq!(World::down().order(), [7002, 7003]);
    let mut world = World::down();
    world.edit(|group| {
        group.servers[0].zone = "a".into();
        group.servers[2].zone = "a".into();
    });
    assert_eq!(world.order(), [7003, 7002], "the zone of the primary");
    world.edit(|group| group.servers[1].priority = 200);
    assert_eq!(world.order(), [7002, 7003], "priority before zone");
    world.probe(7003, |probe| probe.offset = 1_001);
    assert_eq!(world.order(), [7003, 7002], "offset before priority");
    let evidence = world.choice().evidence();
    assert!(evidence.contains("127.0.0.1:7003 is chosen, at offset 1001 (priority 100)"), "{evidence}");
    assert!(evidence.contains("127.0.0.1:7002 is at 1000 (priority 200)"), "{evidence}");
}

#[test]
fn who_is_no_candidate_and_why() {
    type Edit = fn(&mut World);
    let table: &[(&str, Edit)] = &[
        ("has not copied", |w| w.edit(|g| g.servers[1].diverged = true)),
        ("priority is 0", |w| w.edit(|g| g.servers[1].priority = 0)),
        ("does not answer node 1", |w| {
            let mine = w.seen.get_mut(&addr(7002)).unwrap().get_mut(&ME).unwrap();
            (mine.report.failing_ms, mine.report.error) = (Some(1), "refused".into());
        }),
        ("(NOAUTH)", |w| w.see(7002, |report| report.error = "NOAUTH".into())),
        ("it does not answer", |w| w.see(7002, |report| report.probe.as_mut().unwrap().1 = 3_000)),
        ("it does not answer", |w| w.see(7002, |report| report.probe = None)),
        ("a primary itself", |w| w.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() })),
        ("loading", |w| w.probe(7002, |l| l.loading = true)),
        ("full copy", |w| {
            w.probe(7002, |l| {
                l.role = ReportedRole::Replica { of: addr(PRIMARY), link_up: false, link_down_ms: 1, syncing: true }
            })
        }),
        ("it follows 127.0.0.1:7009", |w| w.probe(7002, |l| l.role = follows(7009))),
        ("another replication id", |w| w.probe(7002, |l| l.replid = "old".into())),
        // The primary came back empty under another id, and died before its replica had copied that.
        ("another replication id", |w| w.probe(PRIMARY, |l| l.replid = "new".into())),
        ("nobody knows under which", |w| {
            w.probe(PRIMARY, |l| l.replid.clear());
            w.edit(|g| g.replid.clear());
        }),
        ("in step with the primary since it was started", |w| w.see(7002, |report| report.in_sync = None)),
        // It was restarted with what it saved once.
        ("in step with the primary since it was started", |w| w.probe(7002, |l| l.run_id = "restarted".into())),
        ("in step with the primary since it was started", |w| {
            w.see(7002, |report| report.in_sync.as_mut().unwrap().to = addr(7009))
        }),
        ("s before the primary was last seen alive", |w| {
            w.see(7002, |report| report.in_sync.as_mut().unwrap().ago_ms = 4_000 + STALE_MS + 1_000)
        }),
        ("it has received nothing yet of what the primary wrote up to offset 1000", |w| {
            w.probe(7002, |l| l.offset = 0)
        }),
        ("slots have moved to this group", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id1".into(), offset: 1_001 }))
        }),
    ];
    for (why, edit) in table {
        let mut world = World::down();
        edit(&mut world);
        let choice = world.choice();
        let (port, said) = choice.none.first().unwrap_or_else(|| panic!("{why}: {choice:?}"));
        assert!(*port == addr(7002) && said.contains(why), "wanted {why}: {choice:?}");
    }
}

#[test]
fn who_is_a_candidate_though_something_is_odd() {
    type Edit = fn(&mut World);
    let table: &[(&str, Edit)] = &[
        ("long dead: both ages grow", |w| w.fail(PRIMARY, 600_000)),
        ("the nodes have never seen the primary, and the log knows its id", |w| w.see(PRIMARY, |s| s.probe = None)),
        ("nobody has written anything", |w| {
            [PRIMARY, 7002].into_iter().for_each(|port| w.probe(port, |l| l.offset = 0));
        }),
        ("must have reached another history", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "x".into(), offset: u64::MAX }))
        }),
        ("just reached", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id1".into(), offset: 1_000 }))
        }),
        ("one node alone has seen it in step", |w| {
            let by_node = w.seen.get_mut(&addr(7002)).unwrap();
            by_node.values_mut().skip(1).for_each(|reported| reported.report.in_sync = None);
        }),
    ];
    for (what, edit) in table {
        let mut world = World::down();
        edit(&mut world);
        assert!(world.order().contains(&7002), "{what}: {:?}", world.choice());
    }
}

#[test]
fn a_failover_begins_and_its_reason_is_the_evidence() {
    let world = World::down();
    assert_eq!(world.decisions(), (Vec::new(), vec![7002]));
    let watchers = Watchers::new(&world.seen, voters());
    let decided = decide(&world.state, &world.seen, &watchers, &world.following_primaries, ME);
    let Ok([Change::StartPromotion(StartPromotion { why, forced: false, kind: PromotionKind::Failover, .. })]) =
        decided[0].action.as_deref()
    else {
        panic!("{decided:?}");
    };
    for part in ["node 1 for 4.1 s", "node 2", "node 3", "connection refused", "7002 is chosen, at offset 1000", "7003"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn who_is_not_failed_over_and_why() {
    type Edit = fn(&mut World);
    let table: &[(&str, Edit)] = &[
        ("maintenance is on", |w| w.state.settings.maintenance = true),
        ("maintenance is on", |w| w.edit(|g| g.options.maintenance = true)),
        ("no replica, so its slots wait", |w| w.edit(|g| g.servers.truncate(1))),
        ("no replica can replace it: 127.0.0.1:7002 is none: its priority is 0", |w| {
            w.edit(|g| g.servers.iter_mut().for_each(|s| s.priority = 0))
        }),
        ("nothing is failed over by itself when more than", |w| {
            for group in 2..=4_u16 {
                w.group(group.into(), &[7_000 + 10 * group, 7_001 + 10 * group]);
            }
            for group in 2..=4_u16 {
                w.fail(7_000 + 10 * group, 4_000);
            }
        }),
    ];
    for (why, edit) in table {
        let mut world = World::down();
        edit(&mut world);
        let (sentences, begun) = world.decisions();
        assert!(begun.is_empty() && sentences.iter().any(|s| s.contains(why)), "wanted {why}: {sentences:?} {begun:?}");
    }
    // Groups that have no replica may have been down for weeks: they are no reason to leave the others alone.
    let mut lone = World::down();
    for group in 2..=6_u16 {
        lone.group(group.into(), &[7_000 + 10 * group]);
    }
    for group in 2..=4_u16 {
        lone.fail(7_000 + 10 * group, 9_000_000);
    }
    let (sentences, begun) = lone.decisions();
    assert_eq!(begun, [7002]);
    assert!(sentences.len() == 3 && sentences.iter().all(|s| s.contains("it has no replica")), "{sentences:?}");
    // Nor do those that are up make the share larger: of four primaries that have replicas three are too many.
    for group in 7..=9_u16 {
        lone.group(group.into(), &[7_000 + 10 * group, 7_001 + 10 * group]);
    }
    for group in 7..=8_u16 {
        lone.fail(7_000 + 10 * group, 4_000);
    }
    let (sentences, begun) = lone.decisions();
    assert!(begun.is_empty() && sentences.iter().any(|s| s.contains("3 of 4 primaries")), "{sentences:?}");
    assert_eq!(sentences.iter().filter(|s| s.contains("it has no replica")).count(), 3, "{sentences:?}");
    let mut soon = World::down();
    soon.edit(|g| g.options.down_after_ms = 5_000);
    assert_eq!(soon.decisions(), (Vec::new(), Vec::new()), "it is not down yet");
    let mut open = World::down();
    open.start(7002, false);
    assert_eq!(open.decisions(), (Vec::new(), Vec::new()), "a promotion is open");
}

/// Of those that fail together, one is down before the others are.
#[test]
fn the_guard_counts_primaries_from_the_moment_they_do_not_answer() {
    let mut world = World::down();
    for id in 2..=6 {
        let port = 7_000 + 100 * u16::try_from(id).unwrap();
        world.group(id, &[port, port + 1]);
    }
    world.state.settings.failover_share_max = 1;
    let fail = |world: &mut World, port: u16| world.see(port, |report| report.failing_ms = Some(600));
    fail(&mut world, 7_200);
    assert_eq!(world.decisions().1, [7002], "two may be down at once");
    fail(&mut world, 7_300);
    let (sentences, begun) = world.decisions();
    assert!(begun.is_empty() && sentences[0].contains("3 of 6 primaries do not answer"), "{begun:?} {sentences:?}");
    // One node alone does not see it.
    let reported = world.seen.get_mut(&addr(7_400)).unwrap();
    reported.get_mut(&NodeId(2)).unwrap().report.failing_ms = Some(600);
    assert!(world.decisions().0[0].contains("3 of 6"));
}

#[test]
fn with_min_acks_enough_replicas_have_to_answer_and_none_may_have_more() {
    type Edit = fn(&mut World);
    let table: &[(&str, u8, Edit)] = &[
        ("begins", 0, |w| w.see(7003, |report| report.probe = None)),
        ("begins", 1, |_| {}),
        ("begins", 2, |w| w.see(7003, |report| report.probe = None)),
        // It need not have been in step to be counted: what it has, it has.
        ("begins", 1, |w| w.see(7003, |report| report.in_sync = None)),
        ("2 of the 2 replicas have to answer", 1, |w| w.see(7003, |report| report.probe = None)),
        ("there answer: 127.0.0.1:7002", 1, |w| w.probe(7003, |probe| probe.replid = "other".into())),
        ("2 of the 2 replicas have to answer", 1, |w| w.probe(7003, |probe| probe.loading = true)),
        ("begins", 1, |w| w.edit(|g| g.servers[2].diverged = true)),
        ("127.0.0.1:7003 has more (offset 1001) than 127.0.0.1:7002 (1000)", 1, |w| {
            w.probe(7003, |probe| probe.offset = 1_001);
            w.edit(|group| group.servers[2].priority = 0);
        }),
    ];
    for (want, min_acks, edit) in table {
        let mut world = World::down();
        world.state.products.get_mut(&PRODUCT).unwrap().min_acks = *min_acks;
        edit(&mut world);
        let (sentences, begun) = world.decisions();
        if *want == "begins" {
            assert_eq!(begun, [7002], "{sentences:?}");
        } else {
            assert!(begun.is_empty() && sentences[0].contains(want), "wanted {want}: {begun:?} {sentences:?}");
            assert!(sentences[0].contains("--force"), "{sentences:?}");
        }
    }
}

#[test]
fn a_new_history_is_noted_before_the_failover_begins() {
    let mut world = World::down();
    for port in [PRIMARY, 7002, 7003] {
        world.probe(port, |l| l.replid = "id9".into());
        world.see(port, |report| {
            if let Some(in_sync) = &mut report.in_sync {
                in_sync.replid = "id9".into();
            }
        });
    }
    let watchers = Watchers::new(&world.seen, voters());
    let decided = decide(&world.state, &world.seen, &watchers, &world.following_primaries, ME);
    let Ok([Change::NotePrimary(NotePrimary { replid, .. }), Change::StartPromotion(_)]) = decided[0].action.as_deref()
    else {
        panic!("{decided:?}");
    };
    assert_eq!(replid, "id9");
}

#[test]
fn when_the_old_primary_is_back() {
    let mut world = World::down();
    world.start(7002, false);
    assert_eq!(world.back(), None);
    let mut back = World::up();
    back.start(7002, false);
    assert!(back.back().unwrap().contains("answers again"));
    // One node of three reaches it.
    for node in [2, 3] {
        back.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(node)).unwrap().report.failing_ms = Some(4_000);
    }
    assert_eq!(back.back(), None);
    // It was restarted: while the chosen one is there, that one is the better choice.
    let mut restarted = World::up();
    restarted.start(7002, false);
    restarted.probe(PRIMARY, |l| l.replid = "new".into());
    assert_eq!(restarted.back(), None);
    restarted.fail(7002, 60_000);
    assert!(restarted.back().unwrap().contains("with 10 keys"));
    restarted.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(restarted.back(), None, "it has nothing that could be served");
    // An operator promotes although the primary answers.
    let mut forced = World::up();
    forced.start(7002, true);
    assert_eq!(forced.back(), None);
    forced.fail(7002, 60_000);
    assert!(forced.back().is_some());
    // Started again from its disk, it is of another replication id: what counts is what became of the chosen one.
    let restarted = || {
        let mut world = World::up();
        world.note(1, "id1");
        world.start(7002, false);
        world.probe(PRIMARY, |l| l.replid = "another".into());
        world
    };
    assert_eq!(restarted().back(), None);
    let mut copied = restarted();
    copied.probe(7002, |l| l.replid = "another".into());
    assert!(copied.back().is_some_and(|why| why.contains("copied")));
    copied.probe(PRIMARY, |l| l.keys = 0);
    assert!(copied.back().is_some(), "the chosen one has none either");
    let promoted = |former: Option<&str>| {
        let mut world = restarted();
        world.probe(7002, |l| {
            l.role = ReportedRole::Primary { replicas: Vec::new() };
            l.replid = "its own".into();
            l.replid2 = former.map(|id| (id.to_owned(), 1_001));
        });
        world
    };
    assert_eq!(promoted(Some("id1")).back(), None);
    let mut lost = promoted(None);
    assert!(lost.back().is_some_and(|why| why.contains("another replication id")));
    lost.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(lost.back(), None, "an operator has to choose");
    // A replica by now.
    let mut replica = World::up();
    replica.start(7002, false);
    replica.probe(PRIMARY, |l| l.role = follows(7002));
    assert_eq!(replica.back(), None);
}

#[test]
fn who_is_made_to_follow() {
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
    // The primary came back empty, and this one has what it lost.
    let mut empty = World::up();
    empty.probe(PRIMARY, |l| l.keys = 0);
    empty.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    assert_eq!(empty.actions(), []);
    assert!(reconcile(&empty.state, &empty.seen).1[0].contains("it is not made a replica"));
    empty.edit(|g| g.servers[1].diverged = true);
    assert_eq!(empty.actions(), [], "it is the old primary, and nobody else has its keys");
    empty.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache;
    assert_eq!(empty.actions(), [(7002, repoint("it is a primary".into()))], "a cache may lose them");
}

/// 7002 is the old primary, with 10 keys; the present one was promoted, and restarted empty since.
fn restarted() -> World {
    let mut world = World::up();
    world.edit(|g| g.servers[1].diverged = true);
    world.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    world.see(7002, |report| report.in_sync = None);
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
    let odd = |world: &World| reconcile(&world.state, &world.seen).1;
    let mut world = restarted();
    assert_eq!(world.actions(), [], "one write does not make it whole");
    assert!(odd(&world)[0].contains("it is not made a replica"), "{:?}", odd(&world));
    world.probe(PRIMARY, |l| l.keys = 50);
    assert_eq!(world.actions(), [], "nor do many: it began with nothing");
    // It follows somebody who is not there, by its own configuration: just as little.
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
    assert!(odd(&unnoted)[0].contains("restarted with 1 keys"), "{:?}", odd(&unnoted));

    for heals in [
        // It lives on since it was promoted, with another replication id for its first replica.
        |w: &mut World| w.edit(|g| g.restarted_with = None),
        // It restarted with most of it, and has more by now.
        |w: &mut World| {
            w.edit(|g| g.restarted_with = Some(9));
            w.probe(PRIMARY, |l| l.keys = 11);
        },
        // The other one is empty, too.
        |w: &mut World| w.probe(7002, |l| l.keys = 0),
        // It had already copied what the primary writes since.
        |w: &mut World| {
            let in_sync = InSync { to: addr(PRIMARY), replid: "again".into(), run_id: "x".into(), ago_ms: 9_000 };
            w.see(7002, |report| report.in_sync = Some(in_sync.clone()));
        },
        |w: &mut World| w.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache,
    ] {
        let mut world = restarted();
        heals(&mut world);
        assert_eq!(world.actions(), repoint(PRIMARY));
    }
    // Another primary is another beginning.
    let mut promoted = restarted();
    promoted.start(7003, true);
    promoted.finish();
    assert_eq!((promoted.of().restarted_with, promoted.of().run_id.as_str()), (None, ""));
}

#[test]
fn a_replica_that_is_not_let_in_gets_the_password_again() {
    let mut world = World::up();
    let down = |ms, syncing| ReportedRole::Replica { of: addr(PRIMARY), link_up: false, link_down_ms: ms, syncing };
    world.probe(7002, |l| l.role = down(2_000, false));
    assert_eq!(world.actions(), [], "there is no password");
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
fn what_the_log_learns_of_primaries_and_of_those_that_are_back_in_step() {
    let mut world = World::up();
    world.probe(PRIMARY, |l| l.replid = "new".into());
    let note = |run_id: &str| ReplicationAction::Note { replid: "new".into(), run_id: run_id.into(), keys: 10 };
    assert_eq!(world.actions(), [(PRIMARY, note("run7001"))]);
    world.note(1, "new");
    assert_eq!(world.actions(), []);
    world.probe(PRIMARY, |l| l.run_id = "other".into());
    assert_eq!(world.actions(), [(PRIMARY, note("other"))]);
    world.probe(PRIMARY, |l| l.run_id = String::new());
    assert_eq!(world.actions(), [], "it does not tell");
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
fn who_is_to_keep_that_it_was_promoted() {
    let mut world = World::up();
    world.start(7002, false);
    world.finish();
    let promoted = world.of().epoch;
    let saves = |world: &World| {
        let saves = |(port, action)| match action {
            ReplicationAction::SaveConfig { promoted } => Some((port, promoted)),
            _ => None,
        };
        world.actions().into_iter().filter_map(saves).collect::<Vec<_>>()
    };
    assert_eq!(saves(&world), [(7002, promoted)]);
    world.state.settings.maintenance = true;
    assert_eq!(saves(&world), [(7002, promoted)], "it belongs to what was done");
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
    world.see(7002, |report| report.probe = None);
    assert_eq!(saves(&world), []);
}

#[test]
fn a_primary_that_follows_another_server_is_replaced() {
    let led = |world: &World| following_primaries(&world.state, &Watchers::new(&world.seen, voters()));
    let mut world = World::up();
    assert_eq!(led(&world), BTreeSet::new());
    // It was started again as the replica that it was before it was promoted; its own replicas have lost it.
    world.probe(PRIMARY, |l| l.role = follows(7002));
    [7002, 7003].iter().for_each(|port| world.probe(*port, |l| l.role = follows(PRIMARY)));
    assert_eq!(led(&world), BTreeSet::from([addr(PRIMARY)]));
    assert_eq!(world.decisions().1, [0_u16; 0], "it may be again what it was in a moment");
    world.following_primaries = led(&world);
    assert_eq!(world.decisions(), (vec![], vec![7002]));

    let mut ours = World::up();
    ours.probe(7002, |l| l.role = ReportedRole::Primary { replicas: Vec::new() });
    assert_eq!(led(&ours), BTreeSet::new(), "it is the primary that counts");
    world.probe(PRIMARY, |l| l.loading = true);
    assert_eq!(led(&world), BTreeSet::new());
    world.probe(PRIMARY, |l| l.loading = false);
    world.fail(PRIMARY, 100);
    assert_eq!(led(&world), BTreeSet::new(), "whether it is one nobody sees now");

    // Nobody can replace it, and it has what it was started with.
    let lead = |world: &World| to_restore_as_primary(&world.state, &world.seen, &world.following_primaries, ME);
    let mut alone = World::up();
    alone.probe(PRIMARY, |l| l.role = follows(7002));
    alone.following_primaries = led(&alone);
    [7002, 7003].iter().for_each(|port| alone.fail(*port, 9_000));
    assert_eq!(lead(&alone), [], "its link was up, so it may have the other one's data");
    let never = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: false };
    alone.probe(PRIMARY, |l| l.role = never.clone());
    let leads = lead(&alone);
    assert_eq!((leads[0].addr.port(), leads.len()), (PRIMARY, 1));
    assert_eq!(leads[0].action, ReplicationAction::RestorePrimary { run_id: format!("run{PRIMARY}") });
    alone.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(lead(&alone), [], "it may have been started empty");
    alone.probe(PRIMARY, |l| l.keys = 10);
    // It was in step too long ago to be a candidate, and may have more all the same.
    alone.see(7003, |report| (report.failing_ms, report.error) = (None, String::new()));
    alone.see(7003, |report| report.probe.as_mut().unwrap().1 = 0);
    alone.probe(7003, |l| l.role = follows(PRIMARY));
    alone.see(7003, |report| report.in_sync.as_mut().unwrap().ago_ms = STALE_MS * 2);
    assert_eq!(lead(&alone), []);
    alone.edit(|g| g.servers[2].diverged = true);
    assert_eq!(lead(&alone).len(), 1, "its data is the replaced one");
    let syncing = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: true };
    alone.probe(PRIMARY, |l| l.role = syncing.clone());
    assert_eq!(lead(&alone), []);
    alone.probe(PRIMARY, |l| l.role = never.clone());
    alone.state.settings.maintenance = true;
    assert_eq!(lead(&alone), []);
    world.probe(PRIMARY, |l| l.role = never.clone());
    assert_eq!(lead(&world), [], "another one is promoted");

    let mut few = World::up();
    let one = few.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(2)).unwrap();
    one.report.probe.as_mut().unwrap().0.role = follows(7002);
    assert_eq!(led(&few), BTreeSet::new(), "a majority has to see it");

    let mut maintained = World::up();
    maintained.probe(PRIMARY, |l| l.role = follows(7002));
    maintained.following_primaries = led(&maintained);
    maintained.state.settings.maintenance = true;
    let (why, begun) = maintained.decisions();
    assert!(begun.is_empty() && why[0].contains("is a replica of 127.0.0.1:7002 and takes no writes"), "{why:?}");
}

/// One that is chosen and cannot be promoted again and again makes room for another, whatever it has.
#[test]
fn who_could_not_be_promoted_twice_stands_back() {
    let mut world = World::down();
    world.probe(7002, |probe| probe.offset = 2_000);
    for _ in 0..2 {
        assert_eq!(world.decisions(), (Vec::new(), vec![7002]));
        world.start(7002, false);
        let promotion = *world.state.promotions.keys().next().unwrap();
        world.make(Change::GiveUpPromotion(GiveUpPromotion {
            promotion,
            why: "NOPERM".into(),
            primary_back: false,
            forced: false,
        }));
    }
    assert_eq!(world.decisions(), (Vec::new(), vec![7003]));
    world.edit(|group| group.servers.truncate(2));
    assert_eq!(world.decisions(), (Vec::new(), vec![7002]), "there is no other");
}
