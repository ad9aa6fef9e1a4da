//! How many clients a proxy has, of each worker and of each product, and how many it refused and why.
//! Knows nothing of connections.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
};

use super::strangers::{StrangerMark, Strangers};
use crate::model::ids::ProductId;

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRefusal {
    /// The node has as many clients as it may.
    NodeLimit,
    /// The product has as many clients on this node as it may (`clients-max`).
    ProductLimit,
    /// The worker did not take the connections before it in time.
    WorkerBusy,
}

impl ClientRefusal {
    /// All, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::NodeLimit, Self::ProductLimit, Self::WorkerBusy];

    /// The label of the reason in `/metrics`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeLimit => "node_limit",
            Self::ProductLimit => "product_limit",
            Self::WorkerBusy => "worker_busy",
        }
    }
}

/// The clients of a product on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductClients {
    /// Name of the product.
    pub name: String,
    /// Connected clients.
    pub connected: usize,
    /// Clients accepted since the start.
    pub accepted: u64,
    /// Logins that failed since the start.
    pub failed_logins: u64,
    /// Connected clients that logged in with the former password; at most about one second old.
    pub former_logins: usize,
    /// Clients refused since the start, by reason, in the order of [`ClientRefusal::ALL`].
    pub refused: [u64; ClientRefusal::ALL.len()],
}

/// The counters of a product. The acceptor counts up, [`ClientPlace`] counts down.
#[derive(Debug, Default)]
struct Counts {
    name: String,
    connected: AtomicUsize,
    accepted: AtomicU64,
    failed_logins: AtomicU64,
    refused: [AtomicU64; ClientRefusal::ALL.len()],
}

/// Strangers with the worker and the product whose places they have.
type PlacesOfStrangers = Strangers<(usize, Arc<Counts>)>;

/// All clients of a proxy.
#[derive(Debug)]
pub(super) struct Clients {
    workers: Vec<AtomicUsize>,
    /// Locked when a client connects and when a report is made, never for a request.
    products: Mutex<BTreeMap<ProductId, Arc<Counts>>>,
    /// Locked when a client connects, logs in for the first time, or leaves before.
    strangers: Mutex<PlacesOfStrangers>,
}

/// A client that asks for a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer<'a> {
    pub(super) product: ProductId,
    /// Name of the product.
    pub(super) name: &'a str,
    /// Whether it is a stranger until it has logged in.
    pub(super) must_log_in: bool,
}

impl Clients {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            products: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    /// Number of connected clients.
    pub(super) fn connected(&self) -> usize {
        self.workers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Forgets the products for which `stays` is false.
    pub(super) fn retain(&self, stays: impl Fn(ProductId) -> bool) {
        self.locked().retain(|id, _| stays(*id));
    }

    /// Gives a client a place at the worker with the fewest clients, of those that have room if some do. Where a limit is reached, the oldest client that has
    /// not logged in gives up its place.
    ///
    /// # Errors
    /// Returns the limit that is reached; `node_max` and `product_max` are limits of connected clients, and a
    /// `product_max` of 0 is no limit. The refusal is counted.
    pub(super) fn admit(
        self: &Arc<Self>,
        newcomer: Newcomer<'_>,
        node_max: usize,
        product_max: u32,
        has_room: impl Fn(usize) -> bool,
    ) -> Result<ClientPlace, ClientRefusal> {
        let Newcomer { product: id, name, must_log_in } = newcomer;
        let product = self.locked().entry(id).or_insert_with(|| Arc::new(Counts::of(name))).clone();
        let mut strangers = self.strangers();
        let mut refusal = None;
        // A place of the product is also one of the node.
        if product_max != 0 && product.connected.load(Ordering::Relaxed) >= product_max as usize {
            match strangers.close_one_of(id, node_max) {
                Some((worker, product)) => self.free(worker, &product),
                None => refusal = Some(ClientRefusal::ProductLimit),
            }
        }
        if refusal.is_none() && self.connected() >= node_max {
            match strangers.close_one(node_max) {
                Some((worker, product)) => self.free(worker, &product),
                None => refusal = Some(ClientRefusal::NodeLimit),
            }
        }
        let order = |(worker, count): &(usize, &AtomicUsize)| (!has_room(*worker), count.load(Ordering::Relaxed));
        let fewest = self.workers.iter().enumerate().min_by_key(order);
        match (refusal, fewest) {
            (None, Some((worker, count))) => {
                count.fetch_add(1, Ordering::Relaxed);
                product.connected.fetch_add(1, Ordering::Relaxed);
                product.accepted.fetch_add(1, Ordering::Relaxed);
                let mark = must_log_in.then(|| strangers.add(id, (worker, product.clone())));
                Ok(ClientPlace { clients: self.clone(), worker, product, mark })
            }
            (refusal, _) => {
                let refusal = refusal.unwrap_or(ClientRefusal::WorkerBusy);
                product.count(refusal);
                Err(refusal)
            }
        }
    }

    fn free(&self, worker: usize, product: &Counts) {
        self.workers[worker].fetch_sub(1, Ordering::Relaxed);
        product.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a failed login of a client.
    pub(super) fn count_failed_login(&self, product: ProductId) {
        if let Some(counts) = self.locked().get(&product) {
            counts.failed_logins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The clients of one product.
    pub(super) fn of(&self, product: ProductId) -> ProductClients {
        self.locked().get(&product).map(|counts| counts.snapshot()).unwrap_or_default()
    }

    /// The clients of each product.
    pub(super) fn by_product(&self) -> BTreeMap<ProductId, ProductClients> {
        self.locked().iter().map(|(id, counts)| (*id, counts.snapshot())).collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<ProductId, Arc<Counts>>> {
        // The values are consistent even if a thread panicked while it held the lock.
        self.products.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strangers(&self) -> MutexGuard<'_, PlacesOfStrangers> {
        // As above.
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn count(&self, refusal: ClientRefusal) {
        let of_reason = ClientRefusal::ALL.iter().zip(&self.refused).find(|(reason, _)| **reason == refusal);
        if let Some((_, count)) = of_reason {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn snapshot(&self) -> ProductClients {
        ProductClients {
            name: self.name.clone(),
            connected: self.connected.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            failed_logins: self.failed_logins.load(Ordering::Relaxed),
            former_logins: 0,
            refused: std::array::from_fn(|i| self.refused[i].load(Ordering::Relaxed)),
        }
    }
}

/// The place of a connected client; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Arc<Clients>,
    pub(super) worker: usize,
    product: Arc<Counts>,
    /// `None`: it has logged in, or need not.
    mark: Option<StrangerMark>,
}

impl ClientPlace {
    /// Gives up the place, because the worker cannot take the client.
    pub(super) fn refuse(self) {
        self.product.count(ClientRefusal::WorkerBusy);
    }

    /// Records that the client has logged in: no other can take its place.
    pub(super) fn note_login(&mut self) {
        // If it was asked to close in this moment, it does.
        if self.mark.as_ref().is_some_and(|mark| self.clients.strangers().remove(mark)) {
            self.mark = None;
        }
    }

    /// Whether the client must give up its place to another one. Must not be called again when it must.
    #[inline]
    pub(super) fn is_taken(&mut self, cx: &mut Context<'_>) -> bool {
        self.mark.as_mut().is_some_and(|mark| mark.is_asked_to_close(cx))
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark {
            let mut strangers = self.clients.strangers();
            if !strangers.remove(mark) {
                // Its place was freed when it was asked to close.
                strangers.note_left();
                return;
            }
        }
        self.clients.free(self.worker, &self.product);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_of_the_node_and_of_a_product() {
        let clients = Arc::new(Clients::new(2));
        let admit = |id, product_max| {
            let newcomer = Newcomer { product: ProductId(id), name: "p", must_log_in: false };
            clients.admit(newcomer, 4, product_max, |_| true)
        };
        let first = admit(1, 2).unwrap();
        let second = admit(1, 2).unwrap();
        assert_eq!((first.worker, second.worker), (0, 1), "the worker with the fewest");
        assert_eq!(admit(1, 2).unwrap_err(), ClientRefusal::ProductLimit);
        let _others = [admit(2, 0).unwrap(), admit(2, 0).unwrap()];
        assert_eq!(admit(2, 0).unwrap_err(), ClientRefusal::NodeLimit);
        drop(first);
        admit(1, 2).unwrap().refuse();
        assert_eq!(clients.connected(), 3);
        let of = clients.by_product();
        assert_eq!((of[&ProductId(1)].connected, of[&ProductId(1)].refused), (1, [0, 1, 1]));
        assert_eq!((of[&ProductId(2)].connected, of[&ProductId(2)].refused), (2, [1, 0, 0]));
        clients.retain(|id| id == ProductId(2));
        drop(second);
        assert_eq!(clients.by_product().len(), 1);
    }

    #[test]
    fn a_worker_with_room_comes_before_one_with_fewer_clients() {
        let clients = Arc::new(Clients::new(2));
        let admit = |room: [bool; 2]| {
            let newcomer = Newcomer { product: ProductId(1), name: "p", must_log_in: false };
            clients.admit(newcomer, 9, 0, |worker| room[worker]).unwrap()
        };
        let places = [admit([false, true]), admit([false, true]), admit([false, false]), admit([true, true])];
        assert_eq!(places.map(|place| place.worker), [1, 1, 0, 0]);
    }

    #[test]
    fn who_has_not_logged_in_gives_up_its_place() {
        let clients = Arc::new(Clients::new(1));
        let admit = |id, product_max| {
            let newcomer = Newcomer { product: ProductId(id), name: "p", must_log_in: true };
            clients.admit(newcomer, 32, product_max, |_| true)
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut inside = admit(1, 2).unwrap();
        inside.note_login();
        let mut stranger = admit(1, 2).unwrap();
        let mut next = admit(1, 2).unwrap();
        assert!(stranger.is_taken(&mut cx) && !inside.is_taken(&mut cx) && !next.is_taken(&mut cx));
        stranger.note_login();
        drop(stranger);
        assert_eq!(clients.connected(), 2, "its place was given away once");
        next.note_login();
        assert_eq!(admit(1, 2).unwrap_err(), ClientRefusal::ProductLimit);
        let mut many: Vec<_> = (0..30).map(|_| admit(2, 0).unwrap()).collect();
        assert_eq!(clients.connected(), 32);
        let other = admit(3, 0).unwrap();
        assert!(many[0].is_taken(&mut cx) && !many[1].is_taken(&mut cx));
        drop((inside, next, many, other));
        assert_eq!(clients.connected(), 0);
        assert!(clients.by_product().values().all(|of| of.connected == 0));
    }
}
