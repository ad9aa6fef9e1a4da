//! SCAN and KEYS: every key that is there all the time is returned, whatever moves; no other group's key is.

use std::collections::BTreeSet;

use pontoon::proxy::Limits;

use crate::{
    common::{Bed, Redis, free_port},
    fixture::{Caller, PONG, Scripted, Value, held_slot, key_of, moved, owner, promoted, released, slot},
};

/// Three servers with 3,000 keys, a third of which are hashes.
fn filled() -> ([Redis; 3], Bed, BTreeSet<String>) {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr, &servers[2].addr]);
    let mut caller = Caller::connect(bed.port);
    let keys: BTreeSet<String> = (0..3000).map(|i| format!("key:{i}")).collect();
    for (i, key) in keys.iter().enumerate() {
        caller.send(&if i % 3 == 0 { format!("HSET {key} f v") } else { format!("SET {key} v") });
    }
    keys.iter().for_each(|_| assert_ne!(caller.value(), Value::Error(String::new())));
    (servers, bed, keys)
}

/// Copies all keys of a server to another one.
fn copy(from: &Redis, to: &Redis) {
    let (mut from, mut to) = (Caller::connect(from.port()), Caller::connect(to.port()));
    for key in from.call("KEYS *").texts() {
        let value = from.call(&format!("GET {key}"));
        match value {
            Value::Text(value) => to.call(&format!("SET {key} {value}")),
            _ => to.call(&format!("HSET {key} f v")),
        };
    }
}

#[test]
fn all_keys_are_found_with_all_options() {
    let (_servers, bed, keys) = filled();
    let mut caller = Caller::connect(bed.port);
    for options in ["", " COUNT 1", " COUNT 100", " COUNT 100000", " MATCH *"] {
        assert_eq!(caller.scan_from("0".into(), &format!("SCAN {{}}{options}")), keys, "{options}");
    }
    let some: BTreeSet<String> = keys.iter().filter(|key| key.starts_with("key:1")).cloned().collect();
    assert_eq!(caller.scan_from("0".into(), "SCAN {} MATCH key:1* COUNT 50"), some);
    assert_eq!(caller.call("KEYS key:1*").texts(), some);
    assert_eq!((caller.call("KEYS *").texts(), caller.call("KEYS none").texts()), (keys.clone(), BTreeSet::new()));
    let hashes: BTreeSet<String> = keys.iter().step_by(3).cloned().collect();
    assert_eq!(caller.scan_from("0".into(), "SCAN {} TYPE hash COUNT 50"), hashes);
    // In its own database.
    caller.call("SELECT 3");
    caller.call("SET three 3");
    assert_eq!(caller.page("SCAN 0"), ("0".into(), vec!["three".into()]));
    assert_eq!(caller.call("KEYS *").texts(), ["three".to_owned()].into());
    caller.call("HELLO 2");
    assert_eq!(caller.page("SCAN 0 COUNT 1000").1, ["three"]);
}

#[test]
fn few_keys_of_all_groups_come_in_one_reply() {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr, &servers[2].addr]);
    let mut caller = Caller::connect(bed.port);
    assert_eq!(caller.page("SCAN 0"), ("0".into(), vec![]));
    let keys: Vec<String> = (0..3).map(|group| key_of(group, 3)).collect();
    keys.iter().for_each(|key| drop(caller.call(&format!("SET {key} v"))));
    let (cursor, mut found) = caller.page("SCAN 0");
    found.sort();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!((cursor.as_str(), found), ("0", sorted));
    assert_eq!(caller.page(&format!("SCAN 0 MATCH {}", keys[2])), ("0".into(), vec![keys[2].clone()]));
}

#[test]
fn keys_of_other_groups_are_not_shown() {
    let (servers, bed, keys) = filled();
    let mut direct = Caller::connect(servers[0].port());
    // Copies and leftovers: keys that belong to groups 2 and 3.
    for i in 0..500 {
        let key = format!("other:{i}");
        if owner(&key, 3) != 0 {
            direct.call(&format!("SET {key} v"));
        }
    }
    let mut caller = Caller::connect(bed.port);
    assert_eq!(caller.scan_from("0".into(), "SCAN {} COUNT 100"), keys);
    assert_eq!(caller.call("KEYS *").texts(), keys);
}

/// Slots move from a group that was not scanned yet to one that was.
#[test]
fn a_scan_finds_keys_that_move_behind_it() {
    let (servers, bed, keys) = filled();
    let mut caller = Caller::connect(bed.port);
    let mut found = BTreeSet::new();
    let mut cursor = String::from("0");
    // Into the third group.
    while found.iter().all(|key: &String| owner(key, 3) < 2) {
        let (next, page) = caller.page(&format!("SCAN {cursor} COUNT 50"));
        found.extend(page);
        cursor = next;
    }
    copy(&servers[2], &servers[0]);
    bed.follow(moved(bed.table(), 0, |slot| usize::from(slot.0) * 3 / 1024 == 2));
    Caller::connect(servers[2].port()).call("FLUSHALL");
    found.extend(caller.scan_from(cursor, "SCAN {} COUNT 50"));
    assert_eq!(found, keys);
}

#[test]
fn a_scan_goes_on_at_a_new_primary_and_after_a_restart() {
    let (mut servers, bed, keys) = filled();
    let promote = Redis::start();
    copy(&servers[1], &promote);
    let mut caller = Caller::connect(bed.port);
    let mut found = BTreeSet::new();
    let mut cursor = String::from("0");
    while found.iter().all(|key: &String| owner(key, 3) < 1) {
        let (next, page) = caller.page(&format!("SCAN {cursor} COUNT 50"));
        found.extend(page);
        cursor = next;
    }
    // The old primary is in the middle of its table; the new one has another order.
    bed.follow(promoted(bed.table(), 1, &promote.addr));
    servers[1].kill();
    let (next, page) = caller.page(&format!("SCAN {cursor} COUNT 50"));
    found.extend(page);
    // Another process at the same address, which the routes do not tell.
    let port = promote.port();
    let other = Redis::start();
    copy(&promote, &other);
    drop(promote);
    let restarted = Redis::start_at(port, &[]);
    copy(&other, &restarted);
    found.extend(caller.scan_from(next, "SCAN {} COUNT 50"));
    assert_eq!(found, keys);
}

/// The cursor of a process means nothing to another one, even in a group that is not known to have changed.
#[test]
fn a_restarted_server_is_scanned_from_its_beginning() {
    let port = free_port();
    let first = Redis::start_at(port, &[]);
    let bed = Bed::start(&[&first.addr]);
    let mut caller = Caller::connect(bed.port);
    let keys: BTreeSet<String> = (0..2000).map(|i| format!("key:{i}")).collect();
    keys.iter().for_each(|key| drop(caller.call(&format!("SET {key} v"))));
    let (cursor, page) = caller.page("SCAN 0 COUNT 1000");
    let mut found: BTreeSet<String> = page.into_iter().collect();
    let other = Redis::start();
    copy(&first, &other);
    drop(first);
    let second = Redis::start_at(port, &[]);
    copy(&other, &second);
    found.extend(caller.scan_from(cursor, "SCAN {} COUNT 1000"));
    assert_eq!(found, keys);
}

#[test]
fn a_scan_during_which_too_much_moves_ends_with_an_error() {
    let (_servers, bed, _) = filled();
    let mut caller = Caller::connect(bed.port);
    let (cursor, _) = caller.page("SCAN 0 COUNT 50");
    let mut table = bed.table();
    for _ in 0..65 {
        table = moved(table, 0, |_| false);
    }
    bed.follow(table);
    let refused = caller.call(&format!("SCAN {cursor}"));
    assert!(refused.text().starts_with("ERR invalid cursor: slots have moved too often"), "{refused:?}");
    assert_eq!(caller.page("SCAN 0 COUNT 50").1.len().min(40), 40);
    let refused = caller.call("SCAN 12345678");
    assert!(refused.text().starts_with("ERR invalid cursor"), "{refused:?}");
}

/// Another node has returned the cursor by routes that this one gets a moment later.
#[test]
fn a_cursor_of_a_node_that_is_ahead_waits_for_the_routes() {
    let (servers, ahead, keys) = filled();
    let behind = Bed::start(&[&servers[0].addr, &servers[1].addr, &servers[2].addr]);
    ahead.follow(moved(ahead.table(), 0, |_| false));
    let (cursor, page) = Caller::connect(ahead.port).page("SCAN 0 COUNT 100");
    let mut found: BTreeSet<String> = page.into_iter().collect();
    let mut caller = Caller::connect(behind.port);
    caller.send(&format!("SCAN {cursor} COUNT 100"));
    behind.follow(moved(behind.table(), 0, |_| false));
    let reply = caller.value();
    let [next, page] = reply.items() else { panic!("{reply:?}") };
    found.extend(page.texts());
    found.extend(caller.scan_from(next.text().to_owned(), "SCAN {} COUNT 100"));
    assert_eq!(found, keys);
}

/// Two safety rules: no page is asked for while a hold is open, and a hold waits for the page in flight. Otherwise a node
/// that does not know of a switch yet could end a scan.
#[test]
fn a_scan_and_a_hold_wait_for_each_other() {
    let server = Scripted::start(&[PONG]);
    let bed = Bed::start(&[&server.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.send("SCAN 0");
    assert!(server.request().starts_with("SCAN 0 COUNT 10"));
    let held = held_slot(bed.table(), slot("elsewhere"));
    let hold = held.epoch;
    bed.follow(held);
    assert!(!bed.is_drained(hold), "a page is in flight");
    server.reply("*2\r\n$1\r\n5\r\n*1\r\n$1\r\na\r\n");
    let reply = caller.value();
    bed.until("drained", |r| r.holds.values().all(|hold| hold.drained));
    let next = format!("SCAN {}", reply.items()[0].text());
    caller.send(&next);
    bed.until("parked", |r| r.stats.parked == 1);
    assert!(!server.is_asked(), "a slot of the product is held");
    bed.follow(released(bed.table()));
    assert_eq!(server.request(), "SCAN 5 COUNT 10");
    server.reply("*2\r\n$1\r\n0\r\n*0\r\n");
    assert_eq!(caller.value().items()[0].text(), "0");
}

#[test]
fn a_scan_is_refused_when_a_hold_lasts_too_long_or_its_server_is_down() {
    let (servers, bed, _) = filled();
    let limits = Limits { parked_for_max: std::time::Duration::from_millis(50), ..Limits::default() };
    let short = Bed::start_with(&[&servers[0].addr], limits, 1, |table| held_slot(table, slot("elsewhere")));
    for command in ["SCAN 0", "KEYS *", "DBSIZE", "RANDOMKEY", "FLUSHALL", "SWAPDB 0 1"] {
        let refused = Caller::connect(short.port).call(command);
        assert_eq!(refused.text(), "TRYAGAIN not executed: its slot was held for too long", "{command}");
    }
    let [_first, second, _third] = servers;
    drop(second);
    let mut caller = Caller::connect(bed.port);
    for command in ["SCAN 0 COUNT 10000", "KEYS *", "DBSIZE", "RANDOMKEY"] {
        let refused = caller.call(command);
        assert!(matches!(refused, Value::Error(_)), "{command}: {refused:?}");
    }
    assert_eq!(caller.call("PING").text(), "PONG");
}

#[test]
fn a_client_whose_keys_need_too_much_memory_is_closed() {
    let redis = Redis::start();
    let limits = Limits { reply_max: 64 << 10, ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let mut caller = Caller::connect(bed.port);
    for i in 0..100 {
        caller.call(&format!("SET {}{i} v", "x".repeat(1000)));
    }
    let mut client = bed.client();
    assert_eq!(client.call("KEYS *").rest(), "");
    bed.until("counted", |r| r.stats.large_replies == 1);
    // Others are served. (Not DBSIZE: the keys that it looks at are more than `reply_max`, too.)
    assert_eq!(caller.call(&format!("EXISTS {}7", "x".repeat(1000))), Value::Int(1));
}
