//! Which listener stands where, so that no two of one host meet.
//! Knows nothing of sockets: a port that some other program holds is found by the node that binds it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    change::NewMember,
    ids::{HostPort, NodeId},
    reject::Reject,
    state::{ClusterState, Member},
};

/// One name for all spellings of a host that are surely the same: case, a trailing dot, and loopback's usual names.
/// (127.0.0.2 is a host of its own: several nodes on one machine may use such addresses.)
#[must_use]
pub fn host_key(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match host.as_str() {
        "localhost" | "127.0.0.1" | "::1" | "[::1]" | "localhost.localdomain" => "loopback".to_owned(),
        _ => host,
    }
}

/// A server's address with its host as `host_key` writes it: equal for two spellings of one address.
#[must_use]
pub fn addr_key(addr: &HostPort) -> (String, u16) {
    (host_key(addr.host()), addr.port())
}

/// What a node contributes to its host.
#[derive(Clone, Copy, Debug)]
pub struct NodePorts<'a> {
    id: NodeId,
    admin: &'a HostPort,
    advertise: &'a str,
    offset: u16,
}

impl<'a> From<&'a Member> for NodePorts<'a> {
    fn from(m: &'a Member) -> Self {
        Self { id: m.id, admin: &m.admin, advertise: &m.advertise, offset: m.port_offset }
    }
}

impl<'a> From<&'a NewMember> for NodePorts<'a> {
    fn from(m: &'a NewMember) -> Self {
        Self { id: m.id, admin: &m.admin, advertise: &m.advertise, offset: m.port_offset }
    }
}

impl NodePorts<'_> {
    /// The names its machine is known by.
    fn hosts(&self) -> BTreeSet<String> {
        BTreeSet::from([host_key(self.admin.host()), host_key(self.advertise)])
    }
}

/// All listeners of a cluster, by host and port.
#[derive(Debug, Default)]
struct Listeners(BTreeMap<(String, u16), String>);

impl Listeners {
    fn add(&mut self, host: &str, port: u16, who: &str) -> Result<(), Reject> {
        let Some(first) = self.0.insert((host.to_owned(), port), who.to_owned()) else { return Ok(()) };
        Err(Reject::PortTaken { host: host.to_owned(), port, first, second: who.to_owned() })
    }
}

/// Refuses when two listeners of `nodes` and `products` (name, base port) would meet on a host, or one would meet a
/// server there, or a port would not be one.
///
/// # Errors
/// `PortTaken` with both sides, or `PortRange`.
pub fn no_listeners_meet<'a>(
    nodes: impl Iterator<Item = NodePorts<'a>>,
    products: &[(&str, u16)],
    servers: impl Iterator<Item = &'a HostPort>,
) -> Result<(), Reject> {
    let mut listeners = Listeners::default();
    // Servers first: if something meets a server, that is the evidence, and the listener is what must move.
    // One server may be named twice by two spellings; that is refused elsewhere, with its own sentence.
    for addr in servers {
        listeners.0.insert(addr_key(addr), format!("server {addr}"));
    }
    for node in nodes {
        for host in node.hosts() {
            listeners.add(&host, node.admin.port(), &format!("the admin port of node {}", node.id))?;
            for (name, port) in products {
                let sum = u32::from(*port) + u32::from(node.offset);
                let bound = u16::try_from(sum).ok().filter(|_| *port > 0);
                let Some(bound) = bound else {
                    return Err(Reject::PortRange { product: (*name).to_owned(), node: node.id, port: sum });
                };
                listeners.add(&host, bound, &format!("product '{name}' at node {}", node.id))?;
            }
        }
    }
    Ok(())
}

/// All servers of all groups.
pub fn servers(state: &ClusterState) -> impl Iterator<Item = &HostPort> {
    state.products.values().flat_map(|p| p.groups.values()).flat_map(|g| &g.servers).map(|s| &s.addr)
}

/// Names and base ports of all products.
#[must_use]
pub fn products(state: &ClusterState) -> Vec<(&str, u16)> {
    state.products.values().map(|p| (p.name.as_str(), p.port)).collect()
}
