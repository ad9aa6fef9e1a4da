//! The identity of this node and its addresses.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use super::{check, section::section};
use crate::model::{
    ids::{HostPort, NodeId},
    limits::ZONE_LEN_MAX,
    ports::is_unspecified,
};

section! {
    /// The node itself; the top level of the file.
    NodeConfig("") {
        /// Id of this node, unique in the cluster, from 1.
        id "id": Option<NodeId> = None, "1";
        /// Where other nodes and operators reach this node; it listens there unless admin_listen says otherwise.
        admin "admin": Option<HostPort> = None, "127.0.0.1:19101";
        /// Where it listens for them, if they reach it through something else (a published port, a relay).
        admin_listen "admin_listen": Option<HostPort> = None, "0.0.0.0:19101";
        /// Further host names by which monitoring asks this node; those of admin, admin_listen and advertise, localhost and IP addresses are accepted.
        admin_hosts "admin_hosts": Vec<String> = Vec::new(), "monitoring.example.org,proxy1";
        /// IP address of this machine that its calls to other nodes come from; not set: as the system chooses.
        source "source": Option<IpAddr> = None, "10.0.0.5";
        /// Nodes that form the cluster together, this one included; the same list on each. Ignored once there is a cluster.
        peers "peers": BTreeMap<NodeId, HostPort> = BTreeMap::new(), "1=127.0.0.1:19101,2=127.0.0.1:19102,3=127.0.0.1:19103";
        /// Admin address of any node of a running cluster that this node joins, instead of peers. Ignored once it is a member.
        join "join": Option<HostPort> = None, "127.0.0.1:19101";
        /// IP address on which the ports for clients are bound.
        bind "bind": IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), "127.0.0.1";
        /// Host that clients are given; not set: `bind`, or the host of `admin` if that is 0.0.0.0 or ::.
        advertise "advertise": Option<String> = None, "proxy1.example.org";
        /// Added to every product's port, so that several nodes fit on one host.
        port_offset "port_offset": u16 = 0, "1";
        /// Base port of the product `default`, which the first leader of a cluster creates.
        default_port "default_port": u16 = 19_000, "19000";
        /// Zone of this node; a product with read-from=nearest reads from servers of the same zone (pontoon server set).
        zone "zone": String = String::new(), "rack-1";
        /// Directory of this node's log, created with mode 0700. Never copy it.
        data_dir "data_dir": Option<PathBuf> = None, "/var/lib/pontoon";
        /// File with the cluster secret, mode 0600; a second line is another secret that is accepted too. Read again on SIGHUP. Needed if anything is bound beyond loopback.
        secret_file "secret_file": Option<PathBuf> = None, "/etc/pontoon/secret";
        /// Serve beyond loopback without a cluster secret, and products without a password. Only where the network is trusted.
        insecure "insecure": bool = false, "false";
        /// On SIGTERM the node drains, transfers its leadership and exits within this many milliseconds.
        shutdown_deadline "shutdown_deadline_ms": Duration = Duration::from_secs(10), "10000";
    }
}

/// Longest host that is accepted: a DNS name (RFC 1035, 2.3.4).
const HOST_LEN_MAX: usize = 253;

impl NodeConfig {
    /// The id.
    ///
    /// # Errors
    /// Returns how to set it, as text for the operator, if it is not set.
    pub fn id(&self) -> Result<NodeId, String> {
        self.id.ok_or_else(|| missing("id", "--id", "1"))
    }

    /// The admin address.
    ///
    /// # Errors
    /// Returns how to set it, as text for the operator, if it is not set.
    pub fn admin(&self) -> Result<&HostPort, String> {
        self.admin.as_ref().ok_or_else(|| missing("admin", "--admin", "127.0.0.1:19101"))
    }

    /// Where the node listens for other nodes and operators.
    ///
    /// # Errors
    /// As [`NodeConfig::admin`].
    pub fn admin_listen(&self) -> Result<&HostPort, String> {
        self.admin_listen.as_ref().map_or_else(|| self.admin(), Ok)
    }

    /// The data directory.
    ///
    /// # Errors
    /// Returns how to set it, as text for the operator, if it is not set.
    pub fn data_dir(&self) -> Result<&PathBuf, String> {
        self.data_dir.as_ref().ok_or_else(|| missing("data_dir", "--data-dir", "/var/lib/pontoon"))
    }

    /// The host that clients are given.
    #[must_use]
    pub fn advertise_host(&self) -> String {
        match (&self.advertise, &self.admin) {
            (Some(host), _) => host.clone(),
            (None, Some(admin)) if self.bind.to_canonical().is_unspecified() => admin.host().to_owned(),
            _ if self.bind.is_ipv6() => format!("[{}]", self.bind),
            _ => self.bind.to_string(),
        }
    }

    /// The names by which monitoring may ask this node, without ports. IP addresses need not be among them.
    #[must_use]
    pub fn host_names(&self) -> Vec<&str> {
        let addresses = [&self.admin, &self.admin_listen].into_iter().flatten().map(HostPort::host);
        addresses.chain(self.advertise.as_deref()).chain(self.admin_hosts.iter().map(String::as_str)).collect()
    }

    /// Checks what matters only for a pristine node, which forms a cluster with `peers` or joins one.
    ///
    /// # Errors
    /// Returns what to do, as text for the operator, if both are missing, or the node's own entry in `peers` differs from `admin`.
    pub fn check_pristine(&self) -> Result<(), String> {
        let (id, admin) = (self.id()?, self.admin()?);
        if self.peers.is_empty() && self.join.is_none() {
            return Err("this node belongs to no cluster yet; give --peers to form one (one peer is a cluster too) or --join to join one".into());
        }
        match self.peers.get(&id) {
            Some(listed) if listed != admin => Err(format!(
                "peers: node {id} is listed at {listed}, but its admin address is {admin}; make them equal"
            )),
            _ => Ok(()),
        }
    }

    /// Checks that no address that others use, or that this node calls, means every address of a machine.
    fn check_reachable(&self, admin: &HostPort) -> Result<(), String> {
        let of = |key: &'static str, addr: &HostPort| (key, addr.host().to_owned(), addr.to_string());
        let called = std::iter::once(of("admin", admin))
            .chain(self.join.iter().map(|join| of("join", join)))
            .chain(self.peers.values().map(|peer| of("peers", peer)))
            .chain(self.advertise.iter().map(|host| ("advertise", host.clone(), host.clone())));
        for (key, host, text) in called {
            if is_unspecified(&host) {
                return Err(format!(
                    "{key}: {text} means every address of a machine, so whoever is given it would call itself; give the address at \
                     which others reach the node (admin_listen and bind may be every address)"
                ));
            }
        }
        Ok(())
    }

    /// Checks the settings without reading anything else.
    ///
    /// # Errors
    /// Returns the first problem, with the key and what to do, as text for the operator.
    pub(super) fn check(&self) -> Result<(), String> {
        let (id, admin) = (self.id()?, self.admin()?);
        self.data_dir()?;
        self.check_reachable(admin)?;
        if !self.peers.is_empty() && self.join.is_some() {
            return Err(
                "peers and join are both set: peers form a new cluster, join enters a running one; give one of them"
                    .into(),
            );
        }
        if !self.peers.is_empty() && !self.peers.contains_key(&id) {
            return Err(format!("peers: node {id} itself is not in the list; add {id}={admin}"));
        }
        if self.join.as_ref() == Some(admin) {
            return Err(format!("join: {admin} is this node itself; name a node that is in the cluster"));
        }
        if let Some(host) = &self.advertise {
            let bad = host.is_empty()
                || host.len() > HOST_LEN_MAX
                || host.chars().any(|c| c.is_whitespace() || c.is_control())
                || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']')));
            if bad {
                return Err(format!(
                    "advertise: '{host}' is not a host (a name or address without a port; IPv6 in brackets)"
                ));
            }
        }
        let name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if let Some(host) = self.admin_hosts.iter().find(|h| h.len() > HOST_LEN_MAX || !h.chars().all(name)) {
            return Err(format!(
                "admin_hosts: '{host}' is not a host name (A-Z a-z 0-9 _ . -, without a port or wildcard; IP addresses are \
                 accepted without being listed)"
            ));
        }
        check(
            self.zone.len() <= ZONE_LEN_MAX && self.zone.chars().all(name),
            "zone",
            "at most 64 of A-Z a-z 0-9 _ . -",
        )?;
        check(self.default_port > 0, "default_port", "1 to 65535")?;
        check(self.shutdown_deadline >= Duration::from_millis(100), "shutdown_deadline_ms", "at least 100")?;
        if self.insecure || self.secret_file.is_some() {
            return Ok(());
        }
        let beyond = |key: &str, host: &str| {
            Err(format!(
                "{key}: {host} is beyond loopback and there is no cluster secret; make one (umask 077; openssl rand -hex 32 > FILE), \
                 give it to every node with --secret-file FILE, or use --insecure where the network is trusted"
            ))
        };
        // Only the address that is bound counts: the address that others use may lead here through a relay.
        let (key, listen) = match &self.admin_listen {
            Some(listen) => ("admin_listen", listen),
            None => ("admin", admin),
        };
        if !is_loopback(listen.host()) {
            return beyond(key, listen.host());
        }
        if !self.bind.is_loopback() {
            return beyond("bind", &self.bind.to_string());
        }
        Ok(())
    }
}

/// Whether a host can only be reached from this machine. A name other than localhost is taken to be reachable.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn missing(key: &str, flag: &str, example: &str) -> String {
    format!("{key} is not set; give {flag} {example}, or {key} in the file, or PONTOON_{}", key.to_uppercase())
}
