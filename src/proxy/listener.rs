//! The acceptor thread: one listener per product; each new connection goes to the worker with the fewest clients.
//! Knows nothing of the protocol.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{SocketAddr, TcpStream as StdStream, ToSocketAddrs},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::{
    ProxyConfig, ProxyPhase,
    report::{ListenerReport, SharedReport},
};
use crate::{
    faults,
    model::{
        ids::ProductId,
        route::{ProductRoutes, RouteTable},
    },
};

/// Time between attempts to bind a port that another program holds.
const RETRY: Duration = Duration::from_secs(1);

/// Pause after an `accept` that failed for lack of file descriptors or memory: without it, the loop would use a whole
/// core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
}

struct Bound {
    address: String,
    socket: Option<TcpListener>,
    report: ListenerReport,
}

struct Acceptor<'a> {
    config: &'a ProxyConfig,
    shared: &'a SharedReport,
    inboxes: Vec<mpsc::Sender<Accepted>>,
    bound: BTreeMap<ProductId, Bound>,
}

/// Runs the acceptor until the proxy drains.
pub(super) fn run(
    config: &ProxyConfig,
    shared: &SharedReport,
    routes: watch::Receiver<Arc<RouteTable>>,
    inboxes: Vec<mpsc::Sender<Accepted>>,
    phase: watch::Receiver<ProxyPhase>,
) {
    let acceptor = Acceptor { config, shared, inboxes, bound: BTreeMap::new() };
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
                (product, accepted) = accept(&self.bound) => match accepted {
                    Ok((stream, from)) => self.hand_over(product, stream, from),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Opens and closes listeners so that they match the table.
    fn rebind(&mut self, table: &RouteTable) {
        self.bound.retain(|id, _| table.products.contains_key(id));
        for (id, product) in &table.products {
            let (address, note) = self.wanted(product);
            if self.bound.get(id).is_some_and(|b| b.address == address && b.socket.is_some()) {
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
            self.bound.insert(*id, Bound { address, socket, report });
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
        if product.auth.is_some() || self.config.insecure || is_loopback(&self.config.bind) {
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
        if self.shared.clients() >= self.config.limits.clients_max {
            // A small write into the empty buffer of a new socket does not block.
            let _ = (&stream).write(b"-ERR max number of clients reached\r\n");
            return;
        }
        let counts = self.shared.clients.iter().map(|c| c.load(Ordering::Relaxed));
        let Some((index, _)) = counts.enumerate().min_by_key(|(_, count)| *count) else { return };
        self.shared.clients[index].fetch_add(1, Ordering::Relaxed);
        if self.inboxes[index].try_send(Accepted { product, stream, from }).is_err() {
            // The worker is far behind or has ended: close the connection.
            self.shared.clients[index].fetch_sub(1, Ordering::Relaxed);
        }
    }
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

/// Accepts the next connection of any listener.
async fn accept(bound: &BTreeMap<ProductId, Bound>) -> (ProductId, io::Result<(StdStream, SocketAddr)>) {
    std::future::poll_fn(|cx| {
        for (id, b) in bound {
            let Some(socket) = &b.socket else { continue };
            if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                let accepted = accepted.and_then(|(stream, from)| {
                    stream.set_nodelay(true)?;
                    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    Ok((stream.into_std()?, from))
                });
                return Poll::Ready((*id, accepted));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
}
