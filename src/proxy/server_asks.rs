//! Who has sent a command to one server (PONTOON ON): a line in the log of the node and an event, of each product once in a while,
//! so that clients can fill neither. Knows nothing of what the commands mean.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::model::ids::{HostPort, ProductId};

/// Time between two reports about a product: ten minutes, since events displace others, and a client may ask without end.
const BETWEEN_REPORTS: Duration = Duration::from_secs(600);

/// Commands of clients to single servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAsk {
    /// Name of the product.
    pub product: String,
    /// The client that has sent the last one.
    pub client: IpAddr,
    /// The server that got it.
    pub server: HostPort,
    /// Its name.
    pub command: String,
    /// How many there were since the last report, this one included.
    pub count: u64,
}

#[derive(Debug)]
struct Asks {
    /// When the last report was made.
    reported_at: Instant,
    /// Commands since then.
    unreported: u64,
}

/// The commands of all products.
#[derive(Debug, Default)]
pub(super) struct ServerAsks(BTreeMap<ProductId, Asks>);

impl ServerAsks {
    /// Records a command. Returns how many there were since the last report, this one included, if a report is due.
    pub(super) fn note(&mut self, product: ProductId, now: Instant) -> Option<u64> {
        match self.0.get_mut(&product) {
            Some(asks) if now.duration_since(asks.reported_at) < BETWEEN_REPORTS => {
                asks.unreported += 1;
                None
            }
            Some(asks) => {
                asks.reported_at = now;
                Some(std::mem::take(&mut asks.unreported) + 1)
            }
            None => {
                self.0.insert(product, Asks { reported_at: now, unreported: 0 });
                Some(1)
            }
        }
    }

    /// Forgets the products for which `stays` is false.
    pub(super) fn retain(&mut self, stays: impl Fn(ProductId) -> bool) {
        self.0.retain(|id, _| stays(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_gets_a_report_in_a_while() {
        let mut asks = ServerAsks::default();
        let (first, second, start) = (ProductId(1), ProductId(2), Instant::now());
        assert_eq!(asks.note(first, start), Some(1));
        assert_eq!(asks.note(second, start), Some(1));
        for _ in 0..1000 {
            assert_eq!(asks.note(first, start + BETWEEN_REPORTS / 2), None);
        }
        assert_eq!(asks.note(first, start + BETWEEN_REPORTS), Some(1001));
        asks.retain(|id| id == second);
        assert_eq!(asks.note(first, start + BETWEEN_REPORTS), Some(1));
    }
}
