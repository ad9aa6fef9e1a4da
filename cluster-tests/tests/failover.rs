//! Primaries that die, stop, come back or are replaced by hand, with clients at work: the group serves again, everything
//! follows the new primary, and what was acknowledged is there, but for what a failover may lose.
//! Knows nothing of how it is decided.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, let_pass, wait_for, wait_until},
    workload::{Mix, Write, Written},
};
use pontoon::{
    faults::{Point, Rule},
    model::{ids::SlotId, slot::Layout},
};

/// The last group's slots, for groups that stay as they are.
const OTHERS: &str = "512-1023";

/// How long group 1's primary may be silent, in most tests.
const DOWN_AFTER: &str = "down-after=800ms";

/// Three nodes; group 1 with slots 0-511 and `replicas` replicas, group 2 with the others and none; a client on each node.
fn healing(replicas: usize) -> (Cluster, Vec<usize>, Written) {
    healing_with(replicas, &RedisOptions::default(), DOWN_AFTER)
}

fn healing_with(replicas: usize, options: &RedisOptions, down_after: &str) -> (Cluster, Vec<usize>, Written) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", replicas, options);
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", down_after]);
    let written = writing(&cluster, &servers);
    (cluster, servers, written)
}

/// A client on each node; the replicas of group 1 have what was written so far.
fn writing(cluster: &Cluster, servers: &[usize]) -> Written {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    wait_replicated(cluster, servers);
    written
}

/// Waits until the replicas of a group have what was written by now.
#[track_caller]
fn wait_replicated(cluster: &Cluster, servers: &[usize]) {
    // A primary sends nothing more to a new replica before its first acknowledgement, which may take a second.
    let offset = |server: usize, name: &str| {
        let info = cluster.servers[server].call(&["INFO", "replication"]).text();
        let told = info.lines().find_map(|line| line.strip_prefix(name)).map(|told| told.trim().parse::<u64>());
        told.and_then(Result::ok).unwrap_or_default()
    };
    let written_by_now = offset(servers[0], "master_repl_offset:");
    for replica in &servers[1..] {
        wait_until("the replicas to have what was written", GENEROUS, || {
            offset(*replica, "slave_repl_offset:") >= written_by_now
        });
    }
}

fn in_group_1(write: &Write) -> bool {
    Layout::Codis.slot(write.key.as_bytes()) < SlotId(512)
}

/// The servers of group 1 as the log has them, asked through one of these nodes; the primary first.
fn servers_of_group_1(cluster: &Cluster, nodes: &[u16]) -> Result<Vec<String>, String> {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["group", "ls", "--timeout", "2s"]));
    let groups = asked.filter_map(Result::ok).next().ok_or("no node answers")?;
    let group = groups.as_array().and_then(|all| all.iter().find(|g| g["id"] == 1)).cloned().ok_or("no group 1")?;
    let servers = group["servers"].as_array().cloned().unwrap_or_default();
    Ok(servers.iter().map(|s| s["address"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until group 1 has another primary than this one. Its place among the cluster's servers.
#[track_caller]
fn wait_other_primary(cluster: &Cluster, nodes: &[u16], than: usize) -> usize {
    let than = cluster.servers[than].addr();
    let primary = wait_for("group 1 to have another primary", GENEROUS, || {
        let primary = servers_of_group_1(cluster, nodes)?.first().cloned().unwrap_or_default();
        if primary == than { Err(waiting(cluster, nodes)) } else { Ok(primary) }
    });
    cluster.servers.iter().position(|s| s.addr() == primary).unwrap()
}

/// What the leader waits for.
fn waiting(cluster: &Cluster, nodes: &[u16]) -> String {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["status", "--timeout", "2s"]));
    asked.filter_map(Result::ok).next().map_or_else(String::new, |status| status.to_string())
}

/// Waits until this server says that it follows that one, with its link up.
#[track_caller]
fn wait_follows(cluster: &Cluster, server: usize, primary: usize) {
    let (server, primary) = (&cluster.servers[server], &cluster.servers[primary]);
    let port = format!("master_port:{}\r", primary.port);
    wait_for(&format!("{} to follow {}", server.addr(), primary.addr()), GENEROUS, || {
        let info = server.client().call(&["INFO", "replication"]).map_err(|e| e.to_string())?.text();
        let follows = info.contains("role:slave") && info.contains(&port) && info.contains("master_link_status:up");
        if follows { Ok(()) } else { Err(info) }
    });
}

/// Ends the clients' work: nothing is lost but what was acknowledged shortly before `died`, and that is little.
#[track_caller]
fn lost_little(cluster: &Cluster, written: Written, died: Instant) -> Vec<Write> {
    let (all, lost) = written.finish(cluster.node(1).client_port);
    let early = lost.iter().filter(|w| w.at + Duration::from_secs(1) < died);
    assert_eq!(early.count(), 0, "writes that were replicated are lost: {lost:?}");
    assert!(lost.iter().all(|w| w.at <= died), "writes that a new primary acknowledged are lost: {lost:?}");
    let of_others = all.iter().filter(|w| w.error.is_some() && !in_group_1(w));
    assert_eq!(of_others.count(), 0, "clients of the other group noticed");
    println!("{} writes, {} acknowledged ones lost", all.len(), lost.len());
    all
}

/// What has happened to groups, as people read it.
fn events(cluster: &Cluster, nodes: &[u16]) -> String {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().run(&["events"]));
    asked.filter(|ran| ran.code == 0).map(|ran| ran.out).next().unwrap_or_default()
}

#[track_caller]
fn wait_event(cluster: &Cluster, nodes: &[u16], what: &str) {
    wait_for(&format!("the event '{what}'"), GENEROUS, || {
        let events = events(cluster, nodes);
        if events.contains(what) { Ok(()) } else { Err(events) }
    });
}

const ALL: &[u16] = &[1, 2, 3];

#[test]
fn a_primary_dies_and_comes_back() {
    let (mut cluster, servers, written) = healing(2);
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
    let again = written.wait_acknowledged(in_group_1);
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    println!("writes succeed {:?} after the kill", again - died);
    assert!(servers[1..].contains(&new));
    let other = servers[1..].iter().copied().find(|s| *s != new).unwrap();
    wait_follows(&cluster, other, new);
    cluster.servers[servers[0]].restart();
    wait_follows(&cluster, servers[0], new);
    wait_event(&cluster, ALL, "resynced");
    lost_little(&cluster, written, died);
}

#[test]
fn a_primary_that_stands_still_for_long_wakes_as_nobody() {
    let (cluster, servers, written) = healing(1);
    let stopped = Instant::now();
    cluster.servers[servers[0]].pause();
    let new = wait_other_primary(&cluster, ALL, servers[0]);
    written.wait_acknowledged(in_group_1);
    // It still thinks that it is the primary, and has what clients sent it before they knew better.
    cluster.servers[servers[0]].resume();
    wait_follows(&cluster, servers[0], new);
    written.wait_acknowledged(in_group_1);
    lost_little(&cluster, written, stopped);
}

#[test]
fn a_primary_that_stands_still_for_a_moment_stays_the_primary() {
    let (cluster, servers, written) = healing_with(1, &RedisOptions::default(), "down-after=4s");
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
    let (mut cluster, servers, written) = healing(1);
    let leader = cluster.leader();
    let left: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
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

/// The leader dies, or stands still and wakes as a leader of yesterday, when a failover has come to this point; the next one
/// carries it to its end, with the same choice.
fn the_leader_is_hit_at(point: Point, dies: bool) {
    let (mut cluster, servers, written) = healing(2);
    cluster.pause_at(point);
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
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
    // A node that was just started may have to be told yet.
    wait_event(&cluster, &left, "  promoted: ");
    let told = events(&cluster, &left);
    assert_eq!(told.matches("promotion-started").count(), 1, "nobody chooses again: {told}");
    assert_eq!(cluster.servers[new].call(&["ROLE"]).text().split(' ').next(), Some("master"));
    let (_, lost) = written.finish(port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

#[test]
fn the_leader_dies_before_the_hold() {
    the_leader_is_hit_at(Point::PromotionBegun, true);
}

#[test]
fn the_leader_dies_behind_the_hold() {
    the_leader_is_hit_at(Point::PromotionHeld, true);
}

#[test]
fn the_leader_dies_behind_the_barrier() {
    the_leader_is_hit_at(Point::PromotionBarrier, true);
}

#[test]
fn the_leader_dies_behind_the_promotion_at_the_server() {
    the_leader_is_hit_at(Point::Promoted, true);
}

#[test]
fn the_leader_stands_still_behind_the_barrier_and_wakes() {
    the_leader_is_hit_at(Point::PromotionBarrier, false);
}

#[test]
fn maintenance_stops_what_happens_by_itself() {
    let (mut cluster, servers, written) = healing(2);
    cluster.cli().ok(&["maintenance", "on"]);
    let detached = &cluster.servers[servers[2]];
    assert_eq!(detached.call(&["REPLICAOF", "NO", "ONE"]), Reply::ok());
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
    wait_for("the leader to say why nothing happens", GENEROUS, || {
        let status = waiting(&cluster, ALL);
        if status.contains("maintenance is on, so nothing is done by itself") { Ok(()) } else { Err(status) }
    });
    let same = || servers_of_group_1(&cluster, ALL).is_ok_and(|s| s[0] == cluster.servers[servers[0]].addr());
    assert!(holds_for(Duration::from_secs(2), same));
    assert!(cluster.servers[servers[2]].call(&["ROLE"]).text().starts_with("master"), "nobody wires it");
    cluster.cli().ok(&["maintenance", "off"]);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), servers[1], "the other one has left its primary");
    wait_follows(&cluster, servers[2], servers[1]);
    written.wait_acknowledged(in_group_1);
    lost_little(&cluster, written, died);
}

#[test]
fn a_replica_that_was_led_astray_follows_again() {
    let (cluster, servers, written) = healing(2);
    let [one, two] = [&cluster.servers[servers[1]], &cluster.servers[servers[2]]];
    assert_eq!(one.call(&["REPLICAOF", "NO", "ONE"]), Reply::ok());
    assert_eq!(two.call(&["REPLICAOF", "127.0.0.1", &one.port.to_string()]), Reply::ok());
    wait_follows(&cluster, servers[1], servers[0]);
    wait_follows(&cluster, servers[2], servers[0]);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty() && all.iter().all(|w| w.error.is_none()), "clients noticed");
}

#[test]
fn both_servers_die_and_the_primary_returns_first() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = healing_with(1, &options, DOWN_AFTER);
    cluster.servers[servers[1]].kill9();
    cluster.servers[servers[0]].kill9();
    wait_for("the leader to say why nothing happens", GENEROUS, || {
        let status = waiting(&cluster, ALL);
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
    let (mut cluster, servers, written) = healing_with(1, &options, DOWN_AFTER);
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].kill9();
    // It has what it had written to its disk; nobody knows how much that is.
    cluster.servers[servers[1]].launch_again();
    no_candidate(&cluster, servers[1]);
    cluster.servers[servers[0]].restart();
    written.wait_acknowledged(in_group_1);
    wait_follows(&cluster, servers[1], servers[0]);
    assert!(!events(&cluster, ALL).contains("promotion-started"), "{}", events(&cluster, ALL));
}

/// Waits until the leader says that this server answers and is no candidate, for what its data may lack.
#[track_caller]
fn no_candidate(cluster: &Cluster, server: usize) {
    let addr = cluster.servers[server].addr();
    // By what it has loaded: it may have forgotten of which history that was.
    let whys = ["its data is of another replication id", "no node has seen it in step", "it says that it is a primary"];
    wait_for("the leader to say why nothing happens", GENEROUS, || {
        let status = waiting(cluster, ALL);
        let said = whys.iter().any(|why| status.contains(&format!("{addr} is none: {why}")));
        if said { Ok(()) } else { Err(status) }
    });
}

#[test]
fn an_operator_takes_what_is_left() {
    let options = RedisOptions { more: vec!["--appendonly".into(), "yes".into()], ..RedisOptions::default() };
    let (mut cluster, servers, written) = healing_with(1, &options, DOWN_AFTER);
    let left = cluster.servers[servers[1]].addr();
    cluster.servers[servers[0]].kill9();
    cluster.servers[servers[1]].kill9();
    cluster.servers[servers[1]].launch_again();
    no_candidate(&cluster, servers[1]);
    let why = "does not answer";
    cluster.cli().refused(&["group", "promote", "1", &left], &[why, "--force"]);
    cluster.cli().ok(&["group", "promote", "1", &left, "--force", "--wait", "--timeout", "40s"]);
    written.wait_acknowledged(in_group_1);
    cluster.servers[servers[0]].restart();
    wait_follows(&cluster, servers[0], servers[1]);
    wait_event(&cluster, ALL, " resynced: ");
}

/// The primary dies when slots are held for a switchover: it ends, and the replica replaces the primary in a failover.
#[test]
fn the_primary_dies_during_a_switchover() {
    let (mut cluster, servers, written) = healing(1);
    cluster.pause_at(Point::PromotionHeld);
    cluster.cli().ok(&["group", "promote", "1", &cluster.servers[servers[1]].addr()]);
    cluster.wait_reached(Point::PromotionHeld);
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
    cluster.go_on(Point::PromotionHeld);
    assert_eq!(wait_other_primary(&cluster, ALL, servers[0]), servers[1]);
    written.wait_acknowledged(in_group_1);
    wait_event(&cluster, ALL, "promotion-given-up");
    lost_little(&cluster, written, died);
}

/// The leader dies when a switchover has come to this point; nothing is lost.
fn the_leader_of_a_switchover_dies_at(point: Point) {
    let (mut cluster, servers, mix) = switching();
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
fn the_leader_of_a_switchover_dies_behind_the_barrier() {
    the_leader_of_a_switchover_dies_at(Point::PromotionBarrier);
}

#[test]
fn the_leader_of_a_switchover_dies_behind_the_promotion_at_the_server() {
    the_leader_of_a_switchover_dies_at(Point::Promoted);
}

/// Both groups of a migration get another primary in the middle of the copy: it begins anew, and loses nothing.
#[test]
fn primaries_are_switched_over_while_slots_move() {
    let mut cluster = Cluster::start(3);
    let from = cluster.add_group_with_replicas(1, "0-511", 1, &RedisOptions::default());
    let to = cluster.add_group_with_replicas(2, OTHERS, 1, &RedisOptions::default());
    let mix = busy(&cluster);
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
    assert!(noticed.errors.is_empty(), "clients noticed: {:?}", noticed.errors);
}

/// The primaries of both groups of a migration die in the middle of the copy, and are back as replicas before whoever copies
/// goes on: it begins anew, with those that replaced them.
#[test]
fn primaries_die_and_return_while_slots_move() {
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
    let died = Instant::now();
    groups.iter().for_each(|servers| cluster.servers[servers[0]].kill9());
    wait_for("both to be replaced", GENEROUS, || {
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
    cluster.pause_at(Point::PromotionTold);
    cluster.servers[servers[0]].pause();
    cluster.wait_reached(Point::PromotionTold);
    let begun = events(cluster, ALL);
    let begun = begun.lines().find(|line| line.contains("promotion-started")).unwrap();
    let is_chosen = |server: &&usize| begun.contains(&format!("to {}:", cluster.servers[**server].addr()));
    let chosen = *servers[1..].iter().find(is_chosen).unwrap();
    cluster.servers[chosen].pause();
    cluster.go_on(Point::PromotionTold);
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
    groups.iter().for_each(|servers| cluster.servers[servers[0]].kill9());
    let died = Instant::now();
    written.wait_acknowledged(in_group_1);
    written.wait_acknowledged(|write| !in_group_1(write));
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

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

/// Three nodes, group 1 with two replicas, group 2 with none, and clients of every kind on every node.
fn switching() -> (Cluster, Vec<usize>, Mix) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", 2, &RedisOptions::default());
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    let mix = busy(&cluster);
    (cluster, servers, mix)
}

fn busy(cluster: &Cluster) -> Mix {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, 500);
    mix.wait_more(100);
    mix
}

#[test]
fn a_switchover_costs_clients_nothing() {
    let (cluster, servers, mix) = switching();
    for to in [servers[1], servers[2], servers[0]] {
        let addr = cluster.servers[to].addr();
        cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
        assert_eq!(servers_of_group_1(&cluster, ALL).unwrap()[0], addr);
        for other in servers.iter().copied().filter(|other| *other != to) {
            wait_follows(&cluster, other, to);
        }
        mix.wait_more(100);
        // The next one has to be no outcast any more.
        wait_for("everybody to be a candidate again", GENEROUS, || {
            let events = events(&cluster, ALL);
            let (promoted, resynced) = (events.matches(" promoted: ").count(), events.matches(" resynced: ").count());
            if resynced >= promoted { Ok(()) } else { Err(events) }
        });
    }
    let noticed = mix.finish(&cluster);
    assert!(noticed.errors.is_empty(), "clients noticed: {:?}", noticed.errors);
}
