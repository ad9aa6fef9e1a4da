//! Big keys: any interleaving of answers and writes against simulated servers, every type between real ones.
//! Knows nothing of the engine that feeds `BigKeys` in the program; `tests/mover` has that.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod engine;
mod fake;
mod interleaving;
mod pair;
mod streams;
mod types;
mod written;
