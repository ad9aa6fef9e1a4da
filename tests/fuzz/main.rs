//! Fuzzes every function that reads bytes of others: RESP of clients and servers, the log and its snapshots, replication
//! streams, payloads of DUMP, replies about big keys and to INFO, CLIENT LIST, ROLE and COMMAND, the configuration, and
//! the command line.
//! Inputs are mutated from a corpus by their structure; each target checks properties, not only that nothing panics.
//!
//! `make test` runs 12,000 inputs of each target, always the same ones. `make fuzz` gives each target twenty minutes and
//! another seed.
#![allow(clippy::unwrap_used)]

mod big_key;
mod cli;
mod config;
mod fuzzer;
mod payload;
mod proto;
mod replication;
mod resp;
#[path = "../support/resp_checks.rs"]
mod resp_checks;
mod servers;

use fastrand::Rng;

use fuzzer::{Target, run};

/// The fuzzer finds a bug and reports it.
#[test]
fn a_planted_bug_is_found() {
    let planted = |bytes: &[u8], rng: &mut Rng| {
        let shape = resp_checks::check_replies(bytes, &resp::cuts(bytes.len(), rng))?;
        if shape.contains("BulkEnd") { Err("planted".to_string()) } else { Ok(shape) }
    };
    let found = run(&Target::new("reply", resp::TOKENS), planted).unwrap_err();
    assert!(found.contains("planted") && found.contains("PONTOON_FUZZ_SEED="), "{found}");
    let long = |bytes: &[u8], _: &mut Rng| if bytes.len() > 60 { panic!("planted") } else { Ok(String::new()) };
    let panics = run(&Target::new("keys", &[]), long).unwrap_err();
    assert!(panics.contains("panicked"), "{panics}");
    let hungry = |bytes: &[u8], _: &mut Rng| {
        let length = if bytes.len() > 60 { 300 << 20 } else { 0 };
        Ok(vec![1u8; length].len().to_string())
    };
    let memory = run(&Target::new("keys", &[]).memory_kb_max(100 << 10), hungry).unwrap_err();
    assert!(memory.contains("memory"), "{memory}");
}
