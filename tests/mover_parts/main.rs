//! The parts around the copy, against real redis-servers: capabilities, payloads, functions, verification, tracking.
//! Knows nothing of the copy itself.
#![allow(clippy::unwrap_used)]

#[path = "../support/kinds.rs"]
#[allow(dead_code)]
mod kinds;
#[path = "../api/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../support/servers.rs"]
mod servers;
#[path = "../api/wait.rs"]
#[allow(dead_code)]
mod wait;

mod admission;
mod dataset;
mod engine;
mod functions;
mod payloads;
mod probing;
mod tracking;
mod verification;
