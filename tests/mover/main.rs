//! The mover between real redis-servers: what is copied, concurrent changes, how a run ends and fails.
//! Knows nothing of the log and of nodes; authorization is simulated.
#![allow(clippy::unwrap_used)]

mod bed;
mod changes;
mod cleaning;
#[path = "../common/mod.rs"]
mod common;
mod copying;
mod expiry;
mod failing;
#[path = "../support/kinds.rs"]
#[allow(dead_code)]
mod kinds;
#[path = "../support/servers.rs"]
mod servers;
mod sizes;
