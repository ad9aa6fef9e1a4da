//! The ports, addresses and slots of a playground, computed from its shape.
//! Knows nothing of files and processes.

use std::time::{Duration, Instant};

use super::CliError;

/// What a playground consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaygroundShape {
    /// Number of nodes.
    pub nodes: u16,
    /// Number of groups.
    pub groups: u16,
    /// Replicas of each.
    pub replicas: u16,
    /// Base port.
    pub port: u16,
}

impl Default for PlaygroundShape {
    fn default() -> Self {
        Self { nodes: 3, groups: 2, replicas: 1, port: 19_000 }
    }
}

/// The parts of the shape that the command line gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayoutRequest {
    /// Number of nodes.
    pub nodes: Option<u16>,
    /// Number of groups.
    pub groups: Option<u16>,
    /// Replicas of each.
    pub replicas: Option<u16>,
    /// Base port.
    pub port: Option<u16>,
}

impl LayoutRequest {
    /// The given parts, and the others from `other`.
    #[must_use]
    pub fn or(self, other: PlaygroundShape) -> PlaygroundShape {
        PlaygroundShape {
            nodes: self.nodes.unwrap_or(other.nodes),
            groups: self.groups.unwrap_or(other.groups),
            replicas: self.replicas.unwrap_or(other.replicas),
            port: self.port.unwrap_or(other.port),
        }
    }
}

/// Admin ports begin after B + this.
const ADMIN: u16 = 100;
/// Servers' ports begin after B + this.
const SERVERS: u16 = 200;
/// Slots of the product `default`, whose layout is codis.
const SLOTS: u32 = 1024;
/// How long to wait for ports. Those of a playground that was just killed are free as soon as the kernel has ended its children.
const FREE_WITHIN: Duration = Duration::from_secs(3);

/// A redis-server of the playground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaygroundServer {
    /// Its group, from 1.
    pub group: u16,
    /// Its port.
    pub port: u16,
    /// Port of the primary it is made a replica of; `None`: made a primary.
    pub primary_port: Option<u16>,
}

impl PlaygroundServer {
    /// For people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("server {} of group {}", self.port, self.group)
    }

    /// HOST:PORT.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// The numbers of a playground.
#[derive(Clone, Copy, Debug)]
pub struct PlaygroundLayout(PlaygroundShape);

impl PlaygroundLayout {
    /// Checks that the ports exist.
    ///
    /// # Errors
    /// Returns why, as text for the operator, if the highest port is above 65535.
    pub fn new(shape: PlaygroundShape) -> Result<Self, CliError> {
        let highest =
            u32::from(shape.port) + u32::from(SERVERS) + u32::from(shape.groups) * u32::from(shape.replicas + 1);
        if highest > u32::from(u16::MAX) {
            return Err(CliError::Usage(format!(
                "--port {}: the last server's port would be {highest}; choose a lower one",
                shape.port
            )));
        }
        Ok(Self(shape))
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> PlaygroundShape {
        self.0
    }

    /// Where clients reach a node.
    #[must_use]
    pub fn client(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.0.port + node)
    }

    /// Admin address of a node.
    #[must_use]
    pub fn admin(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.0.port + ADMIN + node)
    }

    /// The servers, group by group, primary first.
    pub fn servers(&self) -> impl Iterator<Item = PlaygroundServer> + use<> {
        let PlaygroundShape { groups, replicas, port, .. } = self.0;
        let size = replicas + 1;
        (0..groups * size).map(move |i| {
            let primary = port + SERVERS + 1 + i / size * size;
            let own = port + SERVERS + 1 + i;
            PlaygroundServer { group: i / size + 1, port: own, primary_port: (own != primary).then_some(primary) }
        })
    }

    /// First and last slot of a group.
    #[must_use]
    pub fn slots(&self, group: u16) -> (u32, u32) {
        let (g, n) = (u32::from(group), u32::from(self.0.groups));
        (SLOTS * (g - 1) / n, SLOTS * g / n - 1)
    }

    /// Whether every port can be bound.
    ///
    /// # Errors
    /// Returns the ports that are in use, what they are for, and what to do, as text for the operator.
    pub async fn check_free(&self) -> Result<(), CliError> {
        let deadline = Instant::now() + FREE_WITHIN;
        loop {
            let taken = self.taken();
            if taken.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let list: Vec<_> = taken.iter().map(|(port, what)| format!("{port} ({what})")).collect();
                return Err(CliError::Failed(format!(
                    "in use by another program: port {}; to find it: ss -ltnp 'sport = :{}'; or use other ports: --port B",
                    list.join(", "),
                    taken[0].0
                )));
            }
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
    }

    fn taken(&self) -> Vec<(u16, String)> {
        let PlaygroundShape { nodes, port, .. } = self.0;
        let clients = (1..=nodes).map(|n| (port + n, format!("clients of node {n}")));
        let admins = (1..=nodes).map(|n| (port + ADMIN + n, format!("admin of node {n}")));
        let servers = self.servers().map(|s| (s.port, format!("a server of group {}", s.group)));
        clients
            .chain(admins)
            .chain(servers)
            .filter(|(p, _)| std::net::TcpListener::bind(("127.0.0.1", *p)).is_err())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_default_is_as_documented() {
        let layout = PlaygroundLayout::new(PlaygroundShape::default()).unwrap();
        assert_eq!((layout.client(1), layout.admin(3)), ("127.0.0.1:19001".into(), "127.0.0.1:19103".into()));
        let servers: Vec<_> = layout.servers().map(|s| (s.group, s.port, s.primary_port)).collect();
        assert_eq!(servers, [(1, 19201, None), (1, 19202, Some(19201)), (2, 19203, None), (2, 19204, Some(19203))]);
        assert_eq!((layout.slots(1), layout.slots(2)), ((0, 511), (512, 1023)));
    }

    #[test]
    fn slots_are_contiguous_for_every_number_of_groups() {
        for groups in 1..=32 {
            let layout = PlaygroundLayout::new(PlaygroundShape { groups, ..PlaygroundShape::default() }).unwrap();
            let mut next = 0;
            for group in 1..=groups {
                let (first, last) = layout.slots(group);
                assert_eq!(first, next);
                next = last + 1;
            }
            assert_eq!(next, SLOTS);
        }
    }

    #[test]
    fn a_port_too_high_is_refused() {
        assert!(PlaygroundLayout::new(PlaygroundShape { port: 65_400, ..PlaygroundShape::default() }).is_err());
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let layout = PlaygroundLayout(PlaygroundShape { nodes: 1, groups: 1, replicas: 0, port: port - 1 });
        assert!(layout.taken().iter().any(|(p, what)| *p == port && what == "clients of node 1"));
    }
}
