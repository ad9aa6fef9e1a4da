//! The admin API over the real log: one node, in process.

use std::{sync::Arc, time::Duration};

use crate::{admin::Nothing, wait::PATIENCE};
use pontoon::{
    api::server::{Services, serve},
    consensus::{self, Consensus, ConsensusConfig, Timing},
    control::{handle::Control, leadership::view::LeaderView},
    model::{
        change::{Bootstrap, Change, NewMember},
        ids::{HostPort, NodeId, Uuid},
    },
    wire::{
        auth::{ClientAuth, ClusterSecret},
        pb::admin::{self, ChangeOptions, admin_client::AdminClient},
    },
};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Endpoint;

#[tokio::test]
async fn changes_reach_the_log_and_repeats_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let _lock = consensus::lock(&data_dir).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let me = NewMember {
        id: NodeId(1),
        uuid: consensus::identity(&data_dir).unwrap(),
        admin: HostPort::parse(&addr).unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let timing = Timing {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
    };
    let secret = ClusterSecret::none();
    let config = ConsensusConfig { me: me.clone(), data_dir, secret: secret.clone(), source: None, timing };
    let log = Consensus::open(config).await.unwrap();
    log.initialize(Uuid(42), vec![me.clone()]).await.unwrap();
    let mut leadership = log.leadership();
    tokio::time::timeout(PATIENCE, leadership.wait_for(|who| who.is_me)).await.unwrap().unwrap();
    let bootstrap = Change::Bootstrap(Bootstrap { members: vec![me], port: 7000 });
    log.propose(Uuid(1), bootstrap, PATIENCE).await.unwrap().result.unwrap();

    let (_view, view) = watch::channel(Arc::new(LeaderView::default()));
    let control = Control { log: Arc::new(log.clone()), me: NodeId(1), view, lease: Duration::from_secs(3) };
    let services = Services {
        control,
        raft: log.service(),
        node: Nothing::<1>,
        secret: secret.clone(),
        refused: Default::default(),
        hosts: Default::default(),
        source: None,
        leased: Arc::new(|| false),
        report: tokio::sync::watch::channel(Arc::default()).1,
        clients: Default::default(),
        clients_max: 50_000,
        connections_max: 500,
    };
    let (stop, mut stopped) = watch::channel(false);
    let until = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let serving = tokio::spawn(serve(listener, services, until));

    let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
    let mut client = AdminClient::with_interceptor(channel, ClientAuth(secret));
    let request = admin::CreateProductRequest {
        name: "shop".into(),
        port: 7600,
        options: Some(ChangeOptions { change_id: vec![3; 16].into(), ..Default::default() }),
        ..Default::default()
    };
    let first = client.create_product(request.clone()).await.unwrap().into_inner();
    let again = client.create_product(request.clone()).await.unwrap().into_inner();
    assert!(first.index > 0 && again.index == first.index, "{first:?} {again:?}");
    let reused = client.create_product(admin::CreateProductRequest { port: 7601, ..request }).await.unwrap_err();
    assert_eq!(reused.code(), tonic::Code::FailedPrecondition, "{reused:?}");
    let status = client.status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.leader, status.product_count, status.nodes.len()), (Some(1), 2, 1));
    assert_eq!(status.cluster_id, Some(Uuid(42).to_string()));

    // Shutdown ends the server although the client's connection is open.
    stop.send_replace(true);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    log.shutdown().await;
}
