//! Watches every server that the log names, with a task and a connection for each, and a probe twice a second.
//! Knows nothing of what follows from a probe; heartbeats carry the reports to the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    connection::{LATE_ANSWER_MAX, PROBE_TIMEOUT, ProbeConnection, probe},
    log::{ProbeLog, ProbeOutcome, ReportBatch},
};
use crate::{
    clock::boottime_ns,
    faults,
    model::{
        ids::{Epoch, HostPort, NodeId, Term, Uuid},
        reads::ReadTable,
        secret::Credentials,
        state::ClusterState,
    },
    panics,
    plan::{
        observation::ProbeReport,
        reads::{self, ProbeHistory},
    },
    proxy::{ServerActivity, ServerClients},
    redis::client::NAME_PREFIX,
};

/// Time between the beginnings of two probes. Six fit into the default down-after of 3 s, so one lost probe does not
/// matter.
const EVERY: Duration = Duration::from_millis(500);
/// Probes are up to this much earlier or later, in percent, so that nodes do not probe at the same moments.
const JITTER_PERCENT: u64 = 10;
/// Probes begin together, at multiples of this time since the node's start: with many servers, waking up for each probe
/// alone costs as much as the probe.
const GRID: Duration = Duration::from_millis(20);
/// The first probes of servers that were added together are spread over this time.
const FIRST_PROBES_SPREAD: Duration = Duration::from_millis(50);
/// The shortest interval between the beginnings of two probes that were asked for ([`Prober::probe_now`]): every worker
/// that is answered by a server in an unexpected role asks, perhaps once per request, and all of them learn from one
/// probe. Ten a second are no load for a server.
const ASKED_INTERVAL: Duration = Duration::from_millis(100);
/// A connection that breaks is replaced immediately, but not more often than this: the server may close each new one,
/// too.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// News is announced at most this often: the failure of a machine with 40 servers makes one heartbeat, not 40.
const NEWS_EVERY: Duration = Duration::from_millis(10);
/// This number of probes in a row must fail before a warning is logged: one late probe on a busy machine is not worth
/// one.
const WARNED_FROM: u32 = 2;
/// The log changes often while slots move; the set of watched servers is compared no more often than this.
const FOLLOW_EVERY: Duration = Duration::from_millis(20);

/// The prober of a node. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    inner: Arc<ProberInner>,
}

struct ProberInner {
    me: NodeId,
    /// What the workers receive from servers.
    activity: ServerActivity,
    /// Where it says how many clients servers accept.
    clients: ServerClients,
    reports: Mutex<ProbeLog>,
    /// For reads at replicas.
    probe_history: Mutex<ProbeHistory>,
    /// The last entry of the log that the prober knows as applied; more entries may be applied by now.
    applied: AtomicU64,
    /// Wakes the task of a server for an immediate probe.
    asked: Mutex<BTreeMap<HostPort, Arc<Notify>>>,
    probed: watch::Sender<u64>,
    news: watch::Sender<u64>,
    began: Instant,
    /// News is about to be announced.
    announcing: AtomicBool,
}

/// The servers that are watched, and their tasks.
#[derive(Default)]
struct WatchedServers {
    servers: BTreeMap<HostPort, ProbeTask>,
    tasks: JoinSet<()>,
}

/// The task of a server; dropped, it ends and its connection with it.
struct ProbeTask {
    credentials: Option<Credentials>,
    task: AbortHandle,
}

/// A probe that has begun. It goes on beyond its deadline, since a late answer is a sign of life.
struct RunningProbe {
    began_ns: u64,
    /// The entry that was applied when it began.
    as_of: Epoch,
    /// Resolves to the connection, if it can be used again, and the outcome.
    end: Pin<Box<dyn Future<Output = ProbeEnd> + Send>>,
}

type ProbeEnd = (Option<ProbeConnection>, Result<ProbeOutcome, String>);

impl Drop for ProbeTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// A prober that watches nothing yet. `activity`: when the node's workers receive bytes from servers.
    #[must_use]
    pub fn new(me: NodeId, activity: ServerActivity) -> Self {
        Self::publishing(me, activity, ServerClients::default())
    }

    /// The same; `clients` learns how many clients servers accept.
    #[must_use]
    pub fn publishing(me: NodeId, activity: ServerActivity, clients: ServerClients) -> Self {
        Self {
            inner: Arc::new(ProberInner {
                me,
                activity,
                clients,
                reports: Mutex::default(),
                probe_history: Mutex::default(),
                applied: AtomicU64::new(0),
                asked: Mutex::default(),
                probed: watch::Sender::new(0),
                news: watch::Sender::new(0),
                began: Instant::now(),
                announcing: AtomicBool::new(false),
            }),
        }
    }

    /// Follows the log for as long as the node runs. `cluster` returns the cluster's id; before there is a cluster, the
    /// log names no server. Dropping the future ends all probes.
    ///
    /// # Panics
    /// When the task of a server panics.
    pub async fn run(self, cluster: impl Fn() -> Option<Uuid>, mut state: watch::Receiver<Arc<ClusterState>>) {
        let mut watched = WatchedServers::default();
        loop {
            let newest = state.borrow_and_update().clone();
            // Only this task writes it. A probe that begins from now on is later than this entry.
            self.inner.applied.store(newest.applied.0, Ordering::Release);
            self.inner.clients.set_nodes(newest.members.len());
            if let Some(cluster) = cluster() {
                let name = format!("{NAME_PREFIX}{cluster}:probe:{}", self.inner.me);
                self.follow(&newest, &name, &mut watched);
            }
            drop(newest);
            sleep(FOLLOW_EVERY).await;
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                // Aborted tasks end here, too; a panic ends the prober.
                Some(ended) = watched.tasks.join_next() => { panics::pass_on(ended); }
            }
        }
    }

    /// Probes a server immediately, and not later than [`ASKED_INTERVAL`] after its last probe: for a caller that was
    /// answered by it as no primary answers. If the probe shows another role than before, a heartbeat reports it to the
    /// leader at once. Returns `false` if the server is not watched.
    pub fn probe_now(&self, server: &HostPort) -> bool {
        let asked = self.asked();
        let task = asked.get(server);
        // A permit is kept until the task takes it; a second one is dropped.
        task.inspect(|task| task.notify_one()).is_some()
    }

    /// Changes when a server begins or ceases to answer, or what it answers changes decisions: worth an
    /// immediate heartbeat.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    /// Changes with every probe.
    #[must_use]
    pub fn probed(&self) -> watch::Receiver<u64> {
        self.inner.probed.subscribe()
    }

    /// Which replicas may serve reads, by what this node found out.
    #[must_use]
    pub fn readable(&self, state: &ClusterState, now_ns: u64, zone: &str) -> ReadTable {
        reads::readable(state, &self.probe_history(), now_ns, zone)
    }

    /// The report batch of the next heartbeat.
    #[must_use]
    pub fn batch(&self) -> ReportBatch {
        self.reports().batch(boottime_ns())
    }

    /// Notes that the leader of this term has kept a batch. Returns whether it should get another immediately.
    pub fn kept(&self, batch: &ReportBatch, term: Term) -> bool {
        self.reports().kept(batch, term)
    }

    /// What is known about a server; `None` if it is not watched.
    #[must_use]
    pub fn report(&self, server: &HostPort) -> Option<ProbeReport> {
        self.reports().get(server, boottime_ns())
    }

    /// Starts and ends tasks, so that each server of `state` has one.
    fn follow(&self, state: &ClusterState, name: &str, watched: &mut WatchedServers) {
        let WatchedServers { servers: watching, tasks } = watched;
        let groups = state.products.values().flat_map(|product| product.groups.values());
        let wanted: BTreeMap<&HostPort, Option<&Credentials>> = groups
            .flat_map(|group| group.servers.iter().map(|server| (&server.addr, group.credentials.as_ref())))
            .collect();
        let before = watching.len();
        watching
            .retain(|addr, task| wanted.get(addr).is_some_and(|credentials| *credentials == task.credentials.as_ref()));
        let kept = watching.len();
        let servers: BTreeSet<&HostPort> = wanted.keys().copied().collect();
        self.reports().watch_only(&servers);
        self.probe_history().watch_only(&servers);
        self.asked().retain(|addr, _| servers.contains(addr));
        for (addr, credentials) in wanted {
            if !watching.contains_key(addr) {
                let credentials = credentials.cloned();
                let task = self.clone().watch(addr.clone(), credentials.clone(), name.to_owned());
                let task = tasks.spawn(faults::or_panic("probe", task));
                watching.insert(addr.clone(), ProbeTask { credentials, task });
            }
        }
        if before != kept || watching.len() != kept {
            info!(servers = watching.len(), "servers are watched");
        }
    }

    /// Probes a server until the task is aborted.
    async fn watch(self, addr: HostPort, credentials: Option<Credentials>, name: String) {
        let asked = self.asked().entry(addr.clone()).or_default().clone();
        let mut connection: Option<ProbeConnection> = None;
        let mut late: Option<RunningProbe> = None;
        let mut failed = 0;
        let mut next = Instant::now() + FIRST_PROBES_SPREAD.mul_f64(fastrand::f64());
        let mut began = next;
        loop {
            let broken = async {
                match &connection {
                    Some(open) => open.broken().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = broken => {
                    connection = None;
                    next = next.min(began + RECONNECT_INTERVAL);
                }
                () = asked.notified() => next = next.min(began + ASKED_INTERVAL),
            }
            sleep_until(next).await;
            began = Instant::now();
            let period_ns = boottime_ns();
            let mut running = late.take().unwrap_or_else(|| {
                let as_of = Epoch(self.inner.applied.load(Ordering::Acquire));
                let target = (addr.clone(), credentials.clone(), name.clone());
                RunningProbe { began_ns: period_ns, as_of, end: Box::pin(run_probe(connection.take(), target)) }
            });
            match timeout_at(began + PROBE_TIMEOUT, &mut running.end).await {
                Ok((kept, Ok(seen))) => {
                    connection = kept;
                    if let Some(connection) = &mut connection {
                        let connected = connection.take_clients();
                        self.inner.clients.publish(&addr, connection.clients_max(), connected);
                    }
                    failed = log_outcome(&addr, &seen, failed);
                    let probe = if let ProbeOutcome::Answered(probe) = &seen { Some(probe) } else { None };
                    self.probe_history().note(&addr, probe, running.began_ns, boottime_ns(), running.as_of);
                    self.note(&addr, seen, period_ns);
                }
                // Not noted: this node's last report at the leader grows old, and then no longer counts.
                Ok((kept, Err(why))) => {
                    connection = kept;
                    debug!(server = %addr, why, "this node cannot probe");
                }
                Err(_) => {
                    let seen = ProbeOutcome::Failed(format!("{addr} did not answer a probe in time"));
                    failed = log_outcome(&addr, &seen, failed);
                    self.probe_history().note(&addr, None, period_ns, boottime_ns(), running.as_of);
                    self.note(&addr, seen, period_ns);
                    late = Some(running);
                }
            }
            next = self.on_grid(began + jittered(EVERY));
        }
    }

    /// Notes the outcome of a probe, or of a period without an answer, that began at `began_ns`.
    fn note(&self, addr: &HostPort, seen: ProbeOutcome, began_ns: u64) {
        self.inner.probed.send_modify(|n| *n += 1);
        let mut reports = self.reports();
        if let Some(received_ns) = self.inner.activity.received_ns(addr, reports.run_id(addr)) {
            reports.note_bytes(addr, received_ns);
        }
        if reports.note(addr, seen, began_ns, boottime_ns()) {
            self.announce();
        }
    }

    /// The point of the grid that is nearest to `at`.
    fn on_grid(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.inner.began) + GRID / 2;
        let points = u32::try_from(since.as_nanos() / GRID.as_nanos()).unwrap_or(u32::MAX);
        self.inner.began + GRID * points
    }

    fn announce(&self) {
        if self.inner.announcing.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.inner.clone();
        tokio::spawn(async move {
            sleep(NEWS_EVERY).await;
            // This is reset first: what is noted from now on is announced by another task.
            inner.announcing.store(false, Ordering::Release);
            inner.news.send_modify(|n| *n += 1);
        });
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<HostPort, Arc<Notify>>> {
        self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probe_history(&self) -> MutexGuard<'_, ProbeHistory> {
        self.inner.probe_history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, ProbeLog> {
        self.inner.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A probe over the given connection, if there is one.
async fn run_probe(
    mut connection: Option<ProbeConnection>,
    (addr, credentials, name): (HostPort, Option<Credentials>, String),
) -> ProbeEnd {
    let deadline = Instant::now() + LATE_ANSWER_MAX;
    let outcome = probe(&mut connection, &addr, credentials.as_ref(), &name, deadline).await;
    (connection, outcome)
}

/// Logs when a server fails and when it answers again. Returns how many probes in a row have failed; `before`: before
/// this one.
fn log_outcome(addr: &HostPort, seen: &ProbeOutcome, before: u32) -> u32 {
    match seen {
        ProbeOutcome::Failed(why) if before + 1 == WARNED_FROM => {
            warn!(server = %addr, why, "a server does not answer this node")
        }
        ProbeOutcome::Failed(why) => debug!(server = %addr, why, "a server does not answer this node"),
        ProbeOutcome::Answered(_) | ProbeOutcome::Unusable(..) if before >= WARNED_FROM => {
            info!(server = %addr, "a server answers again")
        }
        ProbeOutcome::Unusable(why, _) => debug!(server = %addr, why, "a server cannot be asked"),
        ProbeOutcome::Answered(_) => {}
    }
    if matches!(seen, ProbeOutcome::Failed(_)) { before.saturating_add(1) } else { 0 }
}

fn jittered(every: Duration) -> Duration {
    let percent = fastrand::u64(100 - JITTER_PERCENT..=100 + JITTER_PERCENT);
    every * u32::try_from(percent).unwrap_or(100) / 100
}
