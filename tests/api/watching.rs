//! `group ls` and `group show` over gRPC: what nodes have reported to the leader, told by any node.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    admin::{World, world},
    log::Node,
};
use pontoon::{
    clock::boottime_ns,
    control::leadership::view::ReceivedReport,
    model::{
        change::{Change, CreateGroup, FinishPromotion, NotePrimary, OpenHold, StartPromotion},
        ids::{Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        route::HoldKind,
        state::{Cause, Server},
    },
    plan::observation::{InSync, Probe, ProbeReport, ReportedRole},
    wire::pb::admin,
};

const PRIMARY: &str = "127.0.0.1:27901";
const REPLICA: &str = "127.0.0.1:27902";
const PRODUCT: ProductId = ProductId(1);

fn at(addr: &str) -> HostPort {
    HostPort::parse(addr).unwrap()
}

/// Group 3 of a primary and a replica that nobody asks.
fn group(world: &World) {
    let servers = vec![Server::new(at(PRIMARY), "r1".into(), 7), Server::new(at(REPLICA), "r2".into(), 7)];
    let change = Change::CreateGroup(CreateGroup { product: PRODUCT, group: GroupId(3), servers, credentials: None });
    world.shared.append(Uuid(50), change).result.unwrap();
}

fn probe(role: ReportedRole, offset: u64) -> Probe {
    Probe {
        run_id: "r9".into(),
        role,
        replid: "h".into(),
        offset,
        replid2: None,
        loading: false,
        used_memory: 5 << 20,
        keys: 77,
        ops_per_second: 900,
        ping_us: 250,
        persistent: Some(true),
        unnamed_replicas: 0,
    }
}

fn primary(offset: u64) -> ProbeReport {
    let role = ReportedRole::Primary { replicas: vec![(at(REPLICA), 900)] };
    ProbeReport { probe: Some((probe(role, offset), 0)), ..ProbeReport::default() }
}

fn replica(offset: u64) -> ProbeReport {
    let role = ReportedRole::Replica { of: at(PRIMARY), link_up: true, link_down_ms: 0, syncing: false };
    let in_sync = InSync { to: at(PRIMARY), replid: "h".into(), run_id: "r9".into(), ago_ms: 0 };
    ProbeReport { probe: Some((probe(role, offset), 0)), in_sync: Some(in_sync), ..ProbeReport::default() }
}

fn fails(for_ms: u64, before: ProbeReport) -> ProbeReport {
    ProbeReport { failing_ms: Some(for_ms), error: "no connection in time".into(), ..before }
}

/// A node's report arrives at the leader.
fn sees(leader: &Node, node: u64, addr: &str, report: ProbeReport) {
    leader.heard(node, |_| {});
    leader.view.send_modify(|view| {
        let servers: &mut BTreeMap<_, BTreeMap<_, _>> = Arc::make_mut(&mut Arc::make_mut(view).servers);
        let seen =
            ReceivedReport { incarnation: Default::default(), heartbeat_ns: boottime_ns(), report: Arc::new(report) };
        servers.entry(at(addr)).or_default().insert(NodeId(node), seen);
    });
}

async fn listed(world: &World, node: usize) -> admin::ListGroupsReply {
    let request = admin::ListGroupsRequest { product: "default".into() };
    world.client(node).list_groups(request).await.unwrap().into_inner()
}

async fn shown(world: &World, node: usize) -> admin::ShowGroupReply {
    let request = admin::ShowGroupRequest { product: "default".into(), id: 3 };
    world.client(node).show_group(request).await.unwrap().into_inner()
}

fn seen(group: &admin::Group, place: usize) -> &admin::ServerSeen {
    group.servers[place].seen.as_ref().unwrap()
}

#[tokio::test]
async fn a_group_as_nodes_see_it() {
    let world = world().await;
    group(&world);
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, primary(1000));
        sees(&world.nodes[0], node, REPLICA, replica(400));
    }
    // By the leader and by another node, and nothing that grows old makes them differ.
    for node in [0, 1] {
        let reply = listed(&world, node).await;
        assert!(reply.without_live.is_empty(), "{reply:?}");
        let group = &reply.groups[0];
        let roles: Vec<_> = group.servers.iter().map(|s| (s.role.as_str(), s.priority)).collect();
        assert_eq!(roles, [("primary", 100), ("replica", 100)]);
        let (primary, replica) = (seen(group, 0), seen(group, 1));
        assert_eq!((primary.state.as_str(), primary.role.as_str(), primary.link.as_str()), ("up", "primary", ""));
        assert_eq!((replica.state.as_str(), replica.role.as_str(), replica.link.as_str()), ("up", "replica", "up"));
        assert_eq!((replica.lag_bytes, replica.follows.as_str(), primary.lag_bytes), (Some(600), PRIMARY, None));
        assert_eq!(
            (primary.used_memory, primary.keys, primary.ops_per_second, primary.ping_us),
            (5 << 20, 77, 900, 250)
        );
        assert_eq!((replica.run_id.as_str(), replica.offset, replica.persistent), ("r9", 400, Some(true)));
        assert!(replica.no_candidate.is_empty() && replica.failing.is_empty(), "{replica:?}");
        let shown = shown(&world, node).await;
        assert!(shown.warnings.is_empty() && shown.waiting_on.is_empty() && shown.ended.is_empty(), "{shown:?}");
    }

    // In step: no lag at all. Its link down: as long as nobody has seen it up.
    sees(&world.nodes[0], 2, REPLICA, replica(1000));
    sees(&world.nodes[0], 1, REPLICA, replica(1000));
    let now = listed(&world, 1).await;
    assert_eq!((seen(&now.groups[0], 1).lag_bytes, seen(&now.groups[0], 1).lag_ms), (Some(0), Some(0)));
    for node in [1, 2] {
        let mut apart = replica(700);
        let role = ReportedRole::Replica { of: at(PRIMARY), link_up: false, link_down_ms: 8000, syncing: false };
        apart.probe.as_mut().unwrap().0.role = role;
        apart.in_sync.as_mut().unwrap().ago_ms = 9000 + node;
        sees(&world.nodes[0], node, REPLICA, apart);
    }
    let now = listed(&world, 1).await;
    let replica_now = seen(&now.groups[0], 1);
    assert_eq!((replica_now.link.as_str(), replica_now.lag_bytes), ("down", Some(300)));
    assert!((9001..60_000).contains(&replica_now.lag_ms.unwrap()), "{replica_now:?}");
}

#[tokio::test]
async fn the_lag_in_time_goes_by_the_rate_of_writes() {
    let world = world().await;
    group(&world);
    // 10,000 bytes in two seconds, and the replica is 1,000 behind the newest.
    let mut before = primary(90_000);
    before.probe.as_mut().unwrap().1 = 2000;
    sees(&world.nodes[0], 2, PRIMARY, before);
    sees(&world.nodes[0], 1, PRIMARY, primary(100_000));
    sees(&world.nodes[0], 1, REPLICA, replica(99_000));
    let reply = listed(&world, 0).await;
    let replica = seen(&reply.groups[0], 1);
    assert_eq!(replica.lag_bytes, Some(1000));
    assert!((150..=250).contains(&replica.lag_ms.unwrap()), "{replica:?}");
    // Of another history nothing can be said.
    let mut other = primary(100_000);
    other.probe.as_mut().unwrap().0.replid = "other".into();
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, other.clone());
    }
    let reply = listed(&world, 0).await;
    let replica = seen(&reply.groups[0], 1);
    assert_eq!((replica.lag_bytes, replica.lag_ms), (None, None));
    assert!(replica.no_candidate.contains("another replication id"), "{replica:?}");
}

#[tokio::test]
async fn who_sees_it_fail_and_since_when() {
    let world = world().await;
    group(&world);
    sees(&world.nodes[0], 1, PRIMARY, fails(9000, primary(1000)));
    sees(&world.nodes[0], 2, PRIMARY, primary(1000));
    for node in [1, 2] {
        sees(&world.nodes[0], node, REPLICA, replica(1000));
    }
    let reply = shown(&world, 1).await;
    let primary_seen = seen(reply.group.as_ref().unwrap(), 0).clone();
    assert_eq!((primary_seen.state.as_str(), primary_seen.failing.len()), ("suspect", 1));
    assert_eq!((primary_seen.failing[0].node, primary_seen.failing[0].error.as_str()), (1, "no connection in time"));
    assert!(primary_seen.failing[0].for_ms.unwrap() >= 9000);

    sees(&world.nodes[0], 1, PRIMARY, fails(9000, primary(1000)));
    sees(&world.nodes[0], 2, PRIMARY, fails(4000, primary(1000)));
    let reply = shown(&world, 1).await;
    let primary_seen = seen(reply.group.as_ref().unwrap(), 0);
    assert_eq!((primary_seen.state.as_str(), primary_seen.failing.len()), ("down", 2));
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    let down: Vec<_> = status.warnings.iter().filter(|w| w.contains("is down")).collect();
    assert!(down.len() == 1 && down[0].contains(PRIMARY) && down[0].contains("nodes 1, 2"), "{status:?}");
    // What was seen last is still told, with its age.
    assert_eq!((primary_seen.keys, primary_seen.role.as_str()), (77, "primary"));

    // A server that was never answered has no numbers; one that refuses to be asked answers.
    sees(&world.nodes[0], 2, REPLICA, ProbeReport { error: "it wants a password".into(), ..ProbeReport::default() });
    sees(&world.nodes[0], 1, REPLICA, ProbeReport { error: "it wants a password".into(), ..ProbeReport::default() });
    let reply = shown(&world, 1).await;
    let odd = seen(reply.group.as_ref().unwrap(), 1);
    assert_eq!((odd.state.as_str(), odd.ago_ms, odd.failing.len()), ("loading", None, 2));
    assert!(odd.failing[0].for_ms.is_none() && odd.failing[0].error.contains("password"), "{odd:?}");
}

#[tokio::test]
async fn without_a_leader_the_log_is_told() {
    let world = world().await;
    group(&world);
    world.nodes.iter().for_each(Node::nobody_leads);
    let reply = listed(&world, 1).await;
    assert!(reply.groups[0].servers.iter().all(|s| s.seen.is_none()), "{reply:?}");
    assert!(reply.without_live.contains("no leader is known"), "{reply:?}");
    let reply = shown(&world, 1).await;
    assert!(reply.group.unwrap().servers[0].seen.is_none() && !reply.without_live.is_empty());
    let missing = admin::ShowGroupRequest { product: "default".into(), id: 9 };
    let missing = world.client(1).show_group(missing).await.unwrap_err();
    assert!(missing.code() == tonic::Code::NotFound && missing.message().contains("group ls"), "{missing:?}");
}

#[tokio::test]
async fn what_an_operator_should_know_is_told() {
    let world = world().await;
    group(&world);
    let note = |replid: &str| {
        let epoch = world.shared.state().products[&PRODUCT].groups[&GroupId(3)].epoch;
        Change::NotePrimary(NotePrimary::replication_id(PRODUCT, GroupId(3), epoch, replid.into()))
    };
    world.shared.append(Uuid(60), note("h")).result.unwrap();
    let mut odd = primary(1000);
    let probe = &mut odd.probe.as_mut().unwrap().0;
    probe.persistent = Some(false);
    probe.unnamed_replicas = 1;
    probe.role = ReportedRole::Primary { replicas: vec![(at(REPLICA), 900), (at("10.9.9.9:7777"), 900)] };
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, odd.clone());
    }
    let maintenance = |on| admin::SetClusterRequest { maintenance: Some(on), ..Default::default() };
    world.client(1).set_cluster(maintenance(true)).await.unwrap();
    let waiting = |view: &mut Arc<pontoon::control::leadership::view::LeaderView>| {
        let said = ["group 3 of product 'default' has no candidate", "group 33 of product 'default' has none either"];
        Arc::make_mut(view).waiting_on = said.map(str::to_owned).to_vec();
    };
    world.nodes[0].view.send_modify(waiting);
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.warnings.iter().any(|w| w.contains("maintenance off")), "{status:?}");
    let reply = shown(&world, 1).await;
    assert_eq!(reply.waiting_on, ["group 3 of product 'default' has no candidate"]);
    let told = |reply: &admin::ShowGroupReply, part: &str| reply.warnings.iter().filter(|w| w.contains(part)).count();
    assert_eq!(told(&reply, "1 unmanaged replica(s) that tell no port"), 1, "{reply:?}");
    for part in
        ["restart would empty it", "unmanaged replica is in sync to the primary: 10.9.9.9:7777", "maintenance off"]
    {
        assert_eq!(told(&reply, part), 1, "{part}: {reply:?}");
    }
    assert_eq!((told(&reply, REPLICA), told(&reply, "restarted")), (0, 0), "{reply:?}");

    // It restarted: another history, and whether it has its keys.
    world.client(1).set_cluster(maintenance(false)).await.unwrap();
    world.shared.append(Uuid(61), note("other")).result.unwrap();
    // (The process is that of before, and has its first replica: no restart.)
    let mut same = odd.clone();
    same.probe.as_mut().unwrap().0.run_id = "r1".into();
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, same.clone());
    }
    assert_eq!(told(&shown(&world, 1).await, "restarted"), 0);
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, odd.clone());
    }
    let reply = shown(&world, 1).await;
    assert_eq!((told(&reply, "restarted, or was replaced"), told(&reply, "restarted empty")), (1, 0), "{reply:?}");
    assert_eq!(told(&reply, "maintenance off"), 0, "{reply:?}");
    odd.probe.as_mut().unwrap().0.keys = 0;
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, odd.clone());
    }
    let reply = shown(&world, 1).await;
    assert_eq!(told(&reply, &format!("the primary {PRIMARY} restarted empty at 1970-01-01")), 1, "{reply:?}");
    let events = world.client(1).list_events(admin::ListEventsRequest::default()).await.unwrap().into_inner().events;
    let kinds: Vec<_> = events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["maintenance-on", "maintenance-off", "primary-noted"]);
    assert_eq!((events[2].subject.as_str(), events[2].product.as_str()), ("group 3", "default"));
}

#[tokio::test]
async fn promotions_are_shown_while_they_last_and_after() {
    let world = world().await;
    group(&world);
    let group = || world.shared.state().products[&PRODUCT].groups[&GroupId(3)].clone();
    let start = Change::StartPromotion(StartPromotion {
        product: PRODUCT,
        group: GroupId(3),
        to: at(REPLICA),
        kind: PromotionKind::Failover,
        group_epoch: group().epoch,
        required_offset: None,
        forced: false,
        why: "most voters see the primary down".into(),
    });
    let Ok(Outcome::Promotion(id)) = world.shared.append(Uuid(70), start).result else { panic!("not started") };
    let open = shown(&world, 1).await.group.unwrap().promotion.unwrap();
    assert_eq!((open.id, open.state.as_str(), open.kind.as_str(), open.attempts), (id.0, "started", "failover", 0));
    assert_eq!((open.from.as_str(), open.to.as_str(), open.group), (PRIMARY, REPLICA, 3));
    assert!(open.why.contains("most voters"), "{open:?}");
    let hold = Change::OpenHold(OpenHold {
        cause: Cause::Promotion(id),
        attempt: 1,
        kind: HoldKind::Abandon,
        reason: "t".into(),
    });
    let Ok(Outcome::Held(HoldId(hold))) = world.shared.append(Uuid(71), hold).result else { panic!("no hold") };
    let open = listed(&world, 1).await.groups[0].promotion.clone().unwrap();
    assert_eq!((open.state.as_str(), open.attempts), ("held", 1));
    let finish = Change::FinishPromotion(FinishPromotion { promotion: id, hold: HoldId(hold), term: Term(1) });
    world.shared.append(Uuid(72), finish).result.unwrap();
    let reply = shown(&world, 1).await;
    let group = reply.group.unwrap();
    assert!(group.promotion.is_none() && group.epoch > 0 && Epoch(group.epoch) == world.shared.state().applied);
    assert_eq!((group.servers[0].address.as_str(), group.servers[1].diverged), (REPLICA, true));
    assert_eq!((reply.ended.len(), reply.ended[0].state.as_str()), (1, "done"));
}
