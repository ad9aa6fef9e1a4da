//! A running node: its tasks, started in the order in which they need each other and stopped in the reverse order.
//! Decides nothing: model and plan do.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tracing::{error, info, warn};

use super::{
    bootstrap::{Bootstrap, Origin},
    data_users,
    heartbeat::{HeartbeatEnd, HeartbeatSender, LastHeartbeat},
    leader_service::LeaderService,
    movers::Movers,
    open::{Allowed, OpenNode},
    probe::{Prober, misrouted},
    proxy_config::{self, ProxyLinks},
    reads,
    routes::{self, Published},
    scripts::{self, ScriptRequests},
    secret_file::SecretFile,
    server_asks, server_commands,
    service::NodeService,
    stop::{StopReason, log_stopped, signalled},
    tasks::{End, TaskEnds, Tasks, UnexpectedEnd},
    unmanaged,
};
use crate::{
    api,
    config::Config,
    consensus::{Consensus, DirLock},
    control::{
        handle::Control,
        leadership::{leader_loop::LeaderLoop, leases::Leases, peers::Peers},
        servers::authorizer::Authorizer,
        slots::rebalance,
    },
    model::{change::NewMember, ids::Uuid},
    plan::timing::Timing,
    proxy::{
        ClusterId, NodeClients, Proxy, ServerActivity, ServerAsk, ServerClients, UnmanagedReplicas, permit::Permit,
    },
    wire::{auth::ClusterSecret, pb::node::node_server::NodeServer},
};

/// When the log stops or a task panics, tasks that depend on it return at about the same time. The cause says more than
/// they do, so the node waits this long for it.
const CAUSE_WITHIN: Duration = Duration::from_secs(1);

/// A node whose tasks run.
pub struct RunningNode {
    /// The file of its cluster secret, which SIGHUP makes it read again; `None`: it has no secret, or the file was taken.
    pub secret_file: Option<SecretFile>,
    _lock: DirLock,
    log: Consensus,
    permit: Arc<Permit>,
    proxy: Proxy,
    movers: Movers,
    last_heartbeat: LastHeartbeat,
    ends: TaskEnds,
    heartbeat_end: oneshot::Receiver<HeartbeatEnd>,
    calls: Calls,
    followers: Followers,
    leading: Leading,
    shutdown_deadline: Duration,
}

/// The server of the admin port.
struct Calls {
    stop: watch::Sender<bool>,
    /// Resolves when the server has ended, however it ended.
    ended: oneshot::Receiver<()>,
}

/// Tasks that stop with the workers.
struct Followers {
    heartbeat: AbortHandle,
    prober: AbortHandle,
    unmanaged: AbortHandle,
    movers: AbortHandle,
}

/// Tasks that stop with the leadership.
struct Leading {
    leader_loop: AbortHandle,
    rebalancer: AbortHandle,
}

/// What the parts of a starting node share.
struct Starting<'a> {
    config: &'a Config,
    me: NewMember,
    secret: ClusterSecret,
    log: Consensus,
    tasks: Tasks,
    timing: Timing,
    /// This start of the node.
    start: Uuid,
    peers: Peers,
    permit: Arc<Permit>,
    prober: Prober,
    activity: ServerActivity,
    server_clients: ServerClients,
}

/// What the proxy asks for.
struct ProxyRequests {
    scripts: ScriptRequests,
    /// Commands of clients to single servers, to be recorded.
    asks: mpsc::Receiver<ServerAsk>,
}

/// What answers heartbeats and requests for authorization where the leader is.
#[derive(Clone)]
struct LeaderParts {
    leases: Leases,
    authorizer: Authorizer,
    service: LeaderService,
}

impl OpenNode {
    /// Starts every task of the node.
    ///
    /// # Errors
    /// A thread of the proxy could not be started.
    pub fn start(self, config: &Config) -> anyhow::Result<RunningNode> {
        let Self { lock, me, secret, log, listener, allowed } = self;
        let (tasks, ends) = Tasks::new();
        tasks.watch_storage();
        let timing = Timing { heartbeat: config.timing.heartbeat, lease: config.timing.lease, ..Timing::default() };
        let (activity, server_clients) = (ServerActivity::default(), ServerClients::default());
        let starting = Starting {
            peers: Peers::new(secret.clone(), log.clone()).calling_from(config.node.source),
            prober: Prober::publishing(me.id, activity.clone(), server_clients.clone()),
            activity,
            server_clients,
            config,
            me,
            secret,
            log,
            tasks,
            timing,
            start: Uuid(uuid::Uuid::new_v4().as_u128()),
            permit: Arc::new(Permit::none()),
        };
        let unmanaged = UnmanagedReplicas::default();
        let (proxy, requests) = starting.proxy(&unmanaged, allowed)?;
        let leader = starting.leader_parts();
        let movers = starting.movers(&leader);
        let calls = starting.calls(&leader, &movers, listener, (&proxy, allowed));
        starting.answer_proxy(&leader, proxy.clients(), requests);
        starting.bootstrap();
        let leading = starting.leading(leader.clone());
        let (followers, last_heartbeat, heartbeat_end) = starting.followers(&leader, &proxy, &movers, unmanaged);
        Ok(RunningNode {
            secret_file: starting.secret_file(),
            _lock: lock,
            log: starting.log,
            permit: starting.permit,
            proxy,
            movers,
            last_heartbeat,
            ends,
            heartbeat_end,
            calls,
            followers,
            leading,
            shutdown_deadline: config.node.shutdown_deadline,
        })
    }
}

impl Starting<'_> {
    /// The threads that serve clients.
    fn proxy(&self, unmanaged: &UnmanagedReplicas, allowed: Allowed) -> anyhow::Result<(Proxy, ProxyRequests)> {
        let readable =
            reads::publish(&self.tasks, self.prober.clone(), self.log.state(), self.config.node.zone.clone());
        let (report, reports) = mpsc::channel(misrouted::REPORTS_MAX);
        // It ends with the proxy.
        self.tasks.spawn_finite("misrouted", misrouted::run(reports, self.prober.clone()));
        let (refuse, refused) = mpsc::channel(data_users::REPORTS_MAX);
        self.tasks.spawn_finite(
            "data-users",
            data_users::run(
                self.me.id,
                self.timing.lease,
                self.permit.clone(),
                self.log.state(),
                self.prober.clone(),
                refused,
            ),
        );
        let commands = server_commands::publish(&self.tasks, self.me.id, self.prober.clone(), self.log.state());
        let Published { routes, catalogues } = routes::publish(&self.tasks, self.log.state());
        let (link, scripts) = scripts::link(catalogues);
        let (report_asks, asks) = mpsc::channel(server_asks::REPORTS_MAX);
        let links = ProxyLinks {
            unmanaged: unmanaged.clone(),
            server_clients: self.server_clients.clone(),
            activity: self.activity.clone(),
            misrouted: Some(report),
            data_user_refused: Some(refuse),
            server_asks: Some(report_asks),
            cluster: ClusterId::new({
                let log = self.log.clone();
                move || log.cluster_id()
            }),
            commands: Some(commands),
            scripts: Some(link),
        };
        let hot_path = proxy_config::config(self.config, self.me.id, allowed, links);
        let proxy = Proxy::start_with_reads(hot_path, routes, self.permit.clone(), readable)
            .context("the proxy's threads could not be started")?;
        self.tasks.watch_threads(proxy.thread_ended());
        Ok((proxy, ProxyRequests { scripts, asks }))
    }

    /// Carries out what the proxy asks for, until it ends.
    fn answer_proxy(&self, leader: &LeaderParts, clients: NodeClients, requests: ProxyRequests) {
        let leaders = api::forward::Leaders::new(self.secret.clone()).calling_from(self.config.node.source);
        let api = api::Api { control: self.control(leader), leaders, clients };
        self.tasks.spawn_finite("server-asks", server_asks::run(api.clone(), requests.asks));
        self.tasks.spawn_finite("script-changes", scripts::changes::run(api, requests.scripts.changes));
        let loading = scripts::libraries::run(self.me.id, self.log.state(), requests.scripts.libraries);
        self.tasks.spawn_finite("script-libraries", loading);
        let finding = scripts::bodies::run(self.me.id, self.log.state(), self.peers.clone(), requests.scripts.bodies);
        self.tasks.spawn_finite("script-bodies", finding);
    }

    fn control(&self, leader: &LeaderParts) -> Control {
        Control {
            log: Arc::new(self.log.clone()),
            me: self.me.id,
            view: leader.leases.view(),
            lease: self.timing.lease_at_leader(),
        }
    }

    fn leader_parts(&self) -> LeaderParts {
        let (leases, lease_tasks) = Leases::new(self.log.clone(), self.timing);
        for (name, task) in lease_tasks {
            self.tasks.spawn(name, task);
        }
        let authorizer = Authorizer::new(self.log.clone(), leases.quorum().clone());
        let service = LeaderService { leases: leases.clone(), authorizer: authorizer.clone() };
        LeaderParts { leases, authorizer, service }
    }

    fn movers(&self, leader: &LeaderParts) -> Movers {
        let late_writes = self.config.proxy.request_deadline;
        let (log, peers) = (self.log.clone(), self.peers.clone());
        Movers::new(self.me.clone(), self.start, log, peers, leader.service.clone(), late_writes, self.tasks.clone())
    }

    /// Answers calls on the admin port.
    fn calls(
        &self,
        leader: &LeaderParts,
        movers: &Movers,
        listener: TcpListener,
        (proxy, allowed): (&Proxy, Allowed),
    ) -> Calls {
        let node = NodeService {
            me: self.me.clone(),
            listed: self.config.node.peers.clone(),
            consensus: self.log.clone(),
            leader_service: leader.service.clone(),
            movers: movers.clone(),
            secret: self.secret.clone(),
            scripts: proxy.seen_scripts(),
        };
        let control = self.control(leader);
        let leased = self.permit.clone();
        let services = api::server::Services {
            control,
            raft: self.log.service(),
            node: NodeServer::new(node),
            secret: self.secret.clone(),
            refused: self.log.callers().refused_calls(),
            hosts: api::gate::hosts::HostNames::new(self.config.node.host_names()),
            source: self.config.node.source,
            leased: Arc::new(move || leased.leased()),
            report: proxy.report(),
            clients: proxy.clients(),
            clients_max: allowed.clients,
            connections_max: allowed.admin_connections,
        };
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = oneshot::channel::<()>();
        self.tasks.spawn("api-server", async move {
            let _end = end;
            if let Err(error) = api::server::serve(listener, services, until(stopped)).await {
                error!(%error, "calls are no longer answered");
            }
        });
        Calls { stop, ended }
    }

    fn secret_file(&self) -> Option<SecretFile> {
        let (path, secret) = (self.config.node.secret_file.clone()?, self.secret.clone());
        Some(SecretFile { path, secret, me: self.me.id, peers: self.peers.clone(), log: self.log.clone() })
    }

    /// Forms or joins a cluster, if this node belongs to none.
    fn bootstrap(&self) {
        let origin = match (&self.config.node.join, self.config.node.peers.is_empty()) {
            (Some(at), true) => Origin::Join(at.clone()),
            _ => Origin::Peers(self.config.node.peers.clone()),
        };
        let (me, consensus, peers) = (self.me.clone(), self.log.clone(), self.peers.clone());
        self.tasks.spawn_finite("bootstrap", Bootstrap { me, consensus, peers, origin }.run());
    }

    fn leading(&self, leader: LeaderParts) -> Leading {
        let leader_loop = LeaderLoop {
            consensus: self.log.clone(),
            leases: leader.leases,
            peers: self.peers.clone(),
            authorizer: leader.authorizer,
            me: self.me.id,
            default_port: self.config.node.default_port,
        };
        Leading {
            leader_loop: self.tasks.spawn("leader-loop", leader_loop.run()),
            rebalancer: self.tasks.spawn("rebalancer", rebalance::rebalance_automatically(self.log.clone())),
        }
    }

    fn followers(
        &self,
        leader: &LeaderParts,
        proxy: &Proxy,
        movers: &Movers,
        unmanaged: UnmanagedReplicas,
    ) -> (Followers, LastHeartbeat, oneshot::Receiver<HeartbeatEnd>) {
        let moving = self.tasks.spawn("movers", movers.clone().run());
        let (prober, log) = (self.prober.clone(), self.log.clone());
        let probing = self.tasks.spawn("prober", prober.run(move || log.cluster_id(), self.log.state()));
        let counting = unmanaged::run(self.prober.clone(), self.log.state(), unmanaged);
        let counting = self.tasks.spawn("unmanaged-replicas", counting);
        let sender = HeartbeatSender {
            me: self.me.clone(),
            start: self.start,
            consensus: self.log.clone(),
            peers: self.peers.clone(),
            leader_service: leader.service.clone(),
            secret: self.secret.clone(),
            report: proxy.report(),
            movers: movers.clone(),
            prober: self.prober.clone(),
            permit: self.permit.clone(),
            every: self.timing.heartbeat,
        };
        let last_heartbeat = sender.last_heartbeat();
        let (end, heartbeat_end) = oneshot::channel();
        let heartbeat = self.tasks.spawn_finite("heartbeat", async move {
            // An error: the node stops already.
            let _ = end.send(sender.run().await);
        });
        (Followers { heartbeat, prober: probing, unmanaged: counting, movers: moving }, last_heartbeat, heartbeat_end)
    }
}

impl RunningNode {
    /// Waits until the node has a reason to stop, and logs it.
    pub async fn wait(&mut self) -> StopReason {
        let end = tokio::select! {
            biased;
            reason = log_stopped(&self.log) => return StopReason::Log(reason),
            name = signalled() => {
                info!(signal = name, "the node stops");
                return StopReason::Signal;
            }
            Ok(end) = &mut self.heartbeat_end => return StopReason::Heartbeat(end),
            end = self.ends.wait() => end,
        };
        let end = match end.how {
            End::Panicked(_) => end,
            End::Returned => {
                // Other tasks that merely returned are no cause either.
                let cause = async {
                    loop {
                        tokio::select! {
                            biased;
                            reason = log_stopped(&self.log) => return StopReason::Log(reason),
                            other = self.ends.wait() => if matches!(other.how, End::Panicked(_)) {
                                return StopReason::Task(other);
                            },
                        }
                    }
                };
                match timeout(CAUSE_WITHIN, cause).await {
                    Ok(StopReason::Task(other)) => other,
                    Ok(reason) => return reason,
                    Err(_) => end,
                }
            }
        };
        let UnexpectedEnd { task, how } = &end;
        error!(task, %how, "a task of this node ended unexpectedly; the node stops");
        StopReason::Task(end)
    }

    /// Stops the node: drains the clients, reports the stop to the leader, transfers the leadership, ends the calls,
    /// closes the log.
    pub async fn stop(self, why: &StopReason) {
        let deadline = Instant::now() + self.shutdown_deadline;
        let left = || deadline.saturating_duration_since(Instant::now());
        // A third of the deadline is for the clients. What does not finish by then is answered as "outcome unknown",
        // because the leadership must still be transferred.
        self.proxy.drain(self.shutdown_deadline / 3).await;
        info!("the clients are drained");
        let Followers { heartbeat, prober, unmanaged, movers } = &self.followers;
        [heartbeat, prober, unmanaged, movers].into_iter().for_each(AbortHandle::abort);
        self.movers.stop();
        self.permit.revoke();
        if !matches!(why, StopReason::Log(_)) {
            self.last_heartbeat.send(left().min(Duration::from_secs(1))).await;
            self.leading.leader_loop.abort();
            self.leading.rebalancer.abort();
            self.log.transfer_leadership(left()).await;
        }
        let _ = self.calls.stop.send(true);
        if timeout(left().max(Duration::from_millis(100)), self.calls.ended).await.is_err() {
            warn!("calls were still open at the end of the shutdown deadline");
        }
        self.log.shutdown().await;
        info!("the node has stopped");
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow_and_update() {
        if stopped.changed().await.is_err() {
            return;
        }
    }
}
