//! Clusters for these tests, and what is asked of them all the time.

use std::time::{Duration, Instant};

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for, wait_until},
    workload::{Mix, Write, Written},
};
use pontoon::model::{ids::SlotId, slot::Layout};

/// The last group's slots, for groups that stay as they are.
pub const OTHERS: &str = "512-1023";

/// How long group 1's primary may be silent, in most tests.
pub const DOWN_AFTER: &str = "down-after=800ms";

/// Three nodes; group 1 with slots 0-511 and `replicas` replicas, group 2 with the others and none; a client on each node.
pub fn healing(replicas: usize) -> (Cluster, Vec<usize>, Written) {
    healing_with(replicas, &RedisOptions::default(), DOWN_AFTER)
}

pub fn healing_with(replicas: usize, options: &RedisOptions, down_after: &str) -> (Cluster, Vec<usize>, Written) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", replicas, options);
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    cluster.cli().ok(&["group", "set", "1", down_after]);
    let written = writing(&cluster, &servers);
    (cluster, servers, written)
}

/// A client on each node; the replicas of group 1 have what was written so far.
pub fn writing(cluster: &Cluster, servers: &[usize]) -> Written {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    wait_replicated(cluster, servers);
    written
}

/// Waits until the replicas of a group have what was written by now.
#[track_caller]
pub fn wait_replicated(cluster: &Cluster, servers: &[usize]) {
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

pub fn in_group_1(write: &Write) -> bool {
    Layout::Codis.slot(write.key.as_bytes()) < SlotId(512)
}

/// The servers of group 1 as the log has them, asked through one of these nodes; the primary first.
pub fn servers_of_group_1(cluster: &Cluster, nodes: &[u16]) -> Result<Vec<String>, String> {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["group", "ls", "--timeout", "2s"]));
    let groups = asked.filter_map(Result::ok).next().ok_or("no node answers")?;
    let group = groups.as_array().and_then(|all| all.iter().find(|g| g["id"] == 1)).cloned().ok_or("no group 1")?;
    let servers = group["servers"].as_array().cloned().unwrap_or_default();
    Ok(servers.iter().map(|s| s["address"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Waits until group 1 has another primary than this one. Its place among the cluster's servers.
#[track_caller]
pub fn wait_other_primary(cluster: &Cluster, nodes: &[u16], than: usize) -> usize {
    let than = cluster.servers[than].addr();
    let primary = wait_for("group 1 to have another primary", GENEROUS, || {
        let primary = servers_of_group_1(cluster, nodes)?.first().cloned().unwrap_or_default();
        if primary == than { Err(waiting(cluster, nodes)) } else { Ok(primary) }
    });
    cluster.servers.iter().position(|s| s.addr() == primary).unwrap()
}

/// What the leader waits for.
pub fn waiting(cluster: &Cluster, nodes: &[u16]) -> String {
    let asked = nodes.iter().map(|id| cluster.node(*id).cli().try_json(&["status", "--timeout", "2s"]));
    asked.filter_map(Result::ok).next().map_or_else(String::new, |status| status.to_string())
}

/// Waits until this server says that it follows that one, with its link up.
#[track_caller]
pub fn wait_follows(cluster: &Cluster, server: usize, primary: usize) {
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
pub fn lost_little(cluster: &Cluster, written: Written, died: Instant) -> Vec<Write> {
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

/// Waits until the leader says that this server answers and is no candidate, for what its data may lack.
#[track_caller]
pub fn no_candidate(cluster: &Cluster, server: usize) {
    let addr = cluster.servers[server].addr();
    // By what it has loaded: it may have forgotten of which history that was.
    let whys = ["its data has another replication id", "no node has seen it in sync", "it reports that it is a primary"];
    wait_for("the leader to say why nothing happens", GENEROUS, || {
        let status = waiting(cluster, ALL);
        let said = whys.iter().any(|why| status.contains(&format!("{addr} is no candidate: {why}")));
        if said { Ok(()) } else { Err(status) }
    });
}

/// Three nodes, group 1 with two replicas, group 2 with none, and clients of every kind on every node.
pub fn switching() -> (Cluster, Vec<usize>, Mix) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", 2, &RedisOptions::default());
    cluster.add_group_with_replicas(2, OTHERS, 0, &RedisOptions::default());
    let mix = busy(&cluster);
    (cluster, servers, mix)
}

pub fn busy(cluster: &Cluster) -> Mix {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let mix = Mix::start(&ports, 500);
    mix.wait_more(100);
    mix
}
