//! The clients that have not logged in, and which of them is closed where a limit of clients is reached: the oldest. So
//! strangers take each other's places, and not those of clients that know the password.
//! Knows nothing of connections and passwords.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot::{self, Receiver, Sender};

use crate::model::ids::ProductId;

/// Clients that were asked to close and have not done so yet. They are no longer counted, but still have their file
/// descriptors: more would mean that the workers are far behind. The reserve of descriptors is larger (`src/files.rs`).
const LEAVING_MAX: usize = 256;

/// The same as a part of the limit of the node, where that is small because few files are allowed.
const LEAVING_PART: usize = 4;

/// At least so many may be leaving: a worker that closes them between two turns is not far behind.
const LEAVING_MIN: usize = 16;

/// A warning about closed strangers is not repeated sooner: they must not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The strangers of a proxy, of each product in the order in which they connected. `T` is what is known of each.
#[derive(Debug)]
pub(super) struct Strangers<T> {
    next: u64,
    of_products: BTreeMap<ProductId, BTreeMap<u64, (T, Sender<()>)>>,
    /// How many were asked to close and have not done so.
    leaving: usize,
    warned: Option<Instant>,
}

impl<T> Default for Strangers<T> {
    fn default() -> Self {
        Self { next: 0, of_products: BTreeMap::new(), leaving: 0, warned: None }
    }
}

/// What a client keeps until it has logged in.
#[derive(Debug)]
pub(super) struct StrangerMark {
    product: ProductId,
    number: u64,
    asked_to_close: Receiver<()>,
}

impl StrangerMark {
    /// Whether it is asked to close. Must not be called again when it is.
    pub(super) fn is_asked_to_close(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(Pin::new(&mut self.asked_to_close).poll(cx), Poll::Ready(_))
    }
}

impl<T: Clone> Strangers<T> {
    /// Adds one.
    pub(super) fn add(&mut self, product: ProductId, known: T) -> StrangerMark {
        let number = self.next;
        self.next += 1;
        let (close, asked_to_close) = oneshot::channel();
        self.of_products.entry(product).or_default().insert(number, (known, close));
        StrangerMark { product, number, asked_to_close }
    }

    /// Removes one that has logged in or left. Returns whether it was there: else it was asked to close.
    pub(super) fn remove(&mut self, mark: &StrangerMark) -> bool {
        let Some(of_product) = self.of_products.get_mut(&mark.product) else { return false };
        let found = of_product.remove(&mark.number).is_some();
        if of_product.is_empty() {
            self.of_products.remove(&mark.product);
        }
        found
    }

    /// Records that one has closed that was asked to.
    pub(super) fn note_left(&mut self) {
        self.leaving = self.leaving.saturating_sub(1);
    }

    /// Asks the oldest of a product to close.
    pub(super) fn close_one_of(&mut self, product: ProductId, node_max: usize) -> Option<T> {
        if self.leaving >= (node_max / LEAVING_PART).clamp(LEAVING_MIN, LEAVING_MAX) {
            return None;
        }
        let of_product = self.of_products.get_mut(&product)?;
        // Dropping the sender asks it to close.
        let (_, (known, _)) = of_product.pop_first()?;
        let left = of_product.len();
        if left == 0 {
            self.of_products.remove(&product);
        }
        self.leaving += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(%product, not_logged_in = left + 1, "a limit of clients is reached; clients that have not \
                logged in are closed, the oldest first. Find out who opens them");
        }
        Some(known)
    }

    /// Asks the oldest of the product with the most to close: who floods one product closes no clients of others.
    pub(super) fn close_one(&mut self, node_max: usize) -> Option<T> {
        let (product, _) = self.of_products.iter().max_by_key(|(_, of_product)| of_product.len())?;
        self.close_one_of(*product, node_max)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(marks: &mut [StrangerMark]) -> Vec<bool> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        marks.iter_mut().map(|mark| mark.is_asked_to_close(&mut cx)).collect()
    }

    #[test]
    fn the_oldest_of_the_product_with_the_most_is_closed() {
        let mut strangers = Strangers::default();
        let (quiet, flooded) = (ProductId(1), ProductId(2));
        let mut marks: Vec<_> = [quiet, flooded, flooded, flooded].map(|p| strangers.add(p, ())).into();
        assert!(strangers.remove(&marks[1]), "it has logged in");
        assert_eq!(strangers.close_one(1000), Some(()));
        // Dropped with its sender, although it is not asked: it has logged in and does not look.
        marks.remove(1);
        assert_eq!(asked(&mut marks), [false, true, false]);
        assert!(!strangers.remove(&marks[1]) && strangers.remove(&marks[2]));
        assert_eq!(strangers.close_one_of(flooded, 1000), None);
        assert_eq!(strangers.close_one_of(quiet, 1000), Some(()));
        assert_eq!(strangers.close_one(1000), None);
    }

    #[test]
    fn no_more_are_asked_while_many_have_not_closed() {
        let mut strangers = Strangers::default();
        let _marks: Vec<_> = (0..1000).map(|_| strangers.add(ProductId(1), ())).collect();
        for (node_max, want) in [(8, 16), (160, 40), (1 << 20, LEAVING_MAX)] {
            while strangers.close_one(node_max).is_some() {}
            assert_eq!(strangers.leaving, want);
        }
        strangers.note_left();
        assert_eq!(strangers.close_one(1 << 20), Some(()));
    }
}
