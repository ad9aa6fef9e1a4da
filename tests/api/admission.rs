//! Server admission against real servers and programs that are not Redis servers.

use crate::{
    fake,
    log::Shared,
    server::{Redis, password},
    wait::{soon, wait_for},
};
use pontoon::{
    control::admission::server::{AdmittedServer, ServerAdmission},
    model::{
        change::{Change, CreateGroup, NewProduct},
        ids::{GroupId, HostPort, Uuid},
        route::{Isolated, Mode},
        secret::Credentials,
        slot::Layout,
        state::ClusterState,
    },
    redis::Client,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The cluster of these tests.
const OURS: Uuid = Uuid(7);

struct World {
    shared: std::sync::Arc<Shared>,
    credentials: Option<Credentials>,
}

impl World {
    fn new() -> Self {
        Self { shared: Shared::new(&[(1, "127.0.0.1:7101")]), credentials: None }
    }

    fn state(&self) -> std::sync::Arc<ClusterState> {
        self.shared.state()
    }

    async fn primary(&self, addr: &HostPort) -> Result<AdmittedServer, String> {
        let state = self.state();
        let product = state.products.values().next().unwrap();
        ServerAdmission {
            state: &state,
            product,
            credentials: self.credentials.as_ref(),
            cluster: Some(OURS),
            deadline: soon(),
        }
        .primary(addr)
        .await
    }

    async fn replica(&self, addr: &HostPort, primary: &HostPort) -> Result<AdmittedServer, String> {
        let state = self.state();
        let product = state.products.values().next().unwrap();
        let admission = ServerAdmission {
            state: &state,
            product,
            credentials: self.credentials.as_ref(),
            cluster: Some(OURS),
            deadline: soon(),
        };
        admission.replica(addr, primary).await
    }

    /// Checks that a refusal names the server and contains these words.
    async fn no_primary(&self, addr: &HostPort, words: &str) {
        let text = self.primary(addr).await.expect_err(words);
        assert!(text.contains(addr.as_str()) && text.contains(words), "{text}\n does not have: {words}");
    }

    async fn no_replica(&self, addr: &HostPort, primary: &HostPort, words: &str) {
        let text = self.replica(addr, primary).await.expect_err(words);
        assert!(text.contains(addr.as_str()) && text.contains(words), "{text}\n does not have: {words}");
    }
}

#[tokio::test]
async fn a_primary_and_its_replica() {
    let world = World::new();
    let primary = Redis::start(&[]).await;
    primary.run("MSET a 1 b 2 c 3").await;
    let replica = primary.replica().await;
    let AdmittedServer { server, .. } = world.primary(&primary.addr).await.unwrap();
    assert_eq!((server.keys_when_added, server.run_id.len()), (3, 40));
    let admitted = world.replica(&replica.addr, &primary.addr).await.unwrap();
    assert!(admitted.server.keys_when_added == 3 && !admitted.becomes_replica, "{admitted:?}");
    // Other names of the same hosts.
    world.replica(&replica.as_localhost(), &primary.as_localhost()).await.unwrap();
    // Wrong roles.
    world.no_primary(&replica.addr, &format!("is a replica of {}", primary.addr)).await;
    let other = Redis::start(&[]).await;
    world.no_replica(&replica.addr, &other.addr, &format!("not of {}", other.addr)).await;
    world.no_replica(&replica.addr, &replica.as_localhost(), "one and the same server").await;
    // A replica of the replica has the same replication id, but is not a replica of the primary.
    let chained = replica.replica().await;
    world.no_replica(&chained.addr, &primary.addr, "not of").await;
}

#[tokio::test]
async fn an_empty_server_may_become_a_replica() {
    let world = World::new();
    let (primary, fresh) = (Redis::start(&[]).await, Redis::start(&[]).await);
    let admitted = world.replica(&fresh.addr, &primary.addr).await.unwrap();
    assert!(admitted.becomes_replica && admitted.server.addr == fresh.addr, "{admitted:?}");
    world.no_replica(&primary.as_localhost(), &primary.addr, "one and the same server").await;
    // A server with keys in any database is refused, and keeps them.
    let mut client = fresh.client().await;
    client.select(7, soon()).await.unwrap();
    client.ask(&[b"SET", b"k", b"v"], soon()).await.unwrap();
    world.no_replica(&fresh.addr, &primary.addr, "holds 1 keys").await;
    world.no_replica(&fresh.addr, &primary.addr, "FLUSHALL").await;
    assert_eq!(client.dbsize(soon()).await.unwrap(), 1);
    client.ask(&[b"FLUSHALL"], soon()).await.unwrap();
    // So is a server that has replicas.
    let _follower = fresh.replica().await;
    world.no_replica(&fresh.addr, &primary.addr, "has 1 replica(s) of its own").await;
}

#[tokio::test]
async fn a_primary_without_persistence_gives_a_warning() {
    let world = World::new();
    let forgetful = Redis::start(&[]).await;
    let warned = |admitted: &AdmittedServer, addr: &HostPort| {
        let about = |w: &String| w.contains(addr.as_str()) && w.contains("restart would empty it");
        admitted.warnings.iter().filter(|w| about(w)).count()
    };
    let admitted = world.primary(&forgetful.addr).await.unwrap();
    assert_eq!(warned(&admitted, &forgetful.addr), 1, "{admitted:?}");
    // Only the primary matters, not the server that is added.
    let replica = forgetful.replica().await;
    replica.run("CONFIG SET appendonly yes").await;
    let admitted = world.replica(&replica.addr, &forgetful.addr).await.unwrap();
    assert_eq!(warned(&admitted, &forgetful.addr), 1, "{admitted:?}");
    // One kind of persistence is enough; a server that does not report its kind gives no warning.
    for careful in [&["--save", "3600 1"][..], &["--appendonly", "yes"], &["--rename-command", "CONFIG", ""]] {
        let redis = Redis::start(careful).await;
        let admitted = world.primary(&redis.addr).await.unwrap();
        assert!(admitted.warnings.is_empty(), "{careful:?}: {admitted:?}");
    }
}

#[tokio::test]
async fn a_replica_that_cannot_log_in_is_not_in_sync() {
    let secret = password("pw");
    let world = World { credentials: Some(secret.clone()), ..World::new() };
    let primary = Redis::start_with(&["--requirepass", "pw"], Some(secret.clone())).await;
    let port = primary.addr.port().to_string();
    let options = ["--requirepass", "pw", "--masterauth", "wrong", "--replicaof", "127.0.0.1", &port];
    let replica = Redis::start_with(&options, Some(secret)).await;
    world.no_replica(&replica.addr, &primary.addr, "not in sync").await;
    let good = primary.replica().await;
    world.replica(&good.addr, &primary.addr).await.unwrap();
    World::new().no_primary(&primary.addr, "wants a password").await;
    let wrong = World { credentials: Some(password("guess")), ..World::new() };
    wrong.no_primary(&primary.addr, "refuses the password").await;
}

#[tokio::test]
async fn a_server_belongs_to_one_group() {
    let world = World::new();
    let redis = Redis::start(&[]).await;
    let AdmittedServer { server, .. } = world.primary(&redis.addr).await.unwrap();
    let product = world.state().products.values().next().unwrap().id;
    let change = Change::CreateGroup(CreateGroup {
        product,
        group: GroupId(1),
        servers: vec![server],
        credentials: None,
        data_user: None,
    });
    world.shared.append(Uuid(2), change).result.unwrap();
    world.no_primary(&redis.addr, "belongs to group 1").await;
    world.no_primary(&redis.as_localhost(), "belongs to a group already, under another address").await;
}

#[tokio::test]
async fn unsuitable_servers_are_refused() {
    let world = World::new();
    let few = Redis::start(&["--databases", "4"]).await;
    world.no_primary(&few.addr, "has 4 databases").await;
    let cluster = Redis::start(&["--cluster-enabled", "yes"]).await;
    world.no_primary(&cluster.addr, "Redis Cluster").await;
    let info = |text: &str| vec![fake::ok(), fake::bulk(text)];
    let old = fake::server(info("# Server\r\nredis_version:5.0.14\r\nrun_id:a\r\n"), true).await;
    world.no_primary(&old, "6.0 or later").await;
    let node =
        fake::server(info("# Server\r\nredis_version:7.0.0\r\nrun_id:a\r\n# Pontoon\r\nnode_id:1\r\n"), true).await;
    world.no_primary(&node, "node of Pontoon").await;
    let sentinel = fake::server(info("# Server\r\nredis_version:7.0.0\r\nredis_mode:sentinel\r\n"), true).await;
    world.no_primary(&sentinel, "Sentinel").await;
    let loading = fake::server(info("redis_version:7.0.0\r\nrun_id:a\r\nloading:1\r\n"), true).await;
    world.no_primary(&loading, "loading").await;
    // The cluster's own ports are known without a probe.
    world.no_primary(&HostPort::parse("127.0.0.1:7101").unwrap(), "admin port of node 1").await;
    world.no_primary(&HostPort::parse("127.0.0.1:7000").unwrap(), "port of product 'default'").await;
    let product = NewProduct {
        name: "p".into(),
        port: 7500,
        layout: Layout::Codis,
        mode: Mode::Store,
        isolated: Isolated::Refuse,
        databases: 4,
        auth: None,
    };
    world.shared.append(Uuid(3), Change::CreateProduct(product)).result.unwrap();
    let state = world.state();
    let small = state.products.values().find(|p| p.name == "p").unwrap();
    let admission =
        ServerAdmission { state: &state, product: small, credentials: None, cluster: Some(OURS), deadline: soon() };
    admission.primary(&few.addr).await.unwrap();
}

#[tokio::test]
async fn a_user_without_the_rights_for_a_failover_gives_a_warning() {
    let table = [
        ("", &[][..]),
        (
            "-client|kill",
            &[
                "run CLIENT KILL, so its group cannot get another primary",
                "(ACL SETUSER ... +client|kill, then ACL SAVE or CONFIG REWRITE)",
            ],
        ),
        (
            "-client|list -replicaof",
            &["run CLIENT LIST, REPLICAOF, so its group cannot get another primary", "+client|list +replicaof"],
        ),
        ("-config|set", &["run CONFIG SET, so Pontoon cannot set the password (masterauth)"]),
        ("-@admin -@dangerous +info +role", &["run CLIENT LIST, CLIENT KILL, REPLICAOF, so", "run CONFIG SET, so"]),
    ];
    let app = Credentials { username: Some("app".into()), ..crate::server::password("secret") };
    for (rights, said) in table {
        let redis = Redis::start(&[]).await;
        redis.run(&format!("ACL SETUSER app on >secret ~* &* +@all {rights}")).await;
        let mut world = World::new();
        world.credentials = Some(app.clone());
        let admitted = world.primary(&redis.addr).await.unwrap();
        let warnings = admitted.warnings.join("\n");
        assert!(said.iter().all(|part| warnings.contains(part)), "{rights}: {warnings}");
        assert_eq!(warnings.contains("does not let"), !said.is_empty(), "{rights}: {warnings}");
        // It has done nothing there.
        world.credentials = None;
        assert!(world.primary(&redis.addr).await.is_ok(), "it is a primary still");
    }
    // A replica is checked too, and so is a server without one of the commands.
    let primary = Redis::start(&[]).await;
    let replica = Redis::start(&["--rename-command", "REPLICAOF", ""]).await;
    // Without REPLICAOF it could never be made a replica; one that is a replica already can stay one.
    World::new().no_replica(&replica.addr, &primary.addr, "could never follow").await;
    let port = primary.addr.port().to_string();
    let follower = Redis::start(&["--rename-command", "REPLICAOF", "", "--replicaof", "127.0.0.1", &port]).await;
    follower.until_info("master_link_status", "up").await;
    let admitted = World::new().replica(&follower.addr, &primary.addr).await.unwrap();
    assert!(
        admitted.warnings.iter().any(|w| w.contains(follower.addr.as_str()) && w.contains("run REPLICAOF, so")),
        "{admitted:?}"
    );
}

/// A server has one manager.
#[tokio::test]
async fn a_server_that_somebody_else_manages_is_refused() {
    let world = World::new();
    let redis = Redis::start(&[]).await;
    let name = |id: Uuid| format!("pt:{id}:probe:1");
    let own = Client::connect(&redis.addr, None, &name(OURS), soon()).await.unwrap();
    assert!(world.primary(&redis.addr).await.is_ok(), "this cluster's own connections do not count");
    let other = Client::connect(&redis.addr, None, &name(Uuid(8)), soon()).await.unwrap();
    world.no_primary(&redis.addr, "is used by another Pontoon cluster (00000000000000000000000000000008)").await;
    drop((own, other));
    wait_for("the other cluster to be gone", async || world.primary(&redis.addr).await.map(drop)).await;
    let mut sentinel = TcpStream::connect(redis.addr.as_str()).await.unwrap();
    sentinel.write_all(b"SUBSCRIBE __sentinel__:hello\r\n").await.unwrap();
    let refused = async || match world.primary(&redis.addr).await {
        Err(why) if why.contains("is monitored by a Redis Sentinel") => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait_for("the Sentinel to be noticed", refused).await;
}
