//! One data thread of the proxy: its sessions, routes, backends and buffers, and the work between turns.
//! Knows nothing of the other workers; `report` merges what each reports.

mod buffers;
mod clients;
mod clock;
mod idle;
mod logins;
mod parking;
mod routes;
mod turns;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::IpAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinError, LocalSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use buffers::Buffers;
pub(super) use buffers::reserve;
pub(super) use clients::PauseTimer;
pub(super) use clock::TICK;
use clock::WorkerClock;
use idle::IdleRound;
use logins::AwaitedLogins;
use parking::Parking;
use routes::WorkerRoutes;
use turns::{LargeTurnQueue, Root};
pub(super) use turns::{TaskKind, TaskTurns, Turn};

use super::{
    ProxyConfig, ProxyPhase,
    blocking::{BlockedCalls, LeaseState},
    check::{ServeCheck, serve_check},
    client_id,
    counters::{Stats, count},
    dedicated::DedicatedCount,
    hold::Holds,
    inquiry::{Inquiry, Workers},
    listener::{self, Accepted},
    memory::{self, MemoryBudget, WorkerMemory},
    permit::Permit,
    product::ProductView,
    report::{SharedReport, WorkerStatus},
    scripts::{AskedBodies, EvalBodies, ScriptCatalogues, SeenBodies},
    session::{CutOff, Session, SessionTask},
};
use crate::{
    clock::boottime_ns,
    faults,
    model::{
        ids::{HostPort, ProductId},
        reads::ReadTable,
        route::{Isolated, RouteTable},
    },
};

/// Ticks between reports of counters: one second, which is recent enough for operators.
const TICKS_PER_REPORT: u32 = 10;

/// Ticks for which sessions may be paused for lack of memory before one is closed: three seconds, in which clients that
/// read free theirs.
const PAUSED_TICKS_MAX: u32 = 30;

/// What a worker thread needs to start.
pub(super) struct WorkerStart {
    pub(super) index: usize,
    pub(super) config: Arc<ProxyConfig>,
    pub(super) shared: Arc<SharedReport>,
    pub(super) permit: Arc<Permit>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) bodies: Arc<EvalBodies>,
    pub(super) routes: watch::Receiver<Arc<RouteTable>>,
    pub(super) reads: watch::Receiver<Arc<ReadTable>>,
    pub(super) inbox: mpsc::Receiver<Accepted>,
    pub(super) workers: Workers,
    pub(super) inquiries: mpsc::Receiver<Inquiry>,
    pub(super) phase: watch::Receiver<ProxyPhase>,
}

/// Rules about blocked calls that a test leaves out.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockedRules {
    /// Their connections are closed with the lease.
    pub(super) lease: bool,
    /// Holds end them.
    pub(super) hold: bool,
}

/// What the tasks of a worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    /// A reference to itself, for callees that must start tasks.
    pub(super) weak_self: Weak<Self>,
    pub(super) config: Arc<ProxyConfig>,
    /// The ways to all workers of the node.
    pub(super) workers: Workers,
    pub(super) shared: Arc<SharedReport>,
    permit: Arc<Permit>,
    /// A test has disabled check 2; always false in a release build.
    pub(super) reply_check_disabled: bool,
    /// A test has disabled what ends blocked calls; always false in a release build.
    pub(super) blocked_rules_disabled: BlockedRules,
    pub(super) clock: WorkerClock,
    pub(super) buffers: Buffers,
    pub(super) turns: Rc<LargeTurnQueue>,
    pub(super) routes: WorkerRoutes,
    pub(super) holds: RefCell<Holds>,
    /// Notified when holds may have drained.
    recount: Notify,
    pub(super) parking: Parking,
    pub(super) blocked: BlockedCalls,
    /// Requests that are sent again when a hold ends.
    pub(super) cut_off: RefCell<Vec<CutOff>>,
    /// Sessions whose client does not read.
    pub(super) slow: RefCell<Vec<Rc<Session>>>,
    pub(super) memory: WorkerMemory,
    pub(super) dedicated: DedicatedCount,
    catalogues: watch::Receiver<Arc<ScriptCatalogues>>,
    /// Bodies of scripts that came by EVAL, of all workers.
    pub(super) bodies: Arc<EvalBodies>,
    /// Those that this worker has noted.
    pub(super) seen_bodies: SeenBodies,
    /// Those that this worker has asked other nodes for.
    pub(super) asked_bodies: AskedBodies,
    /// Sessions that are not read for lack of memory.
    pub(super) paused: RefCell<Vec<Rc<Session>>>,
    /// Ticks for which sessions have been paused.
    paused_ticks: Cell<u32>,
    /// Sessions that got replies in this turn.
    pub(super) replied: RefCell<Vec<Rc<Session>>>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    awaited_logins: AwaitedLogins,
    idle_round: IdleRound,
    next_session: Cell<u64>,
    /// Panics of tasks that many sessions share; see [`spawn_shared`](Self::spawn_shared).
    panics: mpsc::Sender<Box<dyn Any + Send>>,
    pub(super) stats: Stats,
}

/// Runs a worker until the proxy has drained.
pub(super) fn run(start: WorkerStart) {
    match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => {
            let turns = Rc::<LargeTurnQueue>::default();
            let root = Root { turns: turns.clone(), future: Box::pin(serve(start, turns)) };
            LocalSet::new().block_on(&runtime, root);
        }
        Err(error) => tracing::error!(%error, worker = start.index, "cannot start a worker"),
    }
}

async fn serve(start: WorkerStart, turns: Rc<LargeTurnQueue>) {
    let WorkerStart {
        index,
        config,
        shared,
        permit,
        memory,
        bodies,
        mut routes,
        mut reads,
        mut inbox,
        workers: ways,
        mut inquiries,
        mut phase,
    } = start;
    let without = || watch::channel(Arc::default()).1;
    let mut catalogues = config.scripts.as_ref().map_or_else(without, |link| link.catalogues.clone());
    let (panics, mut panicked) = mpsc::channel(1);
    let workers = config.workers;
    let memory = WorkerMemory::new(memory, workers);
    let worker = Rc::new_cyclic(|weak_self| Worker {
        index,
        weak_self: weak_self.clone(),
        config,
        workers: ways,
        shared,
        permit,
        reply_check_disabled: faults::without(faults::Rule::ReplyCheck),
        blocked_rules_disabled: BlockedRules {
            lease: faults::without(faults::Rule::BlockedLease),
            hold: faults::without(faults::Rule::BlockedHold),
        },
        clock: WorkerClock::new(),
        buffers: Buffers::new(),
        turns,
        routes: WorkerRoutes::new(workers),
        holds: RefCell::default(),
        recount: Notify::new(),
        parking: Parking::default(),
        blocked: BlockedCalls::default(),
        cut_off: RefCell::default(),
        slow: RefCell::default(),
        memory,
        dedicated: DedicatedCount::default(),
        catalogues: catalogues.clone(),
        bodies,
        seen_bodies: SeenBodies::default(),
        asked_bodies: AskedBodies::default(),
        paused: RefCell::default(),
        paused_ticks: Cell::new(0),
        replied: RefCell::default(),
        sessions: RefCell::default(),
        awaited_logins: AwaitedLogins::default(),
        idle_round: IdleRound::default(),
        next_session: Cell::new(0),
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
            Ok(()) = catalogues.changed() => worker.swap_catalogues(),
            () = worker.memory.exceeded.notified() => worker.shed(),
            () = worker.recount.notified() => worker.recount_holds(),
            _ = ticks.tick() => worker.on_tick(),
            Some(accepted) = inbox.recv() => worker.accept(accepted),
            Some(inquiry) = inquiries.recv() => inquiry.answer(&worker),
        }
    };
    drain(&worker, within, (&mut routes, &mut inquiries), &mut ticks).await;
}

/// Lets sessions finish their requests until the deadline.
async fn drain(
    worker: &Rc<Worker>,
    within: Duration,
    (routes, inquiries): (&mut watch::Receiver<Arc<RouteTable>>, &mut mpsc::Receiver<Inquiry>),
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
            () = worker.memory.exceeded.notified() => worker.shed(),
            () = worker.recount.notified() => worker.recount_holds(),
            _ = ticks.tick() => worker.on_tick(),
            Some(inquiry) = inquiries.recv() => inquiry.answer(worker),
        }
    }
}

impl Worker {
    /// Replaces the route table. Runs as a turn of its own, so that no other turn sees half of it.
    fn swap(self: &Rc<Self>, table: &RouteTable) {
        let swapped = self.routes.swap(table);
        // A server that these routes name for the first time may lack what is in a catalogue that was published before.
        self.swap_catalogues();
        for view in &swapped.other_logins {
            self.close_outdated_logins(view);
        }
        for view in swapped.removed {
            for session in self.sessions.borrow().values().filter(|s| Rc::ptr_eq(&s.product, &view)) {
                session.kill();
            }
            view.remove(self);
        }
        self.swap_holds(table);
        self.blocked.routes_changed();
        self.recount_holds();
        // Before the sessions try again, so that their requests stay in order.
        self.resend_cut_off();
        self.parking.unpark_all();
        self.publish();
    }

    /// Takes over the newest catalogues.
    pub(super) fn swap_catalogues(&self) {
        let newest = self.catalogues.borrow().clone();
        for (id, product) in &*self.routes.products() {
            if newest.get(id).is_some_and(|catalogue| product.scripts.swap(catalogue)) {
                self.bodies.flush(*id);
            }
        }
    }

    /// Sends the requests again that a hold has cut off and whose slots are no longer held.
    fn resend_cut_off(self: &Rc<Self>) {
        let mut held: Vec<CutOff> = Vec::new();
        for request in std::mem::take(&mut *self.cut_off.borrow_mut()) {
            // The requests of a session stay in order.
            let waits = held.iter().any(|earlier| Rc::ptr_eq(&earlier.session, &request.session));
            if waits || !request.session.resend(self, &request) {
                held.push(request);
            }
        }
        self.cut_off.borrow_mut().extend(held);
        self.flush_replied();
    }

    /// Bytes that a session may hold while the budget is nearly used up.
    pub(super) fn memory_share(&self) -> usize {
        self.memory.budget.max() / 4 / self.shared.clients.connected().max(1)
    }

    /// Closes the sessions with the most data until the budget is kept. Every worker does this for its own, so the one
    /// with less than the average does nothing.
    fn shed(&self) {
        let Some(excess) = self.memory.budget.excess() else { return };
        if self.memory.own() < self.memory.budget.used() / self.config.workers {
            return;
        }
        self.close_largest(excess);
    }

    /// Closes the sessions with the most data, of `bytes` together.
    fn close_largest(&self, bytes: usize) {
        let mut sessions: Vec<(usize, Rc<Session>)> =
            self.sessions.borrow().values().map(|session| (session.footprint(), session.clone())).collect();
        sessions.retain(|(footprint, session)| *footprint > memory::SMALL && !session.is_closed());
        sessions.sort_unstable_by_key(|(footprint, _)| std::cmp::Reverse(*footprint));
        let mut left = bytes;
        for (footprint, session) in sessions {
            session.close_for_memory(self);
            left = left.saturating_sub(footprint);
            if left == 0 {
                return;
            }
        }
    }

    /// Reads paused sessions again when there is memory. If memory stays short for too long, because each of them waits
    /// for more, closes one.
    fn end_pauses(&self) {
        if self.paused.borrow().is_empty() || !self.memory.budget.is_near() {
            self.paused_ticks.set(0);
            self.paused.borrow_mut().drain(..).for_each(|session| session.resume());
            return;
        }
        self.paused_ticks.set(self.paused_ticks.get() + 1);
        if self.paused_ticks.get() > PAUSED_TICKS_MAX {
            self.close_largest(1);
        }
    }

    /// Has the group of a primary probed at once, because the primary answers as a replica.
    pub(super) fn report_misrouted(&self, primary: &HostPort) {
        count(&self.stats.misrouted);
        if let Some(misrouted) = &self.config.misrouted {
            // If the queue is full, the group is being probed already.
            let _ = misrouted.try_send(primary.clone());
        }
    }

    /// Has the data user made again at a server that refuses it.
    pub(super) fn report_data_user(&self, server: &HostPort) {
        count(&self.stats.data_user_refused);
        if let Some(refused) = &self.config.data_user_refused {
            // If the queue is full, the next attempt reports it.
            let _ = refused.try_send(server.clone());
        }
    }

    /// Has a command of a client to one server recorded.
    pub(super) fn report_server_ask(
        &self,
        product: (ProductId, &str),
        client: IpAddr,
        server: &HostPort,
        command: &[Vec<u8>],
    ) {
        let ask = self.shared.note_server_command(product, client, server, command);
        if let (Some(ask), Some(asks)) = (ask, &self.config.server_asks) {
            // If the queue is full, the log of the node has it.
            let _ = asks.try_send(ask);
        }
    }

    /// Closes the sessions whose clients have read nothing for too long.
    fn close_slow(&self) {
        let sessions = std::mem::take(&mut *self.slow.borrow_mut());
        let slow: Vec<_> = sessions.into_iter().filter(|session| session.check_slow(self)).collect();
        self.slow.borrow_mut().extend(slow);
    }

    fn on_tick(self: &Rc<Self>) {
        let (before, tick) = self.clock.advance();
        for product in self.routes.products().values() {
            product.tick(self);
        }
        self.close_slow();
        self.close_overdue_logins();
        self.close_idle();
        self.memory.publish();
        self.end_pauses();
        self.cut_off_again();
        self.blocked.check_leases(self);
        self.resend_cut_off();
        self.parking.unpark_expired(&self.clock, self.config.limits.parked_for_max);
        self.recount_holds();
        if tick / TICKS_PER_REPORT != before / TICKS_PER_REPORT {
            if self.index == 0 {
                self.shared.log_failed_logins();
            }
            self.publish();
        }
    }

    fn accept(self: &Rc<Self>, accepted: Accepted) {
        let Some(product) = self.routes.product(accepted.product) else {
            // The product was removed after the acceptor accepted the connection.
            return;
        };
        if !listener::admits(&self.config, &product.routes.borrow().auth, accepted.from) {
            // It was accepted before the password was removed.
            return;
        }
        let n = self.next_session.get();
        self.next_session.set(n + 1);
        let id = client_id::client_id(self.config.node, client_id::number(self.index, n, self.config.workers));
        match tokio::net::TcpStream::from_std(accepted.stream) {
            Ok(stream) => {
                self.stats.accepted.set(self.stats.accepted.get() + 1);
                // Its panic ends the session (see `SessionTask::drop`) and nothing else.
                let client = (stream, accepted.from, accepted.place);
                let session = SessionTask::new(self.clone(), product, client, id);
                if faults::enabled() {
                    tokio::task::spawn_local(faults::or_panic("session", session));
                } else {
                    tokio::task::spawn_local(session);
                }
            }
            Err(error) => tracing::debug!(%error, "an accepted connection was already broken"),
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

    /// Adds a session.
    pub(super) fn add_session(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.id, session.clone());
    }

    /// Removes a session that has ended.
    pub(super) fn remove_session(&self, session: &Rc<Session>) {
        self.parking.remove(session);
        session.product.count_resumed(session.product.pause.remove(session));
        self.sessions.borrow_mut().remove(&session.id);
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

    /// How far the lease is from its end, for a setting of `isolated`.
    pub(super) fn lease_state(&self, isolated: Isolated) -> LeaseState {
        LeaseState::of(self.permit.lease_until_ns(), isolated, self.config.limits.unblock_before, boottime_ns)
    }

    /// Checks soon whether holds have drained.
    pub(super) fn recount_soon(&self) {
        self.recount.notify_one();
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
        let status = WorkerStatus {
            epoch: self.routes.epoch(),
            holds: self.holds.borrow().progress(),
            stats: self.stats.snapshot(),
            former_logins: self.former_logins(),
            blocked: self.blocked.count(),
        };
        self.shared.set_worker(self.index, status);
    }
}
