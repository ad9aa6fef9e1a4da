//! proto/admin.proto as a tonic service: reads are answered here, changes go to [`Api::change`].
//! Knows nothing of HTTP or of the secret; server.rs puts both around it.

use std::time::Duration;

use tonic::{Request, Response, Status};

use super::{Api, change::product, forward, show};
use crate::{
    clock::boottime_ns,
    wire::pb::admin::{
        AddServerRequest, AssignSlotsRequest, CancelMigrationRequest, ChangeReply, CreateGroupRequest,
        CreateProductRequest, DrainGroupRequest, ListEventsReply, ListEventsRequest, ListGroupsReply,
        ListGroupsRequest, ListMigrationsReply, ListMigrationsRequest, ListNodesReply, ListNodesRequest,
        ListProductsReply, ListProductsRequest, ListSlotsReply, ListSlotsRequest, LocateKeyReply, LocateKeyRequest,
        Node, PauseMigrationRequest, PromoteRequest, RebalanceRequest, RemoveGroupRequest, RemoveNodeRequest,
        RemoveProductRequest, RemoveServerRequest, ResumeMigrationRequest, SetClusterRequest, SetGroupRequest,
        SetMigrationRequest, SetNodeRoleRequest, SetProductRequest, SetServerRequest, ShowClusterReply,
        ShowClusterRequest, ShowGroupReply, ShowGroupRequest, StartMigrationRequest, StatusReply, StatusRequest,
        admin_server::Admin,
    },
};

/// How long a read waits for the leader's part of the answer; without it the reply says so.
const ASK_LEADER: Duration = Duration::from_secs(2);

type Changed = Result<Response<ChangeReply>, Status>;

impl Api {
    /// What this node knows by itself; the live fields if it leads.
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
                if !node.alive && !node.unknown {
                    let heard = match node.heard_ms {
                        0.. => format!("heard of {} s ago", node.heard_ms / 1000),
                        _ => "not heard of since this leader leads".into(),
                    };
                    warnings.push(format!("node {} ({}) is not alive: {heard}", node.id, node.admin));
                }
            }
            warnings.extend(self.servers_down());
        }
        StatusReply {
            cluster_id: self.control.log.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            leader: leadership.leader.map_or(0, |id| id.0),
            term: leadership.term.0,
            answered_by: self.control.me.0,
            applied: state.applied.0,
            route_epoch: state.route_epoch.0,
            nodes,
            products: u32::try_from(state.products.len()).unwrap_or(u32::MAX),
            waiting_on: view.waiting_on.clone(),
            warnings,
        }
    }

    /// Asks the leader, if that is another node and this call has not been forwarded already.
    /// `None`: there is nobody to ask. `Some(Err)`: no answer, in words.
    pub(super) async fn ask_leader<T, F>(
        &self,
        once: bool,
        ask: impl FnOnce(forward::Client) -> F,
    ) -> Option<Result<T, String>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let leadership = self.control.log.leadership().borrow().clone();
        if once || leadership.is_me || leadership.leader == Some(self.control.me) {
            return None;
        }
        let Some((leader, admin)) = leadership.leader.zip(leadership.leader_admin) else {
            return Some(Err("no leader is known, so what nodes report is not known either".into()));
        };
        let answer = async {
            match tokio::time::timeout(ASK_LEADER, ask(self.leaders.client(&admin)?)).await {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("no answer")),
            }
        };
        Some(answer.await.map_err(|status: Status| {
            format!("the leader (node {leader}, {admin}) did not say what nodes report: {}", status.message())
        }))
    }

    /// The leader's answer to the same request, for those who pass it on as it is. `Err`: it is to be answered here; why, in
    /// words, or nothing where this is the node to ask.
    pub(super) async fn answer_of_leader<Q, T, F>(
        &self,
        once: bool,
        request: Q,
        ask: impl FnOnce(forward::Client, Request<Q>) -> F,
    ) -> Result<Response<T>, String>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let request = forward::forwarded(request, ASK_LEADER);
        match self.ask_leader(once, |client| ask(client, request)).await {
            Some(answer) => answer.map(Response::new),
            None => Err(String::new()),
        }
    }

    async fn whole_status(&self, once: bool) -> StatusReply {
        let mut own = self.own_status();
        let ask = |mut client: forward::Client| async move {
            client.status(forward::forwarded(StatusRequest {}, ASK_LEADER)).await
        };
        match self.ask_leader(once, ask).await {
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
}

#[tonic::async_trait]
impl Admin for Api {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.whole_status(forward::was_forwarded(&request)).await))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesReply>, Status> {
        let nodes = self.whole_status(forward::was_forwarded(&request)).await.nodes;
        Ok(Response::new(ListNodesReply { nodes }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsReply>, Status> {
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
            client.list_products(forward::forwarded(ListProductsRequest {}, ASK_LEADER)).await
        };
        if let Some(Ok(leaders)) = self.ask_leader(forward::was_forwarded(&request), ask).await {
            for product in &mut products {
                if let Some(seen) = leaders.products.iter().find(|seen| seen.id == product.id) {
                    product.listeners.clone_from(&seen.listeners);
                }
            }
        }
        Ok(Response::new(ListProductsReply { products }))
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsReply>, Status> {
        self.groups(request).await
    }

    async fn show_group(&self, request: Request<ShowGroupRequest>) -> Result<Response<ShowGroupReply>, Status> {
        self.group(request).await
    }

    async fn list_slots(&self, request: Request<ListSlotsRequest>) -> Result<Response<ListSlotsReply>, Status> {
        let state = self.state();
        let product = product(&state, &request.get_ref().product)?;
        let reply =
            ListSlotsReply { ranges: show::slots(&state, product), in_progress: show::in_progress(&state, product) };
        Ok(Response::new(reply))
    }

    async fn locate_key(&self, request: Request<LocateKeyRequest>) -> Result<Response<LocateKeyReply>, Status> {
        let state = self.state();
        let product = product(&state, &request.get_ref().product)?;
        Ok(Response::new(show::locate(product, &request.get_ref().key)))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Changed {
        self.change(request).await
    }

    async fn set_node_role(&self, request: Request<SetNodeRoleRequest>) -> Changed {
        self.change(request).await
    }

    async fn create_product(&self, request: Request<CreateProductRequest>) -> Changed {
        self.change(request).await
    }

    async fn set_product(&self, request: Request<SetProductRequest>) -> Changed {
        self.change(request).await
    }

    async fn remove_product(&self, request: Request<RemoveProductRequest>) -> Changed {
        self.change(request).await
    }

    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Changed {
        self.change(request).await
    }

    async fn add_server(&self, request: Request<AddServerRequest>) -> Changed {
        self.change(request).await
    }

    async fn remove_server(&self, request: Request<RemoveServerRequest>) -> Changed {
        self.change(request).await
    }

    async fn remove_group(&self, request: Request<RemoveGroupRequest>) -> Changed {
        self.change(request).await
    }

    async fn promote(&self, request: Request<PromoteRequest>) -> Changed {
        self.change(request).await
    }

    async fn set_group(&self, request: Request<SetGroupRequest>) -> Changed {
        self.change(request).await
    }

    async fn set_server(&self, request: Request<SetServerRequest>) -> Changed {
        self.change(request).await
    }

    async fn assign_slots(&self, request: Request<AssignSlotsRequest>) -> Changed {
        self.change(request).await
    }

    async fn show_cluster(&self, _: Request<ShowClusterRequest>) -> Result<Response<ShowClusterReply>, Status> {
        let settings = &self.state().settings;
        Ok(Response::new(ShowClusterReply {
            voters: settings.voters.into(),
            hold_ms_max: settings.hold_ms_max,
            maintenance: settings.maintenance,
            failover_share_max: settings.failover_share_max.into(),
        }))
    }

    async fn rebalance(&self, request: Request<RebalanceRequest>) -> Changed {
        self.change(request).await
    }

    async fn drain_group(&self, request: Request<DrainGroupRequest>) -> Changed {
        self.change(request).await
    }

    async fn start_migration(&self, request: Request<StartMigrationRequest>) -> Changed {
        self.change(request).await
    }

    async fn list_migrations(
        &self,
        request: Request<ListMigrationsRequest>,
    ) -> Result<Response<ListMigrationsReply>, Status> {
        self.migrations(request).await
    }

    async fn cancel_migration(&self, request: Request<CancelMigrationRequest>) -> Changed {
        self.change(request).await
    }

    async fn pause_migration(&self, request: Request<PauseMigrationRequest>) -> Changed {
        self.change(request).await
    }

    async fn resume_migration(&self, request: Request<ResumeMigrationRequest>) -> Changed {
        self.change(request).await
    }

    async fn set_migration(&self, request: Request<SetMigrationRequest>) -> Changed {
        self.change(request).await
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsReply>, Status> {
        self.events(request.get_ref()).await
    }

    async fn set_cluster(&self, request: Request<SetClusterRequest>) -> Changed {
        self.change(request).await
    }
}
