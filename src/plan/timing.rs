//! The times of docs/design/serving.md in one place, each with its reason. Tests may shorten them together.

use std::time::Duration;

/// Heartbeats, leases, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The longest interval between two heartbeats of a node. Six fit into a lease, so that a lost one has no
    /// consequence.
    pub heartbeat: Duration,
    /// A lease as the node counts it. Much longer than an election, so that traffic does not notice a change of leader.
    pub lease: Duration,
    /// Within this time a preflight's ping must be answered: a node that takes longer would make the hold long.
    pub ping_timeout: Duration,
    /// The first pause after a hold that did not get through; doubled each time.
    pub backoff: Duration,
    /// How many holds are tried for one assignment.
    pub attempts_max: u32,
    /// The budget of one scan. The two scans of an assignment keep the operator waiting for at most twice this.
    pub scan_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            lease: Duration::from_secs(3),
            ping_timeout: Duration::from_millis(100),
            backoff: Duration::from_millis(200),
            attempts_max: 5,
            scan_max: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// A lease as the leader counts it: 1 % longer for clocks whose rates differ, and 5 ms for their grain.
    /// The only assumption about clocks is that their rates differ by less than 1 %.
    #[must_use]
    pub fn lease_at_leader(&self) -> Duration {
        self.lease + self.lease / 100 + Duration::from_millis(5)
    }
}

/// A duration in nanoseconds; one that does not fit (584 years) is the longest that does.
#[must_use]
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
