//! Derives the workers' route table from the applied state after every routing entry.
//! Knows nothing of workers, which watch the table.

use std::sync::Arc;

use tokio::sync::watch;

use super::tasks::Tasks;
use crate::model::{route::RouteTable, state::ClusterState};

/// Starts the task that derives a new table whenever a routing entry was applied. It ends with the state's sender.
#[must_use]
pub fn publish(tasks: &Tasks, mut state: watch::Receiver<Arc<ClusterState>>) -> watch::Receiver<Arc<RouteTable>> {
    let mut routed = state.borrow_and_update().clone();
    let (routes, watched) = watch::channel(Arc::new(RouteTable::derive(&routed)));
    tasks.spawn("route-tables", async move {
        while state.changed().await.is_ok() {
            let newest = state.borrow_and_update().clone();
            let before = routes.borrow().clone();
            if newest.route_epoch != before.epoch {
                // Workers keep the backend sets of the products that both tables share.
                routes.send_replace(Arc::new(RouteTable::derive_from(&newest, &routed, &before)));
                routed = newest;
            }
        }
    });
    watched
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        apply::apply,
        change::{Bootstrap, Change, NewMember, NewProduct},
        ids::{Epoch, HostPort, NodeId, ProductId, Term, Uuid},
        route::{Isolated, Mode},
        slot::Layout,
        state::{Entry, Position},
    };

    fn change(state: &mut ClusterState, index: u64, change: Change) {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, author: Default::default(), change };
        apply(state, &entry, Position { index: Epoch(index), term: Term(1) }).unwrap();
    }

    #[tokio::test]
    async fn a_new_table_shares_the_products_that_did_not_change() {
        let member = NewMember {
            id: NodeId(1),
            uuid: Uuid(1),
            admin: HostPort::parse("127.0.0.1:19101").unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: 0,
        };
        let mut state = ClusterState::default();
        change(&mut state, 1, Change::Bootstrap(Bootstrap { members: vec![member], port: 19_000 }));
        let (applied, watched) = watch::channel(Arc::new(state.clone()));
        let (tasks, _ends) = Tasks::new();
        let mut tables = publish(&tasks, watched);
        let first = tables.borrow_and_update().clone();
        let second = NewProduct {
            name: "second".into(),
            port: 19_010,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: 16,
            auth: None,
        };
        change(&mut state, 2, Change::CreateProduct(second));
        applied.send_replace(Arc::new(state));
        tables.changed().await.unwrap();
        let newest = tables.borrow().clone();
        assert_eq!((newest.epoch, newest.products.len()), (Epoch(2), 2));
        assert!(Arc::ptr_eq(&newest.products[&ProductId(1)], &first.products[&ProductId(1)]));
    }
}
