//! All kinds of hostile clients at the same time, between two quiet runs with the honest clients alone: what else the
//! machine does changes within minutes, and concerns all runs so.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    arena::Arena,
    attack::{AttackOptions, Attackers, idle_class},
    honest::{Figures, Honest, HonestOptions},
    link::Counts,
    verdict::{Criterion, RESIDENT_MAX_MB, print_errors},
    watch::{Usage, Watch},
};

/// How many times as long as without hostile clients the p99 of honest clients may be.
const P99_FACTOR: u32 = 5;

/// A storm.
#[derive(Clone, Debug)]
pub struct StormOptions {
    /// The hostile clients.
    pub attack: AttackOptions,
    /// Number of honest clients.
    pub honest: usize,
    /// Time between two requests of an honest client.
    pub every: Duration,
    /// Duration of each of the two runs without hostile clients.
    pub quiet: Duration,
    /// Duration of the run with hostile clients.
    pub time: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Storm {
    quiet: Figures,
    attacked: Figures,
    usage: Option<Usage>,
    counts: Vec<(&'static str, Arc<Counts>)>,
    promotions: Vec<String>,
}

/// Runs a storm.
#[must_use]
pub fn run(arena: &Arena, options: &StormOptions) -> Storm {
    let honest = HonestOptions::new(arena.honest_port(), options.honest, options.every, |_| true);
    if options.attack.idle_class {
        arena.attacked_servers().into_iter().for_each(idle_class);
    }
    let before = Honest::run_for(honest.clone(), options.quiet);
    let watch = Watch::start(arena.node_pid(), arena.attacked_servers());
    let attackers = Attackers::start(arena.attacked_port(), &options.attack);
    let attacked = Honest::run_for(honest.clone(), options.time);
    let usage = watch.finish();
    let counts = attackers.finish();
    let quiet = before.and(Honest::run_for(honest, options.quiet));
    Storm { quiet, attacked, usage, counts, promotions: arena.new_promotions() }
}

impl Storm {
    /// What must hold wherever the storm runs: errors, memory, failovers, and that every kind of hostile client
    /// connected.
    #[must_use]
    pub fn safety(&self) -> Vec<Criterion> {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let idle = self.counts.iter().filter(|(_, counts)| of(&counts.sent) + of(&counts.ended) == 0);
        let idle: Vec<&str> = idle.map(|(kind, _)| *kind).collect();
        vec![
            Criterion::no_errors("honest clients without hostile ones", &self.quiet),
            Criterion::no_errors("honest clients", &self.attacked),
            Criterion::memory(self.usage.as_ref(), RESIDENT_MAX_MB),
            Criterion::failovers(&self.promotions, 0),
            Criterion {
                what: "kinds of hostile clients that did nothing".into(),
                limit: "none".into(),
                measured: if idle.is_empty() { "none".into() } else { idle.join(", ") },
                passed: idle.is_empty(),
            },
        ]
    }

    /// [`Storm::safety`] and the latency of honest clients.
    #[must_use]
    pub fn criteria(&self) -> Vec<Criterion> {
        let (quiet, attacked) = (self.quiet.quantile(0.99), self.attacked.quantile(0.99));
        let mut all = self.safety();
        all.push(Criterion {
            what: format!("p99 of honest clients; without hostile ones {quiet:.2?}"),
            limit: format!("<= {:.2?}", quiet * P99_FACTOR),
            measured: format!("{attacked:.2?}"),
            passed: attacked <= quiet * P99_FACTOR,
        });
        all
    }

    /// Returns what was measured in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| self.attacked.quantile(share));
        let mut line = format!("{} errors, p50 {p50:.2?}, p99 {p99:.2?}, longest {longest:.2?}", self.attacked.errors);
        match &self.usage {
            Some(usage) => {
                let before = usage.resident_mb.first().unwrap_or(&0);
                line += &format!("; memory {before} MB, peak {}", usage.peak_mb);
                line += &format!("; {:.2} of a core, waited {:.1} times as long", usage.cpu, usage.waited);
            }
            None => line += "; the node has ended",
        }
        line + &format!("; {} failovers", self.promotions.len())
    }

    /// Prints what was measured besides the criteria.
    pub fn print(&self) {
        println!(
            "{:<52} {:>9} {:>9} {:>6} {:>6} {:>9} {:>9}",
            "hostile clients", "connects", "ended", "cut", "long", "sent MB", "read MB"
        );
        for (kind, counts) in &self.counts {
            let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
            let Counts { connected, ended, cut, given_up, sent, received, first_error } = &**counts;
            println!(
                "{kind:<52} {:>9} {:>9} {:>6} {:>6} {:>9.1} {:>9.1}",
                of(connected),
                of(ended),
                of(cut),
                of(given_up),
                mb(of(sent)),
                mb(of(received)),
            );
            if let Some(text) = &*first_error.lock().unwrap_or_else(PoisonError::into_inner) {
                println!("      first error: {}", text.chars().take(120).collect::<String>());
            }
        }
        println!(
            "\n{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "honest clients", "requests", "errors", "p50", "p99", "p99.9", "longest"
        );
        for (run, figures) in [("without hostile clients", &self.quiet), ("with hostile clients", &self.attacked)] {
            let q = |share| format!("{:.2?}", figures.quantile(share));
            println!(
                "{run:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
                figures.answered(),
                figures.errors,
                q(0.5),
                q(0.99),
                q(0.999),
                q(1.0)
            );
            print_errors(run, figures);
        }
        let longest: Vec<u64> =
            self.attacked.longest_by_second().map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).collect();
        println!("\nlongest with hostile clients, over time, in ms: {}", series(&longest));
        if let Some(usage) = &self.usage {
            println!(
                "node: {:.2} of a core; its worker waited {:.1} times as long for a core",
                usage.cpu, usage.waited
            );
            println!("resident memory in MB, over time: {}; peak {}", series(&usage.resident_mb), usage.peak_mb);
            println!("attacked servers together: at most {} MB", usage.others_mb);
        }
        for promotion in &self.promotions {
            println!("{promotion}");
        }
        println!();
    }
}

#[allow(clippy::cast_precision_loss)]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Returns the largest values of at most 30 equal spans.
fn series(values: &[u64]) -> String {
    let span = values.len().div_ceil(30).max(1);
    values.chunks(span).filter_map(|span| span.iter().max()).map(u64::to_string).collect::<Vec<_>>().join(" ")
}
