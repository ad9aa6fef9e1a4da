//! `group ls` and `group show` over gRPC: every node answers with what nodes have reported to the leader.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    admin::{World, world},
    log::Node,
};
use pontoon::{
    clock::boottime_ns,
    control::leadership::view::ReceivedReport,
    model::{
        change::{Change, CreateGroup, FinishPromotion, NotePrimary, OpenHold, StartPromotion},
        data_user::DataUser,
        ids::{Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        route::HoldKind,
        secret::Secret,
        state::{Cause, Server},
    },
    plan::{
        observation::{InSync, Probe, ProbeReport, ReportedRole},
        waiting::{LastingWait, Wait},
    },
    wire::pb::admin::{self, EventKind, LinkState, PromotionState, ServerRole, ServerState},
};

const PRIMARY: &str = "127.0.0.1:27901";
const REPLICA: &str = "127.0.0.1:27902";
const PRODUCT: ProductId = ProductId(1);

fn at(addr: &str) -> HostPort {
    HostPort::parse(addr).unwrap()
}

/// Group 3: a primary and a replica that do not run.
fn group(world: &World) {
    let servers = vec![Server::new(at(PRIMARY), "r1".into(), 7), Server::new(at(REPLICA), "r2".into(), 7)];
    let data_user = Some(DataUser::managed(Secret::new("0".repeat(64)), None));
    let change =
        Change::CreateGroup(CreateGroup { product: PRODUCT, group: GroupId(3), servers, credentials: None, data_user });
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
        write_error: String::new(),
        busy_reply_ms: None,
        saves_fail: false,
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

fn seen(group: &admin::Group, place: usize) -> &admin::ServerObservation {
    group.servers[place].observed.as_ref().unwrap()
}

#[tokio::test]
async fn a_group_with_observations() {
    let world = world().await;
    group(&world);
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, primary(1000));
        sees(&world.nodes[0], node, REPLICA, replica(400));
    }
    // The leader and another node give the same answer, apart from ages.
    for node in [0, 1] {
        let reply = listed(&world, node).await;
        assert!(reply.not_observed_because.is_none(), "{reply:?}");
        let group = &reply.groups[0];
        let roles: Vec<_> = group.servers.iter().map(|s| (s.role(), s.priority)).collect();
        assert_eq!(roles, [(ServerRole::Primary, 100), (ServerRole::Replica, 100)]);
        let (primary, replica) = (seen(group, 0), seen(group, 1));
        let state = |o: &admin::ServerObservation| (o.state(), o.role(), o.link());
        assert_eq!(state(primary), (ServerState::Up, ServerRole::Primary, LinkState::Unspecified));
        assert_eq!(state(replica), (ServerState::Up, ServerRole::Replica, LinkState::Up));
        assert_eq!(
            (replica.lag_bytes, replica.follows.as_deref(), primary.lag_bytes),
            (Some(600), Some(PRIMARY), None)
        );
        assert_eq!(
            (primary.used_memory_bytes, primary.keys, primary.ops_per_second, primary.ping_us),
            (Some(5 << 20), Some(77), Some(900), Some(250))
        );
        let run = (replica.run_id.as_deref(), replica.replication_offset, replica.persistent);
        assert_eq!(run, (Some("r9"), Some(400), Some(true)));
        assert!(replica.not_candidate_because.is_none() && replica.failures.is_empty(), "{replica:?}");
        let shown = shown(&world, node).await;
        assert!(
            shown.group.as_ref().unwrap().warnings.is_empty()
                && shown.waiting_on.is_empty()
                && shown.ended_promotions.is_empty(),
            "{shown:?}"
        );
    }

    // In sync: no lag. Its link is down: the lag is the time since a node has last seen the link up.
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
    assert_eq!((replica_now.link(), replica_now.lag_bytes), (LinkState::Down, Some(300)));
    assert!((9001..60_000).contains(&replica_now.lag_ms.unwrap()), "{replica_now:?}");
}

#[tokio::test]
async fn the_lag_in_time_follows_from_the_write_rate() {
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
    // With another history the lag is not known.
    let mut other = primary(100_000);
    other.probe.as_mut().unwrap().0.replid = "other".into();
    for node in [1, 2] {
        sees(&world.nodes[0], node, PRIMARY, other.clone());
    }
    let reply = listed(&world, 0).await;
    let replica = seen(&reply.groups[0], 1);
    assert_eq!((replica.lag_bytes, replica.lag_ms), (None, None));
    assert!(
        replica.not_candidate_because.as_ref().is_some_and(|why| why.contains("another replication id")),
        "{replica:?}"
    );
}

#[tokio::test]
async fn nodes_that_see_a_server_fail_are_shown() {
    let world = world().await;
    group(&world);
    sees(&world.nodes[0], 1, PRIMARY, fails(9000, primary(1000)));
    sees(&world.nodes[0], 2, PRIMARY, primary(1000));
    for node in [1, 2] {
        sees(&world.nodes[0], node, REPLICA, replica(1000));
    }
    let reply = shown(&world, 1).await;
    let primary_seen = seen(reply.group.as_ref().unwrap(), 0).clone();
    assert_eq!((primary_seen.state(), primary_seen.failures.len()), (ServerState::Suspect, 1));
    assert_eq!((primary_seen.failures[0].node, primary_seen.failures[0].error.as_str()), (1, "no connection in time"));
    assert!(primary_seen.failures[0].failing_for_ms.unwrap() >= 9000);

    sees(&world.nodes[0], 1, PRIMARY, fails(9000, primary(1000)));
    sees(&world.nodes[0], 2, PRIMARY, fails(4000, primary(1000)));
    let reply = shown(&world, 1).await;
    let primary_seen = seen(reply.group.as_ref().unwrap(), 0);
    assert_eq!((primary_seen.state(), primary_seen.failures.len()), (ServerState::Down, 2));
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    let down: Vec<_> = status.warnings.iter().filter(|w| w.text.contains("has been down for")).collect();
    assert!(down.len() == 1 && down[0].text.contains(PRIMARY) && down[0].text.contains("nodes 1, 2"), "{status:?}");
    // The newest answered probe is still shown, with its age.
    assert_eq!((primary_seen.keys, primary_seen.role()), (Some(77), ServerRole::Primary));

    // A server that never answered a probe has no numbers. A server that refuses the login is not down.
    sees(&world.nodes[0], 2, REPLICA, ProbeReport { error: "it wants a password".into(), ..ProbeReport::default() });
    sees(&world.nodes[0], 1, REPLICA, ProbeReport { error: "it wants a password".into(), ..ProbeReport::default() });
    let reply = shown(&world, 1).await;
    let odd = seen(reply.group.as_ref().unwrap(), 1);
    assert_eq!((odd.state(), odd.probe_age_ms, odd.failures.len()), (ServerState::NotProbed, None, 2));
    assert!(odd.failures[0].failing_for_ms.is_none() && odd.failures[0].error.contains("password"), "{odd:?}");
}

#[tokio::test]
async fn without_a_leader_the_answer_has_only_the_log() {
    let world = world().await;
    group(&world);
    world.nodes.iter().for_each(Node::nobody_leads);
    let reply = listed(&world, 1).await;
    assert!(reply.groups[0].servers.iter().all(|s| s.observed.is_none()), "{reply:?}");
    assert!(reply.not_observed_because.as_ref().is_some_and(|why| why.contains("no leader is known")), "{reply:?}");
    let reply = shown(&world, 1).await;
    assert!(reply.group.unwrap().servers[0].observed.is_none() && reply.not_observed_because.is_some());
    let missing = admin::ShowGroupRequest { product: "default".into(), id: 9 };
    let missing = world.client(1).show_group(missing).await.unwrap_err();
    assert!(missing.code() == tonic::Code::NotFound && missing.message().contains("group ls"), "{missing:?}");
}

#[tokio::test]
async fn warnings_for_the_operator() {
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
        let lasting = |what| LastingWait::seen(Wait::new(what, "it has one"), None, boottime_ns(), 0);
        Arc::make_mut(view).waiting_on = said.map(lasting).to_vec();
    };
    world.nodes[0].view.send_modify(waiting);
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.warnings.iter().any(|w| w.to_clear.contains("maintenance off")), "{status:?}");
    let reply = shown(&world, 1).await;
    let waits = "group 3 of product 'default' has no candidate; has lasted a few seconds; ends when it has one";
    assert_eq!(reply.waiting_on, [waits]);
    let told = |reply: &admin::ShowGroupReply, part: &str| {
        let warnings = &reply.group.as_ref().unwrap().warnings;
        warnings.iter().filter(|w| w.text.contains(part) || w.to_clear.contains(part)).count()
    };
    assert_eq!(told(&reply, "1 unmanaged replica(s) that report no port"), 1, "{reply:?}");
    for part in
        ["restart would empty it", "unmanaged replica is in sync with the primary: 10.9.9.9:7777", "maintenance off"]
    {
        assert_eq!(told(&reply, part), 1, "{part}: {reply:?}");
    }
    assert_eq!((told(&reply, REPLICA), told(&reply, "restarted")), (0, 0), "{reply:?}");

    // It restarted: it has another history, and may have lost its keys.
    world.client(1).set_cluster(maintenance(false)).await.unwrap();
    world.shared.append(Uuid(61), note("other")).result.unwrap();
    // The process is the same as before, and has its first replica: no restart.
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
    assert_eq!(told(&reply, &format!("the primary {PRIMARY} restarted empty 0 s ago")), 1, "{reply:?}");
    let events = world.client(1).list_events(admin::ListEventsRequest::default()).await.unwrap().into_inner().events;
    let kinds: Vec<_> = events.iter().map(|e| e.kind()).collect();
    let wanted = [EventKind::MaintenanceOn, EventKind::MaintenanceOff, EventKind::PrimaryNoted];
    assert_eq!(kinds[kinds.len() - wanted.len()..], wanted);
    let noted = events.last().unwrap();
    assert_eq!((noted.subject.as_str(), noted.product.as_deref()), ("group 3", Some("default")));
}

#[tokio::test]
async fn open_and_ended_promotions_are_shown() {
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
    assert_eq!(
        (open.id, open.state(), open.kind(), open.attempts),
        (id.0, PromotionState::Started, admin::PromotionKind::Failover, 0)
    );
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
    assert_eq!((open.state(), open.attempts), (PromotionState::Held, 1));
    let finish = Change::FinishPromotion(FinishPromotion { promotion: id, hold: HoldId(hold), term: Term(1) });
    world.shared.append(Uuid(72), finish).result.unwrap();
    let reply = shown(&world, 1).await;
    let group = reply.group.unwrap();
    assert!(group.promotion.is_none() && group.epoch > 0 && Epoch(group.epoch) == world.shared.state().applied);
    assert_eq!((group.servers[0].address.as_str(), group.servers[1].diverged), (REPLICA, true));
    assert_eq!((reply.ended_promotions.len(), reply.ended_promotions[0].state()), (1, PromotionState::Done));
}

/// A node that leads without a majority is no leader, whoever is asked.
#[tokio::test]
async fn a_leader_without_a_majority_says_so_to_whoever_asks() {
    let world = world().await;
    [1, 2].iter().for_each(|id| world.nodes[0].heard(*id, |_| {}));
    let asked = async |node: usize| world.client(node).status(admin::StatusRequest {}).await.unwrap().into_inner();
    let codes = |status: &admin::StatusReply| status.warnings.iter().map(|w| w.code.clone()).collect::<Vec<_>>();
    for node in [0, 1] {
        let status = asked(node).await;
        assert_eq!((status.health(), codes(&status)), (admin::Severity::Warning, vec!["two-voters".to_owned()]));
    }
    world.nodes[0].log.confirmed.store(false, Ordering::SeqCst);
    for node in [0, 1] {
        let status = asked(node).await;
        // Nothing listens at the address that the log has of node 2.
        let said = "NO QUORUM: 1 of 2 voters answers; changes are impossible";
        assert!(status.headline.starts_with(said) && status.health() == admin::Severity::Critical, "{status:?}");
        assert_eq!((codes(&status)[0].as_str(), status.leader), ("no-quorum", Some(1)), "{status:?}");
    }
}
