//! Switchovers: primaries that an operator replaces.

use std::time::Instant;

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};
use pontoon::faults::Point;

use crate::fixture::{
    ALL, OTHERS, check_losses, events, in_group_1, servers_of_group_1, start_mix, start_with_mix, start_with_writers,
    wait_event, wait_follows, wait_other_primary,
};

#[test]
fn clients_receive_no_errors_during_a_switchover() {
    let (cluster, servers, mix) = start_with_mix();
    for to in [servers[1], servers[2], servers[0]] {
        let addr = cluster.servers[to].addr();
        cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
        assert_eq!(servers_of_group_1(&cluster, ALL).unwrap()[0], addr);
        for other in servers.iter().copied().filter(|other| *other != to) {
            wait_follows(&cluster, other, to);
        }
        mix.wait_more(100);
        // The next candidate must not be marked as diverged any more.
        wait_for("all former primaries to have resynced", GENEROUS, || {
            let events = events(&cluster, ALL);
            let (promoted, resynced) = (events.matches(" promoted: ").count(), events.matches(" resynced: ").count());
            if resynced >= promoted { Ok(()) } else { Err(events) }
        });
    }
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}

/// The primary dies while slots are held for a switchover. The switchover is given up, and a failover promotes the
/// replica.
#[test]
fn the_primary_dies_during_a_switchover() {
    let (mut cluster, servers, written) = start_with_writers(1);
    cluster.pause_at(Point::PromotionHeld);
    cluster.cli().ok(&["group", "promote", "1", &cluster.servers[servers[1]].addr()]);
    cluster.wait_reached(Point::PromotionHeld);
    cluster.servers[servers[0]].kill9();
    let died = Instant::now();
    cluster.go_on(Point::PromotionHeld);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), servers[1]);
    written.wait_acknowledged(in_group_1);
    wait_event(&cluster, ALL, "promotion-given-up");
    check_losses(&cluster, written, died);
}

/// The leader dies when a switchover has reached this point. No write is lost.
fn the_leader_of_a_switchover_dies_at(point: Point) {
    let (mut cluster, servers, mix) = start_with_mix();
    cluster.pause_at(point);
    cluster.cli().ok(&["group", "promote", "1", &cluster.servers[servers[1]].addr()]);
    let leader = cluster.wait_reached(point);
    cluster.node_mut(leader).kill9();
    cluster.go_on(point);
    assert_eq!(wait_other_primary(&cluster, &[leader % 3 + 1], servers[0]), servers[1]);
    cluster.node_mut(leader).start();
    cluster.wait_serving(ALL);
    wait_follows(&cluster, servers[0], servers[1]);
    mix.wait_more(50);
    mix.finish(&cluster);
}

#[test]
fn the_leader_of_a_switchover_dies_after_the_barrier() {
    the_leader_of_a_switchover_dies_at(Point::PromotionBarrier);
}

#[test]
fn the_leader_of_a_switchover_dies_after_replicaof_no_one() {
    the_leader_of_a_switchover_dies_at(Point::Promoted);
}

/// Both groups of a migration get a new primary during the copy. The migration starts a new attempt, and no write is
/// lost.
#[test]
fn primaries_are_replaced_during_a_migration() {
    let mut cluster = Cluster::start(3);
    let from = cluster.add_group_with_replicas(1, "0-511", 1, &RedisOptions::default());
    let to = cluster.add_group_with_replicas(2, OTHERS, 1, &RedisOptions::default());
    let mix = start_mix(&cluster);
    cluster.pause_at(Point::Copying);
    cluster.cli().ok(&["migrate", "start", "0-255", "--to", "2"]);
    cluster.wait_reached(Point::Copying);
    for (group, server) in [("1", from[1]), ("2", to[1])] {
        let addr = cluster.servers[server].addr();
        cluster.cli().ok(&["group", "promote", group, &addr, "--wait", "--timeout", "40s"]);
    }
    cluster.go_on(Point::Copying);
    wait_for("the migration to be done", GENEROUS, || {
        let all = cluster.cli().try_json(&["migrate", "ls"])?;
        let done = all.as_array().and_then(|all| all.first()).filter(|m| m["state"] == "done");
        done.map(|m| assert!(m["attempt"].as_u64().unwrap() >= 2, "{m}")).ok_or_else(|| all.to_string())
    });
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}
