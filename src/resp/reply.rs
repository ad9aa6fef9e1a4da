//! Finds the end of a server's reply in RESP2 and RESP3, and resumes when more bytes have arrived.
//! Builds no tree: it counts levels of nesting instead of recursing. Knows nothing of requests.

use std::fmt;

use super::{
    limits::{BULK_MAX, ELEMENTS_MAX, LINE_MAX, NESTING_MAX},
    number::{Header, header, parse},
};

/// Why bytes are not a valid reply. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// No type begins with this byte.
    Type(u8),
    /// A length or count is not a number or exceeds its limit.
    Length,
    /// A streamed string or aggregate of RESP3: no server sends them.
    Streamed,
    /// A bulk string is not followed by CRLF.
    BulkEnd,
    /// An invalid null, boolean or integer.
    Value,
    /// A line is longer than `LINE_MAX`.
    LineTooLong,
    /// Nested deeper than `NESTING_MAX`.
    TooDeep,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "byte {byte:#04x} begins no reply"),
            Self::Length => f.write_str("invalid length"),
            Self::Streamed => f.write_str("streamed types are not supported"),
            Self::BulkEnd => f.write_str("no CRLF after a bulk"),
            Self::Value => f.write_str("invalid value"),
            Self::LineTooLong => f.write_str("line too long"),
            Self::TooDeep => f.write_str("nested too deeply"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// Lines that nobody wants are shortened from this size on, in bytes: so rarely that it costs nothing.
const SHORTENED_FROM: usize = 64 * 1024;

/// A resumable scan of one reply at a time.
///
/// Call [`scan`](Self::scan) with all bytes from the first byte of the reply on. While it returns `None`, call it again
/// with the same bytes and more after them.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    /// Position of the next value.
    at: usize,
    /// Position up to which no line end was found, or 0.
    searched: usize,
    /// Number of values still missing at each level of nesting, outermost first.
    open: Vec<u64>,
    /// Of a bulk string whose first bytes were forgotten: number of its bytes that had not arrived.
    bulk_left: Option<usize>,
}

impl ReplyScanner {
    /// Number of bytes from the first on that are known to be complete values; for reports of progress only.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Called when [`scan`](Self::scan) returned `None` for `bytes`: returns how many of the first bytes it does not need
    /// any more. The caller may drop these; the next scan begins with the byte after them, and the length that it returns
    /// counts from there.
    pub fn forget(&mut self, bytes: &[u8]) -> usize {
        if let Some(left) = self.bulk_left {
            let arrived = left.min(bytes.len());
            self.bulk_left = Some(left - arrived);
            return arrived;
        }
        let at = std::mem::take(&mut self.at);
        self.searched = self.searched.saturating_sub(at);
        let rest = &bytes[at.min(bytes.len())..];
        if let Some(b'$' | b'=' | b'!') = rest.first()
            && let Header::Number(len @ 0.., start) = header(rest, 1)
        {
            let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
            let arrived = end.min(rest.len());
            self.bulk_left = Some(end - arrived);
            return at + arrived;
        }
        at
    }

    /// Called after [`forget`](Self::forget) for a reply that nobody wants: removes from `bytes` what a long incomplete line
    /// has between its first and its last byte. Returns the number of removed bytes.
    pub fn shorten(&mut self, bytes: &mut Vec<u8>) -> usize {
        if self.bulk_left.is_some() || bytes.len() < SHORTENED_FROM || !matches!(bytes[0], b'+' | b'-' | b',' | b'(') {
            return 0;
        }
        let last = bytes.len() - 1;
        bytes.copy_within(last.., 1);
        bytes.truncate(2);
        bytes.shrink_to(SHORTENED_FROM);
        self.searched = 0;
        last - 1
    }

    /// Returns the length of the reply that begins at `bytes[0]`, or `None` if it has not arrived completely. An
    /// attribute belongs to the reply after it. A push (`>`) is a separate message; the first byte identifies it.
    ///
    /// # Errors
    /// Returns why the bytes are not a valid reply.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        loop {
            // `opens`: the number of values that this one contains; 0 for a scalar.
            let Some((end, opens)) = self.value(bytes)? else { return Ok(None) };
            self.at = end;
            self.searched = 0;
            if opens > 0 {
                if self.open.len() == NESTING_MAX {
                    return Err(ReplyError::TooDeep);
                }
                self.open.push(opens);
                continue;
            }
            // A value is complete. It may be the last of its aggregate, which may be the last of the one around it, and
            // so on.
            loop {
                match self.open.last_mut() {
                    None => return Ok(Some(std::mem::take(&mut self.at))),
                    Some(1) => {
                        self.open.pop();
                    }
                    Some(left) => {
                        *left -= 1;
                        break;
                    }
                }
            }
        }
    }

    /// The end of the value (or of the aggregate's header) at `self.at`, and the number of values that it contains.
    #[inline]
    fn value(&mut self, bytes: &[u8]) -> Result<Option<(usize, u64)>, ReplyError> {
        if let Some(left) = self.bulk_left {
            return self.end_of_bulk(bytes, left);
        }
        let Some(&kind) = bytes.get(self.at) else { return Ok(None) };
        match kind {
            b'$' | b'=' | b'!' => self.bulk(bytes, kind == b'$'),
            b'+' | b'-' | b',' | b'(' => Ok(self.line(bytes)?.map(|end| (end, 0))),
            b':' => {
                let Some(end) = self.line(bytes)? else { return Ok(None) };
                let digits = &bytes[self.at + 1..end - 2];
                // RESP3 allows a plus here.
                parse(digits.strip_prefix(b"+").unwrap_or(digits)).ok_or(ReplyError::Value)?;
                Ok(Some((end, 0)))
            }
            b'_' | b'#' => {
                let Some(end) = self.line(bytes)? else { return Ok(None) };
                match (kind, &bytes[self.at + 1..end - 2]) {
                    (b'_', b"") | (b'#', b"t" | b"f") => Ok(Some((end, 0))),
                    _ => Err(ReplyError::Value),
                }
            }
            b'*' | b'~' | b'>' => self.aggregate(bytes, 1, 0, kind == b'*'),
            b'%' => self.aggregate(bytes, 2, 0, false),
            // The value that the attribute describes counts as one more element.
            b'|' => self.aggregate(bytes, 2, 1, false),
            b';' | b'.' => Err(ReplyError::Streamed),
            other => Err(ReplyError::Type(other)),
        }
    }

    #[inline]
    fn bulk(&self, bytes: &[u8], may_be_null: bool) -> Result<Option<(usize, u64)>, ReplyError> {
        let (len, start) = match header(bytes, self.at + 1) {
            Header::Number(-1, start) if may_be_null => return Ok(Some((start, 0))),
            Header::Number(len, start) => (usize::try_from(len).map_err(|_| ReplyError::Length)?, start),
            Header::Incomplete => return Ok(None),
            Header::Bad => return Err(self.bad_length(bytes)),
        };
        if len > BULK_MAX {
            return Err(ReplyError::Length);
        }
        let end = start + len;
        match bytes.get(end..end + 2) {
            None => Ok(None),
            Some(b"\r\n") => Ok(Some((end + 2, 0))),
            Some(_) => Err(ReplyError::BulkEnd),
        }
    }

    /// The end of a bulk string of which `left` bytes had not arrived when its beginning was forgotten.
    #[cold]
    fn end_of_bulk(&mut self, bytes: &[u8], left: usize) -> Result<Option<(usize, u64)>, ReplyError> {
        match bytes.get(left..left + 2) {
            None => Ok(None),
            Some(b"\r\n") => {
                self.bulk_left = None;
                Ok(Some((left + 2, 0)))
            }
            Some(_) => Err(ReplyError::BulkEnd),
        }
    }

    fn aggregate(
        &self,
        bytes: &[u8],
        values_each: u64,
        more: u64,
        may_be_null: bool,
    ) -> Result<Option<(usize, u64)>, ReplyError> {
        match header(bytes, self.at + 1) {
            Header::Number(-1, end) if may_be_null => Ok(Some((end, 0))),
            Header::Number(count, end) => {
                let count = u64::try_from(count).map_err(|_| ReplyError::Length)?;
                if count > ELEMENTS_MAX {
                    return Err(ReplyError::Length);
                }
                Ok(Some((end, count * values_each + more)))
            }
            Header::Incomplete => Ok(None),
            Header::Bad => Err(self.bad_length(bytes)),
        }
    }

    fn bad_length(&self, bytes: &[u8]) -> ReplyError {
        if bytes.get(self.at + 1) == Some(&b'?') { ReplyError::Streamed } else { ReplyError::Length }
    }

    /// The end of the line that begins at `self.at`.
    #[inline]
    fn line(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let mut from = self.searched.max(self.at + 1);
        while let Some(i) = memchr::memchr(b'\n', bytes.get(from..).unwrap_or_default()) {
            let lf = from + i;
            if bytes[lf - 1] == b'\r' && lf > self.at + 1 {
                return Ok(Some(lf + 1));
            }
            from = lf + 1;
        }
        if bytes.len() - self.at > LINE_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.searched = bytes.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WHOLE: &[&str] = &[
        "+OK\r\n",
        "-ERR no\r\n",
        ":-12\r\n",
        ":+12\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "$0\r\n\r\n",
        "$5\r\nhello\r\n",
        "*0\r\n",
        "*2\r\n$1\r\na\r\n:1\r\n",
        "*2\r\n*1\r\n*0\r\n*2\r\n+a\r\n+b\r\n",
        "_\r\n",
        "#t\r\n",
        "#f\r\n",
        ",1.5\r\n",
        ",inf\r\n",
        "(123456789012345678901234567890\r\n",
        "!5\r\nERR x\r\n",
        "=7\r\ntxt:abc\r\n",
        "%1\r\n+k\r\n%0\r\n",
        "~2\r\n:1\r\n:2\r\n",
        ">2\r\n+invalidate\r\n_\r\n",
        "|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
        "*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n",
        "+a\nb\rc\r\n",
    ];

    #[test]
    fn scans_every_type_at_once_and_byte_by_byte() {
        for text in WHOLE {
            let bytes = text.as_bytes();
            let mut more = bytes.to_vec();
            more.extend_from_slice(b":1\r\n");
            assert_eq!(ReplyScanner::default().scan(&more), Ok(Some(bytes.len())), "{text:?}");
            let mut scanner = ReplyScanner::default();
            for cut in 0..bytes.len() {
                assert_eq!(scanner.scan(&bytes[..cut]), Ok(None), "{text:?} cut at {cut}");
            }
            assert_eq!(scanner.scan(bytes), Ok(Some(bytes.len())), "{text:?}");
            assert_eq!(scanner.scan(&more[bytes.len()..]), Ok(Some(4)), "after {text:?}");
        }
    }

    #[test]
    fn forgets_what_it_has_scanned() {
        for text in WHOLE {
            let bytes = text.as_bytes();
            for step in 1..=bytes.len() {
                let mut scanner = ReplyScanner::default();
                let (mut kept, mut dropped) = (Vec::new(), 0);
                for (i, chunk) in bytes.chunks(step).enumerate() {
                    kept.extend_from_slice(chunk);
                    match scanner.scan(&kept) {
                        Ok(Some(len)) => assert_eq!((dropped + len, len), (bytes.len(), kept.len()), "{text:?}"),
                        Ok(None) => {
                            assert!((i + 1) * step < bytes.len(), "{text:?} by {step} does not end");
                            let unneeded = scanner.forget(&kept);
                            dropped += unneeded;
                            kept.drain(..unneeded);
                        }
                        Err(error) => panic!("{text:?} by {step}: {error}"),
                    }
                }
                assert_eq!(scanner.scan(b":1\r\n"), Ok(Some(4)), "after {text:?}");
            }
        }
    }

    #[test]
    fn forgets_the_bytes_of_a_large_string_as_they_come() {
        let mut scanner = ReplyScanner::default();
        let mut bytes = b"*2\r\n$1000\r\n".to_vec();
        assert_eq!((scanner.scan(&bytes), scanner.forget(&bytes)), (Ok(None), bytes.len()));
        bytes = vec![b'x'; 600];
        assert_eq!((scanner.scan(&bytes), scanner.forget(&bytes)), (Ok(None), 600));
        bytes = [&[b'x'; 400][..], b"\r"].concat();
        assert_eq!((scanner.scan(&bytes), scanner.forget(&bytes)), (Ok(None), 400));
        assert_eq!(scanner.scan(b"\r\n:1\r\n"), Ok(Some(6)));
    }

    #[test]
    fn a_long_line_that_nobody_wants_is_shortened() {
        let mut scanner = ReplyScanner::default();
        let mut bytes = [b"*2\r\n+".as_slice(), &vec![b'x'; SHORTENED_FROM]].concat();
        for _ in 0..3 {
            assert_eq!(scanner.scan(&bytes), Ok(None));
            let unneeded = scanner.forget(&bytes);
            bytes.drain(..unneeded);
            assert!(scanner.shorten(&mut bytes) > SHORTENED_FROM / 2 && bytes == b"+x");
            bytes.extend_from_slice(&vec![b'x'; SHORTENED_FROM]);
        }
        *bytes.last_mut().unwrap() = b'\r';
        assert_eq!((scanner.scan(&bytes), scanner.forget(&bytes)), (Ok(None), 0));
        scanner.shorten(&mut bytes);
        bytes.extend_from_slice(b"\n:1\r\n");
        assert_eq!(scanner.scan(&bytes), Ok(Some(7)));
        // What has to be valid, or is a part of a string, stays.
        for (text, unneeded) in [(":1", 0), ("$100000\r\n+", 10)] {
            let mut scanner = ReplyScanner::default();
            let mut bytes = [text.as_bytes(), &vec![b'1'; SHORTENED_FROM]].concat();
            assert_eq!(scanner.scan(&bytes), Ok(None));
            assert!(scanner.forget(&bytes) >= unneeded);
            assert_eq!(scanner.shorten(&mut bytes), 0);
        }
    }

    #[test]
    fn refuses_invalid_bytes() {
        for (text, want) in [
            ("HTTP/1.1", ReplyError::Type(b'H')),
            ("$x\r\n", ReplyError::Length),
            ("$-2\r\n", ReplyError::Length),
            ("$536870913\r\n", ReplyError::Length),
            ("*-2\r\n", ReplyError::Length),
            ("%-1\r\n", ReplyError::Length),
            ("$?\r\n", ReplyError::Streamed),
            ("*?\r\n", ReplyError::Streamed),
            (";4\r\n", ReplyError::Streamed),
            (".\r\n", ReplyError::Streamed),
            ("$1\r\nabc", ReplyError::BulkEnd),
            ("#x\r\n", ReplyError::Value),
            ("_x\r\n", ReplyError::Value),
            (":x\r\n", ReplyError::Value),
        ] {
            assert_eq!(ReplyScanner::default().scan(text.as_bytes()), Err(want), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_limited_and_does_not_recurse() {
        let deep = "*1\r\n".repeat(NESTING_MAX) + ":1\r\n";
        assert_eq!(ReplyScanner::default().scan(deep.as_bytes()), Ok(Some(deep.len())));
        let deeper = "*1\r\n".repeat(NESTING_MAX + 1);
        assert_eq!(ReplyScanner::default().scan(deeper.as_bytes()), Err(ReplyError::TooDeep));
    }
}
