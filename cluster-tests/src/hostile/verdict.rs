//! What must hold, what was measured, and the table of both.

use std::fmt;

use super::{honest::Figures, watch::Usage};

/// Resident memory of the attacked node, in MB, for a budget of 128 MB.
pub const RESIDENT_MAX_MB: u64 = 300;

/// One thing that must hold.
#[derive(Clone, Debug)]
pub struct Criterion {
    /// What is measured.
    pub what: String,
    /// What it must be.
    pub limit: String,
    /// What it is.
    pub measured: String,
    /// Whether the limit holds.
    pub passed: bool,
}

impl Criterion {
    /// No honest client may see an error. There must be honest requests, too.
    #[must_use]
    pub fn no_errors(what: &str, figures: &Figures) -> Self {
        Self {
            what: format!("errors of {what}"),
            limit: "0".into(),
            measured: format!("{} of {}", figures.errors, figures.answered() + figures.errors),
            passed: figures.errors == 0 && figures.answered() > 0,
        }
    }

    /// The node runs, and its memory never exceeded this number of MB.
    #[must_use]
    pub fn memory(usage: Option<&Usage>, max_mb: u64) -> Self {
        let measured = usage.map_or("the node has ended".into(), |usage| format!("{} MB", usage.peak_mb));
        Self {
            what: "resident memory of the node".into(),
            limit: format!("< {max_mb} MB"),
            measured,
            passed: usage.is_some_and(|usage| usage.peak_mb < max_mb),
        }
    }

    /// At most this number of promotions has begun.
    #[must_use]
    pub fn failovers(promotions: &[String], max: usize) -> Self {
        let (passed, measured) = (promotions.len() <= max, promotions.len().to_string());
        Self {
            what: "failovers".into(),
            limit: if max == 0 { "0".into() } else { format!("<= {max}") },
            measured,
            passed,
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit, measured, passed } = self;
        let verdict = if *passed { "PASS" } else { "FAIL" };
        write!(f, "{verdict}  {what:<52} {measured:>20}  (must be {limit})")
    }
}

/// Prints the first errors of honest clients.
pub fn print_errors(what: &str, figures: &Figures) {
    for (text, n) in &figures.texts {
        println!("      {what}: {n} x {text}");
    }
}
