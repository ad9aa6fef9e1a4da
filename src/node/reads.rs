//! Which replicas may serve reads, published to the workers whenever this node has probed at a server or the log has changed.
//! Decides nothing: `plan::reads` does.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::probe::prober::Prober;
use crate::{
    clock::boottime_ns,
    model::{
        reads::{ReadFrom, ReadTable},
        state::ClusterState,
    },
};

/// Looks that end together are worked on together: two hundred servers are probed at four hundred times in a second.
const EVERY: Duration = Duration::from_millis(10);

/// Starts the task. It ends with the state's sender or with the last receiver.
#[must_use]
pub fn publish(
    prober: Prober,
    mut state: watch::Receiver<Arc<ClusterState>>,
    zone: String,
) -> watch::Receiver<Arc<ReadTable>> {
    let (tables, watched) = watch::channel(Arc::default());
    let mut probed = prober.probed();
    tokio::spawn(async move {
        loop {
            probed.borrow_and_update();
            let newest = state.borrow_and_update().clone();
            // Where nobody wants it, nobody is woken for it.
            let wanted = newest.products.values().any(|product| product.reads.from != ReadFrom::Primary);
            let table = if wanted { prober.readable(&newest, boottime_ns(), &zone) } else { ReadTable::default() };
            drop(newest);
            tables.send_if_modified(|before: &mut Arc<ReadTable>| {
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
                () = tables.closed() => return,
            }
        }
    });
    watched
}
