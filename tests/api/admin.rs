//! The admin service over gRPC: two nodes, one log.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
};

use pontoon::{
    api::server::{Services, serve},
    clock::boottime_ns,
    model::{
        change::{Change, FinishAssign, FinishRemove, OpenHold},
        ids::{AssignmentId, HoldId, HostPort, NodeId, Term, Uuid},
        outcome::Outcome,
        route::HoldKind,
        state::Cause,
    },
    plan::waiting::{LastingWait, Wait},
    wire::{
        auth::{ClientAuth, ClusterSecret},
        pb::admin::{self, ChangeOptions, NodeState, SlotSpan, admin_client::AdminClient},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::{
    log::{Node, Shared},
    server::Redis,
    wait::meanwhile,
};

/// Stands in for the services between nodes.
#[derive(Clone)]
pub struct Nothing<const N: usize>;

impl<const N: usize> NamedService for Nothing<N> {
    const NAME: &'static str = ["test.Raft", "test.Node"][N];
}

impl<const N: usize> Service<http::Request<Body>> for Nothing<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok(http::Response::new(Body::empty())))
    }
}

const SECRET: &str = "0123456789abcdef-secret";

pub type Client = AdminClient<InterceptedService<Channel, ClientAuth>>;

pub struct World {
    pub shared: Arc<Shared>,
    pub nodes: Vec<Node>,
    addrs: Vec<String>,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn secret() -> ClusterSecret {
    ClusterSecret::new(SECRET).unwrap()
}

/// Two nodes; the first leads. There are no heartbeats, except those that a test sends.
pub async fn world() -> World {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addrs: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    // Different hosts, so that both nodes can listen for products.
    let other = addrs[1].replace("127.0.0.1", "127.0.0.2");
    let shared = Shared::new(&[(1, &addrs[0]), (2, &other)]);
    let mut world = World { nodes: vec![Node::new(1, &shared), Node::new(2, &shared)], shared, addrs, tasks: vec![] };
    for (node, listener) in world.nodes.iter().zip(listeners) {
        node.leader(1, &world.addrs[0]);
        let services = Services {
            control: node.control.clone(),
            raft: Nothing::<0>,
            node: Nothing::<1>,
            secret: secret(),
            refused: Default::default(),
            hosts: Default::default(),
            source: None,
            leased: Arc::new(|| true),
            report: tokio::sync::watch::channel(Arc::default()).1,
            clients: Default::default(),
            clients_max: 50_000,
            connections_max: 500,
        };
        world.tasks.push(tokio::spawn(serve(listener, services, std::future::pending())));
    }
    world
}

impl World {
    /// A client of node 0 (the leader) or 1.
    pub fn client(&self, node: usize) -> Client {
        self.client_with(node, secret())
    }

    fn client_with(&self, node: usize, secret: ClusterSecret) -> Client {
        AdminClient::with_interceptor(self.endpoint(node).connect_lazy(), ClientAuth(secret))
    }

    /// A client whose connections come from this address of the machine.
    pub fn client_from(&self, node: usize, source: std::net::IpAddr) -> Client {
        let channel = self.endpoint(node).local_address(Some(source)).connect_lazy();
        AdminClient::with_interceptor(channel, ClientAuth(secret()))
    }

    fn endpoint(&self, node: usize) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.addrs[node])).unwrap()
    }

    pub fn proposals(&self) -> usize {
        self.shared.proposals.load(Ordering::SeqCst)
    }

    pub async fn group(&self, id: u32, redis: &Redis) -> admin::ChangeReply {
        self.client(1).create_group(create_group(id, redis)).await.unwrap().into_inner()
    }

    pub async fn assign(&self, first: u32, last: u32, group: u32) -> Result<admin::ChangeReply, tonic::Status> {
        let request = admin::AssignSlotsRequest {
            product: "default".into(),
            slots: vec![SlotSpan { first, last }],
            group,
            ..Default::default()
        };
        self.client(1).assign_slots(request).await.map(tonic::Response::into_inner)
    }

    /// Plays the leader's assignment loop: holds and finishes every assignment.
    pub fn finish_assignments(&self) -> tokio::task::JoinHandle<()> {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let (mut changed, mut id) = (shared.changed(), 1000);
            loop {
                let state = changed.borrow_and_update().clone();
                for assignment in state.assignments.values() {
                    id += 2;
                    finish(&shared, assignment.id, id);
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

fn finish(shared: &Shared, id: AssignmentId, entry: u128) {
    let cause = Cause::Assignment(id);
    let hold = Change::OpenHold(OpenHold { cause, attempt: 1, kind: HoldKind::Wait, reason: "test".into() });
    let Ok(Outcome::Held(HoldId(hold))) = shared.append(Uuid(entry), hold).result else { panic!("no hold") };
    let state = shared.state();
    let product = state.products.values().next().unwrap();
    let group_epochs = product.groups.values().map(|group| (group.id, group.epoch)).collect();
    let change = Change::FinishAssign(FinishAssign { assignment: id, hold: HoldId(hold), term: Term(1), group_epochs });
    shared.append(Uuid(entry + 1), change).result.unwrap();
}

fn create_product(name: &str, port: u32) -> admin::CreateProductRequest {
    admin::CreateProductRequest { name: name.into(), port, ..Default::default() }
}

fn create_group(id: u32, redis: &Redis) -> admin::CreateGroupRequest {
    admin::CreateGroupRequest { product: "default".into(), id, primary: redis.addr.to_string(), ..Default::default() }
}

pub fn with_id(byte: u8) -> Option<ChangeOptions> {
    Some(ChangeOptions { change_id: vec![byte; 16].into(), ..Default::default() })
}

#[tokio::test]
async fn products_are_created_changed_and_removed() {
    let world = world().await;
    let mut client = world.client(1);
    let mut request = create_product("shop", 7600);
    request.password = "hunter2hunter2".into();
    request.options = Some(ChangeOptions { dry_run: true, ..Default::default() });
    let would = client.create_product(request.clone()).await.unwrap().into_inner();
    assert!(would.index == 0 && would.done[0].contains("shop") && world.proposals() == 0, "{would:?}");
    request.options = None;
    let made = client.create_product(request.clone()).await.unwrap().into_inner();
    assert!(made.index > 0 && made.route_epoch == made.index && made.warnings.is_empty(), "{made:?}");
    assert!(!format!("{made:?}").contains("hunter2"));
    // Without the id of the first call it is another change: it finds what it wants, or another product of this name.
    let proposals = world.proposals();
    let again = client.create_product(request.clone()).await.unwrap().into_inner();
    assert!(again.unchanged && again.done[0].contains("product 'shop' already"), "{again:?}");
    let others = [
        admin::CreateProductRequest { port: 7700, ..request.clone() },
        admin::CreateProductRequest { password: "other".into(), ..request.clone() },
        admin::CreateProductRequest { password: String::new(), ..request },
    ];
    assert_eq!(world.proposals(), proposals);
    for other in others {
        let refused = client.create_product(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }

    let listed = client.list_products(admin::ListProductsRequest {}).await.unwrap().into_inner();
    let shop = listed.products.iter().find(|p| p.name == "shop").unwrap();
    assert!(shop.has_password && shop.layout() == admin::Layout::Codis && shop.databases == 16, "{shop:?}");
    assert_eq!((shop.mode(), shop.isolated()), (admin::Mode::Store, admin::Isolated::Refuse));
    assert!(!format!("{listed:?}").contains("hunter2"));

    let set = |edit: &dyn Fn(&mut admin::SetProductRequest)| {
        let mut request = admin::SetProductRequest { name: "shop".into(), ..Default::default() };
        edit(&mut request);
        request
    };
    let nothing = client.set_product(set(&|_| {})).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    // A user name alone keeps the password; an empty password removes both.
    client.set_product(set(&|r| r.username = Some("alice".into()))).await.unwrap();
    let auth = |world: &World| {
        world.shared.state().products.values().find(|p| p.name == "shop").unwrap().auth.credentials.clone()
    };
    let now = auth(&world).unwrap();
    assert_eq!((now.username.as_deref(), now.password.reveal()), (Some("alice"), "hunter2hunter2"));
    // Two passwords at a time, of which the older one can be removed.
    for (wrong, why) in [
        (set(&|r| r.keep_sessions = true), "needs the new password"),
        (set(&|r| (r.keep_sessions, r.password) = (true, Some(String::new()))), "cannot stay"),
        (set(&|r| (r.remove_former_password, r.password) = (true, Some("x".into()))), "second command"),
    ] {
        let refused = client.set_product(wrong).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(why), "{refused:?}");
    }
    let add = |password: &str| set(&|r| (r.keep_sessions, r.password) = (true, Some(password.into())));
    let remove_former = set(&|r| r.remove_former_password = true);
    let added = client.set_product(add("next")).await.unwrap().into_inner();
    assert!(
        format!("{added:?}").contains("former-password=") && !format!("{added:?}").contains("hunter2"),
        "{added:?}"
    );
    assert!(client.set_product(add("next")).await.unwrap().into_inner().unchanged);
    let third = client.set_product(add("third")).await.unwrap_err();
    assert!(third.message().contains("pontoon product set shop former-password="), "{third:?}");
    let former = |world: &World| {
        let state = world.shared.state();
        let shop = state.products.values().find(|p| p.name == "shop").unwrap();
        shop.auth.former.as_ref().map(|former| former.credentials.password.reveal().to_owned())
    };
    assert_eq!(former(&world).as_deref(), Some("hunter2hunter2"));
    client.set_product(remove_former.clone()).await.unwrap();
    assert!(client.set_product(remove_former).await.unwrap().into_inner().unchanged);
    assert_eq!((former(&world), auth(&world).unwrap().password.reveal()), (None, "next"));
    let open = client.set_product(set(&|r| r.password = Some(String::new()))).await.unwrap().into_inner();
    assert!(auth(&world).is_none() && !open.warnings.is_empty());

    let remove =
        |byte| admin::RemoveProductRequest { name: "shop".into(), options: with_id(byte), ..Default::default() };
    let first = client.remove_product(remove(1)).await.unwrap().into_inner();
    assert_eq!(client.remove_product(remove(1)).await.unwrap().into_inner().index, first.index);
    assert!(client.remove_product(remove(2)).await.unwrap().into_inner().unchanged);
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let world = world().await;
    let mut client = world.client(1);
    for (request, word) in [
        (create_product("a b", 7600), "name"),
        (create_product("ok", 0), "port"),
        (create_product("ok", 70_000), "port"),
        (admin::CreateProductRequest { layout: 99, ..create_product("ok", 7600) }, "layout"),
        (admin::CreateProductRequest { mode: 99, ..create_product("ok", 7600) }, "mode"),
        (admin::CreateProductRequest { username: "u".into(), ..create_product("ok", 7600) }, "password"),
        (
            admin::CreateProductRequest {
                options: Some(ChangeOptions { change_id: vec![1].into(), ..Default::default() }),
                ..create_product("ok", 7600)
            },
            "16 bytes",
        ),
    ] {
        let status = client.create_product(request).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(word), "{status:?}");
    }
    let slots = world.assign(1000, 1024, 1).await.unwrap_err();
    assert!(slots.code() == Code::InvalidArgument && slots.message().contains("1024"), "{slots:?}");
    let unknown = world.assign(0, 1, 9).await.unwrap_err();
    assert!(unknown.code() == Code::NotFound && unknown.message().contains("group 9"), "{unknown:?}");
    let product = client.list_slots(admin::ListSlotsRequest { product: "nope".into() }).await.unwrap_err();
    assert_eq!(product.code(), Code::NotFound);
    assert_eq!(world.proposals(), 0);
}

#[tokio::test]
async fn groups_and_slots() {
    let world = world().await;
    let (one, two) = (Redis::start(&[]).await, Redis::start(&[]).await);
    one.run("SET some:key 1").await;
    let mut request = create_group(1, &one);
    request.options = with_id(5);
    let made = world.client(1).create_group(request.clone()).await.unwrap().into_inner();
    assert!(made.done.iter().any(|line| line.contains(&format!("{}: 1 keys", one.addr))), "{made:?}");
    // A repeat succeeds although the server belongs to the group now.
    assert_eq!(world.client(0).create_group(request.clone()).await.unwrap().into_inner(), made);
    // The same id with another change is refused.
    let reused = |status: tonic::Status| {
        assert!(status.message().contains("change id") && status.code() == Code::FailedPrecondition, "{status:?}");
    };
    reused(world.client(1).create_group(admin::CreateGroupRequest { id: 7, ..request.clone() }).await.unwrap_err());
    let elsewhere = admin::CreateGroupRequest { primary: two.addr.to_string(), ..request };
    reused(world.client(1).create_group(elsewhere).await.unwrap_err());
    let slots = |slot, options| admin::AssignSlotsRequest {
        product: "default".into(),
        slots: vec![SlotSpan { first: slot, last: slot }],
        group: 1,
        options,
        ..Default::default()
    };
    reused(world.client(1).assign_slots(slots(3, with_id(5))).await.unwrap_err());
    let assigned = world.client(1).assign_slots(slots(3, with_id(6))).await.unwrap().into_inner();
    assert_eq!(world.client(1).assign_slots(slots(3, with_id(6))).await.unwrap().into_inner().index, assigned.index);
    reused(world.client(1).assign_slots(slots(4, with_id(6))).await.unwrap_err());
    reused(
        world
            .client(1)
            .remove_node(admin::RemoveNodeRequest { id: 2, options: with_id(5), ..Default::default() })
            .await
            .unwrap_err(),
    );
    let product = admin::RemoveProductRequest { name: "gone".into(), options: with_id(5), ..Default::default() };
    reused(world.client(1).remove_product(product).await.unwrap_err());
    world.group(2, &two).await;
    // The same command again, under a new id. With another server: the reason is the group that exists.
    let twice = world.client(1).create_group(create_group(1, &one)).await.unwrap().into_inner();
    assert!(twice.unchanged && twice.done[0].contains("has this group 1 already"), "{twice:?}");
    let twice = world.client(1).create_group(create_group(1, &two)).await.unwrap_err();
    assert!(twice.message().contains("has a group 1 already"), "{twice:?}");
    let twice = world.client(1).create_group(create_group(3, &two)).await.unwrap_err();
    assert!(twice.code() == Code::FailedPrecondition && twice.message().contains("group 2"), "{twice:?}");

    world.assign(0, 1023, 1).await.unwrap();
    let again = world.assign(0, 1023, 1).await.unwrap();
    assert!(again.unchanged, "{again:?}");
    let locate = admin::LocateKeyRequest { product: "default".into(), key: "some:key".into() };
    let at = world.client(1).locate_key(locate).await.unwrap().into_inner();
    assert_eq!((at.group, at.server.as_deref()), (Some(1), Some(one.addr.as_str())));

    // Another owner: refused with the name of a key; accepted if there are no keys.
    let refused = world.assign(0, 1023, 2).await.unwrap_err();
    let text = refused.message();
    assert!(
        refused.code() == Code::FailedPrecondition && text.contains("'some:key'") && text.contains(one.addr.as_str()),
        "{text}"
    );
    let driver = world.finish_assignments();
    let (first, last) = if at.slot < 512 { (512, 1023) } else { (0, 511) };
    let reply = world.assign(first, last, 2).await.unwrap();
    assert!(!reply.unchanged && reply.route_epoch > reply.index, "{reply:?}");
    driver.abort();
    let list = admin::ListSlotsRequest { product: "default".into() };
    let leaders = world.client(0).list_slots(list.clone()).await.unwrap().into_inner();
    assert_eq!(world.client(1).list_slots(list).await.unwrap().into_inner(), leaders);
    assert_eq!(leaders.ranges.iter().map(|r| (r.first, r.last)).collect::<Vec<_>>(), [(0, 511), (512, 1023)]);
    assert_eq!(leaders.ranges.iter().find(|r| r.first == first).unwrap().group, Some(2));

    // The server is gone: whether it has keys is not known.
    let gone = one.addr.clone();
    drop(one);
    let refused = world.assign(at.slot, at.slot, 2).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(gone.as_str()), "{refused:?}");
    let remove = admin::RemoveGroupRequest { product: "default".into(), id: 1, options: None };
    assert_eq!(world.client(1).remove_group(remove).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn replicas_are_added_and_removed() {
    let world = world().await;
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    world.group(1, &primary).await;
    let add = admin::AddServerRequest {
        product: "default".into(),
        group: 1,
        address: replica.addr.to_string(),
        options: with_id(9),
        ..Default::default()
    };
    let made = world.client(1).add_server(add.clone()).await.unwrap().into_inner();
    assert_eq!(world.client(1).add_server(add.clone()).await.unwrap().into_inner(), made);
    let again = admin::AddServerRequest { options: None, ..add };
    let again = world.client(1).add_server(again).await.unwrap().into_inner();
    assert!(again.unchanged && again.done[0].contains("is in group 1 already"), "{again:?}");
    let groups = admin::ListGroupsRequest { product: "default".into() };
    let groups = world.client(1).list_groups(groups).await.unwrap().into_inner().groups;
    let servers: Vec<_> = groups[0].servers.iter().map(|s| (s.address.as_str(), s.role())).collect();
    assert_eq!(
        servers,
        [(primary.addr.as_str(), admin::ServerRole::Primary), (replica.addr.as_str(), admin::ServerRole::Replica)]
    );
    // A primary without keys is added too, and the reply says so; one with keys would lose them.
    let (fresh, full) = (Redis::start(&[]).await, Redis::start(&[]).await);
    full.run("SET k v").await;
    let join = |redis: &Redis| admin::AddServerRequest {
        product: "default".into(),
        group: 1,
        address: redis.addr.to_string(),
        ..Default::default()
    };
    let joined = world.client(1).add_server(join(&fresh)).await.unwrap().into_inner();
    assert!(joined.done[1].contains(&format!("{} is made to follow {}", fresh.addr, primary.addr)), "{joined:?}");
    assert!(joined.warnings.iter().any(|w| w.contains("does not persist") && w.contains(primary.addr.as_str())));
    let refused = world.client(1).add_server(join(&full)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("FLUSHALL"), "{refused:?}");
    let remove = |redis: &Redis| admin::RemoveServerRequest {
        product: "default".into(),
        group: 1,
        address: redis.addr.to_string(),
        ..Default::default()
    };
    let refused = world.client(1).remove_server(remove(&primary)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("primary"), "{refused:?}");
    world.client(1).remove_server(remove(&replica)).await.unwrap();
    // What is gone already needs no change.
    let gone = world.client(1).remove_server(remove(&replica)).await.unwrap().into_inner();
    assert!(gone.unchanged && gone.done[0].contains("has no server"), "{gone:?}");
    let group = admin::RemoveGroupRequest { product: "default".into(), id: 9, options: None };
    let gone = world.client(1).remove_group(group).await.unwrap().into_inner();
    assert!(gone.unchanged && gone.done[0].contains("has no group 9"), "{gone:?}");
    let product = admin::RemoveProductRequest { name: "gone".into(), ..Default::default() };
    let gone = world.client(1).remove_product(product).await.unwrap().into_inner();
    assert!(gone.unchanged && gone.done[0].contains("there is no product 'gone'"), "{gone:?}");
    let node = admin::RemoveNodeRequest { id: 99, assume_dead: true, ..Default::default() };
    let gone = world.client(1).remove_node(node).await.unwrap().into_inner();
    assert!(gone.unchanged && gone.done[0].contains("there is no node 99"), "{gone:?}");
    // Everything else about what does not exist has one code.
    let mut client = world.client(1);
    let role = admin::SetNodeRoleRequest { id: 99, role: admin::NodeRole::Voter.into(), ..Default::default() };
    let group =
        admin::SetGroupRequest { product: "default".into(), id: 9, down_after_ms: Some(1000), ..Default::default() };
    let product = admin::SetProductRequest { name: "gone".into(), ops_max: Some(1), ..Default::default() };
    let drain = admin::DrainGroupRequest { product: "default".into(), id: 9, ..Default::default() };
    let promote =
        admin::PromoteRequest { product: "gone".into(), group: 1, address: "a:1".into(), ..Default::default() };
    let resume = admin::ResumeMigrationRequest { id: 99, ..Default::default() };
    let of = |reply: Result<tonic::Response<admin::ChangeReply>, tonic::Status>| reply.unwrap_err().code();
    for (what, code) in [
        ("node", of(client.set_node_role(role).await)),
        ("group", of(client.set_group(group).await)),
        ("product", of(client.set_product(product).await)),
        ("drain", of(client.drain_group(drain).await)),
        ("promote", of(client.promote(promote).await)),
        ("migration", of(client.resume_migration(resume).await)),
    ] {
        assert_eq!(code, Code::NotFound, "{what}");
    }
}

#[tokio::test]
async fn calls_are_repeated_while_the_leader_changes() {
    let world = world().await;
    // Without a leader nothing is executed, and the status says so before the deadline.
    world.nodes.iter().for_each(Node::nobody_leads);
    let mut request = create_product("shop", 7600);
    request.options = Some(ChangeOptions { timeout_ms: 200, ..Default::default() });
    let nobody = world.client(1).create_product(request.clone()).await.unwrap_err();
    assert!(nobody.code() == Code::Unavailable && nobody.message().contains("not executed"), "{nobody:?}");
    assert_eq!(world.proposals(), 0);

    // A leader appears while the call waits.
    request.options = None;
    let mut client = world.client(1);
    let waiting = tokio::spawn(async move { client.create_product(request).await });
    world.nodes[1].leader(2, &world.addrs[1]);
    waiting.await.unwrap().unwrap();
    assert_eq!(world.proposals(), 1);

    // The answer is lost, the change is made: the repeat under the same id returns the first result.
    world.nodes[1].leader(1, &world.addrs[0]);
    world.nodes[0].leader(1, &world.addrs[0]);
    world.shared.lose_answers.store(2, Ordering::SeqCst);
    let reply = world.client(1).create_product(create_product("other", 7700)).await.unwrap().into_inner();
    assert!(reply.index > 0 && world.proposals() == 4, "{reply:?}, {} proposals", world.proposals());

    // There is never an answer: outcome unknown, with the id for a repeat.
    world.shared.lose_answers.store(usize::MAX, Ordering::SeqCst);
    let mut request = create_product("third", 7800);
    request.options = Some(ChangeOptions { change_id: vec![0xab; 16].into(), timeout_ms: 300, ..Default::default() });
    let unknown = world.client(1).create_product(request).await.unwrap_err();
    assert!(unknown.code() == Code::Unknown && unknown.message().contains(&"ab".repeat(16)), "{unknown:?}");
    // Regression: it was said four times, with an advice that the command line does not offer.
    assert_eq!(unknown.message().matches("outcome unknown").count(), 1, "{unknown:?}");
}

#[tokio::test]
async fn forwarding_is_one_hop() {
    let world = world().await;
    // Each node believes that the other leads.
    world.nodes[0].leader(2, &world.addrs[1]);
    world.nodes[1].leader(1, &world.addrs[0]);
    let mut request = create_product("shop", 7600);
    request.options = Some(ChangeOptions { timeout_ms: 300, ..Default::default() });
    let status = world.client(1).create_product(request).await.unwrap_err();
    assert!(status.code() == Code::Unavailable && status.message().contains("not the leader"), "{status:?}");
}

#[tokio::test]
async fn waiting_for_nodes() {
    let world = world().await;
    let mut request = create_product("shop", 7600);
    request.options = Some(ChangeOptions { wait: true, timeout_ms: 20_000, ..Default::default() });
    let mut client = world.client(1);
    let waiting = tokio::spawn(async move { client.create_product(request).await });
    let reply = meanwhile(waiting, || {
        let state = world.shared.state();
        for id in [1, 2] {
            world.nodes[0].heard(id, |seen| {
                seen.route_epoch = state.route_epoch;
                seen.listeners = state.products.keys().map(|id| (*id, Default::default())).collect();
            });
        }
    });
    let reply = reply.await.unwrap().into_inner();
    assert!(reply.warnings.iter().all(|w| !w.contains("not alive")), "{reply:?}");

    // No node reports any more: the change is made, but not before the deadline.
    let mut request = create_product("late", 7700);
    world.nodes[0].heard(1, |_| {});
    request.options = Some(ChangeOptions { wait: true, timeout_ms: 50, ..Default::default() });
    let late = world.client(1).create_product(request).await.unwrap_err();
    assert!(late.code() == Code::DeadlineExceeded && late.message().contains("was made"), "{late:?}");

    // Every node reports what only the leader knows. A node without a heartbeat is silent.
    world.nodes[0].view.send_modify(|view| drop(Arc::make_mut(view).nodes.remove(&NodeId(2))));
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.nodes[1].state(), NodeState::Silent, "{status:?}");
    assert!(status.warnings.iter().any(|w| w.text.contains("node 2") && w.text.contains("not alive")), "{status:?}");
    // A new leader cannot know that yet.
    world.nodes[0].view.send_modify(|view| Arc::make_mut(view).since_ns = boottime_ns() + 60_000_000_000);
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert!(
        status.nodes[1].state() == NodeState::Unknown && status.warnings.iter().all(|w| !w.text.contains("not alive")),
        "{status:?}"
    );
    world.nodes[0].heard(2, |seen| seen.version = "9.9".into());
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.leader, status.answered_by, status.nodes.len()), (Some(1), 2, 2));
    let node = &status.nodes[1];
    assert_eq!((node.state(), node.role(), node.version.as_str()), (NodeState::Alive, admin::NodeRole::Voter, "9.9"));
    // Without a leader the states of nodes are unknown.
    world.nodes.iter().for_each(Node::nobody_leads);
    let status = world.client(1).status(admin::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.nodes.iter().all(|n| n.state() == NodeState::Unknown), "{status:?}");
}

#[tokio::test]
async fn settings_are_shown_by_every_node() {
    let world = world().await;
    let shown = async |node| world.client(node).show_cluster(admin::ShowClusterRequest {}).await.unwrap().into_inner();
    let default =
        admin::ShowClusterReply { voters: 5, hold_max_ms: 250, maintenance: false, failover_share_max_percent: 50 };
    assert_eq!(shown(1).await, default);
    let set = admin::SetClusterRequest {
        voters: Some(3),
        hold_max_ms: Some(400),
        maintenance: Some(true),
        failover_share_max_percent: Some(30),
        ..Default::default()
    };
    world.client(1).set_cluster(set).await.unwrap();
    for node in [0, 1] {
        let now =
            admin::ShowClusterReply { voters: 3, hold_max_ms: 400, maintenance: true, failover_share_max_percent: 30 };
        assert_eq!(shown(node).await, now);
    }
}

#[tokio::test]
async fn removing_nodes() {
    let world = world().await;
    let remove = |assume_dead| admin::RemoveNodeRequest {
        id: 2,
        assume_dead,
        force: assume_dead,
        options: Some(ChangeOptions { timeout_ms: 300, ..Default::default() }),
    };
    let mut product = create_product("cache", 7600);
    product.mode = admin::Mode::Cache.into();
    world.client(1).create_product(product).await.unwrap();
    let silent = world.client(1).remove_node(remove(false)).await.unwrap_err();
    assert!(silent.code() == Code::FailedPrecondition && silent.message().contains("--assume-dead"), "{silent:?}");
    // Regression: it named whatever the leader waited for.
    let sweep = LastingWait::seen(Wait::new("the sweep of group 21", "keys are deleted"), None, 0, 0);
    world.nodes[0].view.send_modify(|view| Arc::make_mut(view).waiting_on = vec![sweep]);
    let slow = world.client(1).remove_node(remove(true)).await.unwrap_err();
    let why = "the removal of node 2 has not ended: it is still a voter, until a majority of the others (node 1)";
    assert!(slow.code() == Code::DeadlineExceeded && slow.message().contains(why), "{slow:?}");
    assert!(!slow.message().contains("the sweep"), "{slow:?}");
    let uuid = world.shared.state().members.values().find(|m| m.id.0 == 2).unwrap().uuid;
    let node = pontoon::model::ids::NodeId(2);
    world.shared.append(Uuid(77), Change::FinishRemove(FinishRemove { node, uuid, term: Term(1) })).result.unwrap();
    let again = world.client(1).remove_node(remove(true)).await.unwrap().into_inner();
    assert!(again.unchanged && again.done[0].contains("node 2 was removed"), "{again:?}");
}

/// Regression: a node could join with an address at which nobody reaches it, and became a voter.
#[tokio::test]
async fn a_node_does_not_join_with_an_address_of_every_machine() {
    let world = world().await;
    for (n, admin) in [(91, "0.0.0.0:7104"), (92, "[::]:7104"), (93, "[::ffff:0.0.0.0]:7104"), (94, "0:7104")] {
        let mut new = crate::log::member(3, admin);
        let refused = world.shared.append(Uuid(n), Change::AddMember(new.clone())).result.unwrap_err();
        assert!(refused.to_string().contains("no address at which others reach it"), "{refused}");
        (new.admin, new.advertise) = (HostPort::parse("127.0.0.3:7104").unwrap(), new.admin.host().to_owned());
        let refused = world.shared.append(Uuid(n + 10), Change::AddMember(new)).result.unwrap_err();
        assert!(refused.to_string().contains("--advertise"), "{refused}");
    }
}

/// Regression: one of two live voters beside a dead one could be removed, and the cluster was down.
#[tokio::test]
async fn a_change_that_loses_the_quorum_is_refused_unless_it_is_forced() {
    let world = world().await;
    let voters = |now: &[u64]| {
        let voters = now.iter().map(|id| NodeId(*id)).collect();
        world.nodes[0].log.leadership.send_modify(|leadership| leadership.voters = voters);
    };
    let three = world.shared.append(Uuid(90), Change::AddMember(crate::log::member(3, "127.0.0.3:7103")));
    three.result.unwrap();
    voters(&[1, 2, 3]);
    let remove = |id| admin::RemoveNodeRequest {
        id,
        options: Some(ChangeOptions { timeout_ms: 300, ..Default::default() }),
        ..Default::default()
    };
    world.nodes[0].heard(2, |seen| seen.lease_ends_ns = u64::MAX);
    let learner = admin::SetNodeRoleRequest { id: 2, role: admin::NodeRole::Learner.into(), ..Default::default() };
    let fewer = admin::SetClusterRequest { voters: Some(1), ..Default::default() };
    let client = || world.client(1);
    let part = "start node 3 again, or remove what is lost for good first (pontoon node remove 3), or --force";
    let proposals = world.proposals();
    for refused in [client().remove_node(remove(2)).await, client().set_node_role(learner.clone()).await] {
        let refused = refused.unwrap_err();
        assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(part), "{refused:?}");
        assert!(refused.message().contains("would be 1, 3, of which 2 must be alive"), "{refused:?}");
    }
    assert_eq!(world.proposals(), proposals);
    // One voter that is alive suffices, and a setting that changes no voter needs none.
    client().set_cluster(fewer).await.unwrap();
    client().set_cluster(admin::SetClusterRequest { voters: Some(5), ..Default::default() }).await.unwrap();
    // The dead one may go.
    let waits = client().remove_node(remove(3)).await.unwrap_err();
    assert_eq!(waits.code(), Code::DeadlineExceeded, "{waits:?}");
    client().set_node_role(admin::SetNodeRoleRequest { force: true, ..learner }).await.unwrap();
}

#[tokio::test]
async fn every_service_requires_the_secret() {
    let world = world().await;
    for wrong in [ClusterSecret::none(), ClusterSecret::new("another-secret-0123").unwrap()] {
        let status = world.client_with(0, wrong).status(admin::StatusRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    assert!(world.client(0).status(admin::StatusRequest {}).await.is_ok());
    // Reflection, by both names.
    let channel = Endpoint::from_shared(format!("http://{}", world.addrs[0])).unwrap().connect_lazy();
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let list = || {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        tokio_stream::once(request)
    };
    let refused = ServerReflectionClient::new(channel.clone()).server_reflection_info(list()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut client = ServerReflectionClient::with_interceptor(channel, ClientAuth(secret()));
    let mut answers = client.server_reflection_info(list()).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!()
    };
    let names: Vec<_> = listed.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"pontoon.admin.v1.Admin"), "{names:?}");
}

#[tokio::test]
async fn health_needs_no_secret() {
    let world = world().await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(&world.addrs[0]).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    world.nodes[0].nobody_leads();
    let unready = get("/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("no leader"), "{unready}");
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/other").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn metrics_need_the_secret() {
    let world = world().await;
    let get = async |headers: &str| {
        let mut stream = TcpStream::connect(&world.addrs[0]).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for headers in ["", "authorization: Bearer another-secret-of-this-length\r\n"] {
        let refused = get(headers).await;
        assert!(refused.starts_with("HTTP/1.1 401") && !refused.contains("pontoon_"), "{refused}");
    }
    let answer = get(&format!("authorization: Bearer {SECRET}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/openmetrics-text"), "{answer}");
    assert!(answer.contains("\npontoon_clients_max 50000\n") && answer.contains("# EOF"), "{answer}");
}
