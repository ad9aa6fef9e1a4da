//! Dedicated connections to servers: one session borrows such a connection for its large messages or for a blocking
//! command, so that no other session waits behind them. Knows nothing of when a session needs one; `session::connections`
//! and `blocking` decide that.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Semaphore;

use super::{
    backend::{Backend, ServerUser},
    counters::count,
    limits::Limits,
    product::ProductView,
    worker::Worker,
};
use crate::model::ids::HostPort;

/// Unused connections that a worker keeps per product and use: enough for a few clients with large values, and for those
/// of a queue that come back at once.
pub(super) const IDLE_MAX: usize = 32;

/// Connections that a worker opens to one server at the same time. A burst beyond the server's `tcp-backlog` (511) would
/// lose connection requests of everybody.
const OPENING_MAX: usize = 64;

/// What a session borrows a connection for. One that was used for one thing is not used for another: the connections of
/// blocking commands have a name of their own, by which the leader closes those of a node whose lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DedicatedUse {
    LargeMessages,
    Blocking,
    Watch,
    /// A transaction that selects databases.
    Select,
}

impl DedicatedUse {
    /// As whom the connection is logged in.
    pub(super) fn user(self) -> ServerUser {
        match self {
            Self::LargeMessages | Self::Blocking | Self::Watch => ServerUser::Data,
            // A data user may not run SELECT.
            Self::Select => ServerUser::Control,
        }
    }
}

/// How many dedicated connections a worker has, of all products: each needs a file descriptor.
#[derive(Debug, Default)]
pub(super) struct DedicatedCount(Rc<Cell<usize>>);

/// What makes a connection a dedicated one. Dropping it makes room for another one.
#[derive(Debug)]
pub(super) struct DedicatedPlace {
    taken: Rc<Cell<usize>>,
    pub(super) used_for: DedicatedUse,
    /// Limits the connections that are being opened to the server.
    pub(super) opening: Rc<Semaphore>,
}

impl DedicatedPlace {
    /// A place for a connection to a server, if the worker has room for one.
    pub(super) fn take(
        worker: &Worker,
        product: &ProductView,
        addr: &HostPort,
        used_for: DedicatedUse,
    ) -> Option<Self> {
        let Limits { dedicated_max, dedicated_total_max, .. } = worker.config.limits;
        let (of_product, of_server) = {
            let backends = product.backends.borrow();
            let dedicated = || backends.iter().filter(|backend| backend.is_dedicated());
            let to_server = dedicated().filter(|backend| backend.addr == *addr);
            let counts = |(all, open): (usize, usize), backend: &Rc<Backend>| {
                (all + 1, open + usize::from(backend.process_at_other_end().is_some()))
            };
            (dedicated().count(), to_server.fold((0, 0), counts))
        };
        let (of_server, open) = of_server;
        let taken = &worker.dedicated.0;
        let server_max = product.dedicated.server_max(worker, addr, open);
        if of_product >= share(worker, dedicated_max) || of_server >= server_max {
            return None;
        }
        if taken.get() >= share(worker, dedicated_total_max) {
            // There is room for the next request when unused ones have been closed.
            worker.routes.products().values().for_each(|product| product.dedicated.retire_idle());
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self { taken: taken.clone(), used_for, opening: product.dedicated.opening(addr) })
    }
}

impl Drop for DedicatedPlace {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - 1);
    }
}

/// The part of a limit of the node that a worker has.
fn share(worker: &Worker, max: usize) -> usize {
    (max / worker.config.workers).max(1)
}

/// The dedicated connections of one product that no session has borrowed.
#[derive(Debug, Default)]
pub(super) struct DedicatedPool {
    pub(super) idle: RefCell<Vec<Rc<Backend>>>,
    servers: RefCell<Vec<DedicatedServer>>,
}

/// What a worker knows of a server for its dedicated connections.
#[derive(Debug)]
struct DedicatedServer {
    addr: HostPort,
    /// Limits the connections that are being opened.
    opening: Rc<Semaphore>,
    /// The last count of the server's clients, and how many dedicated connections of the worker were open then.
    at_count: (u64, usize),
}

impl DedicatedPool {
    /// Limits the connections that are being opened to a server.
    fn opening(&self, addr: &HostPort) -> Rc<Semaphore> {
        self.of_server(addr, |server| server.opening.clone())
    }

    /// How many dedicated connections to a server the worker may have, of which `open` are open. It takes itself for the usual
    /// worker of the node.
    fn server_max(&self, worker: &Worker, addr: &HostPort, open: usize) -> usize {
        let room = worker.config.server_clients.room(addr);
        let at_count = self.of_server(addr, |server| {
            if let Some(count) = room.count().filter(|count| server.at_count.0 != *count) {
                server.at_count = (count, open);
            }
            server.at_count.1
        });
        share(worker, room.node_max(at_count * worker.config.workers))
    }

    fn of_server<T>(&self, addr: &HostPort, of: impl FnOnce(&mut DedicatedServer) -> T) -> T {
        let mut all = self.servers.borrow_mut();
        if let Some(server) = all.iter_mut().find(|server| server.addr == *addr) {
            return of(server);
        }
        // Servers that left the routes and have no connections.
        all.retain(|server| Rc::strong_count(&server.opening) > 1);
        let opening = Rc::new(Semaphore::new(OPENING_MAX));
        let mut server = DedicatedServer { addr: addr.clone(), opening, at_count: (0, 0) };
        let result = of(&mut server);
        all.push(server);
        result
    }

    /// Drops idle connections that have ended or are about to.
    pub(super) fn drop_unusable(&self) {
        self.idle.borrow_mut().retain(|backend| backend.may_be_borrowed());
    }

    /// Closes all idle connections.
    fn retire_idle(&self) {
        self.idle.borrow_mut().drain(..).for_each(|backend| backend.retire());
    }

    /// Drops all idle connections, because the product was removed.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

impl ProductView {
    /// The error for a request for which there is no dedicated connection.
    pub(super) fn too_many_dedicated(&self, worker: &Worker) -> String {
        count(&worker.stats.dedicated_refused);
        let Limits { dedicated_max, dedicated_total_max, .. } = worker.config.limits;
        let name = &self.routes.borrow().name;
        format!(
            "ERR too many dedicated connections to servers: this node may have {dedicated_max} for product '{name}', \
             {dedicated_total_max} in all, divided among its {} workers, and to each server its part of what is free of the \
             server's maxclients; not executed",
            worker.config.workers
        )
    }
}
