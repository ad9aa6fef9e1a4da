//! How many clients each server accepts, and how many dedicated connections to it a node may have: beyond its `maxclients` a
//! server refuses everybody, shared connections and those of a failover included. The node publishes the numbers. Knows
//! nothing of how it finds them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::model::ids::HostPort;

/// Clients of a server that dedicated connections leave free: for shared connections, probes, movers, replicas and
/// operators. Of a server that accepts few, half of them.
const RESERVED: usize = 1_000;

/// The `maxclients` of a server that is not known yet: the default of Redis.
const DEFAULT: u32 = 10_000;

/// Shared by the prober, which publishes, and the workers, which ask when they open a dedicated connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerClients(Arc<RwLock<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    /// Nodes of the cluster; 0 counts as 1.
    nodes: usize,
    clients_max: BTreeMap<HostPort, u32>,
}

impl ServerClients {
    /// Records the number of nodes.
    pub fn set_nodes(&self, nodes: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).nodes = nodes;
    }

    /// Records how many clients a server accepts.
    pub fn publish(&self, server: &HostPort, clients_max: u32) {
        let known = |numbers: &Numbers| numbers.clients_max.get(server) == Some(&clients_max);
        // The numbers are consistent even if a thread panicked while it held the lock.
        if !known(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            let mut numbers = self.0.write().unwrap_or_else(PoisonError::into_inner);
            numbers.clients_max.insert(server.clone(), clients_max);
        }
    }

    /// How many dedicated connections to a server this node may have.
    #[must_use]
    pub fn dedicated_max(&self, server: &HostPort) -> usize {
        let numbers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let clients_max = numbers.clients_max.get(server).copied().unwrap_or(DEFAULT) as usize;
        (clients_max - RESERVED.min(clients_max / 2)) / numbers.nodes.max(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_dedicated_connections_of_all_nodes_leave_clients_to_others() {
        let server = HostPort::parse("h:1").unwrap();
        let numbers = ServerClients::default();
        assert_eq!(numbers.dedicated_max(&server), 9_000, "nothing is known yet");
        numbers.set_nodes(3);
        assert_eq!(numbers.dedicated_max(&server), 3_000);
        for (clients_max, max) in [(10_000, 3_000), (65_000, 21_333), (1_500, 250), (100, 16), (1, 0), (0, 0)] {
            numbers.publish(&server, clients_max);
            assert_eq!(numbers.dedicated_max(&server), max, "{clients_max}");
        }
    }
}
