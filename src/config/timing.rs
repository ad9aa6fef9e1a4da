//! The times of Raft, heartbeats and leases (docs/design/serving.md).

use std::time::Duration;

use super::{check, section::section};

section! {
    /// Equal on every node. Tests shorten them together; operators have no reason to.
    TimingConfig("timing") {
        /// Raft's leader sends a heartbeat to its followers each time this many milliseconds have passed.
        raft_heartbeat "raft_heartbeat_ms": Duration = Duration::from_millis(100), "100";
        /// A follower without a heartbeat from the leader starts an election after at least this many milliseconds.
        election_min "election_min_ms": Duration = Duration::from_millis(300), "300";
        /// And after at most this many milliseconds.
        election_max "election_max_ms": Duration = Duration::from_millis(600), "600";
        /// A node asks the leader to renew its lease each time this many milliseconds have passed.
        heartbeat "heartbeat_ms": Duration = Duration::from_millis(500), "500";
        /// A lease is valid for this many milliseconds.
        lease "lease_ms": Duration = Duration::from_secs(3), "3000";
        /// A request for a held slot is parked for at most this many milliseconds.
        park "park_ms": Duration = Duration::from_secs(5), "5000";
    }
}

impl TimingConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let ms = Duration::from_millis;
        check(self.raft_heartbeat >= ms(10), "timing.raft_heartbeat_ms", "at least 10")?;
        // Two lost messages must not lead to an election.
        check(
            self.election_min >= self.raft_heartbeat * 3,
            "timing.election_min_ms",
            "at least three raft_heartbeat_ms",
        )?;
        // Without a spread two followers start elections at the same time, again and again.
        check(
            self.election_max * 2 >= self.election_min * 3,
            "timing.election_max_ms",
            "at least 1.5 times election_min_ms",
        )?;
        check(self.election_max <= ms(60_000), "timing.election_max_ms", "at most 60000")?;
        check(self.heartbeat >= ms(10), "timing.heartbeat_ms", "at least 10")?;
        // Two lost heartbeats must not stop a node from serving.
        check(self.lease >= self.heartbeat * 3, "timing.lease_ms", "at least three heartbeat_ms")?;
        check(self.lease <= ms(60_000), "timing.lease_ms", "at most 60000")?;
        // A change of leader must fit into a lease, or requests would be refused meanwhile.
        check(self.lease > self.election_max, "timing.lease_ms", "more than election_max_ms")?;
        check((ms(10)..=ms(60_000)).contains(&self.park), "timing.park_ms", "10 to 60000")
    }
}
