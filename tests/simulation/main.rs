//! Seeded simulation of docs/design/serving.md and docs/design/migration.md over the real `apply`,
//! `RouteTable::derive`, `LeaseTable`, heartbeat handler and `plan::{assignment, migration, sweep}`: several nodes,
//! clocks, faults, clients and owner changes in virtual time; one thread, one seed, the same run every time.
//! Knows nothing of openraft, sockets or tokio: the log is abstract, and the rules around the pure code are repeated
//! here. `promotions` is a world of its own: the servers of one group and the leader that promotes them.
//!
//! `PONTOON_SIM_SEEDS=5000` runs more seeds, `PONTOON_SIM_FIRST=40000` others, `PONTOON_SIM_THREADS=2` several at once,
//! `PONTOON_SIM_SEED=17` one. `make simulate` runs ten thousand of each kind.
#![allow(clippy::unwrap_used)]

mod assignments;
mod clients;
mod invariants;
mod jobs;
mod leader;
mod migrations;
mod mover;
mod mover_messages;
mod network;
mod node;
mod promotions;
mod queue;
mod raft;
mod rules;
mod store;
mod worker;
mod world;

use std::{ops::Range, sync::Mutex, time::Instant};

use rules::{Rules, Seen};
use world::World;

/// Seeds of an ordinary run; about ten seconds on one slow core.
const SEEDS: u64 = 200;
/// Seeds within which a simulation without one of the rules must show a violation. Each is found much earlier.
const CATCH_SEEDS: u64 = 2000;

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The lowest seed of those that fail here, and how.
type Failure = Mutex<Option<(u64, String)>>;

/// Runs seeds that no other thread has taken, until one fails in any thread. A world stays in one thread.
fn run_seeds(rules: Rules, left: &Mutex<Range<u64>>, failure: &Failure) -> Seen {
    let mut seen = Seen::default();
    while failure.lock().unwrap().is_none() {
        let Some(seed) = left.lock().unwrap().next() else { break };
        let mut world = World::new(seed, rules);
        match world.run() {
            Ok(()) => seen.add(&world.seen),
            Err(violation) => {
                // The same again, with its trace.
                let mut world = World::with_trace(seed, rules);
                let _ = world.run();
                let mut failure = failure.lock().unwrap();
                if failure.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    *failure = Some((seed, format!("{violation}\n{}", world.trace())));
                }
            }
        }
    }
    seen
}

/// Runs the seeds of this run; panics with the lowest one that fails.
fn passes(rules: Rules, test: &str) {
    let first = number_from_env("PONTOON_SIM_FIRST").unwrap_or(0);
    let seeds = match number_from_env("PONTOON_SIM_SEED") {
        Some(one) => one..one + 1,
        None => first..first + number_from_env("PONTOON_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (count, began) = (seeds.end - seeds.start, Instant::now());
    let (left, failure) = (Mutex::new(seeds), Failure::default());
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let threads = number_from_env("PONTOON_SIM_THREADS").unwrap_or(1);
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_seeds(rules, &left, &failure))).collect();
        working.into_iter().for_each(|thread| seen.add(&thread.join().unwrap()));
    });
    if let Some((seed, what)) = failure.into_inner().unwrap() {
        panic!("seed {seed}: {what}\nrepeat: PONTOON_SIM_SEED={seed} cargo test --test simulation {test}");
    }
    let took = began.elapsed().as_secs_f64();
    println!("{test}: {count} seeds in {took:.1} s, {:.0} per second: {seen:?}", count as f64 / took);
    // A run in which little happens proves nothing.
    if count >= 100 {
        let of_kind = if rules.migrations {
            [seen.switched, seen.done, seen.cancelled, seen.failovers, seen.swept, seen.restarted]
        } else {
            [seen.moved, seen.silent, 1000, 1000, 1000, 1000]
        };
        let always = [seen.acked, seen.released, seen.elections, seen.refused, seen.unknown];
        let mut busy = always.iter().chain(&of_kind);
        assert!(busy.all(|n| *n > 20), "the simulation is too quiet: {seen:?}");
    }
}

/// A violation is found when `rules` lack one of the rules; prints the seed. The search begins at seed `first`, a
/// little below one that is known to show it, so that an ordinary run is short. Every change of the simulation gives
/// the seeds other worlds: `PONTOON_SIM_FIRST=0 cargo test --release --test simulation catch -- --nocapture` finds them
/// again.
fn catches(first: u64, rules: Rules) {
    let first = number_from_env("PONTOON_SIM_FIRST").unwrap_or(first);
    for seed in first..first + number_from_env("PONTOON_SIM_SEEDS").unwrap_or(CATCH_SEEDS) {
        let mut world = World::new(seed, rules);
        if let Err(violation) = world.run_faults() {
            println!("seed {seed}: {violation}");
            return;
        }
    }
    panic!("nothing was found from seed {first} on with {rules:?}");
}

/// The only assumption about clocks is that their rates differ by less than 1 %. Here they differ by 0.9 %.
#[test]
fn clients_see_one_owner_per_slot() {
    passes(Rules::default(), "clients_see_one_owner_per_slot");
}

fn migrating() -> Rules {
    Rules { migrations: true, ..Rules::default() }
}

/// Migrations under every fault; see `migrations`.
#[test]
fn migrations_lose_nothing_and_end() {
    passes(migrating(), "migrations_lose_nothing_and_end");
}

/// Clocks are 5 % fast or slow against true time.
#[test]
fn catches_clocks_that_are_off_by_five_per_cent() {
    catches(5, Rules { rates_differ: 0.1, ..Rules::default() });
}

#[test]
fn catches_a_missing_check_at_reply() {
    catches(0, Rules { check_at_reply: false, ..Rules::default() });
}

#[test]
fn catches_a_missing_epoch_at_reply() {
    catches(10, Rules { epoch_at_reply: false, ..Rules::default() });
}

#[test]
fn catches_a_missing_barrier() {
    catches(0, Rules { barrier: false, ..Rules::default() });
}

#[test]
fn catches_a_missing_drain() {
    catches(5, Rules { drain: false, ..Rules::default() });
}

#[test]
fn catches_a_new_leader_that_does_not_wait() {
    catches(0, Rules { leader_waits: false, ..Rules::default() });
}

#[test]
fn catches_a_missing_min_applied() {
    catches(145, Rules { min_applied: false, ..Rules::default() });
}

#[test]
fn catches_a_lease_counted_from_its_arrival() {
    catches(375, Rules { from_send: false, ..Rules::default() });
}

#[test]
fn catches_a_grant_without_a_round() {
    catches(0, Rules { round: false, ..Rules::default() });
}

#[test]
fn migrations_catch_a_missing_check_at_reply() {
    catches(1440, Rules { check_at_reply: false, ..migrating() });
}

#[test]
fn migrations_catch_a_missing_barrier() {
    catches(10, Rules { barrier: false, ..migrating() });
}

#[test]
fn migrations_catch_a_missing_fence() {
    catches(110, Rules { fence: false, ..migrating() });
}

#[test]
fn migrations_catch_replay_instead_of_refetch() {
    catches(310, Rules { refetch: false, ..migrating() });
}

#[test]
fn migrations_catch_an_offset_from_before_the_barrier() {
    catches(10, Rules { offset_after_barrier: false, ..migrating() });
}

#[test]
fn migrations_catch_a_mark_cleared_after_the_answer() {
    catches(25, Rules { mark_before_fetch: false, ..migrating() });
}

/// A mover that ends before the log knows of its copy leaves keys at the target that count as unexpected.
#[test]
fn migrations_catch_a_copy_that_the_log_does_not_know() {
    catches(0, Rules { staged_first: false, ..migrating() });
}
