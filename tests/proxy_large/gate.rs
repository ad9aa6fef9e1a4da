//! A relay in front of a server that lets the bytes of large requests pass only as far as the test allows.
//! Knows nothing of what the bytes mean.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use crate::common::PATIENCE;

/// Bytes that a connection may send before it has to wait: more than logins and small requests.
const FREE: usize = 256 * 1024;

/// Bytes that the relay reads at once.
const CHUNK: usize = 16 * 1024;

/// How far the connections behind the relay may go.
#[derive(Debug, Default)]
struct State {
    open: bool,
    /// Chunks that may still pass.
    chunks: usize,
    /// Connections that wait.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// The relay; it ends with the test's process.
#[derive(Clone, Debug)]
pub struct Relay {
    pub addr: String,
    gate: Arc<Gate>,
}

impl Relay {
    /// Starts a closed relay in front of `server`.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let gate = Arc::new(Gate::default());
        let (relay, server) = (Self { addr, gate: gate.clone() }, server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                let (back, forth) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                let gate = gate.clone();
                std::thread::spawn(move || pass(client, upstream, Some(&gate)));
                std::thread::spawn(move || pass(back, forth, None));
            }
        });
        relay
    }

    /// Lets everything pass.
    pub fn open(&self) {
        self.gate.state.lock().unwrap().open = true;
        self.gate.changed.notify_all();
    }

    /// Waits until this many connections are stopped by the gate.
    pub fn until_waiting(&self, count: usize) {
        let state = self.gate.state.lock().unwrap();
        let (_state, end) = self.gate.changed.wait_timeout_while(state, PATIENCE, |s| s.waiting < count).unwrap();
        assert!(!end.timed_out(), "no {count} connections are stopped");
    }

    /// A slow link: one more chunk passes in each interval, until `done` returns true.
    pub fn trickle(&self, every: Duration, mut done: impl FnMut() -> bool) {
        while !done() {
            let mut state = self.gate.state.lock().unwrap();
            state.chunks += 1;
            self.gate.changed.notify_all();
            let _state = self.gate.changed.wait_timeout_while(state, every, |_| true).unwrap();
        }
    }
}

impl Gate {
    fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.open && state.chunks == 0).unwrap();
        state.chunks = state.chunks.saturating_sub(1);
        state.waiting -= 1;
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, gate: Option<&Gate>) {
    let mut chunk = vec![0; CHUNK];
    let mut passed = 0;
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        passed += n;
        if let Some(gate) = gate.filter(|_| passed > FREE) {
            gate.wait();
        }
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
