//! The net catches fish: with a rule left out, the same runs that pass in migration_faults lose data, and are seen to.
//! (The check at reply time: paused_node.rs.)

use cluster_tests::matrix::{Case, Fault, verdict};
use pontoon::faults::{Point, Rule};

/// What the checkers say with the rule left out. A run that happens to lose nothing is tried again, a few times.
#[track_caller]
fn caught(point: Point, fault: Fault, rule: Rule) -> String {
    for seed in 1..=3 {
        let case = Case { point, fault, replica: false, seed, without: vec![rule] };
        if let Err(wrong) = verdict(&case) {
            return wrong.join("\n");
        }
    }
    panic!("without {} nothing was lost, or nobody noticed", rule.name());
}

/// A node that has not heard of the hold goes on acknowledging writes at the old owner.
#[test]
fn without_the_barrier() {
    let wrong = caught(Point::BeforeHold, Fault::CutOther, Rule::Barrier);
    assert!(wrong.contains("lost") || wrong.contains("got") || wrong.contains("linearizable"), "{wrong}");
}

/// What a dead worker had sent arrives after the switch, over newer values.
#[test]
fn without_the_workers_fence() {
    let wrong = caught(Point::Copying, Fault::LateWrites, Rule::Fence);
    assert!(wrong.contains("lost") || wrong.contains("got") || wrong.contains("linearizable"), "{wrong}");
}

/// A staged session key expires at the target by itself; its refresh, replayed late, finds nothing to refresh.
#[test]
fn with_replay_instead_of_refetch() {
    let wrong = caught(Point::BeforeHold, Fault::SilentTarget, Rule::Refetch);
    assert!(wrong.contains("session"), "{wrong}");
}
