//! Finds the connections of sessions to the servers of their product, and makes them: shared ones, or dedicated ones that
//! one session borrows. Knows nothing of when a session needs dedicated ones.

use std::{cell::RefCell, rc::Rc};

use super::{
    backend::{self, Backend, BackendKind, BackendLink, ServerUser},
    dedicated::{DedicatedPlace, DedicatedUse, IDLE_MAX},
    product::ProductView,
    worker::Worker,
};
use crate::{
    model::{ids::HostPort, route::GroupRoute},
    resp::write::Version,
};

/// The backends for one database, RESP version and user, by index of the group. A session keeps a reference to its set.
#[derive(Debug)]
pub(super) struct BackendSet {
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) user: ServerUser,
    /// Of a set of dedicated connections, which belongs to one session: those that it has borrowed. They are found by
    /// address, so the two fields below are empty. `None`: the set is shared.
    borrowed: Option<(DedicatedUse, RefCell<Vec<Rc<Backend>>>)>,
    pub(super) by_group: RefCell<Vec<Option<Rc<Backend>>>>,
    /// Backends of replicas, by index of the group and index of the replica among those that may serve.
    pub(super) by_replica: RefCell<Vec<Vec<Option<Rc<Backend>>>>>,
}

impl BackendSet {
    /// The backend of a group's primary, made at the first use. `None`: there are too many dedicated connections.
    #[inline]
    pub(super) fn backend(&self, worker: &Rc<Worker>, product: &Rc<ProductView>, group: u16) -> Option<Rc<Backend>> {
        if let Some(Some(backend)) = self.by_group.borrow().get(usize::from(group)) {
            return Some(backend.clone());
        }
        self.find_or_make(worker, product, group)
    }

    #[cold]
    fn find_or_make(&self, worker: &Rc<Worker>, product: &Rc<ProductView>, group: u16) -> Option<Rc<Backend>> {
        let routes = product.routes.borrow();
        let primary = &routes.groups[usize::from(group)];
        if self.borrowed.is_some() {
            return self.borrow(worker, product, (primary, &primary.primary), false);
        }
        let mut backends = product.backends.borrow_mut();
        let found = backends.iter().find(|b| !b.replica && self.is_of(b) && b.addr == primary.primary);
        let backend = match found {
            Some(backend) => backend.clone(),
            None => {
                let made = self.make(worker, product, (primary, &primary.primary), false, None);
                backends.push(made.clone());
                made
            }
        };
        let mut by_group = self.by_group.borrow_mut();
        if by_group.len() < routes.groups.len() {
            by_group.resize(routes.groups.len(), None);
        }
        by_group[usize::from(group)] = Some(backend.clone());
        Some(backend)
    }

    /// The backend of a replica, by index of the group and of the replica, made at the first use. `addr` is the
    /// replica's. `None`: there are too many dedicated connections.
    pub(super) fn replica(
        &self,
        worker: &Rc<Worker>,
        product: &Rc<ProductView>,
        (group, index): (u16, usize),
        (route, addr): (&GroupRoute, &HostPort),
    ) -> Option<Rc<Backend>> {
        if self.borrowed.is_some() {
            return self.borrow(worker, product, (route, addr), true);
        }
        let group = usize::from(group);
        if let Some(Some(backend)) = self.by_replica.borrow().get(group).and_then(|replicas| replicas.get(index)) {
            return Some(backend.clone());
        }
        let mut backends = product.backends.borrow_mut();
        let found = backends.iter().find(|b| b.replica && self.is_of(b) && b.addr == *addr);
        let backend = found.cloned().unwrap_or_else(|| {
            let made = self.make(worker, product, (route, addr), true, None);
            backends.push(made.clone());
            made
        });
        let mut by_replica = self.by_replica.borrow_mut();
        if by_replica.len() <= group {
            by_replica.resize(group + 1, Vec::new());
        }
        let replicas = &mut by_replica[group];
        if replicas.len() <= index {
            replicas.resize(index + 1, None);
        }
        replicas[index] = Some(backend.clone());
        Some(backend)
    }

    /// The shared backend of any server of a group, for what concerns this server and no data. It is made at the first use,
    /// and again when the routes have changed.
    pub(super) fn of_server(
        &self,
        worker: &Rc<Worker>,
        product: &Rc<ProductView>,
        (route, addr): (&GroupRoute, &HostPort),
    ) -> Rc<Backend> {
        let mut backends = product.backends.borrow_mut();
        let found = backends.iter().find(|b| !b.replica && self.is_of(b) && b.addr == *addr).cloned();
        found.unwrap_or_else(|| {
            let made = self.make(worker, product, (route, addr), false, None);
            backends.push(made.clone());
            made
        })
    }

    /// Whether a session with this set may use `backend`.
    pub(super) fn is_of(&self, backend: &Backend) -> bool {
        backend.db == self.db
            && backend.version == self.version
            && backend.user == self.user
            && backend.dedicated_use() == self.borrowed.as_ref().map(|(used_for, _)| *used_for)
    }

    /// Makes a backend and starts its task. The caller adds it to the product's.
    pub(super) fn make(
        &self,
        worker: &Rc<Worker>,
        product: &Rc<ProductView>,
        (group, addr): (&GroupRoute, &HostPort),
        replica: bool,
        dedicated: Option<DedicatedPlace>,
    ) -> Rc<Backend> {
        let kind = BackendKind {
            addr: addr.clone(),
            login: group.login.clone(),
            user: self.user,
            db: self.db,
            version: self.version,
            replica,
            dedicated,
        };
        let backend = Backend::new(product.clone(), kind);
        worker.spawn_shared("backend", backend::run(backend.clone(), worker.clone()));
        backend
    }

    /// An empty set of connections that all sessions of the worker share.
    pub(super) fn shared(db: u32, version: Version, user: ServerUser) -> Self {
        Self { db, version, user, borrowed: None, by_group: RefCell::default(), by_replica: RefCell::default() }
    }

    /// An empty set of dedicated connections, for one session.
    pub(super) fn dedicated(db: u32, version: Version, used_for: DedicatedUse) -> Self {
        Self { borrowed: Some((used_for, RefCell::default())), ..Self::shared(db, version, used_for.user()) }
    }

    /// The session's connection to a server: the one that it has, or an idle one, or a new one. `None`: there are too
    /// many.
    pub(super) fn borrow(
        &self,
        worker: &Rc<Worker>,
        product: &Rc<ProductView>,
        (group, addr): (&GroupRoute, &HostPort),
        replica: bool,
    ) -> Option<Rc<Backend>> {
        let (used_for, borrowed) = self.borrowed.as_ref()?;
        let mut borrowed = borrowed.borrow_mut();
        borrowed.retain(|backend| backend.may_be_borrowed());
        let fits = |backend: &Rc<Backend>| {
            backend.addr == *addr && backend.replica == replica && backend.login == group.login && self.is_of(backend)
        };
        if let Some(backend) = borrowed.iter().find(|backend| fits(backend)) {
            return Some(backend.clone());
        }
        let idle = {
            let mut idle = product.dedicated.idle.borrow_mut();
            idle.retain(|backend| backend.may_be_borrowed());
            idle.iter().position(fits).map(|index| idle.swap_remove(index))
        };
        let backend = match idle {
            Some(backend) => backend,
            None => {
                let place = DedicatedPlace::take(worker, product, addr, *used_for)?;
                let made = self.make(worker, product, (group, addr), replica, Some(place));
                product.backends.borrow_mut().push(made.clone());
                made
            }
        };
        borrowed.push(backend.clone());
        Some(backend)
    }

    /// Closes the connections of a dedicated set, which have a state that no other session may get.
    pub(super) fn close(&self) {
        for backend in self.borrowed.iter().flat_map(|(_, borrowed)| borrowed.take()) {
            backend.retire();
        }
    }

    /// Returns the connections of a dedicated set. Those with unanswered requests are closed when these are answered.
    pub(super) fn release(&self, product: &ProductView) {
        let Some((_, borrowed)) = &self.borrowed else { return };
        let mut idle = product.dedicated.idle.borrow_mut();
        for backend in borrowed.borrow_mut().drain(..) {
            let clean = backend.link.get() == BackendLink::Up && backend.inflight.borrow().is_empty();
            let alike = idle.iter().filter(|other| other.dedicated_use() == backend.dedicated_use()).count();
            if clean && backend.may_be_borrowed() && alike < IDLE_MAX {
                idle.push(backend);
            } else {
                backend.retire();
            }
        }
    }
}
