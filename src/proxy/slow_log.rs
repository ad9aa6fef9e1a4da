//! SLOWLOG of a product at one worker: the last requests that took long.
//! Knows nothing of how times are taken.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::shown_call::{Cut, shown};
use crate::commands::Args;

/// How much of a request is kept; the same as in Redis.
const CUT: Cut = Cut { args: 32, bytes: 128 };

/// A request that took long.
#[derive(Clone, Debug)]
pub(super) struct SlowRequest {
    /// Unique for its product on this node.
    pub(super) id: u64,
    /// When its reply arrived.
    pub(super) at: SystemTime,
    pub(super) took: Duration,
    pub(super) args: Vec<Vec<u8>>,
    pub(super) client: SocketAddr,
    /// The name of the client.
    pub(super) name: String,
}

impl SlowRequest {
    /// When its reply arrived, in seconds since 1970.
    pub(super) fn unix_seconds(&self) -> u64 {
        self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// The last requests of a product that took long.
#[derive(Debug, Default)]
pub(super) struct SlowLog {
    entries: RefCell<VecDeque<SlowRequest>>,
    added: Cell<u64>,
}

impl SlowLog {
    /// Adds a request. `place`: the worker and how many there are, so that ids differ between workers.
    /// `max`: how many are kept.
    pub(super) fn add(
        &self,
        (worker, workers): (usize, usize),
        max: usize,
        took: Duration,
        call: &(impl Args + ?Sized),
        (client, name): (SocketAddr, &str),
    ) {
        let n = self.added.get();
        self.added.set(n + 1);
        let mut entries = self.entries.borrow_mut();
        entries.push_front(SlowRequest {
            id: n * workers as u64 + worker as u64,
            at: SystemTime::now(),
            took,
            args: shown(call, CUT).map(|arg| arg.into_owned()).collect(),
            client,
            name: name.to_owned(),
        });
        entries.truncate(max);
    }

    /// Number of requests.
    pub(super) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// The newest requests, up to `max`, newest first.
    pub(super) fn newest(&self, max: usize) -> Vec<SlowRequest> {
        self.entries.borrow().iter().take(max).cloned().collect()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.entries.borrow_mut().clear();
    }
}
