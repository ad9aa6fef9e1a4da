//! The lease of this node: a grant counts from the send of its heartbeat, and is put in force when the workers' tables
//! are as new as the grant demands. Knows nothing of how heartbeats travel, and reads no clock.
//!
//! The leader may have applied a change of routes some milliseconds before this node. Put in force at once, its grant
//! would make the workers refuse every request and discard every reply until their tables are there, although the lease
//! in force covers them. So a grant ahead of the tables is kept until they are. For the leader this is the same as an
//! answer that took longer, which it allows for anyway.

use std::{sync::Arc, time::Duration};

use crate::{model::ids::Epoch, proxy::permit::Permit};

/// A grant is put in force, whatever the tables have reached, when less than 1 / `LEFT_MIN` of its length is left of
/// the lease in force: a worker that cannot swap its table must not cost the other workers their lease.
const LEFT_MIN: u64 = 3;

/// When a heartbeat was sent, on `CLOCK_BOOTTIME`. Made before the message leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    at_ns: u64,
}

impl Sent {
    /// A send at `now_ns`. No message has left yet.
    #[must_use]
    pub fn at(now_ns: u64) -> Self {
        Self { at_ns: now_ns }
    }

    /// Reads the clock, and only then begins the exchange. `None` if there was no answer.
    pub async fn before<T>(clock: impl Fn() -> u64, exchange: impl Future<Output = Option<T>>) -> Option<(Self, T)> {
        let sent = Self::at(clock());
        exchange.await.map(|answer| (sent, answer))
    }
}

/// A lease as the leader granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Counts from the send.
    pub length: Duration,
    /// The workers' tables must be at this route epoch or later.
    pub min_applied: Epoch,
}

/// The lease of this start.
#[derive(Debug)]
pub struct Lease {
    permit: Arc<Permit>,
    /// A grant ahead of the tables: when it ends, and the epoch that it demands.
    kept: Option<(u64, Epoch)>,
}

impl Lease {
    /// No lease yet.
    #[must_use]
    pub fn new(permit: Arc<Permit>) -> Self {
        Self { permit, kept: None }
    }

    /// The permit that the workers read.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The heartbeat of `sent` was answered with a lease; all workers' tables are at `reached`.
    pub fn granted(&mut self, sent: Sent, granted: Granted, reached: Epoch, now_ns: u64) {
        self.reached(reached);
        // It counts from the send. The leader counts from its answer, and so always counts longer.
        let length_ns = u64::try_from(granted.length.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = sent.at_ns.saturating_add(length_ns);
        let in_force = self.permit.lease_until_ns();
        // Before the first lease nothing is served, so the first grant is put in force at once.
        let comfortable = in_force != 0 && in_force.saturating_sub(now_ns) >= length_ns / LEFT_MIN;
        if reached >= granted.min_applied || !comfortable {
            self.kept = None;
            self.permit.renew(until_ns, granted.min_applied);
        } else {
            // The first grant ahead of the tables is kept: it is in force first, and the next heartbeat brings another.
            self.kept.get_or_insert((until_ns, granted.min_applied));
        }
    }

    /// All workers' tables are at `reached`.
    pub fn reached(&mut self, reached: Epoch) {
        if let Some((until_ns, min_applied)) = self.kept.filter(|(_, min_applied)| reached >= *min_applied) {
            self.kept = None;
            self.permit.renew(until_ns, min_applied);
        }
    }

    /// Ends the lease at once.
    pub fn revoke(&mut self) {
        self.kept = None;
        self.permit.revoke();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use super::*;

    const MS: u64 = 1_000_000;
    const LEASE: u64 = 3_000 * MS;

    fn lease() -> Lease {
        Lease::new(Arc::new(Permit::none()))
    }

    fn grant(lease: &mut Lease, sent: u64, min_applied: u64, reached: u64, now: u64) {
        let granted = Granted { length: Duration::from_nanos(LEASE), min_applied: Epoch(min_applied) };
        lease.granted(Sent::at(sent), granted, Epoch(reached), now);
    }

    #[tokio::test]
    async fn a_lease_counts_from_the_send_however_late_the_answer() {
        let now = Cell::new(100 * MS);
        let exchange = async {
            now.set(now.get() + 900 * MS);
            Some(Granted { length: Duration::from_nanos(LEASE), min_applied: Epoch(5) })
        };
        let (sent, granted) = Sent::before(|| now.get(), exchange).await.unwrap();
        let mut lease = lease();
        lease.granted(sent, granted, Epoch(5), now.get());
        assert_eq!(lease.permit().lease_until_ns(), 100 * MS + LEASE);
        assert_eq!(Sent::before(|| 0, async { None::<()> }).await, None);
    }

    #[test]
    fn a_grant_ahead_of_the_tables_waits_for_them() {
        let mut lease = lease();
        grant(&mut lease, 0, 5, 4, MS);
        assert_eq!(lease.permit().lease_until_ns(), LEASE, "the first is never kept");
        assert!(!lease.permit().table_is_recent(Epoch(4)));
        grant(&mut lease, 500 * MS, 7, 5, 501 * MS);
        assert_eq!(lease.permit().lease_until_ns(), LEASE);
        assert!(lease.permit().table_is_recent(Epoch(5)), "the workers go on under the lease in force");
        // Another grant does not replace it: with change after change no grant would ever be put in force.
        grant(&mut lease, 502 * MS, 8, 6, 503 * MS);
        lease.reached(Epoch(7));
        assert_eq!(lease.permit().lease_until_ns(), LEASE + 500 * MS);
        assert!(lease.permit().table_is_recent(Epoch(7)) && !lease.permit().table_is_recent(Epoch(6)));
        lease.reached(Epoch(9));
        assert_eq!(lease.permit().lease_until_ns(), LEASE + 500 * MS, "a grant counts once");
    }

    #[test]
    fn a_grant_does_not_wait_until_the_lease_is_over() {
        let mut lease = lease();
        grant(&mut lease, 0, 5, 5, MS);
        grant(&mut lease, 1_500 * MS, 7, 5, 1_501 * MS);
        assert_eq!(lease.permit().lease_until_ns(), LEASE);
        // Less than a third is left.
        grant(&mut lease, 2_000 * MS, 7, 5, 2_001 * MS);
        assert_eq!(lease.permit().lease_until_ns(), LEASE + 2_000 * MS);
        assert!(!lease.permit().table_is_recent(Epoch(5)));
    }

    #[test]
    fn what_was_kept_is_not_put_in_force_after_the_end() {
        let mut lease = lease();
        grant(&mut lease, 0, 5, 5, MS);
        grant(&mut lease, 500 * MS, 7, 5, 501 * MS);
        lease.revoke();
        lease.reached(Epoch(7));
        assert_eq!(lease.permit().lease_until_ns(), 0);
    }
}
