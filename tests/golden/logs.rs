//! Logs whose entries and last states are kept as golden bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pontoon::model::{
    change::{
        AddServer, Admit, AssignFree, BeginRemove, Bootstrap, CancelMigration, Change, Cleaned, CreateGroup,
        DeleteLibraries, Eject, EndSweep, FinishAssign, FinishPromotion, FinishRemove, FlushScripts, ForgetFormer,
        GiveUpAssign, GiveUpPromotion, GroupNote, LoadLibrary, LoadScript, MarkResynced, MigrationProgress, NewMember,
        NewProduct, NodeNote, NoteGroup, NoteMembership, NoteNode, NotePrimary, NoteReconciled, OpenHold,
        PauseMigration, PlanMigration, Recover, Reinstate, Release, RemoveGroup, RemoveProduct, RemoveServer,
        RestartMigration, ResumeMigration, SetAuth, SetCluster, SetControlUser, SetDataUser, SetGroup, SetImpaired,
        SetMigration, SetProduct, SetRole, SetServer, StartAssign, StartMigration, StartPromotion, StartRun, Switch,
    },
    client_rules::SetClientRules,
    data_user::DataUser,
    ids::{
        AssignmentId, Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, PromotionId, SlotId, Term, Uuid,
    },
    migration::{Counters, Job, Limits, MigrationOptions, ProgressPhase, Verified, Verify},
    promotion::{PromotionKind, ReplicationOffset},
    reads::{ReadFrom, SetReads},
    redis_version::ToldVersion,
    route::{HoldKind, Isolated, Mode},
    secret::{Credentials, Secret},
    slot::Layout,
    state::{Cause, RaftMembership, Role, Server},
};

/// Changes in the order of a log, each with the name of its golden file, or with [`STEP`].
pub type Log = Vec<(&'static str, Change)>;

/// A change that a log needs to go on, and whose bytes need not be kept.
pub const STEP: &str = "";

fn reached(offset: u64) -> ReplicationOffset {
    ReplicationOffset { replid: "ab".repeat(20), offset }
}

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

pub fn server(n: u16) -> Server {
    let addr = HostPort::parse(&format!("10.0.1.{n}:6379")).unwrap();
    Server::new(addr, format!("{n:040x}"), 3)
}

fn auth() -> Option<Credentials> {
    Some(Credentials { username: Some("app".into()), password: Secret::new("secret".into()) })
}

/// Changes of members, products, groups, slots and settings. Their last state has one of everything too.
pub fn changes() -> Log {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect();
    let group = |group: u32, n: u16| {
        Change::CreateGroup(CreateGroup {
            product,
            group: GroupId(group),
            servers: vec![server(n), server(n + 1)],
            credentials: auth(),
            data_user: None,
        })
    };
    let start =
        Change::StartAssign(StartAssign { product, slots: slots(10, 20), to: Some(GroupId(2)), abandon: false });
    let hold = |attempt: u32| {
        Change::OpenHold(OpenHold {
            cause: Cause::Assignment(AssignmentId(10)),
            attempt,
            kind: HoldKind::Wait,
            reason: "why".into(),
        })
    };
    vec![
        ("bootstrap", Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        ("add_member", Change::AddMember(member(4))),
        ("admit", Change::Admit(Admit { member: member(1), start: Uuid(99) })),
        ("set_role", Change::SetRole(SetRole { node: NodeId(2), role: Role::Learner })),
        ("begin_remove", Change::BeginRemove(BeginRemove { node: NodeId(4), assume_dead: true })),
        ("create_group", group(1, 1)),
        (STEP, group(2, 11)),
        ("add_server", Change::AddServer(AddServer { product, group: GroupId(1), server: server(3) })),
        ("assign_free", Change::AssignFree(AssignFree { product, slots: slots(0, 511), to: GroupId(1) })),
        ("start_assign", start),
        ("open_hold", hold(1)),
        ("release", Change::Release(Release { hold: HoldId(11), why: "budget spent".into() })),
        (STEP, hold(2)),
        (
            "finish_assign",
            Change::FinishAssign(FinishAssign {
                assignment: AssignmentId(10),
                hold: HoldId(13),
                term: Term(1),
                group_epochs: BTreeMap::from([(GroupId(1), Epoch(6)), (GroupId(2), Epoch(7))]),
            }),
        ),
        ("give_up_assign", Change::GiveUpAssign(GiveUpAssign { assignment: AssignmentId(10), why: "ended".into() })),
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
            Change::SetProduct(SetProduct {
                product,
                port: Some(19005),
                databases: Some(8),
                auth: Some(SetAuth::Replace(None)),
                auto_rebalance: None,
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
                clients_max: None,
                rules: Default::default(),
            }),
        ),
        ("remove_product", Change::RemoveProduct(RemoveProduct { product: ProductId(5) })),
        ("remove_server", Change::RemoveServer(RemoveServer { product, group: GroupId(1), addr: server(3).addr })),
        ("remove_group", Change::RemoveGroup(RemoveGroup { product, group: GroupId(1), keys_left: None })),
        (
            "set_cluster",
            Change::SetCluster(SetCluster {
                voters: Some(3),
                hold_ms_max: Some(400),
                maintenance: None,
                failover_share_max: None,
            }),
        ),
        (
            STEP,
            Change::StartAssign(StartAssign { product, slots: slots(100, 100), to: Some(GroupId(2)), abandon: false }),
        ),
        ("finish_remove", Change::FinishRemove(FinishRemove { node: NodeId(4), uuid: member(4).uuid, term: Term(2) })),
        ("recover", Change::Recover(Recover { keep: NodeId(9) })),
        ("remove_group_keys_left", Change::RemoveGroup(RemoveGroup { product, group: GroupId(7), keys_left: Some(7) })),
    ]
}

/// Changes of migrations, runs and sweeps.
pub fn migrations() -> Log {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect::<BTreeSet<_>>();
    let group = |group: u32, n: u16| {
        Change::CreateGroup(CreateGroup {
            product,
            group: GroupId(group),
            servers: vec![server(n), server(n + 1)],
            credentials: None,
            data_user: None,
        })
    };
    let epochs = BTreeMap::from([(GroupId(1), Epoch(2)), (GroupId(2), Epoch(3))]);
    let (first, term, why) = (MigrationId(5), Term(1), || "why".to_owned());
    let limits = Limits { keys_per_second: 1, bytes_per_second: 2, hold_ms_max: 300 };
    let options = MigrationOptions { verify: Verify::Full, wipe: true, limits };
    let plan = |from: u16, to: u16| {
        Change::PlanMigration(PlanMigration {
            product,
            slots: slots(from, to),
            from: GroupId(1),
            to: GroupId(2),
            options,
        })
    };
    let start = |migration: MigrationId, attempt: u32| {
        Change::StartMigration(StartMigration {
            migration,
            attempt,
            node: NodeId(2),
            feed: server(2).addr,
            target: server(11).addr,
            group_epochs: epochs.clone(),
            term,
        })
    };
    let counters = Counters { scanned: 1, keys: 2, bytes: 3, refetched: 4, deleted: 5, cleaned: 0, dirty: 6 };
    let verified = Some(Verified { keys: 7, different: 0 });
    let progress = |phase, verified| {
        Change::MigrationProgress(MigrationProgress { migration: first, attempt: 1, phase, counters, verified })
    };
    let cause = Cause::Migration(first);
    let sweep = Job::Sweep { product, group: GroupId(1) };
    let run = |job, run, server: u16| {
        Change::StartRun(StartRun { job, run, node: NodeId(3), server: self::server(server).addr, term })
    };
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        (STEP, group(1, 1)),
        (STEP, group(2, 11)),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(0, 511), to: GroupId(1) })),
        ("plan_migration", plan(0, 9)),
        ("start_migration", start(first, 1)),
        (STEP, progress(ProgressPhase::Copying, None)),
        ("migration_progress", progress(ProgressPhase::CaughtUp, verified)),
        ("open_hold_migration", Change::OpenHold(OpenHold { cause, attempt: 1, kind: HoldKind::Wait, reason: why() })),
        (
            "switch",
            Change::Switch(Switch {
                migration: first,
                attempt: 1,
                hold: HoldId(9),
                term,
                group_epochs: epochs.clone(),
                target_offset: reached(0),
            }),
        ),
        ("start_run", run(Job::Migration(first), 2, 1)),
        ("cleaned", Change::Cleaned(Cleaned { job: Job::Migration(first), run: 2, term, deleted: 8 })),
        ("start_run_sweep", run(sweep, 1, 1)),
        ("end_sweep", Change::EndSweep(EndSweep { product, group: GroupId(1), run: 1, term, why: why() })),
        (STEP, run(sweep, 2, 1)),
        (STEP, plan(10, 19)),
        (STEP, start(MigrationId(16), 1)),
        ("restart_migration", Change::RestartMigration(RestartMigration { migration: MigrationId(16), why: why() })),
        ("pause_migration", Change::PauseMigration(PauseMigration { migration: MigrationId(16), why: why() })),
        ("resume_migration", Change::ResumeMigration(ResumeMigration { migration: MigrationId(16) })),
        (
            "set_migration",
            Change::SetMigration(SetMigration {
                migration: MigrationId(16),
                keys_per_second: Some(10),
                bytes_per_second: Some(20),
                hold_ms_max: None,
            }),
        ),
        ("cancel_migration", Change::CancelMigration(CancelMigration { migration: MigrationId(16), why: why() })),
        (STEP, plan(20, 29)),
        (STEP, start(MigrationId(23), 1)),
        (
            "set_product_2",
            Change::SetProduct(SetProduct {
                product,
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: Some(true),
                min_acks: Some(2),
                min_acks_ms: Some(500),
                reads: SetReads {
                    from: Some(ReadFrom::PreferReplica),
                    max_lag_ms: Some(1500),
                    own_writes: Some(true),
                    confirmed: None,
                },
                clients_max: None,
                rules: Default::default(),
            }),
        ),
        (
            "start_assign_3",
            Change::StartAssign(StartAssign { product, slots: slots(400, 401), to: Some(GroupId(2)), abandon: true }),
        ),
        (STEP, plan(30, 39)),
    ]
}

/// Changes of promotions, and what belongs to them.
pub fn promotions() -> Log {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect::<BTreeSet<_>>();
    let group = |group: u32, n: u16| {
        Change::CreateGroup(CreateGroup {
            product,
            group: GroupId(group),
            servers: vec![server(n), server(n + 1)],
            credentials: None,
            data_user: None,
        })
    };
    let (one, two, term, why) = (GroupId(1), GroupId(2), Term(1), || "why".to_owned());
    let required_offset = |offset| Some(reached(offset));
    let promote = |group, to: u16, kind, group_epoch, required_offset, forced| {
        Change::StartPromotion(StartPromotion {
            product,
            group,
            to: server(to).addr,
            kind,
            group_epoch: Epoch(group_epoch),
            required_offset,
            forced,
            why: why(),
        })
    };
    let hold = |promotion, kind| {
        Change::OpenHold(OpenHold { cause: Cause::Promotion(PromotionId(promotion)), attempt: 1, kind, reason: why() })
    };
    let finish = |promotion, hold| {
        Change::FinishPromotion(FinishPromotion { promotion: PromotionId(promotion), hold: HoldId(hold), term })
    };
    let give_up = |promotion, primary_back, forced| {
        Change::GiveUpPromotion(GiveUpPromotion { promotion: PromotionId(promotion), why: why(), primary_back, forced })
    };
    let progress = Change::MigrationProgress(MigrationProgress {
        migration: MigrationId(5),
        attempt: 1,
        phase: ProgressPhase::CaughtUp,
        counters: Counters::default(),
        verified: None,
    });
    let epochs = BTreeMap::from([(one, Epoch(2)), (two, Epoch(3))]);
    let start = |migration, group_epochs| {
        Change::StartMigration(StartMigration {
            migration: MigrationId(migration),
            attempt: 1,
            node: NodeId(2),
            feed: server(2).addr,
            target: server(11).addr,
            group_epochs,
            term,
        })
    };
    let plan = |from: u16, to: u16| {
        Change::PlanMigration(PlanMigration {
            product,
            slots: slots(from, to),
            from: one,
            to: two,
            options: MigrationOptions::default(),
        })
    };
    let complete = Server { priority: 7, zone: "eu-1".into(), ..server(3) };
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        (STEP, group(1, 1)),
        (STEP, group(2, 11)),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(0, 511), to: one })),
        (STEP, plan(0, 9)),
        (STEP, start(5, epochs.clone())),
        (STEP, progress),
        (
            STEP,
            Change::OpenHold(OpenHold {
                cause: Cause::Migration(MigrationId(5)),
                attempt: 1,
                kind: HoldKind::Wait,
                reason: why(),
            }),
        ),
        (
            STEP,
            Change::Switch(Switch {
                migration: MigrationId(5),
                attempt: 1,
                hold: HoldId(8),
                term,
                group_epochs: epochs.clone(),
                target_offset: reached(77),
            }),
        ),
        ("add_server_2", Change::AddServer(AddServer { product, group: one, server: complete })),
        ("note_primary", NotePrimary::replication_id(product, two, Epoch(3), "ab".repeat(20)).into()),
        ("start_promotion", promote(one, 2, PromotionKind::Failover, 2, None, true)),
        ("open_hold_promotion", hold(12, HoldKind::Abandon)),
        ("finish_promotion", finish(12, 13)),
        (
            "mark_resynced",
            Change::MarkResynced(MarkResynced { product, group: one, addr: server(1).addr, epoch: Epoch(14) }),
        ),
        ("start_promotion_2", promote(two, 12, PromotionKind::Switchover, 3, required_offset(77), false)),
        (STEP, hold(16, HoldKind::Wait)),
        ("give_up_promotion", give_up(16, true, false)),
        ("set_group", set_group(one, Some(5000), Some(true), None)),
        ("set_group_2", set_group(two, None, None, None)),
        (
            "set_server",
            Change::SetServer(SetServer {
                product,
                group: two,
                addr: server(12).addr,
                priority: Some(0),
                zone: Some("b".into()),
            }),
        ),
        (
            "set_server_2",
            Change::SetServer(SetServer { product, group: two, addr: server(12).addr, priority: None, zone: None }),
        ),
        (
            "set_cluster_2",
            Change::SetCluster(SetCluster {
                voters: None,
                hold_ms_max: None,
                maintenance: Some(true),
                failover_share_max: Some(20),
            }),
        ),
        (STEP, promote(one, 1, PromotionKind::Failover, 14, None, false)),
        (STEP, hold(24, HoldKind::Abandon)),
        ("give_up_promotion_2", give_up(99, false, true)),
    ]
}

/// A primary that restarted, and a server that was made its replica.
pub fn noted() -> Log {
    let (product, group) = (ProductId(1), GroupId(1));
    let process = |run: &str, keys, keys_before| {
        Change::NotePrimary(NotePrimary {
            product,
            group,
            epoch: Epoch(2),
            replid: run.repeat(20),
            run_id: run.repeat(10),
            keys,
            keys_before,
        })
    };
    let control_user = |password: &str| {
        let credentials = Credentials { username: None, password: Secret::new(password.into()) };
        Change::SetControlUser(SetControlUser { product, group, credentials })
    };
    let servers = vec![server(1), server(2)];
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        ("create_group_with_data_user", {
            let data_user = Some(DataUser::managed(Secret::new("0123456789abcdef".repeat(4)), None));
            Change::CreateGroup(CreateGroup { product, group, servers, credentials: auth(), data_user })
        }),
        (STEP, process("ab", 7, None)),
        ("note_primary_restart", process("cd", 0, Some(7))),
        (
            "note_reconciled",
            Change::NoteReconciled(NoteReconciled { product, group, addr: server(2).addr, text: "follows it".into() }),
        ),
        ("set_data_user", {
            let credentials = Credentials { username: Some("tenant".into()), password: Secret::new("secret".into()) };
            Change::SetDataUser(SetDataUser { product, group, data_user: DataUser { credentials, managed: false } })
        }),
        ("set_control_user", control_user("second")),
        ("forget_former", Change::ForgetFormer(ForgetFormer { product, group, replaced_at: Epoch(7) })),
        (STEP, control_user("third")),
    ]
}

/// Notes about a group.
pub fn group_notes() -> Log {
    let (product, group) = (ProductId(1), GroupId(1));
    let note = |note, text: &str| Change::NoteGroup(NoteGroup { product, group, note, text: text.into() });
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1)], port: 19000 })),
        (
            STEP,
            Change::CreateGroup(CreateGroup {
                product,
                group,
                servers: vec![server(1)],
                credentials: None,
                data_user: None,
            }),
        ),
        ("note_group_held_back", note(GroupNote::FailoverHeldBack, "too many fail")),
        ("note_group_script_ended", note(GroupNote::ScriptEnded, "it was busy")),
        ("note_group_writes_refused", note(GroupNote::WritesRefused, "its disk is full")),
        (
            "set_group_impaired",
            Change::SetGroup(SetGroup {
                product,
                group,
                down_after_ms: None,
                maintenance: None,
                eject_after_ms: None,
                impaired: SetImpaired {
                    busy_failover_after_ms: Some(90_000),
                    loading_failover_after_ms: Some(0),
                    misconf_failover_after_ms: None,
                    script_kill_after_ms: Some(2_000),
                },
            }),
        ),
        ("note_group_not_failed_over", note(GroupNote::NotFailedOver, "no replica answers")),
    ]
}

/// Notes about a node, and slots that are released.
pub fn node_notes() -> Log {
    let (product, group) = (ProductId(1), GroupId(1));
    let slots = |last: u16| -> BTreeSet<SlotId> { (0..=last).map(SlotId).collect() };
    let note = NoteNode {
        node: member(1).id,
        note: NodeNote::ClientsClosed,
        text: "closed 3 clients so far".into(),
        before: String::new(),
        after: String::new(),
    };
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1)], port: 19000 })),
        ("note_node_clients_closed", Change::NoteNode(note)),
        (
            STEP,
            Change::CreateGroup(CreateGroup {
                product,
                group,
                servers: vec![server(1)],
                credentials: None,
                data_user: None,
            }),
        ),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(9), to: group })),
        (
            "start_assign_release",
            Change::StartAssign(StartAssign { product, slots: slots(3), to: None, abandon: true }),
        ),
    ]
}

fn set_group(
    group: GroupId,
    down_after_ms: Option<u32>,
    maintenance: Option<bool>,
    eject_after_ms: Option<u32>,
) -> Change {
    Change::SetGroup(SetGroup {
        product: ProductId(1),
        group,
        down_after_ms,
        maintenance,
        eject_after_ms,
        impaired: SetImpaired::default(),
    })
}

/// A cache of three groups, of which two are ejected and one is being reinstated.
pub fn ejections() -> Log {
    let product = ProductId(2);
    let group = |id: u32| {
        Change::CreateGroup(CreateGroup {
            product,
            group: GroupId(id),
            servers: vec![server(u16::try_from(20 + id).unwrap())],
            credentials: None,
            data_user: None,
        })
    };
    let slots = |from: u16, to: u16| -> BTreeSet<SlotId> { (from..=to).map(SlotId).collect() };
    let eject = |group: u32, group_epoch, to: BTreeMap<GroupId, BTreeSet<SlotId>>| {
        Change::Eject(Eject {
            product,
            group: GroupId(group),
            group_epoch: Epoch(group_epoch),
            to,
            why: "it is gone".into(),
        })
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
    let set_eject_after = Change::SetGroup(SetGroup {
        product,
        group: GroupId(3),
        down_after_ms: None,
        maintenance: None,
        eject_after_ms: Some(20_000),
        impaired: SetImpaired::default(),
    });
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        (STEP, Change::CreateProduct(new)),
        (STEP, group(1)),
        (STEP, group(2)),
        (STEP, group(3)),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(0, 99), to: GroupId(1) })),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(100, 199), to: GroupId(2) })),
        (STEP, Change::AssignFree(AssignFree { product, slots: slots(200, 299), to: GroupId(3) })),
        (STEP, set_eject_after),
        ("eject", eject(1, 3, [(GroupId(2), slots(0, 49)), (GroupId(3), slots(50, 99))].into())),
        (STEP, eject(2, 4, [(GroupId(3), &slots(0, 49) | &slots(100, 199))].into())),
        (
            "reinstate",
            Change::Reinstate(Reinstate { product, group: GroupId(1), ejection: Epoch(10), group_epoch: Epoch(3) }),
        ),
    ]
}

/// A product with a limit of its clients.
pub fn limited() -> Log {
    vec![
        (STEP, changes().swap_remove(0).1),
        (
            "set_product_3",
            Change::SetProduct(SetProduct {
                product: ProductId(1),
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: None,
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
                clients_max: Some(300),
                rules: SetClientRules {
                    ops_max: Some(5_000),
                    bytes_max: Some(1 << 20),
                    scripts_off: Some(true),
                    script_loads_max: None,
                    errors_detailed: Some(true),
                    blocked_errors: None,
                    server_commands: None,
                    debug_commands: None,
                    redis_version: None,
                    idle_ms: Some(60_000),
                },
            }),
        ),
    ]
}

/// A product whose clients may log in with two passwords.
pub fn rotation() -> Log {
    let password = |text: &str| Credentials { username: None, password: Secret::new(text.into()) };
    let set = |auth| {
        Change::SetProduct(SetProduct {
            product: ProductId(1),
            port: None,
            databases: None,
            auth: Some(auth),
            auto_rebalance: None,
            min_acks: None,
            min_acks_ms: None,
            reads: SetReads::default(),
            clients_max: None,
            rules: Default::default(),
        })
    };
    vec![
        (STEP, changes().swap_remove(0).1),
        (STEP, set(SetAuth::Replace(Some(password("one"))))),
        ("set_product_4", set(SetAuth::Add(password("two")))),
        ("set_product_5", set(SetAuth::RemoveFormer)),
        (STEP, set(SetAuth::Add(password("three")))),
    ]
}

/// A product whose clients have rules.
pub fn ruled() -> Log {
    vec![
        (STEP, changes().swap_remove(0).1),
        (
            "set_product_rules",
            Change::SetProduct(SetProduct {
                product: ProductId(1),
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: None,
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
                clients_max: None,
                rules: SetClientRules {
                    ops_max: Some(5000),
                    bytes_max: Some(1 << 20),
                    scripts_off: Some(true),
                    script_loads_max: None,
                    errors_detailed: Some(true),
                    blocked_errors: None,
                    server_commands: None,
                    debug_commands: None,
                    redis_version: None,
                    idle_ms: Some(300_000),
                },
            }),
        ),
    ]
}

/// A product with a rule for blocked calls.
pub fn blocked() -> Log {
    let rules = SetClientRules { blocked_errors: Some(true), ..SetClientRules::default() };
    vec![
        (STEP, changes().swap_remove(0).1),
        (
            "set_product_blocked",
            Change::SetProduct(SetProduct {
                product: ProductId(1),
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: None,
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
                clients_max: None,
                rules,
            }),
        ),
    ]
}

/// A product whose clients may ask single servers and are told a version.
pub fn about_servers() -> Log {
    let rules = SetClientRules {
        server_commands: Some(true),
        redis_version: ToldVersion::parse("7.2.4"),
        ..SetClientRules::default()
    };
    vec![(STEP, changes().swap_remove(0).1), ("set_product_servers", set_rules(rules))]
}

/// A product whose clients may debug the servers.
pub fn about_debugging() -> Log {
    let rules = SetClientRules { debug_commands: Some(true), ..SetClientRules::default() };
    vec![(STEP, changes().swap_remove(0).1), ("set_product_debug", set_rules(rules))]
}

fn set_rules(rules: SetClientRules) -> Change {
    Change::SetProduct(SetProduct {
        product: ProductId(1),
        port: None,
        databases: None,
        auth: None,
        auto_rebalance: None,
        min_acks: None,
        min_acks_ms: None,
        reads: SetReads::default(),
        clients_max: None,
        rules,
    })
}

/// Raft's membership, and the log of a node, as somebody has changed them.
pub fn audited() -> Log {
    let membership = RaftMembership { voters: [NodeId(1), NodeId(2)].into(), learners: [NodeId(3)].into() };
    let text = "it logs debug, until it is restarted".to_owned();
    vec![
        (STEP, changes().swap_remove(0).1),
        ("note_membership", Change::NoteMembership(NoteMembership { membership })),
        (
            "note_node_log_set",
            Change::NoteNode(NoteNode {
                node: NodeId(2),
                note: NodeNote::LogSet,
                text,
                before: String::new(),
                after: String::new(),
            }),
        ),
    ]
}

/// The clients of a node, which an operator has closed.
pub fn killed_clients() -> Log {
    let note = NoteNode {
        node: NodeId(2),
        note: NodeNote::ClientsKilled,
        text: "closed 1 clients: 7 of product 'default' (10.0.0.9:40000)".to_owned(),
        before: String::new(),
        after: String::new(),
    };
    vec![(STEP, changes().swap_remove(0).1), ("note_node_clients_killed", Change::NoteNode(note))]
}

/// Clients have sent commands to single servers.
pub fn asked_servers() -> Log {
    let note = NoteNode {
        node: NodeId(2),
        note: NodeNote::ServersAsked,
        text: "a client of product 'default' sent INFO to 10.0.0.1:6379 (PONTOON ON)".to_owned(),
        before: String::new(),
        after: String::new(),
    };
    vec![(STEP, changes().swap_remove(0).1), ("note_node_servers_asked", Change::NoteNode(note))]
}

/// The cluster secrets of a node, and what has changed of them.
pub fn secrets() -> Log {
    let note = NoteNode {
        node: NodeId(2),
        note: NodeNote::SecretsSet,
        text: "it accepts two secrets".to_owned(),
        before: "accepts=1".to_owned(),
        after: "accepts=2 sends=the same".to_owned(),
    };
    vec![(STEP, changes().swap_remove(0).1), ("note_node_secrets_set", Change::NoteNode(note))]
}

/// A product whose clients have loaded scripts and libraries.
pub fn scripts() -> Log {
    let product = ProductId(1);
    let library = |name: &str, code: &'static str| {
        Change::LoadLibrary(LoadLibrary { product, name: name.into(), code: Bytes::from_static(code.as_bytes()) })
    };
    let script =
        |body: &'static str| Change::LoadScript(LoadScript { product, body: Bytes::from_static(body.as_bytes()) });
    let rules = SetClientRules { script_loads_max: Some(50), ..SetClientRules::default() };
    vec![
        (STEP, changes().swap_remove(0).1),
        (
            "set_product_scripts",
            Change::SetProduct(SetProduct {
                product,
                port: None,
                databases: None,
                auth: None,
                auto_rebalance: None,
                min_acks: None,
                min_acks_ms: None,
                reads: SetReads::default(),
                clients_max: None,
                rules,
            }),
        ),
        ("load_script", script("return 1")),
        ("flush_scripts", Change::FlushScripts(FlushScripts { product })),
        (STEP, script("return 2")),
        (STEP, script("return 3")),
        ("load_library", library("lib", "#!lua name=lib\nredis.register_function('f', function() return 1 end)")),
        (STEP, library("other", "#!lua name=other\nredis.register_function('g', function() return 1 end)")),
        ("delete_libraries", Change::DeleteLibraries(DeleteLibraries { product, names: ["other".to_owned()].into() })),
    ]
}

/// All of them.
pub fn all() -> [Log; 18] {
    [
        changes(),
        migrations(),
        promotions(),
        ejections(),
        noted(),
        limited(),
        group_notes(),
        node_notes(),
        rotation(),
        ruled(),
        blocked(),
        about_servers(),
        about_debugging(),
        audited(),
        secrets(),
        scripts(),
        killed_clients(),
        asked_servers(),
    ]
}
