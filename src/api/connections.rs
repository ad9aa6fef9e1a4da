//! The open connections of the admin port, and which of them is closed when there are too many: the one whose last
//! accepted call is the longest ago. One without an accepted call comes first, the oldest of them before the others. So
//! processes without the secret take each other's places, and neither those of nodes and operators nor all file
//! descriptors.
//! Knows nothing of calls; `wire::auth` accepts them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, Receiver, Sender},
    time::Instant,
};
use tracing::warn;

use crate::{counters, wire::connection::CallMark};

/// A warning about too many connections is not repeated sooner: strangers must not fill the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The open connections of a port. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Connections {
    max: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Connections that were ever opened.
    opened: u64,
    /// By number, so oldest first. Dropping the sender asks the connection to close.
    connections: BTreeMap<u64, (CallMark, Sender<()>)>,
    /// Counts the calls of all connections.
    marks: CallMark,
    warned: Option<Instant>,
}

/// The place of one connection. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    /// Marks the accepted calls of the connection.
    pub mark: CallMark,
    asked_to_close: Receiver<()>,
    closes: bool,
    connections: Connections,
}

impl Connections {
    /// None is open. There may be `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, open: Arc::default() }
    }

    /// The place of a connection that was just accepted. If there are too many, another one is asked to close.
    pub fn open(&self) -> Place {
        let mut open = self.lock();
        if open.connections.len() >= self.max {
            open.close_one();
            counters::ADMIN_CONNECTIONS_CLOSED.increment();
            if open.warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                open.warned = Some(Instant::now());
                warn!(
                    max = self.max,
                    "the admin port has too many connections; those without a call that has the secret are closed \
                     first. Find out who opens them"
                );
            }
        }
        open.opened += 1;
        let (number, mark) = (open.opened, open.marks.of_another_connection());
        let (close, asked_to_close) = oneshot::channel();
        open.connections.insert(number, (mark.clone(), close));
        Place { number, mark, asked_to_close, closes: false, connections: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // The values are consistent even if a thread panicked while it held the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Asks one connection to close, and no longer counts it.
    fn close_one(&mut self) {
        let first = self.connections.iter().min_by_key(|(number, (mark, _))| (mark.last_call(), **number));
        if let Some(number) = first.map(|(number, _)| *number) {
            self.connections.remove(&number);
        }
    }
}

impl Place {
    /// Ready when the connection is to close, and from then on.
    pub fn poll_asked_to_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A receiver must not be polled again when it is ready.
        self.closes = self.closes || Pin::new(&mut self.asked_to_close).poll(cx).is_ready();
        if self.closes { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each of these is asked to close.
    fn closing(places: &mut [Place]) -> Vec<bool> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        places.iter_mut().map(|place| place.poll_asked_to_close(&mut cx).is_ready()).collect()
    }

    #[test]
    fn strangers_are_closed_first_and_the_oldest_of_them_before_the_others() {
        let connections = Connections::new(3);
        let mut places = vec![connections.open(), connections.open(), connections.open()];
        places[0].mark.accepted();
        assert_eq!(closing(&mut places), [false; 3]);
        places.push(connections.open());
        assert_eq!(closing(&mut places), [false, true, false, false]);
        places.push(connections.open());
        assert_eq!(closing(&mut places), [false, true, true, false, false]);
    }

    #[test]
    fn without_strangers_the_connection_with_the_oldest_call_is_closed() {
        let connections = Connections::new(2);
        let mut places = vec![connections.open(), connections.open()];
        for n in [0, 1, 0] {
            places[n].mark.accepted();
        }
        places.push(connections.open());
        assert_eq!(closing(&mut places), [false, true, false]);
        // It takes no second place.
        places[2].mark.accepted();
        places.push(connections.open());
        assert_eq!(closing(&mut places), [true, true, false, false]);
    }

    #[test]
    fn a_closed_connection_leaves_its_place() {
        let connections = Connections::new(1);
        for _ in 0..3 {
            drop(connections.open());
        }
        let mut places = vec![connections.open()];
        assert_eq!(closing(&mut places), [false]);
    }
}
