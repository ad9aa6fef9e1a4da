//! proto/admin.proto as a tonic service: each call goes to the file of its noun; changes go through [`Api::change`].
//! Knows nothing of HTTP or of the secret; server.rs adds both.

use tonic::{Request, Response, Status};

use super::{Api, change::product, show};
use crate::wire::pb::admin::{
    AddServerRequest, AssignSlotsRequest, CancelMigrationRequest, ChangeReply, ChangeScriptsRequest, ClientsReply,
    CreateGroupRequest, CreateProductRequest, DrainGroupRequest, KillClientsRequest, ListClientsRequest,
    ListEventsReply, ListEventsRequest, ListGroupsReply, ListGroupsRequest, ListMigrationsReply, ListMigrationsRequest,
    ListNodesReply, ListNodesRequest, ListProductsReply, ListProductsRequest, ListSlotsReply, ListSlotsRequest,
    LocateKeyReply, LocateKeyRequest, NoteNodeLogRequest, NoteNodeRequest, PauseMigrationRequest, PromoteRequest,
    RebalanceRequest, ReleaseSlotsRequest, RemoveGroupRequest, RemoveNodeRequest, RemoveProductRequest,
    RemoveServerRequest, ResumeMigrationRequest, SetClusterRequest, SetGroupRequest, SetMigrationRequest,
    SetNodeLogReply, SetNodeLogRequest, SetNodeRoleRequest, SetProductRequest, SetServerRequest, ShowClusterReply,
    ShowClusterRequest, ShowGroupReply, ShowGroupRequest, StartMigrationRequest, StatusReply, StatusRequest,
    admin_server::Admin,
};

type Changed = Result<Response<ChangeReply>, Status>;

#[tonic::async_trait]
impl Admin for Api {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.full_status(&request).await))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesReply>, Status> {
        let nodes = self.full_status(&request).await.nodes;
        Ok(Response::new(ListNodesReply { nodes }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsReply>, Status> {
        Ok(Response::new(ListProductsReply { products: self.products(&request).await }))
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

    async fn set_node_log(&self, request: Request<SetNodeLogRequest>) -> Result<Response<SetNodeLogReply>, Status> {
        self.set_log(request).await
    }

    async fn note_node_log(&self, request: Request<NoteNodeLogRequest>) -> Changed {
        self.change(request).await
    }

    async fn list_clients(&self, request: Request<ListClientsRequest>) -> Result<Response<ClientsReply>, Status> {
        self.clients(request).await
    }

    async fn kill_clients(&self, request: Request<KillClientsRequest>) -> Result<Response<ClientsReply>, Status> {
        self.kill(request).await
    }

    async fn note_node(&self, request: Request<NoteNodeRequest>) -> Changed {
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

    async fn change_scripts(&self, request: Request<ChangeScriptsRequest>) -> Changed {
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

    async fn release_slots(&self, request: Request<ReleaseSlotsRequest>) -> Changed {
        self.change(request).await
    }

    async fn show_cluster(&self, _: Request<ShowClusterRequest>) -> Result<Response<ShowClusterReply>, Status> {
        let settings = &self.state().settings;
        Ok(Response::new(ShowClusterReply {
            voters: settings.voters.into(),
            hold_max_ms: settings.hold_ms_max,
            maintenance: settings.maintenance,
            failover_share_max_percent: settings.failover_share_max.into(),
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
