//! Derives the workers' route table from the applied state after every routing entry.
//! Knows nothing of workers, which watch the table.

use std::sync::Arc;

use tokio::sync::watch;

use super::tasks::Tasks;
use crate::model::{route::RouteTable, state::ClusterState};

/// Starts the task that derives a new table whenever a routing entry was applied. It ends with the state's sender.
#[must_use]
pub fn publish(tasks: &Tasks, mut state: watch::Receiver<Arc<ClusterState>>) -> watch::Receiver<Arc<RouteTable>> {
    let first = RouteTable::derive(&state.borrow_and_update());
    let (routes, watched) = watch::channel(Arc::new(first));
    tasks.spawn("route-tables", async move {
        while state.changed().await.is_ok() {
            let newest = state.borrow_and_update().clone();
            let before = routes.borrow().clone();
            if newest.route_epoch != before.epoch {
                // Products that have not changed are shared with the table before, so that workers keep theirs as they are.
                routes.send_replace(Arc::new(RouteTable::derive_from(&newest, &before)));
            }
        }
    });
    watched
}
