//! One data thread of the proxy: its sessions, routes, backends and buffers, and the work between turns.
//! Knows nothing of the other workers; `report` merges what each reports.

mod buffers;
mod clock;
mod parking;
mod routes;

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

use buffers::Buffers;
use clock::{TICK, WorkerClock};
use parking::Parking;
use routes::WorkerRoutes;

use super::{
    ProxyConfig, ProxyPhase,
    check::{ServeCheck, serve_check},
    hold::Holds,
    listener::Accepted,
    permit::Permit,
    product::ProductView,
    report::{SharedReport, StatsSnapshot, WorkerStatus},
    session::{Session, SessionTask},
};
use crate::{
    faults,
    model::{
        reads::ReadTable,
        route::{Isolated, RouteTable},
    },
};

/// Ticks between reports of counters: one second, which is recent enough for operators.
const TICKS_PER_REPORT: u32 = 10;

/// What a worker thread needs to start.
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

/// Counters. Cells suffice, because only one thread uses them.
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
    /// A reference to itself, for callees that must start tasks.
    pub(super) weak_self: Weak<Self>,
    pub(super) config: Arc<ProxyConfig>,
    pub(super) shared: Arc<SharedReport>,
    permit: Arc<Permit>,
    /// A test has disabled check 2; always false in a release build.
    pub(super) reply_check_disabled: bool,
    pub(super) clock: WorkerClock,
    pub(super) buffers: Buffers,
    pub(super) routes: WorkerRoutes,
    pub(super) holds: RefCell<Holds>,
    pub(super) parking: Parking,
    /// Sessions that got replies in this turn.
    pub(super) replied: RefCell<Vec<Rc<Session>>>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    next_session: Cell<u64>,
    /// Panics of tasks that many sessions share; see [`spawn_shared`](Self::spawn_shared).
    panics: mpsc::Sender<Box<dyn Any + Send>>,
    pub(super) stats: Stats,
}

/// Runs a worker until the proxy has drained.
pub(super) fn run(start: WorkerStart) {
    // Many polls between checks of the sockets: the tasks that one check made ready run before the next check.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .event_interval(256)
        .global_queue_interval(512)
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(start)),
        Err(error) => tracing::error!(%error, worker = start.index, "cannot start a worker"),
    }
}

async fn serve(start: WorkerStart) {
    let WorkerStart { index, config, shared, permit, mut routes, mut reads, mut inbox, mut phase } = start;
    let (panics, mut panicked) = mpsc::channel(1);
    let worker = Rc::new_cyclic(|weak_self| Worker {
        index,
        weak_self: weak_self.clone(),
        config,
        shared,
        permit,
        reply_check_disabled: faults::without(faults::Rule::ReplyCheck),
        clock: WorkerClock::new(),
        buffers: Buffers::new(),
        routes: WorkerRoutes::default(),
        holds: RefCell::default(),
        parking: Parking::default(),
        replied: RefCell::default(),
        sessions: RefCell::default(),
        // Unique over the workers of a node, as CLIENT ID must be.
        next_session: Cell::new(index as u64 + 1),
        panics,
        stats: Stats::default(),
    });
    let table = routes.borrow_and_update().clone();
    worker.swap(&table);
    let table = reads.borrow_and_update().clone();
    worker.routes.swap_reads(&table);
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
                worker.routes.swap_reads(&table);
            }
            _ = ticks.tick() => worker.on_tick(),
            Some(accepted) = inbox.recv() => worker.accept(accepted),
        }
    };
    drain(&worker, within, &mut routes, &mut ticks).await;
}

/// Lets sessions finish their requests until the deadline.
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
            // A draining worker still obeys and acks holds.
            Ok(()) = routes.changed() => {
                let table = routes.borrow_and_update().clone();
                worker.swap(&table);
            }
            _ = ticks.tick() => worker.on_tick(),
        }
    }
}

impl Worker {
    /// Replaces the route table. Runs as a turn of its own, so that no other turn sees half of it.
    fn swap(self: &Rc<Self>, table: &RouteTable) {
        let removed = self.routes.swap(table);
        for view in removed {
            for session in self.sessions.borrow().values().filter(|s| Rc::ptr_eq(&s.product, &view)) {
                session.kill();
            }
            view.remove(self);
        }
        self.swap_holds(table);
        self.recount_holds();
        self.parking.unpark_all();
        self.publish();
    }

    fn on_tick(&self) {
        let (before, tick) = self.clock.advance();
        for product in self.routes.products().values() {
            product.tick(self);
        }
        self.parking.unpark_expired(&self.clock, self.config.limits.parked_for_max);
        self.recount_holds();
        if tick / TICKS_PER_REPORT != before / TICKS_PER_REPORT {
            self.publish();
        }
    }

    fn accept(self: &Rc<Self>, accepted: Accepted) {
        let Some(product) = self.routes.product(accepted.product) else {
            // The product was removed after the acceptor accepted the connection.
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

    /// Starts a task that many sessions depend on. Its panic ends this thread, and with it the node: sessions would
    /// wait for the task for ever.
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

    /// Adds a session. (The acceptor has counted it already.)
    pub(super) fn add_session(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.id, session.clone());
    }

    /// Removes a session that has ended.
    pub(super) fn remove_session(&self, session: &Rc<Session>) {
        self.parking.remove(session);
        if self.sessions.borrow_mut().remove(&session.id).is_some() {
            self.shared.clients[self.index].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Check 1, and the part of check 2 that concerns the lease, for a setting of `isolated`.
    #[inline]
    pub(super) fn serve_check_for(&self, isolated: Isolated) -> ServeCheck {
        serve_check(&self.permit, self.routes.epoch(), isolated, || self.clock.read())
    }

    /// Begins a batch of requests and does check 1 for it.
    #[inline]
    pub(super) fn begin_batch(&self, isolated: Isolated) -> ServeCheck {
        self.clock.begin_batch();
        self.serve_check_for(isolated)
    }

    /// The same as [`serve_check_for`](Self::serve_check_for), for a product.
    #[inline]
    pub(super) fn serve_check(&self, product: &ProductView) -> ServeCheck {
        self.serve_check_for(product.routes.borrow().isolated)
    }

    /// Writes the replies of this turn, once per session.
    #[inline]
    pub(super) fn flush_replied(&self) {
        // `flush` adds no session, so the list can stay borrowed.
        for session in self.replied.borrow_mut().drain(..) {
            session.flush(self);
        }
    }

    /// Publishes the report of this worker.
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
        let status = WorkerStatus { epoch: self.routes.epoch(), holds: self.holds.borrow().progress(), stats };
        self.shared.set_worker(self.index, status);
    }
}
