//! What changed at the source and must be copied again.
//! Knows nothing of connections.

pub mod changes;
pub mod dirty;
pub mod no_ttl;
