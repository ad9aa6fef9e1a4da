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

/// A moment, milliseconds since the Unix epoch, as `2023-11-14T22:13:20.123Z`. Days to a date as in Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that a leap day is a year's last.
#[must_use]
pub fn utc(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000 + 719_468, ms % 86_400_000);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * from_march + 2) / 5 + 1, (from_march + 2) % 12 + 1);
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s, ms) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
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
        ];
        for (ms, text) in moments {
            assert_eq!(utc(ms), text);
        }
    }
}
