//! A leader and one assignment over the real model, and a clock: what the tests of this folder let happen.
//! Knows nothing of servers: each test determines what a scan, a ping or a server answers.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, Eject, NewMember, NewProduct, Reinstate, StartAssign},
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        outcome::Outcome,
        route::{Isolated, Mode},
        slot::Layout,
        state::{ClusterState, Entry, Position, Server},
    },
    plan::{
        assignment::{AssignmentMemory, AssignmentObservation, AssignmentStep, next},
        lease::Barrier,
        liveness::Watchers,
        observation::{AgedReport, Observation, Probe, ProbeReport, ReportedRole},
        timing::Timing,
    },
};

use super::waits;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
/// The product under test, beside `default`.
pub const PRODUCT: ProductId = ProductId(2);
/// Groups 1 and 2 own ten slots each, group 3 owns one.
pub const SLOTS: u16 = 10;

pub fn addr(port: u32) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()
}

pub fn primary(group: u32) -> HostPort {
    addr(7_000 + group)
}

fn slots(range: std::ops::Range<u16>) -> BTreeSet<SlotId> {
    range.map(SlotId).collect()
}

fn voters() -> BTreeSet<NodeId> {
    (1..=3).map(NodeId).collect()
}

pub struct World {
    pub state: ClusterState,
    pub term: Term,
    pub now_ns: u64,
    pub memory: AssignmentMemory,
    pub id: AssignmentId,
    /// The hold whose barrier has passed.
    pub passed: Option<HoldId>,
    /// What all nodes report of servers.
    pub servers: Observation,
    index: u64,
}

impl World {
    /// Slots 0 to 9 of group 1 are to be assigned to group 2.
    pub fn new(mode: Mode, abandon: bool) -> Self {
        Self::assigning(mode, Some(GroupId(2)), abandon)
    }

    /// Slots 0 to 9 of group 1 are to have no owner.
    pub fn release(abandon: bool) -> Self {
        Self::assigning(Mode::Store, None, abandon)
    }

    fn assigning(mode: Mode, to: Option<GroupId>, abandon: bool) -> Self {
        let mut world = Self::without_assignment(mode);
        world.start(Change::StartAssign(StartAssign { product: PRODUCT, slots: slots(0..SLOTS), to, abandon }));
        world
    }

    /// Group 1 of a cache, which was ejected, gets its slots back from groups 2 and 3.
    pub fn reinstatement() -> Self {
        let mut world = Self::without_assignment(Mode::Cache);
        let (product, group) = (PRODUCT, GroupId(1));
        let to = [(GroupId(2), slots(0..5)), (GroupId(3), slots(5..SLOTS))].into();
        let group_epoch = world.epoch(1);
        let why = "it is down".to_owned();
        world.make(Change::Eject(Eject { product, group, group_epoch, to, why }));
        let (ejection, group_epoch) = (world.group(1).ejection.as_ref().unwrap().id, world.epoch(1));
        world.start(Change::Reinstate(Reinstate { product, group, ejection, group_epoch }));
        world
    }

    fn without_assignment(mode: Mode) -> Self {
        let mut world = Self {
            state: ClusterState::default(),
            term: Term(1),
            now_ns: SECOND,
            memory: AssignmentMemory::default(),
            id: AssignmentId::default(),
            passed: None,
            servers: Observation::new(),
            index: 0,
        };
        let member = |id: u64| NewMember {
            id: NodeId(id),
            uuid: Uuid(id.into()),
            admin: HostPort::parse(&format!("127.0.0.1:{}", 19_100 + id)).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: id as u16,
        };
        world.make(Change::Bootstrap(Bootstrap { members: (1..=3).map(member).collect(), port: 19_000 }));
        world.make(Change::CreateProduct(NewProduct {
            name: "p".into(),
            port: 19_500,
            layout: Layout::Codis,
            mode,
            isolated: Isolated::Refuse,
            databases: 16,
            auth: None,
        }));
        let owned = [slots(0..SLOTS), slots(SLOTS..2 * SLOTS), slots(1000..1001)];
        for (id, slots) in (1..=3).zip(owned) {
            let servers = vec![Server::new(primary(id), format!("run{id}"), 0)];
            let (product, to) = (PRODUCT, GroupId(id));
            world.make(Change::CreateGroup(CreateGroup {
                product,
                group: to,
                servers,
                credentials: None,
                data_user: None,
            }));
            world.make(Change::AssignFree(AssignFree { product, slots, to }));
            world.report_up(id);
        }
        world
    }

    pub fn group(&self, id: u32) -> &pontoon::model::state::Group {
        &self.state.products[&PRODUCT].groups[&GroupId(id)]
    }

    pub fn epoch(&self, group: u32) -> Epoch {
        self.group(group).epoch
    }

    /// All nodes are answered by the primary of a group.
    pub fn report_up(&mut self, group: u32) {
        let probe = Probe {
            run_id: format!("run{group}"),
            role: ReportedRole::Primary { replicas: Vec::new() },
            replid: format!("id{group}"),
            offset: 1_000,
            replid2: None,
            loading: false,
            used_memory: 0,
            keys: 10,
            ops_per_second: 0,
            ping_us: 100,
            persistent: Some(false),
            unnamed_replicas: 0,
            write_error: String::new(),
            busy_reply_ms: None,
            saves_fail: false,
        };
        let report = ProbeReport { probe: Some((probe, 0)), ..ProbeReport::default() };
        let reports: BTreeMap<NodeId, AgedReport> =
            voters().into_iter().map(|node| (node, AgedReport { report: report.clone(), age_ms: 100 })).collect();
        self.servers.insert(primary(group), reports);
    }

    /// No node is answered by the primary of a group.
    pub fn report_down(&mut self, group: u32) {
        for reported in self.servers.get_mut(&primary(group)).into_iter().flat_map(BTreeMap::values_mut) {
            reported.report.failing_ms = Some(60_000);
        }
    }

    pub fn apply(&mut self, change: Change) -> Result<Outcome, String> {
        self.index += 1;
        let entry = Entry {
            id: Uuid(u128::from(self.index) << 64),
            request_hash: 0,
            at_ms: self.now_ns / MS,
            author: Default::default(),
            change,
        };
        let at = Position { index: Epoch(self.index), term: self.term };
        let result = apply(&mut self.state, &entry, at).map_err(|reject| reject.to_string());
        let wrong = pontoon::model::check::check(&self.state);
        assert!(wrong.is_empty(), "{wrong:?}");
        result
    }

    pub fn make(&mut self, change: Change) -> Outcome {
        self.apply(change.clone()).unwrap_or_else(|why| panic!("{change:?}: {why}"))
    }

    fn start(&mut self, change: Change) {
        let Outcome::Assignment(id) = self.make(change) else { panic!("no assignment was begun") };
        self.id = id;
    }

    /// Another leader begins, which remembers nothing.
    pub fn elect(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.memory = AssignmentMemory::default();
        self.passed = None;
    }

    /// What the leader decides now.
    pub fn decide(&mut self) -> AssignmentStep {
        let barrier = self.state.holds.keys().next().map(|hold| match self.passed == Some(*hold) {
            true => Barrier::Passed,
            false => Barrier::Waiting(vec!["node 2 has not acked".into()]),
        });
        let watchers = Watchers::new(&self.servers, voters());
        let seen = AssignmentObservation {
            state: &self.state,
            term: self.term,
            now_ns: self.now_ns,
            barrier: barrier.as_ref(),
            servers: &self.servers,
            watchers: &watchers,
            timing: Timing::default(),
        };
        self.memory.observe(&seen, self.id);
        let step = next(&seen, &self.memory, self.id);
        if let Some(wait) = step.wait(Timing::default()) {
            waits::check(&wait);
        }
        step
    }

    /// Appends a change, and records what came of it.
    pub fn propose(&mut self, change: Change) -> Result<Outcome, String> {
        let result = self.apply(change.clone());
        self.memory.proposed(self.now_ns, &change, result.as_ref().map_err(Clone::clone), Timing::default());
        result
    }

    /// The leader's next step is a change, which the log accepts.
    #[track_caller]
    pub fn proposes(&mut self) -> Change {
        let AssignmentStep::Propose(change) = self.decide() else { panic!("no change, but {:?}", self.decide()) };
        self.propose(change.clone()).unwrap_or_else(|why| panic!("{change:?}: {why}"));
        change
    }

    /// The leader waits; why, and for how long.
    #[track_caller]
    pub fn waits(&mut self) -> (String, u64) {
        let AssignmentStep::Wait { wait, until_ns } = self.decide() else { panic!("no wait, but {:?}", self.decide()) };
        (wait.detail().trim_start_matches(": ").to_owned(), until_ns - self.now_ns)
    }

    pub fn preflighted(&mut self, silent: &[u64]) {
        let silent = silent.iter().map(|id| NodeId(*id)).collect();
        self.memory.preflighted(self.now_ns, Ok(silent), Timing::default());
    }

    /// The barrier of the open hold passes.
    pub fn pass_barrier(&mut self) {
        self.passed = self.state.holds.keys().next().copied();
    }
}
