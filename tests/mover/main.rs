//! The mover between real redis-servers: what is copied, what changes meanwhile, how it ends, how it fails.
//! Knows nothing of the log and of nodes; whoever authorizes here says yes.
#![allow(clippy::unwrap_used)]

mod bed;
mod changes;
mod cleaning;
#[path = "../common/mod.rs"]
mod common;
mod copying;
mod failing;
mod sizes;
