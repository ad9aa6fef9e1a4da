//! The errors of servers that say that nothing was executed. Knows nothing of what is done about them.

/// The beginning of a replica's error to a write; it has executed nothing. (Redis, `replica-read-only`.)
const NOT_PRIMARY: &[u8] = b"-READONLY ";

/// The beginning of a server's error to a command that its user may not run, and what each of these errors contains, from
/// Redis 6 to 8; the server has executed nothing. Errors that scripts make themselves may begin in the same way.
const NOT_PERMITTED: (&[u8], [&[u8]; 2]) =
    (b"-NOPERM ", [b"has no permissions to run the '", b"o permissions to access "]);

/// The beginning of the error of a script that ended with a command's error, before Redis 7, which quotes that error.
/// (Redis 7 returns it as it is.)
const SCRIPT_FAILED: &[u8] = b"-ERR Error running script ";

/// What is said of a server that refused the data user.
pub(super) const OTHER_RULES: &str = "has other rules for the data user; they are being set";

/// Whether an error says that the server is a replica and has therefore refused a write, also of a script.
#[cold]
pub(super) fn is_not_primary(error: &[u8]) -> bool {
    let quotes = |part: &[u8]| part.starts_with(NOT_PRIMARY);
    quotes(error) || error.starts_with(SCRIPT_FAILED) && error.windows(NOT_PRIMARY.len()).any(quotes)
}

/// Whether an error says that the user may not run a command. (The error of a command in a script begins otherwise.)
#[cold]
pub(super) fn is_not_permitted(error: &[u8]) -> bool {
    let (start, parts) = NOT_PERMITTED;
    let contains = |part: &[u8]| error.windows(part.len()).any(|window| window == part);
    error.starts_with(start) && parts.into_iter().any(contains)
}
