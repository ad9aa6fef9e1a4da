//! `plan::failover` and `plan::candidates` by tables: which replica is a candidate, which groups are failed over, and
//! why others are not. Knows nothing of servers: the tests make up the nodes' reports.
#![allow(clippy::unwrap_used)]

mod ejections;
mod impaired;
mod leadership_transfer;
mod replication;
mod restarted;
mod world;

use pontoon::{
    model::{
        change::{Change, GiveUpPromotion, NotePrimary, StartPromotion},
        ids::NodeId,
        promotion::{PromotionKind, ReplicationOffset},
        route::Mode,
    },
    plan::{
        candidates::STALE_MS,
        failover::{decide, held_back, not_failed_over},
        guard::{GUARD_ENDS_WHEN, TOGETHER_MS},
        liveness::Watchers,
        observation::ReportedRole,
    },
};

use world::{ME, PRIMARY, PRODUCT, World, addr, follows, voters};

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
fn a_replica_that_is_no_candidate_has_a_reason() {
    type Edit = fn(&mut World);
    let table: &[(&str, Edit)] = &[
        ("has not copied", |w| w.edit(|g| g.servers[1].diverged = true)),
        ("priority is 0", |w| w.edit(|g| g.servers[1].priority = 0)),
        ("does not answer node 1", |w| {
            let mine = w.seen.get_mut(&addr(7002)).unwrap().get_mut(&ME).unwrap();
            (mine.report.failing_ms, mine.report.error) = (Some(1), "refused".into());
        }),
        ("(NOAUTH)", |w| w.edit_reports(7002, |report| report.error = "NOAUTH".into())),
        ("it does not answer", |w| w.edit_reports(7002, |report| report.probe.as_mut().unwrap().1 = 3_000)),
        ("it does not answer", |w| w.edit_reports(7002, |report| report.probe = None)),
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
        ("replication id is not known", |w| {
            w.probe(PRIMARY, |l| l.replid.clear());
            w.edit(|g| g.replid.clear());
        }),
        ("in sync with the primary since it was started", |w| w.edit_reports(7002, |report| report.in_sync = None)),
        // It was restarted with what it saved once.
        ("in sync with the primary since it was started", |w| w.probe(7002, |l| l.run_id = "restarted".into())),
        ("in sync with the primary since it was started", |w| {
            w.edit_reports(7002, |report| report.in_sync.as_mut().unwrap().to = addr(7009))
        }),
        ("s before the primary was last seen alive", |w| {
            w.edit_reports(7002, |report| report.in_sync.as_mut().unwrap().ago_ms = 4_000 + STALE_MS + 1_000)
        }),
        ("it has not received yet what the primary wrote up to offset 1000", |w| w.probe(7002, |l| l.offset = 0)),
        ("slots have moved to this group", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id1".into(), offset: 1_001 }))
        }),
    ];
    for (why, edit) in table {
        let mut world = World::down();
        edit(&mut world);
        let choice = world.choice();
        let (port, reason) = choice.excluded.first().unwrap_or_else(|| panic!("{why}: {choice:?}"));
        assert!(*port == addr(7002) && reason.contains(why), "wanted {why}: {choice:?}");
    }
}

#[test]
fn a_replica_in_an_unusual_state_may_still_be_a_candidate() {
    type Edit = fn(&mut World);
    let table: &[(&str, Edit)] = &[
        ("down for a long time: both ages grow", |w| w.fail(PRIMARY, 600_000)),
        ("the nodes have never seen the primary, and the log knows its id", |w| {
            w.edit_reports(PRIMARY, |s| s.probe = None)
        }),
        ("nothing was ever written", |w| {
            [PRIMARY, 7002].into_iter().for_each(|port| w.probe(port, |l| l.offset = 0));
        }),
        ("must have reached another history", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "x".into(), offset: u64::MAX }))
        }),
        ("just reached", |w| {
            w.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id1".into(), offset: 1_000 }))
        }),
        ("only one node has seen it in sync", |w| {
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

/// Whether a sentence says what is waited for, and what ends it.
fn says(sentence: &str, what: &str, end: &str) -> bool {
    sentence.split_once("; ends when ").is_some_and(|(waits, ends)| waits.contains(what) && ends.contains(end))
}

#[test]
fn a_group_that_is_not_failed_over_has_a_reason() {
    type Edit = fn(&mut World);
    // What is waited for, and what ends it.
    let table: &[(&str, &str, Edit)] = &[
        ("maintenance is on", "maintenance is off (pontoon maintenance off), or you promote", |w| {
            w.state.settings.maintenance = true
        }),
        ("maintenance is on", "pontoon group promote 1 HOST:PORT --force", |w| {
            w.edit(|g| g.options.maintenance = true)
        }),
        ("no replica, so its slots wait", "it serves again (start it again), or its group is removed", |w| {
            w.edit(|g| g.servers.truncate(1))
        }),
        (
            "no replica can replace it: 127.0.0.1:7002 is no candidate: its priority is 0",
            "a replica can replace it, or you accept the loss: pontoon group promote 1 HOST:PORT --force",
            |w| w.edit(|g| g.servers.iter_mut().for_each(|s| s.priority = 0)),
        ),
        ("no replica can replace it", "or that has lasted 5 s: then its slots are ejected to other groups", |w| {
            w.edit(|g| g.servers.iter_mut().for_each(|s| s.priority = 0));
            w.edit(|g| g.options.eject_after_ms = 5_000);
            w.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache;
        }),
        (
            "min-acks is 1, so 2 of the 2 replicas must answer",
            "replicas are started again, or you accept the loss",
            |w| {
                w.state.products.get_mut(&PRODUCT).unwrap().min_acks = 1;
                w.fail(7003, 4_000);
            },
        ),
        ("nothing is failed over automatically when more than", GUARD_ENDS_WHEN, |w| {
            for group in 2..=4_u16 {
                w.group(group.into(), &[7_000 + 10 * group, 7_001 + 10 * group]);
            }
            for group in 2..=4_u16 {
                w.fail(7_000 + 10 * group, 4_000);
            }
        }),
    ];
    for (why, end, edit) in table {
        let mut world = World::down();
        edit(&mut world);
        let (reasons, begun) = world.decisions();
        assert!(
            begun.is_empty() && reasons.iter().any(|s| says(s, why, end)),
            "wanted {why}, {end}: {reasons:?} {begun:?}"
        );
    }
    // Groups without a replica may have been down for weeks: they do not make the guard stop the others.
    let mut lone = World::down();
    for group in 2..=6_u16 {
        lone.group(group.into(), &[7_000 + 10 * group]);
    }
    for group in 2..=4_u16 {
        lone.fail(7_000 + 10 * group, 9_000_000);
    }
    let (reasons, begun) = lone.decisions();
    assert_eq!(begun, [7002]);
    assert!(reasons.len() == 3 && reasons.iter().all(|s| s.contains("it has no replica")), "{reasons:?}");
    // Groups without a replica that are up do not enlarge the share: three of four primaries with replicas are too
    // many.
    for group in 7..=9_u16 {
        lone.group(group.into(), &[7_000 + 10 * group, 7_001 + 10 * group]);
    }
    for group in 7..=8_u16 {
        lone.fail(7_000 + 10 * group, 4_000);
    }
    let (reasons, begun) = lone.decisions();
    assert!(begun.is_empty() && reasons.iter().any(|s| s.contains("3 of 4 primaries")), "{reasons:?}");
    assert_eq!(reasons.iter().filter(|s| s.contains("it has no replica")).count(), 3, "{reasons:?}");
    let mut soon = World::down();
    soon.edit(|g| g.options.down_after_ms = 5_000);
    assert_eq!(soon.decisions(), (Vec::new(), Vec::new()), "it is not down yet");
    let mut open = World::down();
    open.start(7002, false);
    assert_eq!(open.decisions(), (Vec::new(), Vec::new()), "a promotion is open");
}

/// An operator must act: neither the guard, nor maintenance, nor an ejection, nor a failover that is possible.
#[test]
fn groups_that_nothing_can_fail_over_are_named() {
    let stuck = |edit: &dyn Fn(&mut World)| {
        let mut world = World::down();
        edit(&mut world);
        let watchers = Watchers::new(&world.seen, voters());
        let decisions = decide(&world.state, &world.seen, &watchers, &world.following_primaries, ME);
        let held = held_back(&world.state, &world.seen, &watchers, &world.following_primaries);
        not_failed_over(&world.state, &decisions, &held).into_iter().map(|(.., why)| why).collect::<Vec<_>>()
    };
    let unfit = |w: &mut World| w.edit(|g| g.servers.iter_mut().for_each(|s| s.priority = 0));
    let named = stuck(&unfit);
    assert!(named.len() == 1 && named[0].contains("no replica can replace it"), "{named:?}");
    let alone = stuck(&|w| w.edit(|g| g.servers.truncate(1)));
    assert!(alone.len() == 1 && alone[0].contains("it has no replica"), "{alone:?}");
    let others: [&dyn Fn(&mut World); 4] = [
        &|_| (),
        &|w| {
            unfit(w);
            w.state.settings.maintenance = true;
        },
        &|w| {
            unfit(w);
            w.edit(|g| g.options.eject_after_ms = 5_000);
            w.state.products.get_mut(&PRODUCT).unwrap().mode = Mode::Cache;
        },
        &|w| {
            for group in 2..=4_u16 {
                w.group(group.into(), &[7_000 + 10 * group, 7_001 + 10 * group]);
                w.fail(7_000 + 10 * group, 4_000);
            }
        },
    ];
    for (n, edit) in others.iter().enumerate() {
        assert!(stuck(edit).is_empty(), "{n}: {:?}", stuck(edit));
    }
}

/// When several primaries fail together, one counts as down before the others do.
#[test]
fn the_guard_counts_primaries_from_the_moment_they_do_not_answer() {
    let mut world = World::down();
    for id in 2..=6 {
        let port = 7_000 + 100 * u16::try_from(id).unwrap();
        world.group(id, &[port, port + 1]);
    }
    world.state.settings.failover_share_max = 1;
    let fail = |world: &mut World, port: u16| world.edit_reports(port, |report| report.failing_ms = Some(600));
    fail(&mut world, 7_200);
    assert_eq!(world.decisions().1, [7002], "two may be down at once");
    fail(&mut world, 7_300);
    let (reasons, begun) = world.decisions();
    assert!(begun.is_empty() && reasons[0].contains("3 of 6 primaries have failed together"), "{begun:?} {reasons:?}");
    // A server that fails for one node only does not count.
    let reported = world.seen.get_mut(&addr(7_400)).unwrap();
    reported.get_mut(&NodeId(2)).unwrap().report.failing_ms = Some(600);
    assert!(world.decisions().0[0].contains("3 of 6"));
}

/// Groups that nobody repairs must not stop the others; those that fail together stay held back, however long.
#[test]
fn the_guard_counts_primaries_that_fail_together() {
    let mut world = World::down();
    for id in 2..=5 {
        let port = 7_000 + 100 * u16::try_from(id).unwrap();
        world.group(id, &[port, port + 1]);
        // Their replicas have failed, too.
        if id < 5 {
            world.fail(port, 3_600_000);
            world.fail(port + 1, 3_600_000);
        }
    }
    let held = |world: &World| {
        let watchers = Watchers::new(&world.seen, voters());
        let held = held_back(&world.state, &world.seen, &watchers, &world.following_primaries);
        held.into_iter().map(|(_, group, _)| group.0).collect::<Vec<_>>()
    };
    assert_eq!((world.decisions().1, held(&world)), (vec![7002], vec![2, 3, 4]), "three failed together an hour ago");
    // One of the three failed at another time: two are not too many, and nothing can replace their primaries.
    world.fail(7_300, 3_600_000 - TOGETHER_MS - 1);
    let (reasons, begun) = world.decisions();
    assert_eq!((begun, held(&world)), (vec![7002], vec![]));
    assert!(reasons.len() == 3 && reasons.iter().all(|why| why.contains("no replica can replace it")), "{reasons:?}");
    // Now they fail together with the first.
    for port in [7_200, 7_300, 7_400] {
        world.fail(port, 4_000 + TOGETHER_MS);
    }
    assert_eq!((world.decisions().1, held(&world)), (vec![], vec![1, 2, 3, 4]));
    // A primary that has been a replica of another server for long counts like one that does not answer.
    world.fail(7_200, 900_000);
    world.following_primaries.insert(addr(7_500), 5_000);
    assert_eq!((world.decisions().1, held(&world)), (vec![], vec![1, 3, 4]), "three and the one that follows");
    world.following_primaries.insert(addr(7_500), 900_000);
    world.fail(7_300, 900_000);
    assert_eq!((world.decisions().1, held(&world)), (vec![7002], vec![2, 3]));
    // In maintenance, and while a group is promoted, it is not the guard that holds a group back.
    world.state.settings.maintenance = true;
    assert_eq!(held(&world), Vec::<u32>::new());
}

#[test]
fn with_min_acks_enough_replicas_must_answer_and_none_may_have_a_higher_offset() {
    type Edit = fn(&mut World);
    let table: &[(&str, u8, Edit)] = &[
        ("begins", 0, |w| w.edit_reports(7003, |report| report.probe = None)),
        ("begins", 1, |_| {}),
        ("begins", 2, |w| w.edit_reports(7003, |report| report.probe = None)),
        // It counts although it was never seen in sync: its offset is the evidence.
        ("begins", 1, |w| w.edit_reports(7003, |report| report.in_sync = None)),
        ("2 of the 2 replicas must answer", 1, |w| w.edit_reports(7003, |report| report.probe = None)),
        ("answering: 127.0.0.1:7002", 1, |w| w.probe(7003, |probe| probe.replid = "other".into())),
        ("2 of the 2 replicas must answer", 1, |w| w.probe(7003, |probe| probe.loading = true)),
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
        let (reasons, begun) = world.decisions();
        if *want == "begins" {
            assert_eq!(begun, [7002], "{reasons:?}");
        } else {
            assert!(begun.is_empty() && reasons[0].contains(want), "wanted {want}: {begun:?} {reasons:?}");
            assert!(reasons[0].contains("--force"), "{reasons:?}");
        }
    }
}

#[test]
fn a_new_history_is_noted_before_the_failover_begins() {
    let mut world = World::down();
    for port in [PRIMARY, 7002, 7003] {
        world.probe(port, |l| l.replid = "id9".into());
        world.edit_reports(port, |report| {
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
fn a_failover_ends_when_the_old_primary_has_recovered() {
    let mut world = World::down();
    world.start(7002, false);
    assert_eq!(world.primary_back(), None);
    let mut back = World::up();
    back.start(7002, false);
    assert!(back.primary_back().unwrap().contains("answers again"));
    // One node of three reaches it.
    for node in [2, 3] {
        back.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(node)).unwrap().report.failing_ms = Some(4_000);
    }
    assert_eq!(back.primary_back(), None);
    // It was restarted: while the candidate is up, the candidate is the better choice.
    let mut restarted = World::up();
    restarted.start(7002, false);
    restarted.probe(PRIMARY, |l| l.replid = "new".into());
    assert_eq!(restarted.primary_back(), None);
    restarted.fail(7002, 60_000);
    assert!(restarted.primary_back().unwrap().contains("with 10 keys"));
    restarted.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(restarted.primary_back(), None, "it has no keys");
    // An operator promotes although the primary answers.
    let mut forced = World::up();
    forced.start(7002, true);
    assert_eq!(forced.primary_back(), None);
    forced.fail(7002, 60_000);
    assert!(forced.primary_back().is_some());
    // Restarted from its disk, it has another replication id: the state of the candidate decides.
    let restarted = || {
        let mut world = World::up();
        world.note(1, "id1");
        world.start(7002, false);
        world.probe(PRIMARY, |l| l.replid = "another".into());
        world
    };
    assert_eq!(restarted().primary_back(), None);
    let mut copied = restarted();
    copied.probe(7002, |l| l.replid = "another".into());
    assert!(copied.primary_back().is_some_and(|why| why.contains("copied")));
    copied.probe(PRIMARY, |l| l.keys = 0);
    assert!(copied.primary_back().is_some(), "the candidate has no keys either");
    let promoted = |former: Option<&str>| {
        let mut world = restarted();
        world.probe(7002, |l| {
            l.role = ReportedRole::Primary { replicas: Vec::new() };
            l.replid = "its own".into();
            l.replid2 = former.map(|id| (id.to_owned(), 1_001));
        });
        world
    };
    assert_eq!(promoted(Some("id1")).primary_back(), None);
    let mut lost = promoted(None);
    assert!(lost.primary_back().is_some_and(|why| why.contains("another replication id")));
    lost.probe(PRIMARY, |l| l.keys = 0);
    assert_eq!(lost.primary_back(), None, "an operator has to choose");
    // The old primary has become a replica.
    let mut replica = World::up();
    replica.start(7002, false);
    replica.probe(PRIMARY, |l| l.role = follows(7002));
    assert_eq!(replica.primary_back(), None);
    // It was restarted as a replica, and has copied nothing: it is made a primary again if the candidate is not fit.
    let never = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: false };
    replica.probe(PRIMARY, |l| l.role = never.clone());
    assert_eq!(replica.primary_back(), None, "the candidate is fit");
    replica.fail(7002, 60_000);
    assert!(replica.primary_back().unwrap().contains("with 10 keys"));
    let copies = ReportedRole::Replica { of: addr(7002), link_up: false, link_down_ms: u64::MAX, syncing: true };
    replica.probe(PRIMARY, |l| l.role = copies.clone());
    assert_eq!(replica.primary_back(), None, "it copies another server's data");
}

/// It is deprioritised whatever its offset is.
#[test]
fn a_replica_whose_promotion_failed_twice_is_deprioritised() {
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
    assert_eq!(world.decisions(), (Vec::new(), vec![7002]), "there is no other replica");
}
