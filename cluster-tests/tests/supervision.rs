//! Panics of the tasks and threads of a node: the node ends with an error that names the task, or, for a task that
//! serves only one client or run, only this client or run is affected.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_until},
};
use pontoon::faults::Point;

/// Exit code of `pontoon serve` when a part of the node ended unexpectedly.
const INTERNAL: i32 = 5;

/// Makes `task` of node 1 panic. The node must end, and log that the supervised task `named` has ended.
#[track_caller]
fn panic_ends_node(cluster: &mut Cluster, task: &str, named: &str) {
    let before = cluster.node(1).log().len();
    cluster.node(1).faults.panic(task);
    check_end(cluster, before, task, named);
}

/// Waits until node 1 has ended, and checks its exit code and its log since position `before`.
#[track_caller]
fn check_end(cluster: &mut Cluster, before: usize, task: &str, named: &str) {
    let ended = cluster.node_mut(1).wait_end(GENEROUS);
    let log = cluster.node(1).log().split_off(before);
    assert_eq!(ended.code(), Some(INTERNAL), "{task}: {ended}\n{log}");
    let line = log.lines().find(|line| line.contains("a task of this node ended unexpectedly"));
    let line = line.unwrap_or_else(|| panic!("{task}: the log has no line about its end: {log}"));
    let named_with_reason = format!("task=\"{named}\" how=it panicked: a test asked {task} to panic");
    assert!(line.contains("ERROR") && line.contains(&named_with_reason), "{task}: {line}");
    assert!(log.contains(&format!("pontoon: the task '{named}' of this node ended unexpectedly")), "{task}: {log}");
    // The rest of the node shuts down in order.
    let phases = ["the clients are drained", "the node has stopped"].map(|phase| log.find(phase));
    assert!(phases.iter().all(Option::is_some) && phases.is_sorted(), "{task}: {log}");
}

#[track_caller]
fn restart(cluster: &mut Cluster) {
    cluster.node_mut(1).start();
    cluster.wait_formed();
    cluster.wait_serving(&[1]);
}

#[test]
fn the_panic_of_a_task_ends_the_node_and_names_the_task() {
    let mut cluster = Cluster::start(1);
    // The task that panics, and the supervised one that depends on it.
    let tasks = [
        ("worker-0", "worker-0"),
        ("acceptor", "acceptor"),
        ("api-server", "api-server"),
        ("heartbeat", "heartbeat"),
        ("prober", "prober"),
        ("leader-loop", "leader-loop"),
        ("leader-activation", "leader-loop"),
        ("leases", "leases"),
        ("quorum-rounds", "quorum-rounds"),
        ("rebalancer", "rebalancer"),
        ("movers", "movers"),
        ("unmanaged-replicas", "unmanaged-replicas"),
        ("route-tables", "route-tables"),
        ("read-tables", "read-tables"),
    ];
    for (task, named) in tasks {
        panic_ends_node(&mut cluster, task, named);
        restart(&mut cluster);
    }
    // Each panic affected one start of the node. The last start is healthy.
    assert!(cluster.node_mut(1).terminate(GENEROUS).success());
}

#[test]
fn the_panic_of_a_task_that_forms_the_cluster_ends_the_node() {
    // Only one of three nodes is started, so it waits for its peers.
    let mut cluster = Cluster::prepared(3);
    cluster.node(1).faults.panic("bootstrap");
    cluster.node_mut(1).start();
    check_end(&mut cluster, 0, "bootstrap", "bootstrap");
}

#[test]
fn the_panic_of_a_session_closes_that_client_only() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(1);
    let mut client = cluster.node(1).client();
    assert_eq!(client.call(&["SET", "k", "1"]).unwrap(), Reply::ok());
    cluster.node(1).faults.panic("session");
    cluster.node(1).faults.wait_panics("session");
    wait_until("the client to be closed", GENEROUS, || client.call(&["GET", "k"]).is_err());
    assert_eq!(cluster.node(1).client().call(&["GET", "k"]).unwrap(), Reply::bulk("1"));
    // The panic of a task that all sessions of a worker share ends the worker.
    panic_ends_node(&mut cluster, "backend", "worker-0");
    restart(&mut cluster);
    assert_eq!(cluster.node(1).client().call(&["GET", "k"]).unwrap(), Reply::bulk("1"));
    panic_ends_node(&mut cluster, "probe", "prober");
}

#[test]
fn the_panic_of_a_mover_fails_that_run_only() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(2);
    assert_eq!(cluster.node(1).client().call(&["SET", "k", "1"]).unwrap(), Reply::ok());
    let slot = cluster.locate("k")["slot"].to_string();
    let owner = cluster.locate("k")["group"].as_u64().unwrap();
    let other = |gid: u64| (3 - gid).to_string();
    // The fault file exists before the mover starts: the first run panics, the second does not.
    cluster.node(1).faults.panic("mover");
    cluster.node(1).cli().ok(&["migrate", "start", &slot, "--to", &other(owner), "--wait", "--timeout", "60s"]);
    let log = cluster.node(1).log();
    assert!(log.contains("the mover panicked: a test asked mover to panic"), "{log}");
    assert_eq!(cluster.locate("k")["group"].as_u64(), Some(3 - owner));
    assert_eq!(cluster.node(1).client().call(&["GET", "k"]).unwrap(), Reply::bulk("1"));

    // The tasks around a run are supervised.
    for (task, named) in [("mover-news", "mover-news"), ("job", "leader-loop")] {
        cluster.pause_at(Point::Copying);
        let owner = cluster.locate("k")["group"].as_u64().unwrap();
        cluster.node(1).cli().ok(&["migrate", "start", &slot, "--to", &other(owner)]);
        cluster.wait_reached(Point::Copying);
        panic_ends_node(&mut cluster, task, named);
        cluster.go_on(Point::Copying);
        restart(&mut cluster);
        wait_until("the migration to end", GENEROUS, || cluster.locate("k")["group"].as_u64() == Some(3 - owner));
        let none = || cluster.cli().json(&["migrate", "ls"]).as_array().is_some_and(|all| all.iter().all(over));
        wait_until("no migration to be open", GENEROUS, none);
    }
}

/// A panic inside the log: openraft's core, its worker that applies entries, a thread of the disk or of sled.
#[test]
fn the_panic_of_a_part_of_the_log_ends_the_node() {
    let mut cluster = Cluster::start(1);
    for task in ["raft-core", "state-machine", "disk", "raft-watcher", "storage"] {
        let before = cluster.node(1).log().len();
        cluster.node(1).faults.panic(task);
        // A change reaches every part of the log. Whether it is made depends on where the panic is.
        let _ = cluster.cli().run(&["maintenance", "on", "--timeout", "5s"]);
        let ended = cluster.node_mut(1).wait_end(GENEROUS);
        let log = cluster.node(1).log().split_off(before);
        assert!(!ended.success(), "{task}: {ended}\n{log}");
        assert!(log.contains(&format!("a test asked {task} to panic")), "{task}: {log}");
        let named = log.contains("the log has stopped") || log.contains("ended unexpectedly");
        assert!(named, "{task}: the log does not say why the node ends: {log}");
        restart(&mut cluster);
    }
    assert!(cluster.node_mut(1).terminate(GENEROUS).success());
}

/// A panic that answers one call ends that call only.
#[test]
fn the_panic_of_a_call_ends_that_call_only() {
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for (id, task) in [(leader, "admin-call"), (leader, "node-call"), (follower, "raft-call")] {
        cluster.node(id).faults.panic(task);
        if task == "admin-call" {
            // The command repeats the call that got no answer, under the same change id.
            cluster.node(id).cli().ok(&["maintenance", "on", "--timeout", "20s"]);
        }
        cluster.node(id).faults.wait_panics(task);
        cluster.node(id).cli().ok(&["maintenance", "on", "--timeout", "20s"]);
        cluster.wait_formed();
        assert!(cluster.node_mut(id).runs(), "{task}");
        assert!(cluster.node(id).log().contains(&format!("a test asked {task} to panic")), "{task}");
    }
    assert!((1..=3).all(|id| cluster.node_mut(id).terminate(GENEROUS).success()));
}

#[test]
fn the_panic_of_an_assignment_ends_the_node() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(2);
    cluster.node(1).faults.panic("assignment");
    let _ = cluster.cli().run(&["slot", "assign", "0", "2", "--timeout", "5s"]);
    check_end(&mut cluster, 0, "assignment", "leader-loop");
    restart(&mut cluster);
    wait_until("the slot to have its owner", GENEROUS, || {
        let slots = cluster.cli().json(&["slot", "ls"]);
        slots.as_array().is_some_and(|all| all.iter().any(|r| r["first"] == 0 && r["group"] == 2))
    });
}

#[test]
fn the_panic_of_a_promotion_ends_the_node() {
    let mut cluster = Cluster::start(1);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &RedisOptions::default());
    let replica = cluster.servers[servers[1]].addr();
    cluster.pause_at(Point::PromotionBegun);
    // It does not come to its end while the promotion pauses.
    let _ = cluster.cli().run(&["group", "promote", "1", &replica, "--timeout", "2s"]);
    cluster.wait_reached(Point::PromotionBegun);
    panic_ends_node(&mut cluster, "promotion", "leader-loop");
    cluster.go_on(Point::PromotionBegun);
    restart(&mut cluster);
    cluster.wait_answers(1);
}

/// Returns whether a migration in the output of `migrate ls` has ended.
fn over(migration: &serde_json::Value) -> bool {
    !migration["ended"].is_null() || migration["state"] == "done"
}
