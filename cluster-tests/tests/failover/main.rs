//! Failovers and switchovers under load: primaries die, hang, return or are replaced by an operator. The group must
//! serve again, all servers must follow the new primary, and no acknowledged write may be lost, except the writes that
//! a failover may lose.

#![allow(clippy::unwrap_used)]

mod candidate;
mod fixture;
mod switchover;

use std::time::{Duration, Instant};

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, let_pass, wait_for},
    workload::Written,
};
use pontoon::faults::Point;

use fixture::{
    ALL, DOWN_AFTER, OTHERS, check_losses, events, follows, in_group_1, servers_of_group_1, start_with_writers,
    start_with_writers_and, status, wait_event, wait_follows, wait_no_candidate, wait_other_primary, wait_replicated,
};

#[test]
fn a_primary_dies_and_returns() {
    let (mut cluster, servers, written) = start_with_writers(2);
    cluster.servers[servers[0]].kill9();
    let died = Instant::now();
    let again = written.wait_acknowledged(in_group_1);
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    println!("writes succeed {:?} after the kill", again - died);
    assert!(servers[1..].contains(&new));
    let other = servers[1..].iter().copied().find(|s| *s != new).unwrap();
    wait_follows(&cluster, other, new);
    cluster.servers[servers[0]].restart();
    wait_follows(&cluster, servers[0], new);
    wait_event(&cluster, ALL, "resynced");
    check_losses(&cluster, written, died);
}

#[test]
fn a_primary_that_hangs_is_replaced_and_becomes_a_replica() {
    let (cluster, servers, written) = start_with_writers(1);
    let stopped = Instant::now();
    cluster.servers[servers[0]].pause();
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    written.wait_acknowledged(in_group_1);
    // The server still acts as a primary, and executes the requests that it received before the nodes knew the new
    // primary.
    cluster.servers[servers[0]].resume();
    wait_follows(&cluster, servers[0], new);
    written.wait_acknowledged(in_group_1);
    check_losses(&cluster, written, stopped);
}

#[test]
fn a_primary_that_hangs_for_less_than_down_after_stays_the_primary() {
    let (cluster, servers, written) = start_with_writers_and(1, &RedisOptions::default(), "down-after=4s");
    cluster.servers[servers[0]].pause();
    let_pass(Duration::from_millis(1500));
    cluster.servers[servers[0]].resume();
    written.wait_acknowledged(in_group_1);
    let same = || servers_of_group_1(&cluster, ALL).is_ok_and(|s| s[0] == cluster.servers[servers[0]].addr());
    assert!(holds_for(Duration::from_secs(4), same), "{}", events(&cluster, ALL));
    assert!(!events(&cluster, ALL).contains("promotion"), "{}", events(&cluster, ALL));
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn the_leader_dies_with_the_primary() {
    let (mut cluster, servers, written) = start_with_writers(1);
    let leader = cluster.leader();
    let left: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    cluster.servers[servers[0]].kill9();
    let died = Instant::now();
    cluster.node_mut(leader).kill9();
    let ports: Vec<u16> = left.iter().map(|id| cluster.node(*id).client_port).collect();
    let again = written.wait_acknowledged(|w| in_group_1(w) && ports.contains(&w.port));
    println!("writes succeed {:?} after the kill", again - died);
    wait_other_primary(&cluster, &left, servers[0]);
    cluster.node_mut(leader).start();
    cluster.wait_serving(ALL);
    let dead = cluster.node(leader).client_port;
    let (_, lost) = written.finish(cluster.node(left[0]).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{dead}: {lost:?}");
}

/// The leader dies, or hangs and continues as a deposed leader, when a failover has reached this point. The next leader
/// completes the failover with the same candidate.
fn the_leader_is_hit_at(point: Point, dies: bool) {
    let (mut cluster, servers, written) = start_with_writers(2);
    cluster.pause_at(point);
    cluster.servers[servers[0]].kill9();
    let died = Instant::now();
    let leader = cluster.wait_reached(point);
    let left: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    if dies {
        cluster.node_mut(leader).kill9();
    } else {
        cluster.node(leader).pause();
    }
    cluster.go_on(point);
    let new = wait_other_primary(&cluster, &left, servers[0]);
    let port = cluster.node(left[0]).client_port;
    written.wait_acknowledged(|w| in_group_1(w) && w.port == port);
    if dies {
        cluster.node_mut(leader).start();
    } else {
        cluster.node(leader).resume();
    }
    cluster.wait_serving(ALL);
    let other = servers[1..].iter().copied().find(|s| *s != new).unwrap();
    wait_follows(&cluster, other, new);
    // A node that was just restarted may not have the latest entries yet.
    wait_event(&cluster, &left, "  promoted: ");
    let events = events(&cluster, &left);
    assert_eq!(events.matches("promotion-started").count(), 1, "a second candidate was selected: {events}");
    assert_eq!(cluster.servers[new].call(&["ROLE"]).text().split(' ').next(), Some("master"));
    let (_, lost) = written.finish(port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

#[test]
fn the_leader_dies_before_the_hold() {
    the_leader_is_hit_at(Point::PromotionBegun, true);
}

#[test]
fn the_leader_dies_after_the_hold() {
    the_leader_is_hit_at(Point::PromotionHeld, true);
}

#[test]
fn the_leader_dies_after_the_barrier() {
    the_leader_is_hit_at(Point::PromotionBarrier, true);
}

#[test]
fn the_leader_dies_after_replicaof_no_one() {
    the_leader_is_hit_at(Point::Promoted, true);
}

#[test]
fn the_leader_hangs_after_the_barrier_and_continues() {
    the_leader_is_hit_at(Point::PromotionBarrier, false);
}

#[test]
fn maintenance_stops_all_automatic_actions() {
    let (mut cluster, servers, written) = start_with_writers(2);
    cluster.cli().ok(&["maintenance", "on"]);
    let detached = &cluster.servers[servers[2]];
    assert_eq!(detached.call(&["REPLICAOF", "NO", "ONE"]), Reply::ok());
    cluster.servers[servers[0]].kill9();
    let died = Instant::now();
    wait_for("the leader to report that maintenance is on", GENEROUS, || {
        let status = status(&cluster, ALL);
        if status.contains("maintenance is on, so nothing is done automatically") { Ok(()) } else { Err(status) }
    });
    let same = || servers_of_group_1(&cluster, ALL).is_ok_and(|s| s[0] == cluster.servers[servers[0]].addr());
    assert!(holds_for(Duration::from_secs(2), same));
    assert!(
        cluster.servers[servers[2]].call(&["ROLE"]).text().starts_with("master"),
        "reconciliation acted during maintenance"
    );
    cluster.cli().ok(&["maintenance", "off"]);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), servers[1], "the other server has left its primary");
    wait_follows(&cluster, servers[2], servers[1]);
    written.wait_acknowledged(in_group_1);
    check_losses(&cluster, written, died);
}

#[test]
fn a_replica_that_follows_another_server_is_reconciled() {
    let (cluster, servers, written) = start_with_writers(2);
    let [one, two] = [&cluster.servers[servers[1]], &cluster.servers[servers[2]]];
    assert_eq!(one.call(&["REPLICAOF", "NO", "ONE"]), Reply::ok());
    assert_eq!(two.call(&["REPLICAOF", "127.0.0.1", &one.port.to_string()]), Reply::ok());
    wait_follows(&cluster, servers[1], servers[0]);
    wait_follows(&cluster, servers[2], servers[0]);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty() && all.iter().all(|w| w.error.is_none()), "clients received errors, or writes are lost");
}

#[test]
fn both_servers_die_and_the_primary_returns_first() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = start_with_writers_and(1, &options, DOWN_AFTER);
    cluster.servers[servers[1]].kill9();
    cluster.servers[servers[0]].kill9();
    wait_for("the leader to report that no replica can replace the primary", GENEROUS, || {
        let status = status(&cluster, ALL);
        if status.contains("no replica can replace it") { Ok(()) } else { Err(status) }
    });
    cluster.servers[servers[0]].restart();
    written.wait_acknowledged(in_group_1);
    cluster.servers[servers[1]].restart();
    wait_follows(&cluster, servers[1], servers[0]);
    assert!(!events(&cluster, ALL).contains("promotion-started"), "{}", events(&cluster, ALL));
}

#[test]
fn both_servers_die_and_the_replica_returns_first() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = start_with_writers_and(1, &options, DOWN_AFTER);
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].kill9();
    // The replica has only the data that it had written to its disk, and no node knows how much that is.
    cluster.servers[servers[1]].launch_again();
    wait_no_candidate(&cluster, servers[1]);
    assert!(!events(&cluster, ALL).contains("promotion-started"), "{}", events(&cluster, ALL));
    cluster.servers[servers[0]].restart();
    written.wait_acknowledged(in_group_1);
    // The replica may have copied the primary before most nodes have seen that it is back: then it may be promoted.
    let [primary, replica] = [servers[0], servers[1]];
    wait_for("one server to follow the other", GENEROUS, || {
        follows(&cluster, replica, primary).or_else(|_| follows(&cluster, primary, replica))
    });
}

#[test]
fn an_operator_forces_the_promotion_of_the_remaining_server() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = start_with_writers_and(1, &options, DOWN_AFTER);
    let left = cluster.servers[servers[1]].addr();
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].kill9();
    cluster.servers[servers[1]].launch_again();
    wait_no_candidate(&cluster, servers[1]);
    let why = "does not answer";
    cluster.cli().refused(&["group", "promote", "1", &left], &[why, "--force"]);
    cluster.cli().ok(&["group", "promote", "1", &left, "--force", "--wait", "--timeout", "40s"]);
    written.wait_acknowledged(in_group_1);
    cluster.servers[servers[0]].restart();
    wait_follows(&cluster, servers[0], servers[1]);
    wait_event(&cluster, ALL, " resynced: ");
}

/// The primaries of both groups of a migration die during the copy, and return as replicas before the mover continues.
/// The migration starts a new attempt with the new primaries.
#[test]
fn primaries_die_and_return_during_a_migration() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let mut cluster = Cluster::start(3);
    let groups = [(1, "0-511"), (2, OTHERS)];
    let groups = groups.map(|(gid, slots)| cluster.add_group_with_replicas(gid, slots, 1, &options));
    for gid in ["1", "2"] {
        cluster.cli().ok(&["group", "set", gid, DOWN_AFTER]);
    }
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    written.wait_acknowledged(|write| !in_group_1(write));
    groups.iter().for_each(|servers| wait_replicated(&cluster, servers));
    cluster.pause_at(Point::Copying);
    cluster.cli().ok(&["migrate", "start", "0-255", "--to", "2"]);
    cluster.wait_reached(Point::Copying);
    groups.iter().for_each(|servers| cluster.servers[servers[0]].kill9());
    let died = Instant::now();
    wait_for("both primaries to be replaced", GENEROUS, || {
        let events = events(&cluster, ALL);
        if events.matches("  promoted: ").count() == 2 { Ok(()) } else { Err(events) }
    });
    for servers in &groups {
        cluster.servers[servers[0]].restart();
        wait_follows(&cluster, servers[0], servers[1]);
    }
    cluster.go_on(Point::Copying);
    wait_for("the migration to be done", GENEROUS, || {
        let all = cluster.cli().try_json(&["migrate", "ls"])?;
        let done = all.as_array().and_then(|all| all.first()).filter(|m| m["state"] == "done");
        done.map(|m| assert!(m["attempt"].as_u64().unwrap() >= 2, "{m}")).ok_or_else(|| all.to_string())
    });
    written.wait_acknowledged(in_group_1);
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

#[test]
fn two_groups_fail_over_at_once() {
    let mut cluster = Cluster::start(3);
    let groups = [(1, "0-511"), (2, OTHERS)];
    let groups = groups.map(|(gid, slots)| cluster.add_group_with_replicas(gid, slots, 1, &RedisOptions::default()));
    for gid in ["1", "2"] {
        cluster.cli().ok(&["group", "set", gid, DOWN_AFTER]);
    }
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    written.wait_acknowledged(|write| !in_group_1(write));
    groups.iter().for_each(|servers| wait_replicated(&cluster, servers));
    groups.iter().for_each(|servers| cluster.servers[servers[0]].kill9());
    let died = Instant::now();
    written.wait_acknowledged(in_group_1);
    written.wait_acknowledged(|write| !in_group_1(write));
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}
