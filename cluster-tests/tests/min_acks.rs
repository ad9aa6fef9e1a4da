//! `min-acks` with real servers: what is acknowledged is on the replicas, and survives the primary; what cannot be confirmed is
//! said to be so, while reads go on. Knows nothing of how the replicas are asked.

#![allow(clippy::unwrap_used)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, holds_for, wait_for, wait_until},
    workload::Written,
};
use pontoon::faults::Point;

/// Three nodes, one group with all slots and `replicas` replicas, one of which has to confirm. The places of its servers, the
/// primary first.
fn confirming(replicas: usize, within: &str) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", replicas, &RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "set", "1", "down-after=800ms"]);
    let within = format!("min-acks-timeout={within}");
    cli.ok(&["product", "set", "default", "min-acks=1", &within, "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    // A primary sends nothing to a new replica for up to a second, and one that has received nothing is no candidate.
    for replica in &servers[1..] {
        let reads = || cluster.servers[*replica].call(&["GET", "harness:probe"]);
        wait_until("each replica to receive writes", GENEROUS, || reads() == Reply::bulk("1"));
    }
    (cluster, servers)
}

fn set(cluster: &Cluster, node: u16, key: &str) -> Reply {
    Client::connect(cluster.node(node).client_port).unwrap().call(&["SET", key, key]).unwrap()
}

fn primary(cluster: &Cluster) -> String {
    let key = cluster.locate("any");
    key["server"].as_str().unwrap_or_default().to_owned()
}

/// Its replicas have to connect again. What it writes is then not waiting in the sockets of those that stand still.
#[track_caller]
fn cut_replicas(primary: &RedisServer) {
    let cut = primary.call(&["CLIENT", "KILL", "TYPE", "replica"]);
    assert!(matches!(cut, Reply::Integer(1..)), "{cut:?}");
}

/// What most nodes see of a server of the group, by its place there.
fn state(cluster: &Cluster, place: usize) -> String {
    let group = cluster.cli().json(&["group", "show", "1"]);
    group["servers"][place]["observed"]["state"].as_str().unwrap_or_default().to_owned()
}

/// Waits until another server than this one has the slots. Its address.
#[track_caller]
fn wait_other_primary(cluster: &Cluster, than: usize) -> String {
    let than = cluster.servers[than].addr();
    wait_for("another primary", GENEROUS, || {
        let primary = primary(cluster);
        if primary == than { Err(cluster.cli().json(&["status"]).to_string()) } else { Ok(primary) }
    })
}

#[test]
fn a_replica_that_stands_still_confirms_nothing_and_reads_go_on() {
    let (cluster, servers) = confirming(1, "2s");
    let products = cluster.cli().json(&["product", "ls"]);
    assert_eq!(
        (&products[0]["min_acks"], &products[0]["min_acks_timeout_ms"]),
        (&1.into(), &2000.into()),
        "{products}"
    );
    assert_eq!(set(&cluster, 1, "before"), Reply::ok());
    cluster.servers[servers[1]].pause();
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cluster, answered) = (&cluster, &answered);
        let writer = scope.spawn(move || {
            let reply = set(cluster, 1, "meanwhile");
            answered.store(true, Ordering::SeqCst);
            reply
        });
        let mut reader = Client::connect(cluster.node(1).client_port).unwrap();
        let mut seen = 0;
        // Also what is not confirmed can be read: that is not what min-acks is about.
        wait_until("the write to be executed", GENEROUS, || {
            let read = reader.call(&["GET", "meanwhile"]).unwrap();
            seen += u32::from(!answered.load(Ordering::SeqCst));
            read == Reply::bulk("meanwhile")
        });
        assert_eq!(reader.call(&["GET", "before"]).unwrap(), Reply::bulk("before"));
        assert!(seen > 0 && !answered.load(Ordering::SeqCst), "reads are answered while the write waits");
        let reply = writer.join().unwrap();
        assert!(reply.is_error("NOREPLICAS executed, not confirmed on 1 replicas"), "{reply:?}");
    });
    cluster.servers[servers[1]].resume();
    wait_until("writes to be confirmed again", GENEROUS, || set(&cluster, 1, "after") == Reply::ok());
}

#[test]
fn a_replica_of_somebody_else_is_no_help() {
    let (mut cluster, servers) = confirming(1, "300ms");
    let follows = RedisOptions { primary: Some(cluster.servers[servers[0]].port), ..RedisOptions::default() };
    let foreign = cluster.add_server(&follows);
    wait_until("it to follow", GENEROUS, || {
        cluster.servers[foreign].call(&["INFO", "replication"]).text().contains("master_link_status:up")
    });
    cluster.servers[servers[1]].pause();
    for node in 1..=3 {
        wait_for("a foreign replica not to count", GENEROUS, || {
            let reply = set(&cluster, node, "k");
            let seen = reply.is_error("NOREPLICAS executed, not confirmed on 2 replicas");
            if seen { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
    cluster.servers[servers[1]].resume();
    wait_until("both to confirm", GENEROUS, || set(&cluster, 1, "k") == Reply::ok());
}

/// The group's own replica is gone, and the foreign one goes on confirming to the primary.
#[test]
fn a_replica_of_somebody_else_is_no_help_when_it_is_left_alone() {
    let (mut cluster, servers) = confirming(1, "300ms");
    let follows = RedisOptions { primary: Some(cluster.servers[servers[0]].port), ..RedisOptions::default() };
    cluster.add_server(&follows);
    for node in 1..=3 {
        wait_for("the foreign replica to be counted", GENEROUS, || {
            cluster.servers[servers[1]].pause();
            let reply = set(&cluster, node, "k");
            cluster.servers[servers[1]].resume();
            if reply.is_error("NOREPLICAS executed, not confirmed on 2 replicas") {
                Ok(())
            } else {
                Err(format!("{reply:?}"))
            }
        });
    }
    cluster.servers[servers[1]].kill9();
    let never = || (1..=3).all(|node| set(&cluster, node, "k").is_error("NOREPLICAS executed, not confirmed"));
    assert!(holds_for(Duration::from_secs(6), never), "a foreign replica confirmed a write");
    let shown = cluster.cli().ok(&["group", "show", "1"]).out;
    assert!(shown.contains("a write waits for 2 replicas"), "{shown}");
}

#[test]
fn nothing_acknowledged_is_lost_with_the_primary() {
    let (mut cluster, servers) = confirming(1, "2s");
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    for _ in 0..50 {
        written.wait_acknowledged(|_| true);
    }
    cluster.servers[servers[0]].kill9();
    let new = wait_other_primary(&cluster, servers[0]);
    assert_eq!(new, cluster.servers[servers[1]].addr());
    // The old one has to come back and follow: until then nobody confirms.
    cluster.servers[servers[0]].restart();
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
    println!("{} writes, {} not acknowledged", all.len(), all.iter().filter(|w| w.error.is_some()).count());
}

#[test]
fn a_failover_waits_for_replicas_that_may_have_more() {
    let (mut cluster, servers) = confirming(2, "2s");
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(|_| true);
    // Now only the second one confirms; the first falls behind, and would be chosen if the addresses decided.
    cluster.servers[servers[1]].pause();
    cut_replicas(&cluster.servers[servers[0]]);
    for _ in 0..50 {
        written.wait_acknowledged(|_| true);
    }
    cluster.servers[servers[2]].pause();
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].resume();
    wait_for("the leader to say what it waits for", GENEROUS, || {
        let status = cluster.cli().json(&["status"]).to_string();
        let says = status.contains("min-acks is 1, so 2 of the 2 replicas have to answer");
        if says { Ok(()) } else { Err(status) }
    });
    let old = cluster.servers[servers[0]].addr();
    assert!(holds_for(Duration::from_secs(3), || primary(&cluster) == old), "the one that lacks writes is promoted");
    cluster.servers[servers[2]].resume();
    let new = wait_other_primary(&cluster, servers[0]);
    assert_eq!(new, cluster.servers[servers[2]].addr(), "the one that has everything");
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
}

/// The other replica lacks what this one has confirmed: taken out, it would be lost in the next failover.
#[test]
fn the_only_one_that_confirmed_is_not_taken_out() {
    let (cluster, servers) = confirming(2, "2s");
    let behind = &cluster.servers[servers[1]];
    behind.pause();
    cut_replicas(&cluster.servers[servers[0]]);
    wait_until("the other replica to confirm", GENEROUS, || set(&cluster, 1, "k") == Reply::ok());
    wait_for("the one that stands still to be missed", GENEROUS, || match state(&cluster, 1).as_str() {
        "up" => Err("it is up"),
        _ => Ok(()),
    });
    let addr = cluster.servers[servers[2]].addr();
    cluster.cli().refused(&["group", "remove-server", "1", &addr], &["may be the only one", "min-acks"]);
    behind.resume();
    wait_for("it to be taken out", GENEROUS, || {
        let ran = cluster.cli().run(&["group", "remove-server", "1", &addr]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    assert_eq!(set(&cluster, 1, "k"), Reply::ok(), "the one that is left confirms");
}

/// The primary is back for a moment after its successor was chosen, and acknowledges what only another replica has.
#[test]
fn what_was_confirmed_after_the_choice_is_not_lost() {
    let (cluster, places) = confirming(2, "2s");
    let servers: Vec<_> = places.iter().map(|place| &cluster.servers[*place]).collect();
    cluster.pause_at(Point::PromotionBegun);
    servers[0].pause();
    cluster.wait_reached(Point::PromotionBegun);
    let promotion = cluster.cli().json(&["group", "show", "1"])["promotion"].clone();
    let is_chosen = |place: usize| promotion["to"] == servers[place].addr().as_str();
    let (chosen, other) = if is_chosen(1) { (servers[1], servers[2]) } else { (servers[2], servers[1]) };
    assert!(is_chosen(1) || is_chosen(2), "{promotion}");

    chosen.pause();
    servers[0].resume();
    cut_replicas(servers[0]);
    wait_until("the other replica to confirm", GENEROUS, || set(&cluster, 1, "late") == Reply::ok());
    servers[0].pause();
    chosen.resume();
    wait_for("the primary to be seen down again", GENEROUS, || match state(&cluster, 0).as_str() {
        "down" => Ok(()),
        other => Err(other.to_owned()),
    });
    cluster.go_on(Point::PromotionBegun);
    let new = wait_other_primary(&cluster, places[0]);
    assert_eq!(new, other.addr(), "the one that has what was confirmed last");
    wait_for("the write to be read", GENEROUS, || {
        let mut client = Client::connect(cluster.node(1).client_port).map_err(|e| e.to_string())?;
        match client.call(&["GET", "late"]) {
            Ok(Reply::Error(text)) => Err(text),
            Ok(reply) => {
                assert_eq!(reply, Reply::bulk("late"), "an acknowledged write is lost");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    });
    let events = cluster.cli().ok(&["events"]).out;
    assert!(events.contains("confirmed writes would be lost"), "{events}");
}
