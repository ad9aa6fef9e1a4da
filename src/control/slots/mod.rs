//! How slots change their owner: assignments, migrations and sweeps, rebalancing.
//! Knows nothing of failovers.

pub mod assignment;
pub mod endpoint_selection;
pub mod job;
pub mod preflight;
pub mod rebalance;
pub mod scan;
