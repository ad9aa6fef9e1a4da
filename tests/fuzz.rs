//! Fuzzes the functions that read untrusted bytes: the request scanner, the reply scanner and the search for keys of a
//! call. Takes some seconds; `PONTOON_FUZZ_ITERATIONS=1000000 PONTOON_FUZZ_SEED=$RANDOM cargo test --release --test
//! fuzz` takes longer.
#![allow(clippy::unwrap_used)]

#[path = "support/fuzzer.rs"]
mod fuzzer;
#[path = "support/resp_checks.rs"]
mod resp_checks;

use fastrand::Rng;
use pontoon::commands::{self, is_blocking_call};
use pontoon::resp::{
    inline,
    request::{RequestScanner, Scanned},
};

fn cuts(len: usize, rng: &mut Rng) -> Vec<usize> {
    let mut cuts: Vec<_> = (0..rng.usize(..4)).map(|_| rng.usize(..=len)).collect();
    cuts.sort_unstable();
    cuts
}

#[test]
fn requests() {
    let report = fuzzer::run("request", |bytes, rng| resp_checks::check_requests(bytes, &cuts(bytes.len(), rng)))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(report.shapes > 50, "{report:?}: the mutations reach little");
}

#[test]
fn replies() {
    let report = fuzzer::run("reply", |bytes, rng| resp_checks::check_replies(bytes, &cuts(bytes.len(), rng)))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(report.shapes > 100, "{report:?}: the mutations reach little");
}

#[test]
fn keys() {
    let report = fuzzer::run("keys", |bytes, _| check_keys(bytes)).unwrap_or_else(|e| panic!("{e}"));
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

/// The fuzzer finds a bug and reports it.
#[test]
fn a_planted_bug_is_found() {
    let planted = |bytes: &[u8], rng: &mut Rng| {
        let shape = resp_checks::check_replies(bytes, &cuts(bytes.len(), rng))?;
        if shape.contains("BulkEnd") { Err("planted".to_string()) } else { Ok(shape) }
    };
    let found = fuzzer::run("reply", planted).unwrap_err();
    assert!(found.contains("planted") && found.contains("PONTOON_FUZZ_SEED="), "{found}");
    let panics = fuzzer::run("keys", |bytes, _| if bytes.len() > 60 { panic!("planted") } else { Ok(String::new()) })
        .unwrap_err();
    assert!(panics.contains("panicked"), "{panics}");
}
