//! The proxy's part of the configuration.
//! Knows nothing of what the proxy does with it.

use crate::{
    config::Config,
    model::ids::NodeId,
    proxy::{Limits, ProxyConfig, UnmanagedReplicas},
};

/// The settings that the proxy is started with.
#[must_use]
pub fn config(config: &Config, node: NodeId, unmanaged: UnmanagedReplicas) -> ProxyConfig {
    let proxy = &config.proxy;
    ProxyConfig {
        workers: proxy.worker_count(),
        bind: config.node.bind.to_string(),
        port_offset: config.node.port_offset,
        insecure: config.node.insecure,
        node,
        unmanaged,
        limits: Limits {
            clients_max: proxy.clients_max,
            pipeline_max: proxy.pipeline_max,
            session_queued_max: proxy.session_queue_max,
            session_output_max: proxy.session_output_max,
            backend_queued_max: proxy.backend_queue_max,
            request_deadline: proxy.request_deadline,
            connect_deadline: proxy.connect_deadline,
            parked_for_max: config.timing.park,
            ..Limits::default()
        },
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_that_are_documented_are_those_of_the_proxy() {
        let configured = self::config(&Config::default(), NodeId(1), UnmanagedReplicas::default()).limits;
        assert_eq!(format!("{configured:?}"), format!("{:?}", Limits::default()));
    }
}
