//! Reads and writes decimal numbers of RESP, as strictly as Redis does.
//! Knows nothing of what a number counts.

use super::limits::NUMBER_LEN_MAX;

/// The result of reading the number in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The number, and the position of the line after it.
    Number(i64, usize),
    /// The line has not arrived completely.
    Incomplete,
    /// Not a number, or not followed by CRLF.
    Bad,
}

/// Reads the number at `from` up to its CRLF.
///
/// As strict as Redis' `string2ll` (no plus, no leading zero, no `-0`): accepted requests are forwarded unchanged, and
/// a server that reads them differently would close a connection that other clients share.
#[inline]
#[must_use]
pub fn header(bytes: &[u8], from: usize) -> Header {
    // Fast paths: nearly every header has one or two digits, or is a nil's.
    if let Some(&[a, b'\r', b'\n']) = bytes.get(from..from + 3)
        && a.is_ascii_digit()
    {
        return Header::Number(i64::from(a - b'0'), from + 3);
    }
    if let Some(&[a, b, b'\r', b'\n']) = bytes.get(from..from + 4)
        && (b'1'..=b'9').contains(&a)
        && b.is_ascii_digit()
    {
        return Header::Number(i64::from(a - b'0') * 10 + i64::from(b - b'0'), from + 4);
    }
    // The nil of RESP2: the reply to a read of a key that does not exist.
    if bytes.get(from..from + 4) == Some(b"-1\r\n") {
        return Header::Number(-1, from + 4);
    }
    header_any(bytes, from)
}

fn header_any(bytes: &[u8], from: usize) -> Header {
    let rest = bytes.get(from..).unwrap_or_default();
    let window = &rest[..rest.len().min(NUMBER_LEN_MAX + 1)];
    let Some(end) = memchr::memchr(b'\r', window) else {
        // The line end is too far away or has not arrived yet. Refuse at once bytes that cannot become a number.
        let plausible = window.iter().enumerate().all(|(i, c)| c.is_ascii_digit() || (i == 0 && *c == b'-'));
        return if window.len() > NUMBER_LEN_MAX || !plausible { Header::Bad } else { Header::Incomplete };
    };
    let Some(number) = parse(&rest[..end]) else { return Header::Bad };
    match rest.get(end + 1) {
        None => Header::Incomplete,
        Some(b'\n') => Header::Number(number, from + end + 2),
        Some(_) => Header::Bad,
    }
}

/// Parses a complete decimal number as Redis' `string2ll` does.
#[must_use]
pub fn parse(text: &[u8]) -> Option<i64> {
    if text == b"0" {
        return Some(0);
    }
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    let mut number: i64 = 0;
    for c in digits {
        if !c.is_ascii_digit() {
            return None;
        }
        // Counted downwards, because the absolute value of the smallest number overflows.
        number = number.checked_mul(10)?.checked_sub(i64::from(c - b'0'))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// Appends `number` in decimal.
pub fn push(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0u8; NUMBER_LEN_MAX];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_strictly_as_redis() {
        for (text, want) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn reads_headers() {
        for (text, want) in [
            ("3\r\n", Header::Number(3, 3)),
            ("12\r\n", Header::Number(12, 4)),
            ("123\r\nx", Header::Number(123, 5)),
            ("-1\r\n", Header::Number(-1, 4)),
            ("09\r\n", Header::Bad),
            ("1\rx", Header::Bad),
            ("\r\n", Header::Bad),
            ("x", Header::Bad),
            ("1-", Header::Bad),
            ("", Header::Incomplete),
            ("-", Header::Incomplete),
            ("1", Header::Incomplete),
            ("1\r", Header::Incomplete),
            ("99999999999999999999", Header::Incomplete),
            ("999999999999999999999", Header::Bad),
            ("99999999999999999999\r\n", Header::Bad),
        ] {
            assert_eq!(header(text.as_bytes(), 0), want, "{text:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for number in [0, 7, 10, -1, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push(&mut out, number);
            assert_eq!(parse(&out), Some(number));
        }
    }
}
