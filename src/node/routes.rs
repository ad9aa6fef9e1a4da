//! Applied state in, route table out: the push that follows every commit.
//! Knows nothing of workers; they watch.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::{route::RouteTable, state::ClusterState};

/// Starts the task that derives a new table whenever a routing entry was applied. It ends with the state's sender.
#[must_use]
pub fn publish(mut state: watch::Receiver<Arc<ClusterState>>) -> watch::Receiver<Arc<RouteTable>> {
    let first = RouteTable::derive(&state.borrow_and_update());
    let (routes, watched) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            let newest = state.borrow_and_update().clone();
            if newest.route_epoch != routes.borrow().epoch {
                let table = RouteTable::derive(&newest);
                routes.send_replace(Arc::new(table));
            }
        }
    });
    watched
}
