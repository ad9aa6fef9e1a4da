//! One data thread: its sessions, products and backends, its route table, and the moments between turns.
//! Knows nothing of the other workers; what it reports is merged elsewhere.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, LocalSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    ProxyConfig, ProxyPhase,
    check::{ServeCheck, serve_check},
    dispatch::Scratch,
    hold::Holds,
    listener::Accepted,
    permit::Permit,
    product::ProductView,
    report::{SharedReport, StatsSnapshot, WorkerStatus},
    session::{Session, SessionTask},
};
use crate::{
    clock::boottime_ns,
    faults::{self, Rule},
    model::{
        ids::{Epoch, ProductId},
        reads::ReadTable,
        route::{Isolated, RouteTable},
    },
};

/// Length of a tick: how exact deadlines and parking times are. Requests carry the tick, so that no clock is read for one.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between reports of counters.
const TICKS_PER_REPORT: u32 = 10;

/// Read buffer of a worker; a read that fills it is followed by another.
const SCRATCH: usize = 64 * 1024;

/// Reply buffers that a worker keeps for sessions that are not at rest, and the largest it keeps.
const POOL_MAX: usize = 512;
const POOLED_BUFFER_MAX: usize = 16 * 1024;

/// Capacity of a new reply buffer.
const REPLY_BUFFER: usize = 1024;

/// What a worker thread begins with.
pub(super) struct WorkerStart {
    pub(super) index: usize,
    pub(super) config: Arc<ProxyConfig>,
    pub(super) shared: Arc<SharedReport>,
    pub(super) permit: Arc<Permit>,
    pub(super) routes: watch::Receiver<Arc<RouteTable>>,
    pub(super) reads: watch::Receiver<Arc<ReadTable>>,
    pub(super) inbox: mpsc::Receiver<Accepted>,
    pub(super) phase: watch::Receiver<ProxyPhase>,
}

/// Counters; cells, because one thread writes them.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) accepted: Cell<u64>,
    pub(super) requests: Cell<u64>,
    pub(super) forwarded: Cell<u64>,
    pub(super) refused: Cell<u64>,
    pub(super) unknown: Cell<u64>,
    pub(super) parked: Cell<u64>,
    pub(super) slow_clients: Cell<u64>,
    pub(super) replica_reads: Cell<u64>,
    pub(super) replica_repeats: Cell<u64>,
}

/// What the tasks of a worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    /// Itself, for what is done far below its tasks.
    pub(super) me: Weak<Self>,
    pub(super) config: Arc<ProxyConfig>,
    pub(super) shared: Arc<SharedReport>,
    pub(super) permit: Arc<Permit>,
    /// A test has taken check 2 out; never in a release build.
    pub(super) unchecked: bool,
    pub(super) products: RefCell<BTreeMap<ProductId, Rc<ProductView>>>,
    pub(super) epoch: Cell<Epoch>,
    /// Counts swaps of the table.
    pub(super) generation: Cell<u32>,
    pub(super) tick: Cell<u32>,
    /// What the clock said last; 0: not read in this batch of requests.
    clock_ns: Cell<u64>,
    started: Instant,
    /// Where sockets are read into.
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) dispatch_scratch: RefCell<Scratch>,
    pub(super) part_buffers: RefCell<Vec<Vec<u8>>>,
    /// Sessions that got replies in this turn.
    pub(super) touched: RefCell<Vec<Rc<Session>>>,
    pool: RefCell<Vec<Vec<u8>>>,
    pub(super) holds: RefCell<Holds>,
    pub(super) parked: RefCell<Vec<Rc<Session>>>,
    pub(super) parked_bytes: Cell<usize>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    next_session: Cell<u64>,
    /// Panics of tasks that many sessions share; see [`spawn_shared`](Self::spawn_shared).
    panics: mpsc::Sender<Box<dyn Any + Send>>,
    pub(super) stats: Stats,
}

/// The body of a worker thread.
pub(super) fn run(start: WorkerStart) {
    // Many polls between looks at the sockets: what becomes ready in one look is worked on before the next.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .event_interval(256)
        .global_queue_interval(512)
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(start)),
        Err(error) => tracing::error!(%error, worker = start.index, "a worker could not be started"),
    }
}

async fn serve(start: WorkerStart) {
    let WorkerStart { index, config, shared, permit, mut routes, mut reads, mut inbox, mut phase } = start;
    let (panics, mut panicked) = mpsc::channel(1);
    // From here on the tick counts.
    let worker = Rc::new_cyclic(|me| Worker {
        index,
        me: me.clone(),
        config,
        shared,
        permit,
        unchecked: faults::without(Rule::ReplyCheck),
        products: RefCell::default(),
        epoch: Cell::new(Epoch(0)),
        generation: Cell::new(0),
        tick: Cell::new(0),
        clock_ns: Cell::new(0),
        started: Instant::now(),
        scratch: RefCell::new(vec![0; SCRATCH]),
        dispatch_scratch: RefCell::default(),
        part_buffers: RefCell::default(),
        touched: RefCell::default(),
        pool: RefCell::default(),
        holds: RefCell::default(),
        parked: RefCell::default(),
        parked_bytes: Cell::new(0),
        sessions: RefCell::default(),
        // Unique over the workers of a node, as CLIENT ID must be.
        next_session: Cell::new(index as u64 + 1),
        panics,
        stats: Stats::default(),
    });
    let table = routes.borrow_and_update().clone();
    worker.swap(&table);
    let table = reads.borrow_and_update().clone();
    worker.swap_reads(&table);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let name = format!("worker-{index}");
    let mut fault = std::pin::pin!(faults::panic_when_asked(&name));
    let within = loop {
        tokio::select! {
            biased;
            never = &mut fault => match never {},
            Some(payload) = panicked.recv() => std::panic::resume_unwind(payload),
            changed = phase.changed() => match (changed, *phase.borrow_and_update()) {
                (Ok(()), ProxyPhase::Run) => {}
                (Ok(()), ProxyPhase::Drain { within }) => break within,
                (Err(_), _) => break Duration::ZERO,
            },
            Ok(()) = routes.changed() => {
                let table = routes.borrow_and_update().clone();
                worker.swap(&table);
            }
            Ok(()) = reads.changed() => {
                let table = reads.borrow_and_update().clone();
                worker.swap_reads(&table);
            }
            _ = ticks.tick() => worker.on_tick(),
            Some(accepted) = inbox.recv() => worker.accept(accepted),
        }
    };
    drain(&worker, within, &mut routes, &mut ticks).await;
}

/// Lets sessions finish what they have asked, until the deadline.
async fn drain(
    worker: &Rc<Worker>,
    within: Duration,
    routes: &mut watch::Receiver<Arc<RouteTable>>,
    ticks: &mut tokio::time::Interval,
) {
    let deadline = Instant::now() + within;
    for session in worker.sessions.borrow().values() {
        session.close_when_answered();
    }
    while !worker.sessions.borrow().is_empty() {
        tokio::select! {
            () = sleep_until(deadline) => return,
            // Holds go on being honoured and acked while we leave.
            Ok(()) = routes.changed() => {
                let table = routes.borrow_and_update().clone();
                worker.swap(&table);
            }
            _ = ticks.tick() => worker.on_tick(),
        }
    }
}

impl Worker {
    /// Replaces the route table. Runs as a turn of its own, so no other sees half of it.
    fn swap(self: &Rc<Self>, table: &RouteTable) {
        self.generation.set(self.generation.get().wrapping_add(1));
        self.epoch.set(table.epoch);
        let mut removed = Vec::new();
        {
            let mut products = self.products.borrow_mut();
            products.retain(|id, view| {
                let stays = table.products.contains_key(id);
                if !stays {
                    removed.push(view.clone());
                }
                stays
            });
            for (id, routes) in &table.products {
                match products.get(id) {
                    Some(view) => view.swap(routes.clone()),
                    None => {
                        products.insert(*id, Rc::new(ProductView::new(routes.clone())));
                    }
                }
            }
        }
        for view in removed {
            for session in self.sessions.borrow().values().filter(|s| Rc::ptr_eq(&s.product, &view)) {
                session.kill();
            }
            view.remove(self);
        }
        self.swap_holds(table);
        self.recount_holds();
        self.unpark_all();
        self.publish();
    }

    /// Takes over which replicas may serve. A turn of its own, like [`swap`](Self::swap). A product that is new here gets it
    /// with the next one: until then it reads from its primaries.
    fn swap_reads(&self, table: &ReadTable) {
        for (id, view) in &*self.products.borrow() {
            view.swap_reads(table.products.get(id).cloned());
        }
    }

    fn on_tick(&self) {
        // From the clock, so that ticks that were skipped while the thread was busy or stopped are counted.
        let tick = (self.started.elapsed().as_millis() / TICK.as_millis()) as u32;
        let before = self.tick.replace(tick);
        for product in self.products.borrow().values() {
            product.tick(self);
        }
        if !self.parked.borrow().is_empty() {
            self.unpark_expired();
        }
        self.recount_holds();
        if tick / TICKS_PER_REPORT != before / TICKS_PER_REPORT {
            self.publish();
        }
    }

    fn accept(self: &Rc<Self>, accepted: Accepted) {
        let Some(product) = self.products.borrow().get(&accepted.product).cloned() else {
            // Removed since it was accepted.
            self.shared.clients[self.index].fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let id = self.next_session.get();
        self.next_session.set(id + self.config.workers as u64);
        match tokio::net::TcpStream::from_std(accepted.stream) {
            Ok(stream) => {
                self.stats.accepted.set(self.stats.accepted.get() + 1);
                // Its panic ends the session (see `SessionTask::drop`) and nothing else.
                let session = SessionTask::new(self.clone(), product, stream, accepted.from, id);
                if faults::enabled() {
                    tokio::task::spawn_local(faults::or_panic("session", session));
                } else {
                    tokio::task::spawn_local(session);
                }
            }
            Err(error) => {
                self.shared.clients[self.index].fetch_sub(1, Ordering::Relaxed);
                tracing::debug!(%error, "an accepted connection was already broken");
            }
        }
    }

    /// Starts a task that many sessions depend on. Its panic ends this thread, and with it the node: sessions would wait for the
    /// task for ever.
    pub(super) fn spawn_shared(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        // Without the wrapper where there are no faults: this is the hot path.
        let task = if faults::enabled() {
            tokio::task::spawn_local(faults::or_panic(name, task))
        } else {
            tokio::task::spawn_local(task)
        };
        let panics = self.panics.clone();
        tokio::task::spawn_local(async move {
            if let Err(Ok(payload)) = task.await.map_err(JoinError::try_into_panic) {
                // An error: the thread ends already, for another panic.
                let _ = panics.try_send(payload);
            }
        });
    }

    /// A session begins. (The acceptor has counted it already.)
    pub(super) fn enter(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.id, session.clone());
    }

    /// A session has ended.
    pub(super) fn leave(&self, session: &Rc<Session>) {
        self.parked.borrow_mut().retain(|parked| !Rc::ptr_eq(parked, session));
        if self.sessions.borrow_mut().remove(&session.id).is_some() {
            self.shared.clients[self.index].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Check 1 and the lease half of check 2 for a setting of `isolated`.
    #[inline]
    pub(super) fn gate_of(&self, isolated: Isolated) -> ServeCheck {
        serve_check(&self.permit, self.epoch.get(), isolated, || self.read_clock())
    }

    /// Check 1 for a batch of requests that begins now, and their moment.
    #[inline]
    pub(super) fn begin_batch(&self, isolated: Isolated) -> ServeCheck {
        self.clock_ns.set(0);
        self.gate_of(isolated)
    }

    /// A moment since the batch of requests began that is being worked on, nanoseconds of `CLOCK_BOOTTIME`. The clock is read
    /// once for all of them.
    pub(super) fn batch_ns(&self) -> u64 {
        match self.clock_ns.get() {
            0 => self.read_clock(),
            ns => ns,
        }
    }

    #[inline]
    fn read_clock(&self) -> u64 {
        let now_ns = boottime_ns();
        self.clock_ns.set(now_ns);
        now_ns
    }

    /// The same for a product.
    #[inline]
    pub(super) fn serve_check(&self, product: &ProductView) -> ServeCheck {
        self.gate_of(product.routes.borrow().isolated)
    }

    /// How long ago a tick was, to a tick.
    pub(super) fn age(&self, tick: u32) -> Duration {
        TICK * self.tick.get().wrapping_sub(tick)
    }

    /// Writes the replies of this turn, each session once.
    #[inline]
    pub(super) fn flush_touched(&self) {
        // Flushing touches nobody else, so the list can stay temporarily owned while it is emptied.
        for session in self.touched.borrow_mut().drain(..) {
            session.flush(self);
        }
    }

    /// A buffer for replies.
    #[inline]
    pub(super) fn lend_buffer(&self) -> Vec<u8> {
        self.pool.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(REPLY_BUFFER))
    }

    /// Takes a buffer back, if it is worth keeping.
    #[inline]
    pub(super) fn return_buffer(&self, mut buffer: Vec<u8>) {
        let mut pool = self.pool.borrow_mut();
        if pool.len() < POOL_MAX && buffer.capacity() <= POOLED_BUFFER_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    }

    /// Tells the node where this worker stands.
    pub(super) fn publish(&self) {
        let stats = StatsSnapshot {
            accepted: self.stats.accepted.get(),
            requests: self.stats.requests.get(),
            forwarded: self.stats.forwarded.get(),
            refused: self.stats.refused.get(),
            unknown: self.stats.unknown.get(),
            parked: self.stats.parked.get(),
            slow_clients: self.stats.slow_clients.get(),
            replica_reads: self.stats.replica_reads.get(),
            replica_repeats: self.stats.replica_repeats.get(),
        };
        let status = WorkerStatus { epoch: self.epoch.get(), holds: self.holds.borrow().progress(), stats };
        self.shared.set_worker(self.index, status);
    }
}
