//! FLUSHALL, FLUSHDB, SWAPDB and the commands that save: all groups, or an error that says which.

use crate::{
    common::{Bed, Redis, with_product},
    fixture::{Caller, PONG, Scripted, Value, held_slot, key_of, moved, promoted, released, slot},
};

#[test]
fn all_groups_are_flushed_and_swapped() {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr, &servers[2].addr]);
    let mut caller = Caller::connect(bed.port);
    let fill = |caller: &mut Caller| {
        for db in [0, 1] {
            caller.call(&format!("SELECT {db}"));
            for i in 0..30 {
                caller.call(&format!("SET k{i} {db}"));
            }
        }
    };
    fill(&mut caller);
    assert_eq!(caller.call("SWAPDB 0 1").text(), "OK");
    let values: Vec<_> = (0..30).map(|i| caller.call(&format!("GET k{i}"))).collect();
    assert!(values.iter().all(|value| *value == Value::Text("0".into())), "{values:?}");
    assert_eq!(caller.call("FLUSHDB").text(), "OK");
    assert_eq!(caller.call("DBSIZE"), Value::Int(0));
    caller.call("SELECT 0");
    assert_eq!(caller.call("DBSIZE"), Value::Int(30));
    for command in ["FLUSHALL", "FLUSHALL ASYNC", "FLUSHALL sync", "FLUSHDB async"] {
        fill(&mut caller);
        assert_eq!(caller.call(command).text(), "OK");
        assert_eq!(caller.call("DBSIZE"), Value::Int(0));
    }
    for (command, error) in [
        ("FLUSHALL NOW", "ERR syntax error"),
        ("SWAPDB a 1", "ERR invalid first DB index"),
        ("SWAPDB 0 b", "ERR invalid second DB index"),
        ("SWAPDB 0 16", "ERR DB index is out of range"),
        ("SWAPDB -1 0", "ERR DB index is out of range"),
    ] {
        assert_eq!(caller.call(command), Value::Error(error.into()), "{command}");
    }
}

/// A database that the servers have, and the product does not.
#[test]
fn keys_do_not_leave_the_databases_of_the_product() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Default::default(), 1, |t| with_product(t, |p| p.databases = 4));
    let mut caller = Caller::connect(bed.port);
    caller.call("SET k v");
    let error = Value::Error("ERR DB index is out of range".into());
    for command in ["MOVE k 4", "MOVE k -1", "COPY k l DB 4", "COPY k l REPLACE DB 9", "SWAPDB 0 4"] {
        assert_eq!(caller.call(command), error, "{command}");
    }
    assert_eq!(caller.call("COPY k {k} DB 1"), Value::Int(1));
    assert_eq!(caller.call("MOVE k 3"), Value::Int(1));
    assert_eq!(caller.call("GET k"), Value::Null);
    caller.call("SELECT 3");
    assert_eq!(caller.call("GET k").text(), "v");
    assert_eq!(caller.call("MOVE k x").text(), "ERR value is not an integer or out of range");
}

#[test]
fn a_group_that_is_down_keeps_all_from_being_flushed() {
    let (up, down) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&up.addr, &down.addr]);
    let mut caller = Caller::connect(bed.port);
    let (kept, other) = (key_of(0, 2), key_of(1, 2));
    caller.call(&format!("SET {kept} v"));
    caller.call(&format!("SET {other} v"));
    drop(down);
    // The first request finds out that the server is down.
    while !caller.call("DBSIZE").text().contains("is down") {}
    for command in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1"] {
        assert_eq!(caller.call(command).text(), "ERR its server is down, not executed", "{command}");
    }
    assert_eq!(caller.call(&format!("GET {kept}")).text(), "v");
}

#[test]
fn an_error_says_which_group_has_not_done_it() {
    let (redis, scripted) = (Redis::start(), Scripted::start(&[PONG, ("FLUSHALL", "-MISCONF cannot save\r\n")]));
    let bed = Bed::start(&[&redis.addr, &scripted.addr]);
    let refused = Caller::connect(bed.port).call("FLUSHALL");
    let want = "ERR outcome unknown: 1 of 2 groups have executed it; group 2: MISCONF cannot save";
    assert_eq!(refused.text(), want);
    let alone = Bed::start(&[&scripted.addr]);
    assert_eq!(Caller::connect(alone.port).call("FLUSHALL").text(), "MISCONF cannot save");
}

/// A flush is in flight for every hold of the product, and none is sent while one is open: what a copy under way has
/// brought over cannot outlive an OK.
#[test]
fn a_flush_and_a_hold_wait_for_each_other() {
    let (a, b) = (Scripted::start(&[PONG]), Scripted::start(&[PONG]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.send("FLUSHALL");
    assert_eq!((a.request(), b.request()), ("FLUSHALL".into(), "FLUSHALL".into()));
    let held = held_slot(bed.table(), slot(&key_of(0, 2)));
    let hold = held.epoch;
    bed.follow(held);
    a.reply("+OK\r\n");
    assert!(!bed.is_drained(hold), "one group has not answered");
    b.reply("+OK\r\n");
    assert_eq!(caller.value().text(), "OK");
    bed.until("drained", |r| r.holds.values().all(|hold| hold.drained));
    caller.send("FLUSHALL ASYNC");
    bed.until("parked", |r| r.stats.parked == 1);
    assert!(!a.is_asked() && !b.is_asked(), "a slot is held");
    bed.follow(released(bed.table()));
    assert_eq!((a.request(), b.request()), ("FLUSHALL ASYNC".into(), "FLUSHALL ASYNC".into()));
    a.reply("+OK\r\n");
    b.reply("+OK\r\n");
    assert_eq!(caller.value().text(), "OK");
}

/// The owners behind the last reply are not those of the dispatch: the target may have been flushed before the keys came.
#[test]
fn a_flush_is_repeated_when_slots_have_moved_meanwhile() {
    let (a, b) = (Scripted::start(&[PONG]), Scripted::start(&[PONG]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.send("FLUSHALL");
    assert_eq!((a.request(), b.request()), ("FLUSHALL".into(), "FLUSHALL".into()));
    b.reply("+OK\r\n");
    let moving = slot(&key_of(0, 2));
    bed.follow(moved(bed.table(), 1, |slot| slot == moving));
    a.reply("+OK\r\n");
    // Once more.
    assert_eq!((a.request(), b.request()), ("FLUSHALL".into(), "FLUSHALL".into()));
    a.reply("+OK\r\n");
    b.reply("+OK\r\n");
    assert_eq!(caller.value().text(), "OK");
    // Slots that move each time.
    caller.send("FLUSHDB");
    for group in [0, 1, 0] {
        assert_eq!((a.request(), b.request()), ("FLUSHDB".into(), "FLUSHDB".into()));
        bed.follow(moved(bed.table(), group, |slot| slot == moving));
        a.reply("+OK\r\n");
        b.reply("+OK\r\n");
    }
    let refused = caller.value();
    assert!(refused.text().starts_with("ERR outcome unknown: slots got other owners"), "{refused:?}");
}

#[test]
fn databases_are_never_swapped_twice() {
    let (a, b) = (Scripted::start(&[]), Scripted::start(&[]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.send("SWAPDB 0 1");
    for server in [&a, &b] {
        assert_eq!(server.request(), "PING");
        server.reply("+PONG\r\n");
    }
    assert_eq!((a.request(), b.request()), ("SWAPDB 0 1".into(), "SWAPDB 0 1".into()));
    a.reply("+OK\r\n");
    let moving = slot(&key_of(0, 2));
    bed.follow(moved(bed.table(), 1, |slot| slot == moving));
    b.reply("+OK\r\n");
    let refused = caller.value();
    assert!(refused.text().starts_with("ERR outcome unknown: slots got other owners"), "{refused:?}");
    assert!(!a.is_asked() && !b.is_asked());
    // A group that does not answer: nothing is swapped.
    caller.send("SWAPDB 0 1");
    assert_eq!((a.request(), b.request()), ("PING".into(), "PING".into()));
    a.reply("+PONG\r\n");
    b.reply("-LOADING wait\r\n");
    assert_eq!(caller.value().text(), "LOADING wait (group 2 of 2)");
    assert!(!a.is_asked() && !b.is_asked());
}

/// A primary that was promoted meanwhile may not have got the flush.
#[test]
fn a_flush_is_repeated_at_a_new_primary() {
    let (a, b, new) = (Scripted::start(&[PONG]), Scripted::start(&[PONG]), Scripted::start(&[PONG]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut caller = Caller::connect(bed.port);
    caller.send("FLUSHALL");
    assert_eq!((a.request(), b.request()), ("FLUSHALL".into(), "FLUSHALL".into()));
    a.reply("+OK\r\n");
    bed.follow(promoted(bed.table(), 0, &new.addr));
    b.reply("+OK\r\n");
    assert_eq!((new.request(), b.request()), ("FLUSHALL".into(), "FLUSHALL".into()));
    new.reply("+OK\r\n");
    b.reply("+OK\r\n");
    assert_eq!(caller.value().text(), "OK");
}

#[test]
fn a_flush_waits_for_replicas_as_a_write_does() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Default::default(), 1, |table| {
        with_product(table, |p| (p.min_acks, p.min_acks_ms) = (1, 50))
    });
    let refused = Caller::connect(bed.port).call("FLUSHALL");
    assert!(refused.text().starts_with("NOREPLICAS executed, not confirmed on 1 replicas"), "{refused:?}");
}

#[test]
fn all_primaries_save() {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    let mut caller = Caller::connect(bed.port);
    let Value::Int(before) = caller.call("LASTSAVE") else { panic!("no time") };
    assert_eq!(caller.call("SAVE").text(), "OK");
    let Value::Int(after) = caller.call("LASTSAVE") else { panic!("no time") };
    assert!(after >= before);
    for redis in &servers {
        let info = Caller::connect(redis.port()).call("INFO persistence");
        assert!(info.text().contains("rdb_saves:1"), "{info:?}");
    }
    assert_eq!(caller.call("BGSAVE").text(), "Background saving started");
    let again = caller.call("BGSAVE SCHEDULE");
    assert!(
        again.text().starts_with("Background saving s") || again.text().contains("already in progress"),
        "{again:?}"
    );
    assert_eq!(caller.call("BGSAVE NOW").text(), "ERR syntax error");
    let rewriting = caller.call("BGREWRITEAOF");
    assert!(rewriting.text().starts_with("Background append only file rewriting s"), "{rewriting:?}");
}
