//! The acceptor thread: one listener per product; each new connection goes to the worker with the fewest clients.
//! Knows nothing of the protocol.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{SocketAddr, TcpStream as StdStream, ToSocketAddrs},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    ProxyConfig, ProxyPhase,
    clients::{ClientPlace, Newcomer},
    report::{ListenerReport, SharedReport},
};
use crate::{
    counters, faults,
    model::{
        auth::ProductAuth,
        ids::ProductId,
        route::{ProductRoutes, RouteTable},
    },
};

/// Time between attempts to bind a port that another program holds.
const RETRY: Duration = Duration::from_secs(1);

/// First pause after an `accept` that failed for lack of file descriptors or memory: without it, the loop would use a
/// whole core. The pause doubles with each failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause: clients wait as long when descriptors are free again.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time for which a connection waits for a worker. Workers that take no connection in this time are stuck.
const WORKER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Connections that the kernel may queue between two turns.
const BACKLOG: i32 = 1024;

/// An idle client whose machine has failed is detected after about this time; the default of Redis' `tcp-keepalive`.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// A connection for a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) product: ProductId,
    pub(super) stream: StdStream,
    pub(super) from: SocketAddr,
    pub(super) place: ClientPlace,
}

struct Bound {
    name: String,
    clients_max: u32,
    must_log_in: bool,
    address: String,
    socket: Option<TcpListener>,
    report: ListenerReport,
}

struct Acceptor<'a> {
    config: &'a ProxyConfig,
    shared: &'a SharedReport,
    inboxes: Vec<mpsc::Sender<Accepted>>,
    bound: BTreeMap<ProductId, Bound>,
    /// The product whose client was accepted last.
    last: ProductId,
    /// A connection for which no worker has room yet. No other is accepted until one has.
    waiting: Option<Waiting>,
}

struct Waiting {
    product: ProductId,
    stream: StdStream,
    from: SocketAddr,
    until: Instant,
}

/// Runs the acceptor until the proxy drains.
pub(super) fn run(
    config: &ProxyConfig,
    shared: &SharedReport,
    routes: watch::Receiver<Arc<RouteTable>>,
    inboxes: Vec<mpsc::Sender<Accepted>>,
    phase: watch::Receiver<ProxyPhase>,
) {
    let acceptor = Acceptor { config, shared, inboxes, bound: BTreeMap::new(), last: ProductId(0), waiting: None };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(acceptor.serve(routes, phase)),
        Err(error) => tracing::error!(%error, "the acceptor could not be started"),
    }
}

impl Acceptor<'_> {
    async fn serve(mut self, mut routes: watch::Receiver<Arc<RouteTable>>, mut phase: watch::Receiver<ProxyPhase>) {
        let table = routes.borrow_and_update().clone();
        self.rebind(&table);
        let mut retry = tokio::time::interval(RETRY);
        let mut pause = ACCEPT_PAUSE;
        let mut fault = std::pin::pin!(faults::panic_when_asked("acceptor"));
        loop {
            tokio::select! {
                biased;
                never = &mut fault => match never {},
                changed = phase.changed() => {
                    if changed.is_err() || *phase.borrow_and_update() != ProxyPhase::Run {
                        return;
                    }
                }
                Ok(()) = routes.changed() => {
                    let table = routes.borrow_and_update().clone();
                    self.rebind(&table);
                }
                _ = retry.tick() => {
                    if self.bound.values().any(|b| b.socket.is_none()) {
                        let table = routes.borrow().clone();
                        self.rebind(&table);
                    }
                }
                () = room(&self.inboxes, self.waiting.as_ref()), if self.waiting.is_some() => {
                    if let Some(Waiting { product, stream, from, .. }) = self.waiting.take() {
                        self.hand_over(product, stream, from);
                    }
                }
                (product, accepted) = accept(&self.bound, self.last), if self.waiting.is_none() => match accepted {
                    Ok((stream, from)) => {
                        pause = ACCEPT_PAUSE;
                        self.last = product;
                        if self.inboxes.iter().any(|inbox| inbox.capacity() > 0) {
                            self.hand_over(product, stream, from);
                        } else {
                            let until = Instant::now() + WORKER_WAIT_MAX;
                            self.waiting = Some(Waiting { product, stream, from, until });
                        }
                    }
                    Err(error) => {
                        counters::CLIENT_ACCEPTS_FAILED.increment();
                        if pause == ACCEPT_PAUSE {
                            tracing::warn!(%error, "cannot accept clients");
                        }
                        tokio::time::sleep(pause).await;
                        pause = (2 * pause).min(ACCEPT_PAUSE_MAX);
                    }
                },
            }
        }
    }

    /// Opens and closes listeners so that they match the table.
    fn rebind(&mut self, table: &RouteTable) {
        self.bound.retain(|id, _| table.products.contains_key(id));
        self.shared.clients.retain(|id| table.products.contains_key(&id));
        self.shared.retain_products(|id| table.products.contains_key(&id));
        for (id, product) in &table.products {
            let (address, note) = self.wanted(product);
            if let Some(bound) = self.bound.get_mut(id).filter(|b| b.address == address && b.socket.is_some()) {
                bound.clients_max = product.clients_max;
                bound.must_log_in = product.auth.is_required();
                continue;
            }
            // Close the old socket first: the new address may have the same port.
            self.bound.remove(id);
            let (socket, error) = match bind(&address) {
                Ok(socket) => (Some(socket), None),
                Err(error) => (None, Some(format!("cannot listen on {address}: {error}"))),
            };
            let report = ListenerReport { address: address.clone(), error, note };
            if self.shared.latest().listeners.get(id) != Some(&report) {
                match &report.error {
                    Some(error) => {
                        tracing::error!(product = %product.name, error, "cannot listen for a product; retrying \
                            every second")
                    }
                    None => tracing::info!(product = %product.name, address, note = report.note, "serving clients"),
                }
            }
            let (name, clients_max) = (product.name.clone(), product.clients_max);
            let must_log_in = product.auth.is_required();
            self.bound.insert(*id, Bound { name, clients_max, must_log_in, address, socket, report });
        }
        let reports = self.bound.iter().map(|(id, b)| (*id, b.report.clone())).collect();
        self.shared.set_listeners(reports);
    }

    /// The address to bind for a product, and a note for the operator.
    fn wanted(&self, product: &ProductRoutes) -> (String, Option<String>) {
        let host = host_of_address(&self.config.bind);
        let Some(port) = product.port.checked_add(self.config.port_offset) else {
            // `bind` reports that this is not a port.
            return (format!("{}:port {} + offset {}", host, product.port, self.config.port_offset), None);
        };
        if !is_loopback_only(self.config, &product.auth) {
            return (format!("{host}:{port}"), None);
        }
        let note = format!(
            "on loopback only, because product {0} has no password: pontoon product set {0} --password-file FILE, \
                or serve --insecure",
            product.name
        );
        (format!("127.0.0.1:{port}"), Some(note))
    }

    /// Gives a connection to the worker with the fewest, or refuses it.
    fn hand_over(&self, product: ProductId, stream: StdStream, from: SocketAddr) {
        let Some(Bound { name, clients_max, must_log_in, .. }) = self.bound.get(&product) else { return };
        let newcomer = Newcomer { product, name, must_log_in: *must_log_in };
        let has_room = |worker: usize| self.inboxes[worker].capacity() > 0;
        match self.shared.clients.admit(newcomer, self.config.limits.clients_max, *clients_max, has_room) {
            Ok(place) => {
                let worker = place.worker;
                if let Err(refused) = self.inboxes[worker].try_send(Accepted { product, stream, from, place }) {
                    // No worker has taken a connection for a long time, or this one has ended: close the connection.
                    refused.into_inner().place.refuse();
                }
            }
            Err(_) => {
                // A small write into the empty buffer of a new socket does not block.
                let _ = (&stream).write(b"-ERR max number of clients reached\r\n");
            }
        }
    }
}

/// Waits until a worker has room for the connection that waits, or its time is over.
async fn room(inboxes: &[mpsc::Sender<Accepted>], waiting: Option<&Waiting>) {
    let Some(waiting) = waiting else { return };
    let mut waits: Vec<_> = inboxes.iter().map(|inbox| Box::pin(inbox.reserve())).collect();
    let room = std::future::poll_fn(|cx| {
        let mut found = false;
        waits.retain_mut(|wait| match wait.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(room) => {
                found |= room.is_ok();
                false
            }
        });
        if found { Poll::Ready(()) } else { Poll::Pending }
    });
    let _ = tokio::time::timeout_at(waiting.until, room).await;
}

/// Whether a client of a product may connect from this address.
pub(super) fn admits(config: &ProxyConfig, auth: &ProductAuth, from: SocketAddr) -> bool {
    from.ip().to_canonical().is_loopback() || !is_loopback_only(config, auth)
}

/// Whether a product is bound on loopback although the node binds another address.
fn is_loopback_only(config: &ProxyConfig, auth: &ProductAuth) -> bool {
    !auth.is_required() && !config.insecure && !is_loopback(&config.bind)
}

/// A host as written before a port: IPv6 addresses in brackets.
fn host_of_address(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, 0).to_socket_addrs().is_ok_and(|mut addresses| addresses.all(|a| a.ip().is_loopback()))
}

/// Binds without `SO_REUSEPORT`, so that a port that another program holds is an error.
fn bind(address: &str) -> io::Result<TcpListener> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the host has no address"))?;
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts the next connection of any listener. The product after `last` comes first, so that one with many new
/// connections does not delay the others.
async fn accept(
    bound: &BTreeMap<ProductId, Bound>,
    last: ProductId,
) -> (ProductId, io::Result<(StdStream, SocketAddr)>) {
    std::future::poll_fn(|cx| {
        let after = bound.range((Excluded(last), Unbounded));
        for (id, b) in after.chain(bound.range(..=last)) {
            let Some(socket) = &b.socket else { continue };
            while let Poll::Ready(accepted) = socket.poll_accept(cx) {
                match accepted.map(|(stream, from)| (prepare(stream), from)) {
                    Ok((Ok(stream), from)) => return Poll::Ready((*id, Ok((stream, from)))),
                    // The client has closed the connection already: no reason to pause.
                    Ok((Err(_), _)) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Poll::Ready((*id, Err(error))),
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Sets the options of a new connection.
fn prepare(stream: tokio::net::TcpStream) -> io::Result<StdStream> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.into_std()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::MemoryBudget;

    #[test]
    fn hosts_of_both_families() {
        for (host, want) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("::", "[::]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host_of_address(host), want);
        }
        assert!(is_loopback("::1") && is_loopback("[::1]") && is_loopback("127.0.0.1"));
        assert!(!is_loopback("::") && !is_loopback("0.0.0.0"));
        let address: SocketAddr = format!("{}:7000", host_of_address("::1")).to_socket_addrs().unwrap().next().unwrap();
        assert!(address.is_ipv6());
    }

    #[test]
    fn clients_of_other_machines_need_a_password() {
        let config = |bind: &str, insecure| ProxyConfig { bind: bind.into(), insecure, ..ProxyConfig::default() };
        let (public, open) = (config("0.0.0.0", false), ProductAuth::default());
        let guarded = open.replaced(Some(crate::model::secret::Credentials::default()), crate::model::ids::Epoch(1));
        let from = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 1);
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(admits(&public, &open, from(own)), "{own}");
        }
        for other in ["10.0.0.1", "fd00::2", "::ffff:10.0.0.1"] {
            assert!(!admits(&public, &open, from(other)), "{other}");
            assert!(admits(&public, &guarded, from(other)) && admits(&config("0.0.0.0", true), &open, from(other)));
        }
    }

    #[test]
    fn connections_wait_for_a_busy_worker() {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let product = ProductRoutes { id: ProductId(1), name: "p".into(), port, ..ProductRoutes::default() };
        let products = BTreeMap::from([(product.id, Arc::new(product))]);
        let (_routes, routes) = watch::channel(Arc::new(RouteTable { products, ..RouteTable::default() }));
        let (_phase, phase) = watch::channel(ProxyPhase::Run);
        let shared = SharedReport::new(1, Arc::new(MemoryBudget::new(1 << 30)));
        let (inbox, mut accepted) = mpsc::channel(2);
        std::thread::spawn(move || {
            let config = ProxyConfig::default();
            run(&config, &shared, routes, vec![inbox], phase);
        });
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let connect = || loop {
            match StdStream::connect(("127.0.0.1", port)) {
                Ok(client) => return client,
                // It does not listen yet.
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        };
        let clients: Vec<_> = (0..20).map(|_| connect()).collect();
        // The worker is busy until all have connected.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut next =
            || runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), accepted.recv()).await });
        let taken: Vec<_> = clients.iter().map(|_| next().unwrap().unwrap()).collect();
        for (client, taken) in clients.iter().zip(&taken) {
            assert_eq!(client.local_addr().unwrap(), taken.from);
        }
    }

    #[test]
    fn a_product_with_many_new_connections_does_not_delay_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listen = |name: &str| {
                let socket = bind("127.0.0.1:0").unwrap();
                let address = socket.local_addr().unwrap().to_string();
                Bound {
                    name: name.into(),
                    clients_max: 0,
                    must_log_in: false,
                    address,
                    socket: Some(socket),
                    report: ListenerReport::default(),
                }
            };
            let bound = BTreeMap::from([(ProductId(1), listen("busy")), (ProductId(2), listen("quiet"))]);
            let connect = |id: u32| StdStream::connect(&bound[&ProductId(id)].address).unwrap();
            let _clients = [connect(1), connect(1), connect(1), connect(2)];
            let (mut last, mut order) = (ProductId(0), Vec::new());
            for _ in 0..4 {
                let (product, accepted) = accept(&bound, last).await;
                accepted.unwrap();
                last = product;
                order.push(product.0);
            }
            assert_eq!(order, [1, 2, 1, 1]);
        });
    }
}
