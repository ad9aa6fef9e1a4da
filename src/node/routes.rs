//! Derives the workers' route table from the applied state after every routing entry, and publishes the script catalogues.
//! Knows nothing of workers, which watch the table.

use std::sync::Arc;

use tokio::sync::watch;

use super::tasks::Tasks;
use crate::{
    model::{ids::ProductId, route::RouteTable, script::ScriptCatalogue, state::ClusterState},
    proxy::ScriptCatalogues,
};

/// What workers get.
#[derive(Clone, Debug)]
pub struct Published {
    /// The newest route table.
    pub routes: watch::Receiver<Arc<RouteTable>>,
    /// The newest catalogues. Those of an entry are there before the routes of a later one.
    pub catalogues: watch::Receiver<Arc<ScriptCatalogues>>,
}

/// Starts the task that derives a new table whenever a routing entry was applied. It ends with the state's sender.
#[must_use]
pub fn publish(tasks: &Tasks, mut state: watch::Receiver<Arc<ClusterState>>) -> Published {
    let mut routed = state.borrow_and_update().clone();
    let (routes, watched) = watch::channel(Arc::new(RouteTable::derive(&routed)));
    let (scripts, catalogues) = watch::channel(Arc::new(catalogues_of(&routed)));
    tasks.spawn("route-tables", async move {
        while state.changed().await.is_ok() {
            let newest = state.borrow_and_update().clone();
            // A server that the routes name for the first time may lack scripts that were loaded before.
            scripts.send_if_modified(|published| {
                let changed = !are_published(published, &newest);
                if changed {
                    *published = Arc::new(catalogues_of(&newest));
                }
                changed
            });
            let before = routes.borrow().clone();
            if newest.route_epoch != before.epoch {
                // Workers keep the backend sets of the products that both tables share.
                routes.send_replace(Arc::new(RouteTable::derive_from(&newest, &routed, &before)));
                routed = newest;
            }
        }
    });
    Published { routes: watched, catalogues }
}

fn catalogues_of(state: &ClusterState) -> ScriptCatalogues {
    state.products.values().map(|product| (product.id, product.scripts.clone())).collect()
}

/// Whether these are the catalogues of `state`.
fn are_published(published: &ScriptCatalogues, state: &ClusterState) -> bool {
    let same = |(id, catalogue): (&ProductId, &Arc<ScriptCatalogue>)| {
        state.products.get(id).is_some_and(|product| Arc::ptr_eq(&product.scripts, catalogue))
    };
    published.len() == state.products.len() && published.iter().all(same)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        apply::apply,
        change::{Bootstrap, Change, LoadScript, NewMember, NewProduct, SetProduct},
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
        let mut tables = publish(&tasks, watched).routes;
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

    #[tokio::test]
    async fn a_script_is_published_without_a_new_table_and_before_the_next_one() {
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
        let Published { mut routes, mut catalogues } = publish(&tasks, watched);
        routes.borrow_and_update();
        let load = |n: u32| LoadScript { product: ProductId(1), body: format!("return {n}").into() };
        change(&mut state, 2, Change::LoadScript(load(1)));
        applied.send_replace(Arc::new(state.clone()));
        catalogues.changed().await.unwrap();
        assert_eq!(catalogues.borrow_and_update()[&ProductId(1)].scripts().len(), 1);
        assert!(!routes.has_changed().unwrap());
        // Both in one batch: who sees the routes sees the script.
        change(&mut state, 3, Change::LoadScript(load(2)));
        let port = SetProduct { port: Some(19_001), ..unchanged_product() };
        change(&mut state, 4, Change::SetProduct(port));
        applied.send_replace(Arc::new(state));
        routes.changed().await.unwrap();
        assert_eq!(catalogues.borrow()[&ProductId(1)].scripts().len(), 2);
    }

    fn unchanged_product() -> SetProduct {
        SetProduct {
            product: ProductId(1),
            port: None,
            databases: None,
            auth: None,
            auto_rebalance: None,
            min_acks: None,
            min_acks_ms: None,
            reads: Default::default(),
            clients_max: None,
            rules: Default::default(),
        }
    }
}
