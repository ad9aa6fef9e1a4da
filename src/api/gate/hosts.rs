//! The host names by which requests may call this node. A page of another site reaches a node on the user's machine or
//! network by a name that the site resolves to the node's address (DNS rebinding); the browser then sends that name.
//! Knows nothing of requests.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Always accepted: browsers resolve it themselves, so no site can claim it (RFC 6761, 6.3).
const LOCALHOST: &str = "localhost";

/// Names of this node, in lower case and without a dot at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames(BTreeSet<String>);

impl HostNames {
    /// The names of this node, without ports.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(normal).collect())
    }

    /// Whether a request may call this node by `host`: `NAME`, `IPv4` or `[IPv6]`, each with or without a port.
    ///
    /// Every IP address is accepted: an attacker can let a name lead here, but no page is loaded from an address that is
    /// not his. So a node that is bound on all addresses needs no list of them. The port is not compared, since it
    /// differs behind a relay, and an attacker's page has to use the right one anyway.
    #[must_use]
    pub fn admits(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            return rest.split_once(']').is_some_and(|(ip, port)| ip.parse::<Ipv6Addr>().is_ok() && is_port(port));
        }
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        let name = normal(name);
        is_port(port) && (name == LOCALHOST || name.parse::<Ipv4Addr>().is_ok() || self.0.contains(&name))
    }
}

/// DNS compares names without regard to case, and a dot at the end only says that the name is complete.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether `text` is nothing, or a colon and a port; the port may be missing (RFC 3986, 3.2.3).
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').map_or(text.is_empty(), |port| {
        port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_node_and_addresses_are_admitted() {
        let names = HostNames::new(["db1.example.org", "Proxy.Internal.", "[::1]", "my_node"]);
        for host in [
            "db1.example.org",
            "db1.example.org:19101",
            "DB1.Example.ORG.:1",
            "proxy.internal",
            "my_node:80",
            "localhost",
            "LocalHost.:19101",
            "127.0.0.1",
            "10.1.2.3:19101",
            "0.0.0.0:1",
            "127.0.0.1:",
            "[::1]",
            "[2001:DB8::1]:19101",
            "[::ffff:10.0.0.1]:65535",
        ] {
            assert!(names.admits(host), "{host}");
        }
        for host in [
            "",
            ".",
            ":19101",
            "evil.example",
            "evil.example:19101",
            "db1.example.org.evil.example",
            "evil.db1.example.org",
            "db1.example.org..",
            "localhost.evil.example",
            "a.localhost",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "127.0.0.1:port",
            "127.0.0.1:+80",
            "127.0.0.1:65536",
            "127.0.0.1:80:80",
            "user@127.0.0.1",
            "127.0.0.1/",
            "127.0.0.1,evil.example",
            " 127.0.0.1",
            "::1",
            "[::1",
            "[::1]19101",
            "[::1].evil.example",
            "[evil.example]",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
        ] {
            assert!(!names.admits(host), "{host}");
        }
        assert!(HostNames::default().admits("localhost:19101") && !HostNames::default().admits("db1.example.org"));
    }
}
