//! A leader: the real heartbeat handler (src/control/heartbeat_handler.rs), the rounds behind it, and assignments on their way, as
//! src/control/{leases,rounds,assign,driver}.rs do. Knows nothing of whether it still leads: the rules must see to that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    invariants::Registers,
    jobs::Carried,
    network::{self, MS, Ns, SECOND},
    node::NodeEvent,
    raft::Proposal,
    world::{Event, PRODUCT, World},
};
use pontoon::{
    control::leadership::heartbeat_handler::{self, Grant, HandlerReply, HandlerStep, HeartbeatHandler, RoundPurpose},
    model::{
        change::{Admit, Change, FinishAssign, FinishRemove, GiveUpAssign, OpenHold, Release},
        ids::{AssignmentId, Epoch, GroupId, HoldId, Incarnation, NodeId, Term, Uuid},
        migration::Job,
        outcome::Outcome,
        route::HoldKind,
        state::{Cause, ClusterState},
    },
    plan::{authorization::Authorizations, lease::Barrier, mover::MoverView, timing::Timing},
};

/// `control::assign::{PREFLIGHT_MAX, BARRIER_POLL_INTERVAL}`.
const PREFLIGHT_MAX: Ns = 30 * SECOND;
const BARRIER_POLL_INTERVAL: Ns = 5 * MS;
/// A node that wants to join asks again after so long.
const JOIN_WITHIN: Ns = SECOND;
/// How often a leader probes for assignments that nobody carries out.
const DRIVE: Ns = 50 * MS;

/// What a heartbeat says.
#[derive(Clone)]
pub struct Heartbeat {
    pub node: usize,
    pub heartbeat: u64,
    pub start: Uuid,
    pub incarnation: Option<Incarnation>,
    pub drained: BTreeSet<HoldId>,
    pub stopping: bool,
    pub applied: usize,
    pub movers: Vec<(Job, MoverView)>,
}

/// Who waits for a proposal's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    Nobody,
    Task(u64),
    Job(u64),
}

/// A node's leadership of one term.
pub struct Lead {
    pub term: Term,
    pub heartbeat_handler: HeartbeatHandler,
    pub jobs: BTreeMap<Job, Carried>,
    pub authorizations: Authorizations,
    /// A probe at barriers is due.
    pub probes: bool,
    /// When a start that is no member was proposed as one.
    joining: BTreeMap<Uuid, Ns>,
    rounds: u64,
    /// Who waits for the round that runs, and for the next.
    in_round: Vec<(Heartbeat, RoundPurpose)>,
    asked: Vec<(Heartbeat, RoundPurpose)>,
    runs: bool,
    tasks: BTreeMap<AssignmentId, Task>,
    driven: Ns,
}

/// One assignment, carried out.
struct Task {
    serial: u64,
    backoff: Ns,
    group_epochs: BTreeMap<GroupId, Epoch>,
    stage: Stage,
}

enum Stage {
    /// A hold of another term is being released.
    ReleaseLeft,
    Preflight {
        waiting: BTreeSet<usize>,
        deadline: Ns,
    },
    Open,
    Barrier {
        hold: HoldId,
        deadline: Ns,
    },
    Finish {
        hold: HoldId,
    },
    Release,
    Backoff,
    GiveUp,
}

impl Lead {
    pub fn new(term: Term, since: Ns, timing: Timing) -> Self {
        let mut heartbeat_handler = HeartbeatHandler::new(timing);
        heartbeat_handler.open(Some(term), since);
        Self {
            term,
            heartbeat_handler,
            jobs: BTreeMap::new(),
            authorizations: Authorizations::new(term),
            probes: false,
            joining: BTreeMap::new(),
            rounds: 0,
            in_round: Vec::new(),
            asked: Vec::new(),
            runs: false,
            tasks: BTreeMap::new(),
            driven: 0,
        }
    }
}

impl World {
    pub fn member_id(&self, node: usize) -> NodeId {
        NodeId(node as u64 + 1)
    }

    /// The newest state that a node knows.
    pub fn state(&self, node: usize) -> std::rc::Rc<ClusterState> {
        self.raft.log[self.nodes[node].applied].state.clone()
    }

    fn reply_to(&mut self, node: usize, heartbeat: &Heartbeat, grant: Grant) {
        if !heartbeat.stopping {
            self.send(node, heartbeat.node, NodeEvent::HeartbeatAnswer { heartbeat: heartbeat.heartbeat, grant });
        }
    }

    // The heartbeat handler.

    /// Raft's voters as a leader sees them.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.raft.voters.iter().map(|n| self.member_id(*n)).collect()
    }

    /// A heartbeat as it is sent.
    fn said(&self, heartbeat: &Heartbeat) -> heartbeat_handler::Heartbeat {
        heartbeat_handler::Heartbeat {
            node: self.member(heartbeat.node),
            start: heartbeat.start,
            incarnation: heartbeat.incarnation,
            applied: Epoch(heartbeat.applied as u64),
            route_epoch: Epoch::default(),
            drained: heartbeat.drained.clone(),
            waiting: BTreeMap::new(),
            listeners: BTreeMap::new(),
            version: String::new(),
            stopping: heartbeat.stopping,
            movers: heartbeat.movers.clone(),
            servers: Vec::new(),
        }
    }

    /// A heartbeat arrives: facts first, then a place in the next round.
    pub fn heartbeat_handler(&mut self, node: usize, heartbeat: Heartbeat) {
        let (state, now, said, voters) = (self.state(node), self.local(node), self.said(&heartbeat), self.voters());
        let id = self.member_id(heartbeat.node);
        let Some(lead) = &mut self.nodes[node].lead else {
            self.reply_to(node, &heartbeat, Grant::NotLeader);
            return;
        };
        if !state.members.contains_key(&id) && heartbeat.incarnation.is_none() {
            // A start that never was a member joins; one that was has been removed, and is told so.
            if !heartbeat.stopping && lead.joining.get(&heartbeat.start).is_none_or(|at| now > at + JOIN_WITHIN) {
                lead.joining.insert(heartbeat.start, now);
                let change = Change::AddMember(self.member(heartbeat.node));
                self.wants(node, change, Tag::Nobody, Registers::new());
            }
            self.reply_to(node, &heartbeat, Grant::NotYet("it joins".into()));
            return;
        }
        lead.heartbeat_handler.needed(voters);
        match lead.heartbeat_handler.arrives(&said, &state, now) {
            HandlerStep::Done(reply) => self.answers(node, &heartbeat, reply),
            HandlerStep::Round(asked) if self.rules.round => {
                lead.asked.push((heartbeat, asked));
                self.begin_round(node);
            }
            HandlerStep::Round(asked) => self.after_round(node, &heartbeat, asked),
        }
        self.check_barriers(node);
        self.carry_on(node);
    }

    fn answers(&mut self, node: usize, heartbeat: &Heartbeat, reply: HandlerReply) {
        let grant = match reply {
            HandlerReply::Grant(grant) => grant,
            HandlerReply::Admit => {
                let change = Change::Admit(Admit { member: self.member(heartbeat.node), start: heartbeat.start });
                self.wants(node, change, Tag::Nobody, Registers::new());
                Grant::NotYet("this start is being admitted".into())
            }
        };
        self.reply_to(node, heartbeat, grant);
    }

    fn begin_round(&mut self, node: usize) {
        let boot = self.nodes[node].boot;
        let Some(lead) = &mut self.nodes[node].lead else { return };
        if lead.runs || lead.asked.is_empty() {
            return;
        }
        lead.runs = true;
        lead.rounds += 1;
        lead.in_round = std::mem::take(&mut lead.asked);
        let round = lead.rounds;
        let delay = network::message(&mut self.rng);
        self.schedule(delay, Event::Round { node, boot, round });
    }

    pub fn round_ends(&mut self, node: usize, round: u64, term: Term, proof: Option<usize>) {
        let applied = self.nodes[node].applied;
        let Some(lead) = self.nodes[node].lead.as_mut().filter(|l| l.term == term && l.rounds == round) else { return };
        if proof.is_some_and(|index| applied < index) {
            // A linearizable read waits until what was committed before is applied.
            self.at_node(node, MS, NodeEvent::RoundEnd { round, term, proof });
            return;
        }
        lead.runs = false;
        for (heartbeat, asked) in std::mem::take(&mut lead.in_round) {
            if proof.is_some() {
                self.after_round(node, &heartbeat, asked);
            } else {
                self.reply_to(node, &heartbeat, Grant::NotLeader);
            }
        }
        self.begin_round(node);
    }

    fn after_round(&mut self, node: usize, heartbeat: &Heartbeat, asked: RoundPurpose) {
        let (state, now, said, voters) = (self.state(node), self.local(node), self.said(heartbeat), self.voters());
        let Some(lead) = &mut self.nodes[node].lead else { return };
        lead.heartbeat_handler.needed(voters);
        let reply = lead.heartbeat_handler.after_round(&said, asked, lead.term, &state, now);
        self.answers(node, heartbeat, reply);
    }

    // Assignments.

    /// Hands a change to the node's own Raft; between the decision and the append the process may be paused.
    pub fn wants(&mut self, node: usize, change: Change, tag: Tag, copied: Registers) {
        let proposal = Proposal { change, tag, copied };
        let delay = network::turn(&mut self.rng) + network::message(&mut self.rng);
        self.at_node(node, delay, NodeEvent::Propose(Box::new(proposal)));
    }

    /// Every open assignment has one task. Called now and then.
    pub fn drive(&mut self, node: usize) {
        let (state, now, voters) = (self.state(node), self.now, self.raft.voters.clone());
        let n = &mut self.nodes[node];
        let Some(lead) = n.lead.as_mut().filter(|l| n.up && !n.paused && now >= l.driven + DRIVE) else { return };
        lead.driven = now;
        lead.tasks.retain(|id, _| state.assignments.contains_key(id));
        let (local, term) = (n.clock.read(now), lead.term);
        let leaving = state.members.values().filter(|m| m.leaving.is_some());
        let ready: Vec<Change> = leaving
            // Raft lets it go first.
            .filter(|m| !voters.contains(&(m.id.0 as usize - 1)))
            .filter(|m| lead.heartbeat_handler.table().is_some_and(|t| t.removable(m, &state, local).is_ok()))
            .map(|m| Change::FinishRemove(FinishRemove { node: m.id, uuid: m.uuid, term }))
            .collect();
        if let Some(voters) = self.voters_wanted(&state) {
            let delay = 2 * network::message(&mut self.rng);
            self.at_node(node, delay, NodeEvent::ChangeVoters { term, voters });
        }
        for change in ready {
            self.wants(node, change, Tag::Nobody, Registers::new());
        }
        for id in state.assignments.keys() {
            if self.nodes[node].lead.as_ref().is_some_and(|l| !l.tasks.contains_key(id)) {
                self.attempt(node, *id, self.timing.backoff.as_nanos() as Ns);
            }
        }
    }

    fn attempt(&mut self, node: usize, id: AssignmentId, backoff: Ns) {
        let state = self.state(node);
        let Some(assignment) = state.assignments.get(&id) else { return self.gone(node, id) };
        let product = &state.products[&PRODUCT];
        let owners = assignment.slots.iter().filter_map(|s| product.slots[usize::from(s.0)].owner);
        let group_epochs = owners.chain([assignment.to]).map(|g| (g, product.groups[&g].epoch)).collect();
        let task = Task { serial: self.rng.u64(..), backoff, group_epochs, stage: Stage::ReleaseLeft };
        let serial = task.serial;
        let Some(lead) = &mut self.nodes[node].lead else { return };
        lead.tasks.insert(id, task);
        let left = state.holds.values().find(|h| h.cause == Cause::Assignment(id));
        match left {
            Some(left) => {
                let change = Change::Release(Release { hold: left.id, why: "a new leader begins anew".into() });
                self.wants(node, change, Tag::Task(serial), Registers::new());
            }
            None => self.preflight(node, id, PREFLIGHT_MAX),
        }
    }

    /// Every possible server answers a ping, or surely serves no more.
    fn preflight(&mut self, node: usize, id: AssignmentId, within: Ns) {
        let (state, now) = (self.state(node), self.local(node));
        let isolated = state.products[&PRODUCT].isolated;
        let serial = self.rng.u64(..);
        let Some(lead) = &mut self.nodes[node].lead else { return };
        let servers = state
            .members
            .values()
            .filter(|m| !lead.heartbeat_handler.table().is_some_and(|t| t.surely_silent(m, isolated, now)));
        let waiting: BTreeSet<usize> = servers.map(|m| m.id.0 as usize - 1).collect();
        let Some(task) = lead.tasks.get_mut(&id) else { return };
        task.serial = serial;
        let whom = waiting.clone();
        task.stage = Stage::Preflight { waiting, deadline: now + within };
        for server in whom {
            self.send(node, server, NodeEvent::Ping { from: node, nonce: serial });
        }
        let patience = self.nodes[node].clock.lasts(self.timing.ping_timeout.as_nanos() as Ns);
        self.at_node(node, patience, NodeEvent::TaskWake { serial });
    }

    pub fn ping_answered(&mut self, node: usize, from: usize, nonce: u64) {
        let Some(id) = self.task_of(node, nonce) else { return };
        let Some(lead) = &mut self.nodes[node].lead else { return };
        let Some(Task { stage: Stage::Preflight { waiting, .. }, .. }) = lead.tasks.get_mut(&id) else { return };
        waiting.remove(&from);
        if waiting.is_empty() {
            self.open(node, id);
        }
    }

    fn open(&mut self, node: usize, id: AssignmentId) {
        let state = self.state(node);
        let Some(assignment) = state.assignments.get(&id) else { return self.gone(node, id) };
        let change = Change::OpenHold(OpenHold {
            cause: Cause::Assignment(id),
            attempt: assignment.attempts + 1,
            kind: HoldKind::Wait,
            reason: String::new(),
        });
        self.next(node, id, Stage::Open, change, Registers::new());
    }

    /// The task's next stage waits for the result of a change.
    fn next(&mut self, node: usize, id: AssignmentId, stage: Stage, change: Change, copied: Registers) {
        let serial = self.rng.u64(..);
        let Some(task) = self.nodes[node].lead.as_mut().and_then(|l| l.tasks.get_mut(&id)) else { return };
        task.serial = serial;
        task.stage = stage;
        self.wants(node, change, Tag::Task(serial), copied);
    }

    fn check_barriers(&mut self, node: usize) {
        let Some(lead) = &self.nodes[node].lead else { return };
        let open = lead.tasks.iter().filter(|(_, t)| matches!(t.stage, Stage::Barrier { .. }));
        let open: Vec<AssignmentId> = open.map(|(id, _)| *id).collect();
        for id in open {
            self.check_barrier(node, id);
        }
    }

    fn check_barrier(&mut self, node: usize, id: AssignmentId) {
        let (state, now) = (self.state(node), self.local(node));
        let Some(lead) = &self.nodes[node].lead else { return };
        let Some(Task { stage: Stage::Barrier { hold, deadline }, serial, group_epochs, .. }) = lead.tasks.get(&id)
        else {
            return;
        };
        let (hold, deadline, serial, term) = (*hold, *deadline, *serial, lead.term);
        let Some(open) = state.holds.get(&hold) else { return self.gone(node, id) };
        let Some(barrier) = lead.heartbeat_handler.table().map(|t| t.barrier(open, &state, now)) else { return };
        if barrier == Barrier::Passed || !self.rules.barrier {
            let change =
                Change::FinishAssign(FinishAssign { assignment: id, hold, term, group_epochs: group_epochs.clone() });
            self.seen.silent += u64::from((0..self.nodes.len()).any(|n| self.nodes[n].cut || self.nodes[n].paused));
            self.note(format_args!("node {}: the barrier of hold {hold} has passed", node + 1));
            let copied = open.slots.iter().filter_map(|s| Some((s.0, *self.servers[self.owner(*s)].get(&s.0)?)));
            let copied = copied.collect();
            self.next(node, id, Stage::Finish { hold }, change, copied);
        } else if now >= deadline {
            self.release(node, id, hold);
        } else {
            self.at_node(node, BARRIER_POLL_INTERVAL, NodeEvent::TaskWake { serial });
        }
    }

    fn release(&mut self, node: usize, id: AssignmentId, hold: HoldId) {
        let change = Change::Release(Release { hold, why: String::new() });
        self.next(node, id, Stage::Release, change, Registers::new());
    }

    fn retry(&mut self, node: usize, id: AssignmentId) {
        let state = self.state(node);
        let Some(assignment) = state.assignments.get(&id) else { return self.gone(node, id) };
        if assignment.attempts >= self.timing.attempts_max {
            let change = Change::GiveUpAssign(GiveUpAssign { assignment: id, why: "five attempts".into() });
            self.next(node, id, Stage::GiveUp, change, Registers::new());
            return;
        }
        let serial = self.rng.u64(..);
        let Some(task) = self.nodes[node].lead.as_mut().and_then(|l| l.tasks.get_mut(&id)) else { return };
        task.serial = serial;
        task.stage = Stage::Backoff;
        let pause = task.backoff;
        task.backoff *= 2;
        let pause = self.nodes[node].clock.lasts(pause);
        self.at_node(node, pause, NodeEvent::TaskWake { serial });
    }

    pub fn task_wakes(&mut self, node: usize, serial: u64) {
        let Some(id) = self.task_of(node, serial) else { return };
        let now = self.local(node);
        let Some(task) = self.nodes[node].lead.as_ref().and_then(|l| l.tasks.get(&id)) else { return };
        match &task.stage {
            Stage::Barrier { .. } => self.check_barrier(node, id),
            Stage::Backoff => self.attempt(node, id, task.backoff),
            Stage::Preflight { deadline, .. } if now >= *deadline => {
                let change = Change::GiveUpAssign(GiveUpAssign { assignment: id, why: "a silent node".into() });
                self.next(node, id, Stage::GiveUp, change, Registers::new());
            }
            Stage::Preflight { deadline, .. } => self.preflight(node, id, deadline - now),
            Stage::ReleaseLeft | Stage::Open | Stage::Finish { .. } | Stage::Release | Stage::GiveUp => {}
        }
    }

    /// What came of a proposal; `Err(None)`: nobody knows, so the task begins anew or another leader does.
    pub fn proposal_ends(&mut self, node: usize, tag: Tag, result: Result<Outcome, Option<String>>) {
        if let Tag::Job(serial) = tag {
            self.job_proposed(node, serial, result);
            return;
        }
        let Tag::Task(serial) = tag else { return };
        let Some(id) = self.task_of(node, serial) else { return };
        let (state, now) = (self.state(node), self.local(node));
        let Some(task) = self.nodes[node].lead.as_ref().and_then(|l| l.tasks.get(&id)) else { return };
        if result == Err(None) {
            return self.gone(node, id);
        }
        match (&task.stage, result) {
            (Stage::ReleaseLeft, Ok(_)) => self.preflight(node, id, PREFLIGHT_MAX),
            (Stage::Open, Ok(Outcome::Held(hold))) => {
                let deadline = now + Ns::from(state.settings.hold_ms_max) * MS;
                if let Some(task) = self.nodes[node].lead.as_mut().and_then(|l| l.tasks.get_mut(&id)) {
                    task.stage = Stage::Barrier { hold, deadline };
                }
                self.check_barrier(node, id);
            }
            (Stage::Finish { hold }, Err(_)) => self.release(node, id, *hold),
            (Stage::Finish { .. } | Stage::GiveUp, _) => self.gone(node, id),
            _ => self.retry(node, id),
        }
    }

    fn gone(&mut self, node: usize, id: AssignmentId) {
        if let Some(lead) = &mut self.nodes[node].lead {
            lead.tasks.remove(&id);
        }
    }

    fn task_of(&self, node: usize, serial: u64) -> Option<AssignmentId> {
        let lead = self.nodes[node].lead.as_ref()?;
        lead.tasks.iter().find(|(_, t)| t.serial == serial).map(|(id, _)| *id)
    }
}
