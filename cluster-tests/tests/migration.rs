//! Migrations while clients use the slots: to completion, back, paused, cancelled, and while nodes die.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::request,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::Mix,
};
use pontoon::faults::Point;
use serde_json::Value;

/// Starts three nodes, `groups` groups, and all workloads on every node.
fn start_with_mix(groups: u16) -> (Cluster, Mix) {
    let cluster = Cluster::serving(groups);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, 2_000);
    mix.wait_more(200);
    (cluster, mix)
}

/// Returns a migration as `migrate ls` shows it through this node.
fn migration(cluster: &Cluster, node: u16, id: u64) -> Result<Value, String> {
    let all = cluster.node(node).cli().try_json(&["migrate", "ls"])?;
    let found = all.as_array().and_then(|all| all.iter().find(|m| m["id"] == id)).cloned();
    found.ok_or_else(|| format!("migration {id} is not in {all}"))
}

#[track_caller]
fn wait_state(cluster: &Cluster, node: u16, id: u64, states: &[&str]) -> Value {
    wait_for(&format!("migration {id} to be {states:?}"), GENEROUS, || {
        let seen = migration(cluster, node, id)?;
        if states.iter().any(|state| seen["state"] == *state) { Ok(seen) } else { Err(seen.to_string()) }
    })
}

/// Starts the migration of these slots, which belong to one group, and returns its id.
#[track_caller]
fn start(cluster: &Cluster, node: u16, slots: &str, to: &str) -> u64 {
    let before = cluster.node(node).cli().json(&["migrate", "ls"]);
    let known = |id: &Value| before.as_array().unwrap().iter().any(|m| m["id"] == *id);
    cluster.node(node).cli().ok(&["migrate", "start", slots, "--to", to]);
    wait_for("the migration to be listed", GENEROUS, || {
        let all = cluster.node(node).cli().try_json(&["migrate", "ls"])?;
        let new = all.as_array().and_then(|all| all.iter().find(|m| !known(&m["id"])));
        new.and_then(|m| m["id"].as_u64()).ok_or_else(|| all.to_string())
    })
}

#[test]
fn slots_move_and_move_back_under_load() {
    let (cluster, mix) = start_with_mix(2);
    for to in ["2", "1"] {
        let id = start(&cluster, 1, "0-255", to);
        let done = wait_state(&cluster, 1, id, &["done"]);
        assert_eq!(done["attempt"], 1, "{done}");
        assert!(done["keys_copied"].as_u64().unwrap() > 100, "{done}");
        let slots = cluster.cli().json(&["slot", "ls"]);
        let owner = slots.as_array().unwrap().iter().find(|s| s["first"] == 0).unwrap();
        assert_eq!(owner["group"].to_string(), to);
        // The event has the required offset: a replica of the target must reach it to be promoted.
        let target = &cluster.servers[to.parse::<usize>().unwrap() - 1];
        let info = target.call(&["INFO", "replication"]);
        let replid = info.text().lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().to_owned();
        let events = cluster.cli().json(&["events"]).to_string();
        let [place, replid] = [format!("; the primary of group {to} was at offset "), format!(" of {replid}")];
        assert!(events.contains(&place) && events.contains(&replid), "{events}");
        mix.wait_more(200);
    }
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}

/// Waits until a mover begins a run of this migration, and returns its node.
#[track_caller]
fn mover_node(cluster: &Cluster, id: u64) -> u16 {
    let begun = format!("job=migration {id} ");
    wait_for("a mover to begin a run", GENEROUS, || {
        let found = cluster
            .nodes
            .iter()
            .find(|n| n.log().lines().any(|line| line.contains("a run begins") && line.contains(&begun)));
        found.map(|n| n.id).ok_or("no node has logged that it begins a run")
    })
}

#[test]
fn a_mover_node_that_dies_is_replaced() {
    let (mut cluster, mix) = start_with_mix(2);
    let leader = cluster.leader();
    cluster.pause_at(Point::BeforeHold);
    let id = start(&cluster, leader, "0-255", "2");
    let mover_node = mover_node(&cluster, id);
    let leader = cluster.wait_reached(Point::BeforeHold);
    assert_ne!(mover_node, leader, "the leader should not execute runs");
    cluster.node_mut(mover_node).kill9();
    cluster.go_on(Point::BeforeHold);
    let done = wait_state(&cluster, leader, id, &["done"]);
    assert!(done["attempt"].as_u64().unwrap() >= 2, "{done}");
    cluster.node_mut(mover_node).start();
    cluster.wait_serving(&[1, 2, 3]);
    let noticed = mix.finish(&cluster);
    let dead = cluster.node(mover_node).client_port;
    let errors: Vec<_> = noticed.errors.iter().filter(|(port, _)| *port != dead).collect();
    assert!(errors.is_empty(), "clients of other nodes received errors: {errors:?}");
}

/// Kills the leader with SIGKILL at a point of the cut-over. The next leader completes the migration, and no write is
/// lost.
fn leader_dies_at(point: Point) {
    let (mut cluster, mix) = start_with_mix(2);
    cluster.pause_at(point);
    let id = start(&cluster, 1, "0-255", "2");
    let leader = cluster.wait_reached(point);
    cluster.node_mut(leader).kill9();
    cluster.go_on(point);
    let done = wait_state(&cluster, leader % 3 + 1, id, &["done"]);
    cluster.node_mut(leader).start();
    cluster.wait_serving(&[1, 2, 3]);
    let noticed = mix.finish(&cluster);
    let dead = cluster.node(leader).client_port;
    let errors: Vec<_> = noticed.errors.iter().filter(|(port, _)| *port != dead).collect();
    assert!(errors.is_empty(), "clients of other nodes received errors: {errors:?}; {done}");
}

#[test]
fn the_leader_dies_while_keys_are_copied() {
    let (mut cluster, mix) = start_with_mix(2);
    cluster.pause_at(Point::Copying);
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    let id = start(&cluster, other, "0-255", "2");
    let mover_node = mover_node(&cluster, id);
    cluster.node(mover_node).faults.wait_reached(Point::Copying);
    cluster.node_mut(leader).kill9();
    let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    cluster.leader_of(&others);
    cluster.go_on(Point::Copying);
    // The mover continues under the next leader.
    let done = wait_state(&cluster, other, id, &["done"]);
    assert_eq!(done["attempt"], 1, "{done}");
    cluster.node_mut(leader).start();
    cluster.wait_serving(&[1, 2, 3]);
    let noticed = mix.finish(&cluster);
    let dead = cluster.node(leader).client_port;
    let errors: Vec<_> = noticed.errors.iter().filter(|(port, _)| *port != dead).collect();
    assert!(errors.is_empty(), "clients of other nodes received errors: {errors:?}");
}

#[test]
fn the_leader_dies_while_slots_are_held() {
    leader_dies_at(Point::Held);
}

#[test]
fn the_leader_dies_when_the_mover_has_finished() {
    leader_dies_at(Point::Finished);
}

#[test]
fn the_leader_dies_when_the_run_is_closed() {
    leader_dies_at(Point::BeforeSwitch);
}

#[test]
fn the_leader_dies_after_the_switch() {
    leader_dies_at(Point::Switched);
}

#[test]
fn a_migration_is_paused_resumed_and_cancelled() {
    let (cluster, mix) = start_with_mix(2);
    let cli = cluster.cli();
    cluster.pause_at(Point::BeforeHold);
    let id = start(&cluster, 1, "0-255", "2");
    cluster.wait_reached(Point::BeforeHold);
    cli.ok(&["migrate", "pause", &id.to_string()]);
    wait_state(&cluster, 1, id, &["paused"]);
    cluster.go_on(Point::BeforeHold);
    mix.wait_more(100);
    assert_eq!(migration(&cluster, 1, id).unwrap()["state"], "paused");
    cluster.pause_at(Point::BeforeHold);
    cli.ok(&["migrate", "resume", &id.to_string()]);
    cluster.wait_reached(Point::BeforeHold);
    assert_eq!(migration(&cluster, 1, id).unwrap()["attempt"], 2);
    cli.ok(&["migrate", "cancel", &id.to_string()]);
    cluster.go_on(Point::BeforeHold);
    wait_state(&cluster, 1, id, &["cancelled"]);
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}

#[test]
fn two_migrations_share_a_source_and_a_target() {
    let (cluster, mix) = start_with_mix(3);
    // The first two have the same source, so they run one after the other. Two migrations to group 3 may run at the
    // same time.
    let ids = [("0-99", "3"), ("100-199", "2"), ("400-499", "3")].map(|(slots, to)| start(&cluster, 1, slots, to));
    for id in ids {
        wait_state(&cluster, 1, id, &["done"]);
    }
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}

#[test]
fn a_source_that_hangs_for_a_moment_causes_a_release_but_no_new_attempt() {
    let mut cluster = Cluster::start(3);
    let debug = RedisOptions { more: vec!["--enable-debug-command".into(), "yes".into()], ..RedisOptions::default() };
    let (a, b) = (cluster.add_server(&debug), cluster.add_server(&debug));
    let cli = cluster.cli();
    cli.ok(&["group", "create", "1", "--primary", &cluster.servers[a].addr()]);
    cli.ok(&["group", "create", "2", "--primary", &cluster.servers[b].addr()]);
    cli.ok(&["slot", "assign", "0-511", "1"]);
    cli.ok(&["slot", "assign", "512-1023", "2", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, 500);
    mix.wait_more(100);
    cluster.pause_at(Point::BeforeHold);
    let id = start(&cluster, 1, "0-255", "2");
    let leader = cluster.wait_reached(Point::BeforeHold);
    // Longer than a hold may last: the requests in flight at the server are not answered before the hold is released.
    let mut client = cluster.servers[a].client();
    client.send(&request(&["DEBUG", "SLEEP", "0.6"])).unwrap();
    cluster.go_on(Point::BeforeHold);
    let done = wait_state(&cluster, 1, id, &["done"]);
    assert_eq!(done["attempt"], 1, "{done}");
    assert!(cluster.node(leader).log().contains("its slots are released"), "the hold was not released");
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
}
