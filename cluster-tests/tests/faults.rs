//! Nodes die, hang or lose their quorum while clients write: no acknowledged write may be lost, and clients of other
//! nodes must not receive errors. Durations are measured by the benchmarks; the deadlines here are generous.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    linear,
    load::Load,
    redis::RedisOptions,
    wait::{GENEROUS, let_pass, wait_for, wait_until},
};

/// Longer than a lease (3 s) and the leader's allowances.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(4_500);

/// Returns `n` register names that no other load of the test has used.
fn registers(of: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("reg:{of}:{i}")).collect()
}

#[test]
fn clients_of_other_nodes_receive_no_errors_when_a_node_is_killed() {
    let mut cluster = Cluster::serving(2);
    let leader = cluster.leader();
    let follower = cluster.follower();
    for victim in [follower, leader] {
        let others: Vec<u16> = (1..=3).filter(|id| *id != victim).collect();
        let ports: Vec<_> = others.iter().flat_map(|id| [cluster.node(*id).client_port; 3]).collect();
        let load = Load::start(&ports, &registers(&victim.to_string(), 8));
        load.wait_more(300);
        cluster.node_mut(victim).kill9();
        // Long enough for an election, and for earlier leases to expire if they are not renewed.
        let_pass(LONGER_THAN_A_LEASE);
        load.wait_more(300);
        let (seen, history) = load.finish();
        for seen in &seen {
            assert!(seen.errors.is_empty(), "a client received errors after node {victim} died: {:?}", seen.errors);
        }
        linear::check(&history.ops()).unwrap();
        cluster.node_mut(victim).start();
        cluster.wait_formed();
        for id in 1..=3 {
            cluster.wait_answers(id);
        }
    }
}

#[test]
fn changes_are_possible_after_the_leader_died() {
    let mut cluster = Cluster::serving(2);
    for round in 0..2u16 {
        let leader = cluster.leader();
        let other = cluster.nodes.iter().map(|n| n.id).find(|id| *id != leader).unwrap();
        cluster.node_mut(leader).kill9();
        let cli = cluster.node(other).cli();
        let name = format!("after-{round}");
        let port = (cluster.ports.product(1) - 1000 * (round + 1)).to_string();
        cli.ok(&["product", "create", &name, "--port", &port, "--timeout", "40s"]);
        // This change needs a hold, which waits until the dead node's lease has expired.
        let gid = (1 + round % 2).to_string();
        let slots = if round == 0 { "900-910" } else { "10-20" };
        cli.ok(&["slot", "assign", slots, &gid, "--timeout", "60s"]);
        cluster.node_mut(leader).start();
        cluster.wait_formed();
    }
    // A node that has just started shows the log as far as it has applied it.
    wait_for("all nodes to list the three products", GENEROUS, || {
        let listed = (1..=3).map(|id| cluster.node(id).cli().try_json(&["product", "ls"]));
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let all = listed.iter().all(|json| *json == listed[0]) && listed[0].as_array().map_or(0, Vec::len) == 3;
        if all { Ok(()) } else { Err(format!("{listed:?}")) }
    });
}

#[test]
fn without_a_quorum_stores_refuse_and_caches_serve_and_both_recover() {
    let mut cluster = Cluster::serving(1);
    let port = cluster.ports.product(1);
    let cli = cluster.cli();
    cli.ok(&["product", "create", "cached", "--port", &port.to_string(), "--mode", "cache"]);
    let server = cluster.add_server(&RedisOptions::default());
    cli.ok(&["group", "create", "1", "--product", "cached", "--primary", &cluster.servers[server].addr()]);
    cli.ok(&["slot", "assign", "0-1023", "1", "--product", "cached", "--wait", "--timeout", "40s"]);
    let mut store = cluster.node(1).client();
    let mut cache = Client::connect(port + 1).unwrap();
    assert_eq!(store.call(&["SET", "k", "1"]).unwrap(), Reply::ok());
    assert_eq!(cache.call(&["SET", "k", "1"]).unwrap(), Reply::ok());

    cluster.node(2).pause();
    cluster.node(3).pause();
    wait_for("the store to refuse requests", GENEROUS, || match store.call(&["GET", "k"]) {
        Ok(Reply::Error(text)) if text.starts_with("CLUSTERDOWN") && text.contains("not executed") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(store.call(&["SET", "k", "2"]).unwrap().is_error("CLUSTERDOWN"));
    assert_eq!(cache.call(&["SET", "k", "2"]).unwrap(), Reply::ok(), "a cache must be served by the last route table");
    let refused = cluster.cli().run(&["product", "remove", "cached", "--timeout", "2s"]);
    assert_ne!(refused.code, 0, "a change must fail without a quorum: {refused:?}");
    assert_eq!(cluster.servers[0].call(&["GET", "k"]), Reply::bulk("1"), "a refused write was executed");

    cluster.node(2).resume();
    cluster.node(3).resume();
    cluster.wait_formed();
    for id in 1..=3 {
        cluster.wait_answers(id);
    }
    assert_eq!(store.call(&["GET", "k"]).unwrap(), Reply::bulk("1"));

    // The same with two dead nodes.
    cluster.node_mut(2).kill9();
    cluster.node_mut(1).kill9();
    let mut third = cluster.node(3).client();
    wait_until("node 3 to refuse requests", GENEROUS, || {
        third.call(&["GET", "k"]).is_ok_and(|r| r.is_error("CLUSTERDOWN"))
    });
    cluster.node_mut(2).start();
    cluster.wait_serving(&[2, 3]);
    cluster.wait_answers(3);
    cluster.wait_answers(2);
}

#[test]
fn a_node_that_was_stopped_for_longer_than_a_lease_acknowledges_no_lost_write() {
    let cluster = Cluster::serving(2);
    let victim = cluster.follower();
    let other = cluster.nodes.iter().map(|n| n.id).find(|id| *id != victim).unwrap();
    // The slots of these keys get another owner while the node is stopped. Only the node's own clients write to these
    // slots.
    let keys: Vec<String> = (0..)
        .map(|i| format!("nap:{i}"))
        .filter(|k| cluster.locate(k)["slot"].as_u64().unwrap() < 512)
        .take(4)
        .collect();
    let slots: Vec<String> = keys.iter().map(|k| cluster.locate(k)["slot"].to_string()).collect();
    let slots = slots.join(",");
    let port = cluster.node(victim).client_port;
    for round in 0..3u64 {
        let gid = (2 - round % 2).to_string();
        for server in &cluster.servers {
            for key in &keys {
                let _ = server.call(&["DEL", key]);
            }
        }
        // Connections whose requests are in flight when the node is stopped.
        let mut clients: Vec<_> = keys.iter().map(|_| Client::connect(port).unwrap()).collect();
        for client in &mut clients {
            assert_eq!(client.call(&["PING"]).unwrap().text(), "PONG");
        }
        cluster.node(victim).pause();
        // These requests wait in the sockets of the stopped node. When it continues, its route table is old.
        for (client, key) in clients.iter_mut().zip(&keys) {
            client.send(&cluster_tests::client::request(&["SET", key, &format!("late-{round}")])).unwrap();
        }
        let assigned = cluster.node(other).cli().run(&["slot", "assign", &slots, &gid, "--timeout", "60s"]);
        assert_eq!(assigned.code, 0, "{assigned:?}");
        cluster.node(victim).resume();
        for (client, key) in clients.iter_mut().zip(&keys) {
            let reply = client.read().unwrap();
            let owner = cluster.node(other).client().call(&["GET", key]).unwrap();
            if reply == Reply::ok() {
                assert_eq!(owner, Reply::bulk(&format!("late-{round}")), "{key} was acknowledged, but does not exist");
            } else {
                assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
            }
        }
        cluster.wait_formed();
    }
}

#[test]
fn registers_stay_linearizable_while_nodes_are_stopped_and_killed() {
    let mut cluster = Cluster::serving(2);
    let ports: Vec<_> = cluster.nodes.iter().flat_map(|node| [node.client_port; 2]).collect();
    let load = Load::start(&ports, &registers("all", 6));
    load.wait_more(100);
    let first = cluster.leader();
    let second = cluster.nodes.iter().map(|n| n.id).find(|id| *id != first).unwrap();
    cluster.node(first).pause();
    let_pass(LONGER_THAN_A_LEASE);
    cluster.node(first).resume();
    cluster.wait_formed();
    load.wait_more(100);
    cluster.node_mut(second).kill9();
    cluster.node_mut(second).start();
    cluster.wait_formed();
    load.wait_more(100);
    let leader = cluster.leader();
    cluster.node(leader).pause();
    cluster.node(leader).resume();
    load.wait_more(100);
    let (seen, history) = load.finish();
    for (port, seen) in ports.iter().zip(&seen) {
        let node = port - cluster.ports.product(0);
        if node != first && node != second {
            assert!(seen.errors.is_empty(), "clients of node {node} received errors: {:?}", seen.errors);
        }
    }
    linear::check(&history.ops()).unwrap();
}
