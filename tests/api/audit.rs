//! Events say who has asked for a change, and from where; what a client says of itself is not taken for either.

use pontoon::wire::pb::admin::{self, ChangeOptions, Event, EventKind};
use tonic::{
    Request,
    metadata::{Binary, MetadataValue},
};

use crate::admin::{Client, World, world};

/// The machine has all of 127.0.0.0/8: this one is used by no node.
const DESK: &str = "127.0.0.5";

fn set(hold_max_ms: u32, declared: &str) -> admin::SetClusterRequest {
    let options = ChangeOptions { declared: declared.into(), ..ChangeOptions::default() };
    admin::SetClusterRequest { hold_max_ms: Some(hold_max_ms), options: Some(options), ..Default::default() }
}

async fn last_event(world: &World) -> Event {
    let reply = world.client(1).list_events(admin::ListEventsRequest::default()).await.unwrap();
    reply.into_inner().events.pop().unwrap()
}

fn from_desk(world: &World, node: usize) -> Client {
    world.client_from(node, DESK.parse().unwrap())
}

#[tokio::test]
async fn the_node_that_receives_a_request_says_who_made_it_and_from_where() {
    let world = world().await;
    // At the leader, and at a node that forwards: the leader sees the connection of that node.
    for (node, hold_max_ms, before) in [(0, 300, "hold-max=250ms"), (1, 400, "hold-max=300ms")] {
        from_desk(&world, node).set_cluster(set(hold_max_ms, "alice@desk: pontoon cluster set")).await.unwrap();
        let event = last_event(&world).await;
        assert_eq!((event.kind(), event.subject.as_str()), (EventKind::ClusterSet, "cluster"));
        assert_eq!(event.actor.as_deref(), Some("cluster secret"));
        assert_eq!(event.declared.as_deref(), Some("alice@desk: pontoon cluster set"));
        assert!(event.origin.as_ref().is_some_and(|origin| origin.starts_with(&format!("{DESK}:"))), "{event:?}");
        assert_eq!(event.node, Some(node as u64 + 1));
        let after = format!("hold-max={hold_max_ms}ms");
        assert_eq!((event.before.as_deref(), event.after.as_deref()), (Some(before), Some(after.as_str())));
    }
}

#[tokio::test]
async fn a_client_cannot_name_another_origin() {
    let world = world().await;
    // actor = "root", address = "10.9.9.9:1", as a node would pass them on (proto/node.proto, Origin).
    let claimed = b"\x0a\x04root\x12\x0a10.9.9.9:1";
    for node in [0, 1] {
        let mut request = Request::new(set(300 + node as u32, "root@10.9.9.9\x1b[2J\n"));
        let value = MetadataValue::<Binary>::from_bytes(claimed);
        request.metadata_mut().insert_bin("x-pontoon-origin-bin", value);
        from_desk(&world, node).set_cluster(request).await.unwrap();
        let event = last_event(&world).await;
        assert_eq!(event.actor.as_deref(), Some("cluster secret"), "{event:?}");
        assert!(event.origin.as_ref().is_some_and(|origin| origin.starts_with(DESK)), "{event:?}");
        assert_eq!(event.declared.as_deref(), Some("root@10.9.9.9\\u{1b}[2J\\u{a}"));
    }
}

#[tokio::test]
async fn a_repeat_and_a_change_that_changes_nothing_have_no_event_of_their_own() {
    let world = world().await;
    let mut request = set(300, "alice");
    request.options.as_mut().unwrap().change_id = vec![7; 16].into();
    let first = world.client(1).set_cluster(request.clone()).await.unwrap().into_inner();
    request.options.as_mut().unwrap().declared = "mallory".into();
    let again = world.client(0).set_cluster(request).await.unwrap().into_inner();
    assert_eq!(first.index, again.index);
    assert!(world.client(0).set_cluster(set(300, "mallory")).await.unwrap().into_inner().unchanged);
    let event = last_event(&world).await;
    assert_eq!((event.index, event.declared.as_deref()), (first.index, Some("alice")));
}

#[tokio::test]
async fn events_of_a_product_that_is_removed_keep_its_name() {
    let world = world().await;
    let new = admin::CreateProductRequest { name: "shop".into(), port: 7600, ..Default::default() };
    world.client(1).create_product(new).await.unwrap();
    let remove = admin::RemoveProductRequest { name: "shop".into(), ..Default::default() };
    world.client(1).remove_product(remove).await.unwrap();
    let reply = world.client(1).list_events(admin::ListEventsRequest::default()).await.unwrap().into_inner();
    let of_shop: Vec<_> = reply.events.iter().filter(|e| e.product.as_deref() == Some("shop")).collect();
    let kinds: Vec<EventKind> = of_shop.iter().map(|e| e.kind()).collect();
    assert_eq!(kinds, [EventKind::ProductCreated, EventKind::ProductRemoved]);
    assert_eq!((of_shop[1].subject.as_str(), of_shop[1].after.as_deref()), ("product shop", Some("none")));
}
