//! Shows that the checkers of the migration matrix detect lost data: cases as in migration_faults.rs, with one rule
//! left out, must lead to violations. (For the check at reply time, see paused_node.rs.)

use cluster_tests::matrix::{Case, Fault, verdict};
use pontoon::faults::{Point, Rule};

/// Runs the case without the rule, and returns the violations. A case that loses nothing by chance is repeated up to
/// three times.
#[track_caller]
fn violations_without(point: Point, fault: Fault, rule: Rule) -> String {
    for seed in 1..=3 {
        let case = Case { point, fault, replica: false, seed, without: vec![rule] };
        if let Err(wrong) = verdict(&case) {
            return wrong.join("\n");
        }
    }
    panic!("without {}, no violation was found", rule.name());
}

/// The violations say that acknowledged writes are gone or came back.
#[track_caller]
fn assert_data_was_lost(wrong: &str) {
    let signs = ["lost", "got", "linearizable", "half executed"];
    assert!(signs.iter().any(|sign| wrong.contains(sign)), "{wrong}");
}

/// A node that does not know the hold continues to acknowledge writes at the old owner.
#[test]
fn without_the_barrier() {
    let wrong = violations_without(Point::BeforeHold, Fault::CutOther, Rule::Barrier);
    assert_data_was_lost(&wrong);
}

/// Commands that a dead mover has sent arrive after the switch and overwrite newer values.
#[test]
fn without_the_fence_of_runs() {
    let wrong = violations_without(Point::Copying, Fault::LateWrites, Rule::Fence);
    assert_data_was_lost(&wrong);
}

/// A staged session key expires at the target. Its refresh is replayed too late, when the key no longer exists.
#[test]
fn with_replay_instead_of_refetch() {
    let wrong = violations_without(Point::BeforeHold, Fault::SilentTarget, Rule::Refetch);
    assert!(wrong.contains("session"), "{wrong}");
}
