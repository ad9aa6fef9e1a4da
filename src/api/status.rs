//! Answers with the status of the cluster and the products' listeners: this node's own knowledge, and the leader's.
//! A node that finds no leader with a majority behind it says so, and asks the voters which of them answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use tonic::Request;

use super::{Api, forward, leader::ASK_LEADER_MAX, show};
use crate::{
    clock::{boottime_ns, wall_ms},
    consensus::Leadership,
    control::leadership::view::LeaderView,
    model::{ids::NodeId, state::ClusterState},
    plan::health::{self, HealthFacts, Observed, ObservedNode, Quorum},
    wire::pb::admin::{ListProductsRequest, Node, NodeState, Product, ShowClusterRequest, StatusReply, StatusRequest},
};

/// How long the leader waits for a majority. Much longer than a round takes; together with [`VOTER_ANSWER_MAX`] shorter
/// than [`ASK_LEADER_MAX`], so that a node that asks the leader learns that it has no majority.
const CONFIRM_MAX: Duration = Duration::from_millis(1000);
/// How long a voter may take to answer that it is there.
const VOTER_ANSWER_MAX: Duration = Duration::from_millis(700);

impl Api {
    /// The status as this node sees it, with what only the leader knows if the leader can be asked.
    pub(super) async fn full_status<T>(&self, request: &Request<T>) -> StatusReply {
        let forwarded = forward::was_forwarded(request);
        let leadership = self.control.log.leadership().borrow().clone();
        if leadership.leader == Some(self.control.me) {
            let quorum = match self.control.log.confirm_leadership(CONFIRM_MAX).await {
                Ok(_) => Quorum::Confirmed,
                Err(_) => self.without_quorum(&leadership).await,
            };
            return self.own_status(quorum, "this node has just become the leader");
        }
        if forwarded {
            return self.own_status(Quorum::NotAsked, "this node does not lead");
        }
        let ask = |mut client: forward::Client| async move {
            client.status(forward::forwarded(StatusRequest {}, ASK_LEADER_MAX)).await
        };
        let why = match self.ask_leader(forwarded, ask).await {
            Some(Ok(leaders)) if leaders.leader == Some(leaders.answered_by) => {
                let mut own = self.own_status(Quorum::NotAsked, "");
                show::overlay(&mut own.nodes, &leaders.nodes);
                let StatusReply { waiting_on, warnings, health, headline, .. } = leaders;
                return StatusReply { waiting_on, warnings, health, headline, ..own };
            }
            Some(Ok(other)) => {
                format!("node {}, which this node takes for the leader, does not lead", other.answered_by)
            }
            Some(Err(why)) => why,
            None => "no other node was asked".into(),
        };
        self.own_status(self.without_quorum(&leadership).await, &why)
    }

    /// What there is when no leader has proved that a majority is behind it.
    async fn without_quorum(&self, leadership: &Leadership) -> Quorum {
        Quorum::Missing { answering: self.answering_voters(leadership).await, leader: leadership.leader }
    }

    /// The voters that answer at their admin ports now, this node included.
    async fn answering_voters(&self, leadership: &Leadership) -> BTreeSet<NodeId> {
        let state = self.state();
        let mut asking = JoinSet::new();
        for member in leadership.voters.iter().filter_map(|id| state.members.get(id)) {
            if member.id == self.control.me {
                continue;
            }
            let header = self.control.log.header_for(member.id, member.uuid);
            let (id, client) = (member.id, self.leaders.client(member.admin.as_str(), header));
            asking.spawn(async move {
                // Answered by each node itself, so that nobody asks on.
                let request = forward::forwarded(ShowClusterRequest {}, VOTER_ANSWER_MAX);
                let answer = timeout(VOTER_ANSWER_MAX, client.ok()?.show_cluster(request)).await;
                answer.ok()?.ok().map(|_| id)
            });
        }
        let me = leadership.voters.contains(&self.control.me).then_some(self.control.me);
        asking.join_all().await.into_iter().flatten().chain(me).collect()
    }

    /// What this node knows without asking; the live fields too if it leads. `not_observed`: why it may not know what
    /// nodes observe.
    fn own_status(&self, quorum: Quorum, not_observed: &str) -> StatusReply {
        let state = self.state();
        let leadership = self.control.log.leadership().borrow().clone();
        let view = self.control.view.borrow().clone();
        let now = boottime_ns();
        let mut nodes: Vec<Node> = state.members.values().map(|member| show::node(member, &leadership)).collect();
        if view.term.is_some() {
            nodes.iter_mut().for_each(|node| show::live(node, &self.control, &view, now));
        }
        let reports = self.reports();
        let watchers = reports.as_ref().map(|reports| reports.watchers());
        let observed = watchers.as_ref().map(|watchers| {
            let of = |node: &Node| observed_node(node, &state, &view);
            Observed { watchers, nodes: nodes.iter().map(of).collect() }
        });
        let facts = HealthFacts {
            state: &state,
            voters: &voters(&state, &leadership),
            quorum,
            observed: observed.ok_or_else(|| not_observed.to_owned()),
            now_ms: wall_ms(),
        };
        let warnings = health::judge(&facts);
        StatusReply {
            cluster_id: self.control.log.cluster_id().map(|id| id.to_string()),
            leader: leadership.leader.map(|id| id.0),
            term: leadership.term.0,
            answered_by: self.control.me.0,
            applied: state.applied.0,
            route_epoch: state.route_epoch.0,
            nodes,
            product_count: u32::try_from(state.products.len()).unwrap_or(u32::MAX),
            waiting_on: view.waiting_on.iter().map(|wait| wait.text(now)).collect(),
            health: show::severity(health::worst(&warnings)).into(),
            headline: health::headline(&facts, &warnings),
            warnings: warnings.iter().map(show::warning).collect(),
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

/// The voters, with their admin addresses as far as this node has applied them.
fn voters(state: &ClusterState, leadership: &Leadership) -> BTreeMap<NodeId, String> {
    let address = |id: &NodeId| state.members.get(id).map_or_else(|| "?".to_owned(), |member| member.admin.to_string());
    leadership.voters.iter().map(|id| (*id, address(id))).collect()
}

/// A node as the leader knows it, for the judgement. `node` has its live fields.
fn observed_node(node: &Node, state: &ClusterState, view: &LeaderView) -> ObservedNode {
    let seen = view.nodes.get(&NodeId(node.id));
    let failed = seen.into_iter().flat_map(|seen| &seen.listeners).filter(|(_, listener)| !listener.error.is_empty());
    let named = failed.filter_map(|(product, listener)| {
        let name = state.products.get(product)?.name.clone();
        Some((name, listener.address.clone(), listener.error.clone()))
    });
    ObservedNode {
        id: NodeId(node.id),
        admin: node.admin.clone(),
        silent: (node.state() == NodeState::Silent).then_some(node.heartbeat_age_ms),
        failed_listeners: named.collect(),
        secrets: seen.and_then(|seen| seen.secrets.clone()),
    }
}
