//! Leader-only loops and their handle: leases and barriers, membership, assignments; what is asked of servers before a change.
//! Controllers keep no truth: kill the leader at any line, the next one continues from state and observation.

pub mod admission;
pub mod failover;
pub mod handle;
pub mod leadership;
pub mod servers;
pub mod slots;
