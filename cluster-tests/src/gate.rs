//! A relay in front of a redis-server. The cluster knows the server by the relay's address. Each caller (a node, a
//! replica, the test) has its own mode: its connections can be delayed, withheld or cut. Knows nothing of groups.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    callers::{Caller, Callers},
    link::{Edge, Mode, relay},
};

/// The relay. It ends when it is dropped.
#[derive(Debug)]
pub struct Gate {
    /// The port on 127.0.0.1 on which the relay listens.
    pub port: u16,
    edges: Arc<Mutex<BTreeMap<Caller, Arc<Edge>>>>,
    life: Arc<Edge>,
}

impl Gate {
    /// Relays from `port` to `to`, both on 127.0.0.1.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(port: u16, to: u16, callers: &Callers) -> Self {
        let (edges, life) = (Arc::<Mutex<BTreeMap<Caller, Arc<Edge>>>>::default(), Arc::<Edge>::default());
        let (of_relay, callers) = (edges.clone(), callers.clone());
        relay(port, to, &life, move |from: SocketAddr| edge(&of_relay, callers.of(from, port)));
        Self { port, edges, life }
    }

    /// HOST:PORT of the relay.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes the mode of this caller's connections, also of open ones.
    pub fn set(&self, caller: Caller, mode: Mode) {
        edge(&self.edges, caller).set(mode);
    }

    /// Sets the mode of all callers to `Open`.
    pub fn heal(&self) {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|edge| edge.set(Mode::Open));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.life.end();
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|edge| edge.end());
    }
}

fn edge(edges: &Mutex<BTreeMap<Caller, Arc<Edge>>>, caller: Caller) -> Arc<Edge> {
    edges.lock().unwrap_or_else(PoisonError::into_inner).entry(caller).or_default().clone()
}
