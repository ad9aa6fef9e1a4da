//! A group's servers as a migration uses them: a replication log, a replica that lags, connections with names, and
//! commands in flight that are executed late unless their connection is closed. Knows nothing of which commands are
//! allowed.

use std::collections::{BTreeMap, VecDeque};

use pontoon::model::{
    apply::dry_run,
    change::{AddServer, Change, FinishPromotion, OpenHold, RemoveServer, StartPromotion},
    ids::{GroupId, HostPort, SlotId, Term},
    migration::Job,
    outcome::Outcome,
    promotion::PromotionKind,
    state::{Cause, Server},
};

use super::{
    invariants::Version,
    mover_messages::{FromTarget, News},
    network::{self, MS, Ns, spread},
    node::NodeEvent,
    world::{Event, PRODUCT, World},
};

/// How often a replica gets more of its primary's log.
const REPLICATES: Ns = 10 * MS;

/// A command of a run's connection.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    Scan,
    Restore(u16, Version),
    Unlink(u16),
    /// Answered when the replica has everything.
    Wait,
}

/// A connection of a run. It outlives its process: commands in flight are executed.
pub struct Line {
    pub job: Job,
    pub run: u32,
    node: usize,
    boot: u32,
    pending: VecDeque<Command>,
}

/// An entry of the replication log.
#[derive(Clone, Copy)]
pub struct Written {
    pub key: u16,
    /// 0: deleted.
    pub version: Version,
    /// A client wrote it; otherwise a run did.
    pub by_client: bool,
}

/// A primary and its replica.
#[derive(Default)]
pub struct Store {
    /// Which of the group's addresses is the primary's; the next is the replica's. No address is used again: a node
    /// that does not know of two failovers must not find a primary at the first one's address (the barrier prevents
    /// that).
    pub primary: u16,
    pub down: bool,
    /// Crashes so far; an answer from before a crash does not arrive.
    pub life: u32,
    pub log: Vec<Written>,
    /// How much of it the replica has.
    pub replica: usize,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
    /// The leader whose control connection is open.
    control: Option<(usize, u32, Term)>,
}

impl Store {
    /// The value of a key at an offset of the log.
    pub fn at(&self, key: u16, offset: usize) -> Version {
        self.log[..offset].iter().rev().find(|w| w.key == key).map_or(0, |w| w.version)
    }

    /// Whether a client wrote the value that a key has.
    pub fn written_by_client(&self, key: u16) -> bool {
        self.log.iter().rev().find(|w| w.key == key).is_some_and(|w| w.by_client)
    }
}

/// A leader that closes all connections of a job.
#[derive(Clone)]
pub struct Closing {
    pub node: usize,
    pub boot: u32,
    pub term: Term,
    pub serial: u64,
    pub server: usize,
    pub which: u16,
    pub job: Job,
    /// A quorum has confirmed the leader of a new control connection.
    pub confirmed: bool,
}

impl World {
    pub fn address(server: usize, which: u16) -> HostPort {
        HostPort::parse(&format!("127.0.0.1:{}", 30001 + server as u16 + 10 * which)).unwrap()
    }

    /// Server and which of its addresses.
    pub fn place(addr: &HostPort) -> (usize, u16) {
        let port: u16 = addr.as_str().rsplit(':').next().unwrap().parse().unwrap();
        (usize::from((port - 30001) % 10), (port - 30001) / 10)
    }

    /// Whether the server at this address is a primary that is up.
    pub fn serves(&self, (server, which): (usize, u16)) -> bool {
        !self.stores[server].down && self.stores[server].primary == which
    }

    pub fn write(&mut self, server: usize, key: u16, version: Version, by_client: bool) {
        if version == 0 {
            self.servers[server].remove(&key);
        } else {
            self.servers[server].insert(key, version);
        }
        self.stores[server].log.push(Written { key, version, by_client });
    }

    /// Replicas follow, mostly closely.
    pub fn replicate(&mut self) {
        self.schedule(REPLICATES, Event::Replicate);
        for store in &mut self.stores {
            let behind = store.log.len() - store.replica;
            if behind > 0 && !store.down && self.rng.u8(0..6) > 0 {
                store.replica += self.rng.usize(1..=behind);
            }
        }
    }

    // Connections of runs.

    /// A run's connection arrives and is named.
    pub fn opens(&mut self, place: (usize, u16), (job, run): (Job, u32), node: usize, boot: u32) {
        if !self.serves(place) {
            self.send_to_mover(node, boot, (job, run), News::Lost("the server is down".into()));
            return;
        }
        let store = &mut self.stores[place.0];
        store.next_line += 1;
        let id = store.next_line;
        store.lines.insert(id, Line { job, run, node, boot, pending: VecDeque::new() });
        self.send_to_mover(node, boot, (job, run), News::Opened(id));
    }

    pub fn send_to_mover(&mut self, node: usize, boot: u32, run: (Job, u32), news: News) {
        let delay = network::message(&mut self.rng);
        let what = NodeEvent::Mover { job: run.0, run: run.1, news };
        self.schedule(delay, Event::Node { node, boot, from: None, what });
    }

    /// Sends a command. It may take long, but commands keep their order.
    pub fn send_line(&mut self, server: usize, line: u64, command: Command) {
        if let Some(open) = self.stores[server].lines.get_mut(&line) {
            open.pending.push_back(command);
            let delay = match self.rng.u8(0..if self.faults { 60 } else { 250 }) {
                0 => spread(&mut self.rng, 50 * MS, 6000 * MS),
                _ => spread(&mut self.rng, MS / 20, 2 * MS),
            };
            self.schedule(delay, Event::Line { server, line });
        }
    }

    /// The next command of a connection is executed.
    pub fn line(&mut self, server: usize, line: u64) {
        let store = &mut self.stores[server];
        let all = store.replica == store.log.len();
        let Some(open) = store.lines.get_mut(&line) else { return };
        let Some(command) = open.pending.front().copied() else { return };
        if matches!(command, Command::Wait) && !all {
            self.schedule(5 * MS, Event::Line { server, line });
            return;
        }
        open.pending.pop_front();
        let (node, boot, run) = (open.node, open.boot, (open.job, open.run));
        let answer = match command {
            Command::Scan => FromTarget::Keys(self.servers[server].keys().copied().collect()),
            Command::Restore(key, version) => {
                self.write(server, key, version, false);
                FromTarget::Done
            }
            Command::Unlink(key) => {
                if self.servers[server].contains_key(&key) {
                    self.write(server, key, 0, false);
                }
                FromTarget::Done
            }
            Command::Wait => FromTarget::Waited,
        };
        if self.nodes[node].boot == boot
            && let Some(mover) = self.nodes[node].movers.get_mut(&run.0).filter(|m| m.run == run.1)
        {
            mover.from_target.push_back(answer);
        }
        self.send_to_mover(node, boot, run, News::FromTarget);
    }

    // The leader's fence.

    /// A leader's control connection arrives, or its command on one that is open.
    pub fn closes(&mut self, closing: Closing) {
        let Closing { node, boot, term, server, which, job, confirmed, .. } = closing;
        let own = (node, boot, term);
        if !self.serves((server, which)) {
            return self.closed(&closing, Err("the server is down".into()));
        }
        let store = &mut self.stores[server];
        if store.control.is_some_and(|(_, _, newest)| newest > term) {
            return self.closed(&closing, Err("a later leader has a control connection there".into()));
        }
        if store.control != Some(own) && !confirmed {
            let delay = network::message(&mut self.rng);
            self.schedule(delay, Event::ControlRound(Box::new(closing)));
            return;
        }
        store.control = Some(own);
        if self.rules.fence {
            let gone: Vec<u64> = store.lines.iter().filter(|(_, l)| l.job == job).map(|(id, _)| *id).collect();
            for id in gone {
                if let Some(line) = self.stores[server].lines.remove(&id) {
                    self.send_to_mover(line.node, line.boot, (line.job, line.run), News::Lost("it was closed".into()));
                }
            }
        }
        self.closed(&closing, Ok(()));
    }

    pub fn control_round(&mut self, closing: Closing) {
        let leads = self.nodes[closing.node].boot == closing.boot;
        if leads && self.quorum_round(closing.node, closing.term).is_some() {
            let delay = network::message(&mut self.rng) + network::turn(&mut self.rng);
            self.schedule(delay, Event::Control(Box::new(Closing { confirmed: true, ..closing })));
        } else {
            self.closed(&closing, Err("it does not lead".into()));
        }
    }

    fn closed(&mut self, closing: &Closing, result: Result<(), String>) {
        let delay = network::message(&mut self.rng);
        let what = NodeEvent::Closed { serial: closing.serial, result };
        self.schedule(delay, Event::Node { node: closing.node, boot: closing.boot, from: None, what });
    }

    // Failovers.

    /// A primary ends, and with it every connection and every answer in flight.
    pub fn crash(&mut self, server: usize) {
        if self.stores[server].down {
            return;
        }
        self.note(format_args!("the primary of group {} ends", server + 1));
        let store = &mut self.stores[server];
        store.down = true;
        store.life += 1;
        store.control = None;
        for line in std::mem::take(&mut store.lines).into_values() {
            self.send_to_mover(line.node, line.boot, (line.job, line.run), News::Lost("the server died".into()));
        }
        let delay = spread(&mut self.rng, 50 * MS, 2000 * MS);
        self.schedule(delay, Event::Failover(server));
    }

    /// The replica takes over with the data that it has: the entries of a failover, one after the other. There is no
    /// wait for the barrier, since a primary that has ended answers no node.
    pub fn fail_over(&mut self, server: usize) {
        let group = GroupId(server as u32 + 1);
        self.commit_waiting();
        let state = &self.raft.log[self.raft.last()].state;
        let now = &state.products[&PRODUCT].groups[&group];
        let (old, to) = (now.servers[0].addr.clone(), now.servers[1].addr.clone());
        let start = Change::StartPromotion(StartPromotion {
            product: PRODUCT,
            group,
            to,
            kind: PromotionKind::Failover,
            group_epoch: now.epoch,
            required_offset: now.required_offset.clone(),
            forced: false,
            why: "its primary died".into(),
        });
        // A migration that holds slots of the group must end the hold first.
        if dry_run(state, &start).is_err() || !self.raft.leader.is_some_and(|l| self.has_quorum(l)) {
            self.schedule(20 * MS, Event::Failover(server));
            return;
        }
        let term = self.raft.term;
        // The old primary is replaced by an empty replica.
        let which = self.stores[server].primary + 2;
        let run_id = format!("{:040x}", 1000 + 10 * which + server as u16);
        let fresh = Server::new(Self::address(server, which), run_id, 0);
        self.append(Change::AddServer(AddServer { product: PRODUCT, group, server: fresh }), term).unwrap();
        let Ok(Outcome::Promotion(promotion)) = self.append(start, term) else { panic!("it was refused after all") };
        let (cause, kind) = (Cause::Promotion(promotion), PromotionKind::Failover.hold());
        let hold = Change::OpenHold(OpenHold { cause, attempt: 1, kind, reason: "its primary died".into() });
        let Ok(Outcome::Held(hold)) = self.append(hold, term) else { panic!("the slots are held by something else") };
        self.append(Change::FinishPromotion(FinishPromotion { promotion, hold, term }), term).unwrap();
        self.append(Change::RemoveServer(RemoveServer { product: PRODUCT, group, addr: old }), term).unwrap();
        self.seen.failovers += 1;
        let store = &mut self.stores[server];
        let lost = store.log.split_off(store.replica);
        store.primary += 1;
        store.down = false;
        self.note(format_args!("group {group} fails over, {} writes are lost", lost.len()));
        let mut data = super::invariants::Registers::new();
        for written in &self.stores[server].log {
            if written.version == 0 {
                data.remove(&written.key)
            } else {
                data.insert(written.key, written.version)
            };
        }
        self.servers[server] = data;
        self.witness.lose(lost.iter().filter(|w| w.by_client).map(|w| (w.key, w.version)));
        for key in self.keys_where(|world, slot| world.owner(slot) == server) {
            if let Err(why) = self.witness.moved(key, &self.servers[server]) {
                self.violated(format!("after a failover: {why}"));
            }
        }
    }

    /// Keys of slots of which `wanted` is true.
    pub fn keys_where(&self, wanted: impl Fn(&Self, SlotId) -> bool) -> Vec<u16> {
        (0..self.keys()).filter(|key| wanted(self, Self::slot_of(*key))).collect()
    }
}
