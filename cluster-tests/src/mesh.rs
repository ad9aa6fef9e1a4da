//! The network between nodes: a relay before each node's admin port, which tells its callers apart, so that any
//! direction between two nodes can be cut. Operators (and the tests' own commands) always pass.
//! Knows nothing of nodes but their ids and ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::link::{Edge, Mode, relay};

/// Directions between nodes: who speaks, who is spoken to.
type Direction = (u16, u16);

/// The relays; they end when it is dropped.
#[derive(Debug, Default)]
pub struct Mesh {
    /// What node `.0` opens to node `.1`.
    edges: BTreeMap<Direction, Arc<Edge>>,
    /// All other callers, by the node they call.
    others: BTreeMap<u16, Arc<Edge>>,
    /// Directions in which nothing passes.
    lost: Mutex<BTreeSet<Direction>>,
}

impl Mesh {
    /// Relays for nodes 1 to `n`: for each (its id, the advertised port, the port it listens on).
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

    /// The address that a node's calls come from.
    #[must_use]
    pub fn source(id: u16) -> Ipv4Addr {
        let [high, low] = id.to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    }

    /// Nothing passes between these two, until [`Mesh::heal`]. Connections stay open and wait, as on a network that loses.
    pub fn cut(&self, a: u16, b: u16) {
        self.lose(&[(a, b), (b, a)]);
    }

    /// Nothing that `from` says reaches `to`, neither a call nor an answer; the other way is open.
    pub fn cut_one_way(&self, from: u16, to: u16) {
        self.lose(&[(from, to)]);
    }

    /// Cuts a node from all others.
    pub fn isolate(&self, id: u16) {
        let others: BTreeSet<u16> = self.edges.keys().map(|(from, _)| *from).filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    /// All ways are open again; what waited on them arrives, late.
    pub fn heal(&self) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.edges.values().for_each(|edge| edge.set(Mode::Open));
    }

    fn lose(&self, directions: &[Direction]) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.extend(directions);
        for ((caller, called), edge) in &self.edges {
            edge.set(match (lost.contains(&(*caller, *called)), lost.contains(&(*called, *caller))) {
                (false, false) => Mode::Open,
                (true, false) => Mode::Unheard,
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

    /// A call of node `from` to a node: the caller's end, the called one's.
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
    fn directions_are_cut_one_by_one_and_what_waited_arrives() {
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
        // What waited, then something new.
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
