//! Publishes to the workers which replicas may serve reads, whenever this node has probed a server or the log has
//! changed. Decides nothing: `plan::reads` does.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{probe::prober::Prober, tasks::Tasks};
use crate::{
    clock::boottime_ns,
    model::{
        reads::{ReadFrom, ReadTable},
        state::ClusterState,
    },
};

/// Probes that end within this time are processed together: with 200 servers, 400 probes end in a second.
const EVERY: Duration = Duration::from_millis(10);

/// Starts the task. It ends with the state's sender.
#[must_use]
pub fn publish(
    tasks: &Tasks,
    prober: Prober,
    mut state: watch::Receiver<Arc<ClusterState>>,
    zone: String,
) -> watch::Receiver<Arc<ReadTable>> {
    let (publisher, watched) = watch::channel(Arc::default());
    let mut probed = prober.probed();
    tasks.spawn("read-tables", async move {
        loop {
            probed.borrow_and_update();
            let newest = state.borrow_and_update().clone();
            // Where no product reads from replicas, no worker is woken.
            let wanted = newest.products.values().any(|product| product.reads.from != ReadFrom::Primary);
            let table = if wanted { prober.readable(&newest, boottime_ns(), &zone) } else { ReadTable::default() };
            drop(newest);
            publisher.send_if_modified(|before: &mut Arc<ReadTable>| {
                let changed = **before != table;
                if changed {
                    *before = Arc::new(table);
                }
                changed
            });
            sleep(EVERY).await;
            tokio::select! {
                changed = probed.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    });
    watched
}
