//! The route table of a worker: the products with their backends, its epoch and its generation.
//! Knows nothing of sessions and holds.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use crate::{
    model::{
        ids::{Epoch, ProductId},
        reads::ReadTable,
        route::RouteTable,
    },
    proxy::product::ProductView,
};

/// The routes of a worker. They change only between turns.
#[derive(Debug, Default)]
pub(in crate::proxy) struct WorkerRoutes {
    products: RefCell<BTreeMap<ProductId, Rc<ProductView>>>,
    epoch: Cell<Epoch>,
    /// Number of installed tables, modulo 2^32.
    generation: Cell<u32>,
    /// Workers of the node, which share the quotas of products.
    workers: usize,
}

/// What a new table changed for sessions.
#[derive(Debug, Default)]
pub(super) struct Swapped {
    /// The products that it does not have.
    pub(super) removed: Vec<Rc<ProductView>>,
    /// The products whose clients log in with other credentials.
    pub(super) other_logins: Vec<Rc<ProductView>>,
}

impl WorkerRoutes {
    /// No routes yet.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    /// All products.
    pub(in crate::proxy) fn products(&self) -> Ref<'_, BTreeMap<ProductId, Rc<ProductView>>> {
        self.products.borrow()
    }

    /// One product; `None` if the table does not have it.
    pub(in crate::proxy) fn product(&self, id: ProductId) -> Option<Rc<ProductView>> {
        self.products.borrow().get(&id).cloned()
    }

    /// The epoch of the table.
    #[inline]
    pub(in crate::proxy) fn epoch(&self) -> Epoch {
        self.epoch.get()
    }

    /// Changes with every installed table.
    #[inline]
    pub(in crate::proxy) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Replaces the routes.
    pub(super) fn swap(&self, table: &RouteTable) -> Swapped {
        self.generation.set(self.generation.get().wrapping_add(1));
        self.epoch.set(table.epoch);
        let mut swapped = Swapped::default();
        let mut products = self.products.borrow_mut();
        products.retain(|id, view| {
            let stays = table.products.contains_key(id);
            if !stays {
                swapped.removed.push(view.clone());
            }
            stays
        });
        for (id, routes) in &table.products {
            match products.get(id) {
                Some(view) => {
                    if view.swap(routes.clone()) {
                        swapped.other_logins.push(view.clone());
                    }
                }
                None => {
                    products.insert(*id, Rc::new(ProductView::new(routes.clone(), self.workers)));
                }
            }
        }
        swapped
    }

    /// Replaces the replicas that may serve reads. A product that is not in the route table yet gets them with the next
    /// read table; until then its reads go to primaries.
    pub(super) fn swap_reads(&self, table: &ReadTable) {
        for (id, view) in &*self.products.borrow() {
            view.swap_reads(table.products.get(id).cloned());
        }
    }
}
