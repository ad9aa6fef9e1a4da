//! Leader-only loops and their handle: leases and barriers, membership, assignments.
//! Controllers keep no truth: kill the leader at any line, the next one continues from state and observation.

pub mod assign;
pub mod driver;
pub mod leases;
pub mod peers;
pub mod rounds;
pub mod status;
