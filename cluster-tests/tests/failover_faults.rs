//! The fault matrix of promotions: each fault at least once (cluster_tests::promotions).
//! Not here: min-acks, cache mode and replica reads, which Pontoon has not yet.
//!
//! A run by itself: `cargo test -p cluster-tests --test failover_faults NAME -- --nocapture` shows what was lost, measured. More of
//! them, by chance: `make chaos`.

use cluster_tests::promotions::{Before, Case, Second, Trigger, run};
use pontoon::faults::Point;

/// name: trigger, before, point and what hits there, replicas, seed.
macro_rules! matrix {
    ($($name:ident: $trigger:ident, $before:expr, $point:expr, $second:ident, $replicas:literal, $seed:literal;)*) => {
        $(
            #[test]
            fn $name() {
                #[allow(unused_imports)]
                use Before::*;
                #[allow(unused_imports)]
                use Point::*;
                run(&Case {
                    trigger: Trigger::$trigger,
                    before: $before,
                    point: $point,
                    second: Second::$second,
                    replicas: $replicas,
                    seed: $seed,
                    without: Vec::new(),
                });
            }
        )*
    };
}

matrix! {
    switchover: Switchover, Before::None, Option::None, None, 1, 1;
    killed: Kill, Before::None, Option::None, None, 1, 2;
}
