//! A node that was stopped for longer than its lease while a reply to a write was on its way: it must not pass this
//! reply if the write no longer exists at the slot's owner. These tests check, with real processes, what
//! `serving_model` proves about the check at reply time.
//!
//! The tests were verified by hand: they fail without the check at reply time (the follower), without the lease in this
//! check (the follower and the leader), without the slot epoch in this check (the reply after a new lease), and with a
//! leader that assumes that silent nodes have no lease (the follower).

#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use cluster_tests::{
    client::{Client, Reply, request},
    cluster::Cluster,
    linear,
    link::{Link, Mode},
    load::Load,
    redis::RedisOptions,
    wait::{GENEROUS, let_pass, wait_for, wait_until},
};
use pontoon::faults::Rule;

/// Longer than a lease (3 s) and the leader's allowance for clocks.
const LONGER_THAN_A_LEASE: Duration = Duration::from_millis(3_500);

/// Checks the reply of [`reply_after_pause`].
fn check_reply_after_pause(leads: bool) {
    let reply = reply_after_pause(leads, None);
    assert!(reply.is_error("ERR outcome unknown"), "the write does not exist, but the client received {reply:?}");
}

/// A node sends a write to the slot's server and is stopped. The write is executed and answered. The node's lease
/// expires, and the slot, which is empty again, gets another owner. The node continues and receives the server's reply.
/// Returns the reply that the node then sends to the client. `leads`: whether the node is the leader. `without`: a rule
/// that all nodes leave out.
fn reply_after_pause(leads: bool, without: Option<Rule>) -> Reply {
    let mut cluster = Cluster::prepared(3);
    // The request must not fail by its own deadline.
    for node in &mut cluster.nodes {
        node.more.extend(["--set".to_owned(), "proxy.request_deadline_ms=60000".to_owned()]);
        without.iter().for_each(|rule| node.faults.without(*rule));
    }
    cluster.start_all();
    cluster.add_groups(2);
    let leader = cluster.leader();
    let paused = if leads { leader } else { leader % 3 + 1 };
    let others: Vec<u16> = (1..=3).filter(|id| *id != paused).collect();
    let key = (0..).map(|n| format!("k{n}")).find(|key| cluster.locate(key)["group"] == 1).unwrap();
    let slot = cluster.locate(&key)["slot"].as_u64().unwrap();
    // Opens the node's connection to the server, and leaves the slot empty.
    cluster.wait_answers(paused);
    let mut client = cluster.node(paused).client();
    assert_eq!(client.call(&["SET", &key, "before"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["DEL", &key]).unwrap(), Reply::Integer(1));

    let server = &cluster.servers[0];
    server.pause();
    client.send(&request(&["SET", &key, "late"])).unwrap();
    wait_until("the write to be in the server's socket", GENEROUS, || bytes_waiting_at(server.port) > 0);
    cluster.node(paused).pause();
    server.resume();
    wait_until("the write to be executed", GENEROUS, || server.call(&["EXISTS", &key]) == Reply::Integer(1));
    // As if the key had been moved or had expired: the slot can be assigned.
    assert_eq!(server.call(&["DEL", &key]), Reply::Integer(1));
    cluster.leader_of(&others);
    let cli = cluster.node(others[0]).cli();
    cli.ok(&["slot", "assign", &slot.to_string(), "2", "--timeout", "60s"]);
    let mut elsewhere = cluster.node(others[1]).client();
    wait_for("the new owner to answer", GENEROUS, || match elsewhere.call(&["GET", &key]) {
        Ok(Reply::Null) => Ok(()),
        Ok(other) => Err(other.text()),
        Err(e) => Err(e.to_string()),
    });

    cluster.node(paused).resume();
    let reply = client.read().unwrap();
    // The node serves again, by the new route table.
    wait_for("the node to serve again", GENEROUS, || {
        let mut client = cluster.node(paused).client();
        match client.call(&["SET", &key, "after"]) {
            Ok(Reply::Simple(_)) => Ok(()),
            Ok(other) => Err(other.text()),
            Err(e) => Err(e.to_string()),
        }
    });
    assert_eq!(elsewhere.call(&["GET", &key]).unwrap(), Reply::bulk("after"));
    assert_eq!(cluster.servers[0].call(&["EXISTS", &key]), Reply::Integer(0));
    reply
}

/// Shows that it is the check at reply time that prevents the violation.
#[test]
fn without_the_check_at_reply_time_a_lost_write_is_acknowledged() {
    assert_eq!(reply_after_pause(false, Some(Rule::ReplyCheck)), Reply::ok());
}

#[test]
fn a_follower_passes_no_outdated_reply_after_a_pause() {
    check_reply_after_pause(false);
}

#[test]
fn a_leader_passes_no_outdated_reply_after_a_pause() {
    check_reply_after_pause(true);
}

/// As above, but the reply arrives after the node has a new lease and the new route table: only the slot epoch shows
/// that the reply must not be passed.
#[test]
fn an_outdated_reply_after_a_new_lease_is_not_passed() {
    /// Longer than the pause, the assignment and the new lease. (A reply that arrives earlier must not be passed
    /// either.)
    const ON_ITS_WAY: Duration = Duration::from_secs(20);
    let mut cluster = Cluster::prepared(3);
    for node in &mut cluster.nodes {
        node.more.extend(["--set".to_owned(), "proxy.request_deadline_ms=60000".to_owned()]);
    }
    cluster.start_all();
    let cli = cluster.cli();
    let (old, new) = (cluster.add_server(&RedisOptions::default()), cluster.add_server(&RedisOptions::default()));
    let link = Link::start(cluster.ports.server(20), cluster.servers[old].port);
    cli.ok(&["group", "create", "1", "--primary", &link.addr()]);
    cli.ok(&["group", "create", "2", "--primary", &cluster.servers[new].addr()]);
    cli.ok(&["slot", "assign", "0-511", "1"]);
    cli.ok(&["slot", "assign", "512-1023", "2", "--wait", "--timeout", "40s"]);
    let key = (0..).map(|n| format!("k{n}")).find(|key| cluster.locate(key)["group"] == 1).unwrap();
    let slot = cluster.locate(&key)["slot"].as_u64().unwrap();
    let leader = cluster.leader();
    let paused = leader % 3 + 1;
    let mut client = Client::connect_within(cluster.node(paused).client_port, ON_ITS_WAY + GENEROUS).unwrap();
    assert_eq!(client.call(&["SET", &key, "before"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["DEL", &key]).unwrap(), Reply::Integer(1));

    link.set(Mode::HalfOpen);
    client.send(&request(&["SET", &key, "late"])).unwrap();
    let server = &cluster.servers[old];
    wait_until("the write to be executed", GENEROUS, || server.call(&["EXISTS", &key]) == Reply::Integer(1));
    assert_eq!(server.call(&["DEL", &key]), Reply::Integer(1));
    // The bytes in the relay are delayed. Bytes that arrive from now on pass at once.
    link.set(Mode::Delay(ON_ITS_WAY));
    let_pass(Duration::from_secs(1));
    link.set(Mode::Open);

    cluster.node(paused).pause();
    cluster.node(leader).cli().ok(&["slot", "assign", &slot.to_string(), "2", "--timeout", "60s"]);
    cluster.node(paused).resume();
    wait_for("the node to serve by the new route table", GENEROUS, || {
        let mut other = cluster.node(paused).client();
        match other.call(&["SET", &key, "new"]) {
            Ok(Reply::Simple(_)) => Ok(()),
            Ok(other) => Err(other.text()),
            Err(e) => Err(e.to_string()),
        }
    });
    assert_eq!(cluster.servers[new].call(&["GET", &key]), Reply::bulk("new"));
    let reply = client.read().unwrap();
    assert!(reply.is_error("ERR outcome unknown"), "the write does not exist, but the client received {reply:?}");
}

#[test]
fn operations_around_a_pause_are_linearizable() {
    let cluster = Cluster::serving(2);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let keys: Vec<String> = (0..4).map(|n| format!("register{n}")).collect();
    let ports: Vec<u16> = (1..=3).flat_map(|id| [cluster.node(id).client_port; 2]).collect();
    let load = Load::start(&ports, &keys);
    load.wait_more(500);
    let paused = cluster.follower();
    cluster.node(paused).pause();
    let_pass(LONGER_THAN_A_LEASE);
    cluster.node(paused).resume();
    load.wait_more(500);
    let (seen, history) = load.finish();
    for (id, seen) in (1..=3).flat_map(|id| [id; 2]).zip(&seen) {
        assert!(id == paused || seen.errors.is_empty(), "clients of node {id} received errors: {:?}", seen.errors);
    }
    linear::check(&history.ops()).unwrap();
}

/// Returns the number of bytes that the kernel has received for connections to this local port and that are not read
/// yet.
fn bytes_waiting_at(port: u16) -> u64 {
    /// The kernel's number of TCP_ESTABLISHED. The queue of a listening socket counts connections instead of bytes.
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let unread = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (at, _, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let bytes = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
        (at.ends_with(&local) && state == ESTABLISHED).then_some(bytes)
    };
    table.lines().skip(1).filter_map(unread).sum()
}
