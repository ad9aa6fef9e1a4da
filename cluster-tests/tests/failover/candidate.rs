//! The candidate of a failover: which replica is promoted, and what happens when it dies, hangs or is restarted.

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::Written,
};
use pontoon::faults::{Point, Rule};

use crate::fixture::{
    ALL, DOWN_AFTER, events, in_group_1, servers_of_group_1, start_with_writers, start_with_writers_and, start_writers,
    wait_event, wait_follows, wait_other_primary, wait_replicated,
};

/// The primary dies while one replica lags, although its link is up, and the other replica has all writes. Returns
/// whether the last write still exists after the failover.
fn one_replica_lags(rule: bool) -> bool {
    let mut cluster = Cluster::prepared(3);
    if !rule {
        cluster.nodes.iter().for_each(|n| n.faults.without(Rule::LargestOffset));
    }
    cluster.start_all();
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", DOWN_AFTER]);
    cluster.wait_answers(1);
    // A replica that has never received a write is no candidate.
    wait_replicated(&cluster, &servers);
    let mut client = Client::connect(cluster.node(1).client_port).unwrap();
    // More data than fits into the socket buffers of the connection to the stopped replica.
    cluster.servers[servers[1]].pause();
    let large = "x".repeat(1 << 20);
    for n in 0..24 {
        assert_eq!(client.call(&["SET", &format!("large{n}"), &large]).unwrap(), Reply::ok());
    }
    assert_eq!(client.call(&["SET", "last", "one"]).unwrap(), Reply::ok());
    wait_for("the other replica to have the last write", GENEROUS, || {
        match cluster.servers[servers[2]].call(&["GET", "last"]) {
            Reply::Bulk(_) => Ok(()),
            other => Err(other.text()),
        }
    });
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].resume();
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    let kept = cluster.servers[new].call(&["GET", "last"]) == Reply::bulk("one");
    assert_eq!(kept, new == servers[2]);
    kept
}

#[test]
fn the_replica_with_the_largest_offset_is_promoted() {
    assert!(one_replica_lags(true));
}

#[test]
fn without_that_rule_replicated_writes_are_lost() {
    assert!(!one_replica_lags(false), "no write is lost without the rule, so the test above proves nothing");
}

/// The candidate dies while the group's slots are held. The old primary returns, and serves again.
#[test]
fn the_candidate_dies_and_the_old_primary_returns() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = start_with_writers_and(1, &options, DOWN_AFTER);
    cluster.pause_at(Point::PromotionBarrier);
    cluster.servers[servers[0]].kill9();
    cluster.wait_reached(Point::PromotionBarrier);
    cluster.servers[servers[1]].kill9();
    cluster.go_on(Point::PromotionBarrier);
    cluster.servers[servers[0]].restart();
    wait_event(&cluster, ALL, "promotion-given-up");
    written.wait_acknowledged(in_group_1);
    cluster.servers[servers[1]].restart();
    wait_follows(&cluster, servers[1], servers[0]);
    wait_event(&cluster, ALL, "resynced");
}

/// The candidate dies while the group's slots are held, before the leader sends it REPLICAOF NO ONE. The other replica
/// is promoted.
#[test]
fn the_candidate_dies_and_another_replica_is_promoted() {
    the_candidate_dies(false);
}

/// As above, but a service manager restarts the candidate at once: it answers, but no longer has the data for which it
/// was selected.
#[test]
fn the_candidate_is_restarted_and_another_replica_is_promoted() {
    the_candidate_dies(true);
}

fn the_candidate_dies(and_returns: bool) {
    let (mut cluster, servers, written) = start_with_writers(2);
    cluster.pause_at(Point::PromotionBarrier);
    cluster.servers[servers[0]].kill9();
    cluster.wait_reached(Point::PromotionBarrier);
    let begun = events(&cluster, ALL);
    let begun = begun.lines().find(|line| line.contains("promotion-started")).unwrap();
    let is_candidate = |server: &usize| begun.contains(&format!("to {}:", cluster.servers[*server].addr()));
    let (candidate, other): (Vec<usize>, Vec<usize>) = servers[1..].iter().partition(|server| is_candidate(server));
    cluster.servers[candidate[0]].kill9();
    if and_returns {
        // The primary is dead, so the candidate's link stays down.
        cluster.servers[candidate[0]].launch_again();
    }
    cluster.go_on(Point::PromotionBarrier);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), other[0]);
    written.wait_acknowledged(in_group_1);
}

/// The candidate hangs for longer than a hold when REPLICAOF NO ONE may have been sent. The slots are released. Then
/// both servers continue, and the old primary accepts writes at once. It stays the primary, and none of its writes is
/// lost.
#[test]
fn both_servers_continue_after_a_released_hold() {
    let (cluster, servers, written) = start_with_writers(1);
    hang_until_released(&cluster, &servers);
    cluster.servers[servers[0]].resume();
    cluster.servers[servers[1]].resume();
    nothing_is_lost(&cluster, &servers, written);
}

/// As above with `min-acks`: the other replica has confirmed writes that the candidate never received.
#[test]
fn both_servers_continue_and_another_replica_confirms() {
    let mut cluster = Cluster::start(3);
    // One group has all slots: writes to a group without replicas would fail after two seconds each.
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", DOWN_AFTER]);
    let written = start_writers(&cluster, &servers);
    cluster.cli().ok(&["product", "set", "default", "min-acks=1", "min-acks-timeout=2s"]);
    written.wait_acknowledged(in_group_1);
    let candidate = hang_until_released(&cluster, &servers);
    cluster.servers[servers[0]].resume();
    written.wait_acknowledged(in_group_1);
    cluster.servers[candidate].resume();
    nothing_is_lost(&cluster, &servers, written);
}

/// Stops the primary, and stops the candidate when REPLICAOF NO ONE may have been sent. Waits until the hold is
/// released. Returns the candidate.
fn hang_until_released(cluster: &Cluster, servers: &[usize]) -> usize {
    cluster.pause_at(Point::BeforePromote);
    cluster.servers[servers[0]].pause();
    cluster.wait_reached(Point::BeforePromote);
    let begun = events(cluster, ALL);
    let begun = begun.lines().find(|line| line.contains("promotion-started")).unwrap();
    let is_candidate = |server: &&usize| begun.contains(&format!("to {}:", cluster.servers[**server].addr()));
    let candidate = *servers[1..].iter().find(is_candidate).unwrap();
    cluster.servers[candidate].pause();
    cluster.go_on(Point::BeforePromote);
    wait_event(cluster, ALL, "promotion-released");
    candidate
}

#[track_caller]
fn nothing_is_lost(cluster: &Cluster, servers: &[usize], written: Written) {
    wait_event(cluster, ALL, "promotion-given-up");
    written.wait_acknowledged(in_group_1);
    for replica in &servers[1..] {
        wait_follows(cluster, *replica, servers[0]);
    }
    written.wait_acknowledged(in_group_1);
    assert_eq!(servers_of_group_1(cluster, ALL).unwrap()[0], cluster.servers[servers[0]].addr());
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), all.len());
}
