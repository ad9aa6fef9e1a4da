//! The constants of serving.md in one struct, each with its reason; tests may shorten them together.
//! Knows nothing of Raft's own clocks.

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// Times of leases and holds, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From heartbeat to heartbeat: six fit into a lease, so that losing some costs nothing.
    pub heartbeat: u64,
    /// A grant's length on the node's clock. Longer than an election (about 1 s), so that traffic notices none.
    pub lease: u64,
    /// Allowed difference of clock rates, per cent of the lease. The one assumption about clocks.
    pub rate_error_percent: u64,
    /// Allowed error beside the rate: reading clocks, rounding.
    pub rate_error_fixed: u64,
    /// A node that has not answered a probe in this time is not there, before a hold is opened.
    pub probe: u64,
    /// How long a SCAN for keys of slots may take, before a hold and again behind its barrier. Together with the
    /// budget of a hold this stays below the 5 s a request is parked.
    pub scan: u64,
    /// A scan older than this says nothing about now.
    pub scan_fresh: u64,
    /// Wait after the first hold that was released; doubles with every further attempt.
    pub backoff: u64,
    /// Holds of one cause before it is given up.
    pub attempts_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: 500 * MS,
            lease: 3_000 * MS,
            rate_error_percent: 1,
            rate_error_fixed: 5 * MS,
            probe: 100 * MS,
            scan: 1_000 * MS,
            scan_fresh: 2_000 * MS,
            backoff: 500 * MS,
            attempts_max: 5,
        }
    }
}

impl Timing {
    /// When a lease that begins at `from` has surely ended, on another clock than the one that counts it.
    #[must_use]
    pub fn surely_ended(&self, from: u64) -> u64 {
        from.saturating_add(self.lease)
            .saturating_add(self.lease / 100 * self.rate_error_percent)
            .saturating_add(self.rate_error_fixed)
    }

    /// How long to wait after attempt number `attempt` (from 1) before the next.
    #[must_use]
    pub fn backoff_after(&self, attempt: u32) -> u64 {
        // The shift is bounded, so that a corrupt count cannot overflow it.
        self.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(10))
    }
}
