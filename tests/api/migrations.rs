//! Migrations and events over gRPC: start, forward, repeat, wait and list.
//! The tests play the leader; cluster-tests has real migrations.

use std::{sync::Arc, time::Duration};

use crate::{
    admin::{World, with_id, world},
    server::Redis,
    wait::meanwhile,
};
use pontoon::{
    clock::boottime_ns,
    control::leadership::view::{LeaderView, ListenerView},
    model::{
        change::{Change, Cleaned, MigrationProgress, OpenHold, StartMigration, StartRun, Switch},
        ids::{GroupId, HostPort, MigrationId, NodeId, ProductId, Term, Uuid},
        migration::{Counters, Job, MigrationPhase, ProgressPhase},
        route::HoldKind,
        state::Cause,
    },
    plan::{
        mover::{MoverState, MoverView},
        waiting::{LastingWait, Wait},
    },
    wire::pb::admin::{self, ChangeOptions, EventKind, MigrationState, SlotSpan},
};
use tonic::{Code, Response};

/// Groups 1, 2 and 3; slots 0 to 9 are group 1's, 10 to 19 group 2's.
async fn three_groups() -> (World, [Redis; 3]) {
    let world = world().await;
    let servers = [Redis::start(&[]).await, Redis::start(&[]).await, Redis::start(&[]).await];
    for (id, server) in (1..).zip(&servers) {
        world.group(id, server).await;
    }
    world.assign(0, 9, 1).await.unwrap();
    world.assign(10, 19, 2).await.unwrap();
    (world, servers)
}

fn start(first: u32, last: u32, to: u32) -> admin::StartMigrationRequest {
    let slots = vec![SlotSpan { first, last }];
    admin::StartMigrationRequest { product: "default".into(), slots, to, ..Default::default() }
}

async fn list(world: &World, node: usize) -> Vec<admin::Migration> {
    let request = admin::ListMigrationsRequest { product: "default".into(), ids: Vec::new() };
    world.client(node).list_migrations(request).await.unwrap().into_inner().migrations
}

async fn state_of(world: &World, id: u64) -> MigrationState {
    let request = admin::ListMigrationsRequest { product: String::new(), ids: vec![id] };
    let found = world.client(1).list_migrations(request).await.unwrap().into_inner().migrations;
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].state()
}

/// Plays the leader: one step of this migration.
fn step(world: &World, id: MigrationId) {
    let state = world.shared.state();
    let Some(m) = state.migrations.get(&id) else { return };
    let term = Term(1);
    let groups = &state.products[&m.product].groups;
    let primary = |group: GroupId| groups[&group].servers[0].addr.clone();
    let group_epochs = [m.from, m.to].map(|g| (g, groups[&g].epoch)).into();
    let run = |server: HostPort| match &m.run {
        Some(run) => Change::Cleaned(Cleaned { job: Job::Migration(id), run: run.run, term, deleted: 1 }),
        None => Change::StartRun(StartRun { job: Job::Migration(id), run: m.runs + 1, node: NodeId(1), server, term }),
    };
    let counters = Counters { keys: 5, bytes: 50, ..Counters::default() };
    let attempt = m.attempt;
    let change = match m.phase {
        MigrationPhase::Planned => Change::StartMigration(StartMigration {
            migration: id,
            attempt: attempt + 1,
            node: NodeId(1),
            feed: primary(m.from),
            target: primary(m.to),
            group_epochs,
            term,
        }),
        MigrationPhase::CleaningTarget | MigrationPhase::Copying => {
            let phase = ProgressPhase::CaughtUp;
            Change::MigrationProgress(MigrationProgress { migration: id, attempt, phase, counters, verified: None })
        }
        MigrationPhase::CaughtUp => Change::OpenHold(OpenHold {
            cause: Cause::Migration(id),
            attempt,
            kind: HoldKind::Wait,
            reason: "test".into(),
        }),
        MigrationPhase::Held(hold) => {
            let target_offset = pontoon::model::promotion::ReplicationOffset { replid: "ab".into(), offset: 7 };
            Change::Switch(Switch { migration: id, attempt, hold, term, group_epochs, target_offset })
        }
        MigrationPhase::Switched => run(primary(m.from)),
        MigrationPhase::Cancelling => run(primary(m.to)),
        MigrationPhase::Paused => return,
    };
    let entry = Uuid(1_000_000 + u128::from(state.applied.0));
    world.shared.append(entry, change).result.unwrap();
}

/// Plays the leader until no migration is open.
fn carry_on(world: Arc<World>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut changed = world.shared.changed();
        loop {
            let open: Vec<MigrationId> = changed.borrow_and_update().migrations.keys().copied().collect();
            open.into_iter().for_each(|id| step(&world, id));
            if changed.changed().await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn one_migration_per_source() {
    let (world, _servers) = three_groups().await;
    let mut client = world.client(1);
    let free = client.start_migration(start(15, 25, 3)).await.unwrap_err();
    assert_eq!(free.code(), Code::FailedPrecondition);
    assert!(free.message().contains("slots 20-25 have no owner"), "{free:?}");
    assert!(free.message().contains("pontoon slot assign 20-25 3"), "{free:?}");
    for (request, word) in [
        (start(0, 9, 0), "group"),
        (start(0, 2000, 3), "slot"),
        (admin::StartMigrationRequest { verification: 99, ..start(0, 9, 3) }, "does not know verification"),
        (
            admin::StartMigrationRequest {
                limits: Some(admin::MigrationLimits { hold_max_ms: 5, ..Default::default() }),
                ..start(0, 9, 3)
            },
            "hold-max",
        ),
    ] {
        let bad = client.start_migration(request).await.unwrap_err();
        assert!(bad.code() == Code::InvalidArgument && bad.message().contains(word), "{bad:?}");
    }
    let unknown = client.start_migration(start(0, 9, 9)).await.unwrap_err();
    assert!(unknown.code() == Code::NotFound && unknown.message().contains("group 9"), "{unknown:?}");

    let before = world.proposals();
    let dry = Some(ChangeOptions { dry_run: true, ..Default::default() });
    let would = client.start_migration(admin::StartMigrationRequest { options: dry, ..start(5, 14, 3) }).await;
    let would = would.unwrap().into_inner();
    assert!(would.done.len() == 2 && would.done[0].contains("slots 5-9 migrate from group 1 to group 3"), "{would:?}");
    assert!(would.migrations.is_empty() && world.proposals() == before, "{would:?}");

    let request = admin::StartMigrationRequest {
        options: with_id(7),
        verification: admin::Verification::Full.into(),
        ..start(5, 14, 3)
    };
    let made = client.start_migration(request.clone()).await.unwrap().into_inner();
    assert_eq!((made.migrations.len(), made.done.len()), (2, 2), "{made:?}");
    let again = client.start_migration(request.clone()).await.unwrap().into_inner();
    assert_eq!((&again.migrations, again.index), (&made.migrations, made.index), "a repeat is no second one");
    // Also if one of them has ended, and its slots are at the target.
    (0..8).for_each(|_| step(&world, MigrationId(made.migrations[0])));
    let again = client.start_migration(request).await.unwrap().into_inner();
    assert_eq!(again.migrations, made.migrations);
    assert_eq!(world.shared.state().migrations.len(), 1);

    let listed = list(&world, 1).await;
    let seen: Vec<_> = listed.iter().map(|m| (m.id, m.state(), m.from, m.to, m.slots.as_str())).collect();
    let [first, second] = made.migrations[..] else { panic!("{made:?}") };
    assert_eq!(seen, [(first, MigrationState::Done, 1, 3, "5-9"), (second, MigrationState::Planned, 2, 3, "10-14")]);
    assert_eq!((listed[0].keys_copied, listed[0].attempt, listed[1].attempt), (5, 1, 0));
    assert_eq!(listed[1].verification(), admin::Verification::Full);
    let same = client.start_migration(start(5, 9, 3)).await.unwrap().into_inner();
    assert!(same.unchanged && same.migrations.is_empty(), "{same:?}");
    let overlap = client.start_migration(start(14, 15, 1)).await.unwrap_err();
    assert!(overlap.message().contains(&format!("slot 14 is in migration {second}")), "{overlap:?}");
}

#[tokio::test]
async fn servers_are_checked_before_anything_is_planned() {
    let (world, servers) = three_groups().await;
    let mut client = world.client(1);
    servers[2].run("SET a{}b somebodys").await; // Slot 0, never group 3's.
    let before = world.proposals();
    let foreign = client.start_migration(start(0, 19, 3)).await.unwrap_err();
    assert_eq!(foreign.code(), Code::FailedPrecondition);
    assert!(foreign.message().contains("'a{}b'") && foreign.message().contains("--wipe"), "{foreign:?}");
    // A target that takes no writes; a dry run says so too.
    let [host, port] = [servers[0].addr.host(), &servers[0].addr.port().to_string()];
    servers[2].run(&format!("REPLICAOF {host} {port}")).await;
    let dry = Some(ChangeOptions { dry_run: true, ..Default::default() });
    let request = admin::StartMigrationRequest { wipe: true, options: dry, ..start(0, 19, 3) };
    let replica = client.start_migration(request).await.unwrap_err();
    assert!(replica.message().contains("REPLICAOF NO ONE"), "{replica:?}");
    assert_eq!(world.proposals(), before, "nothing was planned for any source");
    servers[2].run("REPLICAOF NO ONE").await;
    let made = client.start_migration(admin::StartMigrationRequest { wipe: true, ..start(0, 19, 3) }).await;
    assert_eq!(made.unwrap().into_inner().migrations.len(), 2);
}

#[tokio::test]
async fn a_call_without_an_answer_is_repeated() {
    let (world, _servers) = three_groups().await;
    // The first plan is made and its answer lost; the node repeats the call under its id.
    world.shared.lose_answers.store(1, std::sync::atomic::Ordering::SeqCst);
    let made = world.client(1).start_migration(start(0, 19, 3)).await.unwrap().into_inner();
    assert_eq!(made.migrations.len(), 2, "{made:?}");
    assert_eq!(world.shared.state().migrations.len(), 2);
}

#[tokio::test]
async fn pause_resume_set_and_cancel() {
    let (world, _servers) = three_groups().await;
    let mut client = world.client(1);
    let id = client.start_migration(start(0, 9, 2)).await.unwrap().into_inner().migrations[0];
    let (migration, options) = (MigrationId(id), None);
    client.pause_migration(admin::PauseMigrationRequest { id, options: None }).await.unwrap();
    assert_eq!(state_of(&world, id).await, MigrationState::Paused);
    let again = client.pause_migration(admin::PauseMigrationRequest { id, options: None }).await.unwrap();
    assert!(again.into_inner().unchanged);
    client.resume_migration(admin::ResumeMigrationRequest { id, options: None }).await.unwrap();
    assert_eq!(state_of(&world, id).await, MigrationState::Planned);

    let set = |edit: &dyn Fn(&mut admin::SetMigrationRequest)| {
        let mut request = admin::SetMigrationRequest { id, ..Default::default() };
        edit(&mut request);
        request
    };
    let nothing = client.set_migration(set(&|_| {})).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let short = client.set_migration(set(&|r| r.hold_max_ms = Some(1))).await.unwrap_err();
    assert_eq!(short.code(), Code::InvalidArgument);
    client.set_migration(set(&|r| r.keys_per_second = Some(1000))).await.unwrap();
    let limits = list(&world, 0).await[0].limits.unwrap();
    assert_eq!((limits.keys_per_second, limits.bytes_per_second, limits.hold_max_ms), (1000, 0, 0));

    step(&world, migration);
    client.cancel_migration(admin::CancelMigrationRequest { id, options }).await.unwrap();
    assert_eq!(state_of(&world, id).await, MigrationState::Cancelling);
    let late = client.pause_migration(admin::PauseMigrationRequest { id, options: None }).await.unwrap_err();
    assert!(late.message().contains("is cancelling, so it cannot be paused"), "{late:?}");
    step(&world, migration);
    step(&world, migration);
    assert_eq!(state_of(&world, id).await, MigrationState::Cancelled);
    let again =
        client.cancel_migration(admin::CancelMigrationRequest { id, options: None }).await.unwrap().into_inner();
    assert!(again.unchanged && again.done[0].contains("is cancelled"), "{again:?}");
    for (id, code) in [(999, Code::NotFound), (0, Code::InvalidArgument)] {
        let gone = client.cancel_migration(admin::CancelMigrationRequest { id, options: None }).await.unwrap_err();
        assert!(gone.code() == code && gone.message().contains("pontoon migrate ls"), "{gone:?}");
    }
}

#[tokio::test]
async fn waiting_ends_with_the_last_or_the_first_failure() {
    let (world, _servers) = three_groups().await;
    let world = Arc::new(world);
    let wait = || Some(ChangeOptions { wait: true, timeout_ms: 20_000, ..Default::default() });
    let waiting = |request| {
        let mut client = world.client(0);
        tokio::spawn(async move { client.start_migration(request).await.map(Response::into_inner) })
    };
    let open = |n: usize| {
        let mut changed = world.shared.changed();
        async move {
            let all = changed.wait_for(|s| s.migrations.len() == n).await.unwrap();
            all.migrations.keys().map(|id| id.0).collect::<Vec<_>>()
        }
    };

    let cancelled = waiting(admin::StartMigrationRequest { options: wait(), ..start(0, 19, 3) });
    let ids = open(2).await;
    world.client(1).cancel_migration(admin::CancelMigrationRequest { id: ids[1], options: None }).await.unwrap();
    let status = cancelled.await.unwrap().unwrap_err();
    assert!(status.message().contains(&format!("migration {} was cancelled", ids[1])), "{status:?}");
    assert_eq!(status.metadata().get("x-pontoon-outcome").map(|v| v.as_bytes()), Some(&b"made"[..]));

    let paused = waiting(admin::StartMigrationRequest { options: wait(), ..start(10, 19, 3) });
    let ids = open(2).await;
    world.client(1).pause_migration(admin::PauseMigrationRequest { id: ids[1], options: None }).await.unwrap();
    let status = paused.await.unwrap().unwrap_err();
    assert!(status.message().contains(&format!("pontoon migrate resume {}", ids[1])), "{status:?}");
    for id in ids {
        world.client(1).cancel_migration(admin::CancelMigrationRequest { id, options: None }).await.unwrap();
    }

    let short = Some(ChangeOptions { wait: true, timeout_ms: 50, ..Default::default() });
    let status = waiting(admin::StartMigrationRequest { options: short, ..start(9, 9, 3) }).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("is planned") && status.message().contains("migrate watch"), "{status:?}");

    // Both nodes are served: `wait` ends with the routes everywhere.
    let loops = carry_on(world.clone());
    let done = waiting(admin::StartMigrationRequest { options: wait(), ..start(0, 19, 3) });
    let done = meanwhile(done, || {
        for id in [1, 2] {
            world.nodes[0].heard(id, |seen| {
                seen.route_epoch = world.shared.state().route_epoch;
                seen.listeners.insert(ProductId(1), ListenerView::default());
            });
        }
    });
    let done = done.await.unwrap();
    assert_eq!(done.migrations.len(), 2, "{done:?}");
    assert!(done.done.last().unwrap().ends_with("are done"), "{done:?}");
    let state = world.shared.state();
    let product = state.products.values().next().unwrap();
    assert!(product.slots[..20].iter().all(|s| s.owner == Some(GroupId(3))));
    loops.abort();
}

#[tokio::test]
async fn the_list_has_what_movers_report_to_the_leader() {
    let (world, _servers) = three_groups().await;
    let id = world.client(1).start_migration(start(0, 9, 2)).await.unwrap().into_inner().migrations[0];
    let job = Job::Migration(MigrationId(id));
    step(&world, MigrationId(id));
    world.shared.append(
        Uuid(77),
        Change::MigrationProgress(MigrationProgress {
            migration: MigrationId(id),
            attempt: 1,
            phase: ProgressPhase::Copying,
            counters: Counters::default(),
            verified: None,
        }),
    );
    let mover = |run: u32| MoverView {
        node: NodeId(1),
        run,
        work: MoverState::Copying,
        counters: Counters { keys: 40, bytes: 400, dirty: 3, ..Counters::default() },
        keys_total: 100,
        keys_per_second: 20,
        waiting_on: "the latency of its server".into(),
        ..MoverView::default()
    };
    let hear = |run: u32| {
        let copies = Wait::new("it copies", "all keys are copied");
        let jobs = [(job, LastingWait::seen(copies, None, boottime_ns(), 0))].into();
        let view =
            LeaderView { term: Some(Term(1)), movers: [(job, mover(run))].into(), jobs, ..LeaderView::default() };
        world.nodes[0].view.send_replace(Arc::new(view));
    };
    hear(1);
    // At a node that does not lead.
    let seen = &list(&world, 1).await[0];
    assert_eq!((seen.keys_copied, seen.bytes_copied, seen.dirty_keys, seen.keys_total), (40, 400, 3, Some(100)));
    assert_eq!((seen.eta_ms, seen.keys_per_second, seen.node), (Some(3000), 20, Some(1)));
    assert_eq!(
        seen.waiting_on.as_deref(),
        Some("it copies; the latency of its server; has lasted a few seconds; ends when all keys are copied")
    );
    // A report about another run does not count.
    hear(2);
    let seen = &list(&world, 1).await[0];
    assert_eq!((seen.keys_copied, seen.eta_ms), (0, None));
    assert_eq!(seen.waiting_on.as_deref(), Some("it copies; has lasted a few seconds; ends when all keys are copied"));
    // Without a leader the answer has the replicated state, and says what is missing.
    world.nodes[1].nobody_leads();
    let request = admin::ListMigrationsRequest::default();
    let reply = world.client(1).list_migrations(request).await.unwrap().into_inner();
    assert_eq!(reply.migrations[0].state(), MigrationState::Copying);
    assert!(reply.not_observed_because.as_ref().is_some_and(|why| why.contains("no leader")), "{reply:?}");
    let unknown = admin::ListMigrationsRequest { product: "nope".into(), ids: Vec::new() };
    assert_eq!(world.client(1).list_migrations(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn events_are_listed_and_followed() {
    let (world, _servers) = three_groups().await;
    let events = |after, wait_ms| {
        let mut client = world.client(1);
        async move { client.list_events(admin::ListEventsRequest { after, wait_ms }).await.unwrap().into_inner().events }
    };
    let before = events(0, 0).await.last().unwrap().index;
    assert!(events(before, 1).await.is_empty());
    // An event that happens during the call.
    let waiting = tokio::spawn(events(before, 20_000));
    let id = world.client(0).start_migration(start(0, 9, 2)).await.unwrap().into_inner().migrations[0];
    let came = tokio::time::timeout(Duration::from_secs(15), waiting).await.unwrap().unwrap();
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!((came[0].index, came[0].kind(), came[0].product.as_deref()), (id, EventKind::Planned, Some("default")));
    assert_eq!(came[0].subject, format!("migration {id}"));
    assert!(came[0].text.contains("slots 0-9 from group 1 to group 2"), "{came:?}");
    step(&world, MigrationId(id));
    let newer = events(id, 0).await;
    assert_eq!(newer.iter().map(|e| e.kind()).collect::<Vec<_>>(), [EventKind::Started]);
    assert_eq!(events(before, 0).await.len(), 2);
}

#[tokio::test]
async fn keys_are_abandoned_only_on_demand() {
    let (world, servers) = three_groups().await;
    let looped = world.finish_assignments();
    servers[0].run("SET a{}b 1").await; // Slot 0.
    let request = |abandon_data| admin::AssignSlotsRequest {
        product: "default".into(),
        slots: vec![SlotSpan { first: 0, last: 4 }],
        group: 2,
        abandon_data,
        ..Default::default()
    };
    let refused = world.client(1).assign_slots(request(false)).await.unwrap_err();
    assert!(refused.message().contains("'a{}b'") && refused.message().contains("--abandon-data"), "{refused:?}");
    assert!(refused.message().contains("pontoon migrate start 0"), "{refused:?}");
    world.client(1).assign_slots(request(true)).await.unwrap();
    let state = world.shared.state();
    let product = state.products.values().next().unwrap();
    assert_eq!(product.slots[0].owner, Some(GroupId(2)));
    assert!(product.groups[&GroupId(1)].given_away.is_empty(), "what was given up is not ours any more");
    looped.abort();
}

#[tokio::test]
async fn automatic_rebalancing_is_a_setting() {
    let world = world().await;
    let set = |on| admin::SetProductRequest { name: "default".into(), auto_rebalance: Some(on), ..Default::default() };
    let made = world.client(1).set_product(set(true)).await.unwrap().into_inner();
    assert!(!made.unchanged && made.done[0].contains("rebalanced"), "{made:?}");
    assert!(world.client(1).set_product(set(true)).await.unwrap().into_inner().unchanged);
    let listed = world.client(1).list_products(admin::ListProductsRequest {}).await.unwrap().into_inner();
    assert!(listed.products[0].auto_rebalance);
    world.client(1).set_product(set(false)).await.unwrap();
    assert!(!world.shared.state().products.values().next().unwrap().auto_rebalance);
}
