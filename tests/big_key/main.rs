//! Big keys: every interleaving of replies and writes between simulated servers, every type between real ones.
//! Knows nothing of the engine that drives `BigKeys` in the program; `tests/mover` tests that.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod engine;
mod fake;
mod interleaving;
#[path = "../support/kinds.rs"]
#[allow(dead_code)]
mod kinds;
mod pair;
mod streams;
mod types;
mod written;
