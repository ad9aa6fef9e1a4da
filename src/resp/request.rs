//! Finds the end of a request and the positions of its arguments, and resumes when more bytes have arrived.
//! Copies nothing. Knows nothing of what commands mean.

use std::fmt;

use super::{
    limits::{ARGS_MAX, ARGS_MAX_BEFORE_LOGIN, BULK_MAX, INLINE_MAX, REQUEST_MAX, REQUEST_MAX_BEFORE_LOGIN},
    number::{Header, header},
};

/// The position of an argument, relative to the first byte of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arg {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Arg {
    /// The bytes of the argument in its request.
    #[inline]
    #[must_use]
    pub fn of<'a>(&self, request: &'a [u8]) -> &'a [u8] {
        &request[self.start..self.end]
    }
}

/// The result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A request of this many bytes; its arguments are in [`RequestScanner::args`]. If there are none (`*0`), skip it.
    Request(usize),
    /// An inline command of this many bytes, line end included; [`super::inline::to_request`] converts it to a request.
    Inline(usize),
    /// Incomplete.
    Incomplete,
}

/// Why bytes are not a valid request. The connection must be closed, because the position of the next request is
/// unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The count after `*` is not a number or exceeds the limit.
    MultibulkLength,
    /// The count after `*` does not end.
    MultibulkHeaderTooLong,
    /// Another byte instead of `$`.
    ExpectedBulk(u8),
    /// The length after `$` is not a number, is negative or exceeds the limit.
    BulkLength,
    /// A bulk string is not followed by CRLF.
    BulkEnd,
    /// All arguments together exceed the limit.
    RequestTooLong,
    /// An inline command exceeds the limit.
    InlineTooLong,
    /// The quotes of an inline command do not match.
    UnbalancedQuotes,
    /// An inline command contains a NUL.
    InlineNul,
    /// More arguments than a client may send before it has logged in.
    UnauthenticatedMultibulkLength,
    /// A longer request than a client may send before it has logged in.
    UnauthenticatedBulkLength,
}

/// The text after `-ERR Protocol error: `, with Redis' wording where Redis has the same error.
impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MultibulkLength => f.write_str("invalid multibulk length"),
            Self::MultibulkHeaderTooLong => f.write_str("too big mbulk count string"),
            Self::ExpectedBulk(got) if got.is_ascii_graphic() => write!(f, "expected '$', got '{}'", char::from(*got)),
            Self::ExpectedBulk(_) => f.write_str("expected '$', got ' '"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::BulkEnd => f.write_str("expected CRLF after a bulk"),
            Self::RequestTooLong => f.write_str("too big request"),
            Self::InlineTooLong => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::InlineNul => f.write_str("NUL in an inline command"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
        }
    }
}

impl std::error::Error for RequestError {}

/// Arguments for which a header reserves memory, whatever its count: memory is allocated for arguments that arrive, not
/// for announced ones. More than nearly all requests have.
const ARGS_RESERVED: usize = 64;

/// A resumable scan of one request at a time.
///
/// Call [`scan`](Self::scan) with all bytes from the first byte of the request on. While it returns `Incomplete`, call
/// it again with the same bytes and more after them. It resumes after the last complete argument.
#[derive(Debug, Default)]
pub struct RequestScanner {
    /// Position of the next header; 0 for a new request.
    at: usize,
    /// Number of arguments still missing.
    left: usize,
    /// Position of the bulk string whose bytes are awaited (`0, 0` if none is).
    bulk: Arg,
    /// Of an inline command: position up to which no line end was found.
    searched: usize,
    args: Vec<Arg>,
    /// Whether the limits of a client that has not logged in apply.
    before_login: bool,
}

impl RequestScanner {
    /// Sets whether the small limits of clients that have not logged in apply.
    pub fn set_before_login(&mut self, yes: bool) {
        self.before_login = yes;
    }

    /// Whether the small limits of clients that have not logged in apply.
    #[inline]
    #[must_use]
    pub fn is_before_login(&self) -> bool {
        self.before_login
    }

    /// The arguments of the request that [`scan`](Self::scan) returned last.
    #[inline]
    #[must_use]
    pub fn args(&self) -> &[Arg] {
        &self.args
    }

    /// Whether a part of a request was scanned.
    #[must_use]
    pub fn in_request(&self) -> bool {
        self.at != 0 || self.searched != 0
    }

    /// Bytes of memory that it has allocated.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.args.capacity() * size_of::<Arg>()
    }

    /// Frees memory that an unusually large request needed.
    pub fn shrink(&mut self) {
        if self.args.capacity() > ARGS_RESERVED && !self.in_request() {
            self.args = Vec::new();
        }
    }

    /// Finds the end of the request that begins at `bytes[0]`.
    ///
    /// # Errors
    /// Returns why the bytes are not a valid request; the connection must be closed.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, RequestError> {
        if self.at == 0 {
            match bytes.first() {
                None => return Ok(Scanned::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.scan_inline(bytes),
            }
            let count = match header(bytes, 1) {
                Header::Number(count, at) => {
                    self.at = at;
                    count
                }
                Header::Incomplete => return Ok(Scanned::Incomplete),
                Header::Bad => return Err(bad_header(bytes, 1, RequestError::MultibulkLength)),
            };
            let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
            if count > ARGS_MAX {
                return Err(RequestError::MultibulkLength);
            }
            if self.before_login && count > ARGS_MAX_BEFORE_LOGIN {
                return Err(RequestError::UnauthenticatedMultibulkLength);
            }
            self.args.clear();
            self.args.reserve(count.min(ARGS_RESERVED));
            self.left = count;
        }
        while self.left > 0 {
            if self.bulk.start == 0 && !self.bulk_header(bytes)? {
                return Ok(Scanned::Incomplete);
            }
            let Arg { end, .. } = self.bulk;
            match bytes.get(end..end + 2) {
                None => return Ok(Scanned::Incomplete),
                Some(b"\r\n") => {}
                Some(_) => return Err(RequestError::BulkEnd),
            }
            self.args.push(self.bulk);
            self.bulk = Arg::default();
            self.at = end + 2;
            self.left -= 1;
        }
        Ok(Scanned::Request(std::mem::take(&mut self.at)))
    }

    /// Reads the header at `self.at` into `self.bulk`. Returns false if it is incomplete.
    #[inline]
    fn bulk_header(&mut self, bytes: &[u8]) -> Result<bool, RequestError> {
        match bytes.get(self.at) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(other) => return Err(RequestError::ExpectedBulk(*other)),
        }
        match header(bytes, self.at + 1) {
            Header::Number(len, start) => {
                let len = usize::try_from(len).map_err(|_| RequestError::BulkLength)?;
                if len > BULK_MAX {
                    return Err(RequestError::BulkLength);
                }
                let end = start + len;
                if self.before_login && end > REQUEST_MAX_BEFORE_LOGIN {
                    return Err(RequestError::UnauthenticatedBulkLength);
                }
                if end > REQUEST_MAX {
                    return Err(RequestError::RequestTooLong);
                }
                self.bulk = Arg { start, end };
                Ok(true)
            }
            Header::Incomplete => Ok(false),
            Header::Bad => Err(RequestError::BulkLength),
        }
    }

    fn scan_inline(&mut self, bytes: &[u8]) -> Result<Scanned, RequestError> {
        let found = memchr::memchr(b'\n', &bytes[self.searched..]).map(|i| self.searched + i + 1);
        let max = if self.before_login { REQUEST_MAX_BEFORE_LOGIN } else { INLINE_MAX };
        match found {
            Some(len) if len <= max => {
                self.searched = 0;
                Ok(Scanned::Inline(len))
            }
            None if bytes.len() <= max => {
                self.searched = bytes.len();
                Ok(Scanned::Incomplete)
            }
            _ => Err(RequestError::InlineTooLong),
        }
    }
}

/// Distinguishes, as Redis does, a header that does not end from an invalid one.
fn bad_header(bytes: &[u8], from: usize, otherwise: RequestError) -> RequestError {
    let rest = &bytes[from..];
    if rest.len() > INLINE_MAX && memchr::memchr(b'\r', &rest[..INLINE_MAX]).is_none() {
        RequestError::MultibulkHeaderTooLong
    } else {
        otherwise
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(bytes: &[u8]) -> (Scanned, Vec<&[u8]>) {
        let mut scanner = RequestScanner::default();
        let scanned = scanner.scan(bytes).unwrap();
        (scanned, scanner.args().iter().map(|a| a.of(bytes)).collect())
    }

    #[test]
    fn finds_end_and_arguments() {
        let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n";
        assert_eq!(args(get), (Scanned::Request(20), vec![&b"GET"[..], b"k"]));
        assert_eq!(args(b"*1\r\n$0\r\n\r\n"), (Scanned::Request(10), vec![&b""[..]]));
        assert_eq!(args(b"*0\r\n"), (Scanned::Request(4), vec![]));
        assert_eq!(args(b"*-1\r\n"), (Scanned::Request(5), vec![]));
        assert_eq!(args(b"PING\r\nx").0, Scanned::Inline(6));
        assert_eq!(args(b"\r\n").0, Scanned::Inline(2));
    }

    #[test]
    fn resumes_at_every_byte() {
        let two = b"*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$2\r\n\r\n\r\nPING\r\n";
        let mut scanner = RequestScanner::default();
        for cut in 0..37 {
            assert_eq!(scanner.scan(&two[..cut]), Ok(Scanned::Incomplete), "{cut}");
        }
        assert_eq!(scanner.scan(two), Ok(Scanned::Request(38)));
        assert_eq!(scanner.args().len(), 3);
        for cut in 38..43 {
            assert_eq!(scanner.scan(&two[38..cut]), Ok(Scanned::Incomplete), "{cut}");
        }
        assert_eq!(scanner.scan(&two[38..]), Ok(Scanned::Inline(6)));
        assert!(!scanner.in_request());
    }

    #[test]
    fn refuses_as_redis_does() {
        for (bytes, want) in [
            ("*x\r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*01\r\n", "invalid multibulk length"),
            ("*1\r\n+OK\r\n", "expected '$', got '+'"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$x\r\n", "invalid bulk length"),
            ("*1\r\n$536870913\r\n", "invalid bulk length"),
            ("*1\r\n$1\r\nxyz", "expected CRLF after a bulk"),
        ] {
            let error = RequestScanner::default().scan(bytes.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), want, "{bytes:?}");
        }
        let long = vec![b'a'; INLINE_MAX + 1];
        assert_eq!(RequestScanner::default().scan(&long), Err(RequestError::InlineTooLong));
        let mut unauthenticated = RequestScanner::default();
        unauthenticated.set_before_login(true);
        assert_eq!(unauthenticated.scan(b"*11\r\n"), Err(RequestError::UnauthenticatedMultibulkLength));
        let mut unauthenticated = RequestScanner::default();
        unauthenticated.set_before_login(true);
        assert_eq!(unauthenticated.scan(b"*1\r\n$2048\r\n"), Err(RequestError::UnauthenticatedBulkLength));
        let mut unauthenticated = RequestScanner::default();
        unauthenticated.set_before_login(true);
        assert_eq!(unauthenticated.scan(&long[..REQUEST_MAX_BEFORE_LOGIN]), Ok(Scanned::Incomplete));
        assert_eq!(unauthenticated.scan(&long[..=REQUEST_MAX_BEFORE_LOGIN]), Err(RequestError::InlineTooLong));
    }

    #[test]
    fn the_longest_login_is_within_the_limit() {
        let (word, name) = ("x".repeat(512), "x".repeat(256));
        let mut bytes = Vec::new();
        let args = ["HELLO", "3", "AUTH", &word, &word, "SETNAME", &name];
        super::super::write::request(&mut bytes, &args.map(str::as_bytes));
        let mut scanner = RequestScanner::default();
        scanner.set_before_login(true);
        assert_eq!(scanner.scan(&bytes), Ok(Scanned::Request(bytes.len())));
    }

    #[test]
    fn all_arguments_together_have_a_limit() {
        // Two bulk strings within their limit that exceed the limit together: the headers alone suffice.
        let mut scanner = RequestScanner { at: REQUEST_MAX - BULK_MAX, left: 2, ..RequestScanner::default() };
        let header = format!("${BULK_MAX}\r\n");
        let mut bytes = vec![0; REQUEST_MAX - BULK_MAX];
        bytes.extend_from_slice(header.as_bytes());
        assert_eq!(scanner.scan(&bytes), Err(RequestError::RequestTooLong));
        let mut scanner = RequestScanner { at: 4, left: 2, ..RequestScanner::default() };
        assert_eq!(scanner.scan(format!("*2\r\n{header}").as_bytes()), Ok(Scanned::Incomplete));
    }

    #[test]
    fn announced_arguments_allocate_nothing() {
        let mut scanner = RequestScanner::default();
        assert_eq!(scanner.scan(b"*1048576\r\n$536870912\r\n"), Ok(Scanned::Incomplete));
        assert!(scanner.args.capacity() <= ARGS_RESERVED);
    }
}
