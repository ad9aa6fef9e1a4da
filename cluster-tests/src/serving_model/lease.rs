//! A model of leases, holds and the barrier: one slot moves once from server S to server T behind a hold, while nodes
//! pause, restart and leave, leaders change, and the network loses and delays messages.
//! Knows nothing of keys and sockets: the content of a server is one bit, which says whether it has executed the write.
//!
//! Three things are violations:
//! - An acknowledged write is missing at T after the switch.
//! - A read that began after the write was acknowledged does not see the write.
//! - A reply under the slot epoch of S passes its check after a reply under the slot epoch of T has passed.
//!
//! The model abstracts from the following. For each abstraction, the reason says why it hides no violation:
//! - Time consists of whole ticks, and the state contains only how many ticks are *left* of each lease. A node's lease
//!   is valid while at most `lease - 1` ticks have passed since the node sent its heartbeat. The leader takes the lease
//!   for expired when `lease` ticks have passed since its answer. With such closed bounds, every behaviour in dense
//!   time has a counterpart in whole ticks with the same order of events. Any number of steps fits between two ticks,
//!   and a tick is always possible. This covers every pause of every party.
//! - Raft is a sequence of committed entries, and each node and each leader has applied a prefix of it. A proposed
//!   entry is committed at once, in the current term, even if a deposed leader proposes it. This covers the worst case:
//!   a node that leads again while a loop of its former term still runs.
//! - A quorum round is a moment at which the leader's term was current.
//! - A reply counts as delivered when it passes its check. A pause between the check and the write to the socket only
//!   delays the reply, which relaxes the conditions: later reads need not see the write, and a read may be as old as
//!   its start.
//! - A node's workers and its control side are one party. Applying an entry is a separate step for each node and each
//!   leader, so a leader may know less or more than the proxy in the same process.
//! - A new heartbeat to the same leader replaces the previous one. This is how a heartbeat gets lost.

mod forget;
mod log;

use super::checker::Model;
use log::{Entry, Log, gone, incarnation, leaving, open_hold, route_epoch, switched};

/// A rule that can be left out of the model, to show why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A node checks its lease before it passes a reply to the client.
    ReplyCheck,
    /// This check compares the slot epoch of the request with the current slot epoch.
    ReplyEpoch,
    /// This check requires that the worker's route table has reached `min_applied`.
    ReplyMinApplied,
    /// The leader waits for the barrier before it copies and switches.
    Barrier,
    /// A node acks a hold only after all its earlier requests are answered.
    Drain,
    /// A grant carries the leader's last routing entry (`min_applied`). A node with an older route table does not
    /// serve.
    MinApplied,
    /// A new leader assumes that every node has a lease, until one lease time has passed.
    NewLeaderWait,
    /// The quorum round of a grant begins after the heartbeat arrived.
    RoundAfterHeartbeat,
    /// The switch carries the term in which the barrier passed, and is accepted only in that term.
    TermOnSwitch,
    /// The switch carries the id of its hold, and is accepted only while this hold is open.
    HoldIdOnSwitch,
    /// The second entry of a removal carries the term in which the leader decided that the node does not serve.
    TermOnRemoval,
    /// A node counts its lease from the moment at which it sent the heartbeat.
    CountFromSend,
    /// While a hold is open, the leader grants no lease to a node that has not acked the hold.
    AckBeforeGrant,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
    /// Whether a node goes on serving after its lease has expired (the setting `isolated serve`).
    pub serve: bool,
    /// Duration of a lease, in ticks.
    pub lease: u8,
    /// Maximum number of holds.
    pub holds: u8,
    /// Whether a second leader may be elected.
    pub election: bool,
    /// Maximum number of node restarts.
    pub restarts: u8,
    /// Whether a node may be removed.
    pub removal: bool,
    /// Whether node 1 has a read to do. Without it there are far fewer states (see `strict`).
    pub reader: bool,
    /// Whether it is also a violation that a reply passes under the slot epoch of S after the switch is in the log.
    /// This requires more than clients can observe, but a single operation is then enough: a reply under the slot epoch
    /// of T is later than the switch, so two replies cannot be out of order. And a read that passes at S began before
    /// any write was acknowledged at T, so it is not stale.
    pub strict: bool,
    /// No node sends heartbeats to the first leader. This is enough to show the late effects of that leader's
    /// decisions, in far fewer states.
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
/// Node 0 has one write to do, and node 1 has one read to do. This is enough: whether a write is lost depends on no
/// other operation, a stale read needs one write and one read, and replies out of order need any two operations. The
/// nodes are interchangeable.
const OPS: usize = NODES;
const WRITER: usize = 0;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Node {
    /// Number of restarts so far. It is the node's incarnation after an entry has admitted this start.
    start: u8,
    /// Number of entries in the route table of the node's worker.
    applied: u8,
    /// Ticks left of the node's lease.
    lease: u8,
    /// The node has had a lease since it started.
    leased_once: bool,
    /// The `min_applied` of the latest grant.
    min_applied: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    /// The leader has applied the first entry of its own term.
    active: bool,
    applied: u8,
    /// Ticks left during which the leader assumes that every node has a lease.
    wait: u8,
    /// Ticks left of each node's lease, as the leader counts them.
    leases: [u8; NODES],
    /// (incarnation, hold id) of each node's last ack.
    acks: [(u8, u8); NODES],
    /// The node has reported that it has applied its removal and has stopped serving.
    stopped: [bool; NODES],
    /// A quorum round has taken place at some earlier time (used only without `RoundAfterHeartbeat`).
    old_round: bool,
    /// (hold id, whether the copy found the write at S) of a barrier that has passed.
    verdict: Option<(u8, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Heartbeat {
    None,
    /// The heartbeat is on its way. `ack`: id of the hold that the node acks, or 0.
    Sent {
        age: u8,
        start: u8,
        ack: u8,
        stopped: bool,
    },
    /// The heartbeat has arrived, and a quorum round has followed.
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
    /// The server has executed the request. `seen`: the write was in the server's content.
    Executed {
        epoch: u8,
        must: bool,
        seen: bool,
    },
    /// A write whose reply has passed its check.
    Acked,
    /// A read that was answered, or an operation whose outcome is unknown. Nothing more is required of it.
    Done,
}

impl Op {
    fn in_flight(self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Executed { .. })
    }
}

/// The state of the whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Log,
    /// Term of the leader that was elected last, from 0.
    term: usize,
    nodes: [Node; NODES],
    leaders: [Leader; 2],
    /// The heartbeat of each node to each leader.
    heartbeats: [[Heartbeat; 2]; NODES],
    ops: [Op; OPS],
    /// Whether S and T contain the write.
    content: [bool; 2],
    /// A reply has passed under the slot epoch of T.
    passed_at_t: bool,
    /// A violation that was found at a reply's check.
    bad: Option<&'static str>,
}

/// A step of one party. The fields are the number of a node (and of its operation) and of a leader.
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

    /// The lease part of the checks at dispatch and at reply time. A node that has applied its own removal does not
    /// serve.
    fn may_serve(&self, s: &State, node: usize) -> bool {
        let n = &s.nodes[node];
        (n.lease > 0 || self.serve && n.leased_once) && !leaving(s.log.prefix(n.applied), node)
    }

    fn recent(&self, s: &State, node: usize) -> bool {
        s.nodes[node].applied >= s.nodes[node].min_applied
    }

    /// Whether leader `l` can prove that `node` has stopped serving, or that it does not serve before it has acked the
    /// hold.
    fn provably_not_serving(&self, l: &Leader, node: usize) -> bool {
        let over = l.leases[node] == 0 && (l.wait == 0 || self.lacks(Rule::NewLeaderWait));
        over && !self.serve
    }

    fn barrier_passes(&self, s: &State, l: &Leader, hold: u8) -> bool {
        let log = s.log.prefix(l.applied);
        (0..NODES).filter(|n| !gone(log, *n)).all(|n| {
            let (start, acked) = l.acks[n];
            (acked == hold && start == incarnation(log, n)) || l.stopped[n] || self.provably_not_serving(l, n)
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
                s.bad = Some("a stale read: it began after the write was acknowledged and did not see the write");
            }
            if epoch == 0 && s.passed_at_t {
                s.bad = Some("a reply passed under the old slot epoch after a reply had passed under the new one");
            }
            if epoch == 0 && self.strict && switched(s.log.all()) {
                s.bad = Some("a reply passed under the old slot epoch after the switch was in the log");
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
                // Before its admission, a restarted node has no incarnation and gets no grant. Its heartbeats have no
                // effect.
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
                // ReadIndex: the round waits until the leader has applied all entries that were committed when it
                // began.
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
                // The applied state may be lost with the node's memory. The node applies the entries again.
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
                if !begun || !its_term || !(l.stopped[node] || self.provably_not_serving(l, node)) {
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
            return Some("an acknowledged write is missing at the slot's new server".to_owned());
        }
        None
    }
}
