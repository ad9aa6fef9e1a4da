//! A task or thread of a node that panics: the node ends and names it, or only what the task served ends.
//! Knows nothing of what the tasks do.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    wait::{GENEROUS, wait_until},
};
use pontoon::faults::Point;

/// Exit code of `pontoon serve` when a part of the node ended unexpectedly.
const INTERNAL: i32 = 5;

/// Makes `task` of node 1 panic; the node must end, and say that `named` did.
#[track_caller]
fn ends_naming(cluster: &mut Cluster, task: &str, named: &str) {
    let before = cluster.node(1).log().len();
    cluster.node(1).faults.panic(task);
    check_end(cluster, before, task, named);
}

#[track_caller]
fn check_end(cluster: &mut Cluster, before: usize, task: &str, named: &str) {
    let ended = cluster.node_mut(1).wait_end(GENEROUS);
    let log = cluster.node(1).log().split_off(before);
    assert_eq!(ended.code(), Some(INTERNAL), "{task}: {ended}\n{log}");
    let line = log.lines().find(|line| line.contains("a task of this node ended unexpectedly"));
    let line = line.unwrap_or_else(|| panic!("{task}: there is no line about its end: {log}"));
    let said = format!("task=\"{named}\" how=it panicked: a test asked {task} to panic");
    assert!(line.contains("ERROR") && line.contains(&said), "{task}: {line}");
    assert!(log.contains(&format!("pontoon: the task '{named}' of this node ended unexpectedly")), "{task}: {log}");
    // The rest of the node stops in order.
    let phases = ["the clients are drained", "the node has stopped"].map(|phase| log.find(phase));
    assert!(phases.iter().all(Option::is_some) && phases.is_sorted(), "{task}: {log}");
}

#[track_caller]
fn start_again(cluster: &mut Cluster) {
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
        ends_naming(&mut cluster, task, named);
        start_again(&mut cluster);
    }
    // The panics were asked for one by one: the node that is left is healthy.
    assert!(cluster.node_mut(1).terminate(GENEROUS).success());
}

#[test]
fn the_panic_of_a_task_that_forms_the_cluster_ends_the_node() {
    // Alone of three, it waits for its peers.
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
    // What all sessions of a worker share ends the worker.
    ends_naming(&mut cluster, "backend", "worker-0");
    start_again(&mut cluster);
    assert_eq!(cluster.node(1).client().call(&["GET", "k"]).unwrap(), Reply::bulk("1"));
    ends_naming(&mut cluster, "probe", "prober");
}

#[test]
fn the_panic_of_a_mover_fails_that_run_only() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(2);
    assert_eq!(cluster.node(1).client().call(&["SET", "k", "1"]).unwrap(), Reply::ok());
    let slot = cluster.locate("k")["slot"].to_string();
    let owner = cluster.locate("k")["group"].as_u64().unwrap();
    let other = |gid: u64| (3 - gid).to_string();
    // The file lies there before the mover starts: its first run panics, its second does not.
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
        ends_naming(&mut cluster, task, named);
        cluster.go_on(Point::Copying);
        start_again(&mut cluster);
        wait_until("the migration to end", GENEROUS, || cluster.locate("k")["group"].as_u64() == Some(3 - owner));
        let none = || cluster.cli().json(&["migrate", "ls"]).as_array().is_some_and(|all| all.iter().all(over));
        wait_until("no migration to be open", GENEROUS, none);
    }
}

/// Whether a migration of `migrate ls` has ended.
fn over(migration: &serde_json::Value) -> bool {
    !migration["ended"].is_null() || migration["state"] == "done"
}
