//! The runs that the log gives to this node: each gets one mover, which is stopped when the log says that its run is
//! over. Knows nothing of how keys are copied, nor of how runs are decided on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::mover_wire;
use crate::{
    consensus::Consensus,
    control::leadership::peers::{PeerAddress, Peers},
    model::{
        change::NewMember,
        ids::{HoldId, HostPort, NodeId, SlotId, Uuid},
        migration::{ConnectionId, Job, Limits, MigrationPhase, Run, RunKind, run_name},
        route::Mode,
        state::{ClusterState, Group, Product},
    },
    mover::{
        self, AuthorizationFuture, Authorize, CleanSpec, CopySpec, Endpoint, Finished, KnownProcesses, MoverHandle,
        SlotSet,
    },
    node::{leader_service::LeaderService, member_wire::incarnation, tasks::Tasks},
    plan::restart,
    wire::pb::node::{AuthorizeReply, MoverReport},
};

/// How long an authorization may take: a quorum round, and perhaps an election before it.
const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request for authorization may take.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Pause between two requests, when no leader is known or the node that was asked no longer leads.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Nobody writes to a target that is being wiped, so two passes in quick succession are enough.
const WIPE_PASSES_APART: Duration = Duration::from_millis(100);

/// This node's runs. Cheap to clone.
#[derive(Clone)]
pub struct Movers {
    inner: Arc<MoversInner>,
}

struct MoversInner {
    me: NewMember,
    start: Uuid,
    consensus: Consensus,
    peers: Peers,
    leader_service: LeaderService,
    /// The request deadline: after this time no late write of a client can arrive at a server.
    late_writes: Duration,
    tasks: Tasks,
    running: Mutex<BTreeMap<Job, ActiveRun>>,
    news: watch::Sender<u64>,
}

/// A run of this node.
struct ActiveRun {
    run: u32,
    mover: ActiveMover,
}

enum ActiveMover {
    /// It was started. Its report says whether it still works.
    Started { handle: Arc<MoverHandle>, limits: watch::Sender<Limits>, resumed: Option<HoldId> },
    /// The run cannot be executed here, for this reason.
    Refused(String),
}

impl Movers {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(
        me: NewMember,
        start: Uuid,
        consensus: Consensus,
        peers: Peers,
        leader_service: LeaderService,
        late_writes: Duration,
        tasks: Tasks,
    ) -> Self {
        let (news, _) = watch::channel(0);
        let running = Mutex::default();
        let inner = MoversInner { me, start, consensus, peers, leader_service, late_writes, tasks, running, news };
        Self { inner: Arc::new(inner) }
    }

    /// Follows the log, for as long as the node runs.
    pub async fn run(self) {
        let mut state = self.inner.consensus.state();
        let mut news = self.inner.news.subscribe();
        loop {
            let newest = state.borrow_and_update().clone();
            news.borrow_and_update();
            self.follow(&newest);
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                // A mover that reports "finished" after its hold was released must go on.
                Ok(()) = news.changed() => {}
            }
        }
    }

    /// Changes when a run began or ended here, or the state of a mover changed: worth an immediate heartbeat.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    /// The reports of the runs, for a heartbeat.
    #[must_use]
    pub fn reports(&self) -> Vec<MoverReport> {
        let running = self.running();
        let report = |(job, running): (&Job, &ActiveRun)| match &running.mover {
            ActiveMover::Started { handle, .. } => mover_wire::report(*job, running.run, &handle.report().borrow()),
            ActiveMover::Refused(why) => mover_wire::failed(*job, running.run, why),
        };
        running.iter().map(report).collect()
    }

    /// Copies what is left, after the barrier of a hold has passed.
    ///
    /// # Errors
    /// Returns why the mover has not finished, as text for the operator. The mover goes on copying, unless its report
    /// says that it has ended.
    pub async fn finish(&self, job: Job, run: u32, hold: HoldId, within: Duration) -> Result<Finished, String> {
        let deadline = Instant::now() + within;
        let handle = match self.running().get(&job) {
            Some(ActiveRun { run: known, mover: ActiveMover::Started { handle, .. } }) if *known == run => {
                handle.clone()
            }
            _ => return Err(format!("this node does not work on run {run} of {job}")),
        };
        handle.finish(hold, deadline).await
    }

    /// Stops all runs and closes their connections, for the end of the process.
    pub fn stop(&self) {
        self.running().clear();
    }

    /// Starts and stops movers and passes changes on to them, so that they are as `state` says.
    fn follow(&self, state: &ClusterState) {
        // Before this start is admitted, it cannot distinguish its runs from those of the start before it.
        let Some(own) = incarnation(state, &self.inner.me, self.inner.start) else { return };
        let mut running = self.running();
        let before = running.len();
        running.retain(|job, running| {
            let wanted = state.current_run(*job).is_some_and(|r| r.run == running.run && r.node == self.inner.me.id);
            if !wanted {
                info!(%job, run = running.run, "the run is over");
            }
            wanted
        });
        let mut changed = running.len() != before;
        for (job, run) in runs_of(state, self.inner.me.id) {
            if let Some(known) = running.get_mut(&job) {
                known.update(state, job);
                continue;
            }
            // The connections and the memory of a run end with the start that began it; no run is begun twice.
            let mover = if run.began.0 < own.0 {
                ActiveMover::Refused("the node was restarted".into())
            } else {
                self.begin(state, job, run).unwrap_or_else(ActiveMover::Refused)
            };
            match &mover {
                ActiveMover::Started { .. } => {
                    info!(%job, run = run.run, kind = ?run.kind, server = %run.server, "a run begins")
                }
                ActiveMover::Refused(why) => warn!(%job, run = run.run, why, "a run cannot be done here"),
            }
            running.insert(job, ActiveRun { run: run.run, mover });
            changed = true;
        }
        drop(running);
        if changed {
            self.inner.news.send_modify(|n| *n += 1);
        }
    }

    fn begin(&self, state: &ClusterState, job: Job, run: &Run) -> Result<ActiveMover, String> {
        let cluster = self.inner.consensus.cluster_id().ok_or("this node belongs to no cluster")?;
        let spec = run_spec(state, job, run, run_name(cluster, job, run.run), self.inner.late_writes)?;
        let (limits, watched) = watch::channel(limits_of(state, job));
        let authorize =
            RunAuthorizer { inner: self.inner.clone(), runtime: tokio::runtime::Handle::current(), job, run: run.run };
        let handle = Arc::new(mover::start(spec, Arc::new(authorize), watched));
        self.forward_news(handle.report());
        Ok(ActiveMover::Started { handle, limits, resumed: None })
    }

    /// A mover's report changes several times a second; only a change of its state is news.
    fn forward_news(&self, mut report: watch::Receiver<mover::Report>) {
        let movers = self.clone();
        self.inner.tasks.spawn_finite("mover-news", async move {
            let mut known = mover::State::Opening;
            loop {
                let now = report.borrow_and_update().state.clone();
                if now != known {
                    known = now;
                    movers.inner.news.send_modify(|n| *n += 1);
                }
                if report.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Job, ActiveRun>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveRun {
    /// Passes on to the mover what has changed in the log.
    fn update(&mut self, state: &ClusterState, job: Job) {
        let ActiveMover::Started { handle, limits, resumed } = &mut self.mover else { return };
        let now = limits_of(state, job);
        limits.send_if_modified(|before| std::mem::replace(before, now) != now);
        let Job::Migration(id) = job else { return };
        let report = handle.report();
        let hold = match report.borrow().state {
            mover::State::Finishing(hold) | mover::State::Finished(hold) => hold,
            _ => return,
        };
        let released = state.migrations.get(&id).is_some_and(|m| m.phase == MigrationPhase::CaughtUp);
        if released && !state.holds.contains_key(&hold) && *resumed != Some(hold) {
            handle.resume(hold);
            *resumed = Some(hold);
        }
    }
}

fn runs_of(state: &ClusterState, node: NodeId) -> Vec<(Job, &Run)> {
    let migrations = state.migrations.values().filter_map(|m| Some((Job::Migration(m.id), m.run.as_ref()?)));
    let groups = state.products.values().flat_map(|p| p.groups.values().map(|g| (p.id, g)));
    let sweeps = groups.filter_map(|(product, group)| {
        let sweep = group.sweep.as_ref()?;
        Some((Job::Sweep { product, group: group.id }, &sweep.run))
    });
    migrations.chain(sweeps).filter(|(_, run)| run.node == node).collect()
}

fn limits_of(state: &ClusterState, job: Job) -> Limits {
    match job {
        Job::Migration(id) => state.migrations.get(&id).map(|m| m.options.limits).unwrap_or_default(),
        Job::Sweep { .. } => Limits::default(),
    }
}

/// The work of a run's mover.
fn run_spec(
    state: &ClusterState,
    job: Job,
    run: &Run,
    name: String,
    late_writes: Duration,
) -> Result<mover::RunSpec, String> {
    let gone = || format!("{job} is over");
    let (product, group, slots, passes_apart) = match job {
        Job::Sweep { product, group } => {
            let product = state.products.get(&product).ok_or_else(gone)?;
            let group = product.groups.get(&group).ok_or_else(gone)?;
            let slots = group.sweep.as_ref().map(|s| s.slots.clone()).ok_or_else(gone)?;
            (product, group, slots, late_writes)
        }
        Job::Migration(id) => {
            let open = state.migrations.get(&id).ok_or_else(gone)?;
            let product = state.products.get(&open.product).ok_or_else(gone)?;
            let from = product.groups.get(&open.from).ok_or_else(gone)?;
            let to = product.groups.get(&open.to).ok_or_else(gone)?;
            let ours = open.deletable_at_target(state);
            match run.kind {
                RunKind::Copy => {
                    let primary = from.servers.first().ok_or_else(gone)?.addr.clone();
                    let feed = run.feed.clone().ok_or("the attempt names no feed")?;
                    return Ok(mover::RunSpec::Copy(CopySpec {
                        name,
                        layout: product.layout,
                        slots: Arc::new(SlotSet::new(product.layout, &open.slots)),
                        databases: product.databases,
                        primary: endpoint(from, primary),
                        feed: endpoint(from, feed),
                        target: endpoint(to, run.server.clone()),
                        processes: known_processes(product, from, to),
                        deletable_at_target: Arc::new(SlotSet::new(product.layout, &ours)),
                        wipe: open.options.wipe,
                        cache: product.mode == Mode::Cache,
                        verify: open.options.verify,
                    }));
                }
                // What the operator's `wipe` allowed is wiped only where a copy was begun; see `deletable_at_target`.
                RunKind::WipeTarget => (product, to, ours, WIPE_PASSES_APART),
                RunKind::CleanSource | RunKind::Sweep => (product, from, open.slots.clone(), late_writes),
            }
        }
    };
    Ok(clean(product, group, run, name, &slots, passes_apart))
}

/// The processes of the primaries that a copy needs, where writes of the product are confirmed by replicas.
fn known_processes(product: &Product, from: &Group, to: &Group) -> KnownProcesses {
    if !restart::is_protected(product) {
        return KnownProcesses::default();
    }
    // Without replicas, nothing can have more than a restarted primary.
    let process = |group: &Group| if group.servers.len() > 1 { group.run_id.clone() } else { String::new() };
    KnownProcesses { source: process(from), target: process(to) }
}

fn clean(
    product: &Product,
    group: &Group,
    run: &Run,
    name: String,
    slots: &std::collections::BTreeSet<SlotId>,
    passes_apart: Duration,
) -> mover::RunSpec {
    mover::RunSpec::Clean(CleanSpec {
        name,
        layout: product.layout,
        slots: Arc::new(SlotSet::new(product.layout, slots)),
        databases: product.databases,
        server: endpoint(group, run.server.clone()),
        passes_apart,
    })
}

fn endpoint(group: &Group, addr: HostPort) -> Endpoint {
    Endpoint { addr, credentials: group.credentials.clone() }
}

/// How a mover asks the leader: on the node's runtime, because the channels to other nodes belong to it.
struct RunAuthorizer {
    inner: Arc<MoversInner>,
    runtime: tokio::runtime::Handle,
    job: Job,
    run: u32,
}

impl Authorize for RunAuthorizer {
    fn authorize(&self, connections: Vec<ConnectionId>) -> AuthorizationFuture {
        let (inner, job, run) = (self.inner.clone(), self.job, self.run);
        let asking = self.runtime.spawn(async move { inner.request_authorization(job, run, connections).await });
        Box::pin(async move { asking.await.map_err(|error| error.to_string())? })
    }

    fn may_write(&self) -> AuthorizationFuture {
        let (mut state, job, run) = (self.inner.consensus.state(), self.job, self.run);
        Box::pin(async move {
            let begun = |state: &Arc<ClusterState>| match job {
                Job::Migration(id) => state.migrations.get(&id).is_none_or(|m| m.runs != run || m.staged),
                Job::Sweep { .. } => true,
            };
            let seen = state.wait_for(begun).await.map_err(|_| "the node stops".to_owned())?;
            match seen.current_run(job) {
                Some(current) if current.run == run => Ok(()),
                _ => Err(format!("run {run} of {job} is over")),
            }
        })
    }
}

impl MoversInner {
    /// Asks the leader until one answers or the time is over.
    async fn request_authorization(&self, job: Job, run: u32, connections: Vec<ConnectionId>) -> Result<(), String> {
        let request = mover_wire::authorize_request(job, run, self.me.id, connections);
        let deadline = Instant::now() + AUTHORIZE_TIMEOUT;
        let mut last = "no leader is known".to_owned();
        while Instant::now() < deadline {
            let leadership = self.consensus.leadership().borrow().clone();
            let reply = match PeerAddress::of_leader(&leadership) {
                _ if leadership.is_me => self.leader_service.authorize(request.clone()).await,
                Some(leader) => match self.peers.authorize(&leader, request.clone(), ASK_MAX).await {
                    Ok(reply) => reply,
                    // The request is repeated: an authorization whose answer was lost is given again.
                    Err(status) => AuthorizeReply {
                        not_leader: true,
                        why_not: status.message().to_owned(),
                        ..AuthorizeReply::default()
                    },
                },
                None => AuthorizeReply { not_leader: true, why_not: last.clone(), ..AuthorizeReply::default() },
            };
            if reply.authorized {
                return Ok(());
            }
            if !reply.not_leader {
                return Err(format!("the leader does not authorize the run: {}", reply.why_not));
            }
            last = reply.why_not;
            tokio::time::sleep(ASK_PAUSE).await;
        }
        Err(format!("the leader did not authorize the run in time: {last}"))
    }
}
