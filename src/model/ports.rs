//! The listeners of the cluster, so that no two of one host use the same port.
//! Knows nothing of sockets: a node that binds a port finds out whether another program uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    change::NewMember,
    ids::{HostPort, NodeId},
    reject::Reject,
    state::{ClusterState, Member},
};

/// One name for all spellings that certainly mean the same host: case, a trailing dot, and loopback's usual names.
/// (127.0.0.2 is a host of its own: several nodes on one machine may use such addresses.)
#[must_use]
pub fn host_key(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match host.as_str() {
        "localhost" | "127.0.0.1" | "::1" | "[::1]" | "localhost.localdomain" => "loopback".to_owned(),
        _ => host,
    }
}

/// Whether a host means every address of a machine, in whatever way it is written: `0.0.0.0` and the numbers that a resolver
/// takes for it (`0`, `0x0.0`), `::`, and IPv4 within IPv6 (`::ffff:0.0.0.0`). Whoever is given it connects to itself.
#[must_use]
pub fn is_unspecified(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
    let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return ip.to_canonical().is_unspecified();
    }
    let zero = |part: &str| {
        let digits = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")).unwrap_or(part);
        !digits.is_empty() && digits.bytes().all(|b| b == b'0')
    };
    // At most four numbers are an address; five are a name.
    bare.split('.').count() <= 4 && bare.split('.').all(zero)
}

/// An address with the host as `host_key` writes it: equal for two spellings of one address.
#[must_use]
pub fn addr_key(addr: &HostPort) -> (String, u16) {
    (host_key(addr.host()), addr.port())
}

/// The listeners of a node.
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
    /// The names of its host.
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

/// Refuses when two listeners of `nodes` and `products` (name, base port), or a listener and a server, would use the
/// same port of a host, or when a port would be out of range.
///
/// # Errors
/// `PortTaken` with both users of the port, or `PortRange`.
pub fn check_listeners<'a>(
    nodes: impl Iterator<Item = NodePorts<'a>>,
    products: &[(&str, u16)],
    servers: impl Iterator<Item = &'a HostPort>,
) -> Result<(), Reject> {
    let mut listeners = Listeners::default();
    // Servers first, so that the error names the listener as the one to move.
    // A server may occur in two spellings; another check refuses that with a better text.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: only some of the spellings were refused.
    #[test]
    fn unspecified_addresses_are_known_in_every_spelling() {
        for host in [
            "0.0.0.0",
            "0",
            "0.0",
            "0.0.0",
            "00.0.0.0",
            "0x0",
            "0X00.0",
            "0.0.0.0.",
            "::",
            "[::]",
            "[::0]",
            "[0:0::0]",
            "[::0.0.0.0]",
            "::ffff:0.0.0.0",
            "[::ffff:0.0.0.0]",
            "[::ffff:0:0]",
            "[::%lo]",
        ] {
            assert!(is_unspecified(host), "{host}");
        }
        for host in [
            "127.0.0.1",
            "0.0.0.1",
            "10.0.0.0",
            "[::1]",
            "[::ffff:10.0.0.1]",
            "localhost",
            "0.example.org",
            "0.0.0.0.0",
            "db0",
            "0x",
            "",
            "1",
        ] {
            assert!(!is_unspecified(host), "{host}");
        }
    }
}
