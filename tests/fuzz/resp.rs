//! RESP of clients and servers, both ways, and the keys of a call.
//! Knows nothing of what is done with a message.

use fastrand::Rng;
use pontoon::{
    commands::{self, is_blocking_call},
    resp::{
        inline,
        request::{RequestScanner, Scanned},
        write,
    },
};

use super::{
    fuzzer::{Target, fuzz},
    resp_checks,
};

/// Fragments of RESP that random bytes rarely form.
pub const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"*1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$1\r\nx\r\n",
    b"%1\r\n",
    b"~1\r\n",
    b"|1\r\n",
    b">1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#x\r\n",
    b",1.5\r\n",
    b"(123\r\n",
    b"!3\r\nERR\r\n",
    b"=5\r\ntxt:a\r\n",
    b"$?\r\n",
    b";0\r\n",
    b".\r\n",
    b":-1\r\n",
    b"+OK\r\n",
    b"-ERR\r\n",
    b"*1048576\r\n",
    b"*1048577\r\n",
    b"$536870912\r\n",
    b"$536870913\r\n",
    b"*4294967296\r\n",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-0",
    b"00",
    b"+1",
];
/// Words of commands.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"'",
    b"\\x41",
    b"PING",
    b" ",
    b" STREAMS ",
    b" STORE ",
    b" KEYS ",
    b" BY ",
    b" GET ",
    b" 0 ",
    b" 1 ",
    b" 2 ",
    b" -1 ",
    b"{a}*",
    b"HOST:",
    b"POST",
    b"9223372036854775807",
];

/// Where a stream is cut into pieces.
pub fn cuts(len: usize, rng: &mut Rng) -> Vec<usize> {
    let mut cuts: Vec<_> = (0..rng.usize(..4)).map(|_| rng.usize(..=len)).collect();
    cuts.sort_unstable();
    cuts
}

#[test]
fn requests() {
    let check = |bytes: &[u8], rng: &mut Rng| {
        let shape = resp_checks::check_requests(bytes, &cuts(bytes.len(), rng))?;
        written_requests_are_read(bytes)?;
        Ok(shape)
    };
    let report = fuzz(&Target::new("request", TOKENS), check);
    assert!(report.shapes > 50, "{report:?}: the mutations reach little");
}

/// A request that is written again has the same arguments.
fn written_requests_are_read(bytes: &[u8]) -> Result<(), String> {
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Request(_)) = scanner.scan(bytes) else { return Ok(()) };
    let args: Vec<&[u8]> = scanner.args().iter().map(|arg| arg.of(bytes)).collect();
    let mut written = Vec::new();
    write::request(&mut written, &args);
    let mut again = RequestScanner::default();
    if !args.is_empty() && again.scan(&written) != Ok(Scanned::Request(written.len())) {
        return Err("a written request is no request".into());
    }
    let same = again.args().iter().map(|arg| arg.of(&written)).eq(args.iter().copied());
    if args.is_empty() || same { Ok(()) } else { Err("a written request has other arguments".into()) }
}

#[test]
fn replies() {
    let check = |bytes: &[u8], rng: &mut Rng| resp_checks::check_replies(bytes, &cuts(bytes.len(), rng));
    let report = fuzz(&Target::new("reply", TOKENS), check);
    assert!(report.shapes > 100, "{report:?}: the mutations reach little");
}

#[test]
fn keys() {
    let report = fuzz(&Target::new("keys", WORDS), |bytes, _| check_keys(bytes));
    assert!(report.shapes > 150, "{report:?}: the mutations reach little");
}

/// `bytes` is an inline command, which is easiest to read and to mutate.
fn check_keys(bytes: &[u8]) -> Result<String, String> {
    let Ok(request) = inline::to_request(bytes) else { return Ok("unbalanced".to_string()) };
    let mut scanner = RequestScanner::default();
    if scanner.scan(&request) != Ok(Scanned::Request(request.len())) {
        return Err("an inline command is no request".to_string());
    }
    let call: Vec<&[u8]> = scanner.args().iter().map(|arg| arg.of(&request)).collect();
    let spec = match commands::resolve(&call[..]) {
        Ok(spec) => spec,
        // Find its keys nevertheless, although the number of arguments is wrong.
        Err(error) => match call.first().and_then(|name| commands::lookup(name)) {
            Some(spec) => spec,
            None => return Ok(format!("{error:?}").chars().take(20).collect()),
        },
    };
    let mut keys = Vec::new();
    let found = spec.keys(&call[..], &mut keys);
    let mut routing = Vec::new();
    let routed = spec.routing_keys(&call[..], &mut routing);
    if keys.iter().chain(&routing).any(|i| !(1..call.len()).contains(i)) {
        return Err(format!("{}: keys {keys:?} and {routing:?} of {} arguments", spec.name, call.len()));
    }
    if (found.is_err() && !keys.is_empty()) || (routed.is_err() && !routing.is_empty()) {
        return Err(format!("{}: keys beside an error", spec.name));
    }
    if routed.is_ok() && !routing.starts_with(&keys) {
        return Err(format!("{}: routed by {routing:?}, not by its keys {keys:?}", spec.name));
    }
    // The call in another case has the same keys.
    let upper: Vec<Vec<u8>> = call.iter().map(|arg| arg.to_ascii_uppercase()).collect();
    let mut again = Vec::new();
    if spec.keys(&upper[..], &mut again) != found || again != keys {
        return Err(format!("{}: keys {keys:?}, in upper case {again:?}", spec.name));
    }
    Ok(format!("{} {} {routed:?} {}", spec.name, keys.len().min(4), is_blocking_call(spec, &call[..])))
}
