//! The world: virtual time, the event queue, the faults, and the end, when everything must have recovered.
//! Knows nothing of the rules of docs/design/serving.md; nodes and leaders keep those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use pontoon::{
    model::{
        change::{AssignFree, BeginRemove, Bootstrap, Change, CreateGroup, NewMember, NewProduct, StartAssign},
        ids::{GroupId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
        migration::Job,
        route::{Isolated, Mode},
        slot::Layout,
        state::Server,
    },
    plan::timing::Timing,
};

use super::{
    clients::{Answer, Client, Op},
    invariants::{InvariantChecker, Registers, Version},
    jobs::AuthorizationRequest,
    leader::Tag,
    network::{self, Clock, MS, Ns, SECOND, spread},
    node::{Node, NodeEvent},
    queue::Queue,
    raft::{Proposal, Raft},
    rules::{Rules, Seen},
    store::{Closing, Store},
};

/// The product under test, beside `default`.
pub const PRODUCT: ProductId = ProductId(2);
/// Slots that clients use; a slot is a register.
pub const SLOTS: u16 = 4;
pub const KEYS_PER_SLOT: u16 = 2;
pub const GROUPS: u16 = 2;
const CLIENTS: usize = 8;
/// Faults happen until then.
const FAULTS: Ns = 20 * SECOND;
/// The same in a world with migrations: more of such worlds.
pub const MIGRATION_FAULTS: Ns = 12 * SECOND;
/// Then everything has this time to settle: five attempts with their back-off, an election and a lease.
const SETTLE: Ns = 20 * SECOND;
/// Lines of the trace that a failure shows.
const TRACE: usize = 120;

/// What happens at a moment.
pub enum Event {
    /// An event at one start of a node; waits while the node is paused. If it comes from another node, it is lost while
    /// either is cut off.
    Node {
        node: usize,
        boot: u32,
        from: Option<usize>,
        what: NodeEvent,
    },
    RaftTick,
    /// A majority has or has not answered the round of a leader.
    Round {
        node: usize,
        boot: u32,
        round: u64,
    },
    Nemesis,
    Operator,
    Replicate,
    Failover(usize),
    Open {
        place: (usize, u16),
        job: Job,
        run: u32,
        node: usize,
        boot: u32,
    },
    /// A run's connection: its next command is executed.
    RunCommand {
        server: usize,
        connection: u64,
    },
    /// A run's next request to its source.
    Source {
        node: usize,
        boot: u32,
        job: Job,
        run: u32,
    },
    Control(Box<Closing>),
    ControlRound(Box<Closing>),
    AuthorizationRound {
        node: usize,
        boot: u32,
        term: Term,
        asking: Box<AuthorizationRequest>,
    },
    Resume(usize),
    Heal(usize),
    Restart(usize),
    ServerWell(usize),
    Execute(usize),
    ClientNext(usize),
    ClientHas {
        op: usize,
        answer: Answer,
    },
    ClientTires(usize),
}

pub struct World {
    pub rng: Rng,
    pub rules: Rules,
    pub timing: Timing,
    pub now: Ns,
    queue: Queue<Event>,
    pub raft: Raft,
    pub nodes: Vec<Node>,
    pub servers: Vec<Registers>,
    pub server_slow: Vec<bool>,
    pub stores: Vec<Store>,
    /// Executions before the switch of a migration that has not ended.
    pub switched: BTreeMap<MigrationId, Version>,
    pub executions: Version,
    pub clients: Vec<Client>,
    pub ops: Vec<Op>,
    pub invariants: InvariantChecker,
    pub seen: Seen,
    violation: Option<String>,
    pub faults: bool,
    /// Whether the trace is kept: formatting it costs more than the simulation itself.
    traced: bool,
    trace: VecDeque<String>,
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> Self {
        Self::begin(seed, rules, false)
    }

    /// The same, with its trace.
    pub fn with_trace(seed: u64, rules: Rules) -> Self {
        Self::begin(seed, rules, true)
    }

    fn begin(seed: u64, rules: Rules, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let nodes = rng.usize(3..=4);
        let nodes: Vec<Node> =
            (0..nodes).map(|_| Node::new(Clock::random(&mut rng, rules.rates_differ), &mut rng)).collect();
        let mut world = Self {
            rng,
            rules,
            timing: Timing::default(),
            now: 0,
            queue: Queue::new(),
            raft: Raft::new(nodes.len()),
            nodes,
            servers: vec![Registers::new(); usize::from(GROUPS)],
            stores: (0..GROUPS).map(|_| Store::default()).collect(),
            switched: BTreeMap::new(),
            server_slow: vec![false; usize::from(GROUPS)],
            executions: 0,
            clients: vec![Client::default(); CLIENTS],
            ops: Vec::new(),
            invariants: InvariantChecker::default(),
            seen: Seen::default(),
            violation: None,
            faults: true,
            traced,
            trace: VecDeque::new(),
        };
        world.set_up();
        world
    }

    /// Creates the cluster, its product and its slots, and schedules the first events.
    fn set_up(&mut self) {
        let host = |port: u16| HostPort::parse(&format!("127.0.0.1:{port}")).unwrap();
        let members = (0..self.nodes.len()).map(|n| self.member(n, 0)).collect();
        // Mostly a product that refuses without a lease: with the other setting a silent node blocks everything.
        let isolated = if self.rng.u8(0..6) == 0 { Isolated::Serve } else { Isolated::Refuse };
        let product = NewProduct {
            name: "p".into(),
            port: 20000,
            layout: Layout::Codis,
            mode: Mode::Store,
            isolated,
            databases: 16,
            auth: None,
        };
        let mut changes = vec![Change::Bootstrap(Bootstrap { members, port: 19000 }), Change::CreateProduct(product)];
        for group in 1..=GROUPS {
            let run_id = format!("{group:040x}");
            let mut servers = vec![Server::new(host(30000 + group), run_id, 0)];
            if self.rules.migrations {
                let run_id = format!("{:040x}", 100 + group);
                servers.push(Server::new(host(30010 + group), run_id, 0));
            }
            let group = GroupId(group.into());
            changes.push(Change::CreateGroup(CreateGroup {
                product: PRODUCT,
                group,
                servers,
                credentials: None,
                data_user: None,
            }));
        }
        for slot in 0..SLOTS {
            let to = GroupId((1 + slot % GROUPS).into());
            changes.push(Change::AssignFree(AssignFree { product: PRODUCT, slots: [SlotId(slot)].into(), to }));
        }
        for change in changes {
            self.append(change, Term(1)).unwrap();
        }
        self.elect();
        for node in 0..self.nodes.len() {
            self.at_node(node, 0, NodeEvent::HeartbeatDue { serial: 0 });
        }
        self.schedule(0, Event::RaftTick);
        for client in 0..CLIENTS {
            self.schedule(MS, Event::ClientNext(client));
        }
        let first = if self.rules.migrations { 500 * MS } else { 2 * SECOND };
        if self.rules.migrations {
            self.schedule(0, Event::Replicate);
        }
        self.schedule(first, Event::Nemesis);
        self.schedule(first, Event::Operator);
    }

    /// A node as it describes itself. `directory`: how many data directories it has had before.
    pub fn member(&self, node: usize, directory: u32) -> NewMember {
        let id = 1 + node as u64;
        NewMember {
            id: NodeId(id),
            uuid: Uuid(u128::from(id) << 32 | u128::from(directory)),
            admin: HostPort::parse(&format!("127.0.0.1:{}", 19100 + id)).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: id as u16,
        }
    }

    /// A time with faults, then one without; at the end everything must have recovered.
    pub fn run(&mut self) -> Result<(), String> {
        if self.rules.migrations {
            return self.run_migrations();
        }
        self.run_faults()?;
        self.until(FAULTS + SETTLE)?;
        self.settled()
    }

    /// Only the part with faults.
    pub fn run_faults(&mut self) -> Result<(), String> {
        self.until(if self.rules.migrations { MIGRATION_FAULTS } else { FAULTS })?;
        self.faults = false;
        for node in 0..self.nodes.len() {
            self.heal(node);
            self.resume(node);
            if !self.nodes[node].up {
                self.restart(node);
            }
        }
        self.server_slow.fill(false);
        Ok(())
    }

    pub fn until(&mut self, end: Ns) -> Result<(), String> {
        while let Some((at, event)) = self.queue.pop(end) {
            self.now = at;
            if self.queue.is_endless() {
                return Err("the same event is scheduled endlessly".into());
            }
            self.happen(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Node { node, boot, from, what } => {
                let lost = from.is_some_and(|f| f != node && (self.nodes[f].cut || self.nodes[node].cut));
                if lost || !self.nodes[node].up || self.nodes[node].boot != boot {
                    return;
                }
                if self.nodes[node].paused {
                    self.nodes[node].backlog.push(what);
                } else {
                    self.on_node(node, what);
                }
            }
            Event::RaftTick => self.raft_tick(),
            Event::Round { node, boot, round } => {
                let Some(term) = self.nodes[node].lead.as_ref().map(|l| l.term) else { return };
                let proof = if self.nodes[node].boot == boot { self.quorum_round(node, term) } else { None };
                let delay = network::message(&mut self.rng);
                self.at_node(node, delay, NodeEvent::RoundEnd { round, term, proof });
            }
            Event::Replicate => self.replicate(),
            Event::Failover(server) => self.fail_over(server),
            Event::Open { place, job, run, node, boot } => self.opens(place, (job, run), node, boot),
            Event::RunCommand { server, connection } => self.next_command(server, connection),
            Event::Source { node, boot, job, run } => self.source(node, boot, job, run),
            Event::Control(closing) => self.closes(*closing),
            Event::ControlRound(closing) => self.control_round(*closing),
            Event::AuthorizationRound { node, boot, term, asking } => {
                self.authorization_round(node, boot, term, *asking)
            }
            Event::Nemesis => self.nemesis(),
            Event::Operator => self.operator(),
            Event::Resume(node) => self.resume(node),
            Event::Heal(node) => self.heal(node),
            Event::Restart(node) => {
                if !self.nodes[node].up {
                    self.restart(node);
                }
            }
            Event::ServerWell(server) => self.server_slow[server] = false,
            Event::Execute(op) => self.execute(op),
            Event::ClientNext(client) => self.client_next(client),
            Event::ClientHas { op, answer } => self.client_has(op, answer),
            Event::ClientTires(op) => self.client_has(op, Answer::Unknown),
        }
    }

    pub fn schedule(&mut self, delay: Ns, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// Schedules an event at the present start of a node.
    pub fn at_node(&mut self, node: usize, delay: Ns, what: NodeEvent) {
        let boot = self.nodes[node].boot;
        self.schedule(delay, Event::Node { node, boot, from: None, what });
    }

    /// Schedules an event at the start `boot` of a node.
    pub fn at_boot(&mut self, node: usize, boot: u32, delay: Ns, what: NodeEvent) {
        self.schedule(delay, Event::Node { node, boot, from: None, what });
    }

    /// Sends a message between nodes; one from a node to itself takes no time.
    pub fn send(&mut self, from: usize, to: usize, what: NodeEvent) {
        if self.nodes[from].cut && from != to {
            return;
        }
        let delay = if from == to { 0 } else { network::message(&mut self.rng) };
        let boot = self.nodes[to].boot;
        self.schedule(delay, Event::Node { node: to, boot, from: Some(from), what });
    }

    pub fn local(&self, node: usize) -> Ns {
        self.nodes[node].clock.read(self.now)
    }

    fn nemesis(&mut self) {
        if !self.faults {
            return;
        }
        let next = spread(&mut self.rng, 50 * MS, 2500 * MS);
        self.schedule(next, Event::Nemesis);
        let node = self.rng.usize(0..self.nodes.len());
        let length = self.fault_length();
        let most = if self.rules.migrations { 12 } else { 10 };
        match self.rng.u8(0..most) {
            10 | 11 => {
                let server = self.rng.usize(0..self.servers.len());
                self.crash(server);
            }
            0..=2 if self.nodes[node].up && !self.nodes[node].paused => {
                self.note(format_args!("node {} is paused for {} ms", node + 1, length / MS));
                self.nodes[node].paused = true;
                self.schedule(length, Event::Resume(node));
            }
            3..=5 if !self.nodes[node].cut => {
                self.note(format_args!("node {} is cut off for {} ms", node + 1, length / MS));
                self.nodes[node].cut = true;
                self.schedule(length, Event::Heal(node));
            }
            6 if self.nodes[node].up && !self.nodes[node].paused => {
                let polite = self.rng.bool();
                self.note(format_args!("node {} stops, polite: {polite}", node + 1));
                self.stop(node, polite);
                self.schedule(length, Event::Restart(node));
            }
            7 => {
                let server = self.rng.usize(0..self.servers.len());
                self.note(format_args!("server {} is slow for {} ms", server + 1, length / MS));
                self.server_slow[server] = true;
                self.schedule(length, Event::ServerWell(server));
            }
            8 => self.elect(),
            9 => self.remove(node),
            _ => {}
        }
    }

    /// An operator removes a node, which may be up, paused, cut off or down. It joins again when it is started again.
    fn remove(&mut self, node: usize) {
        let Some(leader) = self.raft.leader.filter(|l| self.has_quorum(*l) && !self.nodes[*l].paused) else { return };
        let state = &self.raft.log[self.raft.last()].state;
        if state.products[&PRODUCT].isolated == Isolated::Serve {
            // A start whose end was not reported could serve for ever: that requires an operator's `--assume-dead`.
            return;
        }
        let change = Change::BeginRemove(BeginRemove { node: self.member_id(node), assume_dead: false });
        self.seen.removed += 1;
        self.propose(leader, Proposal { change, tag: Tag::None, copied: Registers::new() });
    }

    fn heal(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].cut) {
            self.note(format_args!("node {} is back on the network", node + 1));
        }
    }

    fn resume(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return;
        }
        self.note(format_args!("node {} resumes", node + 1));
        // Its threads find all events at once, in any order.
        for what in std::mem::take(&mut self.nodes[node].backlog) {
            let delay = spread(&mut self.rng, 1000, 60 * MS);
            self.at_node(node, delay, what);
        }
    }

    /// Gives slots to the other group, one after the other and some together.
    fn operator(&mut self) {
        if !self.faults {
            return;
        }
        let next = spread(&mut self.rng, 20 * MS, 1500 * MS);
        self.schedule(next, Event::Operator);
        if self.rules.migrations {
            return self.migrate();
        }
        let Some(leader) = self.raft.leader.filter(|l| self.has_quorum(*l) && !self.nodes[*l].paused) else { return };
        let to = GroupId(self.rng.u16(1..=GROUPS).into());
        let state = self.raft.log[self.raft.last()].state.clone();
        let moves = |slot: &SlotId| state.assignments.values().any(|a| a.slots.contains(slot));
        let free = (0..SLOTS).map(SlotId).filter(|s| !moves(s));
        let slots: BTreeSet<SlotId> = free.filter(|_| self.rng.bool()).collect();
        if slots.is_empty() {
            return;
        }
        let change = Change::StartAssign(StartAssign { product: PRODUCT, slots, to: Some(to), abandon: false });
        self.propose(leader, Proposal { change, tag: Tag::None, copied: Registers::new() });
    }

    /// After the faults every node serves, and nothing is held, parked or unfinished.
    fn settled(&self) -> Result<(), String> {
        let newest = &self.raft.log[self.raft.last()];
        if !newest.state.holds.is_empty() || !newest.state.assignments.is_empty() {
            return Err(format!("not settled: {:?} {:?}", newest.state.holds, newest.state.assignments));
        }
        if newest.state.members.len() != self.nodes.len() {
            return Err(format!("not every node is a member: {:?}", newest.state.members));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            for worker in &node.workers {
                let table = &self.raft.log[worker.table].table;
                let leased = self.local(i) < node.lease.permit().lease_until_ns()
                    && node.lease.permit().table_is_recent(table.epoch);
                if !leased || table.epoch != newest.table.epoch || !worker.parked.is_empty() {
                    return Err(format!("node {} does not serve: lease {leased}, {worker:?}", i + 1));
                }
            }
        }
        let quiet = self.clients.iter().position(|c| c.served < FAULTS + SETTLE - 15 * SECOND);
        quiet.map_or(Ok(()), |c| Err(format!("client {c} is not served any more")))
    }

    pub fn violated(&mut self, what: String) {
        let at = self.now / MS;
        self.violation.get_or_insert_with(|| format!("at {at} ms: {what}"));
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if !self.traced {
            return;
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:9.3} ms  {what}", self.now as f64 / MS as f64));
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> String {
        self.trace.iter().map(|line| format!("{line}\n")).collect()
    }
}
