//! Explores the models of a migration (`cluster_tests::migration_model`): the rules hold in every reachable state, and
//! each rule is needed, because a violation is reachable without it.
//!
//! The comments beside the tests give the number of visited states and the number of steps to the farthest state. The
//! number of steps to a violation is asserted, so that a change of the model becomes visible.

use std::fmt::Debug;

use cluster_tests::{
    migration_model::{
        copy::{self, Copy},
        failover::{self, Failover},
        runs::{self, Runs},
    },
    serving_model::checker::{Model, Verdict, explore, pretty},
};

/// Limit of an exploration: far more states than any exploration here needs, and far fewer than fit into the memory of
/// a small machine.
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
            assert_eq!(trace.len(), steps, "{model:?}: the length of the shortest violation has changed");
        }
        found => panic!("{model:?}: no violation was found: {found:?}"),
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
    holds(&Copy { writes: 2, ttl: true, ..Copy::SMALL }); // 166,953 states, 26 steps
    holds(&Copy { writes: 2, ttl: true, replica: true, ..Copy::SMALL }); // 270,190 states, 30 steps
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
        // The primary serves the feed, and the values come from a replica that lags.
        (FetchWhereFeed, false, 12),
    ] {
        is_violated(&Copy { without: Some(rule), replica, ..Copy::SMALL }, steps);
    }
    // The fetched value contains an INCR, which is then replayed on it.
    is_violated(&Copy { without: Some(Refetch), late: false, ..Copy::SMALL }, 13);
}

#[test]
fn feed_from_a_replica_and_values_from_the_primary() {
    // This is no violation: the primary's data is never older than the feed, and a failover restarts the attempt anyway
    // (`failovers_with_feed_and_values_from_different_servers`). It only costs the primary work.
    // 97,488 states, 29 steps.
    holds(&Copy { without: Some(copy::Rule::FetchWhereFeed), replica: true, writes: 1, ..Copy::SMALL });
}

#[test]
fn a_ttl_with_a_rule_left_out() {
    let ttl = Copy { ttl: true, writes: 1, ..Copy::SMALL };
    // A staged key expires at the target before the refresh of its TTL is replayed.
    is_violated(&Copy { without: Some(copy::Rule::Refetch), late: false, ..ttl }, 14);
    // A late SET between PEXPIRETIME and DUMP: the new value gets the old TTL and expires too early.
    is_violated(&Copy { without: Some(copy::Rule::OffsetAfterFetch), ..ttl }, 13);
}

/// A second leader may be elected at any time, while the first continues to act.
const TWO_LEADERS: Runs = Runs { election: true, ..Runs::SMALL };
/// The slot moves to the other server and back.
const BACK: Runs = Runs { restart: false, switches: 2, holds: 2, writes: 0, runs: 3, ..Runs::SMALL };
/// The migration is cancelled, and the staged keys are wiped.
const WIPE: Runs = Runs { restart: false, cancel: true, writes: 0, runs: 3, ..TWO_LEADERS };

#[test]
fn restarts_and_releases() {
    holds(&Runs { holds: 2, ..TWO_LEADERS }); // 358,724 states, 39 steps
    holds(&Runs { two_lanes: true, ..TWO_LEADERS }); // 211,201 states, 35 steps
    holds(&Runs { detail: true, ..TWO_LEADERS }); // 213,975 states, 41 steps
}

#[test]
fn two_restarts() {
    holds(&Runs { runs: 3, writes: 0, ..TWO_LEADERS }); // 195,547 states, 48 steps
}

#[test]
fn a_cancel() {
    holds(&Runs { writes: 1, ..WIPE }); // 178,068 states, 45 steps
}

#[test]
fn a_slot_moves_and_moves_back() {
    holds(&Runs { election: true, writes: 1, ..BACK }); // 73,020 states, 49 steps
    holds(&Runs { election: true, sweep: true, runs: 4, ..BACK }); // 141,164 states, 62 steps
    holds(&Runs { restart: true, cancel: true, runs: 4, ..BACK }); // 448,274 states, 54 steps
    holds(&Runs { cancel: true, sweep: true, writes: 1, runs: 4, ..BACK }); // 97,919 states, 49 steps
}

#[test]
fn a_run_with_a_rule_left_out() {
    use runs::Rule::*;
    is_violated(&Runs { without: &[CleanTarget], ..Runs::SMALL }, 21);
    is_violated(&Runs { without: &[UnlinksAnswered], two_lanes: true, ..Runs::SMALL }, 23);
    is_violated(&Runs { without: &[NoReopening], ..Runs::SMALL }, 17);
    is_violated(&Runs { without: &[NamingBeforeAuthorization], detail: true, ..Runs::SMALL }, 25);
    is_violated(&Runs { without: &[QuorumRound], ..TWO_LEADERS }, 20);
    is_violated(&Runs { without: &[CheckLog], ..TWO_LEADERS }, 22);
    is_violated(&Runs { without: &[MarkBeforeKill], ..Runs::SMALL }, 19);
    is_violated(&Runs { without: &[Kill], ..Runs::SMALL }, 19);
    is_violated(&Runs { without: &[CloseBeforeStart], ..Runs::SMALL }, 19);
    is_violated(&Runs { without: &[TermOnStart], ..TWO_LEADERS }, 24);
}

#[test]
fn a_switch_with_a_rule_left_out() {
    use runs::Rule::*;
    is_violated(&Runs { without: &[CloseBeforeSwitch], ..Runs::SMALL }, 17);
    is_violated(&Runs { without: &[TermOnSwitch], ..TWO_LEADERS }, 21);
    is_violated(&Runs { without: &[HoldIdOnSwitch], holds: 2, ..TWO_LEADERS }, 16);
    is_violated(&Runs { without: &[RestartBehindFence], holds: 2, ..Runs::SMALL }, 22);
    // The hold's id is enough: a hold belongs to one attempt, and a restart ends the hold.
    holds(&Runs { without: &[AttemptOnHold, AttemptOnSwitch], holds: 2, ..TWO_LEADERS }); // 725,459 states, 42 steps
}

#[test]
fn a_cleaning_with_a_rule_left_out() {
    use runs::Rule::*;
    is_violated(&Runs { without: &[CloseBeforeStartRun], election: false, ..WIPE }, 15);
    is_violated(&Runs { without: &[CancelWipes], restart: true, election: false, ..WIPE }, 8);
    is_violated(&Runs { without: &[TermOnStartRun], ..WIPE }, 20);
    is_violated(&Runs { without: &[TermOnCleaned], ..WIPE }, 30);
    is_violated(&Runs { without: &[CloseBeforeCleaned], ..BACK }, 35);
    is_violated(&Runs { without: &[CloseBeforeCleaned], election: false, ..WIPE }, 26);
    is_violated(&Runs { without: &[NextRun], runs: 4, ..BACK }, 40);
    is_violated(&Runs { without: &[RunOnCleaned], runs: 4, ..BACK }, 40);
}

#[test]
fn a_sweep_with_a_rule_left_out() {
    use runs::Rule::*;
    let sweep = Runs { sweep: true, runs: 4, ..BACK };
    is_violated(&Runs { without: &[CloseSweepBeforeStart], ..sweep }, 40);
    // The next leader finds the sweep's run in its log as current, and has not marked it closed.
    is_violated(&Runs { without: &[StartEndsSweep], election: true, ..sweep }, 43);
    is_violated(&Runs { without: &[NoSweepBesideAttempt], ..sweep }, 40);
}

#[test]
fn failovers() {
    holds(&Failover::SMALL); // 168,626 states, 27 steps
    holds(&Failover { promotions: [0, 1], links: true, ..Failover::SMALL }); // 20,104 states, 23 steps
    holds(&Failover { promotions: [0, 2], ..Failover::SMALL }); // 20,246 states, 26 steps
    holds(&Failover { promotions: [2, 1], ..Failover::SMALL }); // 549,161 states, 32 steps
    holds(&Failover { promotions: [0, 0], available: true, ..Failover::SMALL }); // 807 states, 16 steps
}

#[test]
fn a_failover_with_a_rule_left_out() {
    use failover::Rule::*;
    let without = |without| Failover { without, ..Failover::SMALL };
    is_violated(&without(&[EpochsOnStart]), 9);
    is_violated(&without(&[NoHoldAtPromotion]), 9);
    is_violated(&without(&[NoPromotionAtHold]), 9);
    is_violated(&without(&[SameReplication]), 11);
    is_violated(&Failover { promotions: [0, 2], ..without(&[ClosedOnReturn]) }, 19);
    // The replica's link is down when the mover is done, so `WAIT` does not include this replica.
    is_violated(&Failover { promotions: [0, 1], links: true, ..without(&[RequiredOffset]) }, 10);
    // No data is lost, but no replica could be promoted.
    is_violated(&Failover { promotions: [0, 0], available: true, ..without(&[Wait]) }, 6);
}

#[test]
fn a_failover_with_two_rules_left_out() {
    use failover::Rule::*;
    let without = |without| Failover { without, ..Failover::SMALL };
    // Each of these rules can be left out alone: another rule prevents the same violation.
    for rule in [FinishRestarts, EpochsOnSwitch, LogBeforePromotion, DivergedIsNoCandidate, Wait, RequiredOffset] {
        let alone: &'static [failover::Rule] = match rule {
            FinishRestarts => &[FinishRestarts],
            EpochsOnSwitch => &[EpochsOnSwitch],
            LogBeforePromotion => &[LogBeforePromotion],
            DivergedIsNoCandidate => &[DivergedIsNoCandidate],
            Wait => &[Wait],
            _ => &[RequiredOffset],
        };
        holds(&without(alone));
    }
    is_violated(&without(&[FinishRestarts, EpochsOnSwitch]), 9);
    is_violated(&without(&[LogBeforePromotion, RequiredOffset]), 9);
    is_violated(&without(&[DivergedIsNoCandidate, RequiredOffset]), 12);
    is_violated(&without(&[Wait, RequiredOffset]), 9);
}

#[test]
fn failovers_with_feed_and_values_from_different_servers() {
    holds(&Failover { without: &[failover::Rule::FetchWhereFeed], ..Failover::SMALL }); // 231,127 states, 26 steps
}
