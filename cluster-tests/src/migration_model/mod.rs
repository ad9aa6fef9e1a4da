//! The rules of migration.md as small state machines that are explored to the last state.
//! Knows nothing of the code that follows these rules; it is what that code is held against.

pub mod copy;
pub mod failover;
pub mod runs;
