//! A leader: the real heartbeat handler (src/control/leadership/heartbeat_handler.rs) and the quorum rounds behind it,
//! as src/control/leadership/{leases,quorum,leader_loop}.rs do. Knows nothing of whether it still leads: the rules must
//! ensure that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    assignments::AssignmentTasks,
    invariants::Registers,
    jobs::JobTask,
    network::{self, MS, Ns, SECOND},
    node::NodeEvent,
    raft::Proposal,
    world::{Event, World},
};
use pontoon::{
    control::leadership::heartbeat_handler::{self, Grant, HandlerReply, HandlerStep, HeartbeatHandler, RoundPurpose},
    model::{
        change::{Admit, Change, FinishRemove},
        ids::{Epoch, HoldId, Incarnation, NodeId, Term, Uuid},
        migration::Job,
        state::ClusterState,
    },
    plan::{authorization::Authorizations, closings::MemoryReport, mover::MoverView, timing::Timing},
};

/// A node that wants to join asks again after this time.
const JOIN_WITHIN: Ns = SECOND;
/// How often a leader checks whether members can be dropped, and whether assignments have no task.
const DRIVE: Ns = 50 * MS;

/// The content of a heartbeat.
#[derive(Clone)]
pub struct Heartbeat {
    pub node: usize,
    pub heartbeat: u64,
    pub start: Uuid,
    /// How many data directories the node had before.
    pub directory: u32,
    pub incarnation: Option<Incarnation>,
    pub drained: BTreeSet<HoldId>,
    pub stopping: bool,
    pub applied: usize,
    pub movers: Vec<(Job, MoverView)>,
}

/// What waits for a proposal's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    None,
    Task(u64),
    Job(u64),
}

/// A node's leadership of one term.
pub struct Lead {
    pub term: Term,
    pub heartbeat_handler: HeartbeatHandler,
    pub jobs: BTreeMap<Job, JobTask>,
    pub authorizations: Authorizations,
    /// An evaluation of barriers is scheduled.
    pub barriers_scheduled: bool,
    /// When a start that is not a member was proposed as one.
    joining: BTreeMap<Uuid, Ns>,
    rounds: u64,
    /// The heartbeats that wait for the round in progress, and for the next one.
    in_round: Vec<(Heartbeat, RoundPurpose)>,
    asked: Vec<(Heartbeat, RoundPurpose)>,
    runs: bool,
    pub tasks: AssignmentTasks,
    driven: Ns,
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
            barriers_scheduled: false,
            joining: BTreeMap::new(),
            rounds: 0,
            in_round: Vec::new(),
            asked: Vec::new(),
            runs: false,
            tasks: AssignmentTasks::new(),
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

    /// A heartbeat as the handler gets it.
    fn content(&self, heartbeat: &Heartbeat) -> heartbeat_handler::Heartbeat {
        heartbeat_handler::Heartbeat {
            node: self.member(heartbeat.node, heartbeat.directory),
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
            memory: MemoryReport::default(),
            secrets: None,
        }
    }

    /// A heartbeat arrives: its facts are recorded, then it waits for the next round.
    pub fn heartbeat_handler(&mut self, node: usize, heartbeat: Heartbeat) {
        let (state, now, content, voters) =
            (self.state(node), self.local(node), self.content(&heartbeat), self.voters());
        let id = self.member_id(heartbeat.node);
        let member = self.member(heartbeat.node, heartbeat.directory);
        let Some(lead) = &mut self.nodes[node].lead else {
            self.reply_to(node, &heartbeat, Grant::NotLeader);
            return;
        };
        if !state.members.contains_key(&id) && heartbeat.incarnation.is_none() {
            // A start that never was a member joins; one that was has been removed, and gets that answer. So does one
            // that has the data directory of a removed node.
            if state.removed.iter().any(|removed| removed.uuid == member.uuid) {
                self.reply_to(node, &heartbeat, Grant::NotMember);
                return;
            }
            if !heartbeat.stopping && lead.joining.get(&heartbeat.start).is_none_or(|at| now > at + JOIN_WITHIN) {
                lead.joining.insert(heartbeat.start, now);
                let change = Change::AddMember(member);
                self.wants(node, change, Tag::None, Registers::new());
            }
            self.reply_to(node, &heartbeat, Grant::NotYet("it joins".into()));
            return;
        }
        lead.heartbeat_handler.set_voters(voters);
        match lead.heartbeat_handler.arrives(&content, &state, now) {
            HandlerStep::Done(reply) => self.answers(node, &heartbeat, reply),
            HandlerStep::Round(asked) if self.rules.round => {
                lead.asked.push((heartbeat, asked));
                self.begin_round(node);
            }
            HandlerStep::Round(asked) => self.after_round(node, &heartbeat, asked),
        }
        self.step_assignments(node);
        self.step_jobs(node);
    }

    fn answers(&mut self, node: usize, heartbeat: &Heartbeat, reply: HandlerReply) {
        let grant = match reply {
            HandlerReply::Grant(grant) => grant,
            HandlerReply::Admit => {
                let change = Change::Admit(Admit {
                    member: self.member(heartbeat.node, heartbeat.directory),
                    start: heartbeat.start,
                });
                self.wants(node, change, Tag::None, Registers::new());
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
        let (state, now, content, voters) =
            (self.state(node), self.local(node), self.content(heartbeat), self.voters());
        let Some(lead) = &mut self.nodes[node].lead else { return };
        lead.heartbeat_handler.set_voters(voters);
        let reply = lead.heartbeat_handler.after_round(&content, asked, lead.term, &state, now);
        self.answers(node, heartbeat, reply);
    }

    // Changes.

    /// Hands a change to the node's own Raft; between the decision and the append the process may be paused.
    pub fn wants(&mut self, node: usize, change: Change, tag: Tag, copied: Registers) {
        let proposal = Proposal { change, tag, copied };
        let delay = network::turn(&mut self.rng) + network::message(&mut self.rng);
        self.at_node(node, delay, NodeEvent::Propose(Box::new(proposal)));
    }

    /// What a leader does at intervals: drops members, changes the voters, begins tasks for assignments.
    pub fn drive(&mut self, node: usize) {
        let (state, now, voters) = (self.state(node), self.now, self.raft.voters.clone());
        let n = &mut self.nodes[node];
        let Some(lead) = n.lead.as_mut().filter(|l| n.up && !n.paused && now >= l.driven + DRIVE) else { return };
        lead.driven = now;
        let (local, term) = (n.clock.read(now), lead.term);
        let leaving = state.members.values().filter(|m| m.leaving.is_some());
        let ready: Vec<Change> = leaving
            // Raft's membership drops it first.
            .filter(|m| !voters.contains(&(m.id.0 as usize - 1)))
            .filter(|m| lead.heartbeat_handler.table().is_some_and(|t| t.removable(m, &state, local).is_ok()))
            .map(|m| Change::FinishRemove(FinishRemove { node: m.id, uuid: m.uuid, term }))
            .collect();
        if let Some(voters) = self.voters_wanted(&state) {
            let delay = 2 * network::message(&mut self.rng);
            self.at_node(node, delay, NodeEvent::ChangeVoters { term, voters });
        }
        for change in ready {
            self.wants(node, change, Tag::None, Registers::new());
        }
        self.step_assignments(node);
    }
}
