//! Probes the primaries that a worker found to be replicas. Knows nothing of what follows from the probes.

use tokio::sync::mpsc;

use super::prober::Prober;
use crate::model::ids::HostPort;

/// Reports that may wait. Each leads to a probe within a tenth of a second, so one that finds no room says nothing new.
pub const REPORTS_MAX: usize = 64;

/// Runs until the proxy has ended.
pub async fn run(mut reports: mpsc::Receiver<HostPort>, prober: Prober) {
    while let Some(primary) = reports.recv().await {
        if !prober.probe_now(&primary) {
            tracing::debug!(server = %primary, "a server that answers as a replica has left the groups already");
        }
    }
}
