//! Waiting for a condition until a deadline. All sleeps of the tests are in this module.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// The longest time that an immediate action of a healthy cluster may take on a busy machine.
pub const GENEROUS: Duration = Duration::from_secs(40);
/// The interval between two polls: short compared with every awaited condition, long compared with the cost of a poll.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Polls until there is a value. `what` completes the sentence "waited for ...". At the deadline, the panic message
/// contains the last reason why there was no value.
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

/// Polls until the condition holds. `what` completes the sentence "waited for ...".
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, within, || if holds() { Ok(()) } else { Err("the condition is false") });
}

/// Returns whether the condition holds at every poll during `time`. For conditions that must not change.
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

/// Sleeps. Only for durations that are part of a test (a pause that is longer than a lease), never to wait for a
/// condition.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
