//! A running node: what `pontoon serve` starts, in the order it is needed, and stops, in the reverse.
//! Decides nothing: model and plan do.
//!
//! ```text
//! data dir locked -> identity -> log opened -> admin port bound -> routes -> workers -> calls answered
//!    -> cluster formed or joined -> heartbeats -> control loops       ... until a signal, a removal, or a stopped log ...
//! clients drained -> "I stop" to the leader -> leadership handed over -> calls ended -> log closed
//! ```

pub mod bootstrap;
pub mod heartbeat;
pub mod lease;
pub mod member_wire;
pub mod movers;
pub mod probe;
pub mod proxy_config;
pub mod reads;
pub mod routes;
pub mod service;
pub mod unmanaged;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};
use tracing::{error, info, warn};

use self::{
    bootstrap::{Bootstrap, Origin},
    heartbeat::{HeartbeatEnd, HeartbeatSender},
    movers::Movers,
    probe::Prober,
    service::{LeaderService, NodeService},
};
use crate::{
    api,
    config::Config,
    consensus::{self, Consensus, ConsensusConfig},
    control::{
        handle::Control,
        leadership::{leader_loop::LeaderLoop, leases::Leases, peers::Peers},
        servers::authorizer::Authorizer,
        slots::rebalance,
    },
    model::{change::NewMember, ids::Uuid},
    plan,
    proxy::{Proxy, UnmanagedReplicas, permit::Permit},
    wire::pb::node::node_server::NodeServer,
};

/// Runs a node until it is told to stop. Everything it bound is logged; every phase leaves a line.
///
/// # Errors
/// What kept it from starting, or made it stop, with what to do.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let admin = config.node.admin().map_err(|e| anyhow!(e))?.clone();
    let data_dir = config.node.data_dir().map_err(|e| anyhow!(e))?.clone();
    let secret = config.secret().map_err(|e| anyhow!(e))?;
    raise_file_limit(config.proxy.clients_max);

    let _lock = consensus::lock(&data_dir)?;
    let me = NewMember {
        id: config.node.id().map_err(|e| anyhow!(e))?,
        uuid: consensus::identity(&data_dir)?,
        admin: admin.clone(),
        advertise: config.node.advertise_host(),
        port_offset: config.node.port_offset,
    };
    let log = Consensus::open(ConsensusConfig {
        me: me.clone(),
        data_dir,
        secret: secret.clone(),
        source: config.node.source,
        timing: config.raft_timing(),
    });
    let log = log.await?;
    if log.is_pristine() {
        config.node.check_pristine().map_err(|e| anyhow!(e))?;
    }
    let listen = config.node.admin_listen().map_err(|e| anyhow!(e))?;
    let listener = tokio::net::TcpListener::bind(listen.as_str())
        .await
        .with_context(|| format!("the admin port {listen} cannot be bound; is another program or node using it?"))?;
    info!(node = %me.id, uuid = %me.uuid, %admin, %listen, "the admin port is bound");

    let permit = Arc::new(Permit::none());
    let unmanaged = UnmanagedReplicas::default();
    let prober = Prober::new(me.id);
    let readable = reads::publish(prober.clone(), log.state(), config.node.zone.clone());
    let hot_path = proxy_config::config(&config, me.id, unmanaged.clone());
    let proxy = Proxy::start_with_reads(hot_path, routes::publish(log.state()), permit.clone(), readable)
        .context("the proxy's threads could not be started")?;

    let timing = plan::timing::Timing {
        heartbeat: config.timing.heartbeat,
        lease: config.timing.lease,
        ..plan::timing::Timing::default()
    };
    let peers = Peers::new(secret.clone()).calling_from(config.node.source);
    let leases = Leases::start(log.clone(), timing);
    let authorizer = Authorizer::new(log.clone(), leases.quorum().clone());
    let leader_service = LeaderService { leases: leases.clone(), authorizer: authorizer.clone() };
    let start = Uuid(uuid::Uuid::new_v4().as_u128());
    let late_writes = config.proxy.request_deadline;
    let movers = Movers::new(me.clone(), start, log.clone(), peers.clone(), leader_service.clone(), late_writes);
    let service = NodeService {
        me: me.clone(),
        listed: config.node.peers.clone(),
        consensus: log.clone(),
        leader_service: leader_service.clone(),
        movers: movers.clone(),
    };
    let control =
        Control { log: Arc::new(log.clone()), me: me.id, view: leases.view(), lease: timing.lease_at_leader() };
    let leased = permit.clone();
    let (stop_calls, stopped_calls) = watch::channel(false);
    let calls = tokio::spawn(api::server::serve(
        listener,
        api::server::Services {
            control,
            raft: log.service(),
            node: NodeServer::new(service),
            secret: secret.clone(),
            source: config.node.source,
            leased: Arc::new(move || leased.leased()),
        },
        until(stopped_calls),
    ));

    let origin = match (&config.node.join, config.node.peers.is_empty()) {
        (Some(at), true) => Origin::Join(at.clone()),
        _ => Origin::Peers(config.node.peers.clone()),
    };
    tokio::spawn(Bootstrap { me: me.clone(), consensus: log.clone(), peers: peers.clone(), origin }.run());
    let driver = LeaderLoop {
        consensus: log.clone(),
        leases: leases.clone(),
        peers: peers.clone(),
        authorizer,
        me: me.id,
        default_port: config.node.default_port,
    };
    let driver = tokio::spawn(driver.run());
    let rebalancing = tokio::spawn(rebalance::rebalance_automatically(log.clone()));
    let moving = tokio::spawn(movers.clone().run());
    let formed = log.clone();
    let looking = tokio::spawn(prober.clone().run(move || formed.cluster_id(), log.state()));
    let counting = tokio::spawn(unmanaged::run(prober.clone(), log.state(), unmanaged));
    let heartbeat = HeartbeatSender {
        me: me.clone(),
        start,
        consensus: log.clone(),
        peers: peers.clone(),
        leader_service: leader_service.clone(),
        report: proxy.report(),
        movers: movers.clone(),
        prober,
        permit: permit.clone(),
        every: timing.heartbeat,
    };
    let farewell = heartbeat.farewell();
    let mut sending_heartbeats = tokio::spawn(heartbeat.run());

    let why = tokio::select! {
        name = signalled() => { info!(signal = name, "the node stops"); StopReason::Signal }
        ended = &mut sending_heartbeats => StopReason::HeartbeatSender(ended.ok()),
        reason = log_stopped(&log) => StopReason::Log(reason),
    };

    let deadline = Instant::now() + config.node.shutdown_deadline;
    let left = || deadline.saturating_duration_since(Instant::now());
    // A third for the clients: what does not finish by then is answered as lost, and leadership must still be handed over.
    proxy.drain(config.node.shutdown_deadline / 3).await;
    info!("the clients are drained");
    sending_heartbeats.abort();
    looking.abort();
    counting.abort();
    moving.abort();
    movers.stop();
    permit.revoke();
    if !matches!(why, StopReason::Log(_)) {
        farewell.say(left().min(Duration::from_secs(1))).await;
        driver.abort();
        rebalancing.abort();
        log.transfer_leadership(left()).await;
    }
    let _ = stop_calls.send(true);
    if tokio::time::timeout(left().max(Duration::from_millis(100)), calls).await.is_err() {
        warn!("calls were still open at the end of the shutdown deadline");
    }
    log.shutdown().await;
    info!("the node has stopped");
    match why {
        StopReason::Signal => Ok(()),
        StopReason::HeartbeatSender(Some(HeartbeatEnd::Removed)) => Ok(()),
        StopReason::HeartbeatSender(Some(HeartbeatEnd::DuplicateNode)) => Err(anyhow!(
            "another process with this node's identity serves in the cluster; empty one of the two data directories"
        )),
        StopReason::HeartbeatSender(None) => {
            Err(anyhow!("the heartbeat failed; this is a bug, the log above has its trace"))
        }
        StopReason::Log(reason) => {
            error!(%reason, "the log has stopped");
            Err(anyhow!("the log of this node has stopped: {reason}"))
        }
    }
}

/// StopReason a node stops.
enum StopReason {
    Signal,
    HeartbeatSender(Option<HeartbeatEnd>),
    Log(String),
}

async fn signalled() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be caught; stop this node by killing it");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

async fn log_stopped(log: &Consensus) -> String {
    let mut stopped = log.stopped();
    loop {
        if let Some(reason) = stopped.borrow_and_update().clone() {
            return reason;
        }
        if stopped.changed().await.is_err() {
            return "its task has ended".into();
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow_and_update() {
        if stopped.changed().await.is_err() {
            return;
        }
    }
}

/// Raises the limit of open files to the hard one: a client is a file, and so is each connection to a server.
fn raise_file_limit(clients_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Log, admin connections, servers.
    const OTHER_FILES: u64 = 1_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    };
    let wanted = clients_max as u64 + OTHER_FILES;
    if now.is_some_and(|n| n < wanted) {
        warn!(
            limit = now.unwrap_or(0),
            wanted,
            "few open files are allowed: fewer clients than the configured limit can connect; raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
}
