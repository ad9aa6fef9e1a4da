//! Clients that wait at queues, while slots move, primaries change, and nodes and servers die or are stopped: every element
//! is taken once, and a node that may not serve takes none. For each rule a test shows what happens without it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    client::{Client, Reply, request},
    cluster::Cluster,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, holds_for, let_pass, wait_for, wait_until},
    workload::Queues,
};
use pontoon::faults::Rule;

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);
/// Elements that are pushed where a node may take some.
const ELEMENTS: usize = 5;

fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.nodes.iter().map(|n| n.client_port).collect()
}

/// Number of clients that are blocked at a server.
fn blocked_at(server: &RedisServer) -> usize {
    let info = server.call(&["INFO", "clients"]).text();
    let count = info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap();
    count.trim().parse().unwrap()
}

/// As many clients of a node as there are elements, each of which is blocked in a pop of `queue` at the server.
fn block(cluster: &Cluster, node: u16, queue: &str, server: &RedisServer) -> Vec<Client> {
    let before = blocked_at(server);
    let mut clients: Vec<Client> =
        (0..ELEMENTS).map(|_| Client::connect_within(cluster.node(node).client_port, GENEROUS).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(&request(&["BLPOP", queue, "0"])).unwrap());
    wait_until("the clients to be blocked", GENEROUS, || blocked_at(server) == before + ELEMENTS);
    clients
}

/// Pushes the elements through a node, and returns how many of them are left.
fn push(cluster: &Cluster, node: u16, queue: &str) -> usize {
    wait_for("the elements to be pushed", GENEROUS, || {
        let mut client = cluster.node(node).client();
        let elements: Vec<String> = (0..ELEMENTS).map(|n| n.to_string()).collect();
        let words: Vec<&str> = ["RPUSH", queue].into_iter().chain(elements.iter().map(String::as_str)).collect();
        match client.call(&words) {
            Ok(Reply::Integer(_)) => match client.call(&["LLEN", queue]) {
                Ok(Reply::Integer(left)) => Ok(usize::try_from(left).unwrap()),
                other => panic!("{other:?}"),
            },
            Ok(other) => Err(other.text()),
            Err(e) => Err(e.to_string()),
        }
    })
}

/// Nodes that leave out these rules, in front of one group.
fn start_without(rules: &[Rule], mesh: bool) -> Cluster {
    let mut cluster = if mesh { Cluster::prepared_with_mesh(3) } else { Cluster::prepared(3) };
    for node in &cluster.nodes {
        rules.iter().for_each(|rule| node.faults.without(*rule));
    }
    cluster.start_all();
    cluster.add_groups(1);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    cluster
}

/// A node with blocked clients is stopped for longer than its lease; then elements come. Returns how many are left, and the
/// replies that the clients get when the node goes on.
fn left_by_a_stopped_node(leads: bool, rules: &[Rule]) -> (usize, Vec<Option<Reply>>) {
    let cluster = start_without(rules, false);
    let leader = cluster.leader();
    let stopped = if leads { leader } else { leader % 3 + 1 };
    let others: Vec<u16> = (1..=3).filter(|id| *id != stopped).collect();
    let server = &cluster.servers[0];
    let mut clients = block(&cluster, stopped, "queue", server);
    cluster.node(stopped).pause();
    cluster.leader_of(&others);
    if rules.is_empty() {
        wait_until("the connections of the stopped node to be closed", GENEROUS, || blocked_at(server) == 0);
    } else {
        let_pass(2 * LONGER_THAN_A_LEASE);
    }
    let left = push(&cluster, others[0], "queue");
    cluster.node(stopped).resume();
    let replies = clients.iter_mut().map(|client| client.read().ok()).collect();
    (left, replies)
}

#[test]
fn a_stopped_node_eats_no_element() {
    for leads in [false, true] {
        let (left, replies) = left_by_a_stopped_node(leads, &[]);
        assert_eq!(left, ELEMENTS, "leads: {leads}");
        assert!(replies.iter().all(Option::is_none), "clients are closed without a reply: {replies:?}");
    }
}

/// The clients of the stopped node have waited longest, so they are served first.
#[test]
fn without_the_leader_a_stopped_node_eats_every_element() {
    let (left, replies) = left_by_a_stopped_node(false, &[Rule::BlockedConnections]);
    assert_eq!(left, 0);
    assert!(replies.iter().all(Option::is_none), "check 2 withholds the elements: {replies:?}");
}

/// A node with blocked clients is cut off from the other nodes, but not from the servers; then elements come. Returns how
/// many are left.
fn left_by_a_node_that_is_cut_off(rules: &[Rule]) -> usize {
    let cluster = start_without(rules, true);
    let cut_off = cluster.follower();
    let others: Vec<u16> = (1..=3).filter(|id| *id != cut_off).collect();
    let server = &cluster.servers[0];
    let _clients = block(&cluster, cut_off, "queue", server);
    cluster.mesh().isolate(cut_off);
    if rules.is_empty() {
        wait_until("the blocked calls to end", GENEROUS, || blocked_at(server) == 0);
    } else {
        let_pass(2 * LONGER_THAN_A_LEASE);
    }
    push(&cluster, others[0], "queue")
}

#[test]
fn a_node_that_is_cut_off_eats_no_element() {
    assert_eq!(left_by_a_node_that_is_cut_off(&[]), ELEMENTS);
}

/// Either of both rules suffices here; the node's own is sooner.
#[test]
fn a_node_that_is_cut_off_ends_its_blocked_calls_itself() {
    assert_eq!(left_by_a_node_that_is_cut_off(&[Rule::BlockedConnections]), ELEMENTS);
    assert_eq!(left_by_a_node_that_is_cut_off(&[Rule::BlockedConnections, Rule::BlockedLease]), 0);
}

/// What becomes of a migration of a queue at which clients wait.
fn migrate_a_queue(rules: &[Rule]) -> (Cluster, Vec<Client>, String) {
    let mut cluster = start_without(rules, false);
    let cli = cluster.cli();
    let second = cluster.add_server(&RedisOptions::default());
    cli.ok(&["group", "create", "2", "--primary", &cluster.servers[second].addr()]);
    cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    let clients = block(&cluster, 2, "queue", &cluster.servers[0]);
    let slot = cluster.locate("queue")["slot"].to_string();
    cli.ok(&["migrate", "start", &slot, "--to", "2"]);
    let id = wait_for("the migration to be listed", GENEROUS, || {
        let all = cli.try_json(&["migrate", "ls"])?;
        all[0]["id"].as_u64().map(|id| id.to_string()).ok_or_else(|| all.to_string())
    });
    (cluster, clients, id)
}

#[test]
fn clients_wait_on_at_the_new_owner() {
    let (cluster, mut clients, id) = migrate_a_queue(&[]);
    wait_until("the clients to wait at the new owner", GENEROUS, || blocked_at(&cluster.servers[1]) == ELEMENTS);
    let phase = || cluster.cli().json(&["migrate", "show", &id])["state"].as_str().unwrap_or_default().to_owned();
    wait_for("the migration to be done", GENEROUS, || if phase() == "done" { Ok(()) } else { Err(phase()) });
    assert_eq!(blocked_at(&cluster.servers[0]), 0);
    push(&cluster, 1, "queue");
    let mut got: Vec<String> = clients.iter_mut().map(|client| client.read().unwrap().text()).collect();
    got.sort();
    let want: Vec<String> = (0..ELEMENTS).map(|n| format!("queue {n}")).collect();
    assert_eq!(got, want);
}

/// A blocked call is in flight, and the hold waits for it.
#[test]
fn without_the_end_of_blocked_calls_a_slot_does_not_move() {
    let (cluster, clients, id) = migrate_a_queue(&[Rule::BlockedHold]);
    wait_for("the reason to be shown", GENEROUS, || {
        let shown = cluster.cli().try_json(&["migrate", "show", &id])?.to_string();
        if shown.contains("a blocking call of slot") { Ok(()) } else { Err(shown) }
    });
    assert!(holds_for(Duration::from_secs(3), || cluster.locate("queue")["group"] == 1));
    assert_eq!(blocked_at(&cluster.servers[0]), clients.len());
}

#[test]
fn every_element_is_taken_once_while_slots_move_and_nodes_fail() {
    let mut cluster = Cluster::serving(2);
    let cli = cluster.cli();
    cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let queues = Queues::start(&ports(&cluster));
    queues.wait_more(200);
    for round in 0..2 {
        for (slots, to) in [("0-511", "2"), ("512-1023", "1"), ("0-511", "1"), ("512-1023", "2")] {
            cli.ok(&["migrate", "start", slots, "--to", to, "--wait", "--timeout", "90s"]);
            queues.wait_more(50);
        }
        let follower = cluster.follower();
        if round == 0 {
            cluster.node_mut(follower).kill9();
            queues.wait_more(50);
            cluster.node_mut(follower).start();
        } else {
            cluster.node(follower).pause();
            let_pass(2 * LONGER_THAN_A_LEASE);
            queues.wait_more(50);
            cluster.node(follower).resume();
        }
        cluster.wait_serving(&[1, 2, 3]);
        queues.wait_more(100);
    }
    let noticed = queues.finish();
    eprintln!("{noticed:?}");
    assert!(noticed.taken > 500, "{noticed:?}");
}

#[test]
fn nothing_is_noticed_while_slots_move() {
    let cluster = Cluster::serving(2);
    let cli = cluster.cli();
    cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let queues = Queues::start(&ports(&cluster));
    queues.wait_more(200);
    for (slots, to) in [("0-511", "2"), ("512-1023", "1"), ("0-511", "1"), ("512-1023", "2")] {
        cli.ok(&["migrate", "start", slots, "--to", to, "--wait", "--timeout", "90s"]);
        queues.wait_more(50);
    }
    let noticed = queues.finish();
    assert_eq!((noticed.unknown, noticed.lost, noticed.errors.len()), (0, 0, 0), "{noticed:?}");
}

#[test]
fn every_element_is_taken_once_while_primaries_change_and_servers_fail() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, &RedisOptions::default());
    let cli = cluster.cli();
    cli.ok(&["group", "set", "1", "down-after=800ms"]);
    // What is acknowledged survives a failover.
    cli.ok(&["product", "set", "default", "min-acks=1", "min-acks-timeout=2s", "--wait", "--timeout", "40s"]);
    cli.ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let queues = Queues::start(&ports(&cluster));
    queues.wait_more(100);
    // Planned.
    cli.ok(&["group", "promote", "1", &cluster.servers[servers[1]].addr(), "--wait", "--timeout", "60s"]);
    queues.wait_more(100);
    // A primary dies, and returns as a replica.
    cluster.wait_candidates("default", "1");
    cluster.servers[servers[1]].kill9();
    wait_primary_other_than(&cluster, servers[1]);
    queues.wait_more(100);
    cluster.servers[servers[1]].restart();
    // A primary is stopped, and goes on when another one has replaced it.
    cluster.wait_candidates("default", "1");
    let primary = servers.iter().copied().find(|n| cluster.servers[*n].addr() == primary(&cluster)).unwrap();
    cluster.servers[primary].pause();
    wait_primary_other_than(&cluster, primary);
    queues.wait_more(100);
    cluster.servers[primary].resume();
    queues.wait_more(100);
    let noticed = queues.finish();
    eprintln!("{noticed:?}");
}

fn primary(cluster: &Cluster) -> String {
    cluster.locate("any")["server"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn wait_primary_other_than(cluster: &Cluster, than: usize) {
    let than = cluster.servers[than].addr();
    wait_for("another primary", GENEROUS, || {
        if primary(cluster) == than { Err(cluster.cli().json(&["status"]).to_string()) } else { Ok(()) }
    });
}
