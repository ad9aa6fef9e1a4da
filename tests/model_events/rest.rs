//! A log of what operators ask for, all of it accepted, and what its events say.

use pontoon::model::{
    change::{
        AddServer, AssignFree, BeginRemove, Bootstrap, Change, CreateGroup, FinishRemove, ForgetFormer, GiveUpAssign,
        MigrationProgress, NewMember, NewProduct, NoteMembership, Recover, RemoveGroup, RemoveProduct, RemoveServer,
        SetAuth, SetCluster, SetControlUser, SetDataUser, SetGroup, SetImpaired, SetProduct, SetRole, SetServer,
        StartAssign,
    },
    client_rules::SetClientRules,
    data_user::DataUser,
    ids::{AssignmentId, Epoch, GroupId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
    migration::Counters,
    reads::{ReadFrom, SetReads},
    redis_version::ToldVersion,
    route::{Isolated, Mode},
    secret::{Credentials, Secret},
    slot::Layout,
    state::{RaftMembership, Role},
};

use crate::logs::{self as golden, Log, STEP, server};

/// What all passwords begin with.
pub const PASSWORD: &str = "hunter";

const PRODUCT: ProductId = ProductId(2);
const GROUP: GroupId = GroupId(1);

/// Logs that reach what the golden ones do not.
pub fn logs() -> [Log; 2] {
    [audited(), counted()]
}

/// A mover reports the same phase twice.
fn counted() -> Log {
    let mut log = golden::migrations();
    let place = log.iter().position(|(name, _)| *name == "migration_progress").unwrap();
    log.truncate(place + 1);
    let Change::MigrationProgress(last) = log[place].1.clone() else { panic!("{log:?}") };
    let counters = Counters { keys: last.counters.keys + 1, ..last.counters };
    log.push((STEP, Change::MigrationProgress(MigrationProgress { counters, verified: None, ..last })));
    log
}

fn member(id: u64) -> NewMember {
    let admin = HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap();
    NewMember { id: NodeId(id), uuid: Uuid(id.into()), admin, advertise: format!("n{id}"), port_offset: 0 }
}

fn login(user: Option<&str>, n: u32) -> Credentials {
    Credentials { username: user.map(str::to_owned), password: Secret::new(format!("{PASSWORD}{n}")) }
}

fn set_product(auth: Option<SetAuth>) -> SetProduct {
    SetProduct {
        product: PRODUCT,
        port: None,
        databases: None,
        auth,
        auto_rebalance: None,
        min_acks: None,
        min_acks_ms: None,
        reads: SetReads::default(),
        clients_max: None,
        rules: SetClientRules::default(),
    }
}

fn set_data_user(n: u32) -> Change {
    let data_user = DataUser { credentials: login(Some("data"), n), managed: false };
    Change::SetDataUser(SetDataUser { product: PRODUCT, group: GROUP, data_user })
}

fn set_cluster(voters: Option<u8>, maintenance: Option<bool>) -> Change {
    Change::SetCluster(SetCluster { voters, hold_ms_max: Some(400), maintenance, failover_share_max: None })
}

fn note(voters: &[u64], learners: &[u64]) -> Change {
    let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
    let membership = RaftMembership { voters: ids(voters), learners: ids(learners) };
    Change::NoteMembership(NoteMembership { membership })
}

/// Changes of products, groups, servers and slots, then of the cluster.
pub fn audited() -> Log {
    let (product, group) = (PRODUCT, GROUP);
    let slots = |first: u16, last: u16| (first..=last).map(SlotId).collect();
    let new = NewProduct {
        name: "shop".into(),
        port: 19010,
        layout: Layout::Codis,
        mode: Mode::Cache,
        isolated: Isolated::Refuse,
        databases: 4,
        auth: Some(login(Some("app"), 1)),
    };
    let several = SetProduct {
        min_acks: Some(1),
        min_acks_ms: Some(1500),
        reads: SetReads { from: Some(ReadFrom::Nearest), max_lag_ms: Some(0), own_writes: Some(true), confirmed: None },
        clients_max: Some(300),
        rules: SetClientRules {
            ops_max: Some(1000),
            bytes_max: Some(1 << 20),
            scripts_off: Some(true),
            script_loads_max: Some(50),
            errors_detailed: Some(true),
            blocked_errors: Some(true),
            server_commands: Some(true),
            debug_commands: Some(true),
            redis_version: ToldVersion::parse("7.2.4"),
            idle_ms: Some(300_000),
        },
        auto_rebalance: Some(true),
        ..set_product(None)
    };
    vec![
        (STEP, Change::Bootstrap(Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 })),
        ("create product", Change::CreateProduct(new)),
        ("several settings", Change::SetProduct(several)),
        ("two passwords", Change::SetProduct(set_product(Some(SetAuth::Add(login(Some("app"), 2)))))),
        ("one password", Change::SetProduct(set_product(Some(SetAuth::RemoveFormer)))),
        ("another password", Change::SetProduct(set_product(Some(SetAuth::Replace(Some(login(Some("app"), 3))))))),
        ("no password", Change::SetProduct(set_product(Some(SetAuth::Replace(None))))),
        (
            "create group",
            Change::CreateGroup(CreateGroup {
                product,
                group,
                servers: vec![server(1)],
                credentials: Some(login(None, 4)),
                data_user: None,
            }),
        ),
        ("add server", Change::AddServer(AddServer { product, group, server: server(2) })),
        (
            "set server",
            Change::SetServer(SetServer {
                product,
                group,
                addr: server(2).addr,
                priority: Some(0),
                zone: Some("a".into()),
            }),
        ),
        (
            "set group",
            Change::SetGroup(SetGroup {
                product,
                group,
                down_after_ms: Some(5000),
                maintenance: None,
                eject_after_ms: Some(0),
                impaired: SetImpaired { script_kill_after_ms: Some(0), ..SetImpaired::default() },
            }),
        ),
        ("data user", set_data_user(5)),
        ("its password", set_data_user(6)),
        ("assign", Change::AssignFree(AssignFree { product, slots: slots(0, 9), to: group })),
        ("release", Change::StartAssign(StartAssign { product, slots: slots(0, 1023), to: None, abandon: true })),
        ("give up", Change::GiveUpAssign(GiveUpAssign { assignment: AssignmentId(15), why: "too late".into() })),
        ("server password", Change::SetControlUser(SetControlUser { product, group, credentials: login(None, 7) })),
        ("former removed", Change::ForgetFormer(ForgetFormer { product, group, replaced_at: Epoch(17) })),
        ("remove server", Change::RemoveServer(RemoveServer { product, group, addr: server(2).addr })),
        (
            STEP,
            Change::CreateGroup(CreateGroup {
                product,
                group: GroupId(2),
                servers: vec![server(3)],
                credentials: None,
                data_user: None,
            }),
        ),
        ("remove group", Change::RemoveGroup(RemoveGroup { product, group: GroupId(2), keys_left: None })),
        ("remove product", Change::RemoveProduct(RemoveProduct { product: ProductId(1) })),
        ("cluster", set_cluster(Some(3), Some(true))),
        ("join", Change::AddMember(member(4))),
        ("move", Change::AddMember(NewMember { port_offset: 7, ..member(4) })),
        ("role", Change::SetRole(SetRole { node: NodeId(4), role: Role::Learner })),
        ("membership", note(&[1, 2, 3], &[4])),
        ("begin remove", Change::BeginRemove(BeginRemove { node: NodeId(4), assume_dead: false })),
        ("finish remove", Change::FinishRemove(FinishRemove { node: NodeId(4), uuid: Uuid(4), term: Term(1) })),
        ("recover", Change::Recover(Recover { keep: NodeId(2) })),
    ]
}

/// Name, kind, before and after of its events.
pub const SAID: &[(&str, &str, &str, &str)] = &[
    (
        "create product",
        "product-created",
        "none",
        "port=19010, layout=codis, mode=cache, isolated=refuse, databases=4, username=app, password=set, auto-rebalance=off, min-acks=0, min-acks-timeout=1s, read-from=primary, max-lag=1s, read-your-writes=off, read-confirmed=off, scripts=on, errors=short, blocked-unknown=close, server-commands=off, debug-commands=off, redis-version=servers, idle-timeout=off",
    ),
    (
        "several settings",
        "product-set",
        "auto-rebalance=off, min-acks=0, min-acks-timeout=1s, read-from=primary, max-lag=1s, read-your-writes=off, clients-max=none, ops-max=none, bytes-max=none, scripts=on, script-loads-max=none, errors=short, blocked-unknown=close, server-commands=off, debug-commands=off, redis-version=servers, idle-timeout=off",
        "auto-rebalance=on, min-acks=1, min-acks-timeout=1500ms, read-from=nearest, max-lag=off, read-your-writes=on, clients-max=300, ops-max=1000, bytes-max=1048576, scripts=off, script-loads-max=50, errors=detailed, blocked-unknown=error, server-commands=on, debug-commands=on, redis-version=7.2.4, idle-timeout=300s",
    ),
    ("two passwords", "product-set", "password=set, former-password=none", "password=changed, former-password=set"),
    ("one password", "product-set", "former-password=set", "former-password=none"),
    ("another password", "product-set", "password=set", "password=changed"),
    ("no password", "product-set", "username=app, password=set", "username=none, password=none"),
    (
        "create group",
        "group-created",
        "none",
        "servers=10.0.1.1:6379, password=set, down-after=3s, eject-after=10s, maintenance=off, busy-failover-after=off, loading-failover-after=60s, misconf-failover-after=off, script-kill-after=10s",
    ),
    ("add server", "server-added", "servers=10.0.1.1:6379", "servers=10.0.1.1:6379 10.0.1.2:6379"),
    ("set server", "server-set", "priority=100, zone=none", "priority=0, zone=a"),
    (
        "set group",
        "group-set",
        "down-after=3s, eject-after=10s, script-kill-after=10s",
        "down-after=5s, eject-after=off, script-kill-after=off",
    ),
    ("data user", "data-user-set", "data-user=none, data-password=none", "data-user=data, data-password=set"),
    ("its password", "data-user-set", "data-password=set", "data-password=changed"),
    ("assign", "slots-assigned", "owner=none (10 slots)", "owner=group 1 (10 slots)"),
    ("release", "assignment-started", "assignment=none", "assignment=15 to no owner"),
    ("give up", "assignment-given-up", "assignment=15 to no owner", "assignment=none"),
    (
        "server password",
        "control-user-set",
        "password=set, former-password=none",
        "password=changed, former-password=set",
    ),
    ("former removed", "former-password-removed", "former-password=set", "former-password=none"),
    ("remove server", "server-removed", "servers=10.0.1.1:6379 10.0.1.2:6379", "servers=10.0.1.1:6379"),
    (
        "remove group",
        "group-removed",
        "servers=10.0.1.3:6379, down-after=3s, eject-after=10s, maintenance=off, busy-failover-after=off, loading-failover-after=60s, misconf-failover-after=off, script-kill-after=10s",
        "none",
    ),
    (
        "remove product",
        "product-removed",
        "port=19000, layout=codis, mode=store, isolated=refuse, databases=16, auto-rebalance=off, min-acks=0, min-acks-timeout=1s, read-from=primary, max-lag=1s, read-your-writes=off, read-confirmed=off, scripts=on, errors=short, blocked-unknown=close, server-commands=off, debug-commands=off, redis-version=servers, idle-timeout=off",
        "none",
    ),
    (
        "cluster",
        "maintenance-on",
        "voters=5, hold-max=250ms, maintenance=off",
        "voters=3, hold-max=400ms, maintenance=on",
    ),
    (
        "join",
        "node-joined",
        "none",
        "uuid=00000000000000000000000000000004, admin=10.0.0.4:19101, advertise=n4, port-offset=0, role=auto, leaving=no",
    ),
    ("move", "node-moved", "port-offset=0", "port-offset=7"),
    ("role", "node-set", "role=auto", "role=learner"),
    ("membership", "membership-changed", "learners=none", "learners=4"),
    ("begin remove", "node-leaving", "leaving=no", "leaving=yes"),
    (
        "finish remove",
        "node-removed",
        "uuid=00000000000000000000000000000004, admin=10.0.0.4:19101, advertise=n4, port-offset=7, role=learner, leaving=yes",
        "none",
    ),
    ("recover", "recovered", "members=1 2 3", "members=2(voter)"),
];
