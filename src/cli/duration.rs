//! Durations as people type them: `250ms`, `10s`, `5m`, `1h`.

use std::time::Duration;

/// Longest duration that is accepted; the admin API has the same limit.
const MAX: Duration = Duration::from_secs(3600);
/// Shortest: the admin API counts milliseconds.
const MIN: Duration = Duration::from_millis(1);

/// Parses a whole number with a unit (`ms`, `s`, `m` or `min`, `h`). A number without a unit is in seconds.
///
/// # Errors
/// Returns what is expected, as text for the operator, if `text` is not a duration from 1 ms to 1 h.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration from 1ms to 1h, such as 250ms, 10s or 5m");
    // humantime alone would also accept several parts and spaces.
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    if unit.len() == text.len() || !unit.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(bad());
    }
    let with_unit = if unit.is_empty() { format!("{text}s") } else { text.to_owned() };
    let duration = humantime::parse_duration(&with_unit).map_err(|_| bad())?;
    if (MIN..=MAX).contains(&duration) { Ok(duration) } else { Err(bad()) }
}

/// In the same form: `250ms`, `1m 30s`.
pub fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
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
        check("5min", 300_000);
        check("1h", 3_600_000);
        for bad in [
            "",
            "s",
            "0",
            "0s",
            "1.5s",
            "-1s",
            "2h",
            "5 m",
            "1m30s",
            "10d",
            "1us",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse(bad).is_err_and(|why| why.contains("250ms")), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_typed() {
        for text in ["250ms", "10s", "5m", "1h"] {
            assert_eq!(parse(text).map(show).as_deref(), Ok(text));
        }
    }
}
