//! Explores the models of serving (`cluster_tests::serving_model`): the rules hold in every reachable state of a small
//! cluster, and each rule is needed, because a violation is reachable without it.
//!
//! The comments beside the tests give the number of visited states and the number of steps to the farthest state. The
//! number of steps to a violation is asserted, so that a change of the model becomes visible.

use std::fmt::Debug;

use cluster_tests::serving_model::{
    checker::{Model, Verdict, explore, pretty},
    fence::{self, Fence},
    lease::{Lease, Rule},
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

/// One operation and the stricter condition. `Lease::strict` explains why this finds every violation.
const STRICT: Lease = Lease { reader: false, strict: true, ..Lease::SMALL };

#[test]
fn a_write_and_a_read() {
    holds(&Lease::SMALL); // 794,396 states, 38 steps
}

#[test]
fn with_a_leader_change() {
    holds(&Lease { election: true, ..STRICT }); // 123,177 states, 30 steps
    holds(&Lease { election: true, lease: 3, ..STRICT }); // 374,345 states, 32 steps
}

#[test]
fn with_a_restart() {
    holds(&Lease { restarts: 1, ..STRICT }); // 290,289 states, 30 steps
}

#[test]
fn with_a_restart_and_a_leader_change() {
    holds(&Lease { restarts: 1, election: true, ..STRICT }); // 2,808,544 states, 36 steps
}

#[test]
fn with_a_removal_and_a_leader_change() {
    // A lease lasts one tick, so that the exploration takes only seconds: 3,430,781 states, 42 steps.
    holds(&Lease { removal: true, election: true, lease: 1, ..STRICT });
}

#[test]
fn with_a_removal() {
    holds(&Lease { removal: true, ..STRICT }); // 2,006,081 states, 39 steps
}

#[test]
fn with_a_second_hold() {
    holds(&Lease { holds: 2, ..STRICT }); // 902,392 states, 35 steps
}

#[test]
fn with_isolated_serve() {
    holds(&Lease { serve: true, ..STRICT }); // 11,108 states, 22 steps
    holds(&Lease { serve: true, election: true, ..STRICT }); // 109,572 states, 28 steps
    holds(&Lease { serve: true, restarts: 1, ..STRICT }); // 229,751 states, 31 steps
    holds(&Lease { serve: true, removal: true, ..STRICT }); // 870,991 states, 37 steps
}

/// One write through one node, and a leader that may change, without one rule.
fn without(rule: Rule) -> Lease {
    Lease { without: Some(rule), election: true, reader: false, ..Lease::SMALL }
}

#[test]
fn without_the_check_at_reply_time() {
    is_violated(&without(Rule::ReplyCheck), 13); // 25,247 states
}

#[test]
fn without_the_epoch_in_the_check_at_reply_time() {
    is_violated(&without(Rule::ReplyEpoch), 20); // 104,583 states
}

#[test]
fn without_min_applied_in_the_check_at_reply_time() {
    // 86,867 states. A node without a lease while the slot moved gets a new lease before its worker has the new route
    // table: the slot epoch is then still the epoch at which the request was sent.
    is_violated(&without(Rule::ReplyMinApplied), 18);
}

#[test]
fn without_the_barrier() {
    is_violated(&without(Rule::Barrier), 10); // 7,022 states
}

#[test]
fn without_the_drain() {
    is_violated(&without(Rule::Drain), 14); // 39,021 states
}

#[test]
fn without_min_applied() {
    is_violated(&without(Rule::MinApplied), 12); // 13,110 states
}

#[test]
fn without_the_new_leaders_wait() {
    is_violated(&without(Rule::NewLeaderWait), 12); // 18,390 states
}

#[test]
fn with_a_quorum_round_before_the_heartbeat() {
    // 227,849 states. With leases of two ticks: 15 steps and 1,406,141 states.
    is_violated(&Lease { lease: 1, ..without(Rule::RoundAfterHeartbeat) }, 14);
}

#[test]
fn without_the_term_on_the_switch() {
    is_violated(&without(Rule::TermOnSwitch), 13); // 140,755 states
}

#[test]
fn without_the_term_on_the_end_of_a_removal() {
    // 1,040,121 states. The lease table of a deposed leader is empty, so the leader concludes that the node has no
    // lease.
    is_violated(&Lease { removal: true, lease: 1, quiet: true, ..without(Rule::TermOnRemoval) }, 19);
}

#[test]
fn without_the_hold_id_on_the_switch() {
    is_violated(&Lease { holds: 2, ..without(Rule::HoldIdOnSwitch) }, 15); // 218,104 states
}

#[test]
fn with_a_lease_counted_from_the_answer() {
    is_violated(&without(Rule::CountFromSend), 13); // 38,229 states
}

#[test]
fn with_a_grant_before_the_ack() {
    is_violated(&without(Rule::AckBeforeGrant), 18); // 122,729 states
}

#[test]
fn the_fence_of_connections() {
    holds(&Fence { without: None }); // 9,082 states, 20 steps
}

#[test]
fn the_fence_with_a_rule_left_out() {
    // States: 6,316; 5,462; 2,475; 1,770; 4,694; 5,007.
    for (rule, steps) in [
        (fence::Rule::NamingBeforeAuthorization, 10),
        (fence::Rule::QuorumRound, 12),
        (fence::Rule::MarkBeforeKill, 9),
        (fence::Rule::Kill, 10),
        (fence::Rule::TermOnSwitch, 12),
        (fence::Rule::CheckLog, 12),
    ] {
        is_violated(&Fence { without: Some(rule) }, steps);
    }
}
