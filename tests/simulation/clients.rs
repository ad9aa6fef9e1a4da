//! Clients and servers: registers are written and read through any node, and servers execute requests after a delay.
//! Knows nothing of routes: a client asks any node, and a server executes any request.

use pontoon::model::ids::SlotId;

use super::{
    invariants::Version,
    network::{self, MS, Ns, SECOND, spread},
    node::NodeEvent,
    world::{Event, KEYS_PER_SLOT, SLOTS, World},
};

/// A client that gets no answer for this time asks another node.
const PATIENCE: Ns = 9 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What a read showed, or under which version a write was executed.
    Done(Version),
    /// Not executed.
    Refused,
    /// A write may have been executed or may yet be; a read was not delivered.
    Unknown,
}

#[derive(Clone, Debug, Default)]
pub struct Client {
    /// What it waits for.
    pub op: Option<usize>,
    /// When it last had an answer other than a refusal.
    pub served: Ns,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub slot: u16,
    pub key: u16,
    pub is_write: bool,
    /// A read must show at least this.
    floor: Version,
    pub node: usize,
    pub worker: usize,
    /// Start of the node that has it.
    pub boot: u32,
    /// The server it was sent to.
    pub server: usize,
    /// Which of its addresses, and after how many crashes it executed.
    pub which: u16,
    pub life: u32,
}

impl World {
    pub fn client_next(&mut self, client: usize) {
        let node = self.rng.usize(0..self.nodes.len());
        let slot = self.rng.u16(0..SLOTS);
        let worker = self.rng.usize(0..self.nodes[node].workers.len());
        // Without migrations a slot is one register.
        let key = if self.rules.migrations { slot + SLOTS * self.rng.u16(0..KEYS_PER_SLOT) } else { slot };
        let op = Op {
            client,
            slot,
            key,
            is_write: self.rng.bool(),
            floor: self.witness.floor(key),
            node,
            worker,
            boot: self.nodes[node].boot,
            server: 0,
            which: 0,
            life: 0,
        };
        let id = self.ops.len();
        self.ops.push(op);
        self.clients[client].op = Some(id);
        if !self.nodes[node].up {
            self.schedule(MS, Event::ClientHas { op: id, answer: Answer::Refused });
            return;
        }
        let delay = network::message(&mut self.rng);
        self.at_node(node, delay, NodeEvent::Request { op: id });
        self.schedule(PATIENCE, Event::ClientTires(id));
    }

    /// The client has its answer, or has lost its connection, or has waited too long.
    pub fn client_has(&mut self, id: usize, answer: Answer) {
        let op = self.ops[id].clone();
        if self.clients[op.client].op != Some(id) {
            return;
        }
        self.clients[op.client].op = None;
        let seen = match answer {
            Answer::Done(version) if op.is_write => {
                self.seen.acked += 1;
                let at_owner = self.servers[self.owner(SlotId(op.slot))].get(&op.key).copied().unwrap_or(0);
                self.witness.acknowledged(op.key, version, at_owner)
            }
            Answer::Done(version) => self.witness.read(op.key, version, op.floor),
            Answer::Refused => {
                self.seen.refused += 1;
                Ok(())
            }
            Answer::Unknown => {
                self.seen.unknown += 1;
                Ok(())
            }
        };
        if let Err(why) = seen {
            self.violated(format!("{why} (request {id} through node {} of server {})", op.node + 1, op.server + 1));
        }
        if let Answer::Done(_) = answer {
            self.clients[op.client].served = self.now;
        }
        // Without faults, clients only show that they are served.
        let longest = if self.faults { 150 } else { 5000 };
        let pause = spread(&mut self.rng, MS, longest * MS);
        self.schedule(pause, Event::ClientNext(op.client));
    }

    /// A node has answered a client. How long that takes has no effect.
    pub fn answer(&mut self, op: usize, answer: Answer) {
        let delay = network::message(&mut self.rng);
        self.schedule(delay, Event::ClientHas { op, answer });
    }

    /// A server executes a request, whatever has become of the node that sent it.
    pub fn execute(&mut self, id: usize) {
        let op = self.ops[id].clone();
        if !self.serves((op.server, op.which)) {
            // The server is down, or is a replica that refuses: the connection ends.
            self.at_boot(op.node, op.boot, MS, NodeEvent::Deadline { op: id });
            return;
        }
        self.ops[id].life = self.stores[op.server].life;
        let version = if op.is_write {
            self.executions += 1;
            self.write(op.server, op.key, self.executions, true);
            self.executions
        } else {
            self.servers[op.server].get(&op.key).copied().unwrap_or(0)
        };
        let slow = self.server_slow[op.server];
        let delay = network::server(&mut self.rng, slow);
        let what = NodeEvent::HandlerReply { op: id, version };
        self.schedule(delay, Event::Node { node: op.node, boot: op.boot, from: None, what });
    }
}
