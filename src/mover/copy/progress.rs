//! Measures the speed of a copy between two reports.
//! Knows nothing of what a report contains.

use std::time::Duration;

use tokio::time::Instant;

/// Interval of reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Assumed keys per second before any key was copied.
const RATE_FIRST: f64 = 20_000.0;
/// With more keys waiting than this, the rate shows how fast the copy is; with fewer, how little there was to do.
const BUSY: usize = 256;
/// How fast the estimate of the full speed follows a new measurement.
const RATE_SMOOTHING: f64 = 0.3;

/// The speed of a copy.
pub(super) struct Progress {
    /// Estimated number of keys to copy.
    pub keys_total: u64,
    measured: Instant,
    keys: u64,
    was_busy: bool,
    /// Keys per second, averaged over about a second.
    rate: f64,
    /// Keys per second at full speed.
    full_rate: f64,
}

impl Progress {
    /// No key was copied yet.
    pub fn new(keys_total: u64, now: Instant) -> Self {
        Self { keys_total, measured: now, keys: 0, was_busy: false, rate: 0.0, full_rate: RATE_FIRST }
    }

    /// Whether the next report is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.measured) >= REPORT_EVERY
    }

    /// Measures the speed since the last call. `keys`: copied so far; `waiting`: still to be copied.
    pub fn measure(&mut self, keys: u64, waiting: usize, now: Instant) {
        let passed = now.saturating_duration_since(self.measured).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let rate = (keys - self.keys) as f64 / passed;
        self.rate += (rate - self.rate) * passed.min(1.0);
        let busy = waiting > BUSY;
        if busy && self.was_busy {
            self.full_rate += (rate.max(1.0) - self.full_rate) * RATE_SMOOTHING;
        }
        self.was_busy = busy;
        self.measured = now;
        self.keys = keys;
    }

    /// Keys per second.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// Estimated milliseconds to copy `waiting` keys at full speed.
    pub fn queue_ms(&self, waiting: usize) -> u64 {
        (waiting as f64 * 1000.0 / self.full_rate) as u64
    }

    /// When the speed was measured last.
    pub fn measured(&self) -> Instant {
        self.measured
    }
}
