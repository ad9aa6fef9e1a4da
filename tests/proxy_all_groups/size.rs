//! DBSIZE and RANDOMKEY, which show no key of another group.

use std::collections::BTreeSet;

use crate::{
    common::{Bed, Redis},
    fixture::{Caller, Value, key_of, owner},
};

fn two() -> ([Redis; 2], Bed) {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    (servers, bed)
}

#[test]
fn sizes_are_exact_when_every_key_is_at_its_owner() {
    let (_servers, bed) = two();
    let mut caller = Caller::connect(bed.port);
    assert_eq!(caller.call("DBSIZE"), Value::Int(0));
    for i in 0..700 {
        caller.call(&format!("SET k{i} v"));
    }
    assert_eq!(caller.call("DBSIZE"), Value::Int(700));
    caller.call("SELECT 5");
    assert_eq!(caller.call("DBSIZE"), Value::Int(0));
    caller.call("SET one 1");
    assert_eq!(caller.call("DBSIZE"), Value::Int(1));
}

#[test]
fn keys_of_other_groups_do_not_count() {
    let (servers, bed) = two();
    let (mut caller, mut direct) = (Caller::connect(bed.port), Caller::connect(servers[0].port()));
    let mut own = 0;
    // As during a copy: the first server has what the second one owns. First as few keys as one page has.
    for (from, to) in [(0, 60), (60, 5000)] {
        for i in from..to {
            caller.call(&format!("SET k{i} v"));
            own += 1;
            if owner(&format!("k{i}"), 2) == 1 {
                direct.call(&format!("SET k{i} v"));
            }
        }
        assert_eq!(caller.call("DBSIZE"), Value::Int(own));
    }
    // Of more keys than are counted, the share is estimated.
    for i in 5000..30_000 {
        caller.send(&format!("SET k{i} v"));
        direct.send(&format!("SET k{i} v"));
    }
    for _ in 5000..30_000 {
        caller.value();
        direct.value();
    }
    let Value::Int(size) = caller.call("DBSIZE") else { panic!("no number") };
    assert!((size - 30_000).abs() < 1500, "{size} instead of 30000");
}

#[test]
fn random_keys_come_from_all_groups_and_are_those_of_the_owners() {
    let (servers, bed) = two();
    let mut caller = Caller::connect(bed.port);
    assert_eq!(caller.call("RANDOMKEY"), Value::Null);
    caller.call("HELLO 2");
    let mut direct = Caller::connect(servers[0].port());
    // Many keys that are not the first group's.
    for i in 0..300 {
        if owner(&format!("k{i}"), 2) == 1 {
            direct.call(&format!("SET k{i} v"));
        }
    }
    assert_eq!(caller.call("RANDOMKEY"), Value::Null, "none of these is shown");
    let keys: BTreeSet<String> = [key_of(0, 2), key_of(1, 2)].into();
    keys.iter().for_each(|key| drop(caller.call(&format!("SET {key} v"))));
    let mut found = BTreeSet::new();
    for _ in 0..1000 {
        found.insert(caller.call("RANDOMKEY").text().to_owned());
        if found == keys {
            return;
        }
    }
    panic!("{found:?} of {keys:?}");
}
