//! `make chaos`: runs of the fault matrix chosen by chance, for as long as asked; a failure prints the command that repeats it.
//! Knows nothing of what a run does (cluster_tests::matrix).
//!
//! `chaos [--seconds N] [--seed N]`: with `--seed` the run of that seed, once.

use std::{
    panic::catch_unwind,
    process::ExitCode,
    time::{Duration, Instant},
};

use cluster_tests::matrix::{Case, FAULTS, POINTS, run};

/// Ten minutes, if nothing is said.
const SECONDS: u64 = 600;

/// The run of a seed.
fn case(seed: u64) -> Case {
    let mut random = fastrand::Rng::with_seed(seed);
    let point = POINTS[random.usize(0..POINTS.len())];
    let fault = FAULTS[random.usize(0..FAULTS.len())];
    Case { point, fault, replica: random.bool(), seed, without: Vec::new() }
}

fn once(seed: u64) -> bool {
    let case = case(seed);
    println!("seed {seed}: {:?} at {:?}{}", case.fault, case.point, if case.replica { ", with a replica" } else { "" });
    let began = Instant::now();
    let good = catch_unwind(|| run(&case)).is_ok();
    if good {
        println!("seed {seed}: good, {:.1} s", began.elapsed().as_secs_f64());
    } else {
        println!("seed {seed}: FAILED; to repeat it: make chaos ARGS='--seed {seed}'");
    }
    good
}

fn main() -> ExitCode {
    let (mut seconds, mut seed) = (SECONDS, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|v| v.parse::<u64>().ok());
        match (arg.as_str(), value) {
            ("--seconds", Some(n)) => seconds = n,
            ("--seed", Some(n)) => seed = Some(n),
            _ => {
                eprintln!("usage: chaos [--seconds N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(seed) = seed {
        return if once(seed) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut failed) = (0u32, Vec::new());
    while Instant::now() < until {
        let seed = fastrand::u64(0..1 << 32);
        runs += 1;
        if !once(seed) {
            failed.push(seed);
        }
    }
    println!("{runs} runs, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
