//! Promotions in virtual time: a leader with the real `plan::{failover, promotion, replication}`, three redis-servers
//! whose roles in memory and on disk can differ, a client, and faults between any two effects. After the last fault,
//! with all servers up, the group must have a primary again.
//! With `min-acks` (`acks`), no acknowledged write may be lost as long as a process has it that received it.
//! Knows nothing of leases: a barrier passes some milliseconds after its hold (the other worlds of this simulation have
//! them).

mod acks;
mod acks_tests;
mod faults;
mod leader;
mod servers;
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use pontoon::{
    model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, NewMember, StartPromotion},
        check::check,
        ids::{Epoch, GroupId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        outcome::Outcome,
        promotion::PromotionKind,
        state::{ClusterState, Entry, Group, Position, Server},
    },
    plan::observation::{AgedReport, InSync, Observation, Probe, ProbeReport, ReportedRole},
};

use self::{
    acks::Acks,
    faults::Fault,
    leader::Leader,
    servers::{RedisServer, Servers, Write},
};
use super::network::{MS, Ns, SECOND};

pub const PRODUCT: ProductId = ProductId(1);
pub const GROUP: GroupId = GroupId(1);
const SERVERS: usize = 3;
/// How often clients write and replicas receive.
const TICK: Ns = 20 * MS;
const PROBES: Ns = 500 * MS;
/// `control::leadership::leader_loop::PERIOD`.
const ACTIVATIONS: Ns = 200 * MS;
/// Time without a leader after one has died.
const ELECTION: Ns = SECOND;
/// A switchover is given up after 30 s, and a failover that was given up twice is repeated after a pause.
const HEALTHY_WITHIN: Ns = 90 * SECOND;
/// Lines of the trace that a failure shows.
const TRACE: usize = 150;

pub fn addr(server: usize) -> HostPort {
    HostPort::parse(&format!("127.0.0.1:{}", 7_000 + server)).unwrap()
}

pub fn index(addr: &HostPort) -> usize {
    usize::from(addr.port() - 7_000)
}

pub fn voters() -> BTreeSet<NodeId> {
    (1..=3).map(NodeId).collect()
}

/// The rules in force. A violation must be found when one of them is left out.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The candidate saves its configuration before the log names it.
    pub save_before_finish: bool,
    /// A restarted primary refuses its replicas until the leader admits them.
    pub replication_user: bool,
    /// A replica saves that it logs in as the replication user.
    pub save_login: bool,
    /// The candidate's offset is compared with those of the others.
    pub compare_offsets: bool,
}

impl Rules {
    pub const ALL: Self =
        Self { save_before_finish: true, replication_user: true, save_login: true, compare_offsets: true };
}

/// The servers of a world, and the faults that happen there.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The servers can save their configuration.
    pub saves: bool,
    /// The servers keep an append-only file.
    pub appends: bool,
    /// The number of replicas that confirm a write before it is acknowledged.
    pub min_acks: u8,
    /// Whether the group's primary is replaced on request (otherwise it is killed).
    pub switchover: bool,
    /// Faults by the number of effects before them.
    pub faults: BTreeMap<u32, Fault>,
    /// Random faults, switchovers and lags from this seed, for this long.
    pub random: Option<(u64, Ns)>,
    /// The trace is kept: formatting it takes longer than the rest.
    pub traced: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub failovers: u32,
    pub restored: u32,
    /// Effects, including those of the time after the last fault.
    pub effects: u32,
    pub faults: u32,
    /// Acknowledged writes that the primary lacks at the end.
    pub lost: usize,
    /// With `min-acks`: acknowledged writes, and those of them that no process had any more that had received them.
    pub acked: usize,
    pub excused: usize,
}

/// What the nodes know about a server; they all see the same.
#[derive(Default)]
struct Row {
    probe: Option<(Probe, Ns)>,
    failing_since: Option<Ns>,
    in_sync: Option<(InSync, Ns)>,
    link_down_since: Option<Ns>,
}

pub struct World {
    pub state: ClusterState,
    index: u64,
    pub term: Term,
    pub now: Ns,
    /// When the leader of this term can act.
    pub leads_from: Ns,
    leader: Leader,
    pub servers: Servers,
    rows: Vec<Row>,
    held_since: Option<Ns>,
    pub acked: Vec<Write>,
    acks: Acks,
    /// Servers that are started, or go on, and when.
    restarts: Vec<(Ns, usize)>,
    setting: Setting,
    rng: Option<Rng>,
    next_tick: Ns,
    next_probe: Ns,
    next_activation: Ns,
    pub rules: Rules,
    pub seen: Seen,
    trace: VecDeque<String>,
}

impl World {
    pub fn new(setting: Setting, rules: Rules) -> Self {
        let min_acks = setting.min_acks;
        let mut world = Self {
            state: ClusterState::default(),
            index: 0,
            term: Term(1),
            now: SECOND,
            leads_from: 0,
            leader: Leader::default(),
            servers: Servers::new(SERVERS, setting.saves, setting.appends),
            rows: (0..SERVERS).map(|_| Row::default()).collect(),
            held_since: None,
            acked: Vec::new(),
            acks: Acks::new(setting.min_acks),
            restarts: Vec::new(),
            rng: setting.random.map(|(seed, _)| Rng::with_seed(seed)),
            setting,
            next_tick: SECOND,
            next_probe: SECOND,
            next_activation: SECOND,
            rules,
            seen: Seen::default(),
            trace: VecDeque::new(),
        };
        let member = |id: u16| NewMember {
            id: NodeId(id.into()),
            uuid: Uuid(id.into()),
            admin: HostPort::parse(&format!("127.0.0.1:{}", 19_100 + id)).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: id,
        };
        let (product, group) = (PRODUCT, GROUP);
        let servers = leader::addresses(SERVERS).into_iter().map(|addr| Server::new(addr, String::new(), 0)).collect();
        for change in [
            Change::Bootstrap(Bootstrap { members: (1..=3).map(member).collect(), port: 19_000 }),
            Change::CreateGroup(CreateGroup { product, group, servers, credentials: None, data_user: None }),
            Change::AssignFree(AssignFree { product, slots: [SlotId(0)].into(), to: group }),
        ] {
            world.apply(change).unwrap();
        }
        world.servers.refuses = rules.replication_user;
        if min_acks > 0 {
            world.set_min_acks(min_acks);
        }
        world
    }

    pub fn group(&self) -> &Group {
        &self.state.products[&PRODUCT].groups[&GROUP]
    }

    fn apply(&mut self, change: Change) -> Result<(Epoch, Outcome), String> {
        self.index += 1;
        let index = self.index;
        self.note(format_args!("entry {index}: {change:?}"));
        let entry = Entry {
            id: Uuid(u128::from(self.index) << 64),
            request_hash: 0,
            at_ms: self.now / MS,
            author: Default::default(),
            change,
        };
        let at = Position { index: Epoch(self.index), term: self.term };
        let finishes = matches!(entry.change, Change::FinishPromotion(_)).then(|| self.primary());
        let result = apply(&mut self.state, &entry, at).map_err(|reject| reject.to_string());
        if let Some(from) = finishes.filter(|from| result.is_ok() && *from != self.primary()) {
            self.give_up_data(from);
        }
        let wrong = check(&self.state);
        assert!(wrong.is_empty(), "{wrong:?}");
        match (self.state.holds.is_empty(), self.held_since) {
            (true, _) => self.held_since = None,
            (false, None) => self.held_since = Some(self.now),
            (false, Some(_)) => {}
        }
        result.map(|outcome| (Epoch(self.index), outcome))
    }

    // Time.

    /// Lets time pass; the leader does nothing meanwhile.
    fn pass(&mut self, time: Ns) {
        let end = self.now + time;
        loop {
            let restart = self.restarts.iter().map(|(at, _)| *at).min().unwrap_or(Ns::MAX);
            let at = self.next_tick.min(self.next_probe).min(restart);
            if at > end {
                break;
            }
            self.now = at;
            if restart == at {
                let due: Vec<usize> =
                    self.restarts.iter().filter(|(t, _)| *t == at).map(|(_, server)| *server).collect();
                self.restarts.retain(|(t, _)| *t != at);
                due.into_iter().for_each(|server| self.start(server));
            } else if self.next_tick == at {
                self.next_tick += TICK;
                self.tick();
            } else {
                self.next_probe += PROBES;
                (0..SERVERS).for_each(|server| self.probe(server));
            }
        }
        self.now = end;
    }

    /// Time passes and the leader acts, until `end`.
    pub fn run_until(&mut self, end: Ns) {
        while self.now < end {
            let wake = self.next_wake().unwrap_or(Ns::MAX).max(self.now);
            let at = self.next_activation.max(self.now).min(wake).min(end);
            self.pass(at - self.now);
            if self.now >= self.next_activation {
                self.next_activation = self.now + ACTIVATIONS;
                self.random_event();
                self.activate();
            } else {
                let _ = self.step_promotions();
            }
        }
    }

    /// A client writes to the primary that the log names, unless the slots are held.
    fn client_writes(&mut self) {
        if self.setting.min_acks > 0 {
            self.client_writes_with_acks();
        } else if self.state.holds.is_empty() {
            let primary = index(&self.group().servers[0].addr);
            self.acked.extend(self.servers.write(primary));
        }
    }

    /// A client writes, replicas receive, and servers save their data.
    fn tick(&mut self) {
        if self.setting.min_acks > 0 && self.now % SECOND < TICK {
            (0..SERVERS).for_each(|server| self.servers.save(server));
        }
        self.client_writes();
        let (rng, lagging) = (&mut self.rng, &self.acks.lagging);
        let mut lags = |server| lagging.contains(&server) || rng.as_mut().is_some_and(|rng| rng.u8(0..4) == 0);
        let dropped = self.servers.replicate(&mut lags);
        if self.setting.min_acks > 0 {
            self.confirm_writes(&dropped);
        }
    }

    fn probe(&mut self, index: usize) {
        let (server, row) = (&self.servers.all[index], &mut self.rows[index]);
        if !server.answers() {
            row.failing_since.get_or_insert(self.now);
            return;
        }
        row.failing_since = None;
        if server.link_up || server.follows.is_none() {
            row.link_down_since = None;
        }
        let (run_id, replid) = (format!("run{}", server.run), format!("id{}", server.replid));
        let role = match server.follows {
            None => ReportedRole::Primary { replicas: Vec::new() },
            Some(primary) => {
                let down_since = *row.link_down_since.get_or_insert(self.now);
                let link_down_ms = match (server.link_up, server.was_linked) {
                    (true, _) => 0,
                    (false, true) => 1_000 + (self.now - down_since) / MS,
                    (false, false) => u64::MAX,
                };
                ReportedRole::Replica { of: addr(primary), link_up: server.link_up, link_down_ms, syncing: false }
            }
        };
        let offset = if self.rules.compare_offsets || server.follows.is_none() { server.offset } else { 10 };
        if let ReportedRole::Replica { of, link_up: true, .. } = &role {
            let in_sync = InSync { to: of.clone(), replid: replid.clone(), run_id: run_id.clone(), ago_ms: 0 };
            row.in_sync = Some((in_sync, self.now));
        }
        let probe = Probe {
            run_id,
            role,
            replid,
            offset,
            replid2: server.former.map(|(id, offset)| (format!("id{id}"), offset + 1)),
            loading: false,
            used_memory: 0,
            keys: server.data.len() as u64,
            ops_per_second: 0,
            ping_us: 100,
            persistent: Some(server.appends),
            unnamed_replicas: 0,
            write_error: String::new(),
            saves_fail: false,
            busy_reply_ms: None,
        };
        row.probe = Some((probe, self.now));
    }

    /// What the nodes have reported.
    pub fn observation(&self) -> Observation {
        let ago = |at: Ns| (self.now - at) / MS;
        let report = |row: &Row| ProbeReport {
            probe: row.probe.as_ref().map(|(probe, at)| (probe.clone(), ago(*at))),
            failing_ms: row.failing_since.map(ago),
            error: row.failing_since.map(|_| "connection refused".to_owned()).unwrap_or_default(),
            impaired: None,
            in_sync: row.in_sync.as_ref().map(|(in_sync, at)| InSync { ago_ms: ago(*at), ..in_sync.clone() }),
        };
        let by_nodes = |row: &Row| {
            let aged = AgedReport { report: report(row), age_ms: 0 };
            voters().into_iter().map(|node| (node, aged.clone())).collect()
        };
        self.rows.iter().enumerate().map(|(index, row)| (addr(index), by_nodes(row))).collect()
    }

    /// An operator asks for another primary; refused as in the log.
    pub fn switch_over(&mut self, to: usize) {
        let group = self.group();
        let start = StartPromotion {
            product: PRODUCT,
            group: GROUP,
            to: addr(to),
            kind: PromotionKind::Switchover,
            group_epoch: group.epoch,
            required_offset: group.required_offset.clone(),
            forced: false,
            why: "an operator".into(),
        };
        let _ = self.apply(Change::StartPromotion(start));
    }

    // The end.

    /// Runs a promotion with the faults of the setting, and then without, until the group is healthy.
    ///
    /// # Errors
    /// Returns what is wrong, with the trace.
    pub fn run(&mut self) -> Result<(), String> {
        self.run_until(4 * SECOND);
        match self.setting.random {
            Some((_, until)) => self.run_until(until),
            None if self.setting.switchover => self.switch_over(1),
            None => self.kill(0, 6 * SECOND),
        }
        // Shorter than a restart: faults come at effects, until the last has come or the group is healthy.
        let end = self.now + HEALTHY_WITHIN;
        loop {
            self.run_until(self.now + 500 * MS);
            match self.is_healthy() {
                Ok(()) => break,
                Err(why) if self.now >= end => return Err(format!("{why}\n{}", self.trace())),
                Err(_) => {}
            }
        }
        let data: BTreeSet<&Write> = self.servers.all[index(&self.group().servers[0].addr)].data.iter().collect();
        self.seen.lost = self.acked.iter().filter(|write| !data.contains(write)).count();
        Ok(())
    }

    /// Whether all servers are up, the primary of the log is one, and the others follow it and are no longer diverged.
    pub fn is_healthy(&self) -> Result<(), String> {
        let primary = index(&self.group().servers[0].addr);
        let follows = |server: &usize| {
            let RedisServer { up, stopped, follows, link_up, .. } = &self.servers.all[*server];
            *up && !*stopped
                && if *server == primary { follows.is_none() } else { *follows == Some(primary) && *link_up }
        };
        let wrong = (0..SERVERS).find(|server| !follows(server));
        let diverged = self.group().servers.iter().find(|server| server.diverged);
        if !self.state.promotions.is_empty() || !self.restarts.is_empty() || self.now < self.leads_from {
            return Err(format!("not over: {:?} {:?}", self.state.promotions, self.restarts));
        }
        match (wrong, diverged) {
            (None, None) => Ok(()),
            _ => {
                let row = |s: &RedisServer| (s.up, s.follows, s.follows_on_disk, s.link_up, s.replid, s.data.len());
                let rows: Vec<_> = self.servers.all.iter().map(row).collect();
                let left = self.left_to_operator();
                Err(format!("primary {primary}; up, follows, on disk, linked, replid, keys: {rows:?}; {left:?}"))
            }
        }
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if !self.setting.traced {
            return;
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:9.3} ms  {what}", self.now as f64 / MS as f64));
    }

    pub fn trace(&self) -> String {
        self.trace.iter().map(|line| format!("{line}\n")).collect()
    }
}
