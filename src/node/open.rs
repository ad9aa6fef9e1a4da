//! A node that is open and does nothing yet: its data directory is locked, its log is read, its admin port is bound.
//! Knows nothing of the tasks that follow.

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    config::Config,
    consensus::{self, Consensus, ConsensusConfig, DirLock},
    files,
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
    /// What the limit of open files allows.
    pub allowed: Allowed,
}

/// How many connections the node accepts.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Clients: the setting, or what the limit of open files allows.
    pub clients: usize,
    /// Dedicated connections to servers.
    pub dedicated: usize,
    /// Connections of the admin port.
    pub admin_connections: usize,
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
        let allowed = allowed(config.proxy.clients_max);

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
        Ok(Self { lock, me, secret, log, listener, allowed })
    }
}

/// How many connections the node accepts, given the limit of open files and how many clients it is to accept.
fn allowed(wanted: usize) -> Allowed {
    let limit = files::raise_limit();
    let clients = files::clients_allowed(limit, wanted);
    if clients < wanted {
        warn!(
            limit,
            wanted,
            allowed = clients,
            "few open files are allowed, so the node accepts fewer clients than proxy.clients_max: the rest of the \
             files is for the log, the other nodes and the servers. Raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
    Allowed {
        clients,
        dedicated: files::dedicated_allowed(limit),
        admin_connections: files::admin_connections_allowed(limit),
    }
}
