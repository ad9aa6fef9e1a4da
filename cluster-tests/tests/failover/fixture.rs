//! The clusters of these tests, and the checks and waits that several tests use.

use std::time::{Duration, Instant};

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for, wait_until},
    workload::{Mix, Write, Written},
};
use pontoon::model::{ids::SlotId, slot::Layout};

/// The slots of group 2.
pub const OTHERS: &str = "512-1023";

/// The setting `down-after` of group 1 in most tests.
pub const DOWN_AFTER: &str = "down-after=800ms";

/// Starts three nodes and two groups. Group 1 has slots 0-511 and `replicas` replicas, group 2 has the other slots and
/// no replica. Starts a start_writers client on each node.
pub fn start_with_writers(replicas: usize) -> (Cluster, Vec<usize>, Written) {
    start_with_writers_and(replicas, &RedisOptions::default(), DOWN_AFTER)
}

/// As [`start_with_writers`], with these options for the servers of group 1 and this `down-after`.
pub fn start_with_writers_and(
    replicas: usize,
    options: &RedisOptions,
    down_after: &str,
) -> (Cluster, Vec<usize>, Written) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", replicas, options);
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", down_after]);
    let written = start_writers(&cluster, &servers);
    (cluster, servers, written)
}

/// Starts a start_writers client on each node, and waits until the replicas of group 1 have the writes so far.
pub fn start_writers(cluster: &Cluster, servers: &[usize]) -> Written {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    wait_replicated(cluster, servers);
    written
}

/// Waits until the replicas of a group have all writes up to now.
#[track_caller]
pub fn wait_replicated(cluster: &Cluster, servers: &[usize]) {
    // After the full copy, a primary sends nothing to a new replica before its first acknowledgement: up to a second.
    let offset = |server: usize, name: &str| {
        let info = cluster.servers[server].call(&["INFO", "replication"]).text();
        let field = info.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().parse::<u64>());
        field.and_then(Result::ok).unwrap_or_default()
    };
    let written_by_now = offset(servers[0], "master_repl_offset:");
    for replica in &servers[1..] {
        wait_until("the replicas to have all writes", GENEROUS, || {
            offset(*replica, "slave_repl_offset:") >= written_by_now
        });
    }
}

pub fn in_group_1(write: &Write) -> bool {
    Layout::Codis.slot(write.key.as_bytes()) < SlotId(512)
}

/// Returns the servers of group 1 according to the log, the primary first. The first of these nodes that answers is
/// used.
pub fn servers_of_group_1(cluster: &Cluster, nodes: &[u16]) -> Result<Vec<String>, String> {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["group", "ls", "--timeout", "2s"]));
    let groups = asked.filter_map(Result::ok).next().ok_or("no node answers")?;
    let group = groups.as_array().and_then(|all| all.iter().find(|g| g["id"] == 1)).cloned().ok_or("no group 1")?;
    let servers = group["servers"].as_array().cloned().unwrap_or_default();
    Ok(servers.iter().map(|s| s["address"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until group 1 has another primary than `than`. Returns the index of the new primary in the cluster's servers.
#[track_caller]
pub fn wait_other_primary(cluster: &Cluster, nodes: &[u16], than: usize) -> usize {
    let than = cluster.servers[than].addr();
    let primary = wait_for("group 1 to have another primary", GENEROUS, || {
        let primary = servers_of_group_1(cluster, nodes)?.first().cloned().unwrap_or_default();
        if primary == than { Err(status(cluster, nodes)) } else { Ok(primary) }
    });
    cluster.servers.iter().position(|s| s.addr() == primary).unwrap()
}

/// Returns the output of `status`, which contains what the leader waits for.
pub fn status(cluster: &Cluster, nodes: &[u16]) -> String {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["status", "--timeout", "2s"]));
    asked.filter_map(Result::ok).next().map_or_else(String::new, |status| status.to_string())
}

/// Waits until `server` reports that it follows `primary` and that its link is up.
#[track_caller]
pub fn wait_follows(cluster: &Cluster, server: usize, primary: usize) {
    let (from, to) = (cluster.servers[server].addr(), cluster.servers[primary].addr());
    wait_for(&format!("{from} to follow {to}"), GENEROUS, || follows(cluster, server, primary));
}

/// Whether a server follows another one and its link is up; otherwise what it says of its replication.
pub fn follows(cluster: &Cluster, server: usize, primary: usize) -> Result<(), String> {
    let (server, primary) = (&cluster.servers[server], &cluster.servers[primary]);
    let port = format!("master_port:{}\r", primary.port);
    let info = server.client().call(&["INFO", "replication"]).map_err(|e| e.to_string())?.text();
    let follows = info.contains("role:slave") && info.contains(&port) && info.contains("master_link_status:up");
    if follows { Ok(()) } else { Err(info) }
}

/// Stops the clients, and checks that only writes are lost that were acknowledged at most a second before `died`.
/// Clients of the other group must not have received errors.
#[track_caller]
pub fn check_losses(cluster: &Cluster, written: Written, died: Instant) -> Vec<Write> {
    let (all, lost) = written.finish(cluster.node(1).client_port);
    let early = lost.iter().filter(|w| w.at + Duration::from_secs(1) < died);
    assert_eq!(early.count(), 0, "replicated writes are lost: {lost:?}");
    assert!(lost.iter().all(|w| w.at <= died), "writes that the new primary acknowledged are lost: {lost:?}");
    let of_others = all.iter().filter(|w| w.error.is_some() && !in_group_1(w));
    assert_eq!(of_others.count(), 0, "clients of the other group received errors");
    println!("{} writes, {} acknowledged ones lost", all.len(), lost.len());
    all
}

/// Returns the output of `events`.
pub fn events(cluster: &Cluster, nodes: &[u16]) -> String {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().run(&["events"]));
    asked.filter(|ran| ran.code == 0).map(|ran| ran.out).next().unwrap_or_default()
}

#[track_caller]
pub fn wait_event(cluster: &Cluster, nodes: &[u16], what: &str) {
    wait_for(&format!("the event '{what}'"), GENEROUS, || {
        let events = events(cluster, nodes);
        if events.contains(what) { Ok(()) } else { Err(events) }
    });
}

pub const ALL: &[u16] = &[1, 2, 3];

/// Waits until the leader reports that this server answers but is no candidate, because its data may be incomplete.
#[track_caller]
pub fn wait_no_candidate(cluster: &Cluster, server: usize) {
    let addr = cluster.servers[server].addr();
    // The reason depends on what the server has loaded: its files may or may not contain the replication id.
    let whys =
        ["its data has another replication id", "no node has seen it in sync", "it reports that it is a primary"];
    wait_for("the leader to report why there is no candidate", GENEROUS, || {
        let status = status(cluster, ALL);
        let reported = whys.iter().any(|why| status.contains(&format!("{addr} is no candidate: {why}")));
        if reported { Ok(()) } else { Err(status) }
    });
}

/// Starts three nodes, group 1 with two replicas, group 2 without replicas, and all workloads on every node.
pub fn start_with_mix() -> (Cluster, Vec<usize>, Mix) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", 2, &RedisOptions::default());
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    let mix = start_mix(&cluster);
    (cluster, servers, mix)
}

/// Starts all workloads on every node.
pub fn start_mix(cluster: &Cluster) -> Mix {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, 500);
    mix.wait_more(100);
    mix
}
