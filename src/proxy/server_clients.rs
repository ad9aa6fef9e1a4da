//! How many clients each server accepts and has, and how many dedicated connections to it a node may therefore have: beyond its
//! `maxclients` a server refuses everybody, shared connections and those of a failover included. The node publishes the
//! numbers. Knows nothing of how it finds them.
//!
//! Half of what a server has for dedicated connections is divided among the nodes in equal parts: each node always has its part.
//! The other half is for whoever needs it. With each count of the server's clients, every half second, a node may take its part
//! of what is left of it then; so nodes that do so at the same time stay below the limit together.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::model::ids::HostPort;

/// Clients of a server that dedicated connections leave free: for shared connections, probes, movers, replicas and
/// operators. Of a server that accepts few, half of them.
const RESERVED: usize = 1_000;

/// The `maxclients` of a server that is not known yet: the default of Redis.
const DEFAULT: u32 = 10_000;

/// How long a count allows to take from the common half: other nodes take meanwhile, and the next count is due after half a
/// second.
const RECENT: Duration = Duration::from_millis(700);

/// Shared by the prober, which publishes, and the workers, which ask when they open a dedicated connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerClients(Arc<RwLock<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    /// Nodes of the cluster; 0 counts as 1.
    nodes: usize,
    servers: BTreeMap<HostPort, Server>,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    clients_max: u32,
    /// How many clients it had, and when.
    connected: Option<(u32, Instant)>,
    /// How often they were counted.
    count: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self { clients_max: DEFAULT, connected: None, count: 0 }
    }
}

/// What is known of a server when a dedicated connection to it is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerRoom {
    /// Connections that the node may always have.
    own_part: usize,
    /// The common half, in which a node has what it has beyond its part.
    common: usize,
    /// Nodes of the cluster.
    nodes: usize,
    count: Count,
}

/// What is known of the clients of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    /// They were never counted: this node has just started.
    None,
    Old,
    Recent {
        /// Clients, of which some are no dedicated connections.
        connected: usize,
        /// Number of the count.
        number: u64,
    },
}

impl ServerRoom {
    /// The number of the count of the server's clients, if it is recent.
    #[must_use]
    pub const fn count(&self) -> Option<u64> {
        if let Count::Recent { number, .. } = self.count { Some(number) } else { None }
    }

    /// How many dedicated connections a node may have that had `own` when the clients were counted.
    #[must_use]
    pub fn node_max(&self, own: usize) -> usize {
        let connected = match self.count {
            // Its part of both halves.
            Count::None => return self.own_part + self.common / self.nodes,
            Count::Old => return self.own_part,
            Count::Recent { connected, .. } => connected,
        };
        let beyond_part = |connections: usize| connections.saturating_sub(self.own_part);
        // At most: as if one other node had all the others.
        let used = beyond_part(own) + beyond_part(connected.saturating_sub(own));
        self.own_part.max(own) + self.common.saturating_sub(used) / self.nodes
    }
}

impl ServerClients {
    /// Records the number of nodes.
    pub fn set_nodes(&self, nodes: usize) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).nodes = nodes;
    }

    /// Records how many clients a server accepts, and how many it has now, as far as it has said so.
    pub fn publish(&self, server: &HostPort, clients_max: Option<u32>, connected: Option<u32>) {
        if clients_max.is_none() && connected.is_none() {
            return;
        }
        // The numbers are consistent even if a thread panicked while it held the lock.
        let mut numbers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let of_server = numbers.servers.entry(server.clone()).or_default();
        of_server.clients_max = clients_max.unwrap_or(of_server.clients_max);
        if let Some(connected) = connected {
            of_server.connected = Some((connected, Instant::now()));
            of_server.count += 1;
        }
    }

    /// What is known of a server.
    #[must_use]
    pub fn room(&self, server: &HostPort) -> ServerRoom {
        let numbers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_server = numbers.servers.get(server).copied().unwrap_or_default();
        let clients_max = of_server.clients_max as usize;
        let reserved = RESERVED.min(clients_max / 2);
        let nodes = numbers.nodes.max(1);
        let own_part = (clients_max - reserved) / 2 / nodes;
        // Half of the reserve is for connections that are no dedicated ones, which are counted, too.
        let counted = |(connected, at): (u32, Instant)| {
            let connected = (connected as usize).saturating_sub(reserved / 2);
            let is_recent = at.elapsed() < RECENT;
            if is_recent { Count::Recent { connected, number: of_server.count } } else { Count::Old }
        };
        ServerRoom {
            own_part,
            common: clients_max - reserved - own_part * nodes,
            nodes,
            count: of_server.connected.map_or(Count::None, counted),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a node may have, if it had `own` connections when the server had `connected` clients.
    fn node_max(numbers: &ServerClients, clients_max: u32, connected: Option<u32>, own: usize) -> usize {
        let server = HostPort::parse("h:1").unwrap();
        numbers.publish(&server, Some(clients_max), connected);
        numbers.room(&server).node_max(own)
    }

    #[test]
    fn the_dedicated_connections_of_all_nodes_leave_clients_to_others() {
        let numbers = ServerClients::default();
        assert_eq!(numbers.room(&HostPort::parse("h:1").unwrap()).node_max(0), 9_000, "nothing is known yet");
        numbers.set_nodes(3);
        for (clients_max, max) in [(10_000, 3_000), (65_000, 21_333), (1_500, 250), (100, 16), (1, 0), (0, 0)] {
            let most = node_max(&numbers, clients_max, None, 0);
            assert!(most <= max && most + 1 >= max, "{clients_max}: {most}");
        }
    }

    #[test]
    fn a_node_has_its_part_and_takes_of_what_is_left() {
        let numbers = ServerClients::default();
        numbers.set_nodes(3);
        for (connected, own, max) in [
            // Nobody has any: its part, and a third of the common half.
            (50, 0, 3_000),
            // It alone has some.
            (3_050, 3_000, 4_000),
            (4_050, 4_000, 4_666),
            (6_050, 6_000, 6_000),
            // All have their parts of both halves.
            (9_050, 3_000, 3_000),
            // Others have more than theirs: its own part remains.
            (8_000, 0, 1_500),
            (9_900, 0, 1_500),
        ] {
            assert_eq!(node_max(&numbers, 10_000, Some(connected), own), max, "{connected} {own}");
        }
        // At a server that accepts few, the connections that are no dedicated ones are not all counted.
        assert_eq!(node_max(&numbers, 200, Some(50), 0), 33);
        assert_eq!(node_max(&numbers, 200, Some(120), 0), 16, "its part");
    }

    /// Nodes open all that they may, in any order, and some have no recent count.
    #[test]
    fn nodes_that_open_connections_do_not_exceed_the_limit_together() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (nodes, mut own) = (random.usize(1..6), [0_usize; 6]);
            let numbers: Vec<_> = (0..nodes).map(|_| ServerClients::default()).collect();
            numbers.iter().for_each(|of_node| of_node.set_nodes(nodes));
            let server = HostPort::parse("h:1").unwrap();
            for _ in 0..40 {
                // Half a second: all are counted at some time, and what a count allows is used before the next one.
                let mut max = [0_usize; 6];
                let mut order: Vec<usize> = (0..nodes).collect();
                random.shuffle(&mut order);
                for node in order {
                    let connected = u32::try_from(own.iter().sum::<usize>()).unwrap();
                    let is_counted = random.u8(0..4) > 0;
                    max[node] = match is_counted {
                        true => node_max(&numbers[node], 10_000, Some(connected), own[node]),
                        false => numbers[node].room(&server).own_part,
                    };
                    for other in 0..nodes {
                        let most = max[other].max(own[other]);
                        own[other] = if random.bool() { most } else { random.usize(own[other]..=most) };
                    }
                }
                assert!(own.iter().sum::<usize>() <= 10_000, "seed {seed}: {own:?}");
            }
        }
    }
}
