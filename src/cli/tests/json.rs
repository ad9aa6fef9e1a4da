//! The JSON that commands print: its names and values are part of the interface, and scripts depend on them.
//! A change of a file in `golden/` is a change of the interface.

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

#[track_caller]
fn check<T: serde::Serialize>(value: &T, golden: &str) {
    assert_eq!(to_json(value).unwrap(), golden);
}

fn node() -> Node {
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

fn server() -> Server {
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

fn promotion() -> Promotion {
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

fn group() -> Group {
    let owner = TemporaryOwner { group: 2, slots: "0-255,300".into(), slot_count: 257 };
    Group {
        id: 3,
        servers: vec![Server { address: "10.0.0.1:7001".into(), ..Server::default() }, server()],
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
        warnings: vec![Warning {
            code: "no-replica".into(),
            severity: Severity::Advice.into(),
            text: "there is no replica".into(),
            to_clear: "pontoon group add-server 3 HOST:PORT".into(),
        }],
    }
}

fn migration() -> Migration {
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

fn product() -> Product {
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
        username: None,
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
        errors_detailed: true,
        idle_timeout_ms: 300_000,
        read_confirmed: true,
        listeners: vec![Listener { node: 1, address: "10.0.0.1:19011".into(), error: None, note: None }],
    }
}

#[test]
fn status_and_nodes() {
    let status = StatusReply {
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
    };
    check(&status, include_str!("golden/status.json"));
    let unknown = Node { id: 2, state: NodeState::Unknown.into(), ..Node::default() };
    check(&vec![node(), unknown], include_str!("golden/node-ls.json"));
    check(&node(), include_str!("golden/node-show.json"));
    let nodes = vec![NodeVersion { id: 1, version: "0.1.0".into() }];
    let versions = Versions { version: "0.1.0", nodes, nodes_missing_because: None };
    check(&versions, include_str!("golden/version.json"));
    let groups = vec![GroupName { product: "shop".into(), group: 3 }];
    check(&Maintenance { cluster: false, groups }, include_str!("golden/maintenance-status.json"));
    let settings = ShowClusterReply { voters: 5, hold_max_ms: 250, maintenance: false, failover_share_max_percent: 50 };
    check(&settings, include_str!("golden/cluster-show.json"));
}

#[test]
fn products_and_groups() {
    check(&vec![product()], include_str!("golden/product-ls.json"));
    check(&product(), include_str!("golden/product-show.json"));
    let listed = ListedServer { product: "shop".into(), group: 3, server: server() };
    check(&vec![listed], include_str!("golden/server-ls.json"));
    check(&vec![group(), Group::default()], include_str!("golden/group-ls.json"));
    let ended = Promotion {
        kind: PromotionKind::Failover.into(),
        state: PromotionState::GivenUp.into(),
        held_at_ms: None,
        ended_at_ms: Some(AT_MS + 1000),
        given_up_because: Some("the primary is back".into()),
        ..promotion()
    };
    let shown = ShowGroupReply {
        group: Some(group()),
        not_observed_because: Some("no leader is known".into()),
        waiting_on: vec!["the barrier".into()],
        ended_promotions: vec![ended],
    };
    check(&shown, include_str!("golden/group-show.json"));
}

#[test]
fn slots_and_migrations() {
    let ranges = vec![
        SlotRange { first: 0, last: 511, group: Some(1), held: true, epoch: 40 },
        SlotRange { first: 512, last: 512, group: None, held: false, epoch: 0 },
    ];
    check(&ranges, include_str!("golden/slot-ls.json"));
    let reply = LocateKeyReply { slot: 7, group: Some(1), server: Some("10.0.0.1:7001".into()) };
    check(&LocatedKey { key: "user:1", reply: &reply }, include_str!("golden/slot-key.json"));
    let ended = Migration { id: 16, state: MigrationState::Done.into(), ..Migration::default() };
    check(&vec![ended, migration()], include_str!("golden/migrate-ls.json"));
    check(&migration(), include_str!("golden/migrate-show.json"));
}

#[test]
fn events_and_changes() {
    let event = Event {
        index: 41,
        at_ms: AT_MS,
        kind: EventKind::PromotionStarted.into(),
        product: Some("shop".into()),
        subject: "group 3".into(),
        text: "failover".into(),
    };
    let of_the_cluster = Event { kind: EventKind::MaintenanceOn.into(), product: None, ..event.clone() };
    check(&vec![event, of_the_cluster], include_str!("golden/events.json"));
    let reply = ChangeReply {
        index: 41,
        route_epoch: 40,
        done: vec!["voters: 5".into()],
        warnings: vec!["4 voters survive 1 failure(s)".into()],
        unchanged: false,
        migrations: vec![17, 18],
        promotion: None,
        moves: vec![SlotMove { from: 1, to: 2, slots: "0-255, 600".into(), slot_count: 257 }],
    };
    check(&Changed { reply: &reply, dry_run: false }, include_str!("golden/change.json"));
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
