//! The network between nodes: a relay in front of each node's admin port. It distinguishes its callers, so that any
//! direction between two nodes can be cut. Commands of operators (and of the tests) always pass.
//! Knows only the ids and ports of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::link::{Edge, Mode, relay};

/// A direction between two nodes: the sender and the receiver of bytes.
type Direction = (u16, u16);

/// The relays. They end when this value is dropped.
#[derive(Debug, Default)]
pub struct Mesh {
    /// The connections that node `.0` opens to node `.1`.
    edges: BTreeMap<Direction, Arc<Edge>>,
    /// The connections of all other callers, by the node to which they connect.
    others: BTreeMap<u16, Arc<Edge>>,
    /// Directions in which nothing passes.
    blocked: Mutex<BTreeSet<Direction>>,
}

impl Mesh {
    /// Starts the relays. `nodes`: for each node its id, its advertised port, and the port on which it listens.
    ///
    /// # Panics
    /// When a port is taken.
    #[must_use]
    pub fn start(nodes: &[(u16, u16, u16)]) -> Self {
        let mut mesh = Self::default();
        for (id, advertised, listens) in nodes {
            let callers: BTreeMap<IpAddr, Arc<Edge>> = nodes
                .iter()
                .filter(|(caller, ..)| caller != id)
                .map(|(caller, ..)| {
                    (Self::source(*caller).into(), mesh.edges.entry((*caller, *id)).or_default().clone())
                })
                .collect();
            let others = mesh.others.entry(*id).or_default().clone();
            relay(*advertised, *listens, &others.clone(), move |from: SocketAddr| {
                callers.get(&from.ip()).unwrap_or(&others).clone()
            });
        }
        mesh
    }

    /// Returns the source address of a node's connections to other nodes.
    #[must_use]
    pub fn source(id: u16) -> Ipv4Addr {
        let [high, low] = id.to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    }

    /// Lets nothing pass between two nodes until [`Mesh::heal`]. Connections stay open, and their bytes wait, as on a
    /// network that loses packets.
    pub fn cut(&self, a: u16, b: u16) {
        self.block(&[(a, b), (b, a)]);
    }

    /// Lets no bytes pass from `from` to `to`, neither requests nor replies. The other direction stays open.
    pub fn cut_one_way(&self, from: u16, to: u16) {
        self.block(&[(from, to)]);
    }

    /// Cuts a node from all others.
    pub fn isolate(&self, id: u16) {
        let others: BTreeSet<u16> = self.edges.keys().map(|(from, _)| *from).filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    /// Opens all directions again. Bytes that waited arrive late.
    pub fn heal(&self) {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.edges.values().for_each(|edge| edge.set(Mode::Open));
    }

    fn block(&self, directions: &[Direction]) {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        blocked.extend(directions);
        for ((caller, called), edge) in &self.edges {
            edge.set(match (blocked.contains(&(*caller, *called)), blocked.contains(&(*called, *caller))) {
                (false, false) => Mode::Open,
                (true, false) => Mode::RequestsWithheld,
                (false, true) => Mode::HalfOpen,
                (true, true) => Mode::Silent,
            });
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.edges.values().chain(self.others.values()).for_each(|edge| edge.end());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{ErrorKind, Read, Write},
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use super::*;
    use crate::{ports::Ports, wait::GENEROUS};

    /// Opens a connection from `from` to a node. Returns the caller's end and the node's end.
    fn call(advertised: u16, listener: &TcpListener, from: Ipv4Addr) -> (TcpStream, TcpStream) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let caller = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            socket.connect((Ipv4Addr::LOCALHOST, advertised).into()).await.unwrap().into_std().unwrap()
        });
        caller.set_nonblocking(false).unwrap();
        let called = listener.accept().unwrap().0;
        for end in [&caller, &called] {
            end.set_read_timeout(Some(GENEROUS)).unwrap();
        }
        (caller, called)
    }

    fn passes(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }

    fn is_withheld(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").unwrap();
        to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let kind = to.read(&mut [0]).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind}");
        to.set_read_timeout(Some(GENEROUS)).unwrap();
    }

    #[test]
    fn directions_are_cut_separately_and_waiting_bytes_arrive() {
        let ports = Ports::take();
        let nodes = [1, 2, 3].map(|id| (id, ports.admin(id), ports.admin_listen(id)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.admin_listen(2))).unwrap();
        let mesh = Mesh::start(&nodes);
        let mut calls = [Mesh::source(1), Mesh::source(3), Ipv4Addr::LOCALHOST]
            .map(|source| call(ports.admin(2), &listener, source));
        mesh.cut_one_way(1, 2);
        let [(one, of_one), others @ ..] = &mut calls;
        is_withheld(one, of_one);
        passes(of_one, one);
        for (caller, called) in others.iter_mut() {
            passes(caller, called);
            passes(called, caller);
        }
        mesh.cut(2, 1);
        is_withheld(of_one, one);
        mesh.heal();
        // First the bytes that waited, then new ones.
        for _ in 0..2 {
            one.write_all(b"x").unwrap();
        }
        of_one.read_exact(&mut [0; 3]).unwrap();
        of_one.write_all(b"x").unwrap();
        one.read_exact(&mut [0; 2]).unwrap();
        mesh.isolate(3);
        let [_, (three, of_three), (operator, of_operator)] = &mut calls;
        is_withheld(three, of_three);
        passes(operator, of_operator);
    }
}
