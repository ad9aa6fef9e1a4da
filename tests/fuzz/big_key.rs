//! Replies of a source about a big key, which is copied in pieces.

use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use pontoon::{
    mover::big_key::{BigKeys, Requests},
    resp::{
        reply::ReplyScanner,
        request::{RequestScanner, Scanned},
    },
};

use super::{
    fuzzer::{Target, fuzz},
    resp::TOKENS,
};

/// Rounds of a copy: an input has fewer replies.
const ROUNDS_MAX: usize = 400;

#[test]
fn big_keys() {
    let report = fuzz(&Target::new("big_key", TOKENS).input_max(800), check);
    assert!(report.shapes > 30, "{report:?}: the mutations reach little");
}

/// The complete replies at the start of `bytes`.
fn replies(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut replies = Vec::new();
    while let Ok(Some(len)) = ReplyScanner::default().scan(bytes) {
        let (reply, rest) = bytes.split_at(len);
        replies.push(reply);
        bytes = rest;
    }
    replies
}

fn check(bytes: &[u8], rng: &mut Rng) -> Result<String, String> {
    let replies = replies(bytes);
    let mut left = replies.iter();
    let mut big = BigKeys::default();
    let now = Instant::now();
    big.begin(0, Bytes::from_static(b"k"), false, now);
    let mut written = 0;
    let mut end = "clean".to_owned();
    'rounds: for round in 0..ROUNDS_MAX {
        let (mut source, mut target) = (Requests::default(), Requests::default());
        let Some(key) = big.next_round(now, &mut source, &mut target) else { break };
        let mut writes = vec![target];
        for _ in 0..source.count() {
            let Some(reply) = left.next() else {
                end = format!("out of replies {}", round.min(9));
                break 'rounds;
            };
            let mut out = Requests::default();
            if let Err(error) = big.source_reply(key.id, reply, &mut out, now) {
                end = error.to_string().chars().take_while(|c| *c != '\'').collect();
                break 'rounds;
            }
            writes.push(out);
        }
        for out in &writes {
            are_requests(out)?;
            written += out.bytes().len();
            for _ in 0..out.count() {
                let reply: &[u8] = if rng.u8(..30) == 0 { b":0\r\n" } else { b":1\r\n" };
                big.target_reply(key.id, reply, now).map_err(|error| error.to_string())?;
            }
        }
    }
    // Each reply causes writes of about its own size, and a command for each element.
    if written > 200 * (bytes.len() + 100) {
        return Err(format!("{} bytes of replies cause {written} bytes of writes", bytes.len()));
    }
    let returned = big.take_returned().map(|returned| returned.dump_only);
    Ok(format!("{end} {returned:?} {}", (written / 100).min(12)))
}

/// What is sent to the target is exactly the promised number of requests.
fn are_requests(out: &Requests) -> Result<(), String> {
    let mut bytes = out.bytes();
    for _ in 0..out.count() {
        match RequestScanner::default().scan(bytes) {
            Ok(Scanned::Request(len)) => bytes = &bytes[len..],
            other => return Err(format!("{other:?} instead of a request: b\"{}\"", bytes.escape_ascii())),
        }
    }
    if bytes.is_empty() { Ok(()) } else { Err(format!("{} bytes behind the last request", bytes.len())) }
}
