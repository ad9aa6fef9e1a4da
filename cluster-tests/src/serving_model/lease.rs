//! One slot moves once from server S to server T behind a hold, while nodes, leaders and the network do what they can.
//! Knows nothing of keys and sockets: an operation is a bit in the content of a server.
//!
//! What is abstracted, and why nothing is lost by it:
//! - Time is whole ticks, and only how much is *left* of each lease is in the state. A node's lease is valid while at
//!   most `lease - 1` ticks have passed since its heartbeat was sent, and provably over when `lease` have passed since
//!   the answer. With such closed bounds every behaviour in dense time has one in whole ticks with the same order of
//!   events. Any number of steps fits between two ticks, and a tick can always come: that is every pause there is.
//! - Raft is a sequence of committed entries; each node and each leader has applied some prefix. An entry that is
//!   proposed is committed at once, in the current term, even if a deposed leader proposes it: this covers the worst
//!   case, a node that leads again while a loop of its former term still runs.
//! - A quorum round is a moment at which the leader's term was current.
//! - A reply counts as delivered when it passes its check. Pausing between check and write only gives a client its
//!   reply later, which demands less: later reads need not see the write, and the read may be as old as its start.
//! - A node's worker and its control side are one, except that applying is a step of its own for both nodes and leaders,
//!   so a leader may know less or more than the proxy beside it.
//! - A heartbeat to the same leader replaces the one before, which is its loss.

mod forget;
mod log;

use super::checker::Model;
use log::{Entry, Log, gone, incarnation, leaving, open_hold, route_epoch, switched};

/// A rule of serving.md that can be left out, to see what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A reply is checked at all before it goes to its client.
    ReplyCheck,
    /// That check compares the slot's epoch.
    ReplyEpoch,
    /// That check demands that the worker's table is at `min_applied`.
    ReplyMinApplied,
    /// The leader waits for the barrier.
    Barrier,
    /// A node acks only when what it sent before is answered.
    Drain,
    /// A lease is worth nothing to a table older than the leader's last routing entry.
    MinApplied,
    /// A new leader takes everyone for leased for one lease.
    NewLeaderWait,
    /// The quorum round of a grant begins after its heartbeat arrived.
    RoundAfterHeartbeat,
    /// The change carries its verdict's term, and only an entry of that term is accepted.
    TermOnSwitch,
    /// The change carries the hold's id.
    HoldIdOnSwitch,
    /// The second entry of a removal carries its verdict's term.
    TermOnRemoval,
    /// A node counts its lease from the sending of the heartbeat.
    CountFromSend,
    /// No grant while a hold is open that the node has not acked.
    AckBeforeGrant,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
    /// `isolated`: what a node does whose lease ended.
    pub serve: bool,
    /// Ticks of a lease.
    pub lease: u8,
    /// Holds at most.
    pub holds: u8,
    /// Whether a second leader may be elected.
    pub election: bool,
    /// Restarts of a node at most.
    pub restarts: u8,
    /// Whether a node may be removed.
    pub removal: bool,
    /// Whether node 1 has its read; without it there are far fewer states (see `strict`).
    pub reader: bool,
    /// Demands more than clients can see: no reply passes under the epoch of S once the switch is in the log. Then a
    /// single operation shows everything: a reply under the epoch of T comes later than the switch, so no two replies
    /// can be out of order; and a read that passes at S began before any write was acknowledged at T, so it is not stale.
    pub strict: bool,
    /// Nobody talks to the first leader: enough to show what its verdicts do later, in far fewer states.
    pub quiet: bool,
}

impl Lease {
    /// The smallest exploration: one leader, one hold, nothing restarts.
    pub const SMALL: Self = Self {
        without: None,
        serve: false,
        lease: 2,
        holds: 1,
        election: false,
        restarts: 0,
        removal: false,
        reader: true,
        strict: false,
        quiet: false,
    };
}

const NODES: usize = 2;
/// Node 0 has one write to do, node 1 one read. This is enough: whether a write is lost depends on no other operation,
/// a stale read takes a write and a read, replies out of order take any two; and the nodes are alike.
const OPS: usize = NODES;
const WRITER: usize = 0;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Node {
    /// Starts before this one; its incarnation once an entry has admitted it.
    start: u8,
    /// Entries in the table of its worker.
    applied: u8,
    /// Ticks left of its lease.
    lease: u8,
    /// Had a lease since it started.
    leased_once: bool,
    min_applied: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    /// Its first own entry is applied.
    active: bool,
    applied: u8,
    /// Ticks during which everyone counts as leased.
    wait: u8,
    /// Ticks that each node may still count on.
    leases: [u8; NODES],
    /// (incarnation, hold id) of each node's last ack.
    acks: [(u8, u8); NODES],
    /// Each node said that it has stopped, having seen that it is to leave.
    stopped: [bool; NODES],
    /// A quorum round was had some time ago (only without `RoundAfterHeartbeat`).
    old_round: bool,
    /// (hold id, whether the copy found the write at S) of a barrier that passed.
    verdict: Option<(u8, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Heartbeat {
    None,
    /// On its way; ack: hold id that is drained, or 0.
    Sent {
        age: u8,
        start: u8,
        ack: u8,
        stopped: bool,
    },
    /// It arrived, and then came a quorum round.
    Confirmed {
        age: u8,
        start: u8,
    },
    Granted {
        age: u8,
        start: u8,
        min_applied: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    New,
    /// Sent to S (epoch 0) or T (epoch 1). `must`: the write was acknowledged before this read began.
    Sent {
        epoch: u8,
        must: bool,
    },
    /// `seen`: the read saw the write.
    Executed {
        epoch: u8,
        must: bool,
        seen: bool,
    },
    /// A write whose reply passed.
    Acked,
    /// A read that was answered, or anything whose outcome is unknown: nothing is demanded of it.
    Done,
}

impl Op {
    fn in_flight(self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Executed { .. })
    }
}

/// All that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Log,
    /// Term of the last leader elected, from 0.
    term: usize,
    nodes: [Node; NODES],
    leaders: [Leader; 2],
    /// Of each node to each leader.
    heartbeats: [[Heartbeat; 2]; NODES],
    ops: [Op; OPS],
    /// Whether S and T contain the write.
    content: [bool; 2],
    /// A reply passed under the epoch of T.
    passed_at_t: bool,
    bad: Option<&'static str>,
}

/// A step. Numbers are a node's (or its operation's) and a leader's.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Tick,
    HeartbeatSent { node: usize, leader: usize },
    HeartbeatArrives { node: usize, leader: usize },
    HeartbeatArrivesAndQuorumRound { node: usize, leader: usize },
    EarlyQuorumRound { leader: usize },
    GrantAnswered { node: usize, leader: usize },
    LeaseReceived { node: usize, leader: usize },
    NodeApplies { node: usize },
    LeaderApplies { leader: usize },
    Elected,
    FirstEntryApplied,
    HoldProposed { leader: usize },
    BarrierPassesAndCopied { leader: usize },
    SwitchProposed { leader: usize },
    ReleaseProposed { leader: usize },
    Restarted { node: usize },
    AdmissionProposed { node: usize },
    RemovalBegun { leader: usize, node: usize },
    RemovalEnded { leader: usize, node: usize },
    Dispatched { node: usize },
    Executed { node: usize },
    ReplyChecked { node: usize },
    ConnectionClosed { node: usize },
}

impl Lease {
    fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    /// The lease part of both checks, and that a node which knows that it leaves serves no more.
    fn may_serve(&self, s: &State, node: usize) -> bool {
        let n = &s.nodes[node];
        (n.lease > 0 || self.serve && n.leased_once) && !leaving(s.log.prefix(n.applied), node)
    }

    fn recent(&self, s: &State, node: usize) -> bool {
        s.nodes[node].applied >= s.nodes[node].min_applied
    }

    /// Whether `leader` knows that `node` serves no more, or will not until it has acked `hold`.
    fn surely_not_serving(&self, l: &Leader, node: usize) -> bool {
        let over = l.leases[node] == 0 && (l.wait == 0 || self.lacks(Rule::NewLeaderWait));
        over && !self.serve
    }

    fn barrier_passes(&self, s: &State, l: &Leader, hold: u8) -> bool {
        let log = s.log.prefix(l.applied);
        (0..NODES).filter(|n| !gone(log, *n)).all(|n| {
            let (start, acked) = l.acks[n];
            (acked == hold && start == incarnation(log, n)) || l.stopped[n] || self.surely_not_serving(l, n)
        })
    }

    fn tick(&self, s: &mut State) {
        for n in &mut s.nodes {
            n.lease = n.lease.saturating_sub(1);
        }
        for l in &mut s.leaders {
            l.wait = l.wait.saturating_sub(1);
            for left in &mut l.leases {
                *left = left.saturating_sub(1);
            }
        }
        for heartbeat in s.heartbeats.iter_mut().flatten() {
            match heartbeat {
                Heartbeat::None => {}
                Heartbeat::Sent { age, .. } | Heartbeat::Confirmed { age, .. } | Heartbeat::Granted { age, .. } => {
                    *age = (*age + 1).min(self.lease)
                }
            }
        }
    }

    fn arrive(&self, s: &mut State, node: usize, leader: usize) -> Option<(u8, u8)> {
        let Heartbeat::Sent { age, start, ack, stopped } = s.heartbeats[node][leader] else { return None };
        let l = &mut s.leaders[leader];
        if !l.active {
            return None;
        }
        if ack != 0 {
            l.acks[node] = l.acks[node].max((start, ack));
        }
        l.stopped[node] |= stopped;
        Some((age, start))
    }

    fn answer(&self, s: &mut State, node: usize, leader: usize) -> Option<()> {
        let Heartbeat::Confirmed { age, start } = s.heartbeats[node][leader] else { return None };
        let l = &mut s.leaders[leader];
        let log = s.log.prefix(l.applied);
        if gone(log, node) || leaving(log, node) || start != incarnation(log, node) {
            return None;
        }
        let hold = open_hold(log);
        if hold != 0 && l.acks[node] != (start, hold) && !self.lacks(Rule::AckBeforeGrant) {
            return None;
        }
        l.leases[node] = self.lease;
        let min_applied = if self.lacks(Rule::MinApplied) { 0 } else { route_epoch(log) };
        s.heartbeats[node][leader] = Heartbeat::Granted { age, start, min_applied };
        Some(())
    }

    fn receive(&self, s: &mut State, node: usize, leader: usize) -> Option<()> {
        let Heartbeat::Granted { age, start, min_applied } = s.heartbeats[node][leader] else { return None };
        s.heartbeats[node][leader] = Heartbeat::None;
        let n = &mut s.nodes[node];
        if start != n.start {
            return None;
        }
        let left = if self.lacks(Rule::CountFromSend) { self.lease } else { self.lease - age };
        if left == 0 {
            return None;
        }
        n.lease = n.lease.max(left);
        n.leased_once = true;
        n.min_applied = n.min_applied.max(min_applied);
        Some(())
    }

    fn check(&self, s: &mut State, node: usize) -> Option<()> {
        let Op::Executed { epoch, must, seen } = s.ops[node] else { return None };
        let n = &s.nodes[node];
        let now = u8::from(switched(s.log.prefix(n.applied)));
        let passes = self.lacks(Rule::ReplyCheck)
            || self.may_serve(s, node)
                && (self.recent(s, node) || self.lacks(Rule::ReplyMinApplied))
                && (epoch == now || self.lacks(Rule::ReplyEpoch));
        s.ops[node] = if passes && node == WRITER { Op::Acked } else { Op::Done };
        if passes {
            if must && !seen {
                s.bad = Some("a stale read: it began after a write was acknowledged and did not see it");
            }
            if epoch == 0 && s.passed_at_t {
                s.bad = Some("a reply passed under a slot epoch after one had passed under a later one");
            }
            if epoch == 0 && self.strict && switched(s.log.all()) {
                s.bad = Some("a reply passed under the slot's former epoch when the switch was in the log");
            }
            s.passed_at_t |= epoch == 1;
        }
        Some(())
    }

    fn dispatch(&self, s: &mut State, node: usize) -> Option<()> {
        let log = s.log.prefix(s.nodes[node].applied);
        let may = s.ops[node] == Op::New && self.may_serve(s, node) && self.recent(s, node) && open_hold(log) == 0;
        s.ops[node] = Op::Sent { epoch: u8::from(switched(log)), must: s.ops[WRITER] == Op::Acked };
        may.then_some(())
    }

    fn switch(&self, s: &mut State, leader: usize) -> Option<()> {
        let l = &s.leaders[leader];
        let (hold, copy) =
            if self.lacks(Rule::Barrier) { (open_hold(s.log.prefix(l.applied)), s.content[0]) } else { l.verdict? };
        let open = open_hold(s.log.all());
        let its_hold = open == hold || self.lacks(Rule::HoldIdOnSwitch);
        let its_term = s.term == leader || self.lacks(Rule::TermOnSwitch);
        if open == 0 || !its_hold || !its_term {
            return None;
        }
        s.log.push(Entry::Switch);
        s.content[1] |= copy;
        Some(())
    }

    fn apply(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Tick => self.tick(s),
            Action::HeartbeatSent { node, leader } => {
                let n = s.nodes[node];
                let log = s.log.prefix(n.applied);
                // Before it is admitted a start sends no incarnation, and gets no grant: only admission is of interest.
                if leader > s.term || gone(log, node) || incarnation(log, node) != n.start {
                    return None;
                }
                let drained = !s.ops[node].in_flight() || self.lacks(Rule::Drain);
                let ack = if drained { open_hold(log) } else { 0 };
                s.heartbeats[node][leader] =
                    Heartbeat::Sent { age: 0, start: n.start, ack, stopped: leaving(log, node) };
            }
            Action::HeartbeatArrives { node, leader } => {
                self.arrive(s, node, leader)?;
                s.heartbeats[node][leader] = Heartbeat::None;
            }
            Action::HeartbeatArrivesAndQuorumRound { node, leader } => {
                let (age, start) = self.arrive(s, node, leader)?;
                let l = &s.leaders[leader];
                // The read index: the round waits until all that was committed at its begin is applied.
                let confirmed = s.term == leader && l.applied == s.log.len;
                if !confirmed && !l.old_round {
                    return None;
                }
                s.heartbeats[node][leader] = Heartbeat::Confirmed { age, start };
            }
            Action::EarlyQuorumRound { leader } => {
                if !self.lacks(Rule::RoundAfterHeartbeat) || s.term != leader || !s.leaders[leader].active {
                    return None;
                }
                s.leaders[leader].old_round = true;
            }
            Action::GrantAnswered { node, leader } => self.answer(s, node, leader)?,
            Action::LeaseReceived { node, leader } => self.receive(s, node, leader)?,
            Action::NodeApplies { node } => {
                if s.nodes[node].applied == s.log.len {
                    return None;
                }
                s.nodes[node].applied += 1;
            }
            Action::LeaderApplies { leader } => {
                let l = &mut s.leaders[leader];
                if !l.active || l.applied == s.log.len {
                    return None;
                }
                l.applied += 1;
            }
            Action::Elected => {
                if !self.election || s.term == 1 {
                    return None;
                }
                s.term = 1;
            }
            Action::FirstEntryApplied => {
                if s.term == 0 || s.leaders[1].active {
                    return None;
                }
                s.leaders[1] = Leader { active: true, applied: s.log.len, wait: self.lease, ..Leader::default() };
            }
            Action::HoldProposed { leader } => {
                let all = s.log.all();
                let holds = all.iter().filter(|e| **e == Entry::Hold).count();
                let idle = open_hold(all) == 0 && !switched(all) && holds < usize::from(self.holds);
                if !s.leaders[leader].active || !idle {
                    return None;
                }
                s.log.push(Entry::Hold);
            }
            Action::BarrierPassesAndCopied { leader } => {
                let l = &s.leaders[leader];
                let hold = open_hold(s.log.prefix(l.applied));
                if !l.active || hold == 0 || self.lacks(Rule::Barrier) || !self.barrier_passes(s, l, hold) {
                    return None;
                }
                s.leaders[leader].verdict = Some((hold, s.content[0]));
            }
            Action::SwitchProposed { leader } => self.switch(s, leader)?,
            Action::ReleaseProposed { leader } => {
                if !s.leaders[leader].active || open_hold(s.log.all()) == 0 {
                    return None;
                }
                s.log.push(Entry::Release);
            }
            Action::Restarted { node } => {
                if s.nodes.iter().map(|n| n.start).sum::<u8>() >= self.restarts {
                    return None;
                }
                // What it had applied may be lost with the memory; the entries come again.
                s.nodes[node] = Node { start: s.nodes[node].start + 1, ..Node::default() };
                if s.ops[node].in_flight() {
                    s.ops[node] = Op::Done;
                }
            }
            Action::AdmissionProposed { node } => {
                if incarnation(s.log.all(), node) == s.nodes[node].start || gone(s.log.all(), node) {
                    return None;
                }
                s.log.push(Entry::Admit(node as u8));
            }
            Action::RemovalBegun { leader, node } => {
                let one_already = (0..NODES).any(|n| leaving(s.log.all(), n));
                if !s.leaders[leader].active || one_already {
                    return None;
                }
                s.log.push(Entry::Leaving(node as u8));
            }
            Action::RemovalEnded { leader, node } => {
                let l = &s.leaders[leader];
                let begun = l.active && leaving(s.log.prefix(l.applied), node) && !gone(s.log.all(), node);
                let its_term = s.term == leader || self.lacks(Rule::TermOnRemoval);
                if !begun || !its_term || !(l.stopped[node] || self.surely_not_serving(l, node)) {
                    return None;
                }
                s.log.push(Entry::Gone(node as u8));
            }
            Action::Dispatched { node } => self.dispatch(s, node)?,
            Action::Executed { node } => {
                let Op::Sent { epoch, must } = s.ops[node] else { return None };
                let content = &mut s.content[usize::from(epoch)];
                *content |= node == WRITER;
                s.ops[node] = Op::Executed { epoch, must, seen: *content };
            }
            Action::ReplyChecked { node } => self.check(s, node)?,
            Action::ConnectionClosed { node } => {
                if !s.ops[node].in_flight() {
                    return None;
                }
                s.ops[node] = Op::Done;
            }
        }
        Some(())
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let leading = Leader { active: true, ..Leader::default() };
        State {
            log: Log::EMPTY,
            term: 0,
            nodes: [Node::default(); NODES],
            leaders: [leading, Leader::default()],
            heartbeats: [[Heartbeat::None; 2]; NODES],
            ops: [Op::New, if self.reader { Op::New } else { Op::Done }],
            content: [false; 2],
            passed_at_t: false,
            bad: None,
        }
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        if self.settled(s) {
            return;
        }
        use Action::*;
        let leaders = if self.election { 2 } else { 1 };
        out.push(Tick);
        if self.election {
            out.extend([Elected, FirstEntryApplied]);
        }
        for leader in 0..leaders {
            if !s.leaders[leader].active {
                continue;
            }
            if self.lacks(Rule::RoundAfterHeartbeat) {
                out.push(EarlyQuorumRound { leader });
            }
            if s.leaders[leader].applied < s.log.len {
                out.push(LeaderApplies { leader });
            }
            if !switched(s.log.all()) {
                out.extend([HoldProposed { leader }, BarrierPassesAndCopied { leader }]);
                out.extend([SwitchProposed { leader }, ReleaseProposed { leader }]);
            }
            for node in 0..if self.removal { NODES } else { 0 } {
                out.extend([RemovalBegun { leader, node }, RemovalEnded { leader, node }]);
            }
        }
        for node in 0..NODES {
            if s.nodes[node].applied < s.log.len {
                out.push(NodeApplies { node });
            }
            if self.restarts > 0 {
                out.extend([Restarted { node }, AdmissionProposed { node }]);
            }
            match s.ops[node] {
                Op::New => out.push(Dispatched { node }),
                Op::Sent { .. } => out.extend([Executed { node }, ConnectionClosed { node }]),
                Op::Executed { .. } => out.extend([ReplyChecked { node }, ConnectionClosed { node }]),
                Op::Acked | Op::Done => {}
            }
            for leader in usize::from(self.quiet)..leaders {
                out.push(HeartbeatSent { node, leader });
                match s.heartbeats[node][leader] {
                    Heartbeat::None => {}
                    Heartbeat::Sent { .. } => {
                        out.extend([HeartbeatArrives { node, leader }, HeartbeatArrivesAndQuorumRound { node, leader }])
                    }
                    Heartbeat::Confirmed { .. } => out.push(GrantAnswered { node, leader }),
                    Heartbeat::Granted { .. } => out.push(LeaseReceived { node, leader }),
                }
            }
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut after = state.clone();
        self.apply(&mut after, action)?;
        self.forget(&mut after);
        Some(after)
    }

    fn violation(&self, s: &State) -> Option<String> {
        if let Some(bad) = s.bad {
            return Some(bad.to_owned());
        }
        if switched(s.log.all()) && s.ops[WRITER] == Op::Acked && !s.content[1] {
            return Some("an acknowledged write is not at the slot's new server".to_owned());
        }
        None
    }
}
