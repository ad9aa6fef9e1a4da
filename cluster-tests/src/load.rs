//! Clients that write and read registers until they are stopped, and record the replies.
//! Knows nothing of what happens to the cluster meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Reply},
    history::{Action, History, Op},
    wait::{GENEROUS, let_pass, wait_until},
};

/// The pause of a client after an error, as real clients make one.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// Between two requests of a client: load enough to have something in flight always, short histories.
const BETWEEN: Duration = Duration::from_millis(2);
/// A reply that takes longer counts as none. Longer than any deadline of a node.
const REPLY_WITHIN: Duration = Duration::from_secs(12);
/// Errors of one client that are kept.
const ERRORS_KEPT: usize = 50;

/// What one client saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests answered without an error.
    pub answered: u64,
    /// Errors: what they said.
    pub errors: Vec<String>,
    /// Longest time from one good answer to the next.
    pub longest_gap: Duration,
    /// When the last good answer came.
    pub last: Option<Instant>,
}

/// Clients at work, one thread each.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Seen>>,
    /// What they did.
    pub history: History,
}

impl Load {
    /// One client per entry of `ports`; all use all `keys`.
    #[must_use]
    pub fn start(ports: &[u16], keys: &[String]) -> Self {
        static VALUE: AtomicU64 = AtomicU64::new(1);
        let (stop, answered, history) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), History::default());
        let clients = ports.iter().enumerate().map(|(n, port)| {
            let (port, keys, stop, answered, history) =
                (*port, keys.to_vec(), stop.clone(), answered.clone(), history.clone());
            std::thread::spawn(move || {
                let mut worker = Worker { port, client: None, seen: Seen::default(), history };
                let mut turn = n;
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let key = &keys[turn % keys.len()];
                    // Writers and readers meet on every key in turn.
                    let write = ((turn / keys.len()) + n).is_multiple_of(2);
                    turn += 1;
                    let value = write.then(|| VALUE.fetch_add(1, Ordering::Relaxed));
                    match worker.once(key, value) {
                        Ok(()) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            worker.seen.answered += 1;
                            worker.seen.longest_gap = worker.seen.longest_gap.max(last.elapsed());
                            last = Instant::now();
                            worker.seen.last = Some(last);
                            let_pass(BETWEEN);
                        }
                        Err(why) => {
                            if worker.seen.errors.len() < ERRORS_KEPT {
                                worker.seen.errors.push(why);
                            }
                            let_pass(AFTER_ERROR);
                        }
                    }
                }
                worker.seen
            })
        });
        Self { clients: clients.collect(), stop, answered, history }
    }

    /// Waits until this number of further requests were answered.
    #[track_caller]
    pub fn wait_more(&self, more: u64) {
        let from = self.answered.load(Ordering::Relaxed);
        wait_until("requests to be answered", GENEROUS, || self.answered.load(Ordering::Relaxed) >= from + more);
    }

    /// Requests that were answered so far, by all clients.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Clients begin nothing new.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops; what each client saw, in the order of the ports, and the history.
    ///
    /// # Panics
    /// When a client panicked.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Seen>, History) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.clients.drain(..).map(|client| client.join().expect("a client of the load has not panicked"));
        (seen.collect(), self.history.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    port: u16,
    client: Option<Client>,
    seen: Seen,
    history: History,
}

impl Worker {
    /// One request: a write of the value, or a read.
    fn once(&mut self, key: &str, write: Option<u64>) -> Result<(), String> {
        if self.client.is_none() {
            self.client = Some(Client::connect_within(self.port, REPLY_WITHIN).map_err(|e| format!("connect: {e}"))?);
        }
        let Some(client) = &mut self.client else { return Err("no connection".into()) };
        let begin = self.history.now();
        let reply = match write {
            Some(value) => client.call(&["SET", key, &value.to_string()]),
            None => client.call(&["GET", key]),
        };
        let end = self.history.now();
        let add = |action, end| self.history.add(Op { key: key.to_owned(), action, begin, end });
        match (write, reply) {
            (Some(value), Ok(Reply::Simple(_))) => add(Action::Write(value), Some(end)),
            (None, Ok(Reply::Bulk(bytes))) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let value = text.parse().map_err(|_| format!("GET {key} brought '{text}', which nobody wrote"))?;
                add(Action::Read(Some(value)), Some(end));
            }
            (None, Ok(Reply::Null)) => add(Action::Read(None), Some(end)),
            (None, Ok(other)) => return Err(other.text()),
            (Some(value), Ok(other)) => {
                // Believed: a write that is said not to be executed and shows up later fails the check as read from nowhere.
                if !other.text().contains("not executed") {
                    add(Action::Write(value), None);
                }
                return Err(other.text());
            }
            (write, Err(error)) => {
                if let Some(value) = write {
                    add(Action::Write(value), None);
                }
                self.client = None;
                return Err(format!("connection: {error}"));
            }
        }
        Ok(())
    }
}
