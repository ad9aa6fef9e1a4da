//! All kinds of hostile clients at the same time.

use std::time::Duration;

use cluster_tests::hostile::{
    arena::Arena,
    attack::AttackOptions,
    storm::{self, StormOptions},
};

/// Memory budget of the node in MB, as in the long run.
const BUDGET_MB: usize = 128;

/// Bytes per second of all hostile clients together: every kind ends some rounds, and a debug build is not saturated.
const RATE: usize = 32_000_000;

#[test]
fn hostile_clients_of_a_product_do_not_harm_other_products_the_node_or_groups() {
    let arena = Arena::start(Some(BUDGET_MB));
    let options = StormOptions {
        attack: AttackOptions { clients: 200, rate: RATE, seed: 1, only: None, idle_class: false },
        honest: 20,
        every: Duration::from_millis(50),
        quiet: Duration::from_secs(2),
        time: Duration::from_secs(20),
    };
    let storm = storm::run(&arena, &options);
    storm.print();
    let broken: Vec<String> = storm.safety().iter().filter(|c| !c.passed).map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
