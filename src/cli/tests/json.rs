//! The JSON that commands print: its names and values are part of the interface, and scripts depend on them.
//! A change of a file in `golden/` is a change of the interface.

use std::path::Path;

use super::{
    fake,
    maintenance::{GroupName, Maintenance},
    output::to_json,
    server::ListedServer,
    slot::LocatedKey,
    version::{NodeVersion, Versions},
};
use crate::{cli::output::Changed, wire::pb::admin::*};

const AT_MS: u64 = 1_700_000_000_123;

/// Compares a value with the golden file of this name; writes it first with `PONTOON_GOLDEN_WRITE`.
#[track_caller]
fn check<T: serde::Serialize>(value: &T, golden: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/tests/golden").join(golden).with_extension("json");
    let json = to_json(value).unwrap();
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, &json).unwrap();
    }
    assert_eq!(json, std::fs::read_to_string(&path).unwrap(), "{golden}");
}

pub fn node() -> Node {
    Node {
        id: 1,
        uuid: "00112233445566778899aabbccddeeff".into(),
        admin: "10.0.0.1:19101".into(),
        advertise: "proxy1".into(),
        port_offset: 1,
        desired_role: NodeRole::Auto.into(),
        role: NodeRole::Voter.into(),
        incarnation: Some(3),
        leaving: false,
        state: NodeState::Alive.into(),
        heartbeat_age_ms: Some(120),
        route_epoch: 40,
        applied: 44,
        version: "0.1.0".into(),
        secrets_accepted: Some(2),
        secrets_age_ms: Some(12_000),
    }
}

pub fn server() -> Server {
    let observed = ServerObservation {
        state: ServerState::Suspect.into(),
        role: Some(ServerRole::Replica.into()),
        follows: Some("10.0.0.1:7001".into()),
        link: Some(LinkState::Up.into()),
        lag_bytes: Some(1536),
        lag_ms: Some(1250),
        used_memory_bytes: Some(1 << 20),
        keys: Some(77),
        ops_per_second: Some(900),
        ping_us: Some(1210),
        run_id: Some("r2".into()),
        replid: Some("h".into()),
        replication_offset: Some(5000),
        probe_age_ms: Some(340),
        persistent: Some(false),
        failures: vec![
            ProbeFailure { node: 3, failing_for_ms: Some(2100), error: "no connection in time".into() },
            ProbeFailure { node: 4, failing_for_ms: None, error: "it wants a password".into() },
        ],
        not_candidate_because: Some("it lags".into()),
    };
    Server {
        address: "10.0.0.1:7002".into(),
        role: ServerRole::Replica.into(),
        run_id: "r1".into(),
        keys_when_added: 5,
        priority: 100,
        zone: Some("rack-7".into()),
        diverged: true,
        observed: Some(observed),
    }
}

pub fn promotion() -> Promotion {
    Promotion {
        id: 27,
        product: "shop".into(),
        group: 3,
        from: "10.0.0.1:7001".into(),
        to: "10.0.0.1:7002".into(),
        kind: PromotionKind::Switchover.into(),
        forced: false,
        state: PromotionState::Held.into(),
        why: "an operator asked for it".into(),
        attempts: 2,
        started_at_ms: AT_MS - 1000,
        held_at_ms: Some(AT_MS),
        ended_at_ms: None,
        given_up_because: None,
    }
}

pub fn group() -> Group {
    let owner = TemporaryOwner { group: 2, slots: "0-255,300".into(), slot_count: 257 };
    Group {
        id: 3,
        servers: vec![
            Server { address: "10.0.0.1:7001".into(), role: ServerRole::Primary.into(), ..Server::default() },
            server(),
        ],
        slot_count: 512,
        has_password: true,
        username: Some("app".into()),
        epoch: 40,
        down_after_ms: 3000,
        maintenance: false,
        promotion: Some(promotion()),
        replid: Some("h".into()),
        eject_after_ms: Some(10_000),
        ejection: Some(Ejection { id: 33, ejected_at_ms: AT_MS, temporary_owners: vec![owner] }),
        impaired: Some(ImpairedOptions {
            busy_failover_after_ms: 0,
            loading_failover_after_ms: 60_000,
            misconf_failover_after_ms: 1_000,
            script_kill_after_ms: 10_000,
        }),
        data_user: Some("pontoon-data".into()),
        former_password: true,
        warnings: vec![Warning {
            code: "no-replica".into(),
            severity: Severity::Advice.into(),
            text: "there is no replica".into(),
            to_clear: "pontoon group add-server 3 HOST:PORT".into(),
        }],
    }
}

pub fn migration() -> Migration {
    Migration {
        id: 17,
        product: "shop".into(),
        from: 1,
        to: 2,
        slots: "0-255".into(),
        slot_count: 256,
        state: MigrationState::CleaningTarget.into(),
        attempt: 1,
        runs: 2,
        releases: 1,
        keys_copied: 50,
        bytes_copied: 5000,
        keys_scanned: 60,
        keys_refetched: 7,
        keys_deleted: 3,
        keys_cleaned: 2,
        dirty_keys: 4,
        keys_total: Some(200),
        keys_per_second: 10,
        lag_bytes: 9,
        dirty_keys_ms: 11,
        eta_ms: Some(15_000),
        waiting_on: Some("the latency of b:2".into()),
        why: Some("the feed broke".into()),
        write_contended_keys: vec!["big".into()],
        node: Some(3),
        source_server: Some("a:1".into()),
        changed_server: Some("b:2".into()),
        verification: Some(Verification::Sample.into()),
        verified: Some(VerificationResult { keys: 100, different_keys: 0 }),
        wipe: false,
        limits: Some(MigrationLimits { keys_per_second: 1000, bytes_per_second: 0, hold_max_ms: 250 }),
        planned_at_ms: AT_MS,
        changed_at_ms: AT_MS + 1000,
    }
}

pub fn product() -> Product {
    Product {
        id: 1,
        name: "shop".into(),
        port: 19_010,
        layout: Layout::Redis.into(),
        mode: Mode::Cache.into(),
        isolated: Isolated::Serve.into(),
        databases: 16,
        has_password: true,
        former_password_valid: true,
        username: Some("app".into()),
        group_count: 2,
        slot_count: 16_384,
        assigned_slot_count: 16_000,
        auto_rebalance: true,
        min_acks: 1,
        min_acks_timeout_ms: 1000,
        read_from: ReadFrom::PreferReplica.into(),
        max_lag_ms: 500,
        read_your_writes: true,
        clients_max: 300,
        ops_max: 5000,
        bytes_max: 1 << 20,
        scripts_off: true,
        script_loads_max: 50,
        script_count: 12,
        script_bytes: 34_567,
        library_count: 1,
        errors_detailed: true,
        blocked_errors: true,
        server_commands: true,
        debug_commands: true,
        redis_version: "7.2.4".into(),
        idle_timeout_ms: 300_000,
        read_confirmed: true,
        listeners: vec![Listener { node: 1, address: "10.0.0.1:19011".into(), error: None, note: None }],
    }
}

/// What a status may have.
pub fn status() -> StatusReply {
    StatusReply {
        cluster_id: Some("00112233445566778899aabbccddeeff".into()),
        leader: Some(1),
        term: 4,
        answered_by: 2,
        applied: 44,
        route_epoch: 40,
        nodes: vec![node()],
        product_count: 1,
        waiting_on: vec!["node 2 to confirm hold 30".into()],
        warnings: vec![Warning {
            code: "maintenance".into(),
            severity: Severity::Warning.into(),
            text: "maintenance is on".into(),
            to_clear: "pontoon maintenance off".into(),
        }],
        health: Severity::Warning.into(),
        headline: "maintenance is on".into(),
    }
}

/// Levels of a node's log.
pub fn levels() -> SetNodeLogReply {
    SetNodeLogReply { id: 3, levels: "pontoon=debug".into(), chosen: true, before: "pontoon=info".into() }
}

/// Clients of a node, and a node that is silent.
pub fn clients() -> ClientsReply {
    let client = Client {
        node: 1,
        id: (1 << 40) + 7,
        product: "shop".into(),
        addr: "10.0.0.9:40000".into(),
        laddr: "10.0.0.1:19000".into(),
        name: "worker".into(),
        age_ms: 61_500,
        idle_ms: 900,
        flags: "x".into(),
        db: 2,
        queued: Some(1),
        command: "set".into(),
        user: "default".into(),
        resp: 3,
        library: "redis-py".into(),
        library_version: "7.0.1".into(),
        memory_bytes: 2048,
    };
    let silent = vec![SilentNode { id: 3, why: "no answer within 2 s".into() }];
    ClientsReply { clients: vec![client.clone(), Client { queued: None, ..client }], silent, more: true }
}

/// Settings of the cluster.
pub fn settings() -> ShowClusterReply {
    ShowClusterReply { voters: 5, hold_max_ms: 250, maintenance: false, failover_share_max_percent: 50 }
}

#[test]
fn status_and_nodes() {
    check(&status(), "status");
    let (learner, auto) = (NodeRole::Learner.into(), NodeRole::Auto.into());
    let unknown =
        Node { id: 2, role: learner, desired_role: auto, state: NodeState::Unknown.into(), ..Node::default() };
    check(&vec![node(), unknown], "node-ls");
    check(&levels(), "node-set");
    check(&clients(), "client-ls");
    check(&node(), "node-show");
    let nodes = vec![NodeVersion { id: 1, version: "0.1.0".into() }];
    // Never both: it shows the types.
    let versions = Versions { version: "0.1.0", nodes, nodes_missing_because: Some("no node at a:1".into()) };
    check(&versions, "version");
    let groups = vec![GroupName { product: "shop".into(), group: 3 }];
    check(&Maintenance { cluster: false, groups }, "maintenance-status");
    check(&settings(), "cluster-show");
}

#[test]
fn products_and_groups() {
    check(&vec![product()], "product-ls");
    check(&product(), "product-show");
    let listed = ListedServer { product: "shop".into(), group: 3, server: server() };
    check(&vec![listed], "server-ls");
    let bare = Group { impaired: Some(ImpairedOptions::default()), ..Group::default() };
    check(&vec![group(), bare], "group-ls");
    check(&shown_group(), "group-show");
}

/// Everything about a group.
pub fn shown_group() -> ShowGroupReply {
    let ended = Promotion {
        kind: PromotionKind::Failover.into(),
        state: PromotionState::GivenUp.into(),
        held_at_ms: None,
        ended_at_ms: Some(AT_MS + 1000),
        given_up_because: Some("the primary is back".into()),
        ..promotion()
    };
    ShowGroupReply {
        group: Some(group()),
        not_observed_because: Some("no leader is known".into()),
        waiting_on: vec!["the barrier".into()],
        ended_promotions: vec![ended],
    }
}

/// Ranges of slots.
pub fn ranges() -> Vec<SlotRange> {
    vec![
        SlotRange { first: 0, last: 511, group: Some(1), held: true, epoch: 40 },
        SlotRange { first: 512, last: 512, group: None, held: false, epoch: 0 },
    ]
}

/// The place of a key.
pub fn located() -> LocateKeyReply {
    LocateKeyReply { slot: 7, group: Some(1), server: Some("10.0.0.1:7001".into()) }
}

#[test]
fn slots_and_migrations() {
    check(&ranges(), "slot-ls");
    check(&LocatedKey { key: "user:1", reply: &located() }, "slot-key");
    let ended = Migration { id: 16, state: MigrationState::Done.into(), ..Migration::default() };
    check(&vec![ended, migration()], "migrate-ls");
    check(&migration(), "migrate-show");
}

/// Events.
pub fn events() -> Vec<Event> {
    let event = Event {
        index: 41,
        at_ms: AT_MS,
        kind: EventKind::PromotionStarted.into(),
        product: Some("shop".into()),
        subject: "group 3".into(),
        text: "failover".into(),
        actor: Some("cluster secret".into()),
        declared: Some("alice@desk: pontoon group promote".into()),
        origin: Some("10.0.0.7:4711".into()),
        node: Some(2),
        before: Some("promotion=none".into()),
        after: Some("promotion=41 to 10.0.0.1:7001".into()),
    };
    let of_the_cluster = Event {
        index: 41,
        at_ms: AT_MS,
        kind: EventKind::MembershipChanged.into(),
        subject: "cluster".into(),
        text: "Raft has other voters or learners".into(),
        actor: Some("node 2, leader in term 7".into()),
        before: Some("voters=1".into()),
        after: Some("voters=1 2".into()),
        ..Event::default()
    };
    vec![event, of_the_cluster]
}

/// What a change did.
pub fn change() -> ChangeReply {
    ChangeReply {
        index: 41,
        route_epoch: 40,
        done: vec!["voters: 5".into()],
        warnings: vec!["4 voters survive 1 failure(s)".into()],
        unchanged: false,
        migrations: vec![17, 18],
        promotion: Some(27),
        moves: vec![SlotMove { from: 1, to: 2, slots: "0-255, 600".into(), slot_count: 257 }],
    }
}

#[test]
fn events_and_changes() {
    check(&events(), "events");
    check(&Changed { reply: &change(), dry_run: false }, "change");
}

/// The commands that read, with the values above: each prints JSON, whatever is present.
#[tokio::test]
async fn every_command_that_reads_prints_json() {
    let node = fake::Fake::start(&[fake::FakeAnswer::Done]).await;
    for line in [
        "status",
        "node ls",
        "product ls",
        "group ls",
        "group show 3",
        "slot ls",
        "slot key k",
        "migrate ls",
        "cluster show",
        "events",
        "server ls",
        "maintenance status",
        "version",
    ] {
        super::retries::typed(&node.address, &format!("{line} --output json")).await.unwrap();
    }
}
