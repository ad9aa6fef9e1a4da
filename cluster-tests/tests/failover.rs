//! Primaries that die, stop, come back or are replaced by hand, with clients at work: the group serves again, everything
//! follows the new primary, and what was acknowledged is there, but for what a failover may lose.
//! Knows nothing of how it is decided.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cluster_tests::{
    cluster::Cluster,
    wait::{GENEROUS, wait_for},
    workload::{Write, Written},
};
use pontoon::model::{ids::SlotId, slot::Layout};

/// The last group's slots, for groups that stay as they are.
const OTHERS: &str = "512-1023";

/// Three nodes; group 1 with slots 0-511 and `replicas` replicas, group 2 with the others and none; a client on each node.
fn healing(replicas: usize) -> (Cluster, Vec<usize>, Written) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", replicas);
    cluster.add_group_with_replicas(2, OTHERS, 0);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(in_group_1);
    (cluster, servers, written)
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

#[test]
fn a_primary_dies_and_comes_back() {
    let (mut cluster, servers, written) = healing(2);
    let died = Instant::now();
    cluster.servers[servers[0]].kill9();
    let again = written.wait_acknowledged(in_group_1);
    let new = wait_other_primary(&cluster, &[1, 2, 3], servers[0]);
    println!("writes succeed {:?} after the kill", again - died);
    assert!(servers[1..].contains(&new));
    let other = servers[1..].iter().copied().find(|s| *s != new).unwrap();
    wait_follows(&cluster, other, new);
    cluster.servers[servers[0]].restart();
    wait_follows(&cluster, servers[0], new);
    let leader = cluster.leader();
    wait_for("the old primary to be a candidate again", GENEROUS, || {
        let events = cluster.node(leader).cli().ok(&["events"]).out;
        if events.contains("resynced") { Ok(()) } else { Err(events) }
    });
    lost_little(&cluster, written, died);
}
