//! Keys that become big and small while they are copied. Both ways of copying write to the same key and must not
//! overlap.
//! Knows nothing of the limits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::bed::{Bed, Writer, layout_slots};

/// Lists, since an element that is appended twice exists twice.
const LISTS: usize = 40;

#[test]
fn lists_that_become_big_and_small_are_never_duplicated() {
    let mut bed = Bed::start();
    let element = "e".repeat(300);
    for i in 0..2000 {
        bed.s.run(&format!("RPUSH big {i}-{element}"));
    }
    bed.s.run("RPUSH small one");
    for i in 0..LISTS {
        bed.s.run(&format!("COPY big list:{i}"));
    }
    let slots = layout_slots(|_| true);
    let handle = bed.copy(bed.spec(&slots));
    bed.caught_up(&handle);
    for round in 0..ROUNDS {
        let passes = Arc::new(AtomicU64::new(0));
        let passed = passes.clone();
        let writer = Writer::start(&bed.source, move |conn, i| {
            let (list, from) = (i / 6 % LISTS, if i % 2 == 0 { "small" } else { "big" });
            conn.run(&format!("COPY {from} list:{list} REPLACE"));
            // A whole pass ends with a big list.
            passed.store(((i + 1) / (6 * LISTS)) as u64, Ordering::Relaxed);
        });
        super::bed::until("all lists were written", || passes.load(Ordering::Relaxed) >= 1);
        writer.end();
        bed.finish(&handle, round + 1);
        bed.assert_equal(&slots);
        handle.resume(pontoon::model::ids::HoldId(round + 1));
    }
}

/// Each round gives some hundred chances.
const ROUNDS: u64 = 12;
