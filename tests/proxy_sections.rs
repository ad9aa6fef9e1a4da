//! Split commands with many keys, which are executed in sections, and the other bounds of the work of one turn.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Bed, Client, Redis, fake, held, request, with_product};
use pontoon::{
    model::{
        ids::{Epoch, HoldId, SlotId},
        route::{HoldKind, RouteTable},
        slot::Layout,
    },
    proxy::Limits,
};

/// Several sections of 1024 keys, the last one incomplete.
const KEYS: usize = 5000;

fn keys() -> Vec<String> {
    (0..KEYS).map(|i| format!("k{i}")).collect()
}

fn mset() -> String {
    format!("MSET {}", keys().iter().map(|key| format!("{key} v{key}")).collect::<Vec<_>>().join(" "))
}

fn command(name: &str) -> String {
    format!("{name} {}", keys().join(" "))
}

/// The reply to MGET of all keys.
fn values() -> String {
    let bulks: String = keys().iter().map(|key| format!("${}\r\nv{key}\r\n", key.len() + 1)).collect();
    format!("*{KEYS}\r\n{bulks}")
}

#[test]
fn sections_are_merged_in_the_order_of_the_keys() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    // What follows in the pipeline is executed after the last section.
    let last = format!("k{}", KEYS - 1);
    client.send([request(&mset()), request(&format!("GET {last}")), request(&format!("SET {last} v{last}"))].concat());
    client.expect(&format!("+OK\r\n${}\r\nv{last}\r\n+OK\r\n", last.len() + 1));
    client.send([request(&command("MGET")), request("PING")].concat());
    client.expect(&values()).expect("+PONG\r\n");
    client.call(&command("EXISTS")).expect(&format!(":{KEYS}\r\n"));
    client.call("CLIENT REPLY SKIP").call(&command("MGET")).call("PING").expect("+PONG\r\n");
    client.call(&command("DEL")).expect(&format!(":{KEYS}\r\n"));
    client.call(&command("UNLINK")).expect(":0\r\n");
    bed.until("counted", |r| r.stats.large_splits == 6);
    // A command of one slot is atomic, so it stays whole.
    client.call(&command("MSET").replace(" k", " {k}")).expect("+OK\r\n");
    client.call("PING").expect("+PONG\r\n");
    bed.until("not counted", |r| r.stats.forwarded == 9 && r.stats.large_splits == 6);
}

#[test]
fn a_client_gets_its_turn_between_two_sections() {
    let (count, counted) = std::sync::mpsc::sync_channel(16);
    let (go, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let server = fake(move |mut conn| {
        while let Some(request) = conn.request() {
            count.send(request.len() - 1).unwrap();
            // Until the other client was served.
            gate.lock().unwrap().recv().unwrap();
            conn.reply(b":1\r\n");
        }
    });
    let bed = Bed::start(&[&server]);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.call(&command("TOUCH"));
    let mut seen = 0;
    while seen < KEYS {
        let keys = counted.recv().unwrap();
        assert!(keys <= 1024, "a section of {keys} keys");
        seen += keys;
        other.call("PING").expect("+PONG\r\n");
        go.send(()).unwrap();
    }
    client.expect(&format!(":{}\r\n", KEYS.div_ceil(1024)));
}

#[test]
fn a_failed_section_of_a_write_is_never_reported_as_success() {
    let (a, b) = (Redis::start(), Redis::start_with(&["--maxmemory", "1"]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    let line = client.call(&mset()).line();
    assert!(line.starts_with("-ERR outcome unknown: executed for some keys only; a part failed: OOM"), "{line}");
    // Nothing more is sent after the first failure.
    let mut direct = Client::connect(a.port());
    direct.call(&format!("EXISTS k{}", KEYS - 1)).expect(":0\r\n");
    client.call("PING").expect("+PONG\r\n");
}

/// A key of a later section whose slot has no key of the first section, so that a hold of it parks the middle.
fn key_in_the_middle() -> String {
    let slot = |key: &str| Layout::Codis.slot(key.as_bytes());
    let first: std::collections::BTreeSet<SlotId> = keys()[..1024].iter().map(|key| slot(key)).collect();
    keys()[2048..].iter().find(|key| !first.contains(&slot(key))).unwrap().clone()
}

fn released(table: RouteTable, key: &str) -> RouteTable {
    let slot = Layout::Codis.slot(key.as_bytes());
    let mut table = with_product(table, |p| p.slots[usize::from(slot.0)].hold = HoldId(0));
    table.epoch = Epoch(table.epoch.0 + 1);
    table.holds.clear();
    table
}

#[test]
fn a_held_slot_parks_the_rest_of_the_sections() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 1, |t| t);
    let key = key_in_the_middle();
    bed.publish(held(bed.table(), 9, HoldKind::Wait, &key));
    bed.until("held", |r| r.holds.contains_key(&HoldId(9)));
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send([request(&mset()), request("PING")].concat());
    // The first section is executed; the hold drains, since the rest waits without being sent.
    while other.call("GET k0").line() != "$3" {}
    other.expect("vk0\r\n");
    bed.until("drained", |r| r.holds.get(&HoldId(9)).is_some_and(|hold| hold.drained));
    other.call("EXISTS k0 k1").expect(":2\r\n");
    bed.publish(released(bed.table(), &key));
    client.expect("+OK\r\n+PONG\r\n");
    client.call(&command("MGET")).expect(&values());
}

#[test]
fn a_hold_that_lasts_too_long_ends_the_command_truthfully() {
    let (a, b) = (Redis::start(), Redis::start());
    let limits = Limits { parked_for_max: Duration::from_millis(300), ..Limits::default() };
    let bed = Bed::start_with(&[&a.addr, &b.addr], limits, 1, |t| t);
    let key = key_in_the_middle();
    bed.publish(held(bed.table(), 9, HoldKind::Wait, &key));
    bed.until("held", |r| r.holds.contains_key(&HoldId(9)));
    let mut client = bed.client();
    let line = client.call(&mset()).line();
    let want = "-ERR outcome unknown: executed for some keys only; a part failed: TRYAGAIN not executed: its slot";
    assert!(line.starts_with(want), "{line}");
    let line = client.call(&command("MGET")).line();
    assert!(line.starts_with("-TRYAGAIN not executed: its slot was held"), "{line}");
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    for _ in 0..20 {
        bed.client().call(&command("MGET"));
    }
    bed.client().call("PING").expect("+PONG\r\n");
    bed.until("closed", |r| r.clients == 0);
}

#[test]
fn local_commands_with_many_arguments_are_refused() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    for name in ["COMMAND INFO", "COMMAND GETKEYS", "CONFIG GET", "INFO"] {
        let line = client.call(&format!("{name}{}", " get".repeat(2000))).line();
        assert!(line.contains("with more than 1024 arguments is not executed"), "{line}");
    }
    bed.until("counted", |r| r.stats.long_local_commands == 4);
    client.call("COMMAND INFO get nosuch");
    assert_eq!(client.line(), "*2");
}
