//! Every warning: a cluster that has it, and the same cluster after what the warning says clears it.
#![allow(clippy::unwrap_used)]

mod table;

use self::table::{TABLE, fails, impair, maintenance, missing};
use super::*;
use crate::{
    model::{
        apply::apply,
        change::{AssignFree, BeginRemove, Bootstrap, Change, CreateGroup, NewMember},
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

#[test]
fn every_warning_is_cleared_by_what_it_says() {
    assert_eq!(World::well().kinds(), BTreeSet::new(), "{:#?}", World::well().judged());
    let told: BTreeSet<WarningKind> = TABLE.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(told, WarningKind::ALL.iter().copied().collect(), "each kind needs a row");
    for (kind, begin, part, remedy, clear) in TABLE {
        let mut world = World::well();
        begin(&mut world);
        let (status, group, headline) = world.judged();
        let found = status.iter().chain(&group).find(|warning| warning.kind == *kind && warning.text.contains(part));
        let found = found.unwrap_or_else(|| panic!("{kind:?}, {part}: {status:#?} {group:#?}"));
        assert!(found.to_clear.contains(remedy), "{kind:?} does not say '{remedy}': {found:?}");
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

/// Regression: with one voter dead and another one being removed, the status named an election as the remedy.
#[test]
fn a_removal_that_waits_for_a_quorum_is_named() {
    let mut world = World::well();
    world.make(Change::BeginRemove(BeginRemove { node: NodeId(2), assume_dead: false }));
    world.quorum = missing(&[1, 2], None);
    let (status, _, headline) = world.judged();
    assert_eq!(status[0].kind, WarningKind::NoQuorum, "{status:#?}");
    assert!(headline.starts_with("NO QUORUM: 1 of the 2 voters that stay answers; "), "{headline}");
    assert!(headline.contains("; the removal of node 2 waits for that"), "{headline}");
    assert!(status[0].to_clear.contains("until 2 answer (missing: node 3 at 10.0.0.3:19101)"), "{status:#?}");
    world.quorum = missing(&[1], None);
    let headline = world.judged().2;
    assert!(headline.contains("1 of 3 voters answers") && headline.contains("removal of node 2 waits"), "{headline}");
    world.quorum = missing(&[1, 3], None);
    assert!(world.judged().2.starts_with("NO LEADER: 2 of 3 voters answer"), "an election suffices");
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
