//! A fake node: gives the answers that a test wants, and records the options of changes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, sync::watch};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataValue,
    transport::{
        Server,
        server::{TcpConnectInfo, TcpIncoming},
    },
};

use super::json;
use crate::wire::{
    OUTCOME,
    pb::admin::{
        admin_server::{Admin, AdminServer},
        *,
    },
};

/// One answer.
#[derive(Clone, Debug)]
pub enum FakeAnswer {
    /// Success.
    Done,
    /// A status, with an outcome in its metadata, if any.
    Status(Code, &'static str, Option<&'static str>),
    /// No answer at all.
    Silence,
}

#[derive(Debug, Default)]
struct Script {
    answers: VecDeque<FakeAnswer>,
    asked: Vec<ChangeOptions>,
}

/// The node. It runs until the runtime ends, also after a drop.
#[derive(Clone, Debug)]
pub struct Fake {
    /// Where it listens.
    pub address: String,
    script: Arc<Mutex<Script>>,
    /// Its replies have something in every field; else they are empty.
    samples: bool,
    // Never sent: silent calls wait for it.
    end: Arc<watch::Sender<()>>,
}

impl Fake {
    /// Answers with these, in order; the last one again and again.
    pub async fn start(answers: &[FakeAnswer]) -> Self {
        Self::serve(answers, false).await
    }

    /// As [`Fake::start`], with replies that have something in every field.
    pub async fn with_samples(answers: &[FakeAnswer]) -> Self {
        Self::serve(answers, true).await
    }

    async fn serve(answers: &[FakeAnswer], samples: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Script { answers: answers.iter().cloned().collect(), asked: Vec::new() };
        let (script, end) = (Arc::new(Mutex::new(script)), Arc::new(watch::channel(()).0));
        let fake = Self { address, script, samples, end };
        let server = Server::builder().add_service(AdminServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        fake
    }

    /// The options of all changes so far.
    pub fn asked(&self) -> Vec<ChangeOptions> {
        self.script.lock().unwrap().asked.clone()
    }

    async fn answer(&self, options: Option<ChangeOptions>) -> Result<(), Status> {
        let answer = {
            let mut script = self.script.lock().unwrap();
            script.asked.extend(options);
            let answer = script.answers.front().cloned().unwrap();
            if script.answers.len() > 1 {
                script.answers.pop_front();
            }
            answer
        };
        match answer {
            FakeAnswer::Done => Ok(()),
            FakeAnswer::Status(code, text, outcome) => {
                let mut status = Status::new(code, text);
                if let Some(outcome) = outcome {
                    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static(outcome));
                }
                Err(status)
            }
            FakeAnswer::Silence => {
                let _ = self.end.subscribe().changed().await;
                Err(Status::aborted("the test is over"))
            }
        }
    }
}

/// A reply with something in every field.
trait Sample {
    fn sample() -> Self;
}

macro_rules! samples {
    ($($reply:ident: $sample:expr;)*) => { $(impl Sample for $reply { fn sample() -> Self { $sample } })* };
}

samples! {
    StatusReply: json::status();
    ListNodesReply: ListNodesReply { nodes: vec![Node { id: 3, ..json::node() }] };
    SetNodeLogReply: json::levels();
    ClientsReply: json::clients();
    ListProductsReply: ListProductsReply { products: vec![json::product()] };
    ListGroupsReply: ListGroupsReply {
        groups: vec![Group { maintenance: true, ..json::group() }],
        not_observed_because: Some("no leader is known".into()),
    };
    ShowGroupReply: json::shown_group();
    ListSlotsReply: ListSlotsReply { ranges: json::ranges(), in_progress: vec!["migration 17".into()] };
    LocateKeyReply: json::located();
    ShowClusterReply: json::settings();
    ListMigrationsReply: ListMigrationsReply { migrations: vec![json::migration()], not_observed_because: None };
    ListEventsReply: ListEventsReply { events: json::events() };
    ChangeReply: json::change();
}

macro_rules! calls {
    ($($rpc:ident($request:ident) -> $reply:ident $(, $options:ident)? $(= $dry_run:ident)?;)*) => {
        #[tonic::async_trait]
        impl Admin for Fake {
            $(async fn $rpc(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                // A call that came over TCP, and no other way.
                assert!(request.extensions().get::<TcpConnectInfo>().is_some());
                let options = None $(.or(request.get_ref().$options.clone()))?
                    $(.or(Some(ChangeOptions { dry_run: request.get_ref().$dry_run, ..ChangeOptions::default() })))?;
                self.answer(options).await?;
                Ok(Response::new(if self.samples { $reply::sample() } else { $reply::default() }))
            })*
        }
    };
}

calls! {
    status(StatusRequest) -> StatusReply;
    list_nodes(ListNodesRequest) -> ListNodesReply;
    remove_node(RemoveNodeRequest) -> ChangeReply, options;
    set_node_role(SetNodeRoleRequest) -> ChangeReply, options;
    set_node_log(SetNodeLogRequest) -> SetNodeLogReply = dry_run;
    note_node_log(NoteNodeLogRequest) -> ChangeReply, options;
    list_clients(ListClientsRequest) -> ClientsReply;
    kill_clients(KillClientsRequest) -> ClientsReply = dry_run;
    note_node(NoteNodeRequest) -> ChangeReply, options;
    list_products(ListProductsRequest) -> ListProductsReply;
    create_product(CreateProductRequest) -> ChangeReply, options;
    set_product(SetProductRequest) -> ChangeReply, options;
    remove_product(RemoveProductRequest) -> ChangeReply, options;
    change_scripts(ChangeScriptsRequest) -> ChangeReply, options;
    list_groups(ListGroupsRequest) -> ListGroupsReply;
    show_group(ShowGroupRequest) -> ShowGroupReply;
    promote(PromoteRequest) -> ChangeReply, options;
    set_group(SetGroupRequest) -> ChangeReply, options;
    set_server(SetServerRequest) -> ChangeReply, options;
    create_group(CreateGroupRequest) -> ChangeReply, options;
    add_server(AddServerRequest) -> ChangeReply, options;
    remove_server(RemoveServerRequest) -> ChangeReply, options;
    remove_group(RemoveGroupRequest) -> ChangeReply, options;
    list_slots(ListSlotsRequest) -> ListSlotsReply;
    assign_slots(AssignSlotsRequest) -> ChangeReply, options;
    release_slots(ReleaseSlotsRequest) -> ChangeReply, options;
    locate_key(LocateKeyRequest) -> LocateKeyReply;
    show_cluster(ShowClusterRequest) -> ShowClusterReply;
    rebalance(RebalanceRequest) -> ChangeReply, options;
    drain_group(DrainGroupRequest) -> ChangeReply, options;
    start_migration(StartMigrationRequest) -> ChangeReply, options;
    list_migrations(ListMigrationsRequest) -> ListMigrationsReply;
    cancel_migration(CancelMigrationRequest) -> ChangeReply, options;
    pause_migration(PauseMigrationRequest) -> ChangeReply, options;
    resume_migration(ResumeMigrationRequest) -> ChangeReply, options;
    set_migration(SetMigrationRequest) -> ChangeReply, options;
    list_events(ListEventsRequest) -> ListEventsReply;
    set_cluster(SetClusterRequest) -> ChangeReply, options;
}
