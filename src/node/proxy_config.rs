//! The proxy's part of the configuration.
//! Knows nothing of what the proxy does with it.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{machine_memory, open::Allowed};
use crate::{
    config::Config,
    model::ids::{HostPort, NodeId},
    proxy::{
        ClusterId, Limits, ProductCommands, ProxyConfig, ScriptLink, ServerActivity, ServerAsk, ServerClients,
        UnmanagedReplicas,
    },
};

/// What the proxy shares with other parts of the node.
#[derive(Clone, Debug, Default)]
pub struct ProxyLinks {
    /// Numbers of replicas that do not count for `min-acks`.
    pub unmanaged: UnmanagedReplicas,
    /// How many clients servers accept.
    pub server_clients: ServerClients,
    /// When workers last received bytes from each server.
    pub activity: ServerActivity,
    /// Gets the address of a primary that answers as a replica.
    pub misrouted: Option<mpsc::Sender<HostPort>>,
    /// Gets the address of a server that refuses the data user.
    pub data_user_refused: Option<mpsc::Sender<HostPort>>,
    /// Gets the commands of clients to single servers.
    pub server_asks: Option<mpsc::Sender<ServerAsk>>,
    /// The cluster, as soon as the node belongs to one.
    pub cluster: ClusterId,
    /// The commands of the servers of each product.
    pub commands: Option<watch::Receiver<Arc<ProductCommands>>>,
    /// What the cluster knows of scripts and functions.
    pub scripts: Option<ScriptLink>,
}

/// The settings that the proxy is started with. `allowed`: what the limit of open files allows.
#[must_use]
pub fn config(config: &Config, node: NodeId, allowed: Allowed, links: ProxyLinks) -> ProxyConfig {
    let ProxyLinks {
        unmanaged,
        server_clients,
        activity,
        misrouted,
        data_user_refused,
        server_asks,
        cluster,
        commands,
        scripts,
    } = links;
    let proxy = &config.proxy;
    ProxyConfig {
        workers: proxy.worker_count(),
        bind: config.node.bind.to_string(),
        port_offset: config.node.port_offset,
        insecure: config.node.insecure,
        node,
        unmanaged,
        server_clients,
        misrouted,
        data_user_refused,
        server_asks,
        commands,
        scripts,
        activity,
        limits: Limits {
            clients_max: allowed.clients,
            pipeline_max: proxy.pipeline_max,
            session_queued_max: proxy.session_queue_max,
            session_output_max: proxy.session_output_max,
            client_stalled_max: proxy.client_stalled_max,
            large_message: proxy.large_message,
            dedicated_max: proxy.dedicated_max,
            transaction_commands_max: proxy.transaction_commands_max,
            transaction_bytes_max: proxy.transaction_bytes_max,
            watched_keys_max: proxy.watched_keys_max,
            fieldset_bytes_max: proxy.fieldset_bytes_max,
            dedicated_total_max: allowed.dedicated,
            memory_max: memory_max(proxy.memory_max),
            reply_max: proxy.reply_max,
            slow_request: u64::try_from(proxy.slow_request).ok().map(Duration::from_micros),
            monitor_rate: proxy.monitor_rate,
            backend_queued_max: proxy.backend_queue_max,
            request_deadline: proxy.request_deadline,
            connect_deadline: proxy.connect_deadline,
            parked_for_max: config.timing.park,
            unblock_before: config.timing.lease / LEASE_PARTS,
            ..Limits::default()
        },
        version: env!("CARGO_PKG_VERSION").into(),
        cluster,
    }
}

/// Blocked calls are ended this part of a lease before it ends: a node that is heard has two thirds left.
const LEASE_PARTS: u32 = 15;

/// The part of the memory that buffers may take if the setting is 0: servers and other programs may run beside the node.
const MEMORY_PART: u64 = 4;

fn memory_max(setting: usize) -> usize {
    match setting {
        0 => usize::try_from(machine_memory::total() / MEMORY_PART).unwrap_or(usize::MAX),
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn the_limits_that_are_documented_are_those_of_the_proxy() {
        let config = Config::default();
        let links = ProxyLinks::default();
        let allowed = Allowed {
            clients: config.proxy.clients_max,
            dedicated: files::dedicated_allowed(None),
            admin_connections: files::admin_connections_allowed(None),
        };
        let mut configured = self::config(&config, NodeId(1), allowed, links).limits;
        assert_eq!(configured.memory_max as u64, machine_memory::total() / MEMORY_PART);
        configured.memory_max = Limits::default().memory_max;
        assert_eq!(format!("{configured:?}"), format!("{:?}", Limits::default()));
    }
}
