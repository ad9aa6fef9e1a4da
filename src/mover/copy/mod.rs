//! A copy run: from the connections to the cut-over.
//! Knows nothing of slot owners.
//!
//! `engine` composes the parts and runs the loop: `feed_reader` applies changes, `copier` moves keys from `source` to
//! `target` within the budget of `in_flight` and the pace of `pacing`, `cutover` finishes under a hold, `progress`
//! measures the speed.

mod copier;
mod cutover;
mod engine;
mod feed_reader;
pub mod functions;
mod in_flight;
mod libraries;
mod monitors;
mod pacing;
mod progress;
mod requests;
mod source;
mod start;
mod target;

pub(in crate::mover) use start::run;
