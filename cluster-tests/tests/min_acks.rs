//! `min-acks` with real servers: acknowledged writes are on the replicas and survive the primary. A write that cannot
//! be confirmed gets an error that says so, and reads continue.

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

/// Starts three nodes and one group with all slots and `replicas` replicas, one of which must confirm each write within
/// `within`. Returns the indices of its servers, the primary first.
fn start_with_min_acks(replicas: usize, within: &str) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", replicas, &RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "set", "1", "down-after=800ms"]);
    let within = format!("min-acks-timeout={within}");
    cli.ok(&["product", "set", "default", "min-acks=1", &within, "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    // A primary sends nothing to a new replica for up to a second, and a replica that has received nothing is no
    // candidate.
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

/// Closes the replication connections of a primary, so that later writes do not wait in the sockets of stopped
/// replicas.
#[track_caller]
fn cut_replicas(primary: &RedisServer) {
    let cut = primary.call(&["CLIENT", "KILL", "TYPE", "replica"]);
    assert!(matches!(cut, Reply::Integer(1..)), "{cut:?}");
}

/// Returns the state of a server of the group according to the majority of nodes. `place` is its index in the group.
fn state(cluster: &Cluster, place: usize) -> String {
    let group = cluster.cli().json(&["group", "show", "1"]);
    group["servers"][place]["observed"]["state"].as_str().unwrap_or_default().to_owned()
}

/// Waits until another server than `than` is the primary, and returns its address.
#[track_caller]
fn wait_other_primary(cluster: &Cluster, than: usize) -> String {
    let than = cluster.servers[than].addr();
    wait_for("another primary", GENEROUS, || {
        let primary = primary(cluster);
        if primary == than { Err(cluster.cli().json(&["status"]).to_string()) } else { Ok(primary) }
    })
}

#[test]
fn a_replica_that_hangs_confirms_nothing_and_reads_continue() {
    let (cluster, servers) = start_with_min_acks(1, "2s");
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
        // An unconfirmed write can be read: min-acks does not prevent this.
        wait_until("the write to be executed", GENEROUS, || {
            let read = reader.call(&["GET", "meanwhile"]).unwrap();
            seen += u32::from(!answered.load(Ordering::SeqCst));
            read == Reply::bulk("meanwhile")
        });
        assert_eq!(reader.call(&["GET", "before"]).unwrap(), Reply::bulk("before"));
        assert!(seen > 0 && !answered.load(Ordering::SeqCst), "reads must be answered while the write waits");
        let reply = writer.join().unwrap();
        assert!(reply.is_error("NOREPLICAS executed, not confirmed on 1 replicas"), "{reply:?}");
    });
    cluster.servers[servers[1]].resume();
    wait_until("writes to be confirmed again", GENEROUS, || set(&cluster, 1, "after") == Reply::ok());
}

#[test]
fn an_unmanaged_replica_does_not_count() {
    let (mut cluster, servers) = start_with_min_acks(1, "300ms");
    let follows = RedisOptions { primary: Some(cluster.servers[servers[0]].port), ..RedisOptions::default() };
    let foreign = cluster.add_server(&follows);
    wait_until("the unmanaged replica to follow", GENEROUS, || {
        cluster.servers[foreign].call(&["INFO", "replication"]).text().contains("master_link_status:up")
    });
    cluster.servers[servers[1]].pause();
    for node in 1..=3 {
        wait_for("the unmanaged replica not to count", GENEROUS, || {
            let reply = set(&cluster, node, "k");
            let seen = reply.is_error("NOREPLICAS executed, not confirmed on 2 replicas");
            if seen { Ok(()) } else { Err(format!("{reply:?}")) }
        });
    }
    cluster.servers[servers[1]].resume();
    wait_until("both replicas to confirm", GENEROUS, || set(&cluster, 1, "k") == Reply::ok());
}

/// The group's own replica is down, and only the unmanaged replica confirms to the primary.
#[test]
fn an_unmanaged_replica_alone_confirms_nothing() {
    let (mut cluster, servers) = start_with_min_acks(1, "300ms");
    let follows = RedisOptions { primary: Some(cluster.servers[servers[0]].port), ..RedisOptions::default() };
    cluster.add_server(&follows);
    for node in 1..=3 {
        wait_for("the unmanaged replica to be known", GENEROUS, || {
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
    assert!(holds_for(Duration::from_secs(6), never), "an unmanaged replica confirmed a write");
    let shown = cluster.cli().ok(&["group", "show", "1"]).out;
    assert!(shown.contains("a write waits for 2 replicas"), "{shown}");
}

#[test]
fn no_acknowledged_write_is_lost_with_the_primary() {
    let (mut cluster, servers) = start_with_min_acks(1, "2s");
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    for _ in 0..50 {
        written.wait_acknowledged(|_| true);
    }
    cluster.servers[servers[0]].kill9();
    let new = wait_other_primary(&cluster, servers[0]);
    assert_eq!(new, cluster.servers[servers[1]].addr());
    // The old primary must return as a replica: until then, no replica confirms.
    cluster.servers[servers[0]].restart();
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
    println!("{} writes, {} not acknowledged", all.len(), all.iter().filter(|w| w.error.is_some()).count());
}

#[test]
fn a_failover_waits_for_replicas_that_may_have_more() {
    let (mut cluster, servers) = start_with_min_acks(2, "2s");
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(|_| true);
    // Now only the second replica confirms. The first one falls behind, and would be promoted if the addresses decided.
    cluster.servers[servers[1]].pause();
    cut_replicas(&cluster.servers[servers[0]]);
    for _ in 0..50 {
        written.wait_acknowledged(|_| true);
    }
    cluster.servers[servers[2]].pause();
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].resume();
    wait_for("the leader to report what it waits for", GENEROUS, || {
        let status = cluster.cli().json(&["status"]).to_string();
        let reported = status.contains("min-acks is 1, so 2 of the 2 replicas must answer");
        if reported { Ok(()) } else { Err(status) }
    });
    let old = cluster.servers[servers[0]].addr();
    assert!(
        holds_for(Duration::from_secs(3), || primary(&cluster) == old),
        "the replica that lacks writes was promoted"
    );
    cluster.servers[servers[2]].resume();
    let new = wait_other_primary(&cluster, servers[0]);
    assert_eq!(new, cluster.servers[servers[2]].addr(), "the replica with all writes must be promoted");
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
}

/// The other replica lacks the writes that this replica has confirmed. If this replica were removed, the next failover
/// would lose them.
#[test]
fn the_only_replica_that_confirmed_is_not_removed() {
    let (cluster, servers) = start_with_min_acks(2, "2s");
    let behind = &cluster.servers[servers[1]];
    behind.pause();
    cut_replicas(&cluster.servers[servers[0]]);
    wait_until("the other replica to confirm", GENEROUS, || set(&cluster, 1, "k") == Reply::ok());
    wait_for("the stopped replica not to be up", GENEROUS, || match state(&cluster, 1).as_str() {
        "up" => Err("it is up"),
        _ => Ok(()),
    });
    let addr = cluster.servers[servers[2]].addr();
    cluster.cli().refused(&["group", "remove-server", "1", &addr], &["may be the only replica", "min-acks"]);
    behind.resume();
    wait_for("the replica to be removed", GENEROUS, || {
        let ran = cluster.cli().run(&["group", "remove-server", "1", &addr]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    assert_eq!(set(&cluster, 1, "k"), Reply::ok(), "the remaining replica must confirm");
}

/// The primary returns for a moment after the candidate was selected, and acknowledges a write that only the other
/// replica has.
#[test]
fn a_write_confirmed_after_the_candidate_was_selected_is_not_lost() {
    let (cluster, places) = start_with_min_acks(2, "2s");
    let servers: Vec<_> = places.iter().map(|place| &cluster.servers[*place]).collect();
    cluster.pause_at(Point::PromotionBegun);
    servers[0].pause();
    cluster.wait_reached(Point::PromotionBegun);
    let promotion = cluster.cli().json(&["group", "show", "1"])["promotion"].clone();
    let is_candidate = |place: usize| promotion["to"] == servers[place].addr().as_str();
    let (candidate, other) = if is_candidate(1) { (servers[1], servers[2]) } else { (servers[2], servers[1]) };
    assert!(is_candidate(1) || is_candidate(2), "{promotion}");

    candidate.pause();
    servers[0].resume();
    cut_replicas(servers[0]);
    wait_until("the other replica to confirm", GENEROUS, || set(&cluster, 1, "late") == Reply::ok());
    servers[0].pause();
    candidate.resume();
    wait_for("the primary to be down again", GENEROUS, || match state(&cluster, 0).as_str() {
        "down" => Ok(()),
        other => Err(other.to_owned()),
    });
    cluster.go_on(Point::PromotionBegun);
    let new = wait_other_primary(&cluster, places[0]);
    assert_eq!(new, other.addr(), "the replica with the last confirmed write must be promoted");
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
    assert!(events.contains("confirmed writes could be lost"), "{events}");
}
