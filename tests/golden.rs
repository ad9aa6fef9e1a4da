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
        ids::{
            AssignmentId, Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, PromotionId, SlotId, Term,
            Uuid,
        },
        migration::{Counters, Job, Limits, MigrationOptions, ProgressPhase, Verified, Verify},
        outcome::Outcome,
        promotion::{PromotionKind, ReplicationOffset},
        reads::{ReadFrom, ReadPolicy, SetReads},
        route::{HoldKind, Isolated, Mode},
        secret::{Credentials, Secret},
        slot::Layout,
        state::{Cause, ClusterState, Entry, Group, GroupOptions, Keys, Position, Role, Server},
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
                min_acks: None,
                min_acks_ms: None,
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
        node: NodeId(2),
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
    let run =
        |job, run, server: u16| Change::StartRun { job, run, node: NodeId(3), server: self::server(server).addr, term };
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
                target_offset: None,
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
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
            },
        ),
        ("start_assign_3", Change::StartAssign { product, slots: slots(400, 401), to: GroupId(2), abandon: true }),
        ("m_plan_3", plan(30, 39)),
    ]
}

/// The same for promotions, which came after migrations (level 3).
fn promotions() -> Vec<(&'static str, Change)> {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect::<BTreeSet<_>>();
    let group = |group: u32, n: u16| Change::CreateGroup {
        product,
        group: GroupId(group),
        servers: vec![server(n), server(n + 1)],
        credentials: None,
    };
    let (one, two, term, why) = (GroupId(1), GroupId(2), Term(1), || "why".to_owned());
    let required_offset = |offset| Some(ReplicationOffset { replid: "ab".repeat(20), offset });
    let promote = |group, to: u16, kind, group_epoch, required_offset, forced| Change::StartPromotion {
        product,
        group,
        to: server(to).addr,
        kind,
        group_epoch: Epoch(group_epoch),
        required_offset,
        forced,
        why: why(),
    };
    let hold = |promotion, kind| Change::Hold {
        cause: Cause::Promotion(PromotionId(promotion)),
        attempt: 1,
        kind,
        reason: why(),
    };
    let finish =
        |promotion, hold| Change::FinishPromotion { promotion: PromotionId(promotion), hold: HoldId(hold), term };
    let give_up = |promotion, primary_back, forced| Change::GiveUpPromotion {
        promotion: PromotionId(promotion),
        why: why(),
        primary_back,
        forced,
    };
    let progress = Change::MigrationProgress {
        migration: MigrationId(5),
        attempt: 1,
        phase: ProgressPhase::CaughtUp,
        counters: Counters::default(),
        verified: None,
    };
    let epochs = BTreeMap::from([(one, Epoch(2)), (two, Epoch(3))]);
    let start = |migration, group_epochs| Change::StartMigration {
        migration: MigrationId(migration),
        attempt: 1,
        node: NodeId(2),
        feed: server(2).addr,
        target: server(11).addr,
        group_epochs,
        term,
    };
    let plan = |from: u16, to: u16| Change::PlanMigration {
        product,
        slots: slots(from, to),
        from: one,
        to: two,
        options: MigrationOptions::default(),
    };
    let said = Server { priority: 7, zone: "eu-1".into(), ..server(3) };
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("m_create_group", group(1, 1)),
        ("m_create_group_2", group(2, 11)),
        ("m_assign_free", Change::AssignFree { product, slots: slots(0, 511), to: one }),
        ("p_plan", plan(0, 9)),
        ("p_start", start(5, epochs.clone())),
        ("p_progress", progress),
        (
            "p_hold",
            Change::Hold { cause: Cause::Migration(MigrationId(5)), attempt: 1, kind: HoldKind::Wait, reason: why() },
        ),
        (
            "switch_2",
            Change::Switch {
                migration: MigrationId(5),
                attempt: 1,
                hold: HoldId(8),
                term,
                group_epochs: epochs.clone(),
                target_offset: required_offset(77),
            },
        ),
        ("add_server_2", Change::AddServer { product, group: one, server: said }),
        ("note_primary", Change::NotePrimary { product, group: two, epoch: Epoch(3), replid: "ab".repeat(20) }),
        ("start_promotion", promote(one, 2, PromotionKind::Failover, 2, None, true)),
        ("hold_promotion", hold(12, HoldKind::Abandon)),
        ("finish_promotion", finish(12, 13)),
        ("mark_resynced", Change::MarkResynced { product, group: one, addr: server(1).addr, epoch: Epoch(14) }),
        ("start_promotion_2", promote(two, 12, PromotionKind::Switchover, 3, required_offset(77), false)),
        ("hold_promotion_2", hold(16, HoldKind::Wait)),
        ("give_up_promotion", give_up(16, true, false)),
        ("set_group", set_group(one, Some(5000), Some(true), None)),
        ("set_group_2", set_group(two, None, None, None)),
        (
            "set_server",
            Change::SetServer { product, group: two, addr: server(12).addr, priority: Some(0), zone: Some("b".into()) },
        ),
        ("set_server_2", Change::SetServer { product, group: two, addr: server(12).addr, priority: None, zone: None }),
        (
            "set_cluster_2",
            Change::SetCluster {
                voters: None,
                hold_ms_max: None,
                maintenance: Some(true),
                failover_share_max: Some(20),
            },
        ),
        ("start_promotion_3", promote(one, 1, PromotionKind::Failover, 14, None, false)),
        ("hold_promotion_3", hold(24, HoldKind::Abandon)),
        ("give_up_promotion_2", give_up(99, false, true)),
    ]
}

/// What came after the logs above were kept: a primary that restarted, and a server that was made its replica.
fn noted() -> Vec<(&'static str, Change)> {
    let (product, group) = (ProductId(1), GroupId(1));
    let process = |run: &str, keys, keys_before| Change::NoteProcess {
        product,
        group,
        epoch: Epoch(2),
        replid: run.repeat(20),
        run_id: run.repeat(10),
        keys,
        keys_before,
    };
    let servers = vec![server(1), server(2)];
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("n_create_group", Change::CreateGroup { product, group, servers, credentials: auth() }),
        ("note_process", process("ab", 7, None)),
        ("note_process_2", process("cd", 0, Some(7))),
        ("note_reconciled", Change::NoteReconciled { product, group, addr: server(2).addr, text: "follows it".into() }),
    ]
}

fn set_group(
    group: GroupId,
    down_after_ms: Option<u32>,
    maintenance: Option<bool>,
    eject_after_ms: Option<u32>,
) -> Change {
    Change::SetGroup { product: ProductId(1), group, down_after_ms, maintenance, eject_after_ms }
}

/// A cache of three groups, of which two go out and one is about to come back.
fn ejections() -> Vec<(&'static str, Change)> {
    let product = ProductId(2);
    let group = |id: u32| Change::CreateGroup {
        product,
        group: GroupId(id),
        servers: vec![server(u16::try_from(20 + id).unwrap())],
        credentials: None,
    };
    let slots = |from: u16, to: u16| -> BTreeSet<SlotId> { (from..=to).map(SlotId).collect() };
    let eject = |group: u32, group_epoch, to: BTreeMap<GroupId, BTreeSet<SlotId>>| Change::Eject {
        product,
        group: GroupId(group),
        group_epoch: Epoch(group_epoch),
        to,
        why: "it is gone".into(),
    };
    let new = NewProduct {
        name: "cache".into(),
        port: 19010,
        layout: Layout::Codis,
        mode: Mode::Cache,
        isolated: Isolated::Serve,
        databases: 16,
        auth: None,
    };
    let set_eject_after = Change::SetGroup {
        product,
        group: GroupId(3),
        down_after_ms: None,
        maintenance: None,
        eject_after_ms: Some(20_000),
    };
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("l_create_product", Change::CreateProduct(new)),
        ("l_create_group", group(1)),
        ("l_create_group_2", group(2)),
        ("l_create_group_3", group(3)),
        ("l_assign_free", Change::AssignFree { product, slots: slots(0, 99), to: GroupId(1) }),
        ("l_assign_free_2", Change::AssignFree { product, slots: slots(100, 199), to: GroupId(2) }),
        ("l_assign_free_3", Change::AssignFree { product, slots: slots(200, 299), to: GroupId(3) }),
        ("set_group_3", set_eject_after),
        ("eject", eject(1, 3, [(GroupId(2), slots(0, 49)), (GroupId(3), slots(50, 99))].into())),
        ("eject_2", eject(2, 4, [(GroupId(3), &slots(0, 49) | &slots(100, 199))].into())),
        ("reinstate", Change::Reinstate { product, group: GroupId(1), ejection: Epoch(10), group_epoch: Epoch(3) }),
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
    let all = [changes(), migrations(), promotions(), ejections(), noted()];
    for (name, entry) in all.into_iter().flat_map(numbered) {
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
    assert!(!state.ended_migrations.is_empty() && state.assignments.values().all(|a| a.keys == Keys::Abandoned));
    let bytes = encode_state(&state);
    let kept = kept("state_migrations", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

#[test]
fn a_state_with_promotions_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(promotions()));
    // Every entry but the last was accepted, and of everything that came with promotions there is one.
    let refused = |state: &ClusterState| state.results.values().filter(|r| r.outcome.is_err()).count();
    assert_eq!(refused(&state), 1, "{:?}", state.results);
    let [one, two] = [1, 2].map(|id| &state.products[&ProductId(1)].groups[&GroupId(id)]);
    assert!(one.options != GroupOptions::default() && one.servers.iter().any(|s| s.zone == "eu-1" && s.priority == 7));
    assert!(two.servers.iter().any(|s| s.diverged && s.priority == 0) && two.required_offset.is_some());
    assert_eq!(two.replid, "ab".repeat(20));
    assert!(state.promotions.values().any(|p| state.promotion_hold(p.id).is_some()));
    assert!(state.settings.maintenance && state.settings.failover_share_max == 20);
    let ends: Vec<bool> = state.ended_promotions.iter().map(|e| e.failed.is_some()).collect();
    assert_eq!(ends, [false, true]);
    let bytes = encode_state(&state);
    let kept = kept("state_promotions", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

#[test]
fn a_state_with_loans_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(ejections()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let groups = &state.products[&ProductId(2)].groups;
    let ejected = |id| groups[&GroupId(id)].ejection.as_ref().map(|ejection| ejection.slots.len());
    assert_eq!([1, 2, 3].map(ejected), [Some(100), Some(100), None]);
    assert_eq!(groups[&GroupId(3)].options.eject_after_ms, 20_000);
    assert!(state.assignments.values().all(|a| a.keys == Keys::Ejected) && !state.assignments.is_empty());
    let bytes = encode_state(&state);
    assert_eq!(pb::State::decode(&*bytes).unwrap().level, 3);
    let kept = kept("state_ejections", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

#[test]
fn a_state_with_a_primary_that_restarted_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(noted()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let group = &state.products[&ProductId(1)].groups[&GroupId(1)];
    assert_eq!((group.run_id.as_str(), group.restarted_with), ("cd".repeat(10).as_str(), Some(0)));
    let texts: Vec<&str> = state.events.iter().map(|e| e.text.as_str()).collect();
    assert!(texts[0].contains("restarted empty: 0 keys, 7 before"), "{texts:?}");
    assert_eq!(texts[1], "10.0.1.2:6379 follows it");
    let bytes = encode_state(&state);
    let kept = kept("state_noted", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

/// What a program of before promotions wrote says nothing of them: then everything is as it was without.
#[test]
fn a_state_of_before_promotions_gets_their_defaults() {
    for name in ["state", "state_migrations"] {
        let bytes = kept(name, &[]);
        assert!(pb::State::decode(&*bytes).unwrap().level < 3);
        let state = decode_state(&bytes).unwrap();
        assert_eq!((state.settings.maintenance, state.settings.failover_share_max), (false, 50), "{name}");
        assert!(state.promotions.is_empty() && state.ended_promotions.is_empty());
        let groups: Vec<_> = state.products.values().flat_map(|p| p.groups.values()).collect();
        assert!(!groups.is_empty());
        for group in groups {
            assert_eq!(group.options, GroupOptions::default());
            assert!(group.replid.is_empty() && group.required_offset.is_none());
            let server = |s: &Server| Server::new(s.addr.clone(), s.run_id.clone(), s.keys_when_added);
            assert!(group.servers.iter().all(|s| *s == server(s)));
        }
    }
}

/// A program that knows only migrations reads what needs no more, and stops at everything that came with promotions.
#[test]
fn only_what_needs_it_says_level_three() {
    let level = |bytes: &[u8]| pb::Entry::decode(bytes).unwrap().level;
    let old = ["bootstrap", "m_create_group", "m_create_group_2", "m_assign_free"];
    let older = ["p_plan", "p_start", "p_progress", "p_hold"];
    for (name, entry) in numbered(promotions()) {
        let expected = if old.contains(&name) {
            1
        } else if older.contains(&name) {
            2
        } else {
            3
        };
        assert_eq!(level(&encode_entry(&entry)), expected, "{name}");
    }
    let state_level = |state: &ClusterState| pb::State::decode(&*encode_state(state)).unwrap().level;
    let log = numbered(promotions());
    let levels: Vec<u32> = [4, 8, 9, log.len()].map(|n| state_level(&last_state(&log[..n]))).into();
    assert_eq!(levels, [1, 2, 3, 3]);

    // Each new thing alone makes a state that an older program must not read; taken back, it may again.
    let base = last_state(&log[..4]);
    let group = |state: &mut ClusterState, edit: &dyn Fn(&mut Group)| {
        edit(state.products.get_mut(&ProductId(1)).unwrap().groups.get_mut(&GroupId(1)).unwrap());
    };
    let last = last_state(&log);
    type Edit<'a> = (&'static str, Box<dyn Fn(&mut ClusterState) + 'a>);
    let edits: Vec<Edit<'_>> = vec![
        ("maintenance", Box::new(|s| s.settings.maintenance = true)),
        ("share", Box::new(|s| s.settings.failover_share_max = 51)),
        ("options", Box::new(|s| group(s, &|g| g.options.down_after_ms = 3001))),
        ("replid", Box::new(|s| group(s, &|g| g.replid = "ab".into()))),
        (
            "required_offset",
            Box::new(|s| group(s, &|g| g.required_offset = Some(ReplicationOffset { replid: "ab".into(), offset: 0 }))),
        ),
        ("priority", Box::new(|s| group(s, &|g| g.servers[1].priority = 0))),
        ("zone", Box::new(|s| group(s, &|g| g.servers[0].zone = "a".into()))),
        ("diverged", Box::new(|s| group(s, &|g| g.servers[1].diverged = true))),
        ("promotion", Box::new(|s| s.promotions.clone_from(&last.promotions))),
        ("ended", Box::new(|s| s.ended_promotions.clone_from(&last.ended_promotions))),
        ("hold", Box::new(|s| s.holds.clone_from(&last.holds))),
        ("event", Box::new(|s| s.events.push_back(last.events.back().unwrap().clone()))),
        (
            "result",
            Box::new(|s| s.results.values_mut().for_each(|r| r.outcome = Ok(Outcome::Promotion(PromotionId(1))))),
        ),
    ];
    assert_eq!(state_level(&base), 1);
    for (what, edit) in edits {
        let mut state = base.clone();
        edit(&mut state);
        assert_eq!(state_level(&state), 3, "{what}");
        assert_eq!(decode_state(&encode_state(&state)).unwrap(), state, "{what}");
    }
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

/// Of level 3, because a program that does not know it would acknowledge what no replica has.
#[test]
fn min_acks_are_read_and_written_as_they_were() {
    let product = ProductId(1);
    let change = Change::SetProduct {
        product,
        port: None,
        databases: None,
        auth: None,
        auto_rebalance: None,
        min_acks: Some(2),
        min_acks_ms: Some(500),
        reads: SetReads::default(),
    };
    let entry = Entry { id: Uuid(77), at_ms: 1_700_000_000_000, change };
    let bytes = encode_entry(&entry);
    let kept = kept("set_product_3", &bytes);
    assert_eq!((decode_entry(&kept).unwrap(), &bytes), (entry.clone(), &kept));
    assert_eq!(pb::Entry::decode(&*bytes).unwrap().level, 3);

    let mut state = last_state(&numbered(changes())[..1]);
    let level = |state: &ClusterState| pb::State::decode(&*encode_state(state)).unwrap().level;
    assert_eq!((level(&state), decode_state(&encode_state(&state)).unwrap()), (1, state.clone()));
    let at = Position { index: Epoch(state.applied.0 + 1), term: Term(1) };
    apply(&mut state, &entry, at).unwrap();
    let set = &state.products[&product];
    assert_eq!((set.min_acks, set.min_acks_ms, state.route_epoch), (2, 500, at.index));
    assert_eq!((level(&state), decode_state(&encode_state(&state)).unwrap()), (3, state.clone()));
    let before = state.products.clone();
    for (n, refused) in (1..).zip([(Some(16), None), (None, Some(9)), (None, Some(60_001))]) {
        let mut other = Entry { id: Uuid(77 + u128::from(n)), ..entry.clone() };
        if let Change::SetProduct { min_acks, min_acks_ms, .. } = &mut other.change {
            (*min_acks, *min_acks_ms) = refused;
        }
        let at = Position { index: Epoch(at.index.0 + n), term: Term(1) };
        assert!(apply(&mut state, &other, at).is_err_and(|why| why.to_string().contains("choose")), "{refused:?}");
        assert_eq!(state.products, before);
    }
}

/// Where reads go came with level 3: what is said and what is not comes back, and what says nothing of it is as it was.
#[test]
fn where_reads_go_is_written_and_read_back() {
    let set = |reads| {
        let (port, databases, auth, auto_rebalance) = (None, None, None, None);
        let (min_acks, min_acks_ms) = (None, None);
        Change::SetProduct {
            product: ProductId(1),
            port,
            databases,
            auth,
            auto_rebalance,
            min_acks,
            min_acks_ms,
            reads,
        }
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
