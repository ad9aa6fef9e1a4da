//! Deleting: a target before it is filled, a source after the switch.
//! Knows nothing of copying, except that it begins.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use pontoon::mover::State;

use super::{
    bed::{Authorizer, Bed, DATABASES, layout_slots},
    copying::fill,
};

#[test]
fn the_slots_are_emptied_in_all_databases_and_late_writes_with_them() {
    let mut bed = Bed::start();
    fill(&mut bed.s);
    let slots = layout_slots(|slot| slot < 512);
    let apart = Duration::from_millis(500);
    let handle = bed.clean(&bed.source, &slots, apart);
    bed.wait(&handle, "the first pass that finds nothing", |report| !report.waiting_on.is_empty());
    let late = (0..).map(|i| format!("late:{i}")).find(|key| slots.has_key(key.as_bytes())).unwrap();
    bed.s.run(&format!("SET {late} x"));
    let report = bed.wait(&handle, "cleaned", |report| report.state == State::Cleaned);
    assert!(report.counters.deleted > 500, "{report:?}");
    let mut kept = 0;
    for db in DATABASES {
        bed.s.run(&format!("SELECT {db}"));
        let keys = bed.s.run("KEYS *");
        for key in keys.items().unwrap() {
            let pontoon::redis::Reply::Bulk(key) = key else { panic!("{key:?}") };
            assert!(!slots.has_key(key), "{key:?} of database {db} is still there");
            kept += 1;
        }
    }
    assert!(kept > 500, "{kept}");
}

#[test]
fn it_ends_only_after_two_empty_passes_far_enough_apart() {
    let bed = Bed::start();
    let apart = Duration::from_millis(700);
    let began = Instant::now();
    let handle = bed.clean(&bed.target, &layout_slots(|_| true), apart);
    bed.wait(&handle, "cleaned", |report| report.state == State::Cleaned);
    assert!(began.elapsed() >= apart);
}

#[test]
fn unexpected_keys_at_the_target_are_named_and_kept() {
    let mut bed = Bed::start();
    bed.s.run("SET a source");
    bed.t.run("SET a somebody");
    bed.t.run("SELECT 3");
    bed.t.run("SET b somebody");
    let slots = layout_slots(|_| true);
    let why = bed.failed(&bed.copy(bed.spec(&slots)));
    assert!(why.contains("'a'") && why.contains("'b'") && why.contains("--wipe"), "{why}");
    bed.t.run("SELECT 0");
    assert_eq!(bed.t.run("GET a").text(), Some("somebody"));
    // Slots whose keys are leftovers: they are deleted.
    let mut spec = bed.spec(&slots);
    spec.deletable_at_target = slots.clone();
    let handle = bed.copy(spec);
    bed.caught_up(&handle);
    bed.finish(&handle, 1);
    bed.assert_equal(&slots);
    drop(handle);
    bed.t.run("SET c somebody");
    let mut spec = bed.spec(&slots);
    spec.wipe = true;
    let handle = bed.copy(spec);
    bed.caught_up(&handle);
    bed.finish(&handle, 1);
    bed.assert_equal(&slots);
}

#[test]
fn nothing_is_changed_without_authorization() {
    let mut bed = Bed::start();
    bed.authorizer = Arc::new(Authorizer { asked: Mutex::default(), refuses: true });
    bed.t.run("SET a x");
    bed.s.run("SET b x");
    let slots = layout_slots(|_| true);
    let mut spec = bed.spec(&slots);
    spec.wipe = true;
    assert_eq!(bed.failed(&bed.copy(spec)), "this run is closed");
    assert_eq!(bed.failed(&bed.clean(&bed.target, &slots, Duration::ZERO)), "this run is closed");
    assert_eq!(bed.t.run("DBSIZE").integer(), Some(1));
    assert_eq!(bed.authorizer.asked.lock().unwrap().len(), 2);
}
