//! The durable format stands still: bytes written once are read, and written again, as they were.
//! When a kind is added, add a value, run once with PONTOON_GOLDEN_WRITE=1 and keep the new file; never rewrite an old one.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use pontoon::{
    model::{
        apply::apply,
        change::{Change, NewMember, NewProduct},
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
        migration::{Counters, Job, Limits, MigrationOptions, ProgressPhase, Verified, Verify},
        reads::{ReadFrom, ReadPolicy, SetReads},
        route::{HoldKind, Isolated, Mode},
        secret::{Credentials, Secret},
        slot::Layout,
        state::{Cause, ClusterState, Entry, Position, Role, Server},
    },
    wire::{
        convert::DecodeError,
        entry::{decode_entry, encode_entry},
        pb::state as pb,
        snapshot::{decode_state, encode_state},
    },
};
use prost::Message;

fn member(id: u64) -> NewMember {
    let admin = HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap();
    NewMember {
        id: NodeId(id),
        uuid: Uuid(7 << 64 | u128::from(id)),
        admin,
        advertise: format!("n{id}"),
        port_offset: 0,
    }
}

fn server(n: u16) -> Server {
    let addr = HostPort::parse(&format!("10.0.1.{n}:6379")).unwrap();
    Server::new(addr, format!("{n:040x}"), 3)
}

fn auth() -> Option<Credentials> {
    Some(Credentials { username: Some("app".into()), password: Secret::new("secret".into()) })
}

/// One of each kind; together a log whose last state has one of everything too.
fn changes() -> Vec<(&'static str, Change)> {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect();
    let group = |group: u32, n: u16| Change::CreateGroup {
        product,
        group: GroupId(group),
        servers: vec![server(n), server(n + 1)],
        credentials: auth(),
    };
    let start = Change::StartAssign { product, slots: slots(10, 20), to: GroupId(2), abandon: false };
    let hold = |attempt: u32| Change::Hold {
        cause: Cause::Assignment(AssignmentId(10)),
        attempt,
        kind: HoldKind::Wait,
        reason: "why".into(),
    };
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("add_member", Change::AddMember(member(4))),
        ("admit", Change::Admit { member: member(1), start: Uuid(99) }),
        ("set_role", Change::SetRole { node: NodeId(2), role: Role::Learner }),
        ("begin_remove", Change::BeginRemove { node: NodeId(4), assume_dead: true }),
        ("create_group", group(1, 1)),
        ("create_group_2", group(2, 11)),
        ("add_server", Change::AddServer { product, group: GroupId(1), server: server(3) }),
        ("assign_free", Change::AssignFree { product, slots: slots(0, 511), to: GroupId(1) }),
        ("start_assign", start),
        ("hold", hold(1)),
        ("release", Change::Release { hold: HoldId(11), why: "budget spent".into() }),
        ("hold_2", hold(2)),
        (
            "finish_assign",
            Change::FinishAssign {
                assignment: AssignmentId(10),
                hold: HoldId(13),
                term: Term(1),
                group_epochs: BTreeMap::from([(GroupId(1), Epoch(6)), (GroupId(2), Epoch(7))]),
            },
        ),
        ("give_up_assign", Change::GiveUpAssign { assignment: AssignmentId(10), why: "ended".into() }),
        (
            "create_product",
            Change::CreateProduct(NewProduct {
                name: "cache".into(),
                port: 20000,
                layout: Layout::Redis,
                mode: Mode::Cache,
                isolated: Isolated::Serve,
                databases: 4,
                auth: auth(),
            }),
        ),
        (
            "set_product",
            Change::SetProduct {
                product,
                port: Some(19005),
                databases: Some(8),
                auth: Some(None),
                auto_rebalance: None,
                reads: SetReads::default(),
            },
        ),
        ("remove_product", Change::RemoveProduct { product: ProductId(5) }),
        ("remove_server", Change::RemoveServer { product, group: GroupId(1), addr: server(3).addr }),
        ("remove_group", Change::RemoveGroup { product, group: GroupId(1) }),
        (
            "set_cluster",
            Change::SetCluster { voters: Some(3), hold_ms_max: Some(400), maintenance: None, failover_share_max: None },
        ),
        ("start_assign_2", Change::StartAssign { product, slots: slots(100, 100), to: GroupId(2), abandon: false }),
        ("finish_remove", Change::FinishRemove { node: NodeId(4), uuid: member(4).uuid, term: Term(2) }),
        ("recover", Change::Recover { keep: NodeId(9) }),
    ]
}

/// The same for migrations, which came later (level 2): a log of its own, so that the first one's state stays as it was.
fn migrations() -> Vec<(&'static str, Change)> {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect::<BTreeSet<_>>();
    let group = |group: u32, n: u16| Change::CreateGroup {
        product,
        group: GroupId(group),
        servers: vec![server(n), server(n + 1)],
        credentials: None,
    };
    let epochs = BTreeMap::from([(GroupId(1), Epoch(2)), (GroupId(2), Epoch(3))]);
    let (first, term, why) = (MigrationId(5), Term(1), || "why".to_owned());
    let limits = Limits { keys_per_second: 1, bytes_per_second: 2, hold_ms_max: 300 };
    let options = MigrationOptions { verify: Verify::Full, wipe: true, limits };
    let plan = |from: u16, to: u16| Change::PlanMigration {
        product,
        slots: slots(from, to),
        from: GroupId(1),
        to: GroupId(2),
        options,
    };
    let start = |migration: MigrationId, attempt: u32| Change::StartMigration {
        migration,
        attempt,
        worker: NodeId(2),
        feed: server(2).addr,
        target: server(11).addr,
        group_epochs: epochs.clone(),
        term,
    };
    let counters = Counters { scanned: 1, keys: 2, bytes: 3, refetched: 4, deleted: 5, dirty: 6 };
    let verified = Some(Verified { keys: 7, different: 0 });
    let progress =
        |phase, verified| Change::MigrationProgress { migration: first, attempt: 1, phase, counters, verified };
    let cause = Cause::Migration(first);
    let sweep = Job::Sweep { product, group: GroupId(1) };
    let run = |job, run, server: u16| Change::StartRun {
        job,
        run,
        worker: NodeId(3),
        server: self::server(server).addr,
        term,
    };
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("m_create_group", group(1, 1)),
        ("m_create_group_2", group(2, 11)),
        ("m_assign_free", Change::AssignFree { product, slots: slots(0, 511), to: GroupId(1) }),
        ("plan_migration", plan(0, 9)),
        ("start_migration", start(first, 1)),
        ("migration_progress", progress(ProgressPhase::Copying, None)),
        ("migration_progress_2", progress(ProgressPhase::CaughtUp, verified)),
        ("hold_migration", Change::Hold { cause, attempt: 1, kind: HoldKind::Wait, reason: why() }),
        (
            "switch",
            Change::Switch {
                migration: first,
                attempt: 1,
                hold: HoldId(9),
                term,
                group_epochs: epochs.clone(),
                target_at: None,
            },
        ),
        ("start_run", run(Job::Migration(first), 2, 1)),
        ("cleaned", Change::Cleaned { job: Job::Migration(first), run: 2, term, deleted: 8 }),
        ("start_run_sweep", run(sweep, 1, 1)),
        ("end_sweep", Change::EndSweep { product, group: GroupId(1), run: 1, term, why: why() }),
        ("start_run_sweep_2", run(sweep, 2, 1)),
        ("m_plan", plan(10, 19)),
        ("m_start", start(MigrationId(16), 1)),
        ("restart_migration", Change::RestartMigration { migration: MigrationId(16), why: why() }),
        ("pause_migration", Change::PauseMigration { migration: MigrationId(16), why: why() }),
        ("resume_migration", Change::ResumeMigration { migration: MigrationId(16) }),
        (
            "set_migration",
            Change::SetMigration {
                migration: MigrationId(16),
                keys_per_second: Some(10),
                bytes_per_second: Some(20),
                hold_ms_max: None,
            },
        ),
        ("cancel_migration", Change::CancelMigration { migration: MigrationId(16), why: why() }),
        ("m_plan_2", plan(20, 29)),
        ("m_start_2", start(MigrationId(23), 1)),
        (
            "set_product_2",
            Change::SetProduct {
                product,
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: Some(true),
                reads: SetReads::default(),
            },
        ),
        ("start_assign_3", Change::StartAssign { product, slots: slots(400, 401), to: GroupId(2), abandon: true }),
        ("m_plan_3", plan(30, 39)),
    ]
}

fn numbered(changes: Vec<(&'static str, Change)>) -> Vec<(&'static str, Entry)> {
    let number = |(i, (name, change))| (name, Entry { id: Uuid(i), at_ms: 1_700_000_000_000, change });
    (1u128..).zip(changes).map(number).collect()
}

fn last_state(entries: &[(&str, Entry)]) -> ClusterState {
    let mut state = ClusterState::default();
    for (index, (_, entry)) in (1u64..).zip(entries) {
        let _ = apply(&mut state, entry, Position { index: Epoch(index), term: Term(1) });
    }
    state
}

/// The bytes kept under this name; written first where that is asked for and none are there.
fn kept(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() && !path.exists() {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn entries_are_read_and_written_as_they_were() {
    for (name, entry) in numbered(changes()).into_iter().chain(numbered(migrations())) {
        let bytes = encode_entry(&entry);
        let kept = kept(name, &bytes);
        assert_eq!(decode_entry(&kept).unwrap(), entry, "{name}");
        assert_eq!(bytes, kept, "{name}");
    }
}

#[test]
fn a_state_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(changes()));
    // The log above reaches what a state can have.
    assert!(state.ended_assignments.iter().any(|e| e.failed.is_none()));
    assert!(!state.assignments.is_empty() && state.products.len() == 2);
    let bytes = encode_state(&state);
    let kept = kept("state", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

#[test]
fn a_state_with_migrations_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(migrations()));
    // Every entry was accepted, and of everything that came with migrations there is one.
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    assert!(state.migrations.values().any(|m| m.run.is_some() && m.run.as_ref().is_some_and(|r| r.feed.is_some())));
    assert!(state.products[&ProductId(1)].groups[&GroupId(1)].sweep.is_some());
    assert!(!state.ended_migrations.is_empty() && state.assignments.values().all(|a| a.abandon));
    let bytes = encode_state(&state);
    let kept = kept("state_migrations", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

/// An older program reads what it knows, and stops at what it does not.
#[test]
fn only_what_needs_it_says_level_two() {
    let level = |bytes: &[u8]| pb::Entry::decode(bytes).unwrap().level;
    for (name, entry) in numbered(changes()) {
        assert_eq!(level(&encode_entry(&entry)), 1, "{name}");
    }
    let old = ["bootstrap", "m_create_group", "m_create_group_2", "m_assign_free"];
    for (name, entry) in numbered(migrations()) {
        assert_eq!(level(&encode_entry(&entry)), if old.contains(&name) { 1 } else { 2 }, "{name}");
    }
    let state = |entries: &[_]| pb::State::decode(&*encode_state(&last_state(entries))).unwrap().level;
    assert_eq!((state(&numbered(changes())), state(&numbered(migrations())[..4])), (1, 1));
    assert_eq!((state(&numbered(migrations())[..5]), state(&numbered(migrations()))), (2, 2));
}

/// Where reads go came with level 3: what is said and what is not comes back, and what says nothing of it is as it was.
#[test]
fn where_reads_go_is_written_and_read_back() {
    let set = |reads| {
        let (port, databases, auth, auto_rebalance) = (None, None, None, None);
        Change::SetProduct { product: ProductId(1), port, databases, auth, auto_rebalance, reads }
    };
    let all = |from, max_lag_ms, own_writes| SetReads {
        from: Some(from),
        max_lag_ms: Some(max_lag_ms),
        own_writes: Some(own_writes),
    };
    let some = [
        SetReads { from: Some(ReadFrom::PreferReplica), ..SetReads::default() },
        SetReads { own_writes: Some(false), ..SetReads::default() },
        all(ReadFrom::Replica, 0, false),
        all(ReadFrom::Nearest, 60_000, true),
    ];
    let mut log = vec![("bootstrap", changes()[0].1.clone())];
    for (i, reads) in some.into_iter().enumerate() {
        log.push(("set_product_reads", set(reads)));
        let entries = numbered(log.clone());
        let bytes = encode_entry(&entries[i + 1].1);
        assert_eq!(decode_entry(&bytes).unwrap(), entries[i + 1].1);
        assert_eq!(pb::Entry::decode(&*bytes).unwrap().level, 3);
        let state = last_state(&entries);
        let bytes = encode_state(&state);
        assert_eq!(decode_state(&bytes).unwrap(), state);
        assert_eq!(pb::State::decode(&*bytes).unwrap().level, 3);
        assert_ne!(state.products[&ProductId(1)].reads, ReadPolicy::default());
    }
    log.push(("set_product_reads", set(all(ReadFrom::Primary, 1000, false))));
    let state = last_state(&numbered(log));
    assert_eq!(state.products[&ProductId(1)].reads, ReadPolicy::default());
    assert_eq!(pb::State::decode(&*encode_state(&state)).unwrap().level, 1, "the default is not written");
    assert_eq!(decode_state(&encode_state(&state)).unwrap(), state);
}

#[test]
fn what_a_later_version_wrote_is_named_as_such() {
    let mut bytes = encode_entry(&numbered(changes())[0].1);
    // Field 3, the feature level, stands behind id and time; protobuf takes the last value of a field.
    bytes.extend([3 << 3, 4]);
    assert_eq!(decode_entry(&bytes), Err(DecodeError::TooNew { needs: 4 }));
    let mut bytes = encode_state(&ClusterState::default());
    bytes.extend([1 << 3, 4]);
    assert_eq!(decode_state(&bytes), Err(DecodeError::TooNew { needs: 4 }));
    // An entry whose change is of a kind (field 99, empty) that this version does not know.
    let unknown = [0x0a, 0x02, 0x10, 0x01, 0x18, 0x01, 0x22, 0x03, 0x9a, 0x06, 0x00];
    assert_eq!(decode_entry(&unknown), Err(DecodeError::TooNew { needs: 4 }));
}
