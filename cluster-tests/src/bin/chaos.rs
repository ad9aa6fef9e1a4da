//! `make chaos`: runs random cases of the fault matrices (`cluster_tests::matrix`, `cluster_tests::promotions`) for a
//! given time. For a case that fails, it prints the command that repeats it.
//!
//! `chaos [--kind migrations|promotions] [--seconds N] [--seed N]`: with `--seed`, it runs the case of this seed once
//! for each kind. Without `--kind`, it alternates between both kinds.

use std::{
    panic::catch_unwind,
    process::ExitCode,
    time::{Duration, Instant},
};

use cluster_tests::{matrix, promotions};

/// Default duration: ten minutes.
const SECONDS: u64 = 600;

/// The kind of a case.
#[derive(Clone, Copy)]
enum Kind {
    Migrations,
    Promotions,
}

/// Both kinds, in the order in which they alternate.
const KINDS: &[Kind] = &[Kind::Promotions, Kind::Migrations];

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        KINDS.iter().copied().find(|kind| kind.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Migrations => "migrations",
            Self::Promotions => "promotions",
        }
    }

    /// Prints the case of the seed and runs it. Returns whether it passed.
    fn run(self, seed: u64) -> bool {
        match self {
            Self::Migrations => {
                let case = migration(seed);
                let replica = if case.replica { ", with a replica" } else { "" };
                println!("seed {seed}: {:?} at {:?}{replica}", case.fault, case.point);
                catch_unwind(|| matrix::run(&case)).is_ok()
            }
            Self::Promotions => {
                let case = promotions::Case::by_chance(seed);
                let promotions::Case { trigger, before, hit, replicas, min_acks, .. } = &case;
                println!(
                    "seed {seed}: {trigger:?}, before {before:?}, hit {hit:?}, replicas {replicas}, min-acks {min_acks}"
                );
                catch_unwind(|| promotions::run(&case)).is_ok()
            }
        }
    }
}

/// Returns the migration case of a seed.
fn migration(seed: u64) -> matrix::Case {
    let mut random = fastrand::Rng::with_seed(seed);
    let point = matrix::POINTS[random.usize(0..matrix::POINTS.len())];
    let fault = matrix::FAULTS[random.usize(0..matrix::FAULTS.len())];
    matrix::Case { point, fault, replica: random.bool(), seed, without: Vec::new() }
}

fn once(kind: Kind, seed: u64) -> bool {
    let began = Instant::now();
    let good = kind.run(seed);
    if good {
        println!("seed {seed}: passed, {:.1} s", began.elapsed().as_secs_f64());
    } else {
        println!("seed {seed}: FAILED; to repeat it: make chaos ARGS='--kind {} --seed {seed}'", kind.name());
    }
    good
}

fn main() -> ExitCode {
    let (mut seconds, mut seed, mut kinds) = (SECONDS, None, KINDS.to_vec());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        let number = value.parse::<u64>().ok();
        match (arg.as_str(), number, Kind::parse(&value)) {
            ("--seconds", Some(n), _) => seconds = n,
            ("--seed", Some(n), _) => seed = Some(n),
            ("--kind", _, Some(kind)) => kinds = vec![kind],
            _ => {
                eprintln!("usage: chaos [--kind migrations|promotions] [--seconds N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(seed) = seed {
        let all_good = kinds.iter().all(|kind| once(*kind, seed));
        return if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut failed) = (0u32, Vec::new());
    for kind in kinds.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        let seed = fastrand::u64(0..1 << 32);
        runs += 1;
        if !once(*kind, seed) {
            failed.push((kind.name(), seed));
        }
    }
    println!("{runs} runs, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
