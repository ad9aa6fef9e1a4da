//! What a proxy reports to its node: route epoch, progress of holds, listeners, counters.
//! Locks here are taken on changes, never per request. Knows nothing of what the node does with the report.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    clients::{Clients, ProductClients},
    counters::StatsSnapshot,
    failed_logins::{FailedLogins, FailedLoginsLine},
    memory::MemoryBudget,
    server_asks::{ServerAsk, ServerAsks},
    usage::Usage,
};
use crate::model::ids::{Epoch, HoldId, HostPort, ProductId};

/// Digits of a run id.
const RUN_ID_LEN: usize = 40;

/// A snapshot of the state of the whole proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyReport {
    /// The route epoch that the tables of all workers have reached.
    pub route_epoch: Epoch,
    /// The holds that are in the tables of all workers.
    pub holds: BTreeMap<HoldId, HoldProgress>,
    /// Listeners by product.
    pub listeners: BTreeMap<ProductId, ListenerReport>,
    /// Connected clients.
    pub clients: usize,
    /// Clients whose call blocks; at most about one second old.
    pub blocked: usize,
    /// Clients by product, of every product that had one.
    pub product_clients: BTreeMap<ProductId, ProductClients>,
    /// Bytes that all buffers hold, small ones not counted; at most about one second old.
    pub memory_used: usize,
    /// Bytes that all buffers may hold.
    pub memory_max: usize,
    /// Counters since the start; at most about one second old.
    pub stats: StatsSnapshot,
}

/// The progress of a hold on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldProgress {
    /// Nothing that was sent before the hold is unanswered.
    pub drained: bool,
    /// What the hold waits for, as text for the operator; empty if drained.
    pub waiting_on: String,
}

/// The listener of one product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerReport {
    /// `host:port` that it is bound to or should be bound to.
    pub address: String,
    /// Why it is not bound. Binding is retried every second.
    pub error: Option<String>,
    /// A note for the operator, such as "loopback only".
    pub note: Option<String>,
}

/// The report of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkerStatus {
    pub(super) epoch: Epoch,
    pub(super) holds: BTreeMap<HoldId, HoldProgress>,
    pub(super) stats: StatsSnapshot,
    /// Clients that logged in with the former password, of the products that have one.
    pub(super) former_logins: BTreeMap<ProductId, usize>,
    /// Clients whose call blocks.
    pub(super) blocked: usize,
}

/// The report that the threads of a proxy share.
#[derive(Debug)]
pub(super) struct SharedReport {
    pub(super) clients: Arc<Clients>,
    pub(super) usage: Usage,
    /// When the proxy started.
    pub(super) started: Instant,
    /// What names this start, as in Redis: 40 hexadecimal digits.
    pub(super) run_id: String,
    memory: Arc<MemoryBudget>,
    failed_logins: Mutex<FailedLogins>,
    server_asks: Mutex<ServerAsks>,
    parts: Mutex<WorkerParts>,
    report: watch::Sender<Arc<ProxyReport>>,
}

#[derive(Debug, Default)]
struct WorkerParts {
    workers: Vec<WorkerStatus>,
    listeners: BTreeMap<ProductId, ListenerReport>,
}

impl SharedReport {
    pub(super) fn new(workers: usize, memory: Arc<MemoryBudget>) -> Self {
        Self {
            clients: Arc::new(Clients::new(workers)),
            usage: Usage::default(),
            started: Instant::now(),
            run_id: (0..RUN_ID_LEN).map(|_| fastrand::digit(16)).collect(),
            memory,
            failed_logins: Mutex::default(),
            server_asks: Mutex::default(),
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

    /// Counts a failed login, and says so in the log if nothing was said about its address in the last minute.
    pub(super) fn note_failed_login(&self, product: (ProductId, &str), ip: IpAddr) {
        self.clients.count_failed_login(product.0);
        let line = self.failed_logins().note(product, ip, Instant::now());
        if let Some(line) = line {
            line.log();
        }
    }

    /// Records that a client has sent a command to one server, and says so in the log if nothing was said about its product
    /// for a while. Its arguments are not written.
    pub(super) fn note_server_command(
        &self,
        (id, product): (ProductId, &str),
        client: IpAddr,
        server: &HostPort,
        command: &[Vec<u8>],
    ) -> Option<ServerAsk> {
        // The values are consistent even if a thread panicked while it held the lock.
        let count = self.server_asks.lock().unwrap_or_else(PoisonError::into_inner).note(id, Instant::now())?;
        let command =
            command.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default();
        tracing::info!(product, %client, %server, command, commands = count, "clients ask single servers (PONTOON ON)");
        Some(ServerAsk { product: product.to_owned(), client, server: server.clone(), command, count })
    }

    /// Forgets the products for which `stays` is false.
    pub(super) fn retain_products(&self, stays: impl Fn(ProductId) -> bool) {
        self.usage.retain(&stays);
        self.server_asks.lock().unwrap_or_else(PoisonError::into_inner).retain(&stays);
    }

    /// Writes the lines about failed logins that are due.
    pub(super) fn log_failed_logins(&self) {
        let lines = self.failed_logins().due(Instant::now());
        lines.iter().for_each(FailedLoginsLine::log);
    }

    fn failed_logins(&self) -> MutexGuard<'_, FailedLogins> {
        // The values are consistent even if a thread panicked while it held the lock.
        self.failed_logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, WorkerParts> {
        // The values are consistent even if a thread panicked while it held the lock.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, parts: &WorkerParts) {
        let mut report = merge(parts, &self.clients);
        (report.memory_used, report.memory_max) = (self.memory.used(), self.memory.max());
        self.report.send_if_modified(|old| {
            let changed = **old != report;
            if changed {
                *old = Arc::new(report);
            }
            changed
        });
    }
}

fn merge(parts: &WorkerParts, clients: &Clients) -> ProxyReport {
    let mut report = ProxyReport {
        listeners: parts.listeners.clone(),
        clients: clients.connected(),
        product_clients: clients.by_product(),
        ..ProxyReport::default()
    };
    report.route_epoch = parts.workers.iter().map(|w| w.epoch).min().unwrap_or_default();
    for worker in &parts.workers {
        report.stats.add(&worker.stats);
        report.blocked += worker.blocked;
        for (id, former) in &worker.former_logins {
            if let Some(of) = report.product_clients.get_mut(id) {
                of.former_logins += former;
            }
        }
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
    fn a_hold_is_reported_when_all_workers_have_it() {
        let shared = SharedReport::new(2, Arc::new(MemoryBudget::new(1 << 20)));
        let status = |epoch, hold, drained| WorkerStatus {
            epoch: Epoch(epoch),
            holds: BTreeMap::from([(HoldId(hold), HoldProgress { drained, waiting_on: String::new() })]),
            ..WorkerStatus::default()
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
