//! A cluster of real nodes in front of real redis-servers, and the waits that several tests use.

use std::path::PathBuf;

use pontoon::faults::Point;
use serde_json::Value;

use crate::{
    cli::Cli,
    client::Reply,
    mesh::Mesh,
    node::Node,
    ports::Ports,
    process::Scratch,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, wait_for},
};

/// The nodes, servers, ports and files of one test. The fields are dropped in this order: processes first, then their
/// files.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes. Node 1 is the first.
    pub nodes: Vec<Node>,
    /// The redis-servers, in the order in which they were started.
    pub servers: Vec<RedisServer>,
    /// The network between the nodes, if the test can cut it.
    mesh: Option<Mesh>,
    /// The ports of this test.
    pub ports: Ports,
    /// The files of this test.
    pub dir: Scratch,
    /// The file with the cluster secret.
    pub secret: Option<PathBuf>,
}

impl Cluster {
    /// Returns `n` nodes that are not started yet, with the same `--peers`.
    #[must_use]
    pub fn prepared(n: u16) -> Self {
        let (ports, dir) = (Ports::take(), Scratch::new());
        let peers: Vec<_> = (1..=n).map(|id| format!("{id}=127.0.0.1:{}", ports.admin(id))).collect();
        let origin = ("--peers".to_owned(), peers.join(","));
        let nodes =
            (1..=n).map(|id| Node::new(id, ports.admin(id), ports.product(0), dir.path(), origin.clone())).collect();
        Self { nodes, servers: Vec::new(), mesh: None, ports, dir, secret: None }
    }

    /// As [`Cluster::prepared`], with a network between the nodes that can be cut.
    #[must_use]
    pub fn prepared_with_mesh(n: u16) -> Self {
        let mut cluster = Self::prepared(n);
        let ports = &cluster.ports;
        let relays: Vec<_> = (1..=n).map(|id| (id, ports.admin(id), ports.admin_listen(id))).collect();
        cluster.mesh = Some(Mesh::start(&relays));
        for (node, (id, _, listens)) in cluster.nodes.iter_mut().zip(relays) {
            node.more.extend(["--admin-listen".to_owned(), format!("127.0.0.1:{listens}")]);
            node.more.extend(["--set".to_owned(), format!("source={}", Mesh::source(id))]);
        }
        cluster
    }

    /// Returns the network between the nodes.
    ///
    /// # Panics
    /// When the cluster was not created by [`Cluster::prepared_with_mesh`].
    #[must_use]
    #[track_caller]
    pub fn mesh(&self) -> &Mesh {
        self.mesh.as_ref().expect("the cluster was made with Cluster::prepared_with_mesh")
    }

    /// Starts `n` nodes and waits until they have formed a cluster and all serve.
    #[must_use]
    pub fn start(n: u16) -> Self {
        let mut cluster = Self::prepared(n);
        cluster.start_all();
        cluster
    }

    /// Starts three nodes and `groups` groups without replicas. All slots are assigned in equal ranges.
    #[must_use]
    pub fn serving(groups: u16) -> Self {
        let mut cluster = Self::start(3);
        cluster.add_groups(groups);
        cluster
    }

    /// Starts all nodes and waits until they serve.
    pub fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
        self.wait_formed();
    }

    /// Creates a secret that all nodes and commands use from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn use_secret(&mut self) {
        let path = self.secret_file("secret", "0123456789abcdef0123456789abcdef");
        self.nodes.iter_mut().for_each(|node| node.secret = Some(path.clone()));
        self.secret = Some(path);
    }

    /// Writes a file with mode 0600 and returns its path.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn secret_file(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("{text}\n")).expect("a file can be written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its mode can be set");
        path
    }

    /// Returns node `id`.
    #[must_use]
    pub fn node(&self, id: u16) -> &Node {
        &self.nodes[usize::from(id) - 1]
    }

    /// Returns node `id`.
    pub fn node_mut(&mut self, id: u16) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    /// Returns a command line that uses node 1.
    #[must_use]
    pub fn cli(&self) -> Cli {
        self.node(1).cli()
    }

    /// Waits until every node knows the leader, serves, is alive according to all nodes, and knows a product.
    #[track_caller]
    pub fn wait_formed(&self) {
        let all: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        self.wait_serving(&all);
        // The leader creates the product 'default' a moment after its election.
        wait_for("the first product on every node", GENEROUS, || {
            let statuses = self.nodes.iter().map(|node| node.cli().try_json(&["status", "--timeout", "2s"]));
            let without = statuses.collect::<Result<Vec<_>, _>>()?.into_iter().find(|s| s["product_count"] == 0);
            without.map_or(Ok(()), |status| Err(status.to_string()))
        });
    }

    /// Waits until these nodes agree on a leader and hold a lease.
    #[track_caller]
    pub fn wait_serving(&self, ids: &[u16]) {
        wait_for(&format!("nodes {ids:?} to serve"), GENEROUS, || {
            let mut leaders = Vec::new();
            for id in ids {
                let status = self.node(*id).cli().try_json(&["status", "--timeout", "2s"])?;
                let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
                let alive = |id: &u16| nodes.iter().any(|n| n["id"] == *id && n["state"] == "alive");
                if let Some(missing) = ids.iter().find(|id| !alive(id)) {
                    return Err(format!("for node {id}, node {missing} is not alive: {status}"));
                }
                leaders.push(status["leader"].as_u64().ok_or_else(|| format!("node {id} knows no leader: {status}"))?);
                readiness(self.node(*id))?;
            }
            leaders.dedup();
            if leaders.len() == 1 { Ok(()) } else { Err(format!("the nodes name several leaders: {leaders:?}")) }
        });
    }

    /// Waits until these nodes agree on a leader, and returns its id.
    #[track_caller]
    pub fn leader_of(&self, ids: &[u16]) -> u16 {
        wait_for("a leader", GENEROUS, || {
            let mut seen = Vec::new();
            for id in ids {
                let status = self.node(*id).cli().try_json(&["status", "--timeout", "2s"])?;
                seen.push(status["leader"].as_u64().ok_or("a node knows no leader")?);
            }
            seen.dedup();
            match seen[..] {
                [leader] if ids.iter().any(|id| u64::from(*id) == leader) => Ok(u16::try_from(leader).unwrap_or(0)),
                _ => Err(format!("the nodes name as leader {seen:?}")),
            }
        })
    }

    /// Waits until all nodes agree on a leader, and returns its id.
    #[track_caller]
    pub fn leader(&self) -> u16 {
        let all: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        self.leader_of(&all)
    }

    /// Returns a node that is not the leader.
    #[track_caller]
    pub fn follower(&self) -> u16 {
        let leader = self.leader();
        self.nodes.iter().map(|node| node.id).find(|id| *id != leader).expect("there is more than one node")
    }

    /// From now on, every node pauses at `point`: an election may change the leader before the point is reached.
    pub fn pause_at(&self, point: Point) {
        self.nodes.iter().for_each(|n| n.faults.pause_at(point));
    }

    /// Returns the first node that pauses at `point`, or has paused there since [`Cluster::pause_at`].
    #[must_use]
    pub fn paused_node(&self, point: Point) -> Option<u16> {
        self.nodes.iter().find(|n| n.faults.has_reached(point)).map(|n| n.id)
    }

    /// Waits until a node pauses at `point`, and returns its id.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn wait_reached(&self, point: Point) -> u16 {
        let what = format!("a node to reach {}", point.name());
        wait_for(&what, GENEROUS, || self.paused_node(point).ok_or("no node has reached it"))
    }

    /// Lets every node continue from `point`. No node pauses there again.
    pub fn go_on(&self, point: Point) {
        self.nodes.iter().for_each(|n| n.faults.go_on(point));
    }

    /// Starts a further node that joins through node 1, without waiting.
    pub fn join(&mut self, id: u16) {
        let origin = ("--join".to_owned(), self.node(1).admin());
        let mut node = Node::new(id, self.ports.admin(id), self.ports.product(0), self.dir.path(), origin);
        node.secret.clone_from(&self.secret);
        node.start();
        self.nodes.push(node);
    }

    /// Starts a redis-server on the next free port, and returns its index in `servers`.
    pub fn add_server(&mut self, options: &RedisOptions) -> usize {
        let n = u16::try_from(self.servers.len()).expect("few servers");
        self.servers.push(RedisServer::start_with(self.ports.server(n), self.dir.path(), options));
        self.servers.len() - 1
    }

    /// Creates groups 1 to `n` without replicas, each with an equal range of the slots of product `default`, and waits
    /// until every node serves them.
    pub fn add_groups(&mut self, n: u16) {
        let cli = self.cli();
        for gid in 1..=n {
            let server = self.add_server(&RedisOptions::default());
            cli.ok(&["group", "create", &gid.to_string(), "--primary", &self.servers[server].addr()]);
            let range =
                format!("{}-{}", 1024 * (u32::from(gid) - 1) / u32::from(n), 1024 * u32::from(gid) / u32::from(n) - 1);
            cli.ok(&["slot", "assign", &range, &gid.to_string(), "--wait", "--timeout", "40s"]);
        }
    }

    /// Creates a group of product `default` with a primary and `replicas` replicas, assigns these slots to it, and waits
    /// until every node serves them and every replica may be promoted. Returns the indices of its servers in `servers`,
    /// the primary first.
    pub fn add_group_with_replicas(
        &mut self,
        gid: u16,
        slots: &str,
        replicas: usize,
        options: &RedisOptions,
    ) -> Vec<usize> {
        self.add_group_of("default", gid, slots, replicas, options)
    }

    /// As [`Cluster::add_group_with_replicas`], for any product.
    pub fn add_group_of(
        &mut self,
        product: &str,
        gid: u16,
        slots: &str,
        replicas: usize,
        options: &RedisOptions,
    ) -> Vec<usize> {
        let primary = self.add_server(options);
        let options = RedisOptions { primary: Some(self.servers[primary].port), ..options.clone() };
        let mut all = vec![primary];
        all.extend((0..replicas).map(|_| self.add_server(&options)));
        let (cli, gid) = (self.cli(), gid.to_string());
        let addrs: Vec<String> = all.iter().map(|n| self.servers[*n].addr()).collect();
        let mut args = vec!["--product", product, "group", "create", &gid, "--primary", &addrs[0]];
        args.extend(addrs[1..].iter().flat_map(|addr| ["--replica", addr]));
        cli.ok(&args);
        cli.ok(&["--product", product, "slot", "assign", slots, &gid, "--wait", "--timeout", "40s"]);
        self.wait_replicated(&all);
        self.wait_candidates(product, &gid);
        all
    }

    /// Waits until all replicas have received what the primary has executed until now. `servers` are the indices of
    /// the primary and of its replicas. A replica that has just loaded its copy gets nothing for up to a second, and
    /// what a client wrote in that second is lost with the primary.
    #[track_caller]
    pub fn wait_replicated(&self, servers: &[usize]) {
        let replicas = (servers.len() - 1).to_string();
        wait_for("the replicas to receive what was written", GENEROUS, || {
            let mut primary = self.servers[servers[0]].client();
            // WAIT returns at once on a connection that has written nothing.
            let waited =
                primary.call(&["PUBLISH", "harness", "x"]).and_then(|_| primary.call(&["WAIT", &replicas, "1000"]));
            match waited {
                Ok(Reply::Integer(n)) if n.to_string() == replicas => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Waits until every replica of a group is a candidate. A replica that falls behind or loses its primary before any
    /// node has found it in sync is not a candidate.
    #[track_caller]
    pub fn wait_candidates(&self, product: &str, gid: &str) {
        wait_for(&format!("the replicas of group {gid} of product '{product}' to be in sync"), GENEROUS, || {
            let group = self.cli().json(&["--product", product, "group", "show", gid]);
            let servers = group["servers"].as_array().cloned().unwrap_or_default();
            let ready = |s: &Value| s["observed"]["link"] == "up" && s["observed"]["not_candidate_because"].is_null();
            let all = !servers.is_empty() && servers.iter().filter(|s| s["role"] != "primary").all(ready);
            if all { Ok(()) } else { Err(group) }
        });
    }

    /// Returns `slot`, `group` and `server` of a key.
    #[track_caller]
    pub fn locate(&self, key: &str) -> Value {
        self.cli().json(&["slot", "key", key])
    }

    /// Waits until node `id` answers a SET.
    #[track_caller]
    pub fn wait_answers(&self, id: u16) {
        wait_for(&format!("node {id} to answer"), GENEROUS, || {
            let mut client = crate::client::Client::connect(self.node(id).client_port).map_err(|e| e.to_string())?;
            match client.call(&["SET", "harness:probe", "1"]) {
                Ok(Reply::Simple(_)) => Ok(()),
                Ok(other) => Err(other.text()),
                Err(e) => Err(e.to_string()),
            }
        });
    }
}

/// Checks `/readyz` of a node.
fn readiness(node: &Node) -> Result<(), String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(node.admin()).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).map_err(|e| e.to_string())?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    // Only the first line of the answer is needed, so an incomplete answer is enough.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("node {} is not ready: {answer}", node.id)) }
}
