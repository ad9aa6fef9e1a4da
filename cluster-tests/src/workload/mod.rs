//! The workloads: what clients do while a test changes or disturbs the cluster. Each workload has a checker for the
//! violations that it can detect. Knows nothing of migrations or faults.
//!
//! | workload | its checker detects |
//! |---|---|
//! | [`crate::load`] registers | a lost write, a stale read (linearizability) |
//! | counters | an acknowledged increment that was lost or executed twice, a transaction that was half executed, a script that is not found |
//! | lists | an element that is lost, duplicated, or out of its client's order |
//! | sessions | a key that expires too early or too late, while a client refreshes its time to live |
//! | cold | keys that no client touches: lost, changed, in two groups, or with another instant of expiry |
//! | [`Queues`] (used alone) | an element that blocking pops and moves have lost or delivered twice |
//! | [`Written`] (used alone) | the acknowledged writes that a failover has lost, and their times |

mod cold;
mod counters;
mod lists;
mod queues;
mod registers;
mod sessions;
mod written;

pub use cold::{Cold, owners_in};
pub use queues::{Queues, QueuesNoticed};
pub use written::{Write, Written};

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    client::{Client, Reply},
    cluster::Cluster,
    history::History,
    load::Load,
    loss::Losses,
    wait::{GENEROUS, let_pass, wait_for, wait_until},
};

/// The pause of a client after an error, as real clients make one.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// The pause between two requests of a client.
const BETWEEN: Duration = Duration::from_millis(4);
/// The deadline of a reply. It is longer than any deadline of a node.
const REPLY_WITHIN: Duration = Duration::from_secs(12);
/// Number of keys of each workload: few, so that each is busy, but enough to have keys in slots that move and in slots
/// that stay.
const KEYS: usize = 12;

/// This machine's clock, in milliseconds since the epoch: it is also the clock of all servers.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The result of a request.
#[derive(Clone, Debug)]
pub(crate) enum CallResult {
    /// A reply that is not an error.
    Reply(Reply),
    /// The error promises that the request was not executed.
    NotExecuted(String),
    /// The outcome is unknown: the request may have been executed, or may still be executed.
    Unknown(String),
}

/// A client that reconnects when necessary, and knows which errors promise that the request was not executed.
#[derive(Debug)]
pub(crate) struct Caller {
    port: u16,
    client: Option<Client>,
    /// The first errors that the client received, at most 50.
    pub errors: Vec<String>,
}

impl Caller {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, client: None, errors: Vec::new() }
    }

    pub(crate) fn call(&mut self, args: &[&str]) -> CallResult {
        let result = self.once(args);
        if let CallResult::NotExecuted(why) | CallResult::Unknown(why) = &result {
            if self.errors.len() < 50 {
                self.errors.push(why.clone());
            }
            let_pass(AFTER_ERROR);
        }
        result
    }

    /// Sends requests one after the other, up to the first without a result: then the connection is closed, so that no
    /// transaction stays open, and that result is returned.
    pub(crate) fn calls(&mut self, requests: &[&[&str]]) -> Result<Vec<Reply>, CallResult> {
        let mut replies = Vec::new();
        for args in requests {
            match self.call(args) {
                CallResult::Reply(reply) => replies.push(reply),
                // Nothing before EXEC is executed.
                CallResult::Unknown(why) if args[0] != "EXEC" => {
                    self.client = None;
                    return Err(CallResult::NotExecuted(why));
                }
                result => {
                    self.client = None;
                    return Err(result);
                }
            }
        }
        Ok(replies)
    }

    fn once(&mut self, args: &[&str]) -> CallResult {
        if self.client.is_none() {
            match Client::connect_within(self.port, REPLY_WITHIN) {
                Ok(client) => self.client = Some(client),
                Err(e) => return CallResult::NotExecuted(format!("connect: {e}")),
            }
        }
        let Some(client) = &mut self.client else { return CallResult::NotExecuted("no connection".into()) };
        match client.call(args) {
            Ok(Reply::Error(why))
                if why.contains("not executed") || why.contains("safe to repeat") || why.starts_with("EXECABORT") =>
            {
                CallResult::NotExecuted(why)
            }
            Ok(Reply::Error(why)) => CallResult::Unknown(why),
            Ok(reply) => CallResult::Reply(reply),
            Err(e) => {
                self.client = None;
                CallResult::Unknown(format!("connection: {e}"))
            }
        }
    }
}

/// A violation that a client observed.
#[derive(Clone, Debug)]
struct Wrong {
    what: String,
    /// It is no violation if this key's write, acknowledged at this time, may be lost.
    unless: Option<(String, Instant)>,
}

/// The data that the threads of a workload share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<Wrong>>>,
}

impl Shared {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let_pass(BETWEEN);
    }

    /// Records a violation.
    pub(crate) fn wrong(&self, what: String) {
        self.add(Wrong { what, unless: None });
    }

    /// Records a violation, unless the write of `key` that was acknowledged at `acked` may be lost.
    pub(crate) fn wrong_unless_lost(&self, key: &str, acked: Instant, what: String) {
        self.add(Wrong { what, unless: Some((key.to_owned(), acked)) });
    }

    fn add(&self, wrong: Wrong) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(wrong);
    }
}

/// All workloads at the same time, on every node.
#[derive(Debug)]
pub struct Mix {
    registers: Load,
    counters: Vec<JoinHandle<(counters::Counted, Caller)>>,
    lists: Vec<JoinHandle<(lists::Pushed, Caller)>>,
    sessions: Vec<JoinHandle<Caller>>,
    cold: Cold,
    shared: Shared,
    ports: Vec<u16>,
    _stop: StopOnDrop,
}

/// Stops the clients also if the test fails elsewhere.
#[derive(Debug)]
struct StopOnDrop(Shared);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// What the clients observed, if there is no violation.
#[derive(Clone, Debug, Default)]
pub struct Noticed {
    /// The errors that clients received, with the client port of the node.
    pub errors: Vec<(u16, String)>,
    /// Number of requests that were answered.
    pub answered: u64,
    /// Number of acknowledged list elements that are lost. A failover explains each of them.
    pub lost: usize,
}

impl Mix {
    /// Creates `cold` keys, then starts a client of each workload on each of `ports`.
    #[must_use]
    pub fn start(ports: &[u16], cold: usize) -> Self {
        let cold = Cold::load(ports[0], cold);
        let shared = Shared::default();
        let script = counters::load_script(ports[0]);
        let registers: Vec<String> = (0..KEYS).map(|n| format!("register{n}")).collect();
        Self {
            registers: Load::start(ports, &registers),
            counters: ports
                .iter()
                .enumerate()
                .map(|(n, p)| counters::spawn(Caller::new(*p), shared.clone(), n, script.clone()))
                .collect(),
            lists: ports.iter().enumerate().map(|(n, p)| lists::spawn(Caller::new(*p), shared.clone(), n)).collect(),
            sessions: ports
                .iter()
                .enumerate()
                .map(|(n, p)| sessions::spawn(Caller::new(*p), shared.clone(), n))
                .collect(),
            cold,
            _stop: StopOnDrop(shared.clone()),
            shared,
            ports: ports.to_vec(),
        }
    }

    /// Waits until `more` further requests of the registers, and `more` further requests of the other workloads, have
    /// been answered.
    #[track_caller]
    pub fn wait_more(&self, more: u64) {
        self.registers.wait_more(more);
        let from = self.shared.done.load(Ordering::Relaxed);
        wait_until("requests to be answered", GENEROUS, || self.shared.done.load(Ordering::Relaxed) >= from + more);
    }

    /// Makes the clients stop after their current requests.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.registers.stop();
    }

    /// Stops all clients and runs all checkers: they check the histories, the final values, and that every key is in
    /// exactly one group, the one that owns its slot.
    ///
    /// # Panics
    /// When a checker finds a violation.
    #[track_caller]
    pub fn finish(self, cluster: &Cluster) -> Noticed {
        match self.verdict(cluster) {
            Ok(noticed) => noticed,
            Err(wrong) => panic!("violations:\n{}", wrong.join("\n")),
        }
    }

    /// As [`Mix::finish`], but returns the violations.
    ///
    /// # Errors
    /// Returns the violations, as texts.
    ///
    /// # Panics
    /// When a client has panicked, or the cluster does not answer.
    #[track_caller]
    pub fn verdict(self, cluster: &Cluster) -> Result<Noticed, Vec<String>> {
        self.verdict_after(cluster, &Losses::default())
    }

    /// As [`Mix::verdict`], after failovers that may have lost writes.
    ///
    /// # Errors
    /// Returns the violations, as texts.
    ///
    /// # Panics
    /// When a client has panicked, or the cluster does not answer.
    #[track_caller]
    pub fn verdict_after(self, cluster: &Cluster, losses: &Losses) -> Result<Noticed, Vec<String>> {
        self.stop();
        let mut noticed = Noticed::default();
        let (seen, history): (_, History) = self.registers.finish();
        for (port, seen) in self.ports.iter().zip(seen) {
            noticed.answered += seen.answered;
            noticed.errors.extend(seen.errors.into_iter().map(|e| (*port, e)));
        }
        noticed.answered += self.shared.done.load(Ordering::Relaxed);
        let mut callers = Vec::new();
        let mut counted = Vec::new();
        for (result, caller) in self.counters.into_iter().map(|t| t.join().expect("a client has not panicked")) {
            counted.push(result);
            callers.push(caller);
        }
        let mut pushed = Vec::new();
        for (result, caller) in self.lists.into_iter().map(|t| t.join().expect("a client has not panicked")) {
            pushed.push(result);
            callers.push(caller);
        }
        callers.extend(self.sessions.into_iter().map(|t| t.join().expect("a client has not panicked")));
        for caller in callers {
            noticed.errors.extend(caller.errors.into_iter().map(|e| (caller.port, e)));
        }
        let seen = self.shared.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let explained = |w: &Wrong| w.unless.as_ref().is_some_and(|(key, acked)| losses.explain(key, *acked));
        let mut wrong: Vec<String> = seen.into_iter().filter(|w| !explained(w)).map(|w| w.what).collect();
        if let Err(why) = registers::check(&history, losses) {
            wrong.push(why);
        }
        let mut reader = Reader(self.ports[0]);
        counters::check(&counted, losses, &mut reader, &mut wrong);
        noticed.lost = lists::check(&pushed, losses, &mut reader, &mut wrong);
        self.cold.check(&mut reader, cluster, &mut wrong);
        if wrong.is_empty() { Ok(noticed) } else { Err(wrong) }
    }
}

/// Reads final values through a node.
pub(crate) struct Reader(u16);

impl Reader {
    #[track_caller]
    pub(crate) fn read(&mut self, args: &[&str]) -> Reply {
        wait_for(&format!("{args:?} to be answered"), GENEROUS, || {
            let mut client = Client::connect(self.0).map_err(|e| e.to_string())?;
            match client.call(args) {
                Ok(Reply::Error(why)) => Err(why),
                Ok(reply) => Ok(reply),
                Err(e) => Err(e.to_string()),
            }
        })
    }
}
