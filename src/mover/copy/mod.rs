//! The copy run: from the start of an attempt to the cut-over.
//! Knows nothing of who owns a slot.

mod big;
mod cutover;
mod engine;
mod fetch;
pub mod functions;
mod libraries;
pub mod payload;
mod start;

pub(in crate::mover) use start::run;
