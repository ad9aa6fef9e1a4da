//! The clock that leases are counted on.
//! Knows nothing of who asks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`: monotonic, and unlike `std::time::Instant` and tokio's it goes on while the
/// machine sleeps, so that a lease cannot outlive a suspend (serving.md, "Heartbeat and lease").
#[must_use]
pub fn boottime_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Milliseconds since the Unix epoch, for people and for entries of the log. Never used for a decision.
#[must_use]
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}
