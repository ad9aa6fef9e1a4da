//! A TCP relay on one edge (client to node, or node to server) that can be slowed, silenced or cut.
//! Knows nothing of what passes.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::wait::let_pass;

/// How often a relay looks whether it has become another.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes them.
    Open,
    /// Passes them after so long.
    Delay(Duration),
    /// Takes connections and bytes from both sides and passes nothing: the host is off, its switch still answers.
    Silent,
    /// What the server says is not passed, what it is told is: the request arrives, its answer never does.
    HalfOpen,
    /// Closes every connection, and new ones at once.
    Cut,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

/// A relay; it ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Link {
    /// Relays from `port` to `to`, both on 127.0.0.1.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the relay's port is free");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Open),
            open: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        std::thread::spawn(move || accept(&listener, to, &of_thread));
        Self { port, shared }
    }

    /// HOST:PORT of the relay.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes what it does; also for open connections.
    pub fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        if mode == Mode::Cut {
            self.shared.close();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.close();
    }
}

impl Shared {
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, to: u16, shared: &Arc<Shared>) {
    while !shared.stopped() {
        match listener.accept() {
            Ok((near, _)) if shared.mode() == Mode::Cut => drop(near),
            Ok((near, _)) => {
                // A server that is down looks like one: the near side is closed.
                let _ = relay(near, to, shared);
            }
            Err(_) => let_pass(LOOK_EVERY),
        }
    }
}

fn relay(near: TcpStream, to: u16, shared: &Arc<Shared>) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let far = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, to)), Duration::from_secs(2))?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    lock(&shared.open).extend([near.try_clone()?, far.try_clone()?]);
    for (from, into, is_answer) in [(near.try_clone()?, far.try_clone()?, false), (far, near, true)] {
        let shared = shared.clone();
        std::thread::spawn(move || pump(from, into, is_answer, &shared));
    }
    Ok(())
}

fn pump(mut from: TcpStream, mut into: TcpStream, is_answer: bool, shared: &Shared) {
    let mut chunk = [0; 16 << 10];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        // Bytes that meet a silent link wait in it, as in a network that loses and repeats.
        while !shared.stopped() && (shared.mode() == Mode::Silent || (is_answer && shared.mode() == Mode::HalfOpen)) {
            let_pass(LOOK_EVERY);
        }
        if let Mode::Delay(time) = shared.mode() {
            let_pass(time);
        }
        if shared.mode() == Mode::Cut || into.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
