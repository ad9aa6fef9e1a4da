//! Everything that only the leader does, and the handle for it: leases and barriers, membership, slots, failover, and
//! the checks at servers before a change. Nothing here keeps state that would be lost with the leader: wherever its
//! process ends, the next leader continues from the log and from what it observes.

pub mod admission;
pub mod failover;
pub mod handle;
pub mod leadership;
pub mod servers;
pub mod slots;
