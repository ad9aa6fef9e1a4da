//! The limit of connections of the admin port: strangers take each other's places, and not those of callers that have
//! the secret.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use pontoon::{
    api::server::{Services, serve},
    wire::{
        auth::{ClientAuth, ClusterSecret},
        pb::admin::{ListEventsRequest, admin_client::AdminClient},
    },
};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::transport::Endpoint;

use crate::{
    admin::Nothing,
    log::{Node, Shared},
    wait::PATIENCE,
};

/// Connections that the port may have.
const PLACES: usize = 4;

/// A relay to `to`. Returns its address, and how many connections it has accepted.
async fn relay(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut node = TcpStream::connect(to).await.unwrap();
            // It ends with an error when one side closes.
            tokio::spawn(async move { copy_bidirectional(&mut caller, &mut node).await });
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_caller_with_the_secret_keeps_its_connection_and_strangers_lose_theirs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let secret = ClusterSecret::new("0123456789abcdef").unwrap();
    let node = Node::new(1, &Shared::new(&[(1, "127.0.0.1:7101")]));
    let services = Services {
        control: node.control.clone(),
        raft: Nothing::<0>,
        node: Nothing::<1>,
        secret: secret.clone(),
        refused: Default::default(),
        hosts: Default::default(),
        source: None,
        leased: Arc::new(|| true),
        report: tokio::sync::watch::channel(Arc::default()).1,
        clients: Default::default(),
        clients_max: 50_000,
        connections_max: PLACES,
    };
    let serving = tokio::spawn(serve(listener, services, std::future::pending()));

    let (relay, accepted) = relay(address).await;
    let channel = Endpoint::from_shared(format!("http://{relay}")).unwrap().connect_lazy();
    let mut client = AdminClient::with_interceptor(channel, ClientAuth(secret));
    client.list_events(ListEventsRequest::default()).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..3 * PLACES {
        strangers.push(TcpStream::connect(address).await.unwrap());
        client.list_events(ListEventsRequest::default()).await.unwrap();
    }
    // All but the newest, which have the other places.
    for stranger in &mut strangers[..2 * PLACES] {
        let end = timeout(PATIENCE, stranger.read(&mut [0; 64])).await.expect("the node closes it");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    client.list_events(ListEventsRequest::default()).await.unwrap();
    assert_eq!(accepted.load(Ordering::Relaxed), 1, "the caller had to connect again");
    serving.abort();
}
