//! Shows that the checkers of the promotion matrix detect lost data: cases as in failover_faults.rs, with one rule left
//! out, must lead to violations.

use cluster_tests::promotions::{Before, Case, Second, Trigger, verdict};
use pontoon::faults::{Point, Rule};

/// Runs the case without the rule, and returns the violations. A case that loses nothing by chance is repeated up to
/// three times.
#[track_caller]
fn violations_without(case: Case, rule: Rule) -> String {
    for seed in 1..=3 {
        if let Err(wrong) = verdict(&Case { seed, without: vec![rule], ..case.clone() }) {
            return wrong.join("\n");
        }
    }
    panic!("without {}, no violation was found", rule.name());
}

/// A node that does not know the hold continues to acknowledge writes at the old primary. The new primary never
/// receives them.
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
    let wrong = violations_without(case, Rule::Barrier);
    let signs = ["lost", "got", "linearizable", "half executed"];
    assert!(signs.iter().any(|sign| wrong.contains(sign)), "{wrong}");
}

/// A replica that lags is promoted, although another replica has the writes that it lacks.
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
    let wrong = violations_without(case, Rule::LargestOffset);
    assert!(wrong.contains("no failover explains it") || wrong.contains("counted and replicated"), "{wrong}");
}
