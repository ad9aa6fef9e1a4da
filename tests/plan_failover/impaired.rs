//! Primaries that answer and cannot serve: when they are replaced and by what, and what is done about scripts.

use pontoon::{
    model::{
        change::{Change, StartPromotion},
        ids::{HostPort, NodeId},
        promotion::PromotionKind,
    },
    plan::{
        failover::decide,
        impairment::{impaired_primaries, majority_impaired_ms, writes_refused},
        liveness::Watchers,
        observation::{Impairment, ProbeReport, ReportedRole},
        scripts::{self, ScriptAction, busy_reply_ms},
    },
};

use crate::world::{ME, PRIMARY, World, addr, voters};

/// All nodes see the primary of the tested group impaired for this long.
fn impaired(impairment: Impairment, for_ms: u64) -> World {
    let mut world = World::up();
    world.edit_reports(PRIMARY, |report| impair(report, impairment, for_ms));
    world
}

fn impair(report: &mut ProbeReport, impairment: Impairment, for_ms: u64) {
    report.impaired = Some((impairment, for_ms));
    match impairment {
        Impairment::Busy => {
            report.error = "it is busy".into();
            // The last probe that was answered.
            report.probe.as_mut().unwrap().1 = for_ms;
        }
        Impairment::Loading => {
            let (probe, _) = report.probe.as_mut().unwrap();
            // A process that loads does not know yet which history its data belongs to.
            (probe.loading, probe.run_id, probe.replid, probe.offset) = (true, "later".into(), "random".into(), 0);
        }
        Impairment::RefusesWrites => report.probe.as_mut().unwrap().0.write_error = "MISCONF disk full".into(),
        Impairment::RefusesLogin => {
            report.error = "it refuses the password".into();
            report.probe.as_mut().unwrap().1 = for_ms;
        }
    }
}

/// The promotion that begins, or why none does; `None`: nothing is decided.
fn decision(world: &World) -> Option<Result<(HostPort, PromotionKind), String>> {
    let watchers = Watchers::new(&world.seen, voters());
    let mut decided = decide(&world.state, &world.seen, &watchers, &world.following_primaries, ME);
    assert!(decided.len() <= 1, "one decision about a group: {decided:?}");
    let started = |changes: Vec<Change>| match changes.last() {
        Some(Change::StartPromotion(StartPromotion { to, kind, .. })) => (to.clone(), *kind),
        other => panic!("{other:?}"),
    };
    decided.pop().map(|decision| decision.action.map(started).map_err(|wait| wait.text()))
}

#[test]
fn an_impaired_primary_is_replaced_after_the_time_that_its_group_has_set() {
    let failover = || Some(Ok((addr(7002), PromotionKind::Failover)));
    let switchover = || Some(Ok((addr(7002), PromotionKind::Switchover)));
    const AFTER: u32 = 30_000;
    type Set = fn(&mut World, u32);
    let busy: Set = |w, ms| w.edit(|g| g.options.impaired.busy_failover_after_ms = ms);
    let loading: Set = |w, ms| w.edit(|g| g.options.impaired.loading_failover_after_ms = ms);
    let misconf: Set = |w, ms| w.edit(|g| g.options.impaired.misconf_failover_after_ms = ms);
    for (impairment, set, want) in [
        (Impairment::Busy, busy, failover()),
        (Impairment::Loading, loading, failover()),
        (Impairment::RefusesWrites, misconf, switchover()),
    ] {
        // The age of reports is added.
        for (for_ms, after_ms, want) in
            [(29_899, AFTER, &None), (29_900, AFTER, &want), (3_599_000, 0, &None), (3_599_000, 3_600_000, &None)]
        {
            let mut world = impaired(impairment, for_ms);
            set(&mut world, after_ms);
            // Replicas lose the link to a process that ends; just before that, they were in sync.
            let in_sync_ms = if impairment == Impairment::Loading { for_ms } else { 0 };
            [7002, 7003].iter().for_each(|port| {
                world.edit_reports(*port, |report| report.in_sync.as_mut().unwrap().ago_ms = in_sync_ms);
            });
            assert_eq!(decision(&world), *want, "{impairment:?} for {for_ms} ms of {after_ms} ms");
        }
    }
    // The defaults.
    let after = |impairment, ms| decision(&impaired(impairment, ms));
    for never in [Impairment::Busy, Impairment::RefusesWrites, Impairment::RefusesLogin] {
        assert_eq!(after(never, 3_600_000), None, "{never:?}");
    }
    assert!(after(Impairment::Loading, 59_000).is_none() && after(Impairment::Loading, 60_000).is_some());
}

#[test]
fn a_majority_must_see_the_impairment() {
    let mut world = impaired(Impairment::Loading, 100_000);
    let reports = world.seen.get_mut(&addr(PRIMARY)).unwrap();
    reports.get_mut(&NodeId(1)).unwrap().report.impaired = None;
    reports.get_mut(&NodeId(2)).unwrap().report.impaired = Some((Impairment::Loading, 5_000));
    let of = |world: &World, impairment| {
        majority_impaired_ms(&Watchers::new(&world.seen, voters()), &addr(PRIMARY), impairment)
    };
    assert_eq!(of(&world, Impairment::Loading), Some(5_100), "the shortest time of a majority");
    assert_eq!(of(&world, Impairment::Busy), None);
    // Nodes that it does not answer do not see why it cannot serve.
    world.seen.get_mut(&addr(PRIMARY)).unwrap().get_mut(&NodeId(2)).unwrap().report.failing_ms = Some(1);
    assert_eq!(of(&world, Impairment::Loading), None);
    let old = impaired(Impairment::Busy, 5_000);
    assert_eq!(of(&old, Impairment::Busy), Some(5_100));
    let alone = Watchers::new(&old.seen, [NodeId(1)].into());
    assert_eq!(majority_impaired_ms(&alone, &addr(PRIMARY), Impairment::Busy), Some(5_100));
}

#[test]
fn only_a_replica_that_was_in_step_replaces_a_primary_that_loads() {
    let mut world = impaired(Impairment::Loading, 70_000);
    world.edit_reports(7002, |report| report.in_sync.as_mut().unwrap().ago_ms = 75_000);
    world.edit_reports(7003, |report| report.in_sync.as_mut().unwrap().ago_ms = 95_000);
    assert_eq!(decision(&world), Some(Ok((addr(7002), PromotionKind::Failover))));
    let excluded = world.choice().excluded;
    assert_eq!((excluded.len(), &excluded[0].0), (1, &addr(7003)));
    assert!(excluded[0].1.contains("last in sync 24 s before the primary was last seen alive"), "{excluded:?}");
    world.edit_reports(7002, |report| report.in_sync = None);
    let why = decision(&world).unwrap().unwrap_err();
    assert!(why.contains("has been loading its data for 70 s") && why.contains("wait until it has loaded"), "{why}");
}

#[test]
fn a_replica_that_cannot_save_either_does_not_replace_a_primary_that_refuses_writes() {
    let mut world = impaired(Impairment::RefusesWrites, 50_000);
    world.edit(|g| g.options.impaired.misconf_failover_after_ms = 10_000);
    world.probe(7002, |probe| probe.saves_fail = true);
    assert_eq!(decision(&world), Some(Ok((addr(7003), PromotionKind::Switchover))));
    world.probe(7003, |probe| probe.saves_fail = true);
    let why = decision(&world).unwrap().unwrap_err();
    assert!(why.contains("has refused all writes for 50 s (MISCONF disk full)"), "{why}");
    assert!(why.contains("its last write to its disk has failed, too"), "{why}");
    // The operator reads it in the status, also where nothing is done about it.
    world.edit(|g| g.options.impaired.misconf_failover_after_ms = 0);
    assert_eq!(decision(&world), None);
    let watchers = Watchers::new(&world.seen, voters());
    let (_, _, text) = writes_refused(&world.state, &watchers).remove(0);
    assert_eq!(impaired_primaries(&world.state, &watchers)[0].text(), text);
    assert!(text.contains("writes of its 0 slots are not served") && text.contains("give its disk space"), "{text}");
    // A replica that cannot save replaces a primary that is down.
    let mut down = World::down();
    down.probe(7002, |probe| probe.saves_fail = true);
    assert_eq!(decision(&down), Some(Ok((addr(7002), PromotionKind::Failover))));
}

#[test]
fn scripts_are_ended_after_the_time_that_the_group_has_set() {
    let actions = |world: &World| {
        let fixes = scripts::decide(&world.state, &world.seen, &Watchers::new(&world.seen, voters()));
        fixes.into_iter().map(|fix| (fix.addr.port(), fix.action)).collect::<Vec<_>>()
    };
    let end = |busy_ms| (PRIMARY, ScriptAction::EndScript { busy_ms });
    assert_eq!(actions(&impaired(Impairment::Busy, 9_800)), []);
    assert_eq!(actions(&impaired(Impairment::Busy, 9_900)), [end(10_000)]);
    assert_eq!(actions(&impaired(Impairment::Loading, 99_000)), []);
    let mut later = impaired(Impairment::Busy, 9_900);
    later.edit(|g| g.options.impaired.script_kill_after_ms = 20_000);
    assert_eq!(actions(&later), []);
    later.edit(|g| g.options.impaired.script_kill_after_ms = 0);
    later.edit_reports(PRIMARY, |report| report.impaired = Some((Impairment::Busy, 999_000)));
    assert_eq!(actions(&later), []);
    let mut maintained = impaired(Impairment::Busy, 99_000);
    maintained.edit(|g| g.options.maintenance = true);
    assert_eq!(actions(&maintained), []);
}

#[test]
fn servers_answer_that_they_are_busy_well_before_they_count_as_down() {
    for (down_after_ms, busy_ms) in [(500, 166), (800, 266), (3_000, 1_000), (600_000, 1_000)] {
        assert_eq!(busy_reply_ms(down_after_ms), busy_ms);
    }
    for (is, to_ms) in [
        (None, None),
        (Some(5_000), Some(1_000)),
        (Some(1_001), Some(1_000)),
        (Some(1_000), None),
        (Some(10), None),
        (Some(0), Some(1_000)),
        (Some(-1), Some(1_000)),
    ] {
        let mut world = World::up();
        // On replicas, too: they may be promoted.
        [PRIMARY, 7002].iter().for_each(|port| world.probe(*port, |probe| probe.busy_reply_ms = is));
        let fixes = scripts::decide(&world.state, &world.seen, &Watchers::new(&world.seen, voters()));
        let found: Vec<_> = fixes.into_iter().map(|fix| (fix.addr.port(), fix.action)).collect();
        let want: Vec<_> = to_ms
            .into_iter()
            .flat_map(|to_ms| [PRIMARY, 7002].map(|port| (port, ScriptAction::ShortenBusyReply { to_ms })))
            .collect();
        assert_eq!(found, want, "{is:?}");
        world.state.settings.maintenance = true;
        assert_eq!(scripts::decide(&world.state, &world.seen, &Watchers::new(&world.seen, voters())), []);
    }
}

/// Loading primaries count for the guard like those that are down; those that refuse writes answer, and do not count.
#[test]
fn primaries_that_load_together_are_not_failed_over() {
    let mut world = impaired(Impairment::Loading, 61_000);
    for id in 2..=4 {
        let port = 7_000 + 100 * u16::try_from(id).unwrap();
        world.group(id, &[port, port + 1]);
        world.edit_reports(port, |report| impair(report, Impairment::Loading, 61_000));
    }
    let (reasons, begun) = world.decisions();
    assert!(begun.is_empty() && reasons.iter().all(|why| why.contains("4 of 4 primaries")), "{reasons:?}");
    for port in [7_200, 7_300, 7_400] {
        world.edit_reports(port, |report| {
            report.impaired = Some((Impairment::RefusesWrites, 61_000));
            report.probe.as_mut().unwrap().0.role = ReportedRole::Primary { replicas: Vec::new() };
        });
    }
    assert_eq!(world.decisions(), (vec![], vec![7002]));
}
