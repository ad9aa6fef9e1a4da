//! Who has sent a command to one server (PONTOON ON), for the log of the node: one line for each product in a while, so that
//! clients cannot fill the log. Knows nothing of what the commands mean.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::model::ids::ProductId;

/// Time between two lines about a product.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Asks {
    /// When the last line was written.
    line_at: Instant,
    /// Commands since then.
    unreported: u64,
}

/// The commands of all products.
#[derive(Debug, Default)]
pub(super) struct ServerAsks(BTreeMap<ProductId, Asks>);

impl ServerAsks {
    /// Records a command. Returns how many there were since the last line, this one included, if a line is due.
    pub(super) fn note(&mut self, product: ProductId, now: Instant) -> Option<u64> {
        match self.0.get_mut(&product) {
            Some(asks) if now.duration_since(asks.line_at) < BETWEEN_LINES => {
                asks.unreported += 1;
                None
            }
            Some(asks) => {
                asks.line_at = now;
                Some(std::mem::take(&mut asks.unreported) + 1)
            }
            None => {
                self.0.insert(product, Asks { line_at: now, unreported: 0 });
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
    fn a_product_gets_a_line_in_a_while() {
        let mut asks = ServerAsks::default();
        let (first, second, start) = (ProductId(1), ProductId(2), Instant::now());
        assert_eq!(asks.note(first, start), Some(1));
        assert_eq!(asks.note(second, start), Some(1));
        for _ in 0..1000 {
            assert_eq!(asks.note(first, start + BETWEEN_LINES / 2), None);
        }
        assert_eq!(asks.note(first, start + BETWEEN_LINES), Some(1001));
        asks.retain(|id| id == second);
        assert_eq!(asks.note(first, start + BETWEEN_LINES), Some(1));
    }
}
