//! The replica that is chosen: which one, and what happens when it dies, stands still or is started again.

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::Written,
};
use pontoon::faults::{Point, Rule};

use crate::bed::{
    ALL, DOWN_AFTER, events, healing, healing_with, in_group_1, servers_of_group_1, wait_event, wait_follows,
    wait_other_primary, wait_replicated, writing,
};

/// A replica that lags, though its link is up, and one that does not; the primary dies. Whether what the second one had is
/// still there.
fn one_replica_lags(rule: bool) -> bool {
    let mut cluster = Cluster::prepared(3);
    if !rule {
        cluster.nodes.iter().for_each(|n| n.faults.without(Rule::LargestOffset));
    }
    cluster.start_all();
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", DOWN_AFTER]);
    cluster.wait_answers(1);
    // One that has received nothing at all is no candidate.
    wait_replicated(&cluster, &servers);
    let mut client = Client::connect(cluster.node(1).client_port).unwrap();
    // So much that the connection to the one that stands still cannot hold it.
    cluster.servers[servers[1]].pause();
    let large = "x".repeat(1 << 20);
    for n in 0..24 {
        assert_eq!(client.call(&["SET", &format!("large{n}"), &large]).unwrap(), Reply::ok());
    }
    assert_eq!(client.call(&["SET", "last", "one"]).unwrap(), Reply::ok());
    wait_for("the other replica to have it", GENEROUS, || match cluster.servers[servers[2]].call(&["GET", "last"]) {
        Reply::Bulk(_) => Ok(()),
        other => Err(other.text()),
    });
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].resume();
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    let kept = cluster.servers[new].call(&["GET", "last"]) == Reply::bulk("one");
    assert_eq!(kept, new == servers[2]);
    kept
}

#[test]
fn the_replica_that_is_farthest_is_promoted() {
    assert!(one_replica_lags(true));
}

#[test]
fn without_that_rule_replicated_writes_are_lost() {
    assert!(!one_replica_lags(false), "the test above shows nothing");
}

/// The chosen one dies when slots are held for it; the old primary is back, and takes over again.
#[test]
fn the_chosen_one_dies_and_the_old_primary_returns() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = healing_with(1, &options, DOWN_AFTER);
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

/// The chosen one dies when slots are held for it, before it is told anything; another one is chosen.
#[test]
fn the_chosen_one_dies_and_another_is_chosen() {
    the_chosen_one_goes(false);
}

/// The same, and whoever watches over it starts it again at once: it is there, and is not what was chosen any more.
#[test]
fn the_chosen_one_is_started_again_and_another_is_chosen() {
    the_chosen_one_goes(true);
}

fn the_chosen_one_goes(and_returns: bool) {
    let (mut cluster, servers, written) = healing(2);
    cluster.pause_at(Point::PromotionBarrier);
    cluster.servers[servers[0]].kill9();
    cluster.wait_reached(Point::PromotionBarrier);
    let begun = events(&cluster, ALL);
    let begun = begun.lines().find(|line| line.contains("promotion-started")).unwrap();
    let chosen = |server: &usize| begun.contains(&format!("to {}:", cluster.servers[*server].addr()));
    let (chosen, other): (Vec<usize>, Vec<usize>) = servers[1..].iter().partition(|server| chosen(server));
    cluster.servers[chosen[0]].kill9();
    if and_returns {
        // Its primary is dead, so its link stays down.
        cluster.servers[chosen[0]].launch_again();
    }
    cluster.go_on(Point::PromotionBarrier);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), other[0]);
    written.wait_acknowledged(in_group_1);
}

/// The chosen one is told that it is the primary and stands still for longer than a hold; slots are released, and then both are
/// back, and the old primary takes writes at once. It stays what it is, and nothing that it took is lost.
#[test]
fn both_are_back_after_a_hold_that_was_released() {
    let (cluster, servers, written) = healing(1);
    told_and_released(&cluster, &servers);
    cluster.servers[servers[0]].resume();
    cluster.servers[servers[1]].resume();
    nothing_is_lost(&cluster, &servers, written);
}

/// The same with confirmed writes: another replica has confirmed what the chosen one never got.
#[test]
fn both_are_back_and_another_replica_confirms() {
    let mut cluster = Cluster::start(3);
    // All slots: a group without replicas would confirm nothing, each write after two seconds.
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", DOWN_AFTER]);
    let written = writing(&cluster, &servers);
    cluster.cli().ok(&["product", "set", "default", "min-acks=1", "min-acks-timeout=2s"]);
    written.wait_acknowledged(in_group_1);
    let chosen = told_and_released(&cluster, &servers);
    cluster.servers[servers[0]].resume();
    written.wait_acknowledged(in_group_1);
    cluster.servers[chosen].resume();
    nothing_is_lost(&cluster, &servers, written);
}

/// The primary stands still, the chosen one as soon as it may have been told; until the hold for it is released. The chosen one.
fn told_and_released(cluster: &Cluster, servers: &[usize]) -> usize {
    cluster.pause_at(Point::PromotionSent);
    cluster.servers[servers[0]].pause();
    cluster.wait_reached(Point::PromotionSent);
    let begun = events(cluster, ALL);
    let begun = begun.lines().find(|line| line.contains("promotion-started")).unwrap();
    let is_chosen = |server: &&usize| begun.contains(&format!("to {}:", cluster.servers[**server].addr()));
    let chosen = *servers[1..].iter().find(is_chosen).unwrap();
    cluster.servers[chosen].pause();
    cluster.go_on(Point::PromotionSent);
    wait_event(cluster, ALL, "promotion-released");
    chosen
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
