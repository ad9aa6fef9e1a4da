//! When a worker last received bytes from each server process: the prober counts this as a sign of life of a server
//! that is too busy to answer probes. Knows nothing of what follows from it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::model::ids::HostPort;

/// Shared by the workers, which write, and the prober, which reads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerActivity {
    /// The connected processes. A process has no entry without a connection.
    processes: Arc<RwLock<BTreeMap<Process, Weak<ProcessActivity>>>>,
}

/// A server process: the address that leads to it, and its run id. The address alone does not identify it: with a TCP
/// proxy in between, a connection may still lead to the former process of an address.
type Process = (HostPort, String);

/// When bytes of one server process last arrived. Each of its connections has a reference.
#[derive(Debug, Default)]
pub struct ProcessActivity {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    received_ns: AtomicU64,
}

impl ServerActivity {
    /// Where a connection that was just made to a process notes what it receives. `run_id`: as the process reported it
    /// over this connection. The lock is taken once for each connection.
    #[must_use]
    pub fn connected(&self, server: &HostPort, run_id: &str) -> Arc<ProcessActivity> {
        // The map is consistent even if a thread panicked while it held the lock.
        let mut processes = self.processes.write().unwrap_or_else(PoisonError::into_inner);
        let known = processes.get(&(server.clone(), run_id.to_owned())).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            processes.retain(|_, activity| activity.strong_count() > 0);
            let activity = Arc::default();
            processes.insert((server.clone(), run_id.to_owned()), Arc::downgrade(&activity));
            activity
        })
    }

    /// When a worker last received bytes from this process, nanoseconds of `CLOCK_BOOTTIME`; `None`: no connection to
    /// it has received any, or the process is not identified (`run_id` is empty).
    #[must_use]
    pub fn received_ns(&self, server: &HostPort, run_id: &str) -> Option<u64> {
        if run_id.is_empty() {
            return None;
        }
        let processes = self.processes.read().unwrap_or_else(PoisonError::into_inner);
        let activity = processes.get(&(server.clone(), run_id.to_owned()))?.upgrade()?;
        Some(activity.received_ns.load(Ordering::Relaxed)).filter(|ns| *ns > 0)
    }
}

impl ProcessActivity {
    /// Notes that bytes have arrived. Workers call it at most once per tick and connection.
    pub fn note(&self, now_ns: u64) {
        self.received_ns.fetch_max(now_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_count_for_the_process_that_sent_them() {
        let activity = ServerActivity::default();
        let (one, two) = (HostPort::parse("127.0.0.1:1").unwrap(), HostPort::parse("127.0.0.1:2").unwrap());
        let first = activity.connected(&one, "run");
        assert_eq!(activity.received_ns(&one, "run"), None, "no bytes yet");
        let second = activity.connected(&one, "run");
        first.note(7);
        second.note(5);
        assert_eq!(activity.received_ns(&one, "run"), Some(7), "the latest of its connections");
        // Another process at the same address, and another address.
        activity.connected(&one, "restarted").note(9);
        assert_eq!((activity.received_ns(&one, "run"), activity.received_ns(&two, "run")), (Some(7), None));
        assert_eq!(activity.received_ns(&one, "restarted"), None, "its connection is closed");
        drop((first, second));
        assert_eq!(activity.received_ns(&one, "run"), None);
        // A process that does not report its run id cannot be told from the one before.
        let unnamed = activity.connected(&one, "");
        unnamed.note(8);
        assert_eq!(activity.received_ns(&one, ""), None);
    }
}
