//! Leader-only loops and their handle.

pub mod admission;
pub mod handle;
pub mod scan;
pub mod status;
