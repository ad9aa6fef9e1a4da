//! Support for tests of the proxy: real and scripted servers, a blocking client, and route tables.
//! Knows nothing of what is tested.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use pontoon::{
    model::{
        auth::ProductAuth,
        ids::{Epoch, GroupId, HoldId, HostPort, ProductId, SlotId},
        reads::ReadTable,
        route::{GroupRoute, HoldKind, HoldRoutes, Isolated, Mode, ProductRoutes, RouteTable, SlotRoute},
        secret::{Credentials, Secret, ServerLogin},
        slot::Layout,
    },
    proxy::{
        Limits, ProductCommands, Proxy, ProxyConfig, ProxyReport, ServerActivity, ServerClients, UnmanagedReplicas,
        permit::Permit,
    },
    resp::request::{RequestScanner, Scanned},
};
use tokio::sync::{mpsc, watch};

/// Generous, because machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A free port.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A real redis-server; killed when dropped.
pub struct Redis {
    pub addr: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(args: &[&str]) -> Self {
        Self::start_at(free_port(), args)
    }

    /// Starts it on this port, which must be free.
    pub fn start_at(port: u16, args: &[&str]) -> Self {
        Self::start_program(Command::new("redis-server"), port, args)
    }

    /// Starts a redis-server of another version, or with another environment.
    pub fn start_program(mut program: Command, port: u16, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = program
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path())
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let addr = format!("127.0.0.1:{port}");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(&addr).is_err() {
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::yield_now();
        }
        Self { addr, child, _dir: dir }
    }

    pub fn port(&self) -> u16 {
        self.addr.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Sends the process a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay to a server that delays what the server sends. Returns its address.
pub fn behind_a_slow_link(redis: &Redis, delay: Duration) -> String {
    let relay = |mut from: TcpStream, mut to: TcpStream, delay: Duration| {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            std::thread::sleep(delay);
            if to.write_all(&bytes[..len]).is_err() {
                return;
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, server) = (listener.local_addr().unwrap().to_string(), redis.addr.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&server) else { return };
            let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || relay(from_client, to_server, Duration::ZERO));
            std::thread::spawn(move || relay(server, client, delay));
        }
    });
    addr
}

/// One connection to a scripted server.
pub struct Conn {
    pub stream: TcpStream,
    /// The name that the proxy set.
    pub name: String,
    buffer: Vec<u8>,
}

impl Conn {
    /// The next request, or `None` if the proxy has closed the connection.
    pub fn request(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut scanner = RequestScanner::default();
        loop {
            if let Scanned::Request(len) = scanner.scan(&self.buffer).unwrap() {
                let args = scanner.args().iter().map(|a| a.of(&self.buffer).to_vec()).collect();
                self.buffer.drain(..len);
                return Some(args);
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buffer.extend_from_slice(&more[..n]),
            }
        }
    }

    pub fn reply(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }
}

/// The reply of scripted servers to INFO.
pub const FAKE_RUN_ID: &str = "fake";

/// Starts a scripted server, which runs `script` for each connection after the login. Returns its address.
pub fn fake(script: impl Fn(Conn) + Send + Sync + 'static) -> String {
    fake_with(|| FAKE_RUN_ID.into(), script)
}

/// The same; `run_id` gives the run id for each login.
pub fn fake_with(
    run_id: impl Fn() -> String + Send + Sync + 'static,
    script: impl Fn(Conn) + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let script = Arc::new((script, run_id));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let script = script.clone();
            std::thread::spawn(move || {
                let mut conn = Conn { stream, name: String::new(), buffer: Vec::new() };
                // The login ends with the name.
                while let Some(request) = conn.request() {
                    if request[0] == b"INFO" {
                        let text = format!("# Server\r\nrun_id:{}\r\n", (script.1)());
                        conn.reply(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
                        continue;
                    }
                    conn.reply(b"+OK\r\n");
                    if request[0] == b"CLIENT" {
                        conn.name = String::from_utf8_lossy(&request[2]).into_owned();
                        return (script.0)(conn);
                    }
                }
            });
        }
    });
    addr
}

/// A route table whose slots are spread evenly over the servers.
pub fn table(epoch: u64, port: u16, servers: &[&str]) -> RouteTable {
    let layout = Layout::Codis;
    let count = usize::from(layout.slots());
    let slots = (0..count)
        .map(|slot| SlotRoute { group: Some((slot * servers.len() / count) as u16), epoch: Epoch(1), hold: HoldId(0) })
        .collect();
    let group = |(i, addr): (usize, &&str)| GroupRoute {
        id: GroupId(i as u32 + 1),
        primary: HostPort::parse(addr).unwrap(),
        replicas: Vec::new(),
        login: ServerLogin::default(),
    };
    let product = ProductRoutes {
        id: ProductId(1),
        name: "default".into(),
        layout,
        mode: Mode::Store,
        isolated: Isolated::Refuse,
        min_acks: 0,
        min_acks_ms: 1000,
        clients_max: 0,
        rules: Default::default(),
        databases: 16,
        port,
        auth: Default::default(),
        reads: Default::default(),
        groups: servers.iter().enumerate().map(group).collect(),
        slots,
        scans: Default::default(),
    };
    RouteTable {
        epoch: Epoch(epoch),
        products: BTreeMap::from([(product.id, Arc::new(product))]),
        holds: BTreeMap::new(),
    }
}

/// The table with its only product changed.
pub fn with_product(mut table: RouteTable, change: impl FnOnce(&mut ProductRoutes)) -> RouteTable {
    let product = table.products.get_mut(&ProductId(1)).unwrap();
    change(Arc::make_mut(product));
    table
}

/// The table with the slot of `key` held.
pub fn held(table: RouteTable, id: u64, kind: HoldKind, key: &str) -> RouteTable {
    let slot = Layout::Codis.slot(key.as_bytes());
    let mut table = with_product(table, |p| p.slots[usize::from(slot.0)].hold = HoldId(id));
    table.epoch = Epoch(id);
    let slots: Arc<[SlotId]> = Arc::new([slot]);
    table.holds.insert(HoldId(id), HoldRoutes { product: ProductId(1), kind, slots });
    table
}

/// The table with the slot of `key` at another group since `epoch`. `group`: its index.
pub fn moved(table: RouteTable, key: &str, group: u16, epoch: u64) -> RouteTable {
    let slot = usize::from(Layout::Codis.slot(key.as_bytes()).0);
    let mut table = with_product(table, |p| {
        p.slots[slot].group = Some(group);
        p.slots[slot].epoch = Epoch(epoch);
    });
    table.epoch = Epoch(epoch);
    table
}

pub fn password(text: &str) -> Credentials {
    Credentials { username: None, password: Secret::new(text.into()) }
}

/// Clients log in with this password, which an entry at log index `version` made valid.
pub fn logins(text: &str, version: u64) -> ProductAuth {
    ProductAuth { credentials: Some(password(text)), version: Epoch(version), former: None }
}

/// A proxy in this process.
pub struct Bed {
    pub port: u16,
    pub routes: watch::Sender<Arc<RouteTable>>,
    pub reads: watch::Sender<Arc<ReadTable>>,
    pub permit: Arc<Permit>,
    pub unmanaged: UnmanagedReplicas,
    /// Primaries that answered as replicas.
    pub misrouted: tokio::sync::Mutex<mpsc::Receiver<HostPort>>,
    pub activity: ServerActivity,
    /// What the servers of the product have.
    pub commands: watch::Sender<Arc<ProductCommands>>,
    pub server_clients: ServerClients,
    pub proxy: Proxy,
    pub runtime: tokio::runtime::Runtime,
}

impl Bed {
    pub fn start(servers: &[&str]) -> Self {
        Self::start_with(servers, Limits::default(), 1, |table| table)
    }

    pub fn start_with(
        servers: &[&str],
        limits: Limits,
        workers: usize,
        change: impl FnOnce(RouteTable) -> RouteTable,
    ) -> Self {
        let port = free_port();
        let table = change(table(1, port, servers));
        let (routes, receiver) = watch::channel(Arc::new(table));
        let permit = Arc::new(Permit::forever());
        let unmanaged = UnmanagedReplicas::default();
        let (report, misrouted) = mpsc::channel(16);
        let (activity, server_clients) = (ServerActivity::default(), ServerClients::default());
        let (commands, offered) = watch::channel(Arc::default());
        let config = ProxyConfig {
            workers,
            limits,
            unmanaged: unmanaged.clone(),
            misrouted: Some(report),
            activity: activity.clone(),
            commands: Some(offered),
            server_clients: server_clients.clone(),
            ..ProxyConfig::default()
        };
        let (reads, readable) = watch::channel(Arc::default());
        let proxy = Proxy::start_with_reads(config, receiver, permit.clone(), readable).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let misrouted = tokio::sync::Mutex::new(misrouted);
        let bed = Self {
            port,
            routes,
            reads,
            permit,
            unmanaged,
            misrouted,
            activity,
            commands,
            server_clients,
            proxy,
            runtime,
        };
        bed.until("listening", |r| r.listeners.values().all(|l| l.error.is_none()) && !r.listeners.is_empty());
        bed
    }

    pub fn table(&self) -> RouteTable {
        (**self.routes.borrow()).clone()
    }

    pub fn publish(&self, table: RouteTable) {
        self.routes.send_replace(Arc::new(table));
    }

    pub fn until(&self, what: &str, condition: impl Fn(&ProxyReport) -> bool) -> Arc<ProxyReport> {
        let mut report = self.proxy.report();
        let met = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, report.wait_for(|r| condition(r))).await.map(|r| r.unwrap().clone())
        });
        met.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}; {:?}", self.proxy.report().borrow()))
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

/// A blocking client that sends and receives bytes.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends words as a request.
    pub fn call(&mut self, words: &str) -> &mut Self {
        self.send(request(words))
    }

    /// Reads exactly the bytes `want`.
    #[track_caller]
    pub fn expect(&mut self, want: &str) -> &mut Self {
        let mut got = vec![0; want.len()];
        let mut filled = 0;
        while filled < got.len() && got[..filled] == want.as_bytes()[..filled] {
            match self.stream.read(&mut got[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => panic!("{error}; got {:?}, want {want:?}", String::from_utf8_lossy(&got[..filled])),
            }
        }
        assert_eq!(String::from_utf8_lossy(&got[..filled]), want);
        self
    }

    /// Reads one line.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&line));
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Reads all bytes until the proxy closes the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset after the last bytes also counts as a close.
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// A RESP request of words.
pub fn request(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut out = Vec::new();
    pontoon::resp::write::request(&mut out, &words);
    out
}
