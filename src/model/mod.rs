//! What exists and how it may change. Pure: no clock, no randomness, no I/O.
//! Knows nothing of formats, of the log's machinery, or of processes.

// A new variant must be looked at wherever one is matched: here a forgotten one would be a wrong decision.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod apply;
pub mod change;
pub mod check;
pub mod derive;
pub mod ejection;
pub mod event;
pub mod ids;
pub mod limits;
pub mod migration;
pub mod outcome;
pub mod ports;
pub mod promotion;
pub mod reads;
pub mod reject;
pub mod route;
pub mod secret;
pub mod slot;
pub mod state;
