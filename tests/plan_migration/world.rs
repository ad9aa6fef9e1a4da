//! A leader, its nodes and their movers over the real model, and a clock: what the tests of this folder let happen.
//! Knows nothing of servers: connections are members of a set here, and a mover of a former start may ask for
//! authorization at any time.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use pontoon::{
    model::{
        apply::apply,
        change::{
            Admit, AssignFree, Bootstrap, CancelMigration, Change, CreateGroup, NewMember, NewProduct, PauseMigration,
            PlanMigration, ResumeMigration, StartMigration, StartRun, Switch,
        },
        ids::{GroupId, HoldId, HostPort, Incarnation, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
        migration::{ConnectionId, Job, Limits, MigrationOptions, RunKind, Verify},
        outcome::Outcome,
        promotion::ReplicationOffset,
        route::{Isolated, Mode},
        slot::Layout,
        state::{ClusterState, Entry, Position, Server},
    },
    plan::{
        self,
        authorization::Authorizations,
        job::{JobObservation, JobStep, NodeObservation, SelectedEndpoints},
        job_memory::JobMemory,
        lease::Barrier,
        mover::{MoverState, MoverView},
        timing::Timing,
    },
};

use super::waits;

pub const MS: u64 = 1_000_000;
pub const PRODUCT: ProductId = ProductId(1);
pub const NODES: u64 = 3;

pub fn addr(port: u64) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{port}")).unwrap()
}

fn member(id: u64) -> NewMember {
    NewMember {
        id: NodeId(id),
        uuid: Uuid(id.into()),
        admin: addr(19_100 + id),
        advertise: "127.0.0.1".into(),
        port_offset: u16::try_from(id).unwrap(),
    }
}

fn server(group: u32) -> Server {
    Server::new(addr(6_000 + u64::from(group)), format!("run{group}"), 0)
}

/// A run of a node, also of a former start of it.
#[derive(Clone, Debug)]
struct Mover {
    job: Job,
    run: u32,
    node: NodeId,
    incarnation: Incarnation,
    kind: RunKind,
    work: MoverState,
    authorized: bool,
}

pub struct World {
    pub rng: Rng,
    pub state: ClusterState,
    index: u64,
    pub term: Term,
    pub now_ns: u64,
    leader: NodeId,
    pub alive: BTreeSet<NodeId>,
    observed: BTreeMap<NodeId, NodeObservation>,
    movers: Vec<Mover>,
    /// Connections that are authorized and not killed: they may change a server.
    pub open: BTreeSet<(HostPort, Job, u32)>,
    pub memory: JobMemory,
    pub authorizations: Authorizations,
    barrier: Option<HoldId>,
    finished: Option<(HoldId, u32)>,
    /// The probability of a fault in a turn, percent.
    pub faults: u32,
    pub trace: Vec<String>,
    pub switches: u32,
    /// The sentences about what was waited for, see `waits`.
    pub waits: BTreeSet<usize>,
    /// What every mover reports besides.
    pub load: MoverView,
    /// What every mover reports to do, whatever it does.
    pub stuck_at: Option<MoverState>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng::with_seed(seed),
            state: ClusterState::default(),
            index: 0,
            term: Term(1),
            now_ns: 1_000 * MS,
            leader: NodeId(1),
            alive: (1..=NODES).map(NodeId).collect(),
            observed: BTreeMap::new(),
            movers: Vec::new(),
            open: BTreeSet::new(),
            memory: JobMemory::new(1_000 * MS),
            authorizations: Authorizations::new(Term(1)),
            barrier: None,
            finished: None,
            faults: 0,
            trace: Vec::new(),
            switches: 0,
            waits: BTreeSet::new(),
            load: MoverView::default(),
            stuck_at: None,
        };
        world.make(Change::Bootstrap(Bootstrap { members: (1..=NODES).map(member).collect(), port: 19_000 }));
        world.make(Change::CreateProduct(NewProduct {
            name: "p".into(),
            port: 19_500,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated: Isolated::Refuse,
            databases: 16,
            auth: None,
        }));
        (1..=NODES).for_each(|id| world.admit(NodeId(id)));
        for group in 1..=2 {
            world.make(Change::CreateGroup(CreateGroup {
                product: PRODUCT,
                group: GroupId(group),
                servers: vec![server(group)],
                credentials: None,
                data_user: None,
            }));
        }
        let slots = (0..20).map(SlotId).collect();
        world.make(Change::AssignFree(AssignFree { product: PRODUCT, slots, to: GroupId(1) }));
        world
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
        let at = Position { index: pontoon::model::ids::Epoch(self.index), term: self.term };
        let result = apply(&mut self.state, &entry, at).map_err(|reject| reject.to_string());
        let wrong = pontoon::model::check::check(&self.state);
        assert!(wrong.is_empty(), "{wrong:?}\n{}", self.trace.join("\n"));
        result
    }

    pub fn make(&mut self, change: Change) -> Outcome {
        self.apply(change.clone()).unwrap_or_else(|why| panic!("{change:?}: {why}"))
    }

    fn admit(&mut self, node: NodeId) {
        let start = Uuid(u128::from(self.rng.u64(1..)));
        self.make(Change::Admit(Admit { member: member(node.0), start }));
    }

    pub fn plan(&mut self) -> MigrationId {
        let slots = (0..10).map(SlotId).collect();
        let limits = Limits::default();
        let options = MigrationOptions { verify: Verify::None, wipe: false, limits };
        let (from, to) = (GroupId(1), GroupId(2));
        match self.make(Change::PlanMigration(PlanMigration { product: PRODUCT, slots, from, to, options })) {
            Outcome::Migration(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn incarnation(&self, node: NodeId) -> Incarnation {
        self.state.members[&node].admitted.unwrap().incarnation
    }

    fn happens(&mut self) -> bool {
        self.rng.u32(0..100) < self.faults
    }

    /// Nodes end and start, movers work, movers of former starts try to.
    pub fn others(&mut self, job: Job) {
        if self.happens() {
            let node = NodeId(self.rng.u64(1..=NODES));
            match self.rng.u32(0..4) {
                // A node ends or starts again; its former connections may still be open in the kernel.
                0 if self.alive.contains(&node) && node != self.leader => {
                    self.alive.remove(&node);
                }
                0 | 1 => {
                    if self.alive.insert(node) || self.rng.bool() {
                        self.admit(node);
                    }
                }
                2 => {
                    self.term = Term(self.term.0 + 1);
                    self.leader = node;
                    self.alive.insert(node);
                    self.observed.clear();
                    self.memory = JobMemory::new(self.now_ns);
                    self.authorizations = Authorizations::new(self.term);
                    self.barrier = None;
                    self.trace.push(format!("node {node} leads in term {}", self.term));
                }
                _ => {
                    for node in self.movers.iter_mut().filter(|w| w.node == node) {
                        node.work = MoverState::Failed("a connection was lost".into());
                    }
                }
            }
        }
        for node in self.alive.clone() {
            let (incarnation, applied) = (self.incarnation(node), self.state.applied);
            self.observed.insert(node, NodeObservation { incarnation, heartbeat_ns: self.now_ns, applied });
        }
        if let Some(run) = self.state.current_run(job).cloned() {
            let incarnation = self.incarnation(run.node);
            let known = self.movers.iter().any(|w| w.job == job && w.run == run.run);
            if self.alive.contains(&run.node) && incarnation.0 < run.began.0 && !known {
                let (node, kind) = (run.node, run.kind);
                let work = MoverState::Opening;
                self.movers.push(Mover { job, run: run.run, node, incarnation, kind, work, authorized: false });
            }
        }
        for at in 0..self.movers.len() {
            let node = self.movers[at].clone();
            let lives = self.alive.contains(&node.node) && self.incarnation(node.node) == node.incarnation;
            // What the mover of a former start has begun may still happen.
            if lives || self.rng.u32(0..100) < 10 {
                self.works(at);
            }
        }
    }

    fn works(&mut self, at: usize) {
        let node = self.movers[at].clone();
        let at_server = |group| server(group).addr;
        let server = match node.kind {
            RunKind::Copy | RunKind::WipeTarget => at_server(2),
            RunKind::CleanSource | RunKind::Sweep => at_server(1),
        };
        let next = match node.work {
            MoverState::Opening => {
                let asked = [ConnectionId { server: server.clone(), client_id: u64::from(node.run) }];
                match self.authorizations.authorize(&self.state, (node.job, node.run), node.node, &asked) {
                    Ok(()) => {
                        self.open.insert((server, node.job, node.run));
                        self.movers[at].authorized = true;
                        if node.kind == RunKind::Copy { MoverState::CleaningTarget } else { MoverState::Cleaning }
                    }
                    Err(why) => MoverState::Failed(why),
                }
            }
            // Its connections were killed.
            _ if node.authorized && !self.open.contains(&(server, node.job, node.run)) => {
                MoverState::Failed("its connections were closed".into())
            }
            MoverState::CleaningTarget if self.rng.bool() => MoverState::Copying,
            MoverState::Copying if self.rng.bool() => MoverState::CaughtUp,
            MoverState::Cleaning if self.rng.bool() => MoverState::Cleaned,
            MoverState::Finished(hold) if !self.state.holds.contains_key(&hold) => MoverState::Copying,
            same => same,
        };
        self.movers[at].work = next;
    }

    pub fn mover(&self, job: Job) -> Option<MoverView> {
        let newest =
            self.movers.iter().filter(|w| w.job == job && self.alive.contains(&w.node)).max_by_key(|w| w.run)?;
        (self.incarnation(newest.node) == newest.incarnation).then(|| MoverView {
            node: newest.node,
            incarnation: newest.incarnation,
            run: newest.run,
            work: self.stuck_at.clone().unwrap_or_else(|| newest.work.clone()),
            ..self.load.clone()
        })
    }

    /// Time passes, less of it while clients wait; then the leader does all steps that it can do now. Returns these.
    pub fn turn(&mut self, job: Job, ms: u64) -> Vec<JobStep> {
        let ms = if self.state.holds.is_empty() { ms } else { ms.min(self.rng.u64(1..60)) };
        self.now_ns += ms * MS;
        self.others(job);
        let mut steps = Vec::new();
        while steps.len() < 20 {
            steps.push(self.lead(job));
            if matches!(steps.last(), Some(JobStep::Wait { .. } | JobStep::Over)) {
                break;
            }
        }
        steps
    }

    /// Carries out one decision of the leader, and returns it.
    pub fn lead(&mut self, job: Job) -> JobStep {
        let hold = self.state.holds.keys().next().copied();
        let barrier = hold.map(|hold| match self.barrier == Some(hold) {
            true => Barrier::Passed,
            false => Barrier::Waiting(vec!["node 2 has not acked".into()]),
        });
        let mover = self.mover(job);
        let seen = JobObservation {
            state: &self.state,
            term: self.term,
            me: self.leader,
            now_ns: self.now_ns,
            nodes: &self.observed,
            mover: mover.as_ref(),
            barrier: barrier.as_ref(),
            timing: Timing::default(),
        };
        self.memory.observe(&seen, job);
        let step = match job {
            Job::Migration(id) => plan::migration::next(&seen, &self.memory, id),
            Job::Sweep { product, group } => plan::sweep::next(&seen, &self.memory, product, group),
        };
        if let JobStep::Wait { wait, .. } = &step {
            self.waits.insert(waits::row(wait));
        } else {
            self.trace.push(format!("{} ms: {step:?}", self.now_ns / MS));
        }
        self.carry_out(job, step.clone());
        step
    }

    fn carry_out(&mut self, job: Job, step: JobStep) {
        let now_ns = self.now_ns;
        let fails = self.happens();
        match step {
            JobStep::Over => {}
            JobStep::Wait { .. } => {
                if let Some(hold) = self.state.holds.keys().next().filter(|_| !fails) {
                    self.barrier = Some(*hold);
                }
            }
            JobStep::SelectEndpoints => {
                let groups = &self.state.products[&PRODUCT].groups;
                let found = SelectedEndpoints {
                    feed: server(1).addr,
                    target: server(2).addr,
                    group_epochs: groups.values().map(|g| (g.id, g.epoch)).collect(),
                };
                self.memory.endpoints_selected(now_ns, if fails { Err("no answer".into()) } else { Ok(found) });
            }
            JobStep::Preflight => {
                self.memory.preflighted(now_ns, if fails { Err("node 3 is silent".into()) } else { Ok(()) });
            }
            JobStep::Close { server, runs, .. } => {
                let _ = self.authorizations.close(&self.state, job, runs);
                // It may have succeeded nevertheless.
                if !fails || self.rng.bool() {
                    self.open.retain(|(at, of, _)| *at != server || *of != job);
                }
                let result = if fails { Err("no answer".into()) } else { Ok(()) };
                self.memory.closed(now_ns, server, runs, result, Timing::default());
            }
            JobStep::Finish { hold, run, node, by_ns } => {
                assert_eq!(self.barrier, Some(hold), "before the barrier: {}", self.trace.join("\n"));
                assert!(by_ns > now_ns);
                let busy = self.movers.iter_mut().find(|w| w.job == job && w.run == run && w.node == node);
                match busy.filter(|w| w.work == MoverState::CaughtUp && !fails) {
                    Some(busy) => {
                        busy.work = MoverState::Finished(hold);
                        self.finished = Some((hold, run));
                        self.memory.finished(hold, Ok(target_offset(run)));
                    }
                    None => self.memory.finished(hold, Err("it did not finish".into())),
                }
            }
            JobStep::Propose(change) => {
                self.check_change(job, &change);
                let result = self.apply(change.clone());
                if let Err(why) = &result {
                    panic!("the leader proposes what is refused: {change:?}: {why}\n{}", self.trace.join("\n"));
                }
                let times = (now_ns, now_ns);
                self.memory.proposed(times, &change, result.as_ref().map_err(Clone::clone), Timing::default());
            }
        }
    }

    /// Checks what must hold before a change.
    fn check_change(&mut self, job: Job, change: &Change) {
        let no_open_connection = |server: &HostPort| {
            let there: Vec<_> = self.open.iter().filter(|(at, of, _)| at == server && *of == job).collect();
            assert!(there.is_empty(), "{change:?} in front of the fence: {there:?}\n{}", self.trace.join("\n"));
        };
        match change {
            Change::StartMigration(StartMigration { target, .. }) => no_open_connection(target),
            Change::StartRun(StartRun { server, .. }) => no_open_connection(server),
            Change::Switch(Switch { hold, target_offset, .. }) => {
                no_open_connection(&server(2).addr);
                let run = self.state.current_run(job).unwrap().run;
                assert_eq!(self.finished, Some((*hold, run)), "no run has finished: {}", self.trace.join("\n"));
                assert_eq!(*target_offset, self::target_offset(run), "the offset that its node reported");
                assert_eq!(self.barrier, Some(*hold));
                self.switches += 1;
            }
            Change::Cleaned(_) | Change::EndSweep(_) => {
                no_open_connection(&self.state.current_run(job).unwrap().server);
            }
            _ => {}
        }
    }

    /// An operator pauses, resumes or cancels at random.
    pub fn operate(&mut self, id: MigrationId) {
        let why = "an operator wants it".to_owned();
        let change = match self.rng.u32(0..10) {
            0 => Change::CancelMigration(CancelMigration { migration: id, why }),
            1..=4 => Change::PauseMigration(PauseMigration { migration: id, why }),
            _ => Change::ResumeMigration(ResumeMigration { migration: id }),
        };
        if self.apply(change.clone()).is_ok() {
            self.trace.push(format!("{change:?}"));
        }
    }
}

/// The target's offset when this run has finished.
fn target_offset(run: u32) -> ReplicationOffset {
    ReplicationOffset { replid: "ab".into(), offset: u64::from(run) }
}

/// Takes turns without faults until the leader's step is a wanted one.
#[track_caller]
pub fn until(world: &mut World, job: Job, wanted: impl Fn(&JobStep) -> bool) -> JobStep {
    for _ in 0..500 {
        world.now_ns += 5 * MS;
        world.others(job);
        let step = world.lead(job);
        if wanted(&step) {
            return step;
        }
    }
    panic!("the wanted step did not come:\n{}", world.trace.join("\n"));
}

#[track_caller]
pub fn until_slowly(world: &mut World, job: Job, wanted: impl Fn(&JobStep) -> bool) -> JobStep {
    for _ in 0..10_000 {
        if let Some(step) = world.turn(job, 100).into_iter().find(&wanted) {
            return step;
        }
    }
    panic!("the wanted step did not come:\n{}", world.trace.join("\n"));
}
