//! Leader-only loops and their handle.

pub mod status;
