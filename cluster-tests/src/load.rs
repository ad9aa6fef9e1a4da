//! Clients that write and read registers until they are stopped, and record every operation in a history.
//! Knows nothing of the faults that happen meanwhile.

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
/// The pause between two requests of a client: short enough to have requests in flight all the time, long enough to
/// keep the history short.
const BETWEEN: Duration = Duration::from_millis(4);
/// The deadline of a reply. It is longer than any deadline of a node.
const REPLY_WITHIN: Duration = Duration::from_secs(12);
/// Maximum number of errors that are kept per client.
const ERRORS_KEPT: usize = 50;

/// The observations of one client.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Number of requests that were answered without an error.
    pub answered: u64,
    /// The texts of the errors.
    pub errors: Vec<String>,
    /// Longest time between two replies without an error.
    pub longest_gap: Duration,
    /// The time of the last reply without an error.
    pub last: Option<Instant>,
}

/// The running clients, one thread each.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Seen>>,
    /// The operations of all clients.
    pub history: History,
}

impl Load {
    /// Starts one client per entry of `ports`. All clients use all `keys`.
    #[must_use]
    pub fn start(ports: &[u16], keys: &[String]) -> Self {
        static VALUE: AtomicU64 = AtomicU64::new(1);
        let (stop, answered, history) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), History::default());
        let clients = ports.iter().enumerate().map(|(n, port)| {
            let (port, keys, stop, answered, history) =
                (*port, keys.to_vec(), stop.clone(), answered.clone(), history.clone());
            std::thread::spawn(move || {
                let mut load_client = LoadClient { port, client: None, seen: Seen::default(), history };
                let mut turn = n;
                let mut last = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let key = &keys[turn % keys.len()];
                    // Every client alternates between writes and reads, so that each key has both at the same time.
                    let write = ((turn / keys.len()) + n).is_multiple_of(2);
                    turn += 1;
                    let value = write.then(|| VALUE.fetch_add(1, Ordering::Relaxed));
                    match load_client.once(key, value) {
                        Ok(()) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            load_client.seen.answered += 1;
                            load_client.seen.longest_gap = load_client.seen.longest_gap.max(last.elapsed());
                            last = Instant::now();
                            load_client.seen.last = Some(last);
                            let_pass(BETWEEN);
                        }
                        Err(why) => {
                            if load_client.seen.errors.len() < ERRORS_KEPT {
                                load_client.seen.errors.push(why);
                            }
                            let_pass(AFTER_ERROR);
                        }
                    }
                }
                load_client.seen
            })
        });
        Self { clients: clients.collect(), stop, answered, history }
    }

    /// Waits until `more` further requests have been answered.
    #[track_caller]
    pub fn wait_more(&self, more: u64) {
        let from = self.answered.load(Ordering::Relaxed);
        wait_until("requests to be answered", GENEROUS, || self.answered.load(Ordering::Relaxed) >= from + more);
    }

    /// Returns the number of requests of all clients that have been answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Makes the clients stop after their current requests.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops the clients. Returns the observations of each client, in the order of the ports, and the history.
    ///
    /// # Panics
    /// When a client has panicked.
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

struct LoadClient {
    port: u16,
    client: Option<Client>,
    seen: Seen,
    history: History,
}

impl LoadClient {
    /// Executes one request: a write of the value, or a read.
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
                let value = text.parse().map_err(|_| format!("GET {key} returned '{text}', which no client wrote"))?;
                add(Action::Read(Some(value)), Some(end));
            }
            (None, Ok(Reply::Null)) => add(Action::Read(None), Some(end)),
            (None, Ok(other)) => return Err(other.text()),
            (Some(value), Ok(other)) => {
                // "Not executed" is taken literally: if the value is read later, the check fails, because nobody wrote
                // it.
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
