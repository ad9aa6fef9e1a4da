//! Explores the model of the roles in memory and on disk (`cluster_tests::role_model`): from every reachable state the
//! group can become healthy, no acknowledged write is lost, and each rule is needed.
//!
//! The comments beside the tests give the number of states.

use cluster_tests::role_model::{Explored, Roles, Rule};

/// Limit of an exploration: far more states than any exploration here needs.
const STATES_MAX: usize = 4_000_000;

/// Two kills and a change of the leader during one switchover.
const FAULTS: Roles = Roles { kills: 2, elections: 1, switchovers: 1, saves: true, without: None };
/// Two switchovers, so that a server may have been the primary before.
const TWICE: Roles = Roles { kills: 1, elections: 0, switchovers: 2, ..FAULTS };

fn explore(roles: Roles) -> Explored {
    let explored = roles.explore(STATES_MAX);
    println!("{roles:?}: {} states", explored.states);
    explored
}

#[track_caller]
fn recovers(roles: Roles) {
    let Explored { violation, stuck, .. } = explore(roles);
    assert!(violation.is_none(), "{violation:#?}");
    assert!(stuck.is_none(), "{stuck:#?}");
}

#[track_caller]
fn loses_a_write(roles: Roles) {
    let (why, steps) = explore(roles).violation.expect("a loss");
    println!("{why}: {steps:?}");
}

#[test]
fn a_group_always_recovers_and_loses_nothing() {
    recovers(FAULTS);
    recovers(TWICE);
}

/// What the new primary has acknowledged can be lost then.
#[test]
fn servers_that_cannot_save_their_configuration_recover() {
    recovers(Roles { saves: false, ..FAULTS });
    recovers(Roles { saves: false, ..TWICE });
}

#[test]
fn a_role_that_is_not_saved_before_the_log_names_it_loses_a_write() {
    loses_a_write(Roles { kills: 1, elections: 0, without: Some(Rule::SaveBeforeFinish), ..FAULTS });
}

/// The candidate was a primary before, and restarts as one before it has saved that it is a replica.
#[test]
fn a_restarted_primary_that_counts_as_promoted_loses_a_write() {
    loses_a_write(Roles { without: Some(Rule::FormerHistory), ..TWICE });
}

/// Two servers that follow each other, and a third one that has data.
#[test]
fn a_primary_that_is_not_restored_beside_other_data_stays_a_replica() {
    let without = Some(Rule::RestoreBesideOthers);
    let stuck = explore(Roles { saves: false, kills: 1, elections: 0, without, ..FAULTS }).stuck;
    println!("{:?}", stuck.expect("a group without a primary"));
}
