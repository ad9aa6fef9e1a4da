//! The hot path: forwards the requests of clients to servers. One thread per core; the threads share no data.
//! Knows nothing of the cluster state, of Raft or of other nodes: its input is a route table, a read table and a
//! permit.
//!
//! ```text
//!  acceptor thread                 worker thread x N (Rc, Cell, RefCell; no lock, no channel per request)
//!  +----------+  bounded channel  +---------------------------------------------------------------+
//!  | listener |------------------>| session --scan--> dispatch --+--> backend (server, db, RESP)  |
//!  +----------+                   |    ^  |parked while held     |      | out: queued, one write  |
//!                                 |    |  v                      +--> gather (split commands)     |
//!                                 |  replies <--- check 2 <--- in-flight, first in first out <---+
//!                                 +---------------------------------------------------------------+
//!                     With min-acks: check 2 ---> acks: PING, WAIT for a batch of writes ---> check 2 ---> replies
//!    RouteTable and ReadTable by watch, swapped between turns     Permit: lease and min_applied, two atomics per batch
//! ```

mod acks;
mod activity;
pub mod backend;
mod backend_set;
mod blocking;
mod check;
mod client;
mod client_id;
mod client_view;
mod clients;
mod counters;
mod dedicated;
mod described;
mod dispatch;
mod failed_logins;
mod fieldsets;
mod gather;
mod hold;
mod inquiry;
mod learnt;
mod limits;
mod listener;
mod local;
mod memory;
mod monitor;
mod node_clients;
mod operation;
mod own_settings;
mod pause;
pub mod permit;
mod pieces;
mod product;
mod quota;
mod reads;
mod replies;
mod report;
mod scripts;
mod server_asks;
mod server_clients;
mod session;
mod shown_call;
mod slow_log;
mod strangers;
mod transaction;
mod unmanaged;
mod usage;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

pub use activity::{ProcessActivity, ServerActivity};
pub use blocking::Unblock;
pub use client_view::{ClientCondition, ClientFilter, ClientKind, ClientView};
pub use clients::{ClientRefusal, ProductClients};
pub use counters::StatsSnapshot;
#[doc(hidden)]
pub use dispatch::DispatchBench;
pub use inquiry::Unanswered;
pub use limits::Limits;
pub use node_clients::NodeClients;
pub use report::{HoldProgress, ListenerReport, ProxyReport};
pub use scripts::{
    BodyRequest, LibrariesLoaded, LibraryRequest, ScriptCatalogues, ScriptChange, ScriptLink, ScriptRequest,
    ScriptsChanged, SeenScripts,
};
pub use server_asks::ServerAsk;
pub use server_clients::ServerClients;
pub use unmanaged::UnmanagedReplicas;

use crate::{
    commands::ServerCommands,
    model::{
        ids::{HostPort, NodeId, ProductId, Uuid},
        names::blocked_name,
        reads::ReadTable,
        route::RouteTable,
    },
    panics,
};
use inquiry::Workers;
use memory::MemoryBudget;
use permit::Permit;
use report::SharedReport;

/// Accepted connections that may wait for a worker, per worker. If there are more, further ones wait in the kernel.
const HANDOVER_MAX: usize = 256;

/// What the servers of each product have, as far as they were asked.
pub type ProductCommands = BTreeMap<ProductId, Arc<ServerCommands>>;

/// The configuration of a proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Number of data threads; 0 counts as 1.
    pub workers: usize,
    /// Host to bind the product ports on.
    pub bind: String,
    /// Added to every product's port.
    pub port_offset: u16,
    /// Also binds products without a password on `bind`, instead of on loopback only.
    pub insecure: bool,
    /// This node, for INFO and for the names of connections.
    pub node: NodeId,
    /// Numbers of replicas that do not count for `min-acks`.
    pub unmanaged: UnmanagedReplicas,
    /// How many clients servers accept.
    pub server_clients: ServerClients,
    /// Gets the address of a primary that answers as a replica, so that it is probed at once.
    pub misrouted: Option<mpsc::Sender<HostPort>>,
    /// Gets the address of a server that refuses the data user, so that the user is made there again.
    pub data_user_refused: Option<mpsc::Sender<HostPort>>,
    /// Gets the commands of clients to single servers, so that they are recorded.
    pub server_asks: Option<mpsc::Sender<ServerAsk>>,
    /// The commands of the servers of each product. `None`: only those of the table are served.
    pub commands: Option<watch::Receiver<Arc<ProductCommands>>>,
    /// What the cluster knows of scripts and functions. `None`: clients cannot load any.
    pub scripts: Option<ScriptLink>,
    /// When workers last received bytes from each server, for the prober.
    pub activity: ServerActivity,
    /// Limits and deadlines.
    pub limits: Limits,
    /// Version of Pontoon that INFO shows.
    pub version: String,
    /// The cluster, for the names of connections that others must find.
    pub cluster: ClusterId,
}

/// Where the id of the cluster is found, as soon as the node belongs to one. Cheap to clone.
#[derive(Clone)]
pub struct ClusterId(Arc<dyn Fn() -> Option<Uuid> + Send + Sync>);

impl ClusterId {
    /// The id is what `find` returns.
    pub fn new(find: impl Fn() -> Option<Uuid> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl Default for ClusterId {
    fn default() -> Self {
        Self::new(|| None)
    }
}

impl std::fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClusterId").field(&(self.0)()).finish()
    }
}

impl ProxyConfig {
    /// The name of the connections on which clients block.
    fn blocked_name(&self) -> String {
        blocked_name((self.cluster.0)().unwrap_or_default(), self.node)
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            bind: "127.0.0.1".into(),
            port_offset: 0,
            insecure: false,
            node: NodeId(1),
            unmanaged: UnmanagedReplicas::default(),
            server_clients: ServerClients::default(),
            misrouted: None,
            data_user_refused: None,
            server_asks: None,
            commands: None,
            scripts: None,
            activity: ServerActivity::default(),
            limits: Limits::default(),
            version: env!("CARGO_PKG_VERSION").into(),
            cluster: ClusterId::default(),
        }
    }
}

/// Whether the threads run or drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProxyPhase {
    Run,
    /// Accept and read nothing more; finish the requests in flight within this time.
    Drain {
        within: Duration,
    },
}

/// A thread of the proxy that ended unexpectedly. Clients whose sessions it had are closed, and new clients that would
/// be assigned to it are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadEnd {
    /// Its name: `worker-0` and so on, or `acceptor`.
    pub thread: String,
    /// The message of its panic; `None`: it returned.
    pub panic: Option<String>,
}

/// A running proxy: its threads, their report, and the means to end them. Dropping it ends the threads at once.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<SharedReport>,
    phase: watch::Sender<ProxyPhase>,
    ended: Arc<watch::Sender<Option<ThreadEnd>>>,
    node: NodeId,
    workers: Workers,
    scripts: SeenScripts,
    /// Taken by the first `drain`.
    threads: Mutex<Vec<(oneshot::Receiver<()>, JoinHandle<()>)>>,
}

impl Proxy {
    /// Starts the workers and the acceptor. All reads go to primaries.
    ///
    /// # Errors
    /// Returns the error of the operating system if a thread cannot be started. A port that cannot be bound is not an
    /// error here; the report shows it.
    pub fn start(
        config: ProxyConfig,
        routes: watch::Receiver<Arc<RouteTable>>,
        permit: Arc<Permit>,
    ) -> io::Result<Self> {
        // The empty table: no replica may serve reads.
        Self::start_with_reads(config, routes, permit, watch::channel(Arc::default()).1)
    }

    /// Like [`start`](Self::start); `reads` has the replicas that may serve reads.
    ///
    /// # Errors
    /// The same as [`start`](Self::start).
    pub fn start_with_reads(
        config: ProxyConfig,
        routes: watch::Receiver<Arc<RouteTable>>,
        permit: Arc<Permit>,
        reads: watch::Receiver<Arc<ReadTable>>,
    ) -> io::Result<Self> {
        let (workers, limits) = (config.workers.max(1), config.limits.clone().within_memory());
        let config = Arc::new(ProxyConfig { workers, limits, ..config });
        let memory = Arc::new(MemoryBudget::new(config.limits.memory_max));
        let bodies = Arc::<scripts::EvalBodies>::default();
        let shared = Arc::new(SharedReport::new(config.workers, memory.clone()));
        let (phase, phases) = watch::channel(ProxyPhase::Run);
        let unexpected = Arc::new(watch::Sender::new(None));
        let (mut threads, mut inboxes) = (Vec::new(), Vec::new());
        let (node, (ways, inquiries)) = (config.node, Workers::new(config.workers));
        for (index, inquiries) in inquiries.into_iter().enumerate() {
            let (sender, inbox) = mpsc::channel(HANDOVER_MAX);
            inboxes.push(sender);
            let start = worker::WorkerStart {
                index,
                config: config.clone(),
                shared: shared.clone(),
                permit: permit.clone(),
                memory: memory.clone(),
                bodies: bodies.clone(),
                routes: routes.clone(),
                reads: reads.clone(),
                inbox,
                workers: ways.clone(),
                inquiries,
                phase: phases.clone(),
            };
            let (name, phases) = (format!("worker-{index}"), phases.clone());
            threads.push(start_thread(name, phases, unexpected.clone(), move || worker::run(start))?);
        }
        let (acceptor_shared, phase_of_acceptor) = (shared.clone(), phases.clone());
        let accept = move || listener::run(&config, &acceptor_shared, routes, inboxes, phase_of_acceptor);
        threads.push(start_thread("acceptor".into(), phases, unexpected.clone(), accept)?);
        let scripts = SeenScripts(bodies);
        Ok(Self { shared, phase, ended: unexpected, node, workers: ways, scripts, threads: Mutex::new(threads) })
    }

    /// The first thread that has ended although the proxy runs.
    #[must_use]
    pub fn thread_ended(&self) -> watch::Receiver<Option<ThreadEnd>> {
        self.ended.subscribe()
    }

    /// The report of the proxy; it changes whenever a hold drains, a worker reaches an epoch, or a listener changes.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Arc<ProxyReport>> {
        self.shared.subscribe()
    }

    /// Ends the blocked call of a client before its time, as CLIENT UNBLOCK does. Returns whether it has one.
    pub async fn unblock(&self, client: u64, how: Unblock) -> bool {
        let Some(index) = client_id::worker_of(client, self.node, self.workers.count()) else { return false };
        self.workers.ask(index, move |worker| worker.unblock(client, None, how)).await.unwrap_or(false)
    }

    /// The clients of the node.
    #[must_use]
    pub fn clients(&self) -> NodeClients {
        NodeClients::new(self.workers.clone())
    }

    /// The scripts that the node has seen in an EVAL.
    #[must_use]
    pub fn seen_scripts(&self) -> SeenScripts {
        self.scripts.clone()
    }

    /// Stops accepting, finishes the requests in flight within `deadline`, and closes all connections. Returns when the
    /// threads have ended.
    pub async fn drain(&self, deadline: Duration) {
        self.phase.send_replace(ProxyPhase::Drain { within: deadline });
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (ended, thread) in threads {
            // A panic was caught, and its thread has reported it.
            let _ = ended.await;
            let _ = thread.join();
        }
    }
}

/// Starts a thread and watches its end: the receiver resolves when it has ended, and `unexpected` gets the first
/// unexpected end.
fn start_thread(
    name: String,
    phase: watch::Receiver<ProxyPhase>,
    unexpected: Arc<watch::Sender<Option<ThreadEnd>>>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<(oneshot::Receiver<()>, JoinHandle<()>)> {
    let (end, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        let panic = catch_unwind(AssertUnwindSafe(body)).err().map(|payload| panics::text(&*payload).to_owned());
        if panic.is_some() || *phase.borrow() == ProxyPhase::Run {
            tracing::error!(thread = name, panic, "a thread of the proxy ended unexpectedly");
            unexpected.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(ThreadEnd { thread: name, panic });
                is_first
            });
        }
        let _ = end.send(());
    })?;
    Ok((ended, thread))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Threads that were not drained end on their own; a destructor must not wait for them.
        self.phase.send_replace(ProxyPhase::Drain { within: Duration::ZERO });
    }
}
