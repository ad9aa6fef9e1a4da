//! `make hostile`: thousands of hostile clients against one product, honest clients against another, at one node of a
//! cluster of real processes (`cluster_tests::hostile`). Prints what was measured and PASS or FAIL for each criterion.
//!
//! `hostile [--seconds N] [--quiet N] [--hostile N] [--honest N] [--rate MB] [--budget MB] [--seed N] [--only TEXT]
//! [--each] [--one-at-a-time]`: `--quiet` is the duration of each of the two runs without hostile clients, before and
//! after the one with them, `--rate` the MB per second of all hostile clients together, `--budget` the setting
//! `proxy.memory_max` (0: its default). `--each` runs one kind after the other, each for the whole duration, to find the
//! one to blame. `--one-at-a-time` runs the kinds that are no part of the storm: huge values, unread replies of
//! gigabytes, a script, a slow command.

use std::{process::ExitCode, time::Duration};

use cluster_tests::hostile::{
    alone,
    arena::Arena,
    attack::AttackOptions,
    storm::{self, StormOptions},
    verdict::Criterion,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "usage: hostile [--seconds N] [--quiet N] [--hostile N] [--honest N] [--rate MB] [--budget MB] \
                     [--seed N] [--only TEXT] [--each] [--one-at-a-time]";

/// Time between two requests of an honest client: with a hundred clients, 5,000 requests per second, which leave most of
/// a core to the hostile ones.
const EVERY: Duration = Duration::from_millis(20);

/// What runs.
#[derive(Clone, Copy)]
enum Mode {
    Storm,
    Each,
    OneAtATime,
}

/// MB as in rates of networks and disks.
const MB: usize = 1_000_000;

struct Args {
    mode: Mode,
    budget_mb: usize,
    storm: StormOptions,
}

impl Args {
    /// The defaults are those of the acceptance run.
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let attack = AttackOptions { clients: 2000, rate: 64 * MB, seed: 1, only: None, idle_class: true };
        let (quiet, time) = (Duration::from_secs(30), Duration::from_secs(300));
        let storm = StormOptions { attack, honest: 100, every: EVERY, quiet, time };
        let mut parsed = Self { mode: Mode::Storm, budget_mb: 128, storm };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--each" => parsed.mode = Mode::Each,
                "--one-at-a-time" => parsed.mode = Mode::OneAtATime,
                _ => parsed.set(&arg, &args.next()?)?,
            }
        }
        Some(parsed)
    }

    fn set(&mut self, arg: &str, value: &str) -> Option<()> {
        let seconds = || value.parse().ok().map(Duration::from_secs);
        let storm = &mut self.storm;
        match arg {
            "--seconds" => storm.time = seconds()?,
            "--quiet" => storm.quiet = seconds()?,
            "--hostile" => storm.attack.clients = value.parse().ok()?,
            "--honest" => storm.honest = value.parse().ok()?,
            "--rate" => storm.attack.rate = value.parse::<usize>().ok().filter(|mb| *mb > 0)? * MB,
            "--budget" => self.budget_mb = value.parse().ok()?,
            "--seed" => storm.attack.seed = value.parse().ok()?,
            "--only" => storm.attack.only = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

fn main() -> ExitCode {
    let Some(args) = Args::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    raise_file_limit();
    let budget_mb = Some(args.budget_mb).filter(|mb| *mb > 0);
    let criteria = match args.mode {
        Mode::Storm => storm(&Arena::start(budget_mb), &args.storm),
        Mode::Each => each(&Arena::start(budget_mb), &args.storm),
        Mode::OneAtATime => one_at_a_time(budget_mb, args.storm.attack.only.as_deref()),
    };
    if criteria.iter().all(|criterion| criterion.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn storm(arena: &Arena, options: &StormOptions) -> Vec<Criterion> {
    let storm = storm::run(arena, options);
    storm.print();
    printed(storm.criteria())
}

/// Runs one kind after the other, and returns the criteria that failed.
fn each(arena: &Arena, options: &StormOptions) -> Vec<Criterion> {
    let mut failed = Vec::new();
    for kind in options.attack.kinds() {
        let attack = AttackOptions { only: Some(kind.name.to_owned()), ..options.attack.clone() };
        let storm = storm::run(arena, &StormOptions { attack, ..options.clone() });
        println!("{:<52} {}", kind.name, storm.line());
        let of_kind = storm.criteria().into_iter().filter(|c| !c.passed);
        failed.extend(of_kind.map(|c| Criterion { what: format!("{}: {}", kind.name, c.what), ..c }));
    }
    printed(failed)
}

fn one_at_a_time(budget_mb: Option<usize>, only: Option<&str>) -> Vec<Criterion> {
    let selected = |case: &&alone::Case| only.is_none_or(|part| case.name.contains(part));
    alone::CASES.iter().filter(selected).flat_map(|case| printed(alone::run(budget_mb, case))).collect()
}

fn printed(criteria: Vec<Criterion>) -> Vec<Criterion> {
    criteria.iter().for_each(|criterion| println!("{criterion}"));
    criteria
}

/// Raises the limit of open files, which the nodes and servers inherit, to what the system allows.
fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // A failure shows as clients that cannot connect.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
