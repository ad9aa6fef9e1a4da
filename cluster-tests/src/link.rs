//! A TCP relay (client to node, node to server, node to node) that can delay, withhold or cut its connections.
//! Knows nothing of the protocol of the bytes.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::wait::let_pass;

/// How often a relay checks whether its mode has changed.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What a relay does with the bytes of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes them.
    Open,
    /// Passes bytes after this delay.
    Delay(Duration),
    /// Keeps the bytes that arrive until [`Link::deliver_late`], also when the mode changes before.
    Late,
    /// Accepts connections and bytes from both sides and passes nothing, as if the server's host were off.
    Silent,
    /// Passes bytes to the server and withholds bytes from it: a request arrives, its reply does not.
    HalfOpen,
    /// Passes bytes from the server and withholds bytes to it: a request does not arrive.
    RequestsWithheld,
    /// Closes every connection, and new ones at once.
    Cut,
}

/// A set of connections with a common mode.
#[derive(Debug)]
pub(crate) struct Edge {
    mode: Mutex<Mode>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
    /// How often late bytes were delivered.
    deliveries: AtomicU64,
}

/// A relay with one mode for all its connections. It ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    /// The port on 127.0.0.1 on which the relay listens.
    pub port: u16,
    edge: Arc<Edge>,
}

impl Link {
    /// Relays from `port` to `to`, both on 127.0.0.1.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(port: u16, to: u16) -> Self {
        let edge = Arc::new(Edge::default());
        let of_relay = edge.clone();
        relay(port, to, &edge, move |_| of_relay.clone());
        Self { port, edge }
    }

    /// HOST:PORT of the relay.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes the mode, also for open connections.
    pub fn set(&self, mode: Mode) {
        self.edge.set(mode);
    }

    /// Passes the bytes that arrived in [`Mode::Late`].
    pub fn deliver_late(&self) {
        self.edge.deliveries.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.edge.end();
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            mode: Mutex::new(Mode::Open),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
            deliveries: AtomicU64::new(0),
        }
    }
}

impl Edge {
    /// Changes the mode, also for open connections.
    pub(crate) fn set(&self, mode: Mode) {
        *lock(&self.mode) = mode;
        if mode == Mode::Cut {
            self.close();
        }
    }

    /// Closes all connections, and ends the relay that was started with this edge.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.close();
    }

    fn close(&self) {
        for stream in lock(&self.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mode(&self) -> Mode {
        *lock(&self.mode)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether bytes of this direction are withheld.
    fn withholds(&self, is_answer: bool) -> bool {
        match self.mode() {
            Mode::Silent => true,
            Mode::HalfOpen => is_answer,
            Mode::RequestsWithheld => !is_answer,
            Mode::Open | Mode::Delay(_) | Mode::Late | Mode::Cut => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Relays from `port` to `to`, both on 127.0.0.1, until `life` ends. `choose` returns the edge of a connection by the
/// caller's address.
///
/// # Panics
/// When the port is taken.
pub(crate) fn relay(
    port: u16,
    to: u16,
    life: &Arc<Edge>,
    choose: impl Fn(SocketAddr) -> Arc<Edge> + Send + Sync + 'static,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the relay's port is free");
    listener.set_nonblocking(true).expect("a listener can be made non-blocking");
    let (life, choose) = (life.clone(), Arc::new(choose));
    std::thread::spawn(move || {
        while !life.stopped() {
            match listener.accept() {
                Ok((near, from)) => {
                    let choose = choose.clone();
                    // Identifying the caller takes time, and other callers must not wait for it.
                    std::thread::spawn(move || {
                        let edge = choose(from);
                        if edge.mode() != Mode::Cut {
                            // If the server is down, the relay behaves like it: it closes the caller's connection.
                            let _ = join(near, to, &edge);
                        }
                    });
                }
                Err(_) => let_pass(POLL_INTERVAL),
            }
        }
    });
}

fn join(near: TcpStream, to: u16, edge: &Arc<Edge>) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let far = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, to)), Duration::from_secs(2))?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    lock(&edge.open).extend([near.try_clone()?, far.try_clone()?]);
    for (from, into, is_answer) in [(near.try_clone()?, far.try_clone()?, false), (far, near, true)] {
        let edge = edge.clone();
        std::thread::spawn(move || pump(from, into, is_answer, &edge));
    }
    Ok(())
}

fn pump(mut from: TcpStream, mut into: TcpStream, is_answer: bool, edge: &Edge) {
    let mut chunk = [0; 16 << 10];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        // Withheld bytes wait in the relay, as on a network that loses and retransmits packets.
        while !edge.stopped() && edge.withholds(is_answer) {
            let_pass(POLL_INTERVAL);
        }
        match edge.mode() {
            Mode::Delay(time) => let_pass(time),
            Mode::Late => {
                let before = edge.deliveries.load(Ordering::Relaxed);
                while !edge.stopped() && edge.deliveries.load(Ordering::Relaxed) == before {
                    let_pass(POLL_INTERVAL);
                }
            }
            _ => {}
        }
        if edge.mode() == Mode::Cut || into.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
