//! The cluster of a hostile run: three nodes; product `default`, which is attacked; product `honest`. Each product has
//! two groups of its own with a replica each, so that a failover is possible everywhere.

use pontoon::model::ids::SlotId;
use pontoon::model::slot::Layout;

use crate::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
};

/// The values of one size that hostile clients ask for.
#[derive(Debug)]
pub struct Values {
    name: &'static str,
    bytes: usize,
    keys: usize,
}

/// Values of 1 KB.
pub const SMALL: Values = Values { name: "small", bytes: 1 << 10, keys: 100 };
/// Values of 100 KB.
pub const MIDDLE: Values = Values { name: "middle", bytes: 100 << 10, keys: 32 };
/// Number of values of 1 MB.
pub const LARGE_KEYS: usize = 32;
/// Values of 1 MB.
pub const LARGE: Values = Values { name: "large", bytes: 1 << 20, keys: LARGE_KEYS };

impl Values {
    /// Returns a key, the same one for each `n` modulo the number of keys.
    #[must_use]
    pub fn key(&self, n: usize) -> String {
        format!("{}:{}", self.name, n % self.keys)
    }

    /// Returns the length of the reply to a GET.
    #[must_use]
    pub fn reply_len(&self) -> usize {
        format!("${}\r\n", self.bytes).len() + self.bytes + 2
    }

    fn create(&self, port: u16) {
        let value = "v".repeat(self.bytes);
        let mut client = Client::connect(port).expect("the attacked product accepts clients");
        for n in 0..self.keys {
            let reply = client.call(&["SET", &self.key(n), &value]).expect("a SET is answered");
            assert_eq!(reply, Reply::ok(), "the values of the attacked product can be created");
        }
    }
}

/// Name of the product with honest clients.
const HONEST: &str = "honest";

/// Memory of each attacked server, its replies included. More than the kinds of clients ever store.
const SERVER_MEMORY: &str = "2gb";

/// First slot of the second group of each product.
const SECOND_HALF: u16 = 512;

/// The cluster.
#[derive(Debug)]
pub struct Arena {
    /// Nodes and servers. Servers 0 to 3 are those of the attacked product: primary and replica of group 1, then of
    /// group 2.
    pub cluster: Cluster,
    /// The node that all clients use: the leader, which has most to lose.
    pub node: u16,
    honest_port: u16,
    events: usize,
}

impl Arena {
    /// Starts the cluster. `budget_mb`: the setting `proxy.memory_max` of the nodes; `None`: its default.
    ///
    /// # Panics
    /// When the cluster cannot be started.
    #[must_use]
    pub fn start(budget_mb: Option<usize>) -> Self {
        let mut cluster = Cluster::prepared(3);
        if let Some(mb) = budget_mb {
            let setting = format!("proxy.memory_max={}", mb << 20);
            cluster.nodes.iter_mut().for_each(|node| node.more.extend(["--set".to_owned(), setting.clone()]));
        }
        cluster.start_all();
        let limited = RedisOptions {
            more: ["--maxmemory", SERVER_MEMORY, "--maxmemory-policy", "noeviction"].map(str::to_owned).to_vec(),
            ..RedisOptions::default()
        };
        let port = cluster.ports.product(1);
        cluster.cli().ok(&["product", "create", HONEST, "--port", &port.to_string(), "--wait", "--timeout", "40s"]);
        for (product, options) in [("default", &limited), (HONEST, &RedisOptions::default())] {
            cluster.add_group_of(product, 1, "0-511", 1, options);
            cluster.add_group_of(product, 2, "512-1023", 1, options);
        }
        let node = cluster.leader();
        let mut arena = Self { honest_port: port + node, node, cluster, events: 0 };
        for values in [&SMALL, &MIDDLE, &LARGE] {
            values.create(arena.attacked_port());
        }
        arena.events = arena.promotions().len();
        arena
    }

    /// Returns the port of the attacked product.
    #[must_use]
    pub fn attacked_port(&self) -> u16 {
        self.cluster.node(self.node).client_port
    }

    /// Returns the port of product `honest`.
    #[must_use]
    pub fn honest_port(&self) -> u16 {
        self.honest_port
    }

    /// Returns the process id of the node that all clients use.
    #[must_use]
    pub fn node_pid(&self) -> u32 {
        self.cluster.node(self.node).pid()
    }

    /// Returns the process ids of the attacked servers.
    #[must_use]
    pub fn attacked_servers(&self) -> Vec<u32> {
        self.cluster.servers[..4].iter().map(crate::redis::RedisServer::pid).collect()
    }

    /// Returns the promotions that began since the start, as texts.
    ///
    /// # Panics
    /// When the nodes do not answer.
    #[must_use]
    pub fn new_promotions(&self) -> Vec<String> {
        self.promotions().split_off(self.events)
    }

    fn promotions(&self) -> Vec<String> {
        let events = self.cluster.cli().json(&["events"]);
        let started = events.as_array().into_iter().flatten().filter(|event| event["kind"] == "promotion-started");
        started.map(ToString::to_string).collect()
    }
}

/// Returns the group of a key: 1 or 2.
#[must_use]
pub fn group_of(key: &str) -> u16 {
    if Layout::Codis.slot(key.as_bytes()) < SlotId(SECOND_HALF) { 1 } else { 2 }
}
