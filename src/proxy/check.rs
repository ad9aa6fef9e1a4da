//! Whether this worker may serve now: the lease and the age of its table (serving.md, "The two checks in a worker").
//! Knows nothing of slots: their part of the checks is where the slots are.

use super::permit::Permit;
use crate::model::{ids::Epoch, route::Isolated};

/// The answer for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServeCheck {
    /// Serve.
    Open,
    /// No lease, or none yet, and the product does not serve without one.
    NoLease,
    /// The last grant demands a newer table than this worker has.
    OldTable,
}

/// Reads the permit, and the clock (`CLOCK_BOOTTIME`, nanoseconds) if a lease's end matters. Called once per batch; for
/// check 2 after the `read()` that brought the replies.
#[inline]
pub(super) fn serve_check(
    permit: &Permit,
    table: Epoch,
    isolated: Isolated,
    clock: impl FnOnce() -> u64,
) -> ServeCheck {
    let until = permit.lease_until_ns();
    if until == 0 {
        // Before its first lease, and after its last, a node serves nothing in either setting.
        return ServeCheck::NoLease;
    }
    // A grant's end is stored after its demand and read before it: a new end is never seen with an old demand. In both
    // checks, because a grant that came after a pause must not let replies pass that an old table asked for.
    if !permit.table_is_recent(table) {
        return ServeCheck::OldTable;
    }
    if until == u64::MAX || isolated == Isolated::Serve || clock() < until {
        ServeCheck::Open
    } else {
        ServeCheck::NoLease
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::boottime_ns;

    #[test]
    fn both_settings() {
        let permit = Permit::none();
        assert_eq!(
            serve_check(&permit, Epoch(9), Isolated::Serve, boottime_ns),
            ServeCheck::NoLease,
            "before the first lease"
        );
        permit.renew(1, Epoch(5));
        assert_eq!(
            serve_check(&permit, Epoch(5), Isolated::Refuse, boottime_ns),
            ServeCheck::NoLease,
            "ended long ago"
        );
        assert_eq!(serve_check(&permit, Epoch(5), Isolated::Serve, boottime_ns), ServeCheck::Open);
        assert_eq!(serve_check(&permit, Epoch(4), Isolated::Serve, boottime_ns), ServeCheck::OldTable);
        permit.renew(u64::MAX - 1, Epoch(5));
        assert_eq!(serve_check(&permit, Epoch(5), Isolated::Refuse, boottime_ns), ServeCheck::Open);
        permit.revoke();
        assert_eq!(serve_check(&permit, Epoch(5), Isolated::Serve, boottime_ns), ServeCheck::NoLease);
    }
}
