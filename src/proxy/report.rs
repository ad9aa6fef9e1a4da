//! What a proxy tells its node: routes reached, holds drained, listeners, counters.
//! Knows nothing of why anybody asks. Locks here are taken on changes, never per request.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::model::ids::{Epoch, HoldId, ProductId};

/// A snapshot of the whole proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyReport {
    /// The epoch that every worker's table has reached.
    pub route_epoch: Epoch,
    /// The holds that every worker's table has.
    pub holds: BTreeMap<HoldId, HoldProgress>,
    /// Listeners by product.
    pub listeners: BTreeMap<ProductId, ListenerReport>,
    /// Connected clients.
    pub clients: usize,
    /// Counters since the start; fresh to about a second.
    pub stats: StatsSnapshot,
}

/// How far a hold is on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldProgress {
    /// Nothing that was sent before the hold is unanswered.
    pub drained: bool,
    /// For people: what is waited for; empty when drained.
    pub waiting_on: String,
}

/// One product's listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerReport {
    /// `host:port` it is bound to, or should be.
    pub address: String,
    /// Why it is not bound; tried again every second.
    pub error: Option<String>,
    /// Something an operator should know, such as "loopback only".
    pub note: Option<String>,
}

/// Counters of all workers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Clients accepted.
    pub accepted: u64,
    /// Requests scanned.
    pub requests: u64,
    /// Requests forwarded to a server, parts of split commands included.
    pub forwarded: u64,
    /// Requests refused by the proxy.
    pub refused: u64,
    /// Requests answered "outcome unknown" or "not delivered".
    pub unknown: u64,
    /// Requests parked under a hold.
    pub parked: u64,
    /// Clients closed for not reading.
    pub slow_clients: u64,
    /// Reads, parts of split ones included, that were sent to replicas.
    pub replica_reads: u64,
    /// Those of them that were sent to the primary after all.
    pub replica_repeats: u64,
}

impl StatsSnapshot {
    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.requests += other.requests;
        self.forwarded += other.forwarded;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.parked += other.parked;
        self.slow_clients += other.slow_clients;
        self.replica_reads += other.replica_reads;
        self.replica_repeats += other.replica_repeats;
    }
}

/// What one worker has to say.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkerStatus {
    pub(super) epoch: Epoch,
    pub(super) holds: BTreeMap<HoldId, HoldProgress>,
    pub(super) stats: StatsSnapshot,
}

/// What the threads of a proxy share.
#[derive(Debug)]
pub(super) struct SharedReport {
    /// Clients of each worker; the acceptor reads it, the worker writes it.
    pub(super) clients: Vec<AtomicUsize>,
    parts: Mutex<WorkerParts>,
    report: watch::Sender<Arc<ProxyReport>>,
}

#[derive(Debug, Default)]
struct WorkerParts {
    workers: Vec<WorkerStatus>,
    listeners: BTreeMap<ProductId, ListenerReport>,
}

impl SharedReport {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            clients: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            parts: Mutex::new(WorkerParts {
                workers: vec![WorkerStatus::default(); workers],
                ..WorkerParts::default()
            }),
            report: watch::Sender::default(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<ProxyReport>> {
        self.report.subscribe()
    }

    pub(super) fn latest(&self) -> Arc<ProxyReport> {
        self.report.borrow().clone()
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn set_worker(&self, index: usize, status: WorkerStatus) {
        let mut parts = self.parts();
        parts.workers[index] = status;
        self.publish(&parts);
    }

    pub(super) fn set_listeners(&self, listeners: BTreeMap<ProductId, ListenerReport>) {
        let mut parts = self.parts();
        parts.listeners = listeners;
        self.publish(&parts);
    }

    fn parts(&self) -> MutexGuard<'_, WorkerParts> {
        // The values are whole even if a thread died while it held the lock.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, parts: &WorkerParts) {
        let report = merge(parts, self.clients());
        self.report.send_if_modified(|old| {
            let changed = **old != report;
            if changed {
                *old = Arc::new(report);
            }
            changed
        });
    }
}

fn merge(parts: &WorkerParts, clients: usize) -> ProxyReport {
    let mut report = ProxyReport { listeners: parts.listeners.clone(), clients, ..ProxyReport::default() };
    report.route_epoch = parts.workers.iter().map(|w| w.epoch).min().unwrap_or_default();
    for worker in &parts.workers {
        report.stats.add(&worker.stats);
    }
    let Some((first, others)) = parts.workers.split_first() else { return report };
    for (id, progress) in &first.holds {
        let mut merged = progress.clone();
        let everywhere = others.iter().all(|worker| match worker.holds.get(id) {
            None => false,
            Some(other) => {
                if !other.drained {
                    merged = other.clone();
                }
                true
            }
        });
        if everywhere {
            report.holds.insert(*id, merged);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_counts_when_every_worker_has_it() {
        let shared = SharedReport::new(2);
        let status = |epoch, hold, drained| WorkerStatus {
            epoch: Epoch(epoch),
            holds: BTreeMap::from([(HoldId(hold), HoldProgress { drained, waiting_on: String::new() })]),
            stats: StatsSnapshot::default(),
        };
        shared.set_worker(0, status(7, 7, true));
        assert_eq!(shared.latest().route_epoch, Epoch(0));
        assert!(shared.latest().holds.is_empty());
        shared.set_worker(1, status(8, 7, false));
        assert_eq!(shared.latest().route_epoch, Epoch(7));
        assert!(!shared.latest().holds[&HoldId(7)].drained);
        shared.set_worker(1, status(8, 7, true));
        assert!(shared.latest().holds[&HoldId(7)].drained);
    }
}
