//! Sends the same generated calls to a cluster of three groups and to one plain server, and shows every reply and every key
//! that differs, but for the table of deviations. The exit code is 1 if something differs.
//! usage: comparison [--seed N] [--calls N] [redis-7 | redis-8 | valkey-8]...   without names: all

use std::process::ExitCode;

use cluster_tests::{
    differential::{
        bed::{SEED, compare as compare_with},
        deviations::DEVIATIONS,
    },
    kinds::Kind,
};

const REPLIES: usize = 30_000;
const KINDS: [(&str, Kind); 3] = [("redis-7", Kind::Machine), ("redis-8", Kind::Redis8), ("valkey-8", Kind::Valkey8)];

/// What is compared.
struct Options {
    seed: u64,
    replies: usize,
    /// Kinds of servers; empty: all.
    kinds: Vec<String>,
}

impl Options {
    fn of(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { seed: SEED, replies: REPLIES, kinds: Vec::new() };
        while let Some(arg) = args.next() {
            let mut number = || {
                let value = args.next().ok_or(format!("{arg} needs a number"))?;
                value.parse::<u64>().map_err(|error| format!("{arg} {value}: {error}"))
            };
            match arg.as_str() {
                "--seed" => options.seed = number()?,
                "--calls" => options.replies = usize::try_from(number()?).map_err(|error| error.to_string())?,
                _ if KINDS.iter().any(|(name, _)| *name == arg) => options.kinds.push(arg),
                _ => return Err(format!("unknown argument '{arg}'")),
            }
        }
        Ok(options)
    }
}

/// Whether nothing differs from a server of this kind.
fn compare(name: &str, kind: Kind, Options { seed, replies, .. }: &Options) -> bool {
    let (run, generator) = compare_with(kind, *seed, *replies);
    println!(
        "{name}, seed {seed}: {:?}, {} of {} commands, {} differences",
        run.tally,
        generator.generated.len(),
        generator.commands(),
        run.differences()
    );
    for (deviation, met) in DEVIATIONS.iter().zip(&run.met) {
        if *met == 0 {
            println!("no call met the deviation '{}'", deviation.calls);
        }
    }
    println!("{}", run.report());
    run.differences() == 0
}

fn main() -> ExitCode {
    let options = match Options::of(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let chosen = |name: &str| options.kinds.is_empty() || options.kinds.iter().any(|other| other == name);
    let differing = KINDS.iter().filter(|(name, kind)| chosen(name) && !compare(name, *kind, &options)).count();
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
