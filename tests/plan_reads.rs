//! `plan::reads` by tables, and by random histories of a primary and its replica: which replicas may serve reads, until
//! when, and why others may not. Knows nothing of servers: the tests make up the probes.
#![allow(clippy::unwrap_used)]

use pontoon::{
    model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, NewMember, PlanMigration, SetProduct, StartPromotion},
        ids::{Epoch, GroupId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        limits::MAX_LAG_MS,
        migration::MigrationOptions,
        promotion::{PromotionKind, ReplicationOffset},
        reads::{GroupReads, ReadFrom, SetReads},
        state::{ClusterState, Entry, Group, Position, Server},
    },
    plan::{
        observation::{Probe, ReportedRole},
        reads::{FRESH_MS, PRECISION_MS, ProbeHistory, readable},
    },
};
use proptest::prelude::*;

const PRODUCT: ProductId = ProductId(1);
const GROUP: GroupId = GroupId(1);
const MS: u64 = 1_000_000;
const PRIMARY: u16 = 7001;
const REPLICA: u16 = 7002;

fn addr(port: u16) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()
}

struct World {
    state: ClusterState,
    probe_history: ProbeHistory,
    zone: &'static str,
}

impl World {
    /// A group with a primary and two replicas, the first of which was seen in sync: the primary at offset 100 in a
    /// probe from 1000 to 1002 ms, the replica in one from 1010 to 1012 ms.
    fn new() -> Self {
        let mut world = Self { state: ClusterState::default(), probe_history: ProbeHistory::default(), zone: "" };
        let member = NewMember {
            id: NodeId(1),
            uuid: Uuid(1),
            admin: addr(19_101),
            advertise: "127.0.0.1".into(),
            port_offset: 1,
        };
        world.make(Change::Bootstrap(Bootstrap { members: vec![member], port: 19_000 }));
        for (group, first) in [(1, PRIMARY), (2, 7101)] {
            let servers = (first..first + 3).map(|port| Server::new(addr(port), format!("run{port}"), 0)).collect();
            let group = GroupId(group);
            world.make(Change::CreateGroup(CreateGroup {
                product: PRODUCT,
                group,
                servers,
                credentials: None,
                data_user: None,
            }));
        }
        let slots = (0..10).map(SlotId).collect();
        world.make(Change::AssignFree(AssignFree { product: PRODUCT, slots, to: GROUP }));
        world.set(SetReads { from: Some(ReadFrom::PreferReplica), ..SetReads::default() });
        world.probe(PRIMARY, 1000, &primary(100), 5);
        world.probe(REPLICA, 1010, &replica(100), 6);
        world
    }

    fn make(&mut self, change: Change) {
        let index = self.state.applied.0 + 1;
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: index, author: Default::default(), change };
        let at = Position { index: Epoch(index), term: Term(1) };
        apply(&mut self.state, &entry, at).unwrap();
    }

    fn set(&mut self, reads: SetReads) {
        let (port, databases, auth, auto_rebalance) = (None, None, None, None);
        let (product, min_acks, min_acks_ms) = (PRODUCT, None, None);
        self.make(Change::SetProduct(SetProduct {
            product,
            port,
            databases,
            auth,
            auto_rebalance,
            min_acks,
            min_acks_ms,
            reads,
            clients_max: None,
            rules: Default::default(),
        }));
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Group)) {
        edit(self.state.products.get_mut(&PRODUCT).unwrap().groups.get_mut(&GROUP).unwrap());
    }

    /// A probe that takes 2 ms.
    fn probe(&mut self, port: u16, at_ms: u64, probe: &Probe, as_of: u64) {
        let probe = Probe { run_id: format!("run{port}"), ..probe.clone() };
        self.probe_history.note(&addr(port), Some(&probe), at_ms * MS, (at_ms + 2) * MS, Epoch(as_of));
    }

    fn reads(&self, now_ms: u64) -> GroupReads {
        readable(&self.state, &self.probe_history, now_ms * MS, self.zone).products[&PRODUCT].groups[&GROUP].clone()
    }

    #[track_caller]
    fn none(&self, now_ms: u64, why: &str) {
        let reads = self.reads(now_ms);
        assert!(reads.replicas.is_empty(), "{reads:?}");
        assert!(reads.none.contains(why), "{}", reads.none);
    }

    #[track_caller]
    fn until_ms(&self, now_ms: u64) -> u64 {
        let reads = self.reads(now_ms);
        assert_eq!(reads.replicas.len(), 1, "{reads:?}");
        assert_eq!(reads.replicas[0].addr, addr(REPLICA));
        reads.replicas[0].until_ns / MS
    }
}

fn primary(offset: u64) -> Probe {
    probe(ReportedRole::Primary { replicas: Vec::new() }, offset)
}

fn replica(offset: u64) -> Probe {
    probe(ReportedRole::Replica { of: addr(PRIMARY), link_up: true, link_down_ms: 0, syncing: false }, offset)
}

fn probe(role: ReportedRole, offset: u64) -> Probe {
    Probe {
        run_id: String::new(),
        role,
        replid: "id1".into(),
        offset,
        replid2: None,
        loading: false,
        used_memory: 0,
        keys: 0,
        ops_per_second: 0,
        ping_us: 100,
        persistent: None,
        unnamed_replicas: 0,
        write_error: String::new(),
        busy_reply_ms: None,
        saves_fail: false,
    }
}

#[test]
fn a_replica_in_sync_has_what_its_primary_had_when_the_probe_of_it_began() {
    let world = World::new();
    let reads = world.reads(1020);
    let [replica] = &reads.replicas[..] else { panic!("{reads:?}") };
    assert_eq!((replica.addr.clone(), &*replica.run_id), (addr(REPLICA), "run7002"));
    assert_eq!((replica.has_ns, replica.as_of), (1000 * MS, Epoch(5)), "of the probe at the primary, not of its own");
    assert_eq!(replica.until_ns, (1012 + FRESH_MS) * MS);
    // The other replica was never probed.
    assert!(reads.none.is_empty());
}

#[test]
fn evidence_is_renewed_and_runs_out() {
    let mut world = World::new();
    // Nothing is written: the next probe of the primary alone proves that the replica has everything until then.
    world.probe(PRIMARY, 1500, &primary(100), 7);
    assert_eq!(world.reads(1510).replicas[0].has_ns, 1500 * MS);
    assert_eq!(world.until_ms(1510), 1012 + FRESH_MS, "and the probe of the replica counts only this long");
    // Something is written: until a probe shows that the replica has it, the evidence stays as it was.
    world.probe(PRIMARY, 2000, &primary(150), 8);
    world.probe(REPLICA, 2010, &replica(149), 8);
    assert_eq!((world.reads(2020).replicas[0].has_ns, world.reads(2020).replicas[0].as_of), (1500 * MS, Epoch(7)));
    world.probe(REPLICA, 2020, &replica(150), 8);
    assert_eq!((world.reads(2030).replicas[0].has_ns, world.reads(2030).replicas[0].as_of), (2000 * MS, Epoch(8)));
    // The primary is not probed any more.
    for at in [2500, 3000, 3500, 4000] {
        world.probe(REPLICA, at, &replica(150), 8);
    }
    assert_eq!(world.until_ms(3990), 2000 + 1000 + PRECISION_MS);
    world.none(4003, "more than 1000 ms behind");
}

#[test]
fn a_replica_that_is_provably_further_behind_serves_nothing() {
    let mut world = World::new();
    world.set(SetReads { max_lag_ms: Some(200), ..SetReads::default() });
    world.probe(PRIMARY, 1500, &primary(200), 5);
    world.probe(REPLICA, 1650, &replica(100), 5);
    assert_eq!(world.until_ms(1660), 1000 + 200 + PRECISION_MS, "148 ms may be all that it is behind");
    world.probe(REPLICA, 1703, &replica(100), 5);
    world.none(1710, "more than 200 ms behind");
    world.set(SetReads { max_lag_ms: Some(0), ..SetReads::default() });
    assert_eq!(world.until_ms(1710), 1705 + FRESH_MS, "0: no limit");
}

#[test]
fn a_replica_that_may_not_serve_has_a_reason() {
    let follows = |edit: &dyn Fn(&mut Probe)| {
        let mut world = World::new();
        let mut probe = replica(100);
        edit(&mut probe);
        world.probe(REPLICA, 1015, &probe, 6);
        world
    };
    let role = |of: u16, link_up, syncing| ReportedRole::Replica { of: addr(of), link_up, link_down_ms: 0, syncing };
    follows(&|l| l.role = ReportedRole::Primary { replicas: Vec::new() }).none(1020, "is a primary");
    follows(&|l| l.role = role(7009, true, false)).none(1020, "follows 127.0.0.1:7009, not the primary");
    follows(&|l| l.role = role(PRIMARY, false, false)).none(1020, "has lost its primary");
    follows(&|l| l.role = role(PRIMARY, false, true)).none(1020, "is loading");
    follows(&|l| l.loading = true).none(1020, "is loading");
    follows(&|l| l.replid = "id2".into()).none(1020, "another history");
    follows(&|l| l.offset = 99).none(1020, "further behind than this node remembers");
    World::new().none(1012 + FRESH_MS + 1, "127.0.0.1:7002 does not answer this node");
    World::new().none(1020 + FRESH_MS, "127.0.0.1:7003 does not answer this node");

    let mut world = World::new();
    world.probe_history.note(&addr(REPLICA), None, 1020 * MS, 1520 * MS, Epoch(6));
    world.none(1521, "does not answer this node");

    // The primary's process or history has changed: earlier probes of it do not count.
    let mut world = World::new();
    world.probe(PRIMARY, 1020, &Probe { replid: "id2".into(), ..primary(10) }, 6);
    world.none(1030, "another history");
    let mut world = World::new();
    world.probe(PRIMARY, 1020, &primary(90), 6);
    assert_eq!(world.reads(1030).replicas[0].has_ns, 1020 * MS, "an offset that went back restarts the history");
    let mut world = World::new();
    world.probe(PRIMARY, 1020, &Probe { role: role(REPLICA, true, false), ..primary(100) }, 6);
    world.none(1030, "has not answered this node as a primary");

    let mut world = World::new();
    world.edit(|g| g.servers.truncate(1));
    world.none(1020, "no replica");
    let mut world = World::new();
    world.set(SetReads { from: Some(ReadFrom::Primary), ..SetReads::default() });
    assert!(readable(&world.state, &world.probe_history, 1020 * MS, "").products.is_empty());
}

#[test]
fn no_reads_during_a_promotion_nor_before_the_replica_has_slots_that_moved() {
    let mut world = World::new();
    world.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id1".into(), offset: 101 }));
    world.none(1020, "lacks slots that have moved");
    world.probe(REPLICA, 1030, &replica(101), 6);
    world.until_ms(1040);
    // A required offset under another replication id does not apply to these offsets; `as_of` excludes such slots.
    world.edit(|g| g.required_offset = Some(ReplicationOffset { replid: "id0".into(), offset: 1_000_000 }));
    world.until_ms(1040);

    let mut world = World::new();
    let group_epoch = world.state.products[&PRODUCT].groups[&GROUP].epoch;
    world.make(Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group: GROUP,
        to: addr(REPLICA),
        kind: PromotionKind::Switchover,
        group_epoch,
        required_offset: None,
        forced: false,
        why: "wanted".into(),
    }));
    world.none(1020, "is being promoted");
}

#[test]
fn slots_that_move_are_named() {
    let mut world = World::new();
    let slots = [3, 5].map(SlotId).into();
    let options = MigrationOptions::default();
    world.make(Change::PlanMigration(PlanMigration { product: PRODUCT, slots, from: GROUP, to: GroupId(2), options }));
    let table = readable(&world.state, &world.probe_history, 1020 * MS, "");
    let reads = &table.products[&PRODUCT];
    assert_eq!(reads.moving, [SlotId(3), SlotId(5)]);
    assert!(reads.is_moving(SlotId(5)) && !reads.is_moving(SlotId(4)));
}

#[test]
fn the_nearest_replica_serves_if_it_is_nearer_than_the_primary() {
    let with = |zone, zones: [&str; 2], pings: [u64; 2]| {
        let mut world = World::new();
        world.zone = zone;
        world.set(SetReads { from: Some(ReadFrom::Nearest), ..SetReads::default() });
        world.edit(|g| g.servers.iter_mut().zip(zones).for_each(|(server, zone)| server.zone = zone.into()));
        for at in 0..60 {
            world.probe(PRIMARY, 1020 + at, &Probe { ping_us: pings[0], ..primary(100) }, 6);
            world.probe(REPLICA, 1020 + at, &Probe { ping_us: pings[1], ..replica(100) }, 6);
        }
        let reads = world.reads(1090);
        match &reads.replicas[..] {
            [] => PRIMARY,
            [replica] => replica.addr.port(),
            more => panic!("one is the nearest: {more:?}"),
        }
    };
    assert_eq!(with("a", ["b", "a"], [100, 900]), REPLICA, "the zone comes first");
    assert_eq!(with("a", ["a", "b"], [900, 100]), PRIMARY);
    assert_eq!(with("a", ["b", "c"], [900, 100]), REPLICA, "nobody is in the zone: the fastest");
    assert_eq!(with("a", ["a", "a"], [100, 900]), PRIMARY);
    assert_eq!(with("", ["", ""], [900, 100]), REPLICA, "an empty zone is no zone");
    assert_eq!(with("", ["", ""], [100, 100]), PRIMARY, "equally near: the primary");
    // A single slow answer changes nothing.
    let mut world = World::new();
    world.set(SetReads { from: Some(ReadFrom::Nearest), ..SetReads::default() });
    for at in 0..60 {
        world.probe(PRIMARY, 1020 + at, &Probe { ping_us: 200, ..primary(100) }, 6);
    }
    world.probe(PRIMARY, 1090, &Probe { ping_us: 250, ..primary(100) }, 6);
    world.probe(REPLICA, 1090, &Probe { ping_us: 900, ..replica(100) }, 6);
    assert_eq!(world.reads(1100).replicas.len(), 1, "smoothed, the replica is at 200, the primary at 206");
}

/// The offset of a primary at a moment: it writes at these moments, one byte each.
fn offset_at(writes: &[u64], at_ms: u64) -> u64 {
    writes.iter().filter(|ms| **ms <= at_ms).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A primary writes, its replica has each write some time later, and both are probed at random times. What a
    /// replica may serve is true at every moment: it has everything that the primary had at `has_ns`, and everything
    /// that it had `max-lag` and the precision ago.
    #[test]
    fn an_allowed_replica_has_what_is_claimed(
        steps in prop::collection::vec(0u64..400, 1..60),
        lags in prop::collection::vec(0u64..3000, 1..60),
        probes in prop::collection::vec((any::<bool>(), 1u64..300), 10..120),
        max_lag in prop::sample::select(vec![100u32, 500, 1000, 5000]),
    ) {
        let mut writes = Vec::new();
        let mut at = 1000;
        for step in &steps {
            at += step;
            writes.push(at);
        }
        // In order: a write arrives no earlier than the one before it.
        let mut arrived = Vec::new();
        for (i, write) in writes.iter().enumerate() {
            let before = arrived.last().copied().unwrap_or(0);
            arrived.push((write + lags[i % lags.len()]).max(before));
        }
        let mut world = World::new();
        world.probe_history = ProbeHistory::default();
        world.set(SetReads { max_lag_ms: Some(max_lag), ..SetReads::default() });
        let mut now = 1000;
        let mut allowed = 0;
        for (primary_is_looked_at, pause) in &probes {
            now += pause;
            // The offset is read in the middle of the probe.
            let (port, probe) = match primary_is_looked_at {
                true => (PRIMARY, primary(offset_at(&writes, now + 1))),
                false => (REPLICA, replica(offset_at(&arrived, now + 1))),
            };
            world.probe(port, now, &probe, now);
            now += 2;
            for moment in [now, now + 700, now + 1400] {
                // Published now, and used at this moment.
                for replica in world.reads(now).replicas.iter().filter(|r| moment * MS < r.until_ns) {
                    allowed += 1;
                    let there = offset_at(&arrived, moment);
                    prop_assert!(there >= offset_at(&writes, replica.has_ns / MS), "own writes");
                    prop_assert_eq!(replica.as_of.0, replica.has_ns / MS);
                    let bound = moment - (u64::from(max_lag) + PRECISION_MS).min(moment);
                    prop_assert!(there >= offset_at(&writes, bound), "staler than allowed");
                }
            }
        }
        let both = probes.iter().any(|(is, _)| *is) && probes.iter().any(|(is, _)| !*is);
        prop_assert!(allowed > 0 || !both || lags.iter().any(|lag| *lag > 50) || probes.len() < 30, "it must allow something");
    }
}

#[test]
fn the_largest_lag_is_remembered() {
    let mut world = World::new();
    world.set(SetReads { max_lag_ms: Some(*MAX_LAG_MS.end()), ..SetReads::default() });
    for i in 0..130 {
        world.probe(PRIMARY, 1500 + i * 450, &primary(200 + i), 6);
    }
    let now = 1500 + 129 * 450;
    world.probe(REPLICA, now, &replica(100), 6);
    assert_eq!(world.reads(now + 3).replicas[0].has_ns, 1000 * MS);
}
