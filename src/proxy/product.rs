//! A worker's view of one product: its newest routes and its backends. It changes only between turns.
//! Knows nothing of other products.

use std::{
    cell::{Cell, OnceCell, Ref, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    acks::{self, Acks},
    backend::{Backend, ServerUser},
    backend_set::BackendSet,
    dedicated::DedicatedPool,
    described::DescribedCommands,
    monitor::Monitors,
    own_settings::OwnSettings,
    pause::Pause,
    quota::Quota,
    scripts::ProductScripts,
    slow_log::SlowLog,
    usage::ProductUsage,
    worker::{PauseTimer, Worker},
};
use crate::{
    clock::boottime_ns,
    model::{
        ids::HostPort,
        reads::ProductReads,
        route::{GroupRoute, ProductRoutes},
    },
    resp::write::Version,
};

/// A read waits at most this long for a replica that may no longer serve. A replica that is merely slow answers sooner.
const STUCK_AFTER: Duration = Duration::from_millis(300);

/// A worker's view of a product.
#[derive(Debug)]
pub(super) struct ProductView {
    pub(super) routes: RefCell<Arc<ProductRoutes>>,
    /// A copy of `routes.min_acks`, so that a reply need not borrow `routes`.
    pub(super) min_acks: Cell<u8>,
    /// A copy of `routes.reads.confirmed`.
    pub(super) confirm_reads: Cell<bool>,
    /// What its clients have loaded.
    pub(super) scripts: ProductScripts,
    /// What its servers say of their commands.
    pub(super) described: RefCell<DescribedCommands>,
    /// What its clients do on this worker.
    usage: OnceCell<Arc<ProductUsage>>,
    /// Whether its clients are paused, or somebody sees their requests.
    pub(super) is_observed: Cell<bool>,
    pub(super) pause: Pause,
    pub(super) pause_timer: PauseTimer,
    pub(super) monitors: Monitors,
    pub(super) slow_log: SlowLog,
    /// What its clients have set.
    pub(super) own_settings: OwnSettings,
    /// Workers of the node.
    workers: usize,
    /// The worker's share of the product's quotas. `None`: it has none.
    pub(super) quota: RefCell<Option<Rc<Quota>>>,
    /// The replicas that may serve reads. `None`: all reads go to primaries, or no replica has been probed yet.
    reads: RefCell<Option<Arc<ProductReads>>>,
    backend_sets: RefCell<Vec<Rc<BackendSet>>>,
    /// Shared and dedicated ones.
    pub(super) backends: RefCell<Vec<Rc<Backend>>>,
    pub(super) dedicated: DedicatedPool,
    /// Retired backends that may still have requests in flight.
    retired: RefCell<Vec<Rc<Backend>>>,
    /// Where the replies to writes wait for replicas: one for each server that received writes.
    acks: RefCell<Vec<Rc<Acks>>>,
    /// Retired ones in which writes may still wait.
    retired_acks: RefCell<Vec<Rc<Acks>>>,
}

impl ProductView {
    /// `workers`: of the node, which share the quotas.
    pub(super) fn new(routes: Arc<ProductRoutes>, workers: usize) -> Self {
        Self {
            workers,
            quota: RefCell::new(Quota::new(routes.rules, workers).map(Rc::new)),
            min_acks: Cell::new(routes.min_acks),
            confirm_reads: Cell::new(routes.reads.confirmed),
            scripts: ProductScripts::default(),
            described: RefCell::default(),
            usage: OnceCell::new(),
            is_observed: Cell::new(false),
            pause: Pause::default(),
            pause_timer: PauseTimer::default(),
            monitors: Monitors::default(),
            slow_log: SlowLog::default(),
            own_settings: OwnSettings::default(),
            routes: RefCell::new(routes),
            reads: RefCell::default(),
            backend_sets: RefCell::default(),
            backends: RefCell::default(),
            dedicated: DedicatedPool::default(),
            retired: RefCell::default(),
            acks: RefCell::default(),
            retired_acks: RefCell::default(),
        }
    }

    /// Counters of what its clients do on this worker; made at the first use.
    #[inline]
    pub(super) fn usage(&self, worker: &Worker) -> &ProductUsage {
        self.usage.get_or_init(|| worker.shared.usage.add(self.routes.borrow().id))
    }

    /// Counts requests that a pause does not postpone any more.
    pub(super) fn count_resumed(&self, requests: usize) {
        if let Some(usage) = self.usage.get() {
            (0..requests).for_each(|_| usage.unblock());
        }
    }

    /// What errors to clients call a server: its address says where the product's data is, which is nothing that its clients
    /// have to know.
    pub(super) fn server_name(&self, addr: &HostPort) -> String {
        if self.routes.borrow().rules.errors_detailed { format!("server {addr}") } else { "its server".into() }
    }

    /// What errors to clients say of a server. What stands in parentheses comes from the system or the server, and may name
    /// more than the client has to know.
    pub(super) fn of_server(&self, addr: &HostPort, why: &str) -> String {
        let detailed = self.routes.borrow().rules.errors_detailed;
        let why = if detailed { why } else { why.split(" (").next().unwrap_or_default() };
        format!("{} {why}", self.server_name(addr))
    }

    /// Sees anew whether its clients are paused or watched.
    pub(super) fn note_observers(&self) {
        self.is_observed.set(self.monitors.retain() || self.pause.kind().is_some());
    }

    /// Every backend that may have requests in flight.
    pub(super) fn backends_and_retired(&self) -> Vec<Rc<Backend>> {
        self.backends.borrow().iter().chain(self.retired.borrow().iter()).cloned().collect()
    }

    /// Every `Acks` in which writes may wait for replicas.
    pub(super) fn acks_and_retired(&self) -> Vec<Rc<Acks>> {
        self.acks.borrow().iter().chain(self.retired_acks.borrow().iter()).cloned().collect()
    }

    /// Where the writes of a backend wait for replicas; made at the first use.
    pub(super) fn acks(self: &Rc<Self>, worker: &Rc<Worker>, backend: &Backend) -> Rc<Acks> {
        let mut all = self.acks.borrow_mut();
        if let Some(acks) = all.iter().find(|a| a.addr == backend.addr && a.credentials == backend.login.control) {
            return acks.clone();
        }
        let acks = Rc::new(Acks::new(self.clone(), backend.addr.clone(), backend.login.control.clone()));
        all.push(acks.clone());
        worker.spawn_shared("acks", acks::run(acks.clone(), worker.clone()));
        acks
    }

    /// Lets every backend check its deadline, closes unused ones, and drops retired ones that have nothing in flight.
    pub(super) fn tick(&self, worker: &Worker) {
        for backend in self.backends.borrow().iter().chain(self.retired.borrow().iter()) {
            if backend.may_be_overdue(worker) {
                backend.wake();
            }
        }
        if let Some(quota) = &*self.quota.borrow() {
            quota.refill();
        }
        let stuck: Vec<_> = self.backends.borrow().iter().filter(|b| self.is_stuck(b, worker)).cloned().collect();
        for backend in stuck {
            backend.abandon(worker);
        }
        self.dedicated.drop_unusable();
        self.retire_unless(|backend| {
            !backend.is_idle(worker) && (!backend.is_dedicated() || backend.may_be_borrowed())
        });
        self.retired.borrow_mut().retain(|backend| !backend.inflight.borrow().is_empty());
        self.retired_acks.borrow_mut().retain(|acks| !acks.is_empty());
    }

    /// The backend set for what clients send in a database and version.
    pub(super) fn backend_set(&self, db: u32, version: Version) -> Rc<BackendSet> {
        self.shared_set(db, version, ServerUser::Data)
    }

    /// The backend set for what the node itself sends for a client of a database and version. Its users may do anything at
    /// the servers, so no bytes of a client go there as a request of their own.
    pub(super) fn control_set(&self, db: u32, version: Version) -> Rc<BackendSet> {
        self.shared_set(db, version, ServerUser::Control)
    }

    /// Made at the first use. There are few, so the search is linear.
    fn shared_set(&self, db: u32, version: Version, user: ServerUser) -> Rc<BackendSet> {
        let mut backend_sets = self.backend_sets.borrow_mut();
        if let Some(set) = backend_sets.iter().find(|set| set.db == db && set.version == version && set.user == user) {
            return set.clone();
        }
        let backend_set = Rc::new(BackendSet::shared(db, version, user));
        backend_sets.push(backend_set.clone());
        backend_set
    }

    /// Replaces the routes. Retires backends whose server is no longer a primary (or no longer a replica) or has other
    /// credentials. Returns whether clients log in with other credentials.
    pub(super) fn swap(&self, routes: Arc<ProductRoutes>) -> bool {
        // A product that another product's change did not touch is shared with the table before: its backend sets stay.
        if Arc::ptr_eq(&routes, &self.routes.borrow()) {
            return false;
        }
        let is_still = |backend: &Backend, group: &GroupRoute| match backend.replica {
            false => group.primary == backend.addr,
            true => group.replicas.contains(&backend.addr),
        };
        self.retire_unless(|backend| routes.groups.iter().any(|g| is_still(backend, g) && g.login == backend.login));
        self.acks.borrow_mut().retain(|acks| {
            let stays = routes.groups.iter().any(|g| g.primary == acks.addr && g.login.control == acks.credentials);
            if !stays {
                acks.retire();
                self.retired_acks.borrow_mut().push(acks.clone());
            }
            stays
        });
        if routes.rules != self.routes.borrow().rules {
            let former = self.quota.replace(Quota::new(routes.rules, self.workers).map(Rc::new));
            former.iter().for_each(|quota| quota.wake_all());
        }
        self.min_acks.set(routes.min_acks);
        self.confirm_reads.set(routes.reads.confirmed);
        // The order of the groups may differ.
        self.clear_backend_sets();
        let before = self.routes.replace(routes);
        before.auth != self.routes.borrow().auth
    }

    /// Replaces the set of replicas that may serve reads.
    pub(super) fn swap_reads(&self, reads: Option<Arc<ProductReads>>) {
        *self.reads.borrow_mut() = reads;
        // The order of the replicas may differ.
        for backend_set in self.backend_sets.borrow().iter() {
            backend_set.by_replica.borrow_mut().clear();
        }
    }

    /// The replicas that may serve reads.
    pub(super) fn reads(&self) -> Ref<'_, Option<Arc<ProductReads>>> {
        self.reads.borrow()
    }

    /// Retires the backends for which `stays` is false. Sessions then look up their backends again.
    fn retire_unless(&self, stays: impl Fn(&Backend) -> bool) {
        let mut retired = self.retired.borrow_mut();
        let mut shared = false;
        self.backends.borrow_mut().retain(|backend| {
            let stays = stays(backend);
            if !stays {
                backend.retire();
                shared |= !backend.is_dedicated();
                retired.push(backend.clone());
            }
            stays
        });
        if shared {
            self.clear_backend_sets();
        }
    }

    fn clear_backend_sets(&self) {
        for backend_set in self.backend_sets.borrow().iter() {
            backend_set.by_group.borrow_mut().clear();
            backend_set.by_replica.borrow_mut().clear();
        }
    }

    /// Whether reads wait for a replica that may no longer serve: repeating them at the primary is better than waiting.
    fn is_stuck(&self, backend: &Backend, worker: &Worker) -> bool {
        let waits = backend.inflight.borrow().front().is_some_and(|entry| worker.clock.age(entry.tick) >= STUCK_AFTER);
        if !backend.replica || !waits {
            return false;
        }
        let now_ns = boottime_ns();
        let reads = self.reads.borrow();
        let mut may = reads.iter().flat_map(|reads| reads.groups.values()).flat_map(|group| &group.replicas);
        !may.any(|replica| replica.addr == backend.addr && now_ns < replica.until_ns)
    }

    /// Closes everything, because the product was removed.
    pub(super) fn remove(&self, worker: &Worker) {
        self.backend_sets.borrow_mut().clear();
        let backends = self.backends_and_retired();
        self.backends.borrow_mut().clear();
        self.dedicated.clear();
        self.retired.borrow_mut().clear();
        let acks = self.acks_and_retired();
        self.acks.borrow_mut().clear();
        self.retired_acks.borrow_mut().clear();
        for acks in acks {
            acks.retire();
            acks.abandon(worker);
        }
        for backend in backends {
            backend.retired.set(true);
            // The product's sessions are being closed, so no client waits for the requests in flight.
            backend.abandon(worker);
            backend.wake();
        }
    }

    /// Closes the connections to `server` at once, because a failover replaces it.
    pub(super) fn abandon(&self, worker: &Worker, server: &HostPort) {
        for backend in self.backends_and_retired().iter().filter(|b| b.addr == *server) {
            backend.abandon(worker);
        }
        for acks in self.acks_and_retired().iter().filter(|a| a.addr == *server) {
            acks.abandon(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ids::ProductId,
        reads::ReadPolicy,
        route::{Isolated, Mode},
        slot::Layout,
    };

    #[test]
    fn a_product_that_did_not_change_keeps_its_backend_sets() {
        let routes = Arc::new(ProductRoutes {
            id: ProductId(1),
            name: "default".into(),
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: 16,
            port: 19_000,
            min_acks: 0,
            min_acks_ms: 1000,
            clients_max: 0,
            rules: Default::default(),
            auth: Default::default(),
            reads: ReadPolicy::default(),
            groups: Vec::new(),
            slots: Box::default(),
            scans: Default::default(),
        });
        let view = ProductView::new(routes.clone(), 1);
        let backend_set = view.backend_set(0, Version::Resp2);
        let entries = || backend_set.by_group.borrow().len();
        backend_set.by_group.borrow_mut().push(None);
        view.swap(routes.clone());
        assert_eq!(entries(), 1, "the same routes");
        view.swap(Arc::new((*routes).clone()));
        assert_eq!(entries(), 0, "routes that may be other ones");
    }
}
