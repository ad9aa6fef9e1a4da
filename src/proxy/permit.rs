//! A node's permission to serve, as its workers read it: until when, and from which route epoch on.
//! Knows nothing of who grants it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{clock::boottime_ns, model::ids::Epoch};

/// SharedReport by the node, which renews it, and its workers, which read it once per batch.
#[derive(Debug, Default)]
pub struct Permit {
    lease_until_ns: AtomicU64,
    min_applied: AtomicU64,
}

impl Permit {
    /// No lease yet: nothing is served.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A lease that never ends, for a proxy without a cluster (examples and benchmarks of the hot path).
    #[must_use]
    pub fn forever() -> Self {
        Self { lease_until_ns: AtomicU64::new(u64::MAX), min_applied: AtomicU64::new(0) }
    }

    /// Records a grant: valid until `until_ns` on `CLOCK_BOOTTIME`, for tables at `min_applied` or later.
    pub fn renew(&self, until_ns: u64, min_applied: Epoch) {
        // The demand first: whoever sees the new end sees at least the demand that came with it.
        self.min_applied.fetch_max(min_applied.0, Ordering::Release);
        self.lease_until_ns.fetch_max(until_ns, Ordering::Release);
    }

    /// Ends the lease at once (the node is told that it is removed, or shuts down).
    pub fn revoke(&self) {
        self.lease_until_ns.store(0, Ordering::Release);
    }

    /// When the lease ends, nanoseconds of `CLOCK_BOOTTIME`; 0: none.
    #[must_use]
    pub fn lease_until_ns(&self) -> u64 {
        self.lease_until_ns.load(Ordering::Acquire)
    }

    /// Whether the lease is valid now. Reads the clock.
    #[must_use]
    pub fn leased(&self) -> bool {
        boottime_ns() < self.lease_until_ns()
    }

    /// Whether a worker whose table is at `table` has reached what the last grant demands.
    /// Holds for both settings of `isolated`.
    #[must_use]
    pub fn table_is_recent(&self, table: Epoch) -> bool {
        table.0 >= self.min_applied.load(Ordering::Acquire)
    }
}
