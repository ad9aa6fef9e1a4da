//! The net catches fish: with a rule left out, the same runs that pass in failover_faults lose data, and are seen to.

use cluster_tests::promotions::{Before, Case, Second, Trigger, verdict};
use pontoon::faults::{Point, Rule};

/// What the checkers say with the rule left out. A run that happens to lose nothing is tried again, a few times.
#[track_caller]
fn caught(case: Case, rule: Rule) -> String {
    for seed in 1..=3 {
        if let Err(wrong) = verdict(&Case { seed, without: vec![rule], ..case.clone() }) {
            return wrong.join("\n");
        }
    }
    panic!("without {} nothing was lost, or nobody noticed", rule.name());
}

/// A node that has not heard of the hold goes on acknowledging writes at the old primary, which the new one never gets.
#[test]
fn without_the_barrier_of_a_failover() {
    let case = Case {
        trigger: Trigger::CutFromSome,
        before: Before::Nothing,
        hit: Some((Point::PromotionBegun, Second::CutOther)),
        replicas: 1,
        min_acks: 0,
        seed: 0,
        without: Vec::new(),
    };
    let wrong = caught(case, Rule::Barrier);
    assert!(wrong.contains("lost") || wrong.contains("got") || wrong.contains("linearizable"), "{wrong}");
}

/// A replica that lags is promoted, though another has what it lacks.
#[test]
fn with_the_smallest_offset_chosen() {
    let case = Case {
        trigger: Trigger::Kill,
        before: Before::Lag,
        hit: None,
        replicas: 2,
        min_acks: 0,
        seed: 0,
        without: Vec::new(),
    };
    let wrong = caught(case, Rule::LargestOffset);
    assert!(wrong.contains("lost without an excuse") || wrong.contains("counted and replicated"), "{wrong}");
}
