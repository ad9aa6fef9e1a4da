//! Leader-only loops and their handle: leases and barriers, membership, assignments.
//! Controllers keep no truth: kill the leader at any line, the next one continues from state and observation.

pub mod status;
