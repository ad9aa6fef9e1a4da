//! Tests of the checkers of the workloads: they find no violation in a healthy cluster, and they detect changes that
//! are made directly at the servers.

#![allow(clippy::unwrap_used)]

use cluster_tests::{client::Reply, cluster::Cluster, workload::Mix};

fn start_mix(cluster: &Cluster) -> Mix {
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let mix = Mix::start(&ports, 400);
    mix.wait_more(400);
    mix
}

#[test]
fn a_healthy_cluster_has_no_violations() {
    let cluster = Cluster::serving(2);
    let noticed = start_mix(&cluster).finish(&cluster);
    assert!(noticed.errors.is_empty(), "{:?}", noticed.errors);
    assert!(noticed.answered >= 800);
}

#[test]
fn changes_at_the_servers_are_detected() {
    let cluster = Cluster::serving(2);
    let mix = start_mix(&cluster);
    let server = |key: &str| {
        let group = cluster.locate(key)["group"].as_u64().unwrap();
        &cluster.servers[usize::try_from(group - 1).unwrap()]
    };
    let other = |key: &str| {
        let group = cluster.locate(key)["group"].as_u64().unwrap();
        &cluster.servers[usize::try_from(2 - group).unwrap()]
    };
    assert_eq!(server("cold7").call(&["DEL", "cold7"]), Reply::Integer(1));
    assert_eq!(server("cold9").call(&["SET", "cold9", "another"]), Reply::ok());
    assert_eq!(other("cold14").call(&["SET", "cold14", "staged"]), Reply::ok());
    assert!(matches!(server("counter3").call(&["DECR", "counter3"]), Reply::Integer(_)));
    assert!(matches!(server("list5").call(&["LPOP", "list5"]), Reply::Bulk(_)));
    assert!(matches!(server("session1-2").call(&["DEL", "session1-2"]), Reply::Integer(1)));
    // Instants of expiry: a millisecond later, an hour later, and a life that should have ended.
    let Reply::Integer(at) = server("cold12").call(&["PEXPIRETIME", "cold12"]) else { panic!("no instant") };
    assert_eq!(server("cold12").call(&["PEXPIREAT", "cold12", &(at + 1).to_string()]), Reply::Integer(1));
    // Several sessions, since a client may refresh one before it looks.
    for key in (0..6).map(|n| format!("session2-{n}")) {
        assert!(matches!(server(&key).call(&["PEXPIRE", &key, "3600000"]), Reply::Integer(_)));
    }
    assert_eq!(server("brief119").call(&["SET", "brief119", "back"]), Reply::ok());
    mix.wait_more(1500);
    let wrong = mix.verdict(&cluster).expect_err("no violation was found").join("\n");
    for key in ["cold7", "cold9", "cold14", "counter3", "list5", "session1-2", "session2-", "cold12", "brief119"] {
        assert!(wrong.contains(key), "no violation was found for {key}:\n{wrong}");
    }
}
