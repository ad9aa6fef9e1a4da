//! Times to live travel as instants: what expires at a millisecond at the source expires at the same millisecond at the
//! target, whatever stops a server meanwhile.
//! Knows nothing of values.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use pontoon::{
    model::migration::{Limits, Verify},
    mover::{MoverHandle, State},
    redis::Reply,
};

use super::{
    bed::{Bed, Conn, TOO_EARLY, layout_slots, unix_ms, until},
    common::{PATIENCE, Redis, free_port},
    kinds::Kind,
    servers,
};

/// How long a server is stopped while keys are on their way.
const STALL: Duration = Duration::from_millis(1500);
/// Small keys of a test.
const KEYS: usize = 8000;

/// Keys whose lives are long, each with its own instant.
fn fill_long(conn: &mut Conn) -> i64 {
    let base = unix_ms() + 3_600_000;
    for i in 0..KEYS as i64 {
        conn.run(&format!("SET long:{i} value PXAT {}", base + i));
    }
    // Copied in pieces: by number of elements, and by size.
    for i in 0..6000 {
        conn.run(&format!("RPUSH big:list element-{i}"));
    }
    conn.ask(&[b"SET", b"big:string", &vec![b'x'; 1 << 20]]);
    conn.run(&format!("PEXPIREAT big:list {base}"));
    conn.run(&format!("PEXPIREAT big:string {}", base + 1));
    base
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success());
}

/// Starts a copy, and stops a server for a moment while keys are on their way, if `pid` is given.
fn copy_with_stall(bed: &Bed, pid: Option<&str>, verify: Verify) -> MoverHandle {
    let slots = layout_slots(|_| true);
    let mut spec = bed.spec(&slots);
    spec.verify = verify;
    bed.limits.send_replace(Limits { keys_per_second: 4000, ..Limits::default() });
    let handle = bed.copy(spec);
    bed.wait(&handle, "some copied", |report| report.counters.keys >= 500);
    if let Some(pid) = pid {
        bed.limits.send_replace(Limits::default());
        signal(pid, "STOP");
        let began = Instant::now();
        until("the stall is over", || began.elapsed() > STALL);
        signal(pid, "CONT");
    }
    bed.limits.send_replace(Limits::default());
    bed.caught_up(&handle);
    handle
}

/// How much later keys expire at the target than at the source, in milliseconds: the least and the most.
fn later(bed: &mut Bed, at_source: &str) -> (i64, i64) {
    let keys: Vec<String> =
        (0..KEYS).map(|i| format!("long:{i}")).chain(["big:list".into(), "big:string".into()]).collect();
    let difference = |key: &String| {
        let source = bed.s.run(&format!("{at_source} {key}")).integer().unwrap();
        let target = bed.t.run(&format!("PEXPIRETIME {key}")).integer().unwrap();
        assert!(source > 0 && target > 0, "{key}: {source} and {target}");
        target - source
    };
    let differences: Vec<i64> = keys.iter().map(difference).collect();
    (*differences.iter().min().unwrap(), *differences.iter().max().unwrap())
}

#[test]
fn a_stopped_target_lengthens_no_life() {
    let mut bed = Bed::start();
    fill_long(&mut bed.s);
    // These end while the target stands still: none of them may come back.
    let soon = unix_ms() + 1000;
    for i in 0..2000 {
        bed.s.run(&format!("SET soon:{i} x PXAT {}", soon + i % 700));
    }
    let pid = bed.t.info("server", "process_id");
    let handle = copy_with_stall(&bed, Some(&pid), Verify::Full);
    until("the short lives are over", || unix_ms() > soon + 700);
    assert_eq!(later(&mut bed, "PEXPIRETIME"), (0, 0));
    let slots = layout_slots(|_| true);
    for i in 0..2000 {
        assert_eq!(bed.t.run(&format!("EXISTS soon:{i}")).integer(), Some(0), "soon:{i}");
    }
    // Refetched under the hold, while the target stands still again. A hold that comes after the copy was seen to be behind
    // is refused: then again.
    let finished = (1..=5).any(|round| {
        let base = unix_ms() + 7_200_000;
        for i in 0..500 {
            bed.s.run(&format!("PEXPIREAT long:{i} {}", base + i));
        }
        bed.s.run(&format!("PEXPIREAT big:list {base}"));
        signal(&pid, "STOP");
        let pid = pid.clone();
        let resume = std::thread::spawn(move || {
            let began = Instant::now();
            until("the stall is over", || began.elapsed() > STALL);
            signal(&pid, "CONT");
        });
        let finished = bed.finish_in(&handle, round, PATIENCE);
        resume.join().unwrap();
        match finished {
            Err(why) if why.contains(TOO_EARLY) => bed.caught_up(&handle),
            finished => return finished.map(|_| true).unwrap(),
        };
        false
    });
    assert!(finished, "each hold came too early");
    assert_eq!(later(&mut bed, "PEXPIRETIME"), (0, 0));
    bed.assert_equal(&slots);
}

#[test]
fn a_stopped_source_lengthens_no_life() {
    let mut bed = Bed::start();
    fill_long(&mut bed.s);
    let pid = bed.s.info("server", "process_id");
    let handle = copy_with_stall(&bed, Some(&pid), Verify::Full);
    bed.finish(&handle, 1);
    assert_eq!(later(&mut bed, "PEXPIRETIME"), (0, 0));
}

/// As before Redis 7.0: the instant follows from TIME and PTTL. A key never lives longer; it may live shorter by what the
/// source let pass between the two commands, which is nothing of what the target or the mover took.
#[test]
fn without_pexpiretime_no_life_is_longer() {
    let source = Redis::start_with(&["--rename-command", "PEXPIRETIME", "HIDDEN", "--enable-debug-command", "yes"]);
    let mut bed = Bed::of(source, super::bed::start_server());
    fill_long(&mut bed.s);
    let pid = bed.t.info("server", "process_id");
    let handle = copy_with_stall(&bed, Some(&pid), Verify::Full);
    bed.finish(&handle, 1);
    let (least, most) = later(&mut bed, "HIDDEN");
    assert!(most <= 0 && least > -1000, "{least} to {most} ms later");
}

/// Keys keep the instant, not the remaining time: where the target's clock is ahead, they end earlier by the difference,
/// where it is behind, later. No comparison takes that for a difference.
#[test]
fn clocks_that_differ() {
    for ahead in [60, -60] {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--enable-debug-command", "yes"];
        let target = Redis::start_program(servers::with_shifted_clock(ahead, dir.path()), free_port(), &args);
        let mut bed = Bed::of(super::bed::start_server(), target);
        let clock = bed.t.run("TIME").items().unwrap()[0].integer().unwrap();
        assert!((clock - unix_ms() / 1000 - ahead).abs() < 10, "the target's clock is shifted");
        fill_long(&mut bed.s);
        for i in 0..1000 {
            bed.s.run(&format!("SET minute:{i} x PXAT {}", unix_ms() + 30_000));
        }
        let handle = copy_with_stall(&bed, None, Verify::Full);
        bed.finish(&handle, 1);
        assert_eq!(later(&mut bed, "PEXPIRETIME"), (0, 0), "{ahead}");
        // For the target these lives are over, or last another 90 seconds.
        let there = bed.t.run("EXISTS minute:5").integer();
        assert_eq!(there, Some(i64::from(ahead < 0)), "{ahead}");
    }
}

/// The instants at which all fields of a hash expire.
fn field_expiry(conn: &mut Conn, key: &str, fields: usize) -> Vec<Reply> {
    let names: Vec<String> = (0..fields).map(|i| format!("f{i}")).collect();
    let words = format!("HPEXPIRETIME {key} FIELDS {fields} {}", names.join(" "));
    conn.run(&words).items().unwrap().to_vec()
}

#[test]
fn fields_of_hashes_keep_their_instants() {
    let start =
        || Redis::start_program(Command::new(Kind::Redis8.program()), free_port(), &["--enable-debug-command", "yes"]);
    let mut bed = Bed::of(start(), start());
    fill_long(&mut bed.s);
    let base = unix_ms() + 3_600_000;
    let soon = unix_ms() + 2000;
    for (key, fields) in [("hash:small", 40), ("hash:big", 8000)] {
        for i in 0..fields {
            bed.s.run(&format!("HSET {key} f{i} value"));
        }
        for i in (0..fields as i64).step_by(3) {
            bed.s.run(&format!("HPEXPIREAT {key} {} FIELDS 1 f{i}", base + i));
        }
        for i in (1..fields).step_by(3) {
            bed.s.run(&format!("HPEXPIREAT {key} {soon} FIELDS 1 f{i}"));
        }
    }
    let pid = bed.t.info("server", "process_id");
    let handle = copy_with_stall(&bed, Some(&pid), Verify::Full);
    // Changed while it is watched.
    bed.s.run(&format!("HPEXPIREAT hash:big {} FIELDS 1 f3", base + 77));
    until("the short lives are over", || unix_ms() > soon);
    bed.caught_up(&handle);
    bed.finish(&handle, 1);
    for (key, fields) in [("hash:small", 40), ("hash:big", 8000)] {
        let source = field_expiry(&mut bed.s, key, fields);
        assert_eq!(source[1], Reply::Integer(-2), "it has expired");
        assert_eq!(source, field_expiry(&mut bed.t, key, fields), "{key}");
    }
    assert_eq!(field_expiry(&mut bed.t, "hash:big", 4)[3], Reply::Integer(base + 77));
}

#[test]
fn pending_entries_keep_their_times_of_delivery() {
    let mut bed = Bed::start();
    fill_long(&mut bed.s);
    for (key, entries) in [("stream:small", 30), ("stream:big", 9000)] {
        for i in 1..=entries {
            bed.s.run(&format!("XADD {key} {i}-1 f v"));
        }
        bed.s.run(&format!("XGROUP CREATE {key} g 0"));
        for i in 0..entries / 10 {
            bed.s.run(&format!("XREADGROUP GROUP g consumer{} COUNT 10 STREAMS {key} >", i % 3));
        }
    }
    let pid = bed.t.info("server", "process_id");
    let handle = copy_with_stall(&bed, Some(&pid), Verify::Full);
    bed.finish(&handle, 1);
    for (key, entries) in [("stream:small", 30), ("stream:big", 9000)] {
        let [source, target] = [&mut bed.s, &mut bed.t].map(|conn| deliveries(conn, key));
        assert_eq!(source.len(), entries, "{key}");
        assert_eq!(source, target, "{key}");
    }
}

/// Id, consumer, time of delivery and count of all pending entries of a stream's only group.
fn deliveries(conn: &mut Conn, key: &str) -> Vec<Reply> {
    let full = conn.run(&format!("XINFO STREAM {key} FULL COUNT 0"));
    let field = |map: &Reply, name: &str| {
        let pairs = map.items().unwrap().chunks_exact(2);
        pairs.clone().find(|pair| pair[0].text() == Some(name)).map(|pair| pair[1].clone()).unwrap()
    };
    let group = field(&full, "groups").items().unwrap()[0].clone();
    field(&group, "pending").items().unwrap().to_vec()
}

/// A key whose life ends between the copy and the hold is not at the target, and its refresh is.
#[test]
fn a_refreshed_key_lives_and_an_expired_one_does_not() {
    let mut bed = Bed::start();
    let ends = unix_ms() + 1500;
    for i in 0..400 {
        bed.s.run(&format!("SET session:{i} x PXAT {ends}"));
    }
    let slots = layout_slots(|_| true);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    for i in (0..400).step_by(2) {
        bed.s.run(&format!("PEXPIREAT session:{i} {}", ends + 600_000));
    }
    until("the lives are over", || unix_ms() > ends);
    bed.finish_in(&handle, 1, PATIENCE).unwrap();
    // The report follows the answer.
    bed.wait(&handle, "finished", |report| matches!(report.state, State::Finished(_)));
    for i in 0..400 {
        let at = if i % 2 == 0 { ends + 600_000 } else { -2 };
        assert_eq!(bed.t.run(&format!("PEXPIRETIME session:{i}")).integer(), Some(at), "session:{i}");
    }
}
