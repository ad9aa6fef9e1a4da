//! `plan::ejection` by tables: which group of a cache ejects its slots, to which groups, and when it gets them back.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::{
        change::{
            AssignFree, CancelMigration, Change, CreateGroup, Eject, GiveUpAssign, NewProduct, PlanMigration,
            Reinstate, StartAssign, StartPromotion,
        },
        ids::{Epoch, GroupId, HostPort, MigrationId, ProductId, SlotId},
        migration::MigrationOptions,
        outcome::Outcome,
        promotion::PromotionKind,
        route::{Isolated, Mode},
        slot::Layout,
        state::{Group, Server},
    },
    plan::{
        ejection::{EjectedHealth, decide},
        failover,
        liveness::Watchers,
        observation::{AgedReport, ReportedRole},
    },
};

use crate::{
    says,
    world::{ME, REPORT_MS, World, addr, report, voters},
};

const CACHE: ProductId = ProductId(2);
/// The primaries of groups 1 to 3; group 1 has a replica, too.
const PRIMARIES: [u16; 3] = [8001, 8003, 8005];
const SECOND_NS: u64 = 1_000_000_000;

/// A cache with three groups, of 300, 300 and 424 slots.
struct Cache {
    world: World,
    health: EjectedHealth,
}

impl Cache {
    fn new() -> Self {
        let mut cache = Self { world: World::up(), health: EjectedHealth::default() };
        cache.world.make(Change::CreateProduct(NewProduct {
            name: "cache".into(),
            port: 19_010,
            layout: Layout::Codis,
            mode: Mode::Cache,
            isolated: Isolated::Serve,
            databases: 16,
            auth: None,
        }));
        for (id, ports) in [(1, vec![8001, 8002]), (2, vec![8003]), (3, vec![8005])] {
            let servers = ports.iter().map(|port| Server::new(addr(*port), format!("run{port}"), 0)).collect();
            let group = GroupId(id);
            cache.world.make(Change::CreateGroup(CreateGroup {
                product: CACHE,
                group,
                servers,
                credentials: None,
                data_user: None,
            }));
            for port in &ports {
                let role = if *port == ports[0] {
                    ReportedRole::Primary { replicas: Vec::new() }
                } else {
                    ReportedRole::Replica { of: addr(ports[0]), link_up: true, link_down_ms: 0, syncing: false }
                };
                for node in voters() {
                    let report = report(*port, &format!("c{id}"), role.clone());
                    let seen = cache.world.seen.entry(addr(*port)).or_default();
                    seen.insert(node, AgedReport { report, age_ms: REPORT_MS });
                }
            }
        }
        for (slots, to) in [(0..300, 1), (300..600, 2), (600..1024, 3)] {
            let slots = slots.map(SlotId).collect();
            cache.world.make(Change::AssignFree(AssignFree { product: CACHE, slots, to: GroupId(to) }));
        }
        cache
    }

    /// The primary of group 1 has been down for 20 s, and no replica can replace it.
    fn down() -> Self {
        let mut cache = Self::new();
        cache.kill(1, 20_000);
        cache
    }

    fn kill(&mut self, group: usize, for_ms: u64) {
        let ports = if group == 1 { vec![8001, 8002] } else { vec![PRIMARIES[group - 1]] };
        for port in ports {
            self.world.edit_reports(port, |report| {
                report.failing_ms = Some(for_ms);
                report.error = "connection refused".into();
                report.probe.as_mut().unwrap().1 = for_ms;
            });
        }
    }

    fn revive(&mut self, group: usize) {
        self.world.edit_reports(PRIMARIES[group - 1], |report| {
            (report.failing_ms, report.error) = (None, String::new());
            report.probe.as_mut().unwrap().1 = 0;
        });
    }

    fn group(&self, id: u32) -> &Group {
        &self.world.state.products[&CACHE].groups[&GroupId(id)]
    }

    fn edit(&mut self, id: u32, edit: impl FnOnce(&mut Group)) {
        edit(self.world.state.products.get_mut(&CACHE).unwrap().groups.get_mut(&GroupId(id)).unwrap());
    }

    fn slots(&self, id: u32) -> usize {
        self.world.state.products[&CACHE].owned(GroupId(id)).len()
    }

    /// What is decided `at_s` seconds after the beginning: the changes, and the reasons.
    fn decided(&mut self, at_s: u64) -> (Vec<Change>, Vec<String>) {
        let watchers = Watchers::new(&self.world.seen, voters());
        let (state, seen, now_ns) = (&self.world.state, &self.world.seen, at_s * SECOND_NS);
        self.health.observe(state, seen, &watchers, now_ns);
        let (mut changes, mut reasons) = (Vec::new(), Vec::new());
        for decision in decide(state, seen, &watchers, &self.health, (ME, now_ns)) {
            match decision.action {
                Ok(all) => changes.extend(all),
                Err(wait) => reasons.push(wait.text()),
            }
        }
        (changes, reasons)
    }

    fn carry_out(&mut self, at_s: u64) {
        let (changes, reasons) = self.decided(at_s);
        assert!(!changes.is_empty(), "{reasons:?}");
        for change in changes {
            self.world.make(change);
        }
    }
}

fn shares(change: &Change) -> BTreeMap<u32, usize> {
    let Change::Eject(Eject { to, .. }) = change else { panic!("{change:?}") };
    to.iter().map(|(id, slots)| (id.0, slots.len())).collect()
}

#[test]
fn a_group_that_is_down_ejects_its_slots_evenly_and_the_reason_is_in_the_log() {
    let mut cache = Cache::down();
    let (changes, reasons) = cache.decided(0);
    assert!(reasons.is_empty() && changes.len() == 1, "{changes:?} {reasons:?}");
    assert_eq!(shares(&changes[0]), [(2, 150), (3, 150)].into());
    let Change::Eject(Eject { why, to, .. }) = &changes[0] else { panic!() };
    for part in [
        "127.0.0.1:8001 is down: it does not answer node 1 for 20.1 s",
        "connection refused",
        "127.0.0.1:8002 is no candidate",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(to[&GroupId(2)], (0..150).map(SlotId).collect(), "neighbours stay together");
    cache.carry_out(0);
    assert_eq!([1, 2, 3].map(|id| cache.slots(id)), [0, 450, 574]);
    let (changes, reasons) = cache.decided(1);
    assert!(
        changes.is_empty() && reasons[0].contains("300 of its slot(s) have a temporary owner"),
        "{changes:?} {reasons:?}"
    );
}

#[test]
fn a_group_that_does_not_eject_its_slots_has_a_reason() {
    type Edit = fn(&mut Cache);
    // What is waited for, and what ends it.
    let table: &[(&str, &str, Edit)] = &[
        ("", "", |c| c.kill(1, 9_000)),
        ("", "", |c| c.edit(1, |g| g.options.eject_after_ms = 0)),
        ("", "", |c| c.edit(1, |g| g.options.maintenance = true)),
        ("", "", |c| c.world.state.settings.maintenance = true),
        // A replica that can replace the primary is promoted; a promotion that is open continues.
        ("", "", |c| {
            c.world.edit_reports(8002, |report| {
                (report.failing_ms, report.error) = (None, String::new());
                report.probe.as_mut().unwrap().1 = 0;
            });
            c.edit(1, |g| g.replid = "c1".into());
        }),
        ("", "", |c| {
            let (group_epoch, required_offset) = (c.group(1).epoch, None);
            c.world.make(Change::StartPromotion(StartPromotion {
                product: CACHE,
                group: GroupId(1),
                to: addr(8002),
                kind: PromotionKind::Failover,
                group_epoch,
                required_offset,
                forced: false,
                why: "a test".into(),
            }));
        }),
        // The guard: all primaries of the cache and the one of the store.
        ("", "", |c| {
            (2..=3).for_each(|group| c.kill(group, 20_000));
            c.world.fail(7001, 20_000);
        }),
        ("no other group is up", "one is (pontoon group ls --product cache), or 127.0.0.1:8001 answers again", |c| {
            c.kill(2, 1_000);
            c.edit(3, |g| g.options.maintenance = true);
        }),
        ("no group may get slot 7 before it has deleted", "a sweep has, which begins by itself", |c| {
            (2..=3).for_each(|group| c.edit(group, |g| g.given_away = [SlotId(7)].into()));
        }),
        ("waits for assignment", "that is over (pontoon slot ls --product cache)", |c| {
            let slots = BTreeSet::from([SlotId(5)]);
            c.world.make(Change::StartAssign(StartAssign {
                product: CACHE,
                slots,
                to: Some(GroupId(2)),
                abandon: true,
            }));
        }),
    ];
    for (n, (why, end, edit)) in table.iter().enumerate() {
        let mut cache = Cache::down();
        edit(&mut cache);
        let (changes, reasons) = cache.decided(0);
        assert!(changes.is_empty(), "case {n}, {why}: {changes:?}");
        let as_expected = if why.is_empty() { reasons.is_empty() } else { reasons.iter().any(|s| says(s, why, end)) };
        assert!(as_expected, "case {n}, wanted '{why}': {reasons:?}");
    }
    // A group of a store never ejects its slots, however long its primary is down.
    let mut store = World::down();
    store.fail(7001, 600_000);
    let watchers = Watchers::new(&store.seen, voters());
    assert!(decide(&store.state, &store.seen, &watchers, &EjectedHealth::default(), (ME, 0)).is_empty());
}

#[test]
fn a_slot_goes_to_a_group_that_has_no_leftovers_of_it() {
    let mut cache = Cache::down();
    cache.edit(2, |g| g.given_away = (0..100).map(SlotId).collect());
    cache.edit(3, |g| g.given_away = (100..120).map(SlotId).collect());
    let (changes, _) = cache.decided(0);
    let Change::Eject(Eject { to, .. }) = &changes[0] else { panic!("{changes:?}") };
    assert!(to[&GroupId(2)].is_disjoint(&cache.group(2).given_away));
    assert!(to[&GroupId(3)].is_disjoint(&cache.group(3).given_away));
    assert_eq!(shares(&changes[0]), [(2, 150), (3, 150)].into());
    // A group without slots does not become a temporary owner: it is new, or drained.
    let owned: Vec<SlotId> = cache.world.state.products[&CACHE].owned(GroupId(3)).into_iter().collect();
    let slots = owned.into_iter().collect();
    cache.world.make(Change::StartAssign(StartAssign { product: CACHE, slots, to: Some(GroupId(2)), abandon: true }));
    cache.world.state.assignments.clear();
    let product = cache.world.state.products.get_mut(&CACHE).unwrap();
    product.slots.iter_mut().filter(|s| s.owner == Some(GroupId(3))).for_each(|s| s.owner = Some(GroupId(2)));
    cache.edit(2, |g| g.given_away.clear());
    assert_eq!(shares(&cache.decided(0).0[0]), [(2, 300)].into());
}

#[test]
fn migrations_of_the_group_end_before_its_slots_are_ejected() {
    let mut cache = Cache::down();
    let slots = [SlotId(3)].into();
    let (from, to, options) = (GroupId(1), GroupId(2), MigrationOptions::default());
    let Outcome::Migration(id) =
        cache.world.make(Change::PlanMigration(PlanMigration { product: CACHE, slots, from, to, options }))
    else {
        panic!()
    };
    let (changes, _) = cache.decided(0);
    let [Change::CancelMigration(CancelMigration { migration, why })] = &changes[..] else { panic!("{changes:?}") };
    assert!(*migration == id && why.contains("group 1 ejects its slots"), "{why}");
    cache.carry_out(0);
    assert!(!cache.world.state.migrations.contains_key(&MigrationId(id.0)), "nothing was staged, so it has ended");
    cache.carry_out(0);
    assert_eq!(cache.slots(1), 0);
}

#[test]
fn an_ejected_group_is_reinstated_when_its_primary_has_been_up_for_eject_after() {
    let mut cache = Cache::down();
    cache.carry_out(0);
    cache.revive(1);
    let wait = |cache: &mut Cache, at_s, part: &str| {
        let (changes, reasons) = cache.decided(at_s);
        assert!(changes.is_empty() && reasons.iter().any(|s| s.contains(part)), "{at_s} s: {changes:?} {reasons:?}");
    };
    wait(&mut cache, 100, "it is up again; ends when it has been up for 10000 ms");
    wait(&mut cache, 109, "up again");
    // Another process, a break, another role and loading restart the wait.
    cache.world.probe(8001, |probe| probe.run_id = "other".into());
    wait(&mut cache, 110, "up again");
    cache.world.probe(8001, |probe| probe.loading = true);
    wait(&mut cache, 115, "ends when it has answered every node, as a primary that is ready, for 10000 ms");
    wait(&mut cache, 115, "start it again; or remove the group, which leaves them with their temporary owners");
    cache.world.probe(8001, |probe| probe.loading = false);
    wait(&mut cache, 116, "up again");
    cache.world.probe(8001, |probe| {
        probe.role = ReportedRole::Replica { of: addr(8002), link_up: true, link_down_ms: 0, syncing: false }
    });
    wait(&mut cache, 119, "start it again");
    cache.world.probe(8001, |probe| probe.role = ReportedRole::Primary { replicas: Vec::new() });
    wait(&mut cache, 120, "up again");
    cache.edit(1, |g| g.options.maintenance = true);
    wait(&mut cache, 131, "maintenance is on");
    cache.edit(1, |g| g.options.maintenance = false);
    let (changes, _) = cache.decided(131);
    let ejection = cache.group(1).ejection.clone().unwrap().id;
    let group_epoch = cache.group(1).epoch;
    assert_eq!(changes, [Change::Reinstate(Reinstate { product: CACHE, group: GroupId(1), ejection, group_epoch })]);
    cache.carry_out(131);
    assert!(cache.world.state.assignments.values().any(|a| a.to == Some(GroupId(1)) && a.slots.len() == 300));
    assert_eq!(cache.decided(132), (Vec::new(), Vec::new()), "the reinstatement is in progress");
    // A failed reinstatement is tried again after the whole wait.
    let again = Change::GiveUpAssign(GiveUpAssign {
        assignment: *cache.world.state.assignments.keys().next().unwrap(),
        why: "x".into(),
    });
    cache.world.make(again);
    cache.health.restart_wait(CACHE, GroupId(1));
    wait(&mut cache, 133, "up again");
    assert_eq!(cache.decided(143).0.len(), 1);
}

#[test]
fn ejected_groups_do_not_count_for_the_guard() {
    let mut cache = Cache::down();
    cache.carry_out(0);
    let watchers = Watchers::new(&cache.world.seen, voters());
    let (down, guard) =
        failover::groups_down(&cache.world.state, &cache.world.seen, &watchers, &failover::FollowingPrimaries::new());
    assert_eq!((down.len(), guard.failing_ms.len()), (1, 0));
    // Two more fail, of the two groups that are left and the store's group; three would be too many.
    cache.kill(2, 20_000);
    cache.world.fail(7001, 20_000);
    cache.carry_out(1);
    assert_eq!([1, 2, 3].map(|id| cache.slots(id)), [0, 0, 1024], "slots that it owned temporarily are passed on");
    let ejected = |id| cache.group(id).ejection.as_ref().unwrap().slots.len();
    assert_eq!([ejected(1), ejected(2)], [300, 300], "each group gets back its own slots");
    let failing: Vec<HostPort> = failover::groups_down(
        &cache.world.state,
        &cache.world.seen,
        &Watchers::new(&cache.world.seen, voters()),
        &failover::FollowingPrimaries::new(),
    )
    .0
    .into_iter()
    .map(|down| down.primary)
    .collect();
    assert_eq!(failing, [addr(7001), addr(8001), addr(8003)]);
    assert!(cache.group(1).epoch > Epoch(0));
}
