//! Network partitions between nodes, while clients and servers reach all nodes. A node without a quorum must stop
//! serving within a lease, the other nodes must continue, no acknowledged write may be lost, and no read may be stale.

#![allow(clippy::unwrap_used)]

use std::{
    thread,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    history::{Action, History, Op},
    linear,
    load::Load,
    mesh::Mesh,
    wait::{GENEROUS, wait_for},
};

/// `timing.lease_ms`.
const LEASE: Duration = Duration::from_secs(3);
/// Time in which a relay may still pass a message that it had received before the cut.
const IN_RELAY: Duration = Duration::from_millis(250);

/// Starts three nodes whose network can be cut, and two groups with half of the slots each.
fn cluster() -> Cluster {
    let mut cluster = Cluster::prepared_with_mesh(3);
    cluster.start_all();
    cluster.add_groups(2);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    cluster
}

/// Returns a key of group 1 whose slot is empty, and this slot.
fn key_of_group_1(cluster: &Cluster) -> (String, String) {
    let key = (0..).map(|n| format!("k{n}")).find(|key| cluster.locate(key)["group"] == 1).unwrap();
    let slot = cluster.locate(&key)["slot"].to_string();
    (key, slot)
}

/// Reads `key` through the node on `port` until the node refuses to serve, and adds the reads to the history. Returns
/// the begin of the last read that was answered.
fn read_until_refused(port: u16, key: &str, history: &History) -> Instant {
    let mut client = Client::connect(port).unwrap();
    let mut last = Instant::now();
    wait_for("the node to refuse to serve", GENEROUS, || {
        let (begun, begin) = (Instant::now(), history.now());
        let reply = client.call(&["GET", key]).unwrap();
        let value = match &reply {
            Reply::Null => None,
            Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).parse().unwrap()),
            refused => {
                let known = refused.is_error("CLUSTERDOWN") || refused.is_error("TRYAGAIN");
                assert!(known, "without a lease, the node answers {refused:?}");
                return if refused.is_error("CLUSTERDOWN") { Ok(()) } else { Err(refused.text()) };
            }
        };
        last = begun;
        history.add(Op { key: key.to_owned(), action: Action::Read(value), begin, end: Some(history.now()) });
        Err("it answers".to_owned())
    });
    last
}

/// `cut` leaves node `alone` without a quorum. The node must refuse to serve within a lease. Meanwhile, a slot changes
/// its owner and is written to through the other nodes; no read through node `alone` may be stale. After the cut, all
/// nodes serve again.
fn check_partition(cluster: &Cluster, alone: u16, cut: impl Fn(&Mesh, u16, [u16; 2])) {
    let others = [alone % 3 + 1, (alone + 1) % 3 + 1];
    let (key, slot) = key_of_group_1(cluster);
    let registers: Vec<String> = (0..4).map(|n| format!("register{n}")).collect();
    let ports: Vec<u16> = (1..=3).map(|id| cluster.node(id).client_port).collect();
    let load = Load::start(&ports, &registers);
    load.wait_more(300);

    let history = History::default();
    let reader = {
        let (port, key, history) = (cluster.node(alone).client_port, key.clone(), history.clone());
        thread::spawn(move || read_until_refused(port, &key, &history))
    };
    cut(cluster.mesh(), alone, others);
    let cut_at = Instant::now();

    let leader = cluster.leader_of(&others);
    let cli = cluster.node(leader).cli();
    cli.ok(&["slot", "assign", &slot, "2", "--timeout", "60s"]);
    let begin = history.now();
    let mut elsewhere = cluster.node(others[1]).client();
    wait_for("the new owner to be written to", GENEROUS, || match elsewhere.call(&["SET", &key, "1"]) {
        Ok(Reply::Simple(_)) => Ok(()),
        Ok(other) => Err(other.text()),
        Err(e) => Err(e.to_string()),
    });
    history.add(Op { key: key.clone(), action: Action::Write(1), begin, end: Some(history.now()) });
    let second = cluster.ports.product(1).to_string();
    cli.ok(&["product", "create", "second", "--port", &second, "--wait", "--timeout", "60s"]);

    let answered = reader.join().unwrap().saturating_duration_since(cut_at);
    assert!(answered < LEASE + IN_RELAY, "node {alone} answered a request that began {answered:?} after the cut");
    assert_eq!(cluster.servers[1].call(&["GET", &key]), Reply::bulk("1"));
    let mut client = cluster.node(alone).client();
    for command in [["SET", &key, "2"].as_slice(), &["GET", &key], &["GET", "register0"]] {
        let reply = client.call(command).unwrap();
        assert!(reply.is_error("CLUSTERDOWN") && reply.text().contains("not executed"), "{command:?}: {reply:?}");
    }

    load.wait_more(300);
    cluster.mesh().heal();
    cluster.wait_serving(&[1, 2, 3]);
    cluster.wait_answers(alone);
    let begin = history.now();
    let seen = cluster.node(alone).client().call(&["GET", &key]).unwrap();
    assert_eq!(seen, Reply::bulk("1"), "the node must serve by the new route table");
    history.add(Op { key, action: Action::Read(Some(1)), begin, end: Some(history.now()) });
    load.wait_more(300);
    let (seen, of_load) = load.finish();
    for (id, seen) in (1..=3).zip(&seen) {
        assert!(id == alone || seen.errors.is_empty(), "clients of node {id} received errors: {:?}", seen.errors);
    }
    linear::check(&history.ops()).unwrap();
    linear::check(&of_load.ops()).unwrap();
}

#[test]
fn a_leader_that_is_cut_off_refuses_within_a_lease_and_is_replaced() {
    let cluster = cluster();
    let old = cluster.leader();
    check_partition(&cluster, old, |mesh, alone, _| mesh.isolate(alone));
}

#[test]
fn a_leader_whose_messages_are_lost_refuses_within_a_lease_and_is_replaced() {
    let cluster = cluster();
    let old = cluster.leader();
    check_partition(&cluster, old, |mesh, alone, others| {
        others.iter().for_each(|other| mesh.cut_one_way(alone, *other))
    });
}

#[test]
fn a_follower_that_is_cut_off_refuses_within_a_lease() {
    let cluster = cluster();
    let follower = cluster.follower();
    check_partition(&cluster, follower, |mesh, alone, _| mesh.isolate(alone));
}

/// The follower receives entries from the leader, but its heartbeats and acks do not arrive.
#[test]
fn a_follower_whose_messages_are_lost_refuses_within_a_lease() {
    let cluster = cluster();
    let follower = cluster.follower();
    check_partition(&cluster, follower, |mesh, alone, others| {
        others.iter().for_each(|other| mesh.cut_one_way(alone, *other));
    });
}

/// The follower's heartbeats arrive, but the answers do not: the leader continues to grant leases that the follower
/// never receives.
#[test]
fn a_follower_that_receives_no_messages_refuses_within_a_lease() {
    let cluster = cluster();
    let follower = cluster.follower();
    check_partition(&cluster, follower, |mesh, alone, others| {
        others.iter().for_each(|other| mesh.cut_one_way(*other, alone));
    });
}

/// Two nodes do not reach each other, but both reach the third node. The cluster continues, whichever node leads.
#[test]
fn two_nodes_that_do_not_reach_each_other_serve_while_a_third_reaches_both() {
    let cluster = cluster();
    let leader = cluster.leader();
    let [one, two] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    let registers: Vec<String> = (0..4).map(|n| format!("register{n}")).collect();
    let load = Load::start(&[cluster.node(one).client_port, cluster.node(two).client_port], &registers);
    load.wait_more(200);
    cluster.mesh().cut(one, two);
    let (_, slot) = key_of_group_1(&cluster);
    cluster.node(one).cli().ok(&["slot", "assign", &slot, "2", "--wait", "--timeout", "60s"]);
    load.wait_more(2_000);
    let (seen, history) = load.finish();
    assert!(seen.iter().all(|seen| seen.errors.is_empty()), "{seen:?}");
    linear::check(&history.ops()).unwrap();
}
