//! What is copied: every type, all databases, times to live, functions; slowly if there are limits.
//! Knows nothing of concurrent changes.

use std::time::{Duration, Instant};

use pontoon::{model::migration::Limits, model::migration::Verify, mover::State};

use super::bed::{Bed, Conn, DATABASES, layout_slots};

/// Some keys of every type, below and above the limits of the small encodings.
pub fn fill(conn: &mut Conn) {
    for db in DATABASES.into_iter().filter(|db| *db != 7) {
        conn.run(&format!("SELECT {db}"));
        for i in 0..150 {
            conn.run(&format!("SET string:{i} value-{db}-{i}"));
            conn.run(&format!("SET int:{i} {i}"));
            conn.ask(&[b"SET", format!("bytes:{i}").as_bytes(), &[0, 255, 13, 10, i as u8]]);
            conn.ask(&[b"SET", format!("\r\n binary {i}").as_bytes(), &vec![i as u8; 1000]]);
        }
        for i in 0..20 {
            for e in 0..i * 20 + 1 {
                conn.run(&format!("RPUSH list:{i} element-{e}"));
                conn.run(&format!("SADD set:{i} member-{e}"));
                conn.run(&format!("SADD ints:{i} {e}"));
                conn.run(&format!("ZADD zset:{i} {e}.25 member-{e}"));
                conn.run(&format!("HSET hash:{i} field-{e} value-{e}"));
                conn.run(&format!("XADD stream:{i} {}-1 field {e}", e + 1));
            }
            conn.run(&format!("XGROUP CREATE stream:{i} group 0"));
            conn.run(&format!("XREADGROUP GROUP group consumer COUNT 3 STREAMS stream:{i} >"));
            conn.run(&format!("XACK stream:{i} group 1-1"));
            conn.run(&format!("PFADD hll:{i} a b c {i}"));
            conn.run(&format!("SET expiring:{i} x PX {}", 100_000 + i * 1000));
            conn.run(&format!("PEXPIRE hash:{i} {}", 200_000 + i));
            conn.run(&format!("SET soon:{i} x PX 3"));
        }
        conn.run("ZADD zset:ends -inf low inf high");
    }
    conn.run("SELECT 0");
    conn.ask(&[b"SET", b"", b"the empty key"]);
}

#[test]
fn everything_of_the_slots_and_nothing_else() {
    let mut bed = Bed::start();
    fill(&mut bed.s);
    bed.s.run("EVAL return(1) 0");
    let code = "#!lua name=lib\nredis.register_function('f', function() return 42 end)";
    bed.s.ask(&[b"FUNCTION", b"LOAD", code.as_bytes()]);
    // Keys of other slots at the target are kept.
    let slots = layout_slots(|slot| slot % 3 == 1);
    let other = (0..).map(|i| format!("other:{i}")).find(|key| !slots.has_key(key.as_bytes())).unwrap();
    bed.t.run(&format!("SET {other} mine"));
    let handle = bed.copy(bed.spec(&slots));
    let report = bed.caught_up(&handle);
    assert!(report.counters.scanned > 2000, "{report:?}");
    assert!(report.counters.keys > 600 && report.counters.keys < report.counters.scanned / 2, "{report:?}");
    let finished = bed.finish(&handle, 1);
    assert_eq!(finished.replicas, 0);
    let [replid, offset] = ["master_replid", "master_repl_offset"].map(|field| bed.t.info("replication", field));
    let at = (finished.target_offset.replid, finished.target_offset.offset.to_string());
    assert_eq!(at, (replid, offset), "nobody else writes there");
    // The result may arrive a moment before the report.
    let state = State::Finished(pontoon::model::ids::HoldId(1));
    super::bed::until("the report says so", || handle.report().borrow().state == state);
    assert_eq!(bed.t.run(&format!("GET {other}")).text(), Some("mine"));
    bed.t.run(&format!("DEL {other}"));
    bed.assert_equal(&slots);
    assert_eq!(bed.t.run("FCALL f 0").integer(), Some(42));
    // It asked for authorization once, for one connection, which the server knows by its name.
    let asked = bed.authorizer.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    let list = bed.t.run("CLIENT LIST").text().unwrap().to_owned();
    let line = list.lines().find(|l| l.starts_with(&format!("id={} ", asked[0].client_id))).unwrap().to_owned();
    assert!(line.contains(&format!("name={}", super::bed::NAME)), "{line}");
    drop(handle);
    super::bed::until("its connections are closed", || {
        !bed.t.run("CLIENT LIST").text().unwrap().contains(super::bed::NAME)
    });
}

#[test]
fn limits_hold_and_change_while_it_runs() {
    let mut bed = Bed::start();
    for i in 0..2000 {
        bed.s.run(&format!("SET key:{i} {i}"));
    }
    bed.limits.send_replace(Limits { keys_per_second: 500, ..Limits::default() });
    let slots = layout_slots(|_| true);
    let began = Instant::now();
    let handle = bed.copy(bed.spec(&slots));
    bed.wait(&handle, "half", |report| report.counters.keys >= 500);
    assert!(began.elapsed() > Duration::from_millis(800), "{:?}", began.elapsed());
    bed.limits.send_replace(Limits::default());
    bed.caught_up(&handle);
    bed.finish(&handle, 1);
    bed.assert_equal(&slots);
}

#[test]
fn verification_finds_what_differs() {
    let mut bed = Bed::start();
    fill(&mut bed.s);
    let slots = layout_slots(|_| true);
    let mut spec = bed.spec(&slots);
    spec.verify = Verify::Full;
    let handle = bed.copy(spec.clone());
    let report = bed.caught_up(&handle);
    let verified = report.verified.unwrap();
    assert!(verified.keys > 1000 && verified.different == 0, "{verified:?}");
    drop(handle);
    // Somebody writes a value to the target that the source does not have.
    spec.deletable_at_target = slots.clone();
    spec.name += "2";
    bed.limits.send_replace(Limits { keys_per_second: 300, ..Limits::default() });
    let handle = bed.copy(spec);
    bed.wait(&handle, "some copied", |report| report.counters.keys >= 100);
    let key = bed.t.run("RANDOMKEY");
    let key = key.text().unwrap().to_owned();
    bed.t.ask(&[b"DEL", key.as_bytes()]);
    bed.t.ask(&[b"SET", key.as_bytes(), b"somebody's"]);
    bed.limits.send_replace(Limits::default());
    let why = bed.failed(&handle);
    assert!(why.contains("differ") && why.contains(&key.escape_default().to_string()), "{key}: {why}");
}
