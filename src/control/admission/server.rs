//! Server admission: checks a server before it is added to a group, and says why it cannot be added.
//! Knows nothing of the log: the caller proposes what it returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::rivals::rival;
use crate::{
    model::{
        ids::{GroupId, HostPort, Uuid},
        route::Mode,
        secret::Credentials,
        state::{ClusterState, Product, Server},
    },
    plan::health::{Warning, not_persistent},
    redis::{Client, Info, RedisError, Role, rights},
    resolver,
};

/// How long one server may take for all its answers: an operator waits for them.
pub const ASK_MAX: Duration = Duration::from_secs(5);
/// The oldest Redis: 6.0 has ACLs, RESP3, and the semantics of CLIENT KILL on which fences rely.
pub const VERSION_MIN: (u32, u32) = (6, 0);

/// What the checks need to know.
#[derive(Clone, Copy, Debug)]
pub struct ServerAdmission<'a> {
    /// The newest state: which servers belong to groups already.
    pub state: &'a ClusterState,
    /// The product of the group.
    pub product: &'a Product,
    /// The credentials of the group.
    pub credentials: Option<&'a Credentials>,
    /// This cluster; `None`: it has not formed.
    pub cluster: Option<Uuid>,
    /// When the checks are given up.
    pub deadline: Instant,
}

/// A server that may be added, and what the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedServer {
    /// The server to propose.
    pub server: Server,
    /// What the operator should know; one text for each matter.
    pub warnings: Vec<String>,
    /// It is a primary without keys, and is made a replica after it was added.
    pub becomes_replica: bool,
}

/// A server's answers about itself.
struct ServerAnswers {
    server: Server,
    role: Role,
    replid: String,
    /// Replicas that are connected to it, in sync or not.
    replicas: u64,
    warnings: Vec<String>,
    /// What follows from commands that its user may not run; one text for each matter.
    rights: Vec<String>,
    /// It has REPLICAOF, and lets this user run it.
    can_follow: bool,
}

/// The answers of the group's primary about itself.
struct PrimaryAnswers {
    run_id: String,
    warnings: Vec<String>,
}

impl ServerAdmission<'_> {
    /// Checks a server that will be a group's primary.
    ///
    /// # Errors
    /// Returns why it cannot be added, as text for the operator: it names the server, what is wrong with it, and what
    /// to do.
    pub async fn primary(&self, addr: &HostPort) -> Result<AdmittedServer, String> {
        let ServerAnswers { server, role, mut warnings, rights, .. } = self.ask(addr).await?;
        warnings.extend(rights);
        match role {
            Role::Primary { .. } => Ok(AdmittedServer { server, warnings, becomes_replica: false }),
            Role::Replica { host, port, .. } => Err(format!(
                "{addr} is a replica of {host}:{port}; name that server as the primary, or run REPLICAOF NO ONE and \
                 CONFIG REWRITE on {addr}"
            )),
            Role::Sentinel => Err(sentinel(addr)),
        }
    }

    /// Checks a server that will be a replica in the group whose primary is `primary`: it is a replica of that primary,
    /// or has no keys to lose.
    ///
    /// # Errors
    /// Returns why it cannot be added, as text for the operator: it names the server, what is wrong with it, and what
    /// to do.
    pub async fn replica(&self, addr: &HostPort, primary: &HostPort) -> Result<AdmittedServer, String> {
        let ServerAnswers { server, role, replid, replicas, rights, can_follow, .. } = self.ask(addr).await?;
        let PrimaryAnswers { run_id, mut warnings } = self.primary_now(primary).await?;
        warnings.extend(rights);
        if server.run_id == run_id {
            return Err(format!("{addr} and {primary} are one and the same server; name a replica of it"));
        }
        match role {
            Role::Sentinel => Err(sentinel(addr)),
            Role::Primary { .. } if server.keys_when_added > 0 => Err(format!(
                "{addr} is a primary and holds {} keys, which it would lose as a replica of {primary}; if they are not \
                 needed, run FLUSHALL on {addr} and try again",
                server.keys_when_added
            )),
            Role::Primary { .. } if replicas > 0 => Err(format!(
                "{addr} has {replicas} replica(s) of its own; point them elsewhere (REPLICAOF) and try again"
            )),
            Role::Primary { .. } if !can_follow => Err(format!(
                "{addr} could never follow {primary}: it has no command REPLICAOF, or does not let this user run it; allow \
                 it (ACL SETUSER ... +replicaof; or no rename-command in its redis.conf) and try again"
            )),
            Role::Primary { .. } => Ok(AdmittedServer { server, warnings, becomes_replica: true }),
            Role::Replica { host, port, link, .. } => {
                if !self.follows(addr, &host, port, &replid, primary).await? {
                    return Err(format!(
                        "{addr} is a replica of {host}:{port}, not of {primary}; to change that, run REPLICAOF {} {} \
                         on {addr}, wait until it is in sync, and try again",
                        primary.host(),
                        primary.port()
                    ));
                }
                if link != "connected" {
                    return Err(format!(
                        "{addr} is a replica of {primary}, but not in sync with it (its link is '{link}'); wait until \
                         ROLE on {addr} says 'connected', then try again (if it never does: masterauth, and the log of \
                         {addr})"
                    ));
                }
                Ok(AdmittedServer { server, warnings, becomes_replica: false })
            }
        }
    }

    /// What the operator should know about a primary that is in a group already; empty if it does not answer.
    pub async fn warnings(&self, primary: &HostPort) -> Vec<String> {
        self.primary_now(primary).await.map(|now| now.warnings).unwrap_or_default()
    }

    /// The present answers of the group's primary.
    async fn primary_now(&self, addr: &HostPort) -> Result<PrimaryAnswers, String> {
        let ask = async {
            let mut client = self.connect(addr).await?;
            let info = client.info("default", self.by()).await?;
            let warnings = self.persistence(&mut client, &info).await?;
            Ok(PrimaryAnswers { run_id: info.get("run_id").unwrap_or_default().to_owned(), warnings })
        };
        ask.await.map_err(|error: RedisError| error.to_string())
    }

    /// A warning if a primary of a store does not write its data to disk automatically.
    async fn persistence(&self, client: &mut Client, info: &Info) -> Result<Vec<String>, RedisError> {
        // A cache may lose its data. A server that does not report its settings causes no warning.
        if self.product.mode == Mode::Cache || info.get("aof_enabled") != Some("0") {
            return Ok(Vec::new());
        }
        let save = client.config("save", self.by()).await?;
        Ok(Vec::from_iter(save.is_some_and(|points| points.is_empty()).then(|| {
            let Warning { text, to_clear, .. } = not_persistent(client.addr());
            format!("{text}; {to_clear}")
        })))
    }

    pub(super) fn by(&self) -> Instant {
        self.deadline.min(Instant::now() + ASK_MAX)
    }

    pub(super) async fn connect(&self, addr: &HostPort) -> Result<Client, RedisError> {
        Client::connect(addr, self.credentials, "pt:admission", self.by()).await
    }

    /// The numbers of keys by database, of databases that have keys.
    ///
    /// # Errors
    /// Why the server does not say.
    pub async fn keyspace(&self, addr: &HostPort) -> Result<BTreeMap<u32, u64>, RedisError> {
        Ok(self.connect(addr).await?.info("keyspace", self.by()).await?.keyspace())
    }

    /// How many databases the server has; `None`: it does not say.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn databases(&self, addr: &HostPort) -> Result<Option<u32>, RedisError> {
        databases(&mut self.connect(addr).await?, self.by()).await
    }

    async fn run_id_of(&self, addr: &HostPort) -> Result<String, String> {
        let ask = async { self.connect(addr).await?.info("server", self.by()).await };
        let info = ask.await.map_err(|error| error.to_string())?;
        Ok(info.get("run_id").unwrap_or_default().to_owned())
    }

    /// The checks for every server, whatever its role will be.
    async fn ask(&self, addr: &HostPort) -> Result<ServerAnswers, String> {
        if let Some(ours) = listener_of(self.state, addr) {
            return Err(format!("{addr} is {ours}, not a Redis server; name the address of a redis-server"));
        }
        if let Some((product, group)) = owner(self.state, |server| server.addr == *addr) {
            return Err(format!(
                "{addr} belongs to group {group} of product '{product}' already; remove it there first (group \
                 remove-server)"
            ));
        }
        let by = self.by();
        let text = |error: RedisError| error.to_string();
        let mut client = self.connect(addr).await.map_err(text)?;
        // "everything" would be slower on big servers; "default" has all fields that are read, from Redis 2 to 8.
        let info = client.info("default", by).await.map_err(text)?;
        if info.sections.iter().any(|section| section == "pontoon") {
            return Err(format!("{addr} is a node of Pontoon, not a Redis server; name the address of a redis-server"));
        }
        plausible(addr, &info)?;
        let run_id = info.get("run_id").unwrap_or_default();
        if let Some((product, group)) = owner(self.state, |server| server.run_id == run_id) {
            return Err(format!(
                "{addr} belongs to a group already, under another address (run_id {run_id}, group {group} of \
                 product '{product}'); each server belongs to one group, under one address"
            ));
        }
        let wanted = self.product.databases;
        let has = databases(&mut client, by).await.map_err(text)?;
        if let Some(has) = has.filter(|has| *has < wanted) {
            return Err(format!(
                "{addr} has {has} databases and product '{}' has {wanted}; set 'databases {wanted}' in its redis.conf \
                 and restart it, or give the product fewer (product set {} databases={has})",
                self.product.name, self.product.name
            ));
        }
        let role = client.role(by).await.map_err(text)?;
        let warnings = self.persistence(&mut client, &info).await.map_err(text)?;
        let missing = rights::missing(&mut client, by).await.map_err(text)?;
        if let Some(refused) = rival(&mut client, self.cluster, by).await.map_err(text)? {
            return Err(refused);
        }
        let rights = rights_missing(addr, &missing, self.credentials.is_some());
        let keys_when_added = info.keyspace().values().sum();
        let server = Server::new(addr.clone(), run_id.to_owned(), keys_when_added);
        let replid = info.get("master_replid").unwrap_or_default().to_owned();
        let replicas = info.get("connected_slaves").and_then(|n| n.parse().ok()).unwrap_or(0);
        let can_follow = !missing.contains(&rights::REPLICAOF);
        Ok(ServerAnswers { server, role, replid, replicas, warnings, rights, can_follow })
    }

    /// Whether a replica that names `host:port` as its primary means `primary`. Hosts have many names, and containers
    /// see other addresses than this node does, so the servers themselves are asked before the answer is no.
    async fn follows(
        &self,
        replica: &HostPort,
        host: &str,
        port: u16,
        replid: &str,
        primary: &HostPort,
    ) -> Result<bool, String> {
        let by = self.by();
        let named = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let Ok(named) = HostPort::parse(&named) else { return Ok(false) };
        if named == *primary {
            return Ok(true);
        }
        if port == primary.port() && !addresses(&named, by).await.is_disjoint(&addresses(primary, by).await) {
            return Ok(true);
        }
        let text = |error: RedisError| error.to_string();
        let mut client = self.connect(primary).await.map_err(text)?;
        let info = client.info("default", by).await.map_err(text)?;
        if info.get("master_replid") != Some(replid) {
            return Ok(false);
        }
        // Both have the same replication stream, but a replica of a replica has it too. So the named server must be the
        // primary.
        if let Ok(run_id) = self.run_id_of(&named).await {
            return Ok(info.get("run_id") == Some(run_id.as_str()));
        }
        // The named server cannot be reached from here. The primary may list the replica.
        let Role::Primary { replicas, .. } = client.role(by).await.map_err(text)? else { return Ok(false) };
        Ok(replicas.iter().any(|seen| seen.port == replica.port()))
    }
}

/// What follows when a server does not allow its user these commands of a failover, for operators.
fn rights_missing(addr: &HostPort, missing: &[&'static str], password: bool) -> Vec<String> {
    let (config, needed): (Vec<_>, Vec<_>) = missing.iter().copied().partition(|name| *name == rights::CONFIG_SET);
    let acl = |names: &[&str]| {
        let each = names.iter().map(|name| format!("+{}", name.to_ascii_lowercase().replace(' ', "|")));
        each.collect::<Vec<_>>().join(" ")
    };
    let mut texts = Vec::new();
    if !needed.is_empty() {
        texts.push(format!(
            "{addr} does not let this user run {}, so its group cannot get another primary, neither automatically nor \
             by hand; allow it (ACL SETUSER ... {}, then ACL SAVE or CONFIG REWRITE)",
            needed.join(", "),
            acl(&needed)
        ));
    }
    // Without a password there is none to set.
    if password && !config.is_empty() {
        texts.push(format!(
            "{addr} does not let this user run CONFIG SET, so Pontoon cannot set the password (masterauth) with which \
             it has to follow another primary after a failover; set masterauth (and masteruser) in its redis.conf, or \
             allow it (ACL SETUSER ... {}, then ACL SAVE or CONFIG REWRITE)",
            acl(&config)
        ));
    }
    texts
}

fn sentinel(addr: &HostPort) -> String {
    format!("{addr} is a Redis Sentinel, which holds no data; name the address of a redis-server")
}

async fn databases(client: &mut Client, by: Instant) -> Result<Option<u32>, RedisError> {
    Ok(client.config("databases", by).await?.and_then(|n| n.parse().ok()))
}

/// Checks version, kind and identity.
///
/// # Errors
/// Returns why the server cannot be used, as text for the operator.
fn plausible(addr: &HostPort, info: &Info) -> Result<(), String> {
    if info.get("redis_mode") == Some("sentinel") {
        return Err(sentinel(addr));
    }
    let Some(version) = info.version() else {
        return Err(format!("{addr} does not report its redis_version; Redis 6.0 or later, or Valkey, is needed"));
    };
    if version < VERSION_MIN {
        return Err(format!(
            "{addr} is Redis {}; {}.{} or later is needed",
            info.get("redis_version").unwrap_or_default(),
            VERSION_MIN.0,
            VERSION_MIN.1
        ));
    }
    if info.get("cluster_enabled") == Some("1") {
        return Err(format!(
            "{addr} runs as Redis Cluster, which moves slots itself; start it with 'cluster-enabled no'"
        ));
    }
    if info.get("loading") == Some("1") {
        return Err(RedisError::Loading { addr: addr.clone() }.to_string());
    }
    if info.get("run_id").is_none_or(str::is_empty) {
        return Err(format!("{addr} does not report its run_id (INFO server), which identifies its process"));
    }
    Ok(())
}

/// The product and group of the first server for which `is` holds.
fn owner(state: &ClusterState, is: impl Fn(&Server) -> bool) -> Option<(&str, GroupId)> {
    state.products.values().find_map(|product| {
        let group = product.groups.values().find(|group| group.servers.iter().any(&is))?;
        Some((product.name.as_str(), group.id))
    })
}

/// The listener of this cluster at `addr`, by the addresses that its members have.
fn listener_of(state: &ClusterState, addr: &HostPort) -> Option<String> {
    state.members.values().find_map(|member| {
        if *addr == member.admin {
            return Some(format!("the admin port of node {}", member.id));
        }
        let here = addr.host() == member.advertise || addr.host() == member.admin.host();
        let product = state.products.values().find(|product| {
            here && u32::from(product.port) + u32::from(member.port_offset) == u32::from(addr.port())
        })?;
        Some(format!("the port of product '{}' on node {}", product.name, member.id))
    })
}

/// The addresses of a host; empty if it cannot be resolved.
async fn addresses(addr: &HostPort, by: Instant) -> BTreeSet<IpAddr> {
    match timeout_at(by, resolver::resolve(addr)).await {
        Ok(Ok(found)) => found.into_iter().map(|addr| addr.ip().to_canonical()).collect(),
        _ => BTreeSet::new(),
    }
}
