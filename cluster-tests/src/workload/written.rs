//! Writes of new keys, one after the other, with the time of each acknowledgement. After a failover that may lose
//! writes, this workload measures how many are lost, and from what time. Knows nothing of faults.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{CallResult, Caller, Reader};
use crate::{
    client::Reply,
    wait::{GENEROUS, let_pass, wait_for},
};

/// The pause between two writes of a client.
const BETWEEN: Duration = Duration::from_millis(1);
/// Number of keys per MGET at the end.
const AT_ONCE: usize = 200;

/// One write and its result.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key, which no other write has. The value is the key itself.
    pub key: String,
    /// The client port of the node.
    pub port: u16,
    /// The time of the reply.
    pub at: Instant,
    /// The error, or `None` if the write was acknowledged.
    pub error: Option<String>,
}

/// The writing clients.
#[derive(Debug)]
pub struct Written {
    stop: Arc<AtomicBool>,
    all: Arc<Mutex<Vec<Write>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Written {
    /// Starts a client on each of `ports`. The keys begin with `name`.
    #[must_use]
    pub fn start(ports: &[u16], name: &str) -> Self {
        let (stop, all) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let clients = ports.iter().enumerate().map(|(c, port)| {
            let (stop, all, name, port) = (stop.clone(), all.clone(), name.to_owned(), *port);
            std::thread::spawn(move || {
                let mut caller = Caller::new(port);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{name}:{c}:{n}");
                    let error = match caller.call(&["SET", &key, &key]) {
                        CallResult::Reply(Reply::Simple(_)) => None,
                        CallResult::Reply(other) => Some(format!("answered {other:?}")),
                        CallResult::NotExecuted(why) | CallResult::Unknown(why) => Some(why),
                    };
                    let mut all: std::sync::MutexGuard<'_, Vec<Write>> =
                        all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(Write { key, port, at: Instant::now(), error });
                    drop(all);
                    let_pass(BETWEEN);
                }
            })
        });
        let clients = clients.collect();
        Self { stop, all, clients }
    }

    /// Returns all writes so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Write> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a `wanted` write is acknowledged that was answered after this call. Returns the time of its reply.
    #[track_caller]
    pub fn wait_acknowledged(&self, wanted: impl Fn(&Write) -> bool) -> Instant {
        let now = Instant::now();
        wait_for("a write to be acknowledged", GENEROUS, || {
            let all = self.so_far();
            let since = || all.iter().filter(|w| w.at > now && wanted(w));
            match since().find(|w| w.error.is_none()) {
                Some(write) => Ok(write.at),
                None => Err(format!("{} writes failed, the last: {:?}", since().count(), since().last())),
            }
        })
    }

    /// Stops the clients and reads all keys through the node at `port`. Returns all writes, and the acknowledged writes
    /// that are lost.
    ///
    /// # Panics
    /// When a client has panicked, or the node does not answer.
    #[track_caller]
    pub fn finish(mut self, port: u16) -> (Vec<Write>, Vec<Write>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client has not panicked");
        }
        let all = self.so_far();
        let acknowledged: Vec<&Write> = all.iter().filter(|w| w.error.is_none()).collect();
        let mut lost = Vec::new();
        let mut reader = Reader(port);
        for part in acknowledged.chunks(AT_ONCE) {
            let mut args = vec!["MGET"];
            args.extend(part.iter().map(|w| w.key.as_str()));
            let Reply::Array(values) = reader.read(&args) else { panic!("MGET is not answered with an array") };
            assert_eq!(values.len(), part.len());
            let missing = part.iter().zip(values).filter(|(write, value)| *value != Reply::bulk(&write.key));
            lost.extend(missing.map(|(write, _)| (*write).clone()));
        }
        (all, lost)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
