//! HSCAN, SSCAN and ZSCAN: a cursor belongs to a process, and another one begins anew.

use std::collections::BTreeSet;

use crate::{
    common::{Bed, Redis, held},
    fixture::{Caller, Value, key_of, moved, slot},
};
use pontoon::model::route::HoldKind;

/// Elements of a big key.
const ELEMENTS: usize = 3000;

fn add(caller: &mut Caller, key: &str) {
    for i in 0..ELEMENTS {
        caller.send(&format!("HSET {{{key}}}h element:{i} v"));
        caller.send(&format!("SADD {{{key}}}s element:{i}"));
        caller.send(&format!("ZADD {{{key}}}z {i} element:{i}"));
    }
    for _ in 0..3 * ELEMENTS {
        assert_eq!(caller.value(), Value::Int(1));
    }
}

#[test]
fn a_scan_of_a_key_goes_on_at_another_server() {
    let (source, target) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&source.addr, &target.addr]);
    let mut caller = Caller::connect(bed.port);
    let key = key_of(0, 2);
    add(&mut caller, &key);
    add(&mut Caller::connect(target.port()), &key);
    for (command, key) in
        [("HSCAN", format!("{{{key}}}h")), ("SSCAN", format!("{{{key}}}s")), ("ZSCAN", format!("{{{key}}}z"))]
    {
        bed.follow(moved(bed.table(), 0, |moving| moving == slot(&key)));
        let mut found = BTreeSet::new();
        let mut cursor = String::from("0");
        while found.len() < ELEMENTS / 2 {
            let (next, page) = caller.page(&format!("{command} {key} {cursor} COUNT 100"));
            found.extend(page.into_iter().filter(|element| element.starts_with("element:")));
            cursor = next;
        }
        bed.follow(moved(bed.table(), 1, |moving| moving == slot(&key)));
        found.extend(caller.scan_from(cursor, &format!("{command} {key} {{}} COUNT 100")));
        found.retain(|element| element.starts_with("element:"));
        assert_eq!(found.len(), ELEMENTS, "{command}");
    }
}

#[test]
fn arguments_and_errors_are_those_of_the_server() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let (mut caller, mut direct) = (Caller::connect(bed.port), Caller::connect(redis.port()));
    caller.call("HSET h a 1 b 2");
    caller.call("SET s v");
    for command in [
        "HSCAN h 0",
        "HSCAN h 0 MATCH a",
        "HSCAN h 0 COUNT 1",
        "HSCAN h 0 COUNT 0",
        "HSCAN h 0 NOVALUES",
        "HSCAN h x",
        "HSCAN h -1",
        "HSCAN s 0",
        "HSCAN none 0",
        "SSCAN h 0",
        "ZSCAN h 0 TYPE x",
    ] {
        assert_eq!(caller.call(command), direct.call(command), "{command}");
    }
    // What is sent behind it in the pipeline is executed behind it.
    for command in ["SET a 1", "HSCAN h 0", "GET a"] {
        caller.send(command);
    }
    let replies = [caller.value(), caller.value(), caller.value()];
    assert_eq!((replies[0].text(), replies[2].text()), ("OK", "1"));
}

#[test]
fn a_scan_of_a_key_is_parked_while_its_slot_is_held() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.call("SADD k a");
    let free = bed.table();
    bed.follow(held(free.clone(), 7, HoldKind::Wait, "k"));
    caller.send("SSCAN k 0");
    bed.until("parked", |r| r.stats.parked == 1);
    let mut table = free;
    table.epoch.0 = 8;
    bed.follow(table);
    assert_eq!(caller.value().items()[1].texts(), ["a".to_owned()].into());
}
