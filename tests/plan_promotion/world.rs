//! A leader and one promotion over the real model, and a clock: what the tests of this folder let happen.
//! Knows nothing of servers: each test determines what a server answers and what nodes report.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, NewMember, NotePrimary, StartPromotion},
        check::check,
        ids::{Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, PromotionId, SlotId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        state::{ClusterState, Entry, Group, Position, Server},
    },
    plan::{
        lease::Barrier,
        liveness::Watchers,
        observation::{AgedReport, InSync, Observation, Probe, ProbeReport, ReportedRole},
        promotion::{
            Answers, PreflightResult, PromoteResult, PromotionMemory, PromotionObservation, PromotionStep, Reports,
            ServerStatus, next,
        },
        timing::Timing,
    },
};

use super::waits;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
const PRODUCT: ProductId = ProductId(1);
const GROUP: GroupId = GroupId(1);
/// The old primary, the candidate, and another replica.
pub const OLD: u16 = 7001;
pub const NEW: u16 = 7002;
pub const OTHER: u16 = 7003;

pub fn addr(port: u16) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()
}

fn voters() -> BTreeSet<NodeId> {
    (1..=3).map(NodeId).collect()
}

/// The old primary as it answers.
pub fn primary() -> ServerStatus {
    ServerStatus { run_id: format!("run{OLD}"), replid: "id".into(), offset: 1_000, ..ServerStatus::default() }
}

/// A replica of the old primary that is in sync.
pub fn replica(port: u16) -> ServerStatus {
    let follows = Some(("127.0.0.1".into(), OLD));
    ServerStatus { run_id: format!("run{port}"), follows, link_up: true, ..primary() }
}

/// The candidate after REPLICAOF NO ONE.
pub fn promoted() -> ServerStatus {
    let (former_replid, former_offset) = ("id".into(), Some(1_000));
    ServerStatus { follows: None, link_up: false, replid: "new".into(), former_replid, former_offset, ..replica(NEW) }
}

pub struct World {
    pub state: ClusterState,
    pub term: Term,
    pub now_ns: u64,
    pub memory: PromotionMemory,
    pub id: PromotionId,
    /// The hold whose barrier has passed.
    passed: Option<HoldId>,
    /// What all nodes report of servers.
    pub servers: Observation,
    index: u64,
}

impl World {
    /// A group of three servers; 7002 is to replace 7001.
    pub fn new(kind: PromotionKind) -> Self {
        let mut world = Self {
            state: ClusterState::default(),
            term: Term(1),
            now_ns: SECOND,
            memory: PromotionMemory::default(),
            id: PromotionId::default(),
            passed: None,
            servers: Observation::new(),
            index: 0,
        };
        let member = |id: u16| NewMember {
            id: NodeId(id.into()),
            uuid: Uuid(id.into()),
            admin: addr(19_100 + id),
            advertise: "127.0.0.1".into(),
            port_offset: id,
        };
        let (product, group) = (PRODUCT, GROUP);
        let servers = [OLD, NEW, OTHER].map(|port| Server::new(addr(port), format!("run{port}"), 0)).to_vec();
        world.make(Change::Bootstrap(Bootstrap { members: (1..=3).map(member).collect(), port: 19_000 }));
        world.make(Change::CreateGroup(CreateGroup { product, group, servers, credentials: None, data_user: None }));
        world.make(Change::AssignFree(AssignFree { product, slots: [SlotId(0)].into(), to: group }));
        world.make(NotePrimary::replication_id(product, group, world.group().epoch, "id".into()).into());
        for port in [OLD, NEW, OTHER] {
            world.report(port, &if port == OLD { primary() } else { replica(port) });
        }
        if kind == PromotionKind::Failover {
            world.report_down(OLD);
        }
        let start = StartPromotion {
            product,
            group,
            to: addr(NEW),
            kind,
            group_epoch: world.group().epoch,
            required_offset: None,
            forced: false,
            why: "a test".into(),
        };
        let Outcome::Promotion(id) = world.make(Change::StartPromotion(start)) else { panic!("no promotion") };
        world.id = id;
        world
    }

    pub fn group(&self) -> &Group {
        &self.state.products[&PRODUCT].groups[&GROUP]
    }

    pub fn demand_acks(&mut self, min_acks: u8) {
        self.state.products.get_mut(&PRODUCT).unwrap().min_acks = min_acks;
    }

    /// All nodes report this about a server.
    pub fn report(&mut self, port: u16, status: &ServerStatus) {
        let role = match &status.follows {
            None => ReportedRole::Primary { replicas: Vec::new() },
            Some((_, port)) => {
                let (link_up, link_down_ms) = (status.link_up, if status.link_up { 0 } else { 1_000 });
                ReportedRole::Replica { of: addr(*port), link_up, link_down_ms, syncing: status.syncing }
            }
        };
        let in_sync = InSync { to: addr(OLD), replid: "id".into(), run_id: format!("run{port}"), ago_ms: 0 };
        let probe = Probe {
            run_id: status.run_id.clone(),
            role,
            replid: status.replid.clone(),
            offset: status.offset,
            replid2: status.former_offset.map(|offset| (status.former_replid.clone(), offset + 1)),
            loading: status.loading,
            used_memory: 0,
            keys: 10,
            ops_per_second: 0,
            ping_us: 100,
            persistent: Some(true),
            unnamed_replicas: 0,
            write_error: String::new(),
            saves_fail: false,
            busy_reply_ms: None,
        };
        let in_sync = (port != OLD).then_some(in_sync);
        let report = ProbeReport { probe: Some((probe, 0)), in_sync, ..ProbeReport::default() };
        let reports = voters().into_iter().map(|node| (node, AgedReport { report: report.clone(), age_ms: 100 }));
        self.servers.insert(addr(port), reports.collect());
    }

    /// No node is answered by a server.
    pub fn report_down(&mut self, port: u16) {
        for reported in self.servers.get_mut(&addr(port)).into_iter().flat_map(BTreeMap::values_mut) {
            reported.report.failing_ms = Some(60_000);
        }
    }

    /// No node remembers with which server a process of this one was in sync.
    pub fn forget(&mut self, port: u16) {
        for reported in self.servers.get_mut(&addr(port)).into_iter().flat_map(BTreeMap::values_mut) {
            reported.report.in_sync = None;
        }
    }

    pub fn apply(&mut self, change: Change) -> Result<(Epoch, Outcome), String> {
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
        let wrong = check(&self.state);
        assert!(wrong.is_empty(), "{wrong:?}");
        result.map(|outcome| (Epoch(self.index), outcome))
    }

    fn make(&mut self, change: Change) -> Outcome {
        self.apply(change.clone()).unwrap_or_else(|why| panic!("{change:?}: {why}")).1
    }

    /// Another leader begins, which remembers nothing.
    pub fn elect(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.memory = PromotionMemory::default();
        self.passed = None;
    }

    pub fn pass_barrier(&mut self) {
        self.passed = self.state.promotion_hold(self.id);
        assert!(self.passed.is_some(), "nothing is held");
    }

    fn with<T>(&mut self, act: impl FnOnce(&PromotionObservation<'_>, &Reports<'_>, &mut PromotionMemory) -> T) -> T {
        let hold = self.state.promotion_hold(self.id);
        let barrier = match hold.is_some() && self.passed == hold {
            true => Barrier::Passed,
            false => Barrier::Waiting(vec!["node 2 has not acked".into()]),
        };
        let watchers = Watchers::new(&self.servers, voters());
        let seen = PromotionObservation {
            state: &self.state,
            term: self.term,
            now_ns: self.now_ns,
            barrier: Some(&barrier),
            timing: Timing::default(),
        };
        act(&seen, &Reports { servers: &self.servers, watchers: &watchers }, &mut self.memory)
    }

    /// What the leader decides now.
    pub fn decide(&mut self) -> PromotionStep {
        let id = self.id;
        let step = self.with(|seen, _, memory| {
            memory.observe(seen, id);
            next(seen, memory, id)
        });
        if let PromotionStep::Wait { wait, .. } = &step {
            waits::check(wait);
        }
        step
    }

    /// The leader waits; returns why, and for how long, nanoseconds.
    #[track_caller]
    pub fn waits(&mut self) -> (String, u64) {
        match self.decide() {
            PromotionStep::Wait { wait, until_ns } => {
                (wait.detail().trim_start_matches(": ").to_owned(), until_ns.saturating_sub(self.now_ns))
            }
            other => panic!("{other:?}"),
        }
    }

    /// The leader asks these servers, and they answer; `None`: one does not.
    #[track_caller]
    pub fn answers(&mut self, answers: &[(u16, Option<ServerStatus>)]) {
        let PromotionStep::Ask { servers, .. } = self.decide() else { panic!("{:?}", self.decide()) };
        let wanted: BTreeSet<HostPort> = answers.iter().map(|(port, _)| addr(*port)).collect();
        assert_eq!(servers, wanted);
        let answer = |(port, status): &(u16, Option<ServerStatus>)| {
            (addr(*port), status.clone().ok_or_else(|| format!("127.0.0.1:{port} does not answer")))
        };
        let (id, answers): (_, Answers) = (self.id, answers.iter().map(answer).collect());
        self.with(|seen, reports, memory| memory.asked(seen, reports, id, answers));
    }

    /// All nodes answer the preflight, and the servers that are pinged.
    #[track_caller]
    pub fn preflighted(&mut self) {
        let PromotionStep::Preflight { servers, .. } = self.decide() else { panic!("{:?}", self.decide()) };
        let pings = servers.into_iter().map(|addr| (addr, Ok(std::time::Duration::from_millis(1)))).collect();
        let (id, result) = (self.id, PreflightResult { silent: Vec::new(), pings });
        self.with(|seen, _, memory| memory.preflighted(seen, id, Ok(result)));
    }

    /// The leader appends a change, which the log accepts.
    #[track_caller]
    pub fn proposes(&mut self) -> Change {
        let PromotionStep::Propose(change) = self.decide() else { panic!("{:?}", self.decide()) };
        let result = self.apply(change.clone());
        assert!(result.is_ok(), "{change:?}: {result:?}");
        let (id, recorded) = (self.id, change.clone());
        self.with(|seen, _, memory| {
            let result = result.as_ref().map(|(at, outcome)| (*at, outcome)).map_err(Clone::clone);
            memory.proposed(seen, id, &recorded, result);
        });
        change
    }

    /// Whether the plan accepts this status just before REPLICAOF NO ONE.
    pub fn may_promote(&mut self, status: &ServerStatus) -> Result<(), String> {
        assert!(matches!(self.decide(), PromotionStep::Promote { .. }), "{:?}", self.decide());
        let id = self.id;
        self.with(|seen, reports, memory| memory.may_promote(seen, reports, id, status))
    }

    pub fn promoted(&mut self, result: PromoteResult) {
        let id = self.id;
        self.with(|seen, reports, memory| memory.promoted(seen, reports, id, result));
    }

    #[track_caller]
    pub fn saved(&mut self, answered: bool) {
        assert!(matches!(self.decide(), PromotionStep::SaveConfig { .. }), "{:?}", self.decide());
        let id = self.id;
        self.with(|seen, _, memory| memory.saved(seen, id, answered));
    }
}
