//! Keys that change while they are copied: nothing is lost, nothing is duplicated, nothing expires early.
//! Knows nothing of the kinds of feeds.

use std::{process::Command, time::Duration};

use pontoon::{model::ids::HoldId, mover::State, redis::Reply};

use super::{
    bed::{Bed, Conn, Writer, follow, layout_slots, start_server},
    common::{PATIENCE, Redis, free_port},
    copying::fill,
    kinds::Kind,
};

/// All ways to change a key that are replicated in another form.
fn change(conn: &mut Conn, i: usize) {
    let n = i * 7919 % 150;
    let m = i % 20;
    match i % 24 {
        0 => conn.run(&format!("SET string:{n} new-{i}")),
        1 => conn.run(&format!("DEL string:{n}")),
        2 => conn.run(&format!("INCRBY int:{n} 7")),
        3 => conn.run(&format!("INCRBYFLOAT float:{n} 0.5")),
        4 => conn.run(&format!("EXPIRE string:{n} {}", 1000 + n)),
        5 => conn.run(&format!("PERSIST string:{n}")),
        6 => conn.ask(&[b"RENAME", format!("int:{n}").as_bytes(), format!("renamed:{n}").as_bytes()]),
        7 => conn.run(&format!("COPY set:{m} copied:{m} DB 15 REPLACE")),
        8 => conn.run(&format!("MOVE bytes:{n} 3")),
        9 => conn.ask(&[
            b"EVAL",
            b"redis.call('set', KEYS[1], ARGV[1]) return redis.call('hincrby', KEYS[2], 'n', 1)",
            b"2",
            format!("lua:{n}").as_bytes(),
            format!("hash:{m}").as_bytes(),
            i.to_string().as_bytes(),
        ]),
        10 => {
            conn.run("MULTI");
            conn.run(&format!("INCR multi:{n}"));
            conn.run(&format!("LPUSH list:{m} {i}"));
            conn.run("EXEC")
        }
        11 => conn.run(&format!("SPOP set:{m} 2")),
        12 => conn.run(&format!("SADD set:{m} again-{i}")),
        13 => conn.run(&format!("ZADD zset:{m} {i} member-{n}")),
        14 => conn.run(&format!("XADD stream:{m} * f {i}")),
        15 => conn.run(&format!("XREADGROUP GROUP group other COUNT 2 STREAMS stream:{m} >")),
        16 => conn.run(&format!("GETEX string:{n} PX 500000")),
        17 => conn.run(&format!("SET gone:{n} x PX 5")),
        18 => conn.run(&format!("LMOVE list:{m} list:{} LEFT RIGHT", (m + 1) % 20)),
        19 => conn.run(&format!("PFADD hll:{m} {i}")),
        20 => conn.run(&format!("ZUNIONSTORE union:{m} 2 zset:{m} zset:{}", (m + 1) % 20)),
        21 => conn.run(&format!("GETDEL lua:{n}")),
        22 => {
            // A database that had no key at the start.
            conn.run("SELECT 7");
            conn.run(&format!("SET late:{n} {i}"));
            conn.run("SELECT 0")
        }
        _ => conn.run(&format!("SETRANGE string:{n} 3 xyz")),
    };
}

fn changes_meanwhile(mut bed: Bed) {
    fill(&mut bed.s);
    let slots = layout_slots(|slot| slot % 4 != 2);
    let writer = Writer::start(&bed.source, change);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    bed.wait(&handle, "refetching", |report| report.counters.refetched > 2000);
    bed.caught_up(&handle);
    // A hold that is released: the writers continue, and so does the copy.
    assert!(writer.end() > 100);
    bed.finish(&handle, 5);
    bed.assert_equal(&slots);
    let writer = Writer::start(&bed.source, change);
    let refetched = handle.report().borrow().counters.refetched;
    handle.resume(HoldId(4));
    assert_eq!(handle.report().borrow().state, State::Finished(HoldId(5)), "another hold's release");
    handle.resume(HoldId(5));
    bed.wait(&handle, "refetching again", |report| report.counters.refetched > refetched + 1000);
    bed.caught_up(&handle);
    writer.end();
    bed.finish(&handle, 6);
    bed.assert_equal(&slots);
}

#[test]
fn with_a_primary_that_never_had_a_replica() {
    changes_meanwhile(Bed::start());
}

#[test]
fn with_a_replica_as_the_feed() {
    let mut bed = Bed::with_replica();
    // The primary gets only queries: neither fetches nor a feed.
    let replicas = bed.s.info("replication", "connected_slaves");
    assert_eq!(replicas, "1");
    changes_meanwhile(bed);
}

#[test]
fn with_tracking_where_psync_is_refused() {
    let mut bed = Bed::start();
    bed.s.run("ACL SETUSER default -psync -sync -replconf");
    changes_meanwhile(bed);
}

/// The target does not know the encodings of the source.
#[test]
fn with_an_older_server_as_the_target() {
    let target = Redis::start_program(Command::new(Kind::Redis6.program()), free_port(), &[]);
    changes_meanwhile(Bed::of(start_server(), target));
}

#[test]
fn sessions_that_are_refreshed_never_vanish() {
    let mut bed = Bed::start();
    for i in 0..20_000 {
        bed.s.run(&format!("SET filler:{i} {i}"));
    }
    let sessions = 200;
    for i in 0..sessions {
        bed.s.run(&format!("SET session:{i} x PX 4000"));
    }
    let writer = Writer::start(&bed.source, move |conn, i| {
        conn.run(&format!("PEXPIRE session:{} 4000", i % sessions));
    });
    let slots = layout_slots(|_| true);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    // Longer than a session lives: a copy that is not refreshed would be gone.
    let refetched = handle.report().borrow().counters.refetched;
    let began = std::time::Instant::now();
    bed.wait(&handle, "some lives of a session", |report| {
        began.elapsed() > Duration::from_secs(6) && report.counters.refetched > refetched + 1000
    });
    bed.caught_up(&handle);
    writer.end();
    bed.finish(&handle, 1);
    for i in 0..sessions {
        let key = format!("session:{i}");
        let [at_source, at_target] = [&mut bed.s, &mut bed.t].map(|conn| conn.run(&format!("PEXPIRETIME {key}")));
        assert_eq!(at_source, at_target, "{key}");
    }
}

#[test]
fn replicas_of_the_target_have_everything_when_it_is_done() {
    let mut bed = Bed::start();
    let replica = start_server();
    follow(&replica, &bed.target);
    fill(&mut bed.s);
    let slots = layout_slots(|_| true);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    let finished = bed.finish(&handle, 1);
    assert_eq!(finished.replicas, 1);
    assert_eq!(finished.target_offset.replid, bed.t.info("replication", "master_replid"));
    let mut r = Conn::open(&replica);
    assert_eq!(r.run("DBSIZE"), bed.t.run("DBSIZE"));
    // A replica that does not run: the cut-over is not done in time, and the copy continues.
    handle.resume(HoldId(1));
    bed.s.run("SET string:1 changed");
    bed.caught_up(&handle);
    r.run("DEBUG SLEEP 0");
    let (pid, _) = (r.info("server", "process_id"), ());
    let signal =
        |name: &str| assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    bed.s.run("SET string:2 changed");
    let error = bed.finish_in(&handle, 2, Duration::from_millis(300)).unwrap_err();
    assert!(error.contains("in time"), "{error}");
    signal("-CONT");
    bed.caught_up(&handle);
    assert_eq!(bed.finish_in(&handle, 3, PATIENCE).unwrap().replicas, 1);
    assert_eq!(r.run("GET string:2").text(), Some("changed"));
    // The reported offset is behind everything that was copied, and before what came later.
    let offset = |conn: &mut Conn| conn.info("replication", "master_repl_offset").parse::<u64>().unwrap();
    handle.resume(HoldId(3));
    bed.caught_up(&handle);
    let before = offset(&mut bed.t);
    // A value that does not become small in a payload.
    let next = |n: &u64| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    let noise: Vec<u8> = std::iter::successors(Some(1), next).map(|n| (n >> 56) as u8).take(100_000).collect();
    bed.s.ask(&[b"SET", b"string:3", &noise]);
    let reached = bed.finish(&handle, 4).target_offset.offset;
    let payload = bed.s.ask(&[b"DUMP", b"string:3"]);
    let Reply::Bulk(payload) = payload else { panic!("{payload:?}") };
    assert!(reached >= before + payload.len() as u64, "{reached} is not behind {before} and {} bytes", payload.len());
    bed.t.ask(&[b"SET", b"later", &noise]);
    assert!(reached + noise.len() as u64 <= offset(&mut bed.t));
}
