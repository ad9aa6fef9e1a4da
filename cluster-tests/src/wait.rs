//! Waiting for a condition until a deadline.
//! Knows nothing of what is waited for; the only place of the tests that sleeps.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// The longest time that an immediate action of a healthy cluster may take on a busy machine.
pub const GENEROUS: Duration = Duration::from_secs(40);
/// The interval between two polls: short compared with every awaited condition, long compared with the cost of a poll.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Polls until there is a value. At the deadline, the panic message has the last reason why there was none.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_for<T, E: Display>(what: &str, within: Duration, mut poll: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match poll() {
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
