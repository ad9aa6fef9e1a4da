//! Failed logins by address, for the log of the node: one line per address and minute, so that guessing is noticed and
//! cannot fill the log. Knows nothing of passwords.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::model::ids::ProductId;

/// Time between two lines about an address.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// Addresses of all products that are remembered, and so the lines of a minute. Failures of further addresses are
/// counted together.
const ADDRESSES_MAX: usize = 256;

/// The failures of this node.
#[derive(Debug, Default)]
pub(super) struct FailedLogins {
    addresses: BTreeMap<(ProductId, IpAddr), Failures>,
    /// Those of further addresses.
    others: Option<Failures>,
}

#[derive(Debug)]
struct Failures {
    product: String,
    /// When the last line was written.
    line_at: Instant,
    /// Failures since then.
    unreported: u64,
}

/// A line about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailedLoginsLine {
    /// `None`: all addresses that have no line of their own, of any product.
    pub(super) from: Option<(String, IpAddr)>,
    /// Failures since the line before it, or the first one.
    pub(super) count: u64,
}

impl FailedLogins {
    /// Records a failure. Returns the line to write now, if the address had none in the last minute.
    pub(super) fn note(
        &mut self,
        (id, product): (ProductId, &str),
        ip: IpAddr,
        now: Instant,
    ) -> Option<FailedLoginsLine> {
        if let Some(known) = self.addresses.get_mut(&(id, ip)) {
            known.unreported += 1;
            return None;
        }
        let new = Failures { product: product.to_owned(), line_at: now, unreported: 0 };
        if self.addresses.len() < ADDRESSES_MAX {
            self.addresses.insert((id, ip), new);
            return Some(FailedLoginsLine { from: Some((product.to_owned(), ip)), count: 1 });
        }
        match &mut self.others {
            Some(known) => {
                known.unreported += 1;
                None
            }
            None => {
                self.others = Some(new);
                Some(FailedLoginsLine { from: None, count: 1 })
            }
        }
    }

    /// The lines that are due, and forgets the addresses that have not failed for a minute.
    pub(super) fn due(&mut self, now: Instant) -> Vec<FailedLoginsLine> {
        let mut lines = Vec::new();
        let mut due = |failures: &mut Failures, ip: Option<IpAddr>| {
            if now.duration_since(failures.line_at) < BETWEEN_LINES {
                return true;
            }
            let count = std::mem::take(&mut failures.unreported);
            failures.line_at = now;
            if count > 0 {
                lines.push(FailedLoginsLine { from: ip.map(|ip| (failures.product.clone(), ip)), count });
            }
            count > 0
        };
        self.addresses.retain(|(_, ip), failures| due(failures, Some(*ip)));
        self.others.take_if(|others| !due(others, None));
        lines
    }
}

impl FailedLoginsLine {
    /// Writes it into the log of the node.
    pub(super) fn log(&self) {
        match &self.from {
            Some((product, ip)) => tracing::warn!(product, address = %ip, failed_logins = self.count,
                "clients failed to log in; their address is named at most once a minute"),
            None => tracing::warn!(
                failed_logins = self.count,
                "clients of further addresses failed to log in; the node names at most {ADDRESSES_MAX} a minute"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHOP: (ProductId, &str) = (ProductId(1), "shop");

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn line(n: u32, count: u64) -> FailedLoginsLine {
        FailedLoginsLine { from: Some(("shop".into(), ip(n))), count }
    }

    #[test]
    fn an_address_has_one_line_a_minute_and_no_failure_is_lost() {
        let (mut all, start) = (FailedLogins::default(), Instant::now());
        let after = |secs| start + Duration::from_secs(secs);
        assert_eq!(all.note(SHOP, ip(7), start), Some(line(7, 1)), "at once");
        for secs in 0..50 {
            assert_eq!((all.note(SHOP, ip(7), after(secs)), all.due(after(secs))), (None, vec![]));
        }
        assert_eq!(all.note((ProductId(2), "other"), ip(7), after(50)).unwrap().count, 1, "another product");
        assert_eq!(all.due(after(60)), [line(7, 50)]);
        assert_eq!(all.note(SHOP, ip(7), after(61)), None);
        assert_eq!(all.due(after(119)), []);
        assert_eq!(all.due(after(120)), [line(7, 1)]);
        assert_eq!((all.due(after(180)), all.addresses.len()), (vec![], 0), "forgotten");
        assert_eq!(all.note(SHOP, ip(7), after(181)), Some(line(7, 1)));
    }

    #[test]
    fn many_addresses_share_one_line() {
        let (mut all, start) = (FailedLogins::default(), Instant::now());
        let lines = (0..10_000).filter_map(|n| all.note(SHOP, ip(n), start)).count();
        assert_eq!((lines, all.addresses.len()), (ADDRESSES_MAX + 1, ADDRESSES_MAX));
        let rest = FailedLoginsLine { from: None, count: 10_000 - ADDRESSES_MAX as u64 - 1 };
        assert_eq!(all.due(start + BETWEEN_LINES), [rest]);
        assert!(all.due(start + 2 * BETWEEN_LINES).is_empty() && all.others.is_none());
    }
}
