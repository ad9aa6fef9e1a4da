//! The commands of Codis about slots.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    common::{Bed, Redis, with_product},
    fixture::{Caller, Value, key_of, owner, slot},
};

#[test]
fn slots_are_counted_scanned_and_shown() {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    let mut caller = Caller::connect(bed.port);
    let keys: Vec<String> = (0..500).map(|i| format!("k{i}")).chain((0..100).map(|i| format!("{{tag}}{i}"))).collect();
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    for key in &keys {
        caller.call(&format!("SET {key} v"));
        *counts.entry(i64::from(slot(key).0)).or_default() += 1;
    }
    // A leftover of the other group is not counted.
    Caller::connect(servers[0].port()).call(&format!("SET {} v", key_of(1, 2)));
    let info = |reply: Value| -> BTreeMap<i64, i64> {
        let pair = |item: &Value| match item.items() {
            [Value::Int(slot), Value::Int(keys)] => (*slot, *keys),
            other => panic!("{other:?}"),
        };
        reply.items().iter().map(pair).collect()
    };
    assert_eq!(info(caller.call("SLOTSINFO")), counts);
    let some: BTreeMap<i64, i64> = counts.range(100..300).map(|(slot, keys)| (*slot, *keys)).collect();
    assert_eq!(info(caller.call("SLOTSINFO 100 200")), some);
    let first: BTreeMap<i64, i64> = counts.range(..512).map(|(slot, keys)| (*slot, *keys)).collect();
    assert_eq!(info(caller.call(&format!("SLOTSINFO {}", servers[0].addr))), first);
    let tagged: BTreeSet<String> = keys.iter().filter(|key| slot(key) == slot("tag")).cloned().collect();
    let words = format!("SLOTSSCAN {} {{}} COUNT 10", slot("tag").0);
    assert_eq!(caller.scan_from("0".into(), &words), tagged);
    let slots: Vec<Value> = ["a", "{tag}b"].iter().map(|key| Value::Int(slot(key).0.into())).collect();
    assert_eq!(caller.call("SLOTSHASHKEY a {tag}b"), Value::Array(slots));
    for (command, error) in [
        ("SLOTSINFO 1024", "ERR invalid slot number = 1024"),
        ("SLOTSINFO x", "ERR value is not an integer or out of range"),
        ("SLOTSINFO 0 -1", "ERR invalid slot count = -1"),
        ("SLOTSINFO 127.0.0.1:1", "ERR backend server '127.0.0.1:1' not found"),
        ("SLOTSINFO 1 2 3", "ERR wrong number of arguments for 'slotsinfo' command"),
        ("SLOTSSCAN 1024 0", "ERR parse slotnum '1024' failed, out of range"),
        ("SLOTSSCAN 1 x", "ERR invalid cursor"),
        ("SLOTSSCAN 1 0 MATCH a", "ERR syntax error"),
        ("SLOTSMAPPING 1024", "ERR parse slotnum '1024' failed, out of range"),
        ("SLOTSMAPPING 1 2", "ERR wrong number of arguments for 'slotsmapping' command"),
    ] {
        assert_eq!(caller.call(command), Value::Error(error.into()), "{command}");
    }
}

#[test]
fn the_mapping_names_servers_only_where_errors_do() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut caller = Caller::connect(bed.port);
    let text = |text: &str| Value::Text(text.into());
    let row = |slot: &str, at: &str| Value::Array(vec![text(slot), text(at), text(""), Value::Array(vec![])]);
    assert_eq!(caller.call("SLOTSMAPPING 7"), row("7", "group-1"));
    let mut table = with_product(bed.table(), |p| {
        p.rules.errors_detailed = true;
        p.slots[9].group = None;
    });
    table.epoch.0 += 1;
    bed.follow(table);
    let all = caller.call("SLOTSMAPPING");
    assert_eq!((all.items().len(), &all.items()[7], &all.items()[9]), (1024, &row("7", &redis.addr), &row("9", "")));
    assert_eq!(owner("k", 1), 0);
}
