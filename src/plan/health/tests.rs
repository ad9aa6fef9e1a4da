//! Every warning: a cluster that has it, and the same cluster after what the warning says clears it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, NewMember, NotePrimary, SetCluster, SetGroup},
        cluster_secret::{SecretTag, SecretTags},
        data_user::DataUser,
        ids::{Epoch, GroupId, HostPort, ProductId, SlotId, Term, Uuid},
        secret::Secret,
        state::{Entry, Position, Server},
    },
    plan::observation::{AgedReport, Impairment, Observation, Probe, ProbeReport, ReportedRole},
};

const SHOP: ProductId = ProductId(1);
const G: GroupId = GroupId(2);

fn addr(port: u16) -> HostPort {
    HostPort::parse(&format!("10.0.0.9:{port}")).unwrap()
}

/// A cluster of three nodes and one group of two servers that has all slots. All is well.
struct World {
    state: ClusterState,
    log: u64,
    voters: BTreeMap<NodeId, String>,
    quorum: Quorum,
    seen: Option<Observation>,
    nodes: Vec<ObservedNode>,
    now_ms: u64,
}

/// A data user as Pontoon makes it.
fn data_user() -> DataUser {
    DataUser::managed(Secret::new("0".repeat(64)), None)
}

impl World {
    fn well() -> Self {
        let member = |id: u64| NewMember {
            id: NodeId(id),
            uuid: Uuid(id.into()),
            admin: HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap(),
            advertise: format!("10.0.0.{id}"),
            port_offset: 0,
        };
        let mut world = Self {
            state: ClusterState::default(),
            log: 0,
            voters: (1..=3).map(|id| (NodeId(id), format!("10.0.0.{id}:19101"))).collect(),
            quorum: Quorum::Confirmed,
            seen: Some(Observation::new()),
            nodes: (1..=3).map(|id| ObservedNode { id: NodeId(id), ..ObservedNode::default() }).collect(),
            now_ms: 1_000_000,
        };
        world.make(Change::Bootstrap(Bootstrap { members: (1..=3).map(member).collect(), port: 7000 }));
        let servers = [7001, 7002].map(|port| Server::new(addr(port), format!("r{port}"), 0)).to_vec();
        world.make(Change::CreateGroup(CreateGroup {
            product: SHOP,
            group: G,
            servers,
            credentials: None,
            data_user: Some(data_user()),
        }));
        let slots = (0..1024).map(SlotId).collect();
        world.make(Change::AssignFree(AssignFree { product: SHOP, slots, to: G }));
        world.report(7001, |_| {});
        world.report(7002, |_| {});
        world
    }

    fn make(&mut self, change: Change) {
        self.log += 1;
        let entry = Entry {
            id: Uuid(self.log.into()),
            request_hash: 0,
            at_ms: self.now_ms,
            author: Default::default(),
            change,
        };
        let at = Position { index: Epoch(self.log), term: Term(1) };
        apply(&mut self.state, &entry, at).unwrap();
    }

    /// All nodes report this about a server.
    fn report(&mut self, port: u16, edit: impl Fn(&mut ProbeReport)) {
        for node in 1..=3 {
            let role = match port {
                7001 => ReportedRole::Primary { replicas: vec![(addr(7002), 9)] },
                _ => ReportedRole::Replica { of: addr(7001), link_up: true, link_down_ms: 0, syncing: false },
            };
            let probe = Probe {
                run_id: format!("r{port}"),
                role,
                replid: "h".into(),
                offset: 9,
                replid2: None,
                loading: false,
                used_memory: 0,
                keys: 5,
                ops_per_second: 0,
                ping_us: 0,
                persistent: Some(true),
                unnamed_replicas: 0,
                write_error: String::new(),
                busy_reply_ms: None,
                saves_fail: false,
            };
            let mut report = ProbeReport { probe: Some((probe, 0)), ..ProbeReport::default() };
            edit(&mut report);
            let by = self.seen.as_mut().unwrap().entry(addr(port)).or_default();
            by.insert(NodeId(node), AgedReport { report, age_ms: 0 });
        }
    }

    fn probe(&mut self, port: u16, edit: impl Fn(&mut Probe)) {
        self.report(port, |report| edit(&mut report.probe.as_mut().unwrap().0));
    }

    fn product(&mut self) -> &mut Product {
        self.state.products.get_mut(&SHOP).unwrap()
    }

    /// The warnings of the status and, with advice, of the group; and the headline.
    fn judged(&self) -> (Vec<Warning>, Vec<Warning>, String) {
        let alive = self.voters.keys().copied().collect();
        let watchers = self.seen.as_ref().map(|seen| Watchers::new(seen, alive));
        let observed = match &watchers {
            Some(watchers) => Ok(Observed { watchers, nodes: self.nodes.clone() }),
            None => Err("no leader is known".to_owned()),
        };
        let facts = HealthFacts {
            state: &self.state,
            voters: &self.voters,
            quorum: self.quorum.clone(),
            observed,
            now_ms: self.now_ms,
        };
        let status = judge(&facts);
        let product = &self.state.products[&SHOP];
        let group = product
            .groups
            .get(&G)
            .map(|group| GroupFacts::new(&self.state, watchers.as_ref(), self.now_ms).warnings(product, group));
        let headline = headline(&facts, &status);
        (status, group.unwrap_or_default(), headline)
    }

    fn kinds(&self) -> BTreeSet<WarningKind> {
        let (status, group, _) = self.judged();
        status.iter().chain(&group).map(|warning| warning.kind).collect()
    }
}

type Edit = fn(&mut World);

/// Node `id` reports that it sends this secret, and accepts the other one, too.
fn secrets(world: &mut World, id: usize, sent: u8, other: Option<u8>) {
    let tag = |n| SecretTag::new([n; SecretTag::LEN]);
    let tags = SecretTags { sent: tag(sent), other: other.map(tag) };
    world.nodes[id - 1].secrets = Some(SecretReport { tags: Some(tags), age_ms: 0, refused: None });
}

fn fails(world: &mut World, port: u16) {
    world.report(port, |report| (report.failing_ms, report.error) = (Some(9_000), "no answer".into()));
}

fn impair(world: &mut World, impairment: Impairment) {
    world.report(7001, |report| {
        report.impaired = Some((impairment, 9_000));
        report.error = "it says why".into();
    });
}

fn well(world: &mut World, port: u16) {
    world.report(port, |_| {});
}

fn missing(answering: &[u64], leader: Option<u64>) -> Quorum {
    Quorum::Missing { answering: answering.iter().map(|id| NodeId(*id)).collect(), leader: leader.map(NodeId) }
}

fn maintenance(world: &mut World, on: bool) {
    let set = SetCluster { voters: None, hold_ms_max: None, maintenance: Some(on), failover_share_max: None };
    world.make(Change::SetCluster(set));
}

fn group_maintenance(world: &mut World, on: bool) {
    let set = SetGroup {
        product: SHOP,
        group: G,
        down_after_ms: None,
        maintenance: Some(on),
        eject_after_ms: None,
        impaired: Default::default(),
    };
    world.make(Change::SetGroup(set));
}

fn note(world: &mut World, replid: &str, run_id: &str) {
    let epoch = world.state.products[&SHOP].groups[&G].epoch;
    world.make(Change::NotePrimary(NotePrimary {
        product: SHOP,
        group: G,
        epoch,
        replid: replid.into(),
        run_id: run_id.into(),
        keys: 0,
        keys_before: Some(100),
    }));
}

/// Each kind: how it begins, a part of its text, and how it is cleared.
const TABLE: &[(WarningKind, Edit, &str, Edit)] = &[
    (
        WarningKind::NotFormed,
        |w| (w.quorum, w.voters) = (missing(&[], None), BTreeMap::new()),
        "NOT FORMED: this node belongs to no cluster yet",
        |w| *w = World::well(),
    ),
    (
        WarningKind::NoQuorum,
        |w| w.quorum = missing(&[2], Some(1)),
        "NO QUORUM: 1 of 3 voters answers; changes are impossible, and product 'default' is not served when leases",
        |w| w.quorum = Quorum::Confirmed,
    ),
    (
        WarningKind::NoLeader,
        |w| w.quorum = missing(&[2, 3], Some(1)),
        "NO LEADER: 2 of 3 voters answer, but node 1, which led last, has no majority behind it",
        |w| w.quorum = Quorum::Confirmed,
    ),
    (
        WarningKind::SlotsWithoutOwner,
        |w| w.product().slots[7].owner = None,
        "1 slot of product 'default' is not served: no owner",
        |w| w.product().slots[7].owner = Some(G),
    ),
    (
        WarningKind::PrimaryDown,
        |w| fails(w, 7001),
        "1024 slots of product 'default' are not served: group 2 has no primary: 10.0.0.9:7001 has been down for 9 s (nodes \
         1, 2, 3)",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryFollows,
        |w| {
            w.probe(7001, |p| {
                p.role = ReportedRole::Replica { of: addr(1), link_up: true, link_down_ms: 0, syncing: false }
            })
        },
        "1024 slots of product 'default' are not served: 10.0.0.9:7001, the primary of group 2, follows another server",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryBusy,
        |w| impair(w, Impairment::Busy),
        "has been busy with a script for 9 s",
        |w| well(w, 7001),
    ),
    (WarningKind::PrimaryLoading, |w| impair(w, Impairment::Loading), "has been loading", |w| well(w, 7001)),
    (
        WarningKind::PrimaryRefusesWrites,
        |w| impair(w, Impairment::RefusesWrites),
        "writes of its 1024 slots are not served",
        |w| well(w, 7001),
    ),
    (
        WarningKind::PrimaryRefusesLogin,
        |w| impair(w, Impairment::RefusesLogin),
        "has refused the password of its group for 9 s; requests of its 1024 slots are not served",
        |w| well(w, 7001),
    ),
    (
        WarningKind::MinAcksUnmet,
        |w| w.product().min_acks = 2,
        "min-acks is 2, and there are 1 replica(s): every write to the 1024 slots of group 2 of product 'default' is answered \
         -NOREPLICAS",
        |w| w.product().min_acks = 1,
    ),
    (
        WarningKind::MinAcksUnmet,
        |w| {
            w.product().min_acks = 1;
            w.probe(7002, |p| p.replid = "other".into());
        },
        "min-acks is 1, and 0 of 1 replica(s) are in sync",
        |w| well(w, 7002),
    ),
    (WarningKind::NotObserved, |w| w.seen = None, "no leader is known", |w| *w = World::well()),
    (
        WarningKind::NodeSilent,
        |w| w.nodes[1].silent = Some(Some(12_000)),
        "is not alive: its last heartbeat was 12 s ago",
        |w| w.nodes[1].silent = None,
    ),
    (
        WarningKind::NodeBlind,
        |w| {
            for port in [7001, 7002] {
                let by = w.seen.as_mut().unwrap().get_mut(&addr(port)).unwrap();
                by.get_mut(&NodeId(3)).unwrap().report.failing_ms = Some(9_000);
            }
        },
        "no server answers node 3",
        |w| (well(w, 7001), well(w, 7002)).0,
    ),
    (
        WarningKind::ListenerFailed,
        |w| w.nodes[1].failed_listeners.push(("default".into(), "0.0.0.0:7000".into(), "address in use".into())),
        "node 2 does not listen on 0.0.0.0:7000 for product 'default': address in use",
        |w| w.nodes[1].failed_listeners.clear(),
    ),
    (
        WarningKind::SecretFileRefused,
        |w| {
            let refused = Some("secret file /etc/pontoon/secret: it is empty".into());
            w.nodes[1].secrets = Some(SecretReport { refused, ..SecretReport::default() });
        },
        "node 2 keeps the cluster secrets that it had: secret file /etc/pontoon/secret: it is empty",
        |w| w.nodes[1].secrets = Some(SecretReport::default()),
    ),
    (
        WarningKind::SecretsDiffer,
        |w| {
            secrets(w, 1, 1, Some(2));
            secrets(w, 2, 1, None);
            secrets(w, 3, 1, Some(2));
        },
        "the nodes differ in their cluster secrets: nodes 1, 3 send A and accept B; node 2 sends A",
        |w| secrets(w, 2, 1, Some(2)),
    ),
    (
        WarningKind::SecretsDiffer,
        |w| {
            secrets(w, 1, 1, Some(2));
            secrets(w, 2, 2, Some(1));
            w.nodes[2].secrets = Some(SecretReport::default());
        },
        "node 1 sends A and accepts B; node 2 sends B and accepts A; node 3 has none",
        // The others are not alive: what they last reported does not count.
        |w| w.nodes[1..].iter_mut().for_each(|node| node.silent = Some(None)),
    ),
    (
        WarningKind::TwoSecrets,
        |w| (1..=3).for_each(|id| secrets(w, id, 2, Some(1))),
        "two cluster secrets are valid",
        |w| (1..=3).for_each(|id| secrets(w, id, 2, None)),
    ),
    (
        WarningKind::ServerDown,
        |w| fails(w, 7002),
        "10.0.0.9:7002 (replica in group 2 of product 'default') has been down for 9 s",
        |w| well(w, 7002),
    ),
    (
        WarningKind::ServerNotProbed,
        |w| w.report(7002, |report| report.error = "10.0.0.9:7002 refuses the password".into()),
        "group 2 of product 'default' cannot be watched: 10.0.0.9:7002 refuses the password",
        |w| well(w, 7002),
    ),
    (
        WarningKind::PrimaryRestarted,
        |w| {
            note(w, "h", "r7001");
            w.probe(7001, |p| (p.run_id, p.replid, p.keys) = ("later".into(), "h2".into(), 0));
            note(w, "h2", "later");
        },
        "the primary 10.0.0.9:7001 restarted empty 0 s ago",
        // A day.
        |w| w.now_ms += 24 * 3600 * 1000,
    ),
    (
        WarningKind::FailoverHeldBack,
        |w| {
            for n in 3..=9u16 {
                let servers = [7000 + 10 * n, 7001 + 10 * n].map(|p| Server::new(addr(p), format!("r{p}"), 0)).to_vec();
                let group = GroupId(n.into());
                w.make(Change::CreateGroup(CreateGroup {
                    product: SHOP,
                    group,
                    servers,
                    credentials: None,
                    data_user: Some(data_user()),
                }));
                fails(w, 7000 + 10 * n);
                w.report(7001 + 10 * n, |_| {});
            }
            fails(w, 7001);
        },
        "group 2 of product 'default' is not failed over: 10.0.0.9:7001 is down",
        |w| {
            for n in 3..=9 {
                well(w, 7000 + 10 * n);
            }
            well(w, 7001);
        },
    ),
    (WarningKind::Maintenance, |w| maintenance(w, true), "in the whole cluster", |w| maintenance(w, false)),
    (
        WarningKind::GroupMaintenance,
        |w| group_maintenance(w, true),
        "group 2 of product 'default' is in maintenance",
        |w| group_maintenance(w, false),
    ),
    (
        WarningKind::TwoVoters,
        |w| drop(w.voters.pop_last()),
        "two voters survives no failure",
        |w| drop(w.voters.insert(NodeId(3), "10.0.0.3:19101".into())),
    ),
    (
        WarningKind::NotPersistent,
        |w| w.probe(7001, |p| p.persistent = Some(false)),
        "the primary 10.0.0.9:7001 does not persist",
        |w| well(w, 7001),
    ),
    (
        WarningKind::UnmanagedReplica,
        |w| w.probe(7001, |p| p.role = ReportedRole::Primary { replicas: vec![(addr(7002), 9), (addr(7777), 9)] }),
        "an unmanaged replica is in sync with the primary: 10.0.0.9:7777",
        |w| well(w, 7001),
    ),
    (
        WarningKind::NoReplica,
        |w| w.product().groups.get_mut(&G).unwrap().servers.truncate(1),
        "there is no replica",
        |w| w.product().groups.get_mut(&G).unwrap().servers.push(Server::new(addr(7002), "r7002".into(), 0)),
    ),
    (
        WarningKind::NoDataUser,
        |w| w.product().groups.get_mut(&G).unwrap().data_user = None,
        "there is no data user",
        |w| w.product().groups.get_mut(&G).unwrap().data_user = Some(data_user()),
    ),
];

#[test]
fn every_warning_is_cleared_by_what_it_says() {
    assert_eq!(World::well().kinds(), BTreeSet::new(), "{:#?}", World::well().judged());
    let told: BTreeSet<WarningKind> = TABLE.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(told, WarningKind::ALL.iter().copied().collect(), "each kind needs a row");
    for (kind, begin, part, clear) in TABLE {
        let mut world = World::well();
        begin(&mut world);
        let (status, group, headline) = world.judged();
        let found = status.iter().chain(&group).find(|warning| warning.kind == *kind && warning.text.contains(part));
        let found = found.unwrap_or_else(|| panic!("{kind:?}, {part}: {status:#?} {group:#?}"));
        assert!(found.to_clear.len() > 10, "{found:?}");
        assert!(worst(&status) >= kind.severity() || kind.severity() == Severity::Advice, "{kind:?}: {status:#?}");
        if kind.severity() == Severity::Critical {
            assert!(headline.contains(part), "{headline}");
        }
        if kind.severity() == Severity::Advice {
            assert!(status.iter().all(|warning| warning.kind != *kind), "advice is not in the status: {status:#?}");
        }
        clear(&mut world);
        assert!(!world.kinds().contains(kind), "{kind:?} is not cleared: {:#?}", world.judged());
    }
}

#[test]
fn the_headline_has_the_worst_in_words() {
    let mut world = World::well();
    assert_eq!(world.judged().2, "a majority of 3 voters; all 1024 assigned slots of 1 product are served");
    world.nodes[0].silent = Some(None);
    maintenance(&mut world, true);
    let (status, _, headline) = world.judged();
    assert_eq!(worst(&status), Severity::Warning);
    assert!(headline.contains("node 1 () is not alive") && headline.contains("; maintenance is on"), "{headline}");
    // It is not known whether clients are served, but it is known that nothing can be changed.
    (world.seen, world.quorum) = (None, missing(&[1], None));
    let (status, _, headline) = world.judged();
    assert_eq!(worst(&status), Severity::Critical);
    assert!(headline.starts_with("NO QUORUM: 1 of 3 voters answers; changes are impossible"), "{headline}");
    assert!(
        status[0].to_clear.contains("until 2 of 3 answer (missing: node 2 at 10.0.0.2:19101, node 3"),
        "{status:?}"
    );
    // A node that another one asks says nothing about the quorum.
    world.quorum = Quorum::NotAsked;
    assert_eq!(worst(&world.judged().0), Severity::Unknown);
    world.quorum = missing(&[1, 2], None);
    assert!(world.judged().2.starts_with("NO LEADER: 2 of 3 voters answer, but none leads; "), "{:?}", world.judged());
}

/// A primary without slots serves nobody, and its failure is no disaster.
#[test]
fn a_group_without_slots_is_no_disaster() {
    let mut world = World::well();
    world.product().slots.iter_mut().for_each(|slot| slot.owner = None);
    for edit in [|w: &mut World| fails(w, 7001), |w: &mut World| impair(w, Impairment::RefusesLogin)] {
        edit(&mut world);
        let kinds = world.kinds();
        let critical: Vec<_> = kinds.iter().filter(|kind| kind.severity() == Severity::Critical).collect();
        assert_eq!(critical, [&WarningKind::SlotsWithoutOwner], "{kinds:?}");
        assert!(kinds.contains(&WarningKind::ServerDown) || kinds.contains(&WarningKind::ServerNotProbed), "{kinds:?}");
    }
}

#[test]
fn many_warnings_of_one_kind_are_counted() {
    let mut world = World::well();
    world.nodes =
        (1..=50).map(|id| ObservedNode { id: NodeId(id), silent: Some(None), ..Default::default() }).collect();
    let (status, _, headline) = world.judged();
    assert_eq!(status.len(), SHOWN_MAX);
    assert!(status[SHOWN_MAX - 1].text.contains("(and 30 more like this"), "{status:#?}");
    assert!(headline.ends_with("; and 17 more") && !headline.contains("node 4 "), "{headline}");
}

/// `docs/operations.md` has a row for each warning, and none for others.
#[test]
fn the_documents_list_every_warning() {
    let text = include_str!("../../../docs/operations.md");
    let section = text.split("### Warnings of the status").nth(1).unwrap().split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    let severity = |kind: &WarningKind| format!("{:?}", kind.severity()).to_lowercase();
    let all: Vec<_> = WarningKind::ALL.iter().map(|kind| (kind.code().to_owned(), severity(kind))).collect();
    assert_eq!(documented, all);
}
