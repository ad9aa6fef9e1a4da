//! Nodes join, leave, and change their role and their address while the cluster serves.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    cluster::Cluster,
    load::Load,
    wait::{GENEROUS, holds_for, wait_for, wait_until},
};
use pontoon::wire::pb::admin::{SetClusterRequest, admin_client::AdminClient};

fn role(cluster: &Cluster, id: u64) -> String {
    let nodes = cluster.cli().json(&["node", "ls"]);
    let node = nodes.as_array().unwrap().iter().find(|n| n["id"] == id).cloned();
    node.map_or_else(|| "none".into(), |n| n["role"].as_str().unwrap().to_owned())
}

#[test]
fn a_node_joins_serves_votes_and_leaves() {
    let mut cluster = Cluster::serving(1);
    let load = Load::start(&[cluster.node(1).client_port, cluster.node(2).client_port], &["a".into(), "b".into()]);
    cluster.join(4);
    wait_until("node 4 to become a voter", GENEROUS, || role(&cluster, 4) == "voter");
    let mut client = wait_for("node 4 to accept clients", GENEROUS, || {
        cluster_tests::client::Client::connect(cluster.ports.client(4)).map_err(|e| e.to_string())
    });
    wait_until("node 4 to serve", GENEROUS, || client.call(&["SET", "by-4", "1"]).is_ok_and(|r| r.text() == "OK"));

    cluster.cli().ok(&["node", "set-role", "4", "learner"]);
    wait_until("node 4 to become a learner", GENEROUS, || role(&cluster, 4) == "learner");
    assert_eq!(client.call(&["GET", "by-4"]).unwrap().text(), "1", "a learner serves");
    cluster.cli().ok(&["node", "set-role", "4", "voter"]);
    wait_until("node 4 to become a voter again", GENEROUS, || role(&cluster, 4) == "voter");

    cluster.cli().ok(&["node", "remove", "4", "--timeout", "40s"]);
    assert_eq!(role(&cluster, 4), "none");
    let ended = cluster.nodes[3].wait_end(GENEROUS);
    assert!(ended.success(), "a removed node must end with success: {ended}");
    // The removed node is not admitted again with its old data.
    cluster.nodes[3].start();
    wait_until("the removed node to log that its data must be wiped", GENEROUS, || {
        !cluster.nodes[3].runs() || cluster.nodes[3].log().contains("wipe")
    });
    assert_eq!(role(&cluster, 4), "none");

    let (seen, _) = load.finish();
    for seen in seen {
        assert!(seen.errors.is_empty(), "clients of nodes 1 and 2 received errors: {:?}", seen.errors);
    }
}

#[test]
fn a_duplicate_id_is_rejected_and_nodes_beyond_the_voters_stay_learners() {
    let mut cluster = Cluster::start(3);
    cluster.cli().ok(&["cluster", "set", "voters=3"]);
    cluster.join(4);
    wait_until("node 4 to be a member", GENEROUS, || role(&cluster, 4) == "learner");
    cluster.cli().refused(&["node", "set-role", "9", "learner"], &["no node 9"]);
    assert!(cluster.cli().ok(&["node", "remove", "9"]).out.contains("there is no node 9; nothing had to change"));
    // A new data directory under id 4.
    cluster.nodes[3].kill9();
    std::fs::remove_dir_all(&cluster.nodes[3].data_dir).unwrap();
    cluster.nodes[3].start();
    wait_until("the rejection in the log", GENEROUS, || {
        cluster.nodes[3].log().contains("node 4 is a member under another identity")
    });
    assert_eq!(role(&cluster, 4), "learner");
}

#[test]
fn a_node_returns_with_another_address() {
    let mut cluster = Cluster::serving(1);
    let follower = cluster.follower();
    cluster.node_mut(follower).kill9();
    let moved = cluster.ports.admin(9);
    cluster.node_mut(follower).admin_port = moved;
    cluster.node_mut(follower).start();
    wait_until("the new address to be known", GENEROUS, || {
        cluster.nodes.iter().filter(|n| n.id != follower).all(|n| {
            n.cli()
                .try_json(&["node", "ls"])
                .is_ok_and(|nodes| nodes[usize::from(follower) - 1]["admin"] == format!("127.0.0.1:{moved}"))
        })
    });
    cluster.wait_formed();
    cluster.wait_answers(follower);
}

#[test]
fn a_leader_that_gets_sigterm_drains_and_transfers_its_leadership() {
    let mut cluster = Cluster::serving(1);
    let leader = cluster.leader();
    let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    let load = Load::start(&others.iter().map(|id| cluster.node(*id).client_port).collect::<Vec<_>>(), &["x".into()]);
    load.wait_more(50);
    let ended = cluster.node_mut(leader).terminate(GENEROUS);
    assert!(ended.success(), "{ended}");
    let next = cluster.leader_of(&others);
    assert_ne!(next, leader);
    load.wait_more(200);
    let (seen, _) = load.finish();
    assert!(seen.iter().all(|s| s.errors.is_empty()), "{seen:?}");
    cluster.node_mut(leader).start();
    cluster.wait_formed();
}

/// Returns the number of log lines that contain `what`.
fn lines_with(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn a_node_that_is_down_is_logged_once_and_its_ports_are_shown_as_not_alive() {
    let mut cluster = Cluster::serving(1);
    let (leader, victim) = (cluster.leader(), cluster.follower());
    let other = 6 - leader - victim;
    cluster.node_mut(victim).kill9();
    let listener = |cluster: &Cluster| {
        let shown = cluster.node(leader).cli().ok(&["product", "ls"]).out;
        shown.lines().find(|l| l.contains(&format!("node {victim} on "))).map(str::to_owned)
    };
    // This takes some seconds, in which Raft's heartbeats to the node fail.
    wait_for("the node to be shown as not alive", GENEROUS, || match listener(&cluster) {
        Some(shown) if shown.contains("not alive") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for id in [leader, other] {
        let log = cluster.node(id).log();
        assert_eq!(lines_with(&log, "openraft"), 0, "{log}");
        // One line per kind of error: a refused connection, and perhaps a broken one.
        let lines = log.lines().filter(|l| l.contains("cannot be reached") && l.contains(&format!("node={victim}")));
        assert!(lines.count() <= 3, "{log}");
        assert_eq!(lines_with(&log, "no lease was granted"), 0, "{log}");
    }
    cluster.node(leader).cli().ok(&["node", "remove", &victim.to_string(), "--timeout", "40s"]);
    assert_eq!(listener(&cluster), None, "a removed node is listed");
}

#[test]
fn a_duplicate_node_is_rejected_and_the_original_continues() {
    let mut cluster = Cluster::serving(1);
    let victim = cluster.follower();
    let from = cluster.node(victim).data_dir.clone();
    let copy = cluster.dir.path().join("copy");
    // The copy must contain all entries: if it lacks one, Raft's leader ends instead of the copy. So the observations
    // of the servers must be in the log first.
    let applied = |id: u16| cluster.node(id).cli().json(&["status"])["applied"].clone();
    let leader = cluster.leader();
    wait_until("no further entries", GENEROUS, || {
        let last = applied(leader);
        holds_for(Duration::from_secs(2), || applied(leader) == last && applied(victim) == last)
    });
    copy_dir(&from, &copy);
    let origin = cluster.node(victim).origin.clone();
    let at = cluster.dir.path().join("elsewhere");
    std::fs::create_dir(&at).unwrap();
    let mut duplicate =
        cluster_tests::node::Node::new(victim, cluster.ports.admin(9), cluster.ports.product(0), &at, origin);
    duplicate.data_dir = copy;
    duplicate.start();
    let ended = duplicate.wait_end(GENEROUS);
    assert!(!ended.success() && duplicate.log().contains("never copy a data directory"), "{}", duplicate.log());
    assert!(cluster.node_mut(victim).runs());
    cluster.wait_formed();
    cluster.wait_answers(victim);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// If a product may be served without a lease, the removal of a silent node waits for the node. When the node restarts,
/// it must learn that it is being removed, instead of being proposed for admission again and again.
#[test]
fn a_node_that_restarts_during_its_removal_ends() {
    let mut cluster = Cluster::serving(1);
    let port = cluster.ports.product(1).to_string();
    cluster.cli().ok(&[
        "product",
        "create",
        "cached",
        "--port",
        &port,
        "--mode",
        "cache",
        "--wait",
        "--timeout",
        "40s",
    ]);
    let (leader, victim) = (cluster.leader(), cluster.follower());
    // The node was alive a moment ago, so its removal begins. But it cannot report that it has stopped serving.
    cluster.node(victim).pause();
    let begun = cluster.node(leader).cli().run(&["node", "remove", &victim.to_string(), "--timeout", "1s"]);
    assert_ne!(begun.code, 0, "{begun:?}");
    cluster.node_mut(victim).kill9();
    cluster.node_mut(victim).start();
    assert!(cluster.node_mut(victim).wait_end(GENEROUS).success());
    assert!(cluster.node(victim).log().contains("the cluster has removed this node"));
    // The restart proves that the former incarnation has ended, so the operator need not confirm it.
    wait_until("the node to be removed", GENEROUS, || role(&cluster, u64::from(victim)) == "none");
}

/// Number of entries that a learner lacks, so that it is not made a voter yet: more than
/// `consensus::handle::CAUGHT_UP`.
const BEHIND: usize = 210;

/// A removed node ends its process and does not return. The only voter of a cluster must not end before another node
/// votes.
#[test]
fn a_removed_voter_stays_until_another_node_votes() {
    let mut cluster = Cluster::serving(1);
    cluster.cli().ok(&["cluster", "set", "voters=1"]);
    wait_until("node 1 to be the only voter", GENEROUS, || {
        [1, 2, 3].map(|id| role(&cluster, id)) == ["voter", "learner", "learner"]
    });
    wait_until("node 1 to lead", GENEROUS, || cluster.leader() == 1);
    cluster.node(2).pause();
    cluster.node(3).pause();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = AdminClient::connect(format!("http://{}", cluster.node(1).admin())).await.unwrap();
        for n in 0..BEHIND {
            let hold_max_ms = Some(250 + n as u32 % 2);
            client.set_cluster(SetClusterRequest { hold_max_ms, ..SetClusterRequest::default() }).await.unwrap();
        }
    });
    let begun = cluster.node(1).cli().run(&["node", "remove", "1", "--timeout", "3s"]);
    assert_ne!(begun.code, 0, "{begun:?}");
    assert!(cluster.node_mut(1).runs(), "node 1 has ended, and no other node votes: {}", cluster.node(1).log());
    cluster.node(2).resume();
    cluster.node(3).resume();
    assert!(cluster.node_mut(1).wait_end(GENEROUS).success());
    let leader = cluster.leader_of(&[2, 3]);
    wait_until("node 1 to be removed", GENEROUS, || {
        let nodes = cluster.node(leader).cli().json(&["node", "ls"]);
        nodes.as_array().unwrap().iter().all(|n| n["id"] != 1)
    });
    cluster.wait_answers(2);
}

/// Regression: the removal of a live voter beside a dead one was accepted, and every client got CLUSTERDOWN. With --force,
/// `status` names what it waits for, and the return of the dead voter ends it.
#[test]
fn a_live_voter_beside_a_dead_one_is_removed_only_by_force() {
    let mut cluster = Cluster::serving(1);
    let (leader, dead) = (cluster.leader(), cluster.follower());
    let victim = 6 - leader - dead;
    cluster.node_mut(dead).kill9();
    let cli = cluster.node(leader).cli();
    let (victim_id, dead_id) = (victim.to_string(), dead.to_string());
    let advice = format!("remove what is lost for good first (pontoon node remove {dead}), or --force");
    let seen_dead = || cli.run(&["node", "remove", &victim_id, "--dry-run"]).err.contains(&advice);
    wait_until("the dead voter to count as dead", GENEROUS, seen_dead);
    cli.refused(&["node", "remove", &victim_id], &[&advice]);
    cli.refused(&["node", "set-role", &victim_id, "learner"], &[&advice]);
    let mut client = cluster.node(leader).client();
    assert_eq!(client.call(&["SET", "served", "1"]).unwrap().text(), "OK");

    let forced = cli.run(&["node", "remove", &victim_id, "--force", "--timeout", "3s"]);
    assert!(forced.code != 0 && !forced.err.contains("the sweep"), "{forced:#?}");
    let said = format!("; the removal of node {victim} waits for that");
    wait_until("the status to name the removal", GENEROUS, || {
        let status = cluster.node(victim).cli().run(&["status", "--check"]);
        status.code == 2 && status.out.contains("NO QUORUM: ") && status.out.contains(&said)
    });
    cluster.node_mut(dead).start();
    let staying = cluster.node(leader).cli();
    wait_until("the removal to end", GENEROUS, || {
        staying.try_json(&["node", "ls"]).is_ok_and(|nodes| {
            let ids: Vec<String> = nodes.as_array().unwrap().iter().map(|node| node["id"].to_string()).collect();
            !ids.contains(&victim_id) && ids.contains(&dead_id)
        })
    });
    wait_until("clients to be served", GENEROUS, || {
        client.call(&["GET", "served"]).is_ok_and(|reply| reply.text() == "1")
    });
}
