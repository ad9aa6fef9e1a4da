//! A node: applies the log, sends heartbeats, and its workers dispatch, park, check and drain, as src/node/heartbeat.rs
//! and src/proxy/{check,hold,worker}.rs do. Knows which node leads only from messages.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    clients::Answer,
    jobs::AuthorizationRequest,
    leader::{Heartbeat, Lead, Tag},
    mover::Mover,
    mover_messages::News,
    network::{self, Clock, MS, Ns, SECOND, spread},
    raft::Proposal,
    worker::{InFlight, Worker},
    world::{Event, PRODUCT, World},
};
use fastrand::Rng;
use pontoon::{
    control::leadership::heartbeat_handler::Grant,
    model::{
        ids::{Epoch, GroupId, HoldId, HostPort, Incarnation, SlotId, Term, Uuid},
        migration::Job,
        route::{Isolated, RouteTable, SlotRoute},
        state::Admission,
    },
    node::lease::{Granted, Lease, Sent},
    proxy::permit::Permit,
};

/// `node::heartbeat::ANSWER_WITHIN`.
const ANSWER_WITHIN: Ns = SECOND;
/// How long a request stays parked at most, and a request's deadline at a server.
const PARKED_MAX: Ns = 5 * SECOND;
const REQUEST_MAX: Ns = 5 * SECOND;

/// What happens at a node.
pub enum NodeEvent {
    Apply { upto: usize },
    Leads { leader: usize, term: Term, from: usize },
    Swap { worker: usize },
    HeartbeatDue { serial: u64 },
    HeartbeatNews,
    HeartbeatTimeout { heartbeat: u64 },
    HeartbeatAnswer { heartbeat: u64, grant: Grant },
    Heartbeat(Box<Heartbeat>),
    RoundEnd { round: u64, term: Term, proof: Option<usize> },
    Propose(Box<Proposal>),
    ChangeVoters { term: Term, voters: BTreeSet<usize> },
    ProposalFailed { tag: Tag },
    ProposalLate { tag: Tag },
    Ping { from: usize, nonce: u64 },
    PingAnswer { from: usize, nonce: u64 },
    TaskWake { serial: u64 },
    Mover { job: Job, run: u32, news: News },
    Authorize { from: usize, job: Job, run: u32, server: HostPort, connection: u64 },
    AuthorizationRoundEnd { term: Term, proof: Option<usize>, asking: Box<AuthorizationRequest> },
    Probed { serial: u64 },
    Closed { serial: u64, result: Result<(), String> },
    Finished { serial: u64, result: Result<(), String> },
    EvaluateBarriers,
    Request { op: usize },
    HandlerReply { op: usize, version: u64 },
    Deadline { op: usize },
    ParkedTooLong { op: usize },
}

pub struct Node {
    pub clock: Clock,
    pub up: bool,
    pub paused: bool,
    pub cut: bool,
    pub boot: u32,
    start: Uuid,
    /// How many data directories it has had before: a removed node joins again with an empty one.
    directory: u32,
    /// Events that wait until the node is resumed.
    pub backlog: Vec<NodeEvent>,
    pub applied: usize,
    pub workers: Vec<Worker>,
    pub lease: Lease,
    /// Which node leads, as far as it knows.
    pub leader: Option<(usize, Term)>,
    /// A term of its own whose first entry it has not applied yet.
    elected: Option<(Term, usize)>,
    pub lead: Option<Lead>,
    /// Entries that it has appended and whose results it waits for.
    pub proposed: Vec<(usize, Tag)>,
    /// The heartbeat that is not answered yet, and when it was sent.
    heartbeat: Option<(u64, Sent)>,
    heartbeats: u64,
    news: bool,
    /// Runs that it works on.
    pub movers: BTreeMap<Job, Mover>,
}

impl Node {
    pub fn new(clock: Clock, rng: &mut Rng) -> Self {
        Self {
            clock,
            up: true,
            paused: false,
            cut: false,
            boot: 0,
            start: Uuid(rng.u128(..)),
            directory: 0,
            backlog: Vec::new(),
            applied: 0,
            workers: (0..rng.usize(1..=2)).map(|_| Worker::default()).collect(),
            lease: Lease::new(Permit::none().into()),
            leader: None,
            elected: None,
            lead: None,
            proposed: Vec::new(),
            heartbeat: None,
            heartbeats: 0,
            news: false,
            movers: BTreeMap::new(),
        }
    }
}

impl World {
    pub fn on_node(&mut self, node: usize, what: NodeEvent) {
        match what {
            NodeEvent::Apply { upto } => self.applies(node, upto),
            NodeEvent::Leads { leader, term, from } => self.learns_leader(node, leader, term, from),
            NodeEvent::Swap { worker } => self.swap(node, worker),
            NodeEvent::HeartbeatDue { serial } if serial == self.nodes[node].heartbeats => self.heartbeat(node),
            NodeEvent::HeartbeatDue { .. } => {}
            NodeEvent::HeartbeatNews if self.nodes[node].heartbeat.is_none() => self.heartbeat(node),
            NodeEvent::HeartbeatNews => self.nodes[node].news = true,
            NodeEvent::HeartbeatTimeout { heartbeat } => {
                if self.nodes[node].heartbeat.is_some_and(|(id, _)| id == heartbeat) {
                    self.heartbeat_is_over(node, true);
                }
            }
            NodeEvent::HeartbeatAnswer { heartbeat, grant } => self.heartbeat_answered(node, heartbeat, grant),
            NodeEvent::Heartbeat(heartbeat) => self.heartbeat_handler(node, *heartbeat),
            NodeEvent::RoundEnd { round, term, proof } => self.round_ends(node, round, term, proof),
            NodeEvent::Propose(proposal) => self.propose(node, *proposal),
            NodeEvent::ChangeVoters { term, voters } => self.change_voters(node, term, voters),
            NodeEvent::ProposalFailed { tag } => self.proposal_ends(node, tag, Err(None)),
            NodeEvent::ProposalLate { tag } => self.proposal_is_late(node, tag),
            NodeEvent::Ping { from, nonce } => self.send(node, from, NodeEvent::PingAnswer { from: node, nonce }),
            NodeEvent::PingAnswer { from, nonce } => self.ping_answered(node, from, nonce),
            NodeEvent::TaskWake { serial } => self.task_wakes(node, serial),
            NodeEvent::Mover { job, run, news } => self.on_mover(node, job, run, news),
            NodeEvent::Authorize { from, job, run, server, connection } => {
                self.authorize(node, AuthorizationRequest { from, job, run, server, connection });
            }
            NodeEvent::AuthorizationRoundEnd { term, proof, asking } => {
                self.authorization_round_ends(node, term, proof, asking)
            }
            NodeEvent::Probed { serial } => self.probed(node, serial),
            NodeEvent::Closed { serial, result } => self.job_closed(node, serial, result),
            NodeEvent::Finished { serial, result } => self.job_finished(node, serial, result),
            NodeEvent::EvaluateBarriers => {
                if let Some(lead) = &mut self.nodes[node].lead {
                    lead.barriers_scheduled = false;
                }
                self.step_jobs(node);
            }
            NodeEvent::Request { op } => self.request(node, op),
            NodeEvent::HandlerReply { op, version } => self.reply(node, op, version),
            NodeEvent::Deadline { op } => self.deadline(node, op),
            NodeEvent::ParkedTooLong { op } => {
                let worker = self.ops[op].worker;
                let parked = &mut self.nodes[node].workers[worker].parked;
                if let Some(at) = parked.iter().position(|p| *p == op) {
                    parked.remove(at);
                    self.answer(op, Answer::Refused);
                }
            }
        }
    }

    // The log and its leader.

    fn applies(&mut self, node: usize, upto: usize) {
        let before = self.admission(node);
        let n = &mut self.nodes[node];
        if upto <= n.applied {
            return;
        }
        let routes = self.raft.log[n.applied].state.route_epoch != self.raft.log[upto].state.route_epoch;
        n.applied = upto;
        if routes {
            for worker in 0..self.nodes[node].workers.len() {
                let delay = network::turn(&mut self.rng);
                self.at_node(node, delay, NodeEvent::Swap { worker });
            }
        }
        if self.admission(node) != before {
            self.on_node(node, NodeEvent::HeartbeatNews);
        }
        self.begin_to_lead(node);
        let n = &mut self.nodes[node];
        let (known, rest) = std::mem::take(&mut n.proposed).into_iter().partition(|(index, _)| *index <= upto);
        n.proposed = rest;
        let known: Vec<(usize, Tag)> = known;
        for (index, tag) in known {
            let result = self.raft.log[index].result.clone();
            self.proposal_ends(node, tag, result.map_err(Some));
        }
        if self.rules.migrations {
            self.follow(node);
            self.step_jobs(node);
        }
    }

    fn learns_leader(&mut self, node: usize, leader: usize, term: Term, from: usize) {
        let n = &mut self.nodes[node];
        if n.leader.is_some_and(|(_, known)| known >= term) {
            return;
        }
        n.leader = Some((leader, term));
        n.lead = None;
        n.elected = (leader == node).then_some((term, from));
        self.begin_to_lead(node);
        self.on_node(node, NodeEvent::HeartbeatNews);
    }

    /// A node begins to lead when it has applied an entry of its own term.
    fn begin_to_lead(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some((term, from)) = n.elected else { return };
        if n.applied < from {
            return;
        }
        n.elected = None;
        let now = n.clock.read(self.now);
        // Without this rule: as if the term had begun long ago.
        let lease = self.timing.lease_at_leader().as_nanos() as Ns + 1;
        let since = if self.rules.leader_waits { now } else { now - lease };
        n.lead = Some(Lead::new(term, since, self.timing));
    }

    /// The process ends. A polite one answers its requests and sends a last heartbeat.
    pub fn stop(&mut self, node: usize, polite: bool) {
        let waiting = self.clients.iter().filter_map(|c| c.op);
        let lost: Vec<usize> = waiting.filter(|op| self.ops[*op].node == node).collect();
        for op in lost {
            self.schedule(MS, Event::ClientHas { op, answer: Answer::Unknown });
        }
        if polite && let Some((leader, _)) = self.nodes[node].leader.filter(|(l, _)| *l != node) {
            let heartbeat = Heartbeat { stopping: true, ..self.compose(node, 0) };
            self.send(node, leader, NodeEvent::Heartbeat(Box::new(heartbeat)));
        }
        let n = &mut self.nodes[node];
        n.up = false;
        n.boot += 1;
    }

    /// A new start, which knows its log nearly to the end, and nothing else.
    pub fn restart(&mut self, node: usize) {
        self.note(format_args!("node {} starts", node + 1));
        let applied = self.nodes[node].applied.saturating_sub(self.rng.usize(0..3));
        let n = &self.nodes[node];
        let (boot, cut, heartbeats, directory) = (n.boot, n.cut, n.heartbeats, n.directory);
        let new = Node { boot, cut, applied, heartbeats, directory, ..Node::new(n.clock, &mut self.rng) };
        self.nodes[node] = new;
        for worker in 0..self.nodes[node].workers.len() {
            self.at_node(node, MS, NodeEvent::Swap { worker });
        }
        let serial = self.nodes[node].heartbeats;
        self.at_node(node, 2 * MS, NodeEvent::HeartbeatDue { serial });
    }

    // Heartbeats.

    /// This start's admission, as far as this node knows.
    pub fn admission(&self, node: usize) -> Option<Admission> {
        let n = &self.nodes[node];
        let member = self.raft.log[n.applied].state.members.get(&self.member_id(node))?;
        member.admitted.filter(|a| a.start == n.start)
    }

    fn compose(&self, node: usize, heartbeat: u64) -> Heartbeat {
        let n = &self.nodes[node];
        let mut drained: Option<BTreeSet<HoldId>> = None;
        for worker in &n.workers {
            let its: BTreeSet<HoldId> =
                worker.holds.iter().filter(|(_, drained)| **drained).map(|(id, _)| *id).collect();
            drained = Some(drained.map_or(its.clone(), |all| all.intersection(&its).copied().collect()));
        }
        let incarnation: Option<Incarnation> = self.admission(node).map(|a| a.incarnation);
        Heartbeat {
            node,
            heartbeat,
            start: n.start,
            directory: n.directory,
            incarnation,
            drained: drained.unwrap_or_default(),
            stopping: false,
            applied: n.applied,
            movers: self.reports(node),
        }
    }

    fn heartbeat(&mut self, node: usize) {
        let now = self.local(node);
        let n = &mut self.nodes[node];
        n.heartbeats += 1;
        n.news = false;
        let serial = n.heartbeats;
        let every = n.clock.lasts(self.timing.heartbeat.as_nanos() as Ns);
        if n.heartbeat.is_some() {
            // One at a time.
            self.at_node(node, every, NodeEvent::HeartbeatDue { serial });
            return;
        }
        n.heartbeat = Some((serial, Sent::at(now)));
        let (leader, patience) = (n.leader, n.clock.lasts(ANSWER_WITHIN));
        self.at_node(node, every, NodeEvent::HeartbeatDue { serial });
        self.at_node(node, patience, NodeEvent::HeartbeatTimeout { heartbeat: serial });
        let heartbeat = self.compose(node, serial);
        if let Some((leader, _)) = leader {
            self.send(node, leader, NodeEvent::Heartbeat(Box::new(heartbeat)));
        }
    }

    fn heartbeat_answered(&mut self, node: usize, heartbeat: u64, grant: Grant) {
        let Some((_, sent)) = self.nodes[node].heartbeat.filter(|(id, _)| *id == heartbeat) else { return };
        let now = self.local(node);
        let sent = if self.rules.from_send { sent } else { Sent::at(now) };
        if let Grant::Lease { length, min_applied } = grant {
            let min_applied = if self.rules.min_applied { min_applied } else { Epoch(0) };
            let granted = Granted { length, min_applied };
            let reached = self.reached(node);
            self.nodes[node].lease.granted(sent, granted, reached, now);
        }
        if grant == Grant::DuplicateNode {
            self.violated(format!("node {} was answered that it has a duplicate, and there is none", node + 1));
        }
        if grant == Grant::NotMember {
            // It stops, reports that, and is started again with an empty data directory.
            self.nodes[node].lease.revoke();
            self.note(format_args!("node {} was answered that it is removed", node + 1));
            self.stop(node, true);
            self.nodes[node].directory += 1;
            let pause = self.fault_length();
            self.schedule(pause, Event::Restart(node));
            return;
        }
        self.heartbeat_is_over(node, grant == Grant::NotLeader);
    }

    fn heartbeat_is_over(&mut self, node: usize, ask_around: bool) {
        self.nodes[node].heartbeat = None;
        if ask_around
            && !self.nodes[node].cut
            && let Some(leader) = self.raft.leader
        {
            let what = NodeEvent::Leads { leader, term: self.raft.term, from: self.raft.term_begins };
            let delay = network::message(&mut self.rng);
            self.at_node(node, delay, what);
        }
        if std::mem::take(&mut self.nodes[node].news) {
            self.at_node(node, MS, NodeEvent::HeartbeatNews);
        }
    }

    // Workers.

    /// The epoch that the tables of all workers have reached.
    fn reached(&self, node: usize) -> Epoch {
        (0..self.nodes[node].workers.len()).map(|w| self.table(node, w).epoch).min().unwrap_or_default()
    }

    fn table(&self, node: usize, worker: usize) -> &RouteTable {
        &self.raft.log[self.nodes[node].workers[worker].table].table
    }

    /// As `proxy::check` does it: whether the worker may serve.
    fn may_serve(&self, node: usize, worker: usize) -> bool {
        let (table, permit) = (self.table(node, worker), self.nodes[node].lease.permit());
        let until = permit.lease_until_ns();
        let Some(product) = table.products.get(&PRODUCT) else { return false };
        until != 0
            && permit.table_is_recent(table.epoch)
            && (product.isolated == Isolated::Serve || self.local(node) < until)
    }

    fn route(&self, node: usize, worker: usize, slot: SlotId) -> SlotRoute {
        self.table(node, worker)
            .products
            .get(&PRODUCT)
            .map_or_else(SlotRoute::default, |p| p.slots[usize::from(slot.0)])
    }

    fn swap(&mut self, node: usize, worker: usize) {
        let applied = self.nodes[node].applied;
        let table = self.raft.log[applied].table.clone();
        self.nodes[node].workers[worker].table = applied;
        let reached = self.reached(node);
        self.nodes[node].lease.reached(reached);
        let w = &mut self.nodes[node].workers[worker];
        w.holds.retain(|id, _| table.holds.contains_key(id));
        for id in table.holds.keys() {
            w.holds.entry(*id).or_insert(!self.rules.drain);
        }
        let parked = std::mem::take(&mut w.parked);
        self.recount(node, worker);
        for op in parked {
            self.request(node, op);
        }
        let delay = MS + network::turn(&mut self.rng);
        self.at_node(node, delay, NodeEvent::HeartbeatNews);
    }

    /// Requests that were sent before a hold are answered: the node has news for the leader.
    fn recount(&mut self, node: usize, worker: usize) {
        let table = self.raft.log[self.nodes[node].workers[worker].table].table.clone();
        let w = &mut self.nodes[node].workers[worker];
        let mut news = false;
        for (id, drained) in w.holds.iter_mut().filter(|(_, drained)| !**drained) {
            let slots = &table.holds[id].slots;
            *drained = !w.inflight.values().any(|i| slots.contains(&i.slot));
            news |= *drained;
        }
        if news {
            self.at_node(node, MS, NodeEvent::HeartbeatNews);
        }
    }

    /// A request arrives: the check before it is sent.
    fn request(&mut self, node: usize, id: usize) {
        let op = &self.ops[id];
        let (worker, slot) = (op.worker, SlotId(op.slot));
        if !self.may_serve(node, worker) {
            self.answer(id, Answer::Refused);
            return;
        }
        let route = self.route(node, worker, slot);
        if route.hold != HoldId::default() {
            self.nodes[node].workers[worker].parked.push(id);
            let max = self.nodes[node].clock.lasts(PARKED_MAX);
            self.at_node(node, max, NodeEvent::ParkedTooLong { op: id });
            return;
        }
        let Some(group) = route.group else {
            self.answer(id, Answer::Refused);
            return;
        };
        let server = usize::from(group);
        if self.rules.migrations {
            let table = self.nodes[node].workers[worker].table;
            let group = &self.raft.log[table].state.products[&PRODUCT].groups[&GroupId(server as u32 + 1)];
            self.ops[id].which = Self::place(&group.servers[0].addr).1;
        }
        self.ops[id].server = server;
        self.nodes[node].workers[worker].inflight.insert(id, InFlight { slot, epoch: route.epoch });
        let slow = self.server_slow[server];
        let delay = network::server(&mut self.rng, slow);
        self.schedule(delay, Event::Execute(id));
        let max = self.nodes[node].clock.lasts(REQUEST_MAX);
        self.at_node(node, max, NodeEvent::Deadline { op: id });
    }

    /// A reply arrives: the check before it is delivered, which is the decisive one.
    fn reply(&mut self, node: usize, id: usize, version: u64) {
        if self.ops[id].life != self.stores[self.ops[id].server].life {
            // The server ended before it had sent the reply.
            return self.deadline(node, id);
        }
        let worker = self.ops[id].worker;
        let Some(entry) = self.nodes[node].workers[worker].inflight.remove(&id) else { return };
        let epoch_is = self.route(node, worker, entry.slot).epoch == entry.epoch || !self.rules.epoch_at_reply;
        if !self.rules.check_at_reply || (self.may_serve(node, worker) && epoch_is) {
            if let Err(why) = self.invariants.passes(entry.slot.0, entry.epoch) {
                self.violated(format!("{why} (request {id} through node {})", node + 1));
            }
            // Between this check and the socket anything may happen, also a pause.
            let delay = if self.rng.u8(0..200) == 0 { spread(&mut self.rng, MS, 6 * SECOND) } else { 0 };
            self.schedule(delay + MS / 5, Event::ClientHas { op: id, answer: Answer::Done(version) });
        } else {
            self.answer(id, Answer::Unknown);
        }
        self.recount(node, worker);
    }

    /// A request's deadline: its connection is closed.
    fn deadline(&mut self, node: usize, id: usize) {
        let worker = self.ops[id].worker;
        if self.nodes[node].workers[worker].inflight.remove(&id).is_some() {
            self.answer(id, Answer::Unknown);
            self.recount(node, worker);
        }
    }
}
