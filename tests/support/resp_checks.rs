//! Properties of the scanners on any bytes: they give the same result in pieces as at once and never contradict
//! redis-protocol. Property tests and the fuzzer share it. Knows nothing of the source of the bytes.

use bytes::{Bytes, BytesMut};
use pontoon::resp::inline;
use pontoon::resp::reply::{ReplyError, ReplyScanner};
use pontoon::resp::request::{RequestError, RequestScanner, Scanned};
use redis_protocol::{resp2, resp3};

/// The oracle is used up to this number of aggregates: it recurses on the stack of a test thread.
const ORACLE_AGGREGATES_MAX: usize = 100;

/// The oracle is used up to this number of consecutive digits: it multiplies lengths without checks.
const ORACLE_DIGITS_MAX: usize = 12;

/// One message found in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A request's arguments, in their stream.
    Request(usize, Vec<(usize, usize)>),
    /// An inline command of this many bytes.
    Inline(usize),
    /// A reply of this many bytes.
    Reply(usize),
}

impl Found {
    fn len(&self) -> usize {
        match self {
            Found::Request(len, _) | Found::Inline(len) | Found::Reply(len) => *len,
        }
    }
}

/// The messages of a stream, and the error that ended it, if one did.
#[derive(Debug, PartialEq, Eq)]
pub struct Stream<E> {
    pub found: Vec<Found>,
    pub error: Option<E>,
}

impl<E: std::fmt::Debug> Stream<E> {
    /// Its shape, without lengths, by which the fuzzer recognises new behaviour.
    pub fn shape(&self) -> String {
        let kinds: String = self
            .found
            .iter()
            .take(4)
            .map(|found| match found {
                Found::Request(_, args) => format!("r{}", args.len().min(4)),
                Found::Inline(_) => "i".to_string(),
                Found::Reply(len) => format!("p{}", len.ilog2()),
            })
            .collect();
        format!("{kinds}{:?}", self.error)
    }
}

/// Feeds `bytes` in pieces that end at `cuts` (ascending) and at the end.
pub fn requests(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Stream<RequestError> {
    let mut scanner = RequestScanner::default();
    drive(bytes, cuts, |rest| {
        Ok(match scanner.scan(rest)? {
            Scanned::Request(len) => {
                Some(Found::Request(len, scanner.args().iter().map(|arg| (arg.start, arg.end)).collect()))
            }
            Scanned::Inline(len) => Some(Found::Inline(len)),
            Scanned::Incomplete => None,
        })
    })
}

/// Feeds `bytes` in pieces that end at `cuts` (ascending) and at the end.
pub fn replies(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Stream<ReplyError> {
    let mut scanner = ReplyScanner::default();
    drive(bytes, cuts, |rest| Ok(scanner.scan(rest)?.map(Found::Reply)))
}

fn drive<E>(
    bytes: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    mut scan: impl FnMut(&[u8]) -> Result<Option<Found>, E>,
) -> Stream<E> {
    let mut stream = Stream { found: Vec::new(), error: None };
    let mut start = 0;
    for end in cuts.into_iter().chain([bytes.len()]) {
        // A scanner is called again only if there are bytes, as in the proxy.
        while start < end {
            match scan(&bytes[start..end]) {
                Ok(None) => break,
                Ok(Some(found)) => {
                    start += found.len();
                    stream.found.push(found);
                }
                Err(error) => {
                    stream.error = Some(error);
                    return stream;
                }
            }
        }
    }
    stream
}

/// Every property of the request scanner on `bytes`; `Ok` is the shape of what was found.
pub fn check_requests(bytes: &[u8], cuts: &[usize]) -> Result<String, String> {
    let once = requests(bytes, []);
    for (how, pieces) in
        [("byte by byte", requests(bytes, 1..bytes.len())), ("in pieces", requests(bytes, cuts.iter().copied()))]
    {
        let mut pieces = pieces;
        // Only its length distinguishes a header that is too long from an invalid one.
        if pieces.error == Some(RequestError::MultibulkLength)
            && once.error == Some(RequestError::MultibulkHeaderTooLong)
        {
            pieces.error = once.error;
        }
        if pieces != once {
            return Err(format!("at once {once:?}, {how} {pieces:?}"));
        }
    }
    let mut start = 0;
    for found in &once.found {
        let rest = &bytes[start..];
        let len = found.len();
        if len == 0 || len > rest.len() {
            return Err(format!("a message of {len} bytes in {}", rest.len()));
        }
        match found {
            Found::Request(_, args) => request_by_oracle(rest, len, args)?,
            Found::Inline(_) => inline_is_a_request(&rest[..len])?,
            Found::Reply(_) => return Err("a reply among requests".to_string()),
        }
        start += len;
    }
    let rest = &bytes[start..];
    if rest.first() == Some(&b'*')
        && let Some((frame, len)) = request_of_oracle(rest)
        && (once.error.is_none() || canonical2(&frame) == rest[..len])
    {
        return Err(format!("redis-protocol finds a request of {len} bytes where we say {:?}", once.error));
    }
    Ok(once.shape())
}

fn asks_oracle(bytes: &[u8]) -> bool {
    let aggregates = bytes.iter().filter(|c| b"*%~>|".contains(c)).count();
    let mut digits = 0;
    let longest = bytes.iter().fold(0, |longest, c| {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        digits.max(longest)
    });
    aggregates <= ORACLE_AGGREGATES_MAX && longest <= ORACLE_DIGITS_MAX
}

/// The request (an array of bulk strings) at the front, as the oracle reads it.
fn request_of_oracle(bytes: &[u8]) -> Option<(resp2::types::OwnedFrame, usize)> {
    let found = if asks_oracle(bytes) { resp2::decode::decode(bytes).ok().flatten()? } else { return None };
    match &found.0 {
        resp2::types::OwnedFrame::Array(args)
            if args.iter().all(|arg| matches!(arg, resp2::types::OwnedFrame::BulkString(_))) =>
        {
            Some(found)
        }
        _ => None,
    }
}

fn request_by_oracle(bytes: &[u8], len: usize, args: &[(usize, usize)]) -> Result<(), String> {
    if !asks_oracle(bytes) || bytes[1] == b'-' {
        // Redis ignores `*-1` and smaller counts.
        return if args.is_empty() || bytes[1] != b'-' {
            Ok(())
        } else {
            Err("arguments of a negative array".to_string())
        };
    }
    let ours: Vec<&[u8]> = args.iter().map(|(start, end)| &bytes[*start..*end]).collect();
    let Some((frame, their_len)) = request_of_oracle(bytes) else {
        return Err(format!("no request for redis-protocol: {ours:?}"));
    };
    // The oracle is lenient with numbers and line ends; we forward the same bytes to a server that is not.
    if canonical2(&frame) != bytes[..len] {
        return Err("accepted, though Redis writes it otherwise".to_string());
    }
    let resp2::types::OwnedFrame::Array(theirs) = frame else { return Err("no array".to_string()) };
    let same = theirs.len() == ours.len()
        && theirs
            .iter()
            .zip(&ours)
            .all(|(their, our)| matches!(their, resp2::types::OwnedFrame::BulkString(bytes) if bytes == our));
    if same && their_len == len {
        Ok(())
    } else {
        Err(format!("ours {len} {ours:?}, redis-protocol's {their_len} {theirs:?}"))
    }
}

fn inline_is_a_request(line: &[u8]) -> Result<(), String> {
    let Ok(request) = inline::to_request(line) else { return Ok(()) };
    match RequestScanner::default().scan(&request) {
        Ok(Scanned::Request(len)) if len == request.len() => Ok(()),
        other => Err(format!("inline command became {request:?}, which is {other:?}")),
    }
}

/// Every property of the reply scanner on `bytes`; `Ok` is the shape of what was found.
pub fn check_replies(bytes: &[u8], cuts: &[usize]) -> Result<String, String> {
    let once = replies(bytes, []);
    for (how, pieces) in
        [("byte by byte", replies(bytes, 1..bytes.len())), ("in pieces", replies(bytes, cuts.iter().copied()))]
    {
        if pieces != once {
            return Err(format!("at once {once:?}, {how} {pieces:?}"));
        }
    }
    let mut start = 0;
    for found in once.found.iter().map(Some).chain([None]) {
        let rest = &bytes[start..];
        let ours = found.map(Found::len);
        if ours.is_some_and(|len| len == 0 || len > rest.len()) {
            return Err(format!("a reply of {ours:?} bytes in {}", rest.len()));
        }
        if asks_oracle(rest) {
            // The oracle checks values more strictly than we do, so its errors are ignored. A complete value must have
            // the same length.
            let by2 = resp2::decode::decode(rest).ok().flatten().map(|(frame, len)| (canonical2(&frame), len));
            let by3 = resp3::decode::complete::decode_bytes(&Bytes::copy_from_slice(rest)).ok().flatten();
            // HELLO is a request.
            let by3 = by3.filter(|_| rest[0] != b'H').map(|(frame, len)| (canonical3(&frame), len));
            for (version, theirs) in [(2, by2), (3, by3)] {
                let Some((canonical, their_len)) = theirs else { continue };
                // We refuse what no server sends: numbers in another notation than that of Redis, and streamed types.
                let refused_at_will = ours.is_none()
                    && once.error.is_some_and(|error| error == ReplyError::Streamed || canonical != rest[..their_len]);
                if ours != Some(their_len) && !refused_at_will {
                    return Err(format!(
                        "ours {ours:?} {:?}, redis-protocol's {their_len} (RESP{version})",
                        once.error
                    ));
                }
            }
        }
        start += ours.unwrap_or(0);
    }
    Ok(once.shape())
}

fn canonical2(frame: &resp2::types::OwnedFrame) -> Vec<u8> {
    let mut out = BytesMut::new();
    let frame = frame.clone().into_bytes_frame();
    let _ = resp2::encode::extend_encode(&mut out, &frame, false);
    out.to_vec()
}

fn canonical3(frame: &resp3::types::BytesFrame) -> Vec<u8> {
    let mut out = BytesMut::new();
    let _ = resp3::encode::complete::extend_encode(&mut out, frame, false);
    out.to_vec()
}
