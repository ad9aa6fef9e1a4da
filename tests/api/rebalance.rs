//! Rebalance and drain over gRPC, against real redis-servers: what is shown, started and refused.
//! cluster-tests has the migrations themselves.

use pontoon::{
    model::slot::Layout,
    wire::pb::admin::{self, ChangeOptions, GroupWeight},
};
use tonic::Code;

use crate::{
    admin::{World, world},
    server::Redis,
};

/// Group 1 has slots 0 to 29, groups 2 and 3 have none.
async fn one_has_all() -> (World, [Redis; 3]) {
    let world = world().await;
    let servers = [Redis::start(&[]).await, Redis::start(&[]).await, Redis::start(&[]).await];
    for (id, server) in (1..).zip(&servers) {
        world.group(id, server).await;
    }
    world.assign(0, 29, 1).await.unwrap();
    (world, servers)
}

fn level(apply: bool) -> admin::RebalanceRequest {
    admin::RebalanceRequest { product: "default".into(), apply, ..Default::default() }
}

#[tokio::test]
async fn it_starts_migrations_only_with_apply() {
    let (world, _servers) = one_has_all().await;
    let mut client = world.client(1);
    let shown = client.rebalance(level(false)).await.unwrap().into_inner();
    assert!(!shown.unchanged && shown.migrations.is_empty(), "{shown:?}");
    assert!(shown.done[0].contains("(10)") && shown.done[0].contains("from group 1 to group 2"), "{shown:?}");
    assert!(shown.done.iter().any(|line| line.contains("group 1 gives slots in 2 migrations")), "{shown:?}");
    assert!(shown.warnings[0].contains("994 slots have no owner"), "{shown:?}");
    assert!(world.shared.state().migrations.is_empty());

    let options = Some(ChangeOptions { change_id: vec![7; 16].into(), ..Default::default() });
    let apply = admin::RebalanceRequest { options, ..level(true) };
    let done = client.rebalance(apply.clone()).await.unwrap().into_inner();
    assert_eq!(done.migrations.len(), 2, "{done:?}");
    let moved: usize = world.shared.state().migrations.values().map(|m| m.slots.len()).sum();
    assert_eq!(moved, 20);
    // A repeat of the call has the same result; another call finds that the slots are already moving.
    assert_eq!(client.rebalance(apply).await.unwrap().into_inner().migrations, done.migrations);
    let again = client.rebalance(level(true)).await.unwrap().into_inner();
    assert!(again.unchanged && again.migrations.is_empty(), "{again:?}");
    assert_eq!(world.shared.state().migrations.len(), 2);
    // By load, moving slots would be counted twice.
    let by_keys = client
        .rebalance(admin::RebalanceRequest { by: admin::RebalanceBy::Keys.into(), ..level(false) })
        .await
        .unwrap_err();
    assert!(by_keys.message().contains("has not ended"), "{by_keys:?}");
}

#[tokio::test]
async fn loads_and_weights_count() {
    let (world, servers) = one_has_all().await;
    let mut client = world.client(1);
    // Keys of slots without an owner: only their number counts.
    for n in 0..300 {
        servers[0].client().await.ask(&[b"SET", format!("k{n}").as_bytes(), b"v"], crate::wait::soon()).await.unwrap();
    }
    let weights = vec![GroupWeight { group: 2, weight: 2 }, GroupWeight { group: 3, weight: 0 }];
    let wanted = admin::RebalanceRequest { by: admin::RebalanceBy::Keys.into(), weights, ..level(false) };
    let shown = client.rebalance(wanted).await.unwrap().into_inner();
    assert_eq!(shown.done.len(), 1, "{shown:?}");
    assert!(shown.done[0].contains("(20)") && shown.done[0].contains("to group 2"), "{shown:?}");
}

#[tokio::test]
async fn bad_input_is_refused() {
    let (world, _servers) = one_has_all().await;
    let mut client = world.client(1);
    let weight = |group, weight| vec![GroupWeight { group, weight }];
    for (request, code, word) in [
        (admin::RebalanceRequest { by: 99, ..level(true) }, Code::InvalidArgument, "does not know measure"),
        (admin::RebalanceRequest { weights: weight(9, 1), ..level(true) }, Code::FailedPrecondition, "no group 9"),
        (admin::RebalanceRequest { weights: weight(0, 1), ..level(true) }, Code::InvalidArgument, "group"),
        (admin::RebalanceRequest { product: "none".into(), ..level(true) }, Code::FailedPrecondition, "none"),
    ] {
        let refused = client.rebalance(request).await.unwrap_err();
        assert!(refused.message().contains(word), "{refused:?}");
        assert!(refused.code() == code || word == "none", "{refused:?}");
    }
    assert!(world.shared.state().migrations.is_empty());
}

/// Regression: the refusal named an option that `group drain` does not have.
#[tokio::test]
async fn a_refused_drain_names_the_command_that_deletes_unexpected_keys() {
    let (world, servers) = one_has_all().await;
    let foreign = (0..).map(|n| format!("k{n}")).find(|key| Layout::Codis.slot(key.as_bytes()).0 < 30).unwrap();
    for server in &servers[1..] {
        server.run(&format!("SET {foreign} theirs")).await;
    }
    let drain = admin::DrainGroupRequest { product: "default".into(), id: 1, ..Default::default() };
    let refused = world.client(1).drain_group(drain).await.unwrap_err();
    let (before, command) = refused.message().split_once("pontoon migrate start ").unwrap();
    assert!(before.contains(&format!("'{foreign}'")) && !before.contains("--wipe"), "{refused:?}");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!((words[1], &words[3..]), ("--to", &["--product", "default", "--wipe"][..]), "{refused:?}");
}

#[tokio::test]
async fn a_drained_group_gives_all_its_slots() {
    let (world, _servers) = one_has_all().await;
    let mut client = world.client(1);
    let drain = |id, dry_run| admin::DrainGroupRequest {
        product: "default".into(),
        id,
        options: Some(ChangeOptions { dry_run, ..Default::default() }),
    };
    let would = client.drain_group(drain(1, true)).await.unwrap().into_inner();
    assert!(!would.done.is_empty() && world.shared.state().migrations.is_empty(), "{would:?}");
    let done = client.drain_group(drain(1, false)).await.unwrap().into_inner();
    assert_eq!(done.migrations.len(), 2, "{done:?}");
    let sizes: Vec<usize> = world.shared.state().migrations.values().map(|m| m.slots.len()).collect();
    assert_eq!(sizes, [15, 15]);
    let empty = client.drain_group(drain(3, false)).await.unwrap().into_inner();
    assert!(empty.unchanged, "{empty:?}");
    assert!(client.drain_group(drain(9, false)).await.unwrap_err().message().contains("no group 9"));
}
