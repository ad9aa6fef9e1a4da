//! Waiting for a condition until a deadline.
//! Knows nothing of what is waited for; the only place of the tests that sleeps.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// What a healthy cluster does at once may take so long on a machine that does much else.
pub const GENEROUS: Duration = Duration::from_secs(40);
/// Between two looks: short against everything that is waited for, long against what a look costs.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Looks until there is a value; the last reason why not is told when the time is over.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_for<T, E: Display>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) if began.elapsed() >= within => panic!("waited {within:?} for {what}: {why}"),
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Looks until the condition holds.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, within, || if holds() { Ok(()) } else { Err("it did not come to be") });
}

/// Whether the condition held for the whole time: for what must not happen.
#[must_use]
pub fn holds_for(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < time {
        if !holds() {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// Lets time pass, for what is itself a length of time (a pause longer than a lease). Never to wait for something.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
