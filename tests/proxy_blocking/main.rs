//! Blocking commands through a proxy in this process: timeouts, clients that leave, holds, lost servers and leases, and
//! WAIT. The reference is a real redis-server.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod faults;
mod holds;
mod lease;
mod replicas;
mod unblock;
mod values;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{Bed, Client, PATIENCE, Redis, held, request, with_product};
use pontoon::{
    model::{
        ids::{Epoch, HoldId},
        route::{HoldKind, RouteTable},
        slot::Layout,
    },
    proxy::Limits,
};

/// No deadline passes, however busy the machine is.
fn patient() -> Limits {
    Limits { request_deadline: PATIENCE, connect_deadline: PATIENCE, ..Limits::default() }
}

/// A client of a server itself.
fn direct(redis: &Redis) -> Client {
    let stream = TcpStream::connect(&redis.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Client { stream }
}

/// Waits until `condition` is met.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// A number in the INFO of a server.
fn info(redis: &Redis, field: &str) -> u64 {
    let mut client = direct(redis);
    client.call("INFO");
    let len: usize = client.line()[1..].parse().unwrap();
    let mut text = vec![0; len + 2];
    std::io::Read::read_exact(&mut client.stream, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    value.trim().parse().unwrap()
}

/// Waits until this number of clients is blocked at a server.
#[track_caller]
fn wait_blocked(redis: &Redis, count: u64) {
    wait_until(&format!("{count} clients are blocked"), || info(redis, "blocked_clients") == count);
}

/// The table without its holds, later than the one with hold `id`.
fn released(table: RouteTable, id: u64) -> RouteTable {
    let mut table = with_product(table, |p| p.slots.iter_mut().for_each(|slot| slot.hold = HoldId(0)));
    table.holds.clear();
    table.epoch = Epoch(id + 1);
    table
}

/// The table in which the slot of `key` belongs to the group with this index.
fn moved(table: RouteTable, key: &str, group: u16) -> RouteTable {
    let epoch = table.epoch;
    with_product(table, |p| {
        let slot = &mut p.slots[usize::from(Layout::Codis.slot(key.as_bytes()).0)];
        (slot.group, slot.epoch) = (Some(group), epoch);
    })
}

/// Begins a hold of the slot of `key`, and waits until it has drained.
fn hold(bed: &Bed, id: u64, key: &str) {
    bed.publish(held(bed.table(), id, HoldKind::Wait, key));
    bed.until("the hold has drained", |r| r.holds.get(&HoldId(id)).is_some_and(|hold| hold.drained));
}

/// A client that is blocked in this call at a server.
fn blocked(bed: &Bed, redis: &Redis, words: &str) -> Client {
    let before = info(redis, "blocked_clients");
    let mut client = bed.client();
    client.call(words);
    wait_blocked(redis, before + 1);
    client
}

/// The reply that is an array of these texts.
fn texts(texts: &[&str]) -> String {
    let mut out = Vec::new();
    pontoon::resp::write::request(&mut out, &texts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
    String::from_utf8(out).unwrap()
}

const NIL: &str = "*-1\r\n";
