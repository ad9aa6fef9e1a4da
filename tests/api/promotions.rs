//! Promotions that operators ask for, and the settings of failover: over gRPC, at a node that does not lead, with real servers.

use std::sync::Arc;

use pontoon::{
    model::{
        change::{Change, FinishPromotion, GiveUpPromotion, OpenHold},
        ids::{HoldId, PromotionId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        state::Cause,
    },
    wire::pb::admin::{self, ChangeOptions},
};
use tonic::{Code, Status};

use crate::{
    admin::{World, with_id, world},
    log::Shared,
    server::Redis,
};

async fn group(world: &World, primary: &Redis, replica: &Redis) {
    let request = admin::CreateGroupRequest {
        product: "default".into(),
        id: 1,
        primary: primary.addr.to_string(),
        replicas: vec![replica.addr.to_string()],
        ..Default::default()
    };
    world.client(1).create_group(request).await.unwrap();
}

fn wish(to: &Redis, options: Option<ChangeOptions>) -> admin::PromoteRequest {
    admin::PromoteRequest { product: "default".into(), group: 1, address: to.addr.to_string(), force: false, options }
}

async fn promote(world: &World, request: admin::PromoteRequest) -> Result<admin::ChangeReply, Status> {
    world.client(1).promote(request).await.map(tonic::Response::into_inner)
}

fn refused(result: Result<admin::ChangeReply, Status>, parts: &[&str]) {
    let status = result.unwrap_err();
    assert!(matches!(status.code(), Code::FailedPrecondition | Code::NotFound), "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "{part} is not in: {}", status.message());
    }
}

/// Plays the leader's task: each promotion is held, and ends as the test wants.
fn plays(shared: &Arc<Shared>, finish: bool) -> tokio::task::JoinHandle<()> {
    let shared = shared.clone();
    tokio::spawn(async move {
        let (mut changed, mut entry) = (shared.changed(), 2000);
        loop {
            let state = changed.borrow_and_update().clone();
            for open in state.promotions.values().filter(|open| open.attempts == 0) {
                entry += 2;
                end(&shared, open.id, open.kind, finish, entry);
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    })
}

fn end(shared: &Shared, promotion: PromotionId, kind: PromotionKind, finish: bool, entry: u128) {
    let hold = Change::OpenHold(OpenHold {
        cause: Cause::Promotion(promotion),
        attempt: 1,
        kind: kind.hold(),
        reason: "test".into(),
    });
    let Ok(Outcome::Held(HoldId(hold))) = shared.append(Uuid(entry), hold).result else { panic!("no hold") };
    let change = if finish {
        Change::FinishPromotion(FinishPromotion { promotion, hold: HoldId(hold), term: Term(1) })
    } else {
        Change::GiveUpPromotion(GiveUpPromotion { promotion, why: "it lags".into(), primary_back: true, forced: false })
    };
    shared.append(Uuid(entry + 1), change).result.unwrap();
}

#[tokio::test]
async fn a_switchover_begins_and_is_waited_for() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    group(&world, &primary, &replica).await;
    let proposals = world.proposals();
    let dry =
        promote(&world, wish(&replica, Some(ChangeOptions { dry_run: true, ..Default::default() }))).await.unwrap();
    assert!(!dry.done.is_empty() && dry.promotion.is_none() && world.proposals() == proposals, "{dry:?}");

    let begun = promote(&world, wish(&replica, with_id(3))).await.unwrap();
    let open = world.shared.state().promotions.values().next().unwrap().clone();
    assert_eq!((begun.promotion, open.kind, open.forced), (Some(open.id.0), PromotionKind::Switchover, false));
    assert!(begun.done[0].contains("group show 1"), "{begun:?}");
    // A repeat returns the same result, also with `wait`.
    assert_eq!(promote(&world, wish(&replica, with_id(3))).await.unwrap().promotion, begun.promotion);
    refused(promote(&world, wish(&replica, None)).await, &["group 1", "wait"]);
    let short = ChangeOptions { wait: true, timeout_ms: 100, ..with_id(3).unwrap() };
    let late = promote(&world, wish(&replica, Some(short))).await.unwrap_err();
    assert!(late.code() == Code::DeadlineExceeded && late.message().contains("it goes on"), "{late:?}");
    let leader = plays(&world.shared, true);
    // No node reports its route epoch here, and the call does not wait for silent nodes.
    let waits = ChangeOptions { wait: true, ..with_id(3).unwrap() };
    let done = promote(&world, wish(&replica, Some(waits))).await.unwrap();
    assert!(done.done[0].contains("is the primary of group 1"), "{done:?}");
    leader.abort();
    let state = world.shared.state();
    let servers = &state.products.values().next().unwrap().groups.values().next().unwrap().servers;
    assert_eq!((&servers[0].addr, servers[1].diverged), (&replica.addr, true));
    let again = promote(&world, wish(&replica, None)).await.unwrap();
    assert!(again.unchanged && again.done[0].contains("is the primary of group 1 already"), "{again:?}");
}

#[tokio::test]
async fn a_promotion_that_is_given_up_is_reported_as_made_with_the_reason() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    group(&world, &primary, &replica).await;
    let leader = plays(&world.shared, false);
    let waits = ChangeOptions { wait: true, ..Default::default() };
    let status = promote(&world, wish(&replica, Some(waits))).await.unwrap_err();
    let outcome = status.metadata().get("x-pontoon-outcome").unwrap().to_str().unwrap();
    assert_eq!((status.code(), outcome), (Code::FailedPrecondition, "made"));
    assert!(status.message().contains("was given up: it lags"), "{status:?}");
    leader.abort();
    // It may have writes of its own by now.
    refused(promote(&world, wish(&replica, None)).await, &["diverged", "--force"]);
}

#[tokio::test]
async fn a_promotion_that_may_lose_writes_must_be_forced() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    group(&world, &primary, &replica).await;
    let other = Redis::start(&[]).await;
    refused(promote(&world, wish(&other, None)).await, &[other.addr.as_str(), "group add-server"]);
    assert!(promote(&world, wish(&primary, None)).await.unwrap().unchanged);
    let unknown = admin::PromoteRequest { group: 9, ..wish(&replica, None) };
    refused(promote(&world, unknown).await, &["group 9", "group ls"]);
    for (bad, part) in [
        (admin::PromoteRequest { group: 0, ..wish(&replica, None) }, "not a group id"),
        (admin::PromoteRequest { address: "nonsense".into(), ..wish(&replica, None) }, "HOST:PORT"),
    ] {
        let status = promote(&world, bad).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(part), "{status:?}");
    }
    let gone = primary.addr.clone();
    drop(primary);
    refused(promote(&world, wish(&replica, None)).await, &[gone.as_str(), "does not answer", "--force"]);
    assert!(world.shared.state().promotions.is_empty());
    let forced = promote(&world, admin::PromoteRequest { force: true, ..wish(&replica, None) }).await.unwrap();
    assert!(forced.warnings.iter().any(|w| w.contains("lost")), "{forced:?}");
    let open = world.shared.state().promotions.values().next().unwrap().clone();
    assert_eq!((open.kind, open.forced, Some(open.id.0)), (PromotionKind::Failover, true, forced.promotion));
}

#[tokio::test]
async fn an_operator_can_replace_an_open_promotion() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let (one, two) = (primary.replica().await, primary.replica().await);
    group(&world, &primary, &one).await;
    let add = admin::AddServerRequest {
        product: "default".into(),
        group: 1,
        address: two.addr.to_string(),
        ..Default::default()
    };
    world.client(1).add_server(add).await.unwrap();
    let first = promote(&world, wish(&one, None)).await.unwrap();
    refused(promote(&world, wish(&two, None)).await, &[one.addr.as_str(), "wait"]);
    let force = |options| admin::PromoteRequest { force: true, ..wish(&two, options) };
    let dry = promote(&world, force(Some(ChangeOptions { dry_run: true, ..Default::default() }))).await.unwrap();
    assert!(dry.done.last().unwrap().contains(two.addr.as_str()), "{dry:?}");
    assert_eq!(world.shared.state().promotions.keys().map(|id| Some(id.0)).collect::<Vec<_>>(), [first.promotion]);
    let second = promote(&world, force(with_id(8))).await.unwrap();
    assert_eq!(promote(&world, force(with_id(8))).await.unwrap().promotion, second.promotion);
    let state = world.shared.state();
    assert_eq!(
        state.promotions.values().map(|p| (Some(p.id.0), &p.to)).collect::<Vec<_>>(),
        [(second.promotion, &two.addr)]
    );
    let ended = state.ended_promotions.back().unwrap();
    assert!(Some(ended.promotion.id.0) == first.promotion && ended.failed.is_some(), "{ended:?}");
}

#[tokio::test]
async fn settings_are_changed_and_shown() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    group(&world, &primary, &replica).await;
    let mut client = world.client(1);
    let set = admin::SetGroupRequest {
        product: "default".into(),
        id: 1,
        down_after_ms: Some(5000),
        maintenance: Some(true),
        ..Default::default()
    };
    let dry =
        admin::SetGroupRequest { options: Some(ChangeOptions { dry_run: true, ..Default::default() }), ..set.clone() };
    assert!(!client.set_group(dry).await.unwrap().into_inner().done.is_empty());
    let shown = async || {
        let request = admin::ShowGroupRequest { product: "default".into(), id: 1 };
        world.client(1).show_group(request).await.unwrap().into_inner().group.unwrap()
    };
    assert_eq!((shown().await.down_after_ms, shown().await.maintenance), (3000, false));
    client.set_group(set.clone()).await.unwrap();
    assert_eq!((shown().await.down_after_ms, shown().await.maintenance), (5000, true));
    assert!(client.set_group(set).await.unwrap().into_inner().unchanged);
    // Maintenance of the cluster and of a group end independently, and the reply says so.
    let cluster = |on| admin::SetClusterRequest { maintenance: Some(on), ..Default::default() };
    client.set_cluster(cluster(true)).await.unwrap();
    let off = client.set_cluster(cluster(false)).await.unwrap().into_inner();
    assert!(off.warnings.iter().any(|w| w.contains("group 1 of product 'default' stays")), "{off:?}");
    client.set_cluster(cluster(true)).await.unwrap();
    let mine =
        admin::SetGroupRequest { product: "default".into(), id: 1, maintenance: Some(false), ..Default::default() };
    let off = client.set_group(mine).await.unwrap().into_inner();
    assert!(off.warnings.iter().any(|w| w.contains("whole cluster stays")), "{off:?}");

    // The server can be of any product, and have any of its addresses.
    let set = admin::SetServerRequest {
        address: replica.addr.to_string(),
        priority: Some(0),
        zone: Some("rack-7".into()),
        options: None,
    };
    client.set_server(set).await.unwrap();
    let server = shown().await.servers[1].clone();
    assert_eq!((server.priority, server.zone.as_deref()), (0, Some("rack-7")));
    let unzoned =
        admin::SetServerRequest { address: replica.addr.to_string(), zone: Some(String::new()), ..Default::default() };
    client.set_server(unzoned).await.unwrap();
    let server = shown().await.servers[1].clone();
    assert_eq!((server.priority, server.zone.as_deref()), (0, None));

    let stranger = admin::SetServerRequest { address: "10.1.1.1:1".into(), priority: Some(1), ..Default::default() };
    let stranger = client.set_server(stranger).await.unwrap_err();
    assert!(stranger.code() == Code::NotFound && stranger.message().contains("group ls"), "{stranger:?}");
}

#[tokio::test]
async fn bad_input_is_refused_with_what_is_expected() {
    let world = world().await;
    let mut client = world.client(1);
    let bad = |status: Status, part: &str| {
        assert!(status.code() == Code::InvalidArgument && status.message().contains(part), "{part}: {status:?}");
    };
    let group = |down_after_ms| admin::SetGroupRequest {
        product: "default".into(),
        id: 1,
        down_after_ms,
        ..Default::default()
    };
    bad(client.set_group(group(Some(10))).await.unwrap_err(), "500 ms to 600 s");
    bad(client.set_group(group(None)).await.unwrap_err(), "maintenance=on|off");
    let unknown = client.set_group(group(Some(1000))).await.unwrap_err();
    assert!(unknown.code() == Code::NotFound && unknown.message().contains("group ls"), "{unknown:?}");
    let server = |zone: Option<&str>| admin::SetServerRequest {
        address: "127.0.0.1:27909".into(),
        zone: zone.map(str::to_owned),
        ..Default::default()
    };
    bad(client.set_server(server(Some("a b"))).await.unwrap_err(), "at most 64");
    bad(client.set_server(server(None)).await.unwrap_err(), "priority=N");
    let share = |percent| admin::SetClusterRequest { failover_share_max_percent: Some(percent), ..Default::default() };
    bad(client.set_cluster(share(0)).await.unwrap_err(), "maintenance on");
    bad(client.set_cluster(share(101)).await.unwrap_err(), "1 to 100");
    bad(client.set_cluster(admin::SetClusterRequest::default()).await.unwrap_err(), "failover-share-max=PERCENT");
    assert_eq!(world.proposals(), 1, "only the group that is not there came to the log");
}
