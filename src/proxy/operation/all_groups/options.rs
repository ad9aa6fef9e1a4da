//! The arguments of SCAN, and requests with them. Knows nothing of groups.

use crate::{
    commands::Args,
    resp::{number, write},
};

/// Keys of a page unless the client says otherwise; the same as in Redis.
const COUNT: u64 = 10;

pub(super) const SYNTAX: &str = "ERR syntax error";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const BAD_CURSOR: &str = "ERR invalid cursor";

/// What a SCAN asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanOptions<'a> {
    pub(super) pattern: Option<&'a [u8]>,
    pub(super) of_type: Option<&'a [u8]>,
    pub(super) count: u64,
}

impl ScanOptions<'_> {
    /// All keys.
    pub(super) const ALL: Self = Self { pattern: None, of_type: None, count: COUNT };

    /// The request for a page of about `count` keys at a server.
    pub(super) fn request(&self, cursor: u64, count: u64) -> Vec<u8> {
        let (cursor, count) = (cursor.to_string(), count.to_string());
        let mut args: Vec<&[u8]> = vec![b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()];
        if let Some(pattern) = self.pattern {
            args.extend([b"MATCH", pattern]);
        }
        if let Some(of_type) = self.of_type {
            args.extend([b"TYPE", of_type]);
        }
        let mut request = Vec::new();
        write::request(&mut request, &args);
        request
    }
}

/// The cursor and the options of a call of SCAN, or, from `first` on, of a command that has them. Checked in the order in
/// which Redis checks them.
///
/// # Errors
/// Returns the error of Redis.
pub(super) fn parse<'a, A: Args + ?Sized>(args: &'a A, first: usize) -> Result<(u64, ScanOptions<'a>), &'static str> {
    let cursor = cursor(args.get(first))?;
    let mut options = ScanOptions::ALL;
    let mut i = first + 1;
    while i < args.len() {
        let is = |name: &[u8]| args.get(i).eq_ignore_ascii_case(name) && i + 1 < args.len();
        if is(b"count") {
            let count = number::parse(args.get(i + 1)).ok_or(NOT_INTEGER)?;
            options.count = u64::try_from(count).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
        } else if is(b"match") {
            options.pattern = Some(args.get(i + 1));
        } else if is(b"type") {
            options.of_type = Some(args.get(i + 1));
        } else {
            return Err(SYNTAX);
        }
        i += 2;
    }
    Ok((cursor, options))
}

/// A cursor, as `strtoul` reads it.
///
/// # Errors
/// Returns the error of Redis.
fn cursor(text: &[u8]) -> Result<u64, &'static str> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, text),
    };
    if text.is_empty() {
        return Ok(0);
    }
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD_CURSOR);
    }
    let number = digits.iter().try_fold(0u64, |n, c| n.checked_mul(10)?.checked_add(u64::from(c - b'0')));
    let number = number.ok_or(BAD_CURSOR)?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match parse(&words[..], 1) {
            Err(text) => text.to_owned(),
            Ok((cursor, options)) => {
                String::from_utf8_lossy(&options.request(cursor, options.count)).replace("\r\n", " ")
            }
        }
    }

    #[test]
    fn arguments_are_read_as_redis_reads_them() {
        for (line, want) in [
            ("SCAN 0", "*4 $4 SCAN $1 0 $5 COUNT $2 10 "),
            ("scan 17 count 1000", "*4 $4 SCAN $2 17 $5 COUNT $4 1000 "),
            ("SCAN 0 TYPE hash MATCH a* COUNT 5", "*8 $4 SCAN $1 0 $5 COUNT $1 5 $5 MATCH $2 a* $4 TYPE $4 hash "),
            ("SCAN 0 MATCH a MATCH b", "*6 $4 SCAN $1 0 $5 COUNT $2 10 $5 MATCH $1 b "),
            ("SCAN x COUNT y", "ERR invalid cursor"),
            ("SCAN 18446744073709551616", "ERR invalid cursor"),
            ("SCAN 0 COUNT", "ERR syntax error"),
            ("SCAN 0 COUNT y", "ERR value is not an integer or out of range"),
            ("SCAN 0 COUNT 0", "ERR syntax error"),
            ("SCAN 0 COUNT -1 x", "ERR syntax error"),
            ("SCAN 0 NOVALUES", "ERR syntax error"),
            ("SCAN 0 COUNT 1 MATCH", "ERR syntax error"),
        ] {
            assert_eq!(parsed(line), want, "{line}");
        }
        assert_eq!((cursor(b"-1"), cursor(b"+7"), cursor(b" 7")), (Ok(u64::MAX), Ok(7), Err(BAD_CURSOR)));
    }
}
