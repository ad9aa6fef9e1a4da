//! A node that stood still for longer than its lease, with a reply before it that a write was done: it passes nothing on
//! that is not there any more. What the model in `serving_model` shows of the check at reply time, with real processes.
//!
//! Seen to fail, each tried once by hand: without the check at reply time (the follower that stood still), without its
//! lease part (the follower and the leader), without its epoch part (the reply that comes after a new lease), and with a
//! leader that takes silent nodes for out of lease (the follower).

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

/// A node has sent a write to the slot's server; it is stopped; the write is executed and answered; the node's lease ends
/// and the slot, empty again, gets another owner; the node goes on and finds the reply.
fn stands_still_with_a_reply_before_it(leads: bool) {
    let told = reply_after_standing_still(leads, None);
    assert!(told.is_error("ERR outcome unknown"), "the write is not there, and the client was told {told:?}");
}

/// The same; what the client is told, with a rule left out if there is one.
fn reply_after_standing_still(leads: bool, without: Option<Rule>) -> Reply {
    let mut cluster = Cluster::prepared(3);
    // The request's own deadline must not be what refuses the reply.
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
    // Its connection to the server is open, and the slot empty again.
    cluster.wait_answers(paused);
    let mut client = cluster.node(paused).client();
    assert_eq!(client.call(&["SET", &key, "before"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["DEL", &key]).unwrap(), Reply::Integer(1));

    let server = &cluster.servers[0];
    server.pause();
    client.send(&request(&["SET", &key, "late"])).unwrap();
    wait_until("the write to lie before the server", GENEROUS, || bytes_waiting_at(server.port) > 0);
    cluster.node(paused).pause();
    server.resume();
    wait_until("the write to be executed", GENEROUS, || server.call(&["EXISTS", &key]) == Reply::Integer(1));
    // As if it had been moved or expired: the slot can be assigned.
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
    let told = client.read().unwrap();
    // It serves again, by the new table.
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
    told
}

/// The net catches fish: the check at reply time is what refuses.
#[test]
fn without_the_check_at_reply_time_a_lost_write_is_acknowledged() {
    assert_eq!(reply_after_standing_still(false, Some(Rule::ReplyCheck)), Reply::ok());
}

#[test]
fn a_follower_that_stood_still_passes_no_stale_reply() {
    stands_still_with_a_reply_before_it(false);
}

#[test]
fn a_leader_that_stood_still_passes_no_stale_reply() {
    stands_still_with_a_reply_before_it(true);
}

/// The same, but the reply is still on its way when the node has a new lease and the new table: only the slot's epoch
/// tells that it is not to be passed on.
#[test]
fn a_reply_that_comes_after_a_new_lease_is_not_passed() {
    /// Longer than the pause, the assignment and the new lease take; a reply that comes earlier is refused all the same.
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
    // What waits in the link goes on waiting; what comes from now on passes.
    link.set(Mode::Delay(ON_ITS_WAY));
    let_pass(Duration::from_secs(1));
    link.set(Mode::Open);

    cluster.node(paused).pause();
    cluster.node(leader).cli().ok(&["slot", "assign", &slot.to_string(), "2", "--timeout", "60s"]);
    cluster.node(paused).resume();
    wait_for("the node to serve by the new table", GENEROUS, || {
        let mut other = cluster.node(paused).client();
        match other.call(&["SET", &key, "new"]) {
            Ok(Reply::Simple(_)) => Ok(()),
            Ok(other) => Err(other.text()),
            Err(e) => Err(e.to_string()),
        }
    });
    assert_eq!(cluster.servers[new].call(&["GET", &key]), Reply::bulk("new"));
    let told = client.read().unwrap();
    assert!(told.is_error("ERR outcome unknown"), "the write is not there, and the client was told {told:?}");
}

#[test]
fn what_clients_see_around_a_pause_is_linearizable() {
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

/// Bytes that were received for connections to this local port and not read yet.
fn bytes_waiting_at(port: u16) -> u64 {
    /// TCP_ESTABLISHED in the kernel's numbers; a listening socket's queue counts connections instead.
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
