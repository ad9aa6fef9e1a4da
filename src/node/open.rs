//! A node that is open and does nothing yet: its data directory is locked, its log is read, its admin port is bound.
//! Knows nothing of the tasks that follow.

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    config::Config,
    consensus::{self, Consensus, ConsensusConfig, DirLock},
    model::change::NewMember,
    wire::auth::ClusterSecret,
};

/// What a node has before its first task starts.
pub struct OpenNode {
    /// Held until the process ends: two processes must not share a data directory.
    pub lock: DirLock,
    /// This node.
    pub me: NewMember,
    /// The cluster secret.
    pub secret: ClusterSecret,
    /// The log.
    pub log: Consensus,
    /// The admin port.
    pub listener: TcpListener,
}

impl OpenNode {
    /// Opens everything that can keep a node from starting, in this order: data directory, log, admin port.
    ///
    /// # Errors
    /// Returns why the node cannot start and what to do, as text for the operator.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let admin = config.node.admin().map_err(|e| anyhow!(e))?.clone();
        let data_dir = config.node.data_dir().map_err(|e| anyhow!(e))?.clone();
        let secret = config.secret().map_err(|e| anyhow!(e))?;
        raise_file_limit(config.proxy.clients_max);

        let lock = consensus::lock(&data_dir)?;
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
        let listener = TcpListener::bind(listen.as_str()).await.with_context(|| {
            format!("the admin port {listen} cannot be bound; is another program or node using it?")
        })?;
        info!(node = %me.id, uuid = %me.uuid, %admin, %listen, "the admin port is bound");
        Ok(Self { lock, me, secret, log, listener })
    }
}

/// Raises the limit of open files to the hard limit: each client is a file, and so is each connection to a server.
fn raise_file_limit(clients_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files of the log, admin connections and connections to servers.
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
            "few open files are allowed: fewer clients than the configured limit can \
             connect; raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
}
