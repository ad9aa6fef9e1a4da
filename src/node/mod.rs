//! A running node: what `pontoon serve` starts, in the order it is needed, and stops, in the reverse.
//! Decides nothing: model and plan do.
//!
//! ```text
//! data dir locked -> identity -> log opened -> admin port bound -> routes -> workers -> calls answered
//!    -> cluster formed or joined -> heartbeats -> control loops       ... until a signal, a removal, or a stopped log ...
//! no more leases asked -> clients drained -> leadership handed over -> calls ended -> log closed
//! ```

pub mod bootstrap;
pub mod heartbeat;
pub mod introduction;
pub mod routes;
pub mod service;
