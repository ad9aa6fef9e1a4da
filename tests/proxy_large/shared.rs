//! What buffers of many servers, and connections of many clients, may have together.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use pontoon::{
    model::{ids::SlotId, slot::Layout},
    proxy::{Limits, ProxyReport},
};

use crate::{
    MB,
    common::{Bed, Client, Redis, fake, request, with_product},
    gate::Relay,
    patient, send_later, set,
};

/// Servers of a product, each with the same number of slots.
const SERVERS: usize = 8;

/// The budget of the node. One server alone may have an eighth of it, all together a quarter and 256 KB each.
const BUDGET: usize = 32 * MB;
const TOGETHER_MAX: usize = BUDGET / 4 + SERVERS * 512 * 1024;

/// A key of the server with this index.
fn key_of(server: usize) -> String {
    let slots = usize::from(Layout::Codis.slots());
    let serves = |SlotId(slot): SlotId| usize::from(slot) * SERVERS / slots == server;
    (0..).map(|n| format!("k{n}")).find(|key| serves(Layout::Codis.slot(key.as_bytes()))).unwrap()
}

fn limits() -> Limits {
    Limits { memory_max: BUDGET, ..patient() }
}

/// Waits until this much memory is used, and checks that no session suffers from it.
fn assert_shared(bed: &Bed, when: &str, is_reached: impl Fn(&ProxyReport) -> bool) {
    let report = bed.until(when, is_reached);
    assert!(report.memory_used <= TOGETHER_MAX, "{} bytes are held", report.memory_used);
    assert_eq!((report.stats.over_budget, report.stats.memory_pauses), (0, 0));
    bed.client().call("PING").expect("+PONG\r\n");
}

/// Without a common limit, their queues fill the budget, and clients of other servers are closed.
#[test]
fn queues_of_servers_that_do_not_read_leave_most_of_the_budget() {
    let (_end, ended) = mpsc::sync_channel::<()>(0);
    let ended = Arc::new(Mutex::new(ended));
    let hang = move || {
        let ended = ended.clone();
        // It reads nothing until the test ends.
        fake(move |conn| {
            let _ = ended.lock().map(|ended| ended.recv());
            drop(conn);
        })
    };
    let servers: Vec<String> = (0..SERVERS).map(|_| hang()).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let bed = Bed::start_with(&servers, limits(), 1, |t| t);
    // Each of them may send some hundred KB before it waits for replies.
    let clients: Vec<_> = (0..16 * SERVERS).map(|_| bed.client()).collect();
    for (n, client) in clients.iter().enumerate() {
        send_later(client, set(&key_of(n % SERVERS), 20_000).repeat(100));
    }
    let half = clients.len() as u64 / 2;
    assert_shared(&bed, "clients wait for room in the queues", |r| r.stats.queue_waits >= half);
}

/// Without a common limit, these replies fill the budget. They are counted until they are answered.
#[test]
fn replies_that_wait_for_replicas_leave_most_of_the_budget() {
    const REPLY: usize = 100_000;
    let confirms_nothing = || {
        fake(|mut conn| {
            let acks = conn.name.ends_with(":acks");
            while conn.request().is_some() {
                if !acks {
                    conn.reply(format!("${REPLY}\r\n{}\r\n", "x".repeat(REPLY)).as_bytes());
                }
            }
        })
    };
    let servers: Vec<String> = (0..SERVERS).map(|_| confirms_nothing()).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let bed = Bed::start_with(&servers, limits(), 1, |table| {
        with_product(table, |p| (p.min_acks, p.min_acks_ms) = (1, 3_000))
    });
    let mut clients: Vec<_> = (0..SERVERS).map(|_| bed.client()).collect();
    for (n, client) in clients.iter().enumerate() {
        send_later(client, String::from_utf8(request(&format!("GETDEL {}", key_of(n))).repeat(100)).unwrap());
    }
    let part = BUDGET / 4 / 2;
    assert_shared(&bed, "the replies wait", |r| r.memory_used > part && r.stats.requests >= 100 * SERVERS as u64);
    // The first ones waited, the others were answered at once; all are answered in the end.
    for client in &mut clients {
        for _ in 0..100 {
            let line = client.line();
            assert!(line.starts_with("-NOREPLICAS"), "{line}");
        }
    }
    bed.until("the memory is free", |r| r.memory_used < part / 8);
}

/// An unused connection to one server makes room for one to another server.
#[test]
fn unused_dedicated_connections_make_room() {
    let redis: Vec<Redis> = (0..SERVERS).map(|_| Redis::start()).collect();
    let servers: Vec<&str> = redis.iter().map(|redis| redis.addr.as_str()).collect();
    let limits = Limits { dedicated_total_max: 1, dedicated_for: Duration::from_millis(1), ..patient() };
    let bed = Bed::start_with(&servers, limits, 1, |t| t);
    let large = |client: &mut Client, server| {
        client.send(set(&key_of(server), 2 * MB));
        client.line()
    };
    let mut first = bed.client();
    assert_eq!(large(&mut first, 0), "+OK");
    // The session gives it back with its next requests.
    first.call("GET none").expect("$-1\r\n");
    let mut second = bed.client();
    let mut answers = Vec::new();
    // The first request closes the unused connection, and a later one finds the room.
    while answers.last().is_none_or(|line| line != "+OK") && answers.len() < 1000 {
        answers.push(large(&mut second, SERVERS - 1));
    }
    assert_eq!(answers.last().unwrap(), "+OK", "{} answers: {:?}", answers.len(), answers.first());
}

#[test]
fn dedicated_connections_have_a_limit() {
    // Of a product, and of all products together.
    for (dedicated_max, dedicated_total_max) in [(1, 1000), (1000, 1)] {
        let redis = Redis::start();
        let relay = Relay::start(&redis.addr);
        let limits = Limits { dedicated_max, dedicated_total_max, ..patient() };
        let bed = Bed::start_with(&[&relay.addr], limits, 1, |t| t);
        let (mut first, mut second) = (bed.client(), bed.client());
        send_later(&first, set("a", 16 * MB));
        relay.until_waiting(1);
        second.send(set("b", 2 * MB));
        second.expect(&format!(
            "-ERR too many dedicated connections to servers: this node may have {dedicated_max} for product 'default', \
             {dedicated_total_max} in all, divided among its 1 workers, and to each server its part of what is free of the \
             server's maxclients; not executed\r\n"
        ));
        relay.open();
        first.expect("+OK\r\n");
        // The connection of the first is free again.
        second.send(set("b", 2 * MB)).expect("+OK\r\n");
        second.call("GET a").expect(&format!("${}\r\n{}\r\n", 16 * MB, "x".repeat(16 * MB)));
    }
}
