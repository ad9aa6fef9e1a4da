//! A cluster grows and shrinks under load, by commands of an operator (new group, rebalance, drain, remove) and
//! automatically. Clients must not receive errors, and every key must be in the group that owns its slot.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::Mix,
};
use serde_json::Value;

fn ports(cluster: &Cluster) -> Vec<u16> {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    cluster.nodes.iter().map(|n| n.client_port).collect()
}

fn slots_of(cluster: &Cluster, node: u16) -> Vec<(u64, u64)> {
    let groups = cluster.node(node).cli().json(&["group", "ls"]);
    let groups = groups.get("groups").cloned().unwrap_or(groups);
    let each = |g: &Value| (g["id"].as_u64().unwrap(), g["slot_count"].as_u64().unwrap());
    groups.as_array().unwrap().iter().map(each).collect()
}

fn keys(cluster: &Cluster) -> Vec<i64> {
    let count = |reply| if let Reply::Integer(n) = reply { n } else { -1 };
    cluster.servers.iter().map(|s| count(s.call(&["DBSIZE"]))).collect()
}

#[test]
fn a_group_is_added_and_drained_and_clients_receive_no_errors() {
    let mut cluster = Cluster::serving(2);
    let mix = Mix::start(&ports(&cluster), 3000);
    let third = cluster.add_server(&RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "create", "3", "--primary", &cluster.servers[third].addr()]);
    let shown = cli.ok(&["rebalance"]);
    assert!(shown.out.contains("from group 1 to group 3") && shown.out.contains("--apply"), "{shown:?}");
    assert_eq!(slots_of(&cluster, 1)[2], (3, 0), "without --apply, rebalance must change nothing");
    cli.ok(&["rebalance", "--apply", "--wait", "--timeout", "90s"]);
    assert_eq!(slots_of(&cluster, 1), [(1, 342), (2, 341), (3, 341)]);
    assert!(keys(&cluster)[third] > 500, "{:?}", keys(&cluster));
    assert!(cli.ok(&["rebalance", "--apply"]).out.contains("nothing"), "a second rebalance must do nothing");

    cli.refused(&["group", "remove", "3"], &["341 slot"]);
    cli.ok(&["group", "drain", "3", "--wait", "--timeout", "90s"]);
    assert_eq!(slots_of(&cluster, 1), [(1, 512), (2, 512), (3, 0)]);
    assert_eq!(keys(&cluster)[third], 0);
    cli.ok(&["group", "remove", "3"]);
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "{:?}", noticed.errors);
}

/// The leader is killed with SIGKILL during a rebalance. The result is the same.
#[test]
fn the_leader_is_killed_during_a_rebalance() {
    let mut cluster = Cluster::serving(2);
    let mix = Mix::start(&ports(&cluster), 3000);
    let third = cluster.add_server(&RedisOptions::default());
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    let cli = cluster.node(other).cli();
    cli.ok(&["group", "create", "3", "--primary", &cluster.servers[third].addr()]);
    cli.ok(&["rebalance", "--apply"]);
    wait_for("a migration to start", GENEROUS, || {
        let all = cli.try_json(&["migrate", "ls"])?;
        let busy = all.as_array().unwrap().iter().any(|m| m["state"] != "planned");
        if busy { Ok(()) } else { Err(all.to_string()) }
    });
    cluster.node_mut(leader).kill9();
    let cli = cluster.node(other).cli();
    wait_for("all migrations to be done", GENEROUS * 2, || {
        let all = cli.try_json(&["migrate", "ls", "--timeout", "5s"])?;
        let done = all.as_array().unwrap().iter().all(|m| m["state"] == "done");
        if done { Ok(()) } else { Err(all.to_string()) }
    });
    assert_eq!(slots_of(&cluster, other), [(1, 342), (2, 341), (3, 341)]);
    cluster.node_mut(leader).start();
    let hit = cluster.node(leader).client_port;
    cluster.wait_answers(leader);
    let noticed = mix.finish(&cluster);
    let unexplained: Vec<_> = noticed.errors.iter().filter(|(port, _)| *port != hit).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn auto_rebalance_distributes_slots_evenly() {
    let mut cluster = Cluster::serving(1);
    let second = cluster.add_server(&RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "create", "2", "--primary", &cluster.servers[second].addr()]);
    cli.ok(&["product", "set", "default", "auto-rebalance=on"]);
    wait_for("the slots to be distributed evenly", GENEROUS * 2, || {
        let slots = slots_of(&cluster, 1);
        if slots == [(1, 512), (2, 512)] { Ok(()) } else { Err(format!("{slots:?}")) }
    });
    assert!(cli.ok(&["events"]).out.contains("migration"));
}
