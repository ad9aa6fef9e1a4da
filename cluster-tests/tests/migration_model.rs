//! The rules of migration.md hold in every state of a small migration, and each of them is needed.
//!
//! Beside each test: states visited, and steps to the farthest state or to the violation. The numbers are asserted
//! where they are a violation's, so that a change of the model shows.

use std::fmt::Debug;

use cluster_tests::{
    migration_model::copy::{self, Copy},
    serving_model::checker::{Model, Verdict, explore, pretty},
};

/// Far above what any exploration here needs, far below what would fill the memory of a small machine.
const STATES_MAX: usize = 8_000_000;

fn holds(model: &(impl Model + Debug)) {
    match explore(model, STATES_MAX) {
        Verdict::Holds { states, depth } => println!("{model:?}: {states} states, {depth} steps"),
        Verdict::Violated { why, trace, .. } => panic!("{model:?}: {why}\n{}", pretty(&trace)),
        Verdict::TooLarge => panic!("{model:?}: more than {STATES_MAX} states"),
    }
}

fn is_violated(model: &(impl Model + Debug), steps: usize) {
    match explore(model, STATES_MAX) {
        Verdict::Violated { why, trace, states } => {
            println!("{model:?}: {why} ({states} states)\n{}", pretty(&trace));
            assert_eq!(trace.len(), steps, "{model:?}: a shortest way to lose is as long as it was");
        }
        found => panic!("{model:?}: nothing was caught: {found:?}"),
    }
}

#[test]
fn copying_from_the_primary() {
    holds(&Copy::SMALL); // 1,623,793 states, 29 steps
    holds(&Copy { writes: 1, releases: 1, ..Copy::SMALL }); // 235,663 states, 29 steps
}

#[test]
fn copying_from_a_replica() {
    holds(&Copy { replica: true, ..Copy::SMALL }); // 2,106,771 states, 32 steps
}

#[test]
fn copying_a_key_that_expires() {
    holds(&Copy { writes: 2, ttl: true, ..Copy::SMALL });
    holds(&Copy { writes: 2, ttl: true, replica: true, ..Copy::SMALL });
}

#[test]
fn copying_with_a_rule_left_out() {
    use copy::Rule::*;
    for (rule, replica, steps) in [
        (FeedFirst, false, 9),
        (MarkBeforeDump, false, 13),
        (UnlinkGone, false, 16),
        (OneConnection, false, 17),
        (OffsetAfterBarrier, false, 9),
        (OffsetAfterBarrier, true, 10),
        (OffsetAfterFetch, false, 12),
        (PrimaryOffset, true, 10),
        (ConsumeFeed, false, 9),
        (Drain, false, 7),
        (TargetReplies, false, 10),
        // The feed is the primary's, and the values come from a replica that lags.
        (FetchWhereFeed, false, 12),
        // An INCR is in the value that was fetched, and is replayed on it.
        (Refetch, false, 10),
    ] {
        is_violated(&Copy { without: Some(rule), replica, ..Copy::SMALL }, steps);
    }
}

#[test]
fn a_replica_that_feeds_while_the_primary_is_asked_for_values() {
    // Nothing goes wrong within one attempt: what the primary has is never older than the feed. It is forbidden because
    // a failover may take back what was fetched; see `failover`.
    holds(&Copy { without: Some(copy::Rule::FetchWhereFeed), replica: true, writes: 1, ..Copy::SMALL });
}

#[test]
fn a_ttl_with_a_rule_left_out() {
    let ttl = Copy { ttl: true, writes: 1, ..Copy::SMALL };
    // The target lets a staged key expire before the refresh of its TTL comes.
    is_violated(&Copy { without: Some(copy::Rule::Refetch), ..ttl }, 10);
    // A late SET between PTTL and DUMP: the new value gets the old TTL, and dies of it.
    is_violated(&Copy { without: Some(copy::Rule::OffsetAfterFetch), ..ttl }, 13);
}
