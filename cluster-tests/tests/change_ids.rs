//! Change ids: a change that is sent twice is applied once, so that gRPC clients may repeat an unanswered request at
//! any node.

#![allow(clippy::unwrap_used)]

use cluster_tests::cluster::Cluster;
use pontoon::wire::pb::admin::{ChangeOptions, CreateProductRequest, RemoveProductRequest, admin_client::AdminClient};

#[test]
fn a_repeated_change_id_returns_the_first_result() {
    let mut cluster = Cluster::start(3);
    let port = cluster.ports.product(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let id = vec![7u8; 16];
    let options = |id: &[u8]| {
        Some(ChangeOptions { change_id: id.to_vec().into(), timeout_ms: 20_000, ..ChangeOptions::default() })
    };
    let create = |admin: String, name: &str, id: &[u8]| {
        let request = CreateProductRequest {
            name: name.into(),
            port: port.into(),
            options: options(id),
            ..CreateProductRequest::default()
        };
        runtime.block_on(async {
            let mut client = AdminClient::connect(format!("http://{admin}")).await.unwrap();
            client.create_product(request).await.map(|reply| reply.into_inner())
        })
    };
    let first = create(cluster.node(1).admin(), "once", &id).unwrap();
    assert!(first.index > 0);
    let again = create(cluster.node(2).admin(), "once", &id).unwrap();
    assert_eq!((again.index, &again.done), (first.index, &first.done));
    // With another id it is another change, which finds what it wants.
    assert!(create(cluster.node(3).admin(), "once", &[8; 16]).unwrap().unchanged);
    // Another change under the same id is rejected.
    assert!(
        create(cluster.node(3).admin(), "other", &id).unwrap_err().message().contains("belongs to another request")
    );
    // The change is not applied again after it was undone, also not by another leader and after a restart of all nodes.
    let remove =
        RemoveProductRequest { name: "once".into(), options: options(&[9; 16]), ..RemoveProductRequest::default() };
    runtime.block_on(async {
        let mut client = AdminClient::connect(format!("http://{}", cluster.node(1).admin())).await.unwrap();
        client.remove_product(remove).await.unwrap();
    });
    for id in 1..=3 {
        cluster.node_mut(id).kill9();
    }
    cluster.start_all();
    let late = create(cluster.node(3).admin(), "once", &id).unwrap();
    assert_eq!(late.index, first.index);
    assert_eq!(cluster.cli().json(&["product", "ls"]).as_array().unwrap().len(), 1);
}
