//! How a run ends when a server has changed or is lost: with a reason, and with nothing sent afterwards.
//! Knows nothing of the leader's reaction.

use std::time::Duration;

use pontoon::{
    model::migration::Limits,
    mover::{KnownProcesses, MoverHandle},
};

use super::bed::{Bed, follow, layout_slots, start_server};

fn copying() -> (Bed, MoverHandle) {
    let mut bed = Bed::start();
    for i in 0..3000 {
        bed.s.run(&format!("SET key:{i} {i}"));
    }
    bed.limits.send_replace(Limits { keys_per_second: 1000, ..Limits::default() });
    let handle = bed.copy(bed.spec(&layout_slots(|_| true)));
    bed.wait(&handle, "copying", |report| report.counters.keys > 100);
    (bed, handle)
}

#[test]
fn a_killed_connection_ends_it() {
    let (mut bed, handle) = copying();
    let id = bed.authorizer.asked.lock().unwrap()[0].client_id;
    bed.t.run(&format!("CLIENT KILL ID {id}"));
    let at_kill = bed.t.run("DBSIZE");
    let why = bed.failed(&handle);
    assert!(why.contains("target is lost"), "{why}");
    assert_eq!(bed.t.run("DBSIZE"), at_kill, "nothing is written after the kill");
    assert!(bed.finish_in(&handle, 1, Duration::from_secs(1)).unwrap_err().contains("target is lost"));
}

/// With `min-acks`, replicas may have more than a primary that was restarted, and one of them may replace it.
#[test]
fn a_primary_that_is_another_process_than_the_log_knows_is_not_used() {
    let mut bed = Bed::start();
    bed.s.run("SET key value");
    let (source, target) = (bed.s.info("server", "run_id"), bed.t.info("server", "run_id"));
    let former = "0".repeat(40);
    for (source, target, restarted) in
        [(former.clone(), target.clone(), bed.source.addr.clone()), (source.clone(), former, bed.target.addr.clone())]
    {
        let mut spec = bed.spec(&layout_slots(|_| true));
        spec.processes = KnownProcesses { source, target };
        let why = bed.failed(&bed.copy(spec));
        assert!(why.contains(&format!("{restarted} was restarted")), "{why}");
        assert_eq!(bed.t.run("DBSIZE").integer(), Some(0));
    }
    let mut spec = bed.spec(&layout_slots(|_| true));
    spec.processes = KnownProcesses { source, target };
    bed.caught_up(&bed.copy(spec));
}

#[test]
fn a_lost_source_ends_it() {
    let (bed, handle) = copying();
    let Bed { source, .. } = bed;
    drop(source);
    let bed = Bed::start();
    let why = bed.failed(&handle);
    assert!(why.contains("lost") || why.contains("closed"), "{why}");
}

#[test]
fn flushing_and_swapping_end_it() {
    for command in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1"] {
        let (mut bed, handle) = copying();
        bed.s.run(command);
        let why = bed.failed(&handle);
        assert!(why.contains(command.split(' ').next().unwrap()), "{why}");
    }
}

#[test]
fn data_loss_at_the_target_ends_it() {
    for (command, what) in [
        ("FLUSHALL", "flushed"),
        ("FLUSHDB", "flushed"),
        ("SWAPDB 0 1", "flushed"),
        ("EVAL return(redis.call('flushall')) 0", "flushed"),
        ("CONFIG RESETSTAT", "RESETSTAT"),
    ] {
        let (mut bed, handle) = copying();
        bed.t.run(command);
        let why = bed.failed(&handle);
        assert!(why.contains(what), "{command}: {why}");
    }
}

#[test]
fn a_flush_at_the_target_just_before_the_hold_is_noticed_under_it() {
    let mut bed = Bed::start();
    for i in 0..1000 {
        bed.s.run(&format!("SET key:{i} {i}"));
    }
    let handle = bed.copy(bed.spec(&layout_slots(|_| true)));
    bed.caught_up(&handle);
    bed.t.run("FLUSHALL");
    let why = bed.finish_in(&handle, 1, Duration::from_secs(5)).unwrap_err();
    assert!(why.contains("flushed") || why.contains("ended"), "{why}");
    assert!(bed.failed(&handle).contains("flushed"));
}

#[test]
fn evictions_at_the_target_end_it_unless_the_product_is_a_cache() {
    for cache in [false, true] {
        let mut bed = Bed::start();
        for i in 0..1000 {
            bed.s.run(&format!("SET key:{i} {}", "v".repeat(1000)));
            bed.t.run(&format!("SET other:{i} {}", "v".repeat(1000)));
        }
        let slots = layout_slots(|slot| slot % 2 == 1);
        bed.t.run("CONFIG SET maxmemory-policy allkeys-random");
        let mut spec = bed.spec(&slots);
        spec.cache = cache;
        spec.deletable_at_target = layout_slots(|_| true);
        let handle = bed.copy(spec);
        bed.caught_up(&handle);
        bed.t.run("CONFIG SET maxmemory 1mb");
        super::bed::until("something is evicted", || bed.t.info("stats", "evicted_keys") != "0");
        let finished = bed.finish_in(&handle, 1, Duration::from_secs(5));
        assert_eq!(finished.is_ok(), cache, "{finished:?}");
        if !cache {
            assert!(bed.failed(&handle).contains("noeviction"));
        }
    }
}

#[test]
fn a_change_of_roles_ends_it() {
    let (mut bed, handle) = copying();
    let other = start_server();
    follow(&bed.target, &other);
    let why = bed.failed(&handle);
    assert!(why.contains("role") || why.contains("READONLY") || why.contains("lost"), "{why}");
    // Nor does a new run start there.
    let why = bed.failed(&bed.copy(bed.spec(&layout_slots(|_| true))));
    assert!(why.contains("is a replica"), "{why}");
    bed.t.run("REPLICAOF NO ONE");
}

#[test]
fn a_full_target_ends_it_with_advice() {
    let mut bed = Bed::start();
    let value = "v".repeat(1000);
    for i in 0..5000 {
        bed.s.run(&format!("SET key:{i} {value}"));
    }
    bed.t.run("CONFIG SET maxmemory 3mb");
    let why = bed.failed(&bed.copy(bed.spec(&layout_slots(|_| true))));
    assert!(why.contains("out of memory") && why.contains("maxmemory"), "{why}");
}

#[test]
fn a_cut_over_that_is_late_is_abandoned_and_the_copy_continues() {
    let mut bed = Bed::start();
    for i in 0..1000 {
        bed.s.run(&format!("SET key:{i} {i}"));
    }
    let slots = layout_slots(|_| true);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    bed.t.run("CLIENT PAUSE 700 ALL");
    bed.s.run("SET key:1 changed");
    let error = bed.finish_in(&handle, 1, Duration::from_millis(200)).unwrap_err();
    assert!(error.contains("in time"), "{error}");
    bed.caught_up(&handle);
    bed.finish(&handle, 2);
    bed.assert_equal(&slots);
    // Nothing reaches the target after the cut-over is finished.
    bed.s.run("SET key:2 late");
    bed.wait(&handle, "the late write is seen", |report| report.dirty > 0);
    assert_eq!(bed.t.run("GET key:2").text(), Some("2"));
}
