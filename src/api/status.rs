//! Answers with the status of the cluster and the products' listeners: this node's own knowledge, and the leader's.

use tonic::Request;

use super::{Api, forward, leader::ASK_LEADER_MAX, show};
use crate::{
    clock::boottime_ns,
    wire::pb::admin::{ListProductsRequest, Node, NodeState, Product, StatusReply, StatusRequest},
};

impl Api {
    /// The status as this node sees it, with what only the leader knows if the leader can be asked.
    pub(super) async fn full_status<T>(&self, request: &Request<T>) -> StatusReply {
        let mut own = self.own_status();
        let ask = |mut client: forward::Client| async move {
            client.status(forward::forwarded(StatusRequest {}, ASK_LEADER_MAX)).await
        };
        match self.ask_leader(forward::was_forwarded(request), ask).await {
            None => {}
            Some(Ok(leaders)) => {
                show::overlay(&mut own.nodes, &leaders.nodes);
                own.waiting_on = leaders.waiting_on;
                own.warnings = leaders.warnings;
            }
            Some(Err(why)) => own.warnings.push(why),
        }
        own
    }

    /// What this node knows without asking; the live fields too if it leads.
    fn own_status(&self) -> StatusReply {
        let state = self.state();
        let leadership = self.control.log.leadership().borrow().clone();
        let view = self.control.view.borrow().clone();
        let now = boottime_ns();
        let mut nodes: Vec<Node> = state.members.values().map(|member| show::node(member, &leadership)).collect();
        let mut warnings = show::warnings(&state, &leadership);
        if view.term.is_some() {
            for node in &mut nodes {
                show::live(node, &self.control, &view, now);
                if node.state() == NodeState::Silent {
                    let heartbeat = match node.heartbeat_age_ms {
                        Some(age_ms) => format!("its last heartbeat was {} s ago", age_ms / 1000),
                        None => "this leader has had no heartbeat from it".into(),
                    };
                    warnings.push(format!("node {} ({}) is not alive: {heartbeat}", node.id, node.admin));
                }
            }
            warnings.extend(self.servers_down());
            warnings.extend(self.primaries_impaired());
        }
        StatusReply {
            cluster_id: self.control.log.cluster_id().map(|id| id.to_string()),
            leader: leadership.leader.map(|id| id.0),
            term: leadership.term.0,
            answered_by: self.control.me.0,
            applied: state.applied.0,
            route_epoch: state.route_epoch.0,
            nodes,
            product_count: u32::try_from(state.products.len()).unwrap_or(u32::MAX),
            waiting_on: view.waiting_on.clone(),
            warnings,
        }
    }

    /// The products, sorted by name, with their listeners as reported to the leader.
    pub(super) async fn products(&self, request: &Request<ListProductsRequest>) -> Vec<Product> {
        let (state, view) = (self.state(), self.control.view.borrow().clone());
        let now = boottime_ns();
        let mut products: Vec<_> = state
            .products
            .values()
            .map(|product| {
                let mut shown = show::product(product);
                shown.listeners = show::listeners(product, &state, &view, |seen| self.control.alive(seen, now));
                shown
            })
            .collect();
        products.sort_by(|a, b| a.name.cmp(&b.name));
        let ask = |mut client: forward::Client| async move {
            client.list_products(forward::forwarded(ListProductsRequest {}, ASK_LEADER_MAX)).await
        };
        if let Some(Ok(leaders)) = self.ask_leader(forward::was_forwarded(request), ask).await {
            for product in &mut products {
                if let Some(seen) = leaders.products.iter().find(|seen| seen.id == product.id) {
                    product.listeners.clone_from(&seen.listeners);
                }
            }
        }
        products
    }
}
