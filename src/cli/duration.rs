//! Durations as people type them: `250ms`, `10s`, `5m`, `1h`.
//! Knows nothing of what they are for.

use std::time::Duration;

/// Longest duration accepted; the admin API has the same limit.
const MAX: Duration = Duration::from_secs(3600);

/// Parses a whole number with a unit; without one it is seconds.
///
/// # Errors
/// A sentence that says what is expected. Zero and more than an hour are refused.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no duration from 1ms to 1h, as 250ms, 10s or 5m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    let duration = Duration::from_millis(ms);
    if duration.is_zero() || duration > MAX { Err(bad()) } else { Ok(duration) }
}

/// As short as it can be said.
pub fn show(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let check = |text: &str, ms: u64| assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        check("250ms", 250);
        check("10s", 10_000);
        check("10", 10_000);
        check("5m", 300_000);
        check("1h", 3_600_000);
        for bad in
            ["", "s", "0", "0s", "1.5s", "-1s", "2h", "5 m", "10d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
