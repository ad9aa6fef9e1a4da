//! The hot path.
pub mod permit;
