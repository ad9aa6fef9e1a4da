//! What exists and how it may change. Pure: no clock, no randomness, no I/O.

pub mod change;
pub mod ids;
pub mod outcome;
pub mod reject;
pub mod route;
pub mod secret;
pub mod slot;
pub mod state;
