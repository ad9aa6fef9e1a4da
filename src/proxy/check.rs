//! Whether a worker may serve now: the part of both checks that concerns the lease and the age of the route table
//! (docs/design/serving.md). Knows nothing of slots: `dispatch` and `backend::inflight` check those.

use super::permit::Permit;
use crate::model::{ids::Epoch, route::Isolated};

/// The result of the check for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServeCheck {
    /// The worker may serve.
    Open,
    /// The node has no lease yet or was removed, or its lease has ended and the product does not serve without one.
    NoLease,
    /// The last grant requires a newer table than this worker has.
    OldTable,
}

/// Checks the permit, and calls `clock` (nanoseconds of `CLOCK_BOOTTIME`) only if the end of the lease matters. Workers
/// call it once per batch; for check 2, after the `read()` that returned the replies.
#[inline]
pub(super) fn serve_check(
    permit: &Permit,
    table: Epoch,
    isolated: Isolated,
    clock: impl FnOnce() -> u64,
) -> ServeCheck {
    let until = permit.lease_until_ns();
    if until == 0 {
        // Before its first lease and after its removal, a node serves nothing in either setting.
        return ServeCheck::NoLease;
    }
    // `Permit::renew` stores the end of a grant after its required epoch, and this function reads it before: a worker
    // never sees a new end with an old required epoch. Both checks test the epoch, because a grant that arrives after a
    // pause must not let replies pass that were requested under an old table.
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
    fn both_settings_of_isolated() {
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
