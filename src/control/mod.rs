//! Leader-only loops and their handle: leases and barriers, membership, assignments; what is asked of servers before a change.
//! Controllers keep no truth: kill the leader at any line, the next one continues from state and observation.

pub mod acts;
pub mod admission;
pub mod approve;
pub mod assign;
pub mod desk;
pub mod driver;
pub mod failover;
pub mod fence;
pub mod handle;
pub mod jobs;
pub mod leases;
pub mod loans;
pub mod migrate;
pub mod migration_admission;
pub mod peers;
pub mod preflight;
pub mod promote;
pub mod promote_admission;
pub mod promotion_waits;
pub mod rebalance;
pub mod rounds;
pub mod scan;
pub mod status;
pub mod survey;
pub mod wiring;
