//! Two clocks: the one that leases are counted on, and the wall clock.
//! Knows nothing of leases.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`: monotonic, and unlike `std::time::Instant` and tokio's it goes on while the
/// machine is suspended, so that a lease cannot outlive a suspend (`docs/design/serving.md`).
#[must_use]
pub fn boottime_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Milliseconds since the Unix epoch, for operators and for log entries. No decision depends on it.
#[must_use]
pub fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// The last moment that RFC 3339 can express, 9999-12-31T23:59:59.999Z, in milliseconds since the Unix epoch.
const RFC3339_MAX_MS: u64 = 253_402_300_799_999;

/// A moment, in milliseconds since the Unix epoch, as RFC 3339 text: `2023-11-14T22:13:20.123Z`.
#[must_use]
pub fn utc(ms: u64) -> String {
    let moment = std::time::UNIX_EPOCH + Duration::from_millis(ms.min(RFC3339_MAX_MS));
    humantime::format_rfc3339_millis(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_writes_iso_8601() {
        let moments = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in moments {
            assert_eq!(utc(ms), text);
        }
    }
}
