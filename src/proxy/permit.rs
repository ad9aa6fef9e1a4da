//! A node's permission to serve, as its workers read it: when the lease ends, and the oldest route epoch that may
//! serve. Knows nothing of how leases are granted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{clock::boottime_ns, model::ids::Epoch};

/// Shared by the node, which renews it, and its workers, which read it once per batch.
#[derive(Debug, Default)]
pub struct Permit {
    lease_until_ns: AtomicU64,
    min_applied: AtomicU64,
}

impl Permit {
    /// A permit without a lease: workers serve nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A lease that never ends, for a proxy without a cluster (examples and benchmarks of the hot path).
    #[must_use]
    pub fn forever() -> Self {
        Self { lease_until_ns: AtomicU64::new(u64::MAX), min_applied: AtomicU64::new(0) }
    }

    /// Records a grant: valid until `until_ns` (nanoseconds of `CLOCK_BOOTTIME`), for route tables at `min_applied` or
    /// later.
    pub fn renew(&self, until_ns: u64, min_applied: Epoch) {
        // The epoch first: a worker that reads the new end then reads at least the epoch of the same grant.
        self.min_applied.fetch_max(min_applied.0, Ordering::Release);
        self.lease_until_ns.fetch_max(until_ns, Ordering::Release);
    }

    /// Ends the lease at once, because the node was removed or shuts down.
    pub fn revoke(&self) {
        self.lease_until_ns.store(0, Ordering::Release);
    }

    /// When the lease ends, in nanoseconds of `CLOCK_BOOTTIME`; 0 if there is no lease.
    #[must_use]
    pub fn lease_until_ns(&self) -> u64 {
        self.lease_until_ns.load(Ordering::Acquire)
    }

    /// Whether the lease is valid now. Reads the clock.
    #[must_use]
    pub fn leased(&self) -> bool {
        boottime_ns() < self.lease_until_ns()
    }

    /// Whether a worker whose route table is at epoch `table` has reached the epoch that the last grant requires.
    /// Applies to both settings of `isolated`.
    #[must_use]
    pub fn table_is_recent(&self, table: Epoch) -> bool {
        table.0 >= self.min_applied.load(Ordering::Acquire)
    }
}
