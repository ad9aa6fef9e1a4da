//! Settings as people type them: KEY=VALUE, and `--product`.

use super::DEFAULT_PRODUCT;

/// Key and value of `KEY=VALUE`.
///
/// # Errors
/// Returns what is expected, as text for the operator, if there is no `=`.
pub fn split(setting: &str) -> Result<(&str, &str), String> {
    setting.split_once('=').ok_or_else(|| format!("'{setting}' is not KEY=VALUE"))
}

/// A switch.
///
/// # Errors
/// Returns what is expected for `key`, as text for the operator, if the value is neither `on` nor `off`.
pub fn on_off(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}: on or off is expected, not '{value}'")),
    }
}

/// A number that fits into the type.
///
/// # Errors
/// Returns what is expected for `key`, as text for the operator. `expected`: for example "1 to 100".
pub fn number<N: std::str::FromStr>(key: &str, value: &str, expected: &str) -> Result<N, String> {
    value.parse().map_err(|_| format!("{key}: {expected} is expected, not '{value}'"))
}

/// Whether the value is a limit that is none, as events (`none`, `off`) and tables (`-`, `off`) show it, and as `0`.
#[must_use]
pub fn is_none(value: &str) -> bool {
    matches!(value, "0" | "none" | "off" | "-")
}

/// A limit; 0: none.
///
/// # Errors
/// As [`number`].
pub fn limit<N: std::str::FromStr + Default>(key: &str, value: &str, expected: &str) -> Result<N, String> {
    if is_none(value) { Ok(N::default()) } else { number(key, value, expected) }
}

/// In the form that [`on_off`] parses.
#[must_use]
pub fn show_switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `--product NAME` for a command to paste, unless it is the default.
pub(super) fn product_flag(product: &str) -> String {
    if product == DEFAULT_PRODUCT { String::new() } else { format!(" --product {product}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_switches_and_numbers() {
        assert_eq!(split("a=b=c"), Ok(("a", "b=c")));
        assert_eq!(split("zone="), Ok(("zone", "")));
        assert!(split("a").is_err_and(|why| why.contains("KEY=VALUE")));
        for on in [true, false] {
            assert_eq!(on_off("m", show_switch(on)), Ok(on));
        }
        assert!(on_off("maintenance", "yes").is_err_and(|why| why.contains("maintenance: on or off")));
        for none in ["0", "none", "off", "-"] {
            assert_eq!(limit::<u8>("ops-max", none, "a number"), Ok(0));
        }
        assert_eq!(limit::<u8>("ops-max", "7", "a number"), Ok(7));
        assert!(limit::<u8>("ops-max", "many", "a number").is_err_and(|why| why.contains("ops-max: a number")));
        assert_eq!(number::<u8>("share", "200", "1 to 100"), Ok(200));
        assert!(number::<u8>("share", "300", "1 to 100").is_err_and(|why| why.contains("share: 1 to 100")));
    }
}
