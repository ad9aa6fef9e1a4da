//! A model of failovers during a migration: the primaries of the source group and of the target group are replaced
//! before, during and after the switch, and the writes that their replicas lack are lost.
//! Knows nothing of how a copy becomes complete (`copy`) nor of leaders and the fence (`runs`).
//!
//! Two things are violations:
//! - The primary of the slot's group does not hold the value that clients wrote or read last.
//! - A promotion rolls the slot back to a value that its primary has not held since the group got the slot.
//!
//! If [`Failover::available`] is set, it is also a violation that the slot's new group has no replica that may be
//! promoted.
//!
//! The model abstracts from the following. For each abstraction, the reason says why it hides no violation:
//! - There is one key. A replica holds an earlier state of its primary, and replication catches up in one step.
//! - StartPromotion, its hold and the barrier are one step, and so are a migration's Hold and its barrier (proven in
//!   `serving_model::lease`): while one of them is open, no client writes to the group.
//! - A failover may lose the writes that the replica lacks. This is the bound that the documentation promises. Clients
//!   therefore accept the value of the new primary if the slot's primary has held it since the group got the slot.
//! - Entries are applied when they are proposed. The migration's loop may know primaries and epochs of any earlier
//!   time.
//! - The connections of a run are closed before the next Start, as in `runs`, except at a server that a FinishPromotion
//!   has replaced: the connections at that server are closed when it returns.
//! - An offset of the target stands for the target's value: the values that the slot's primary has held since the
//!   switch are the values at or beyond the required offset.
//! - A server that is a replica refuses RESTORE (READONLY).

use crate::serving_model::checker::Model;

/// A rule that can be left out of the model, to show why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Start carries the group epochs at which its servers were read. Both must be the current ones.
    EpochsOnStart,
    /// FinishPromotion restarts the migrations of its group that are before Switch.
    FinishRestarts,
    /// Switch carries the group epochs of its attempt. Both must be the current ones.
    EpochsOnSwitch,
    /// StartPromotion is rejected while a migration from or to the group is held.
    NoHoldAtPromotion,
    /// Hold is rejected while a promotion of one of the two groups is open.
    NoPromotionAtHold,
    /// StartPromotion is in the log before the leader sends REPLICAOF NO ONE.
    LogBeforePromotion,
    /// Before the mover reports that it is done, the connected replicas of the target have all its data (`WAIT`).
    Wait,
    /// Switch carries the target's offset at which the mover was done. A replica of the target group is promoted only
    /// if it has reached this required offset.
    RequiredOffset,
    /// A replica whose promotion was given up after REPLICAOF NO ONE is no candidate until it has resynced.
    DivergedIsNoCandidate,
    /// The replica that serves the feed must follow the source, under the same replication id, when offsets are
    /// compared.
    SameReplication,
    /// The mover fetches values from the replica that serves the feed.
    FetchWhereFeed,
    /// The connections of runs at a replaced primary are closed before it is made a replica.
    ClosedOnReturn,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Failover {
    /// The rules that are left out.
    pub without: &'static [Rule],
    /// Maximum number of promotions of the source group and of the target group.
    pub promotions: [u8; 2],
    /// Whether the link to the target's replica may break.
    pub links: bool,
    /// Maximum number of changes by clients.
    pub writes: u8,
    /// Maximum number of holds.
    pub holds: u8,
    /// Maximum number of attempts.
    pub attempts: u8,
    /// Whether it is also a violation that the slot's new group has no replica that may be promoted, from the switch
    /// on, although the replica's link was never broken.
    pub available: bool,
}

impl Failover {
    /// Both groups may be promoted once.
    pub const SMALL: Self =
        Self { without: &[], promotions: [1, 1], links: false, writes: 2, holds: 2, attempts: 2, available: false };
}

const FROM: usize = 0;
const TO: usize = 1;
const NIL: u8 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Server {
    value: u8,
    /// The server is a replica of the other server of its group. Otherwise it accepts writes.
    follows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Promotion {
    None,
    Started,
    /// REPLICAOF NO ONE was executed.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    servers: [Server; 2],
    /// The primary according to the log.
    primary: usize,
    epoch: u8,
    promotion: Promotion,
    /// The replica's link to its primary is up.
    in_sync: bool,
    /// The replica was in sync at its last probe.
    candidate: bool,
    /// A promotion of the replica was given up, and the replica has not resynced since.
    diverged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Planned,
    Running,
    Held,
    Switched,
}

/// An attempt: the servers from which it reads and to which it writes, and the group epochs at its Start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Attempt {
    source: usize,
    target: usize,
    epochs: [u8; 2],
    /// The value at the target that a reply has confirmed last.
    known: u8,
    /// The value of the RESTORE that is on its way.
    sent: Option<u8>,
    done: bool,
}

/// The state of the whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    groups: [Group; 2],
    phase: Phase,
    attempt: Attempt,
    /// Primaries and epochs of both groups, as the migration's loop has read them last.
    seen: [(usize, u8); 2],
    /// The RESTORE of a former attempt that is on its way: the server of the target group, and the value.
    late: Option<(usize, u8)>,
    /// The value that clients must read.
    truth: u8,
    /// Values that the slot's primary has held since its group got the slot, one bit each.
    history: u8,
    writes: u8,
    holds: u8,
    attempts: u8,
    bad: Option<&'static str>,
}

/// A step of one party. `group` is the number of a group: 0 is the source, 1 the target.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Written,
    Replicated { group: usize },
    LinkBroken,
    LinkMended,
    Observed { group: usize },
    PromotionStarted { group: usize },
    ReplicaOfNoOne { group: usize },
    PromotionFinished { group: usize },
    PromotionGivenUp { group: usize },
    MadeReplica { group: usize },
    PrimariesRead,
    Started,
    RestoreSent,
    RestoreExecuted,
    LateRestoreExecuted,
    Held,
    Done,
    Switched,
    Released,
    Restarted,
}

impl Group {
    fn replica(&mut self) -> &mut Server {
        &mut self.servers[1 - self.primary]
    }

    /// Whether the replica receives the primary's replication stream.
    fn streams(&self) -> bool {
        self.in_sync && self.servers[1 - self.primary].follows
    }
}

impl State {
    fn owner(&self) -> usize {
        if self.phase == Phase::Switched { TO } else { FROM }
    }

    fn epochs(&self) -> [u8; 2] {
        self.groups.map(|g| g.epoch)
    }

    fn promoting(&self) -> bool {
        self.groups.iter().any(|g| g.promotion != Promotion::None)
    }

    /// Ends the attempt. A RESTORE that it has sent is still on its way.
    fn restart(&mut self) {
        self.phase = Phase::Planned;
        if let Some(value) = self.attempt.sent.take() {
            self.late = Some((self.attempt.target, value));
        }
        self.attempt = Attempt { target: self.attempt.target, ..Attempt::default() };
    }
}

impl Failover {
    fn lacks(&self, rule: Rule) -> bool {
        self.without.contains(&rule)
    }

    fn promote(&self, s: &mut State, action: Action) -> Option<()> {
        let held = s.phase == Phase::Held;
        let (switched, history) = (s.phase == Phase::Switched, s.history);
        let owner = s.owner();
        match action {
            Action::PromotionStarted { group } => {
                let g = &mut s.groups[group];
                let may = g.promotion == Promotion::None && g.epoch < self.promotions[group];
                let diverged = g.diverged && !self.lacks(Rule::DivergedIsNoCandidate);
                let reached = self.lacks(Rule::RequiredOffset) || history >> g.replica().value & 1 == 1;
                let reached = reached || group == FROM || !switched;
                // Without the rule, REPLICAOF NO ONE may precede the entry.
                let early = self.lacks(Rule::LogBeforePromotion) && !g.replica().follows;
                g.promotion = if early { Promotion::Sent } else { Promotion::Started };
                let excluded = held && !self.lacks(Rule::NoHoldAtPromotion);
                (may && g.candidate && !diverged && !excluded && reached).then_some(())
            }
            Action::ReplicaOfNoOne { group } => {
                let g = &mut s.groups[group];
                let early = self.lacks(Rule::LogBeforePromotion) && g.promotion == Promotion::None && g.candidate;
                if g.promotion == Promotion::Started {
                    g.promotion = Promotion::Sent;
                } else if !early || !g.replica().follows || g.epoch >= self.promotions[group] {
                    return None;
                }
                g.replica().follows = false;
                Some(())
            }
            Action::PromotionFinished { group } => {
                let g = &mut s.groups[group];
                if g.promotion != Promotion::Sent {
                    return None;
                }
                g.primary = 1 - g.primary;
                g.epoch += 1;
                (g.promotion, g.in_sync, g.candidate, g.diverged) = (Promotion::None, true, false, false);
                let value = g.servers[g.primary].value;
                if owner == group {
                    if s.history >> value & 1 == 0 {
                        s.bad = Some("the new primary lacks more than the latest writes");
                    }
                    (s.truth, s.history) = (value, 1 << value);
                }
                if matches!(s.phase, Phase::Running | Phase::Held) && !self.lacks(Rule::FinishRestarts) {
                    s.restart();
                }
                Some(())
            }
            Action::PromotionGivenUp { group } => {
                let g = &mut s.groups[group];
                let open = g.promotion != Promotion::None;
                g.diverged |= g.promotion == Promotion::Sent;
                g.promotion = Promotion::None;
                open.then_some(())
            }
            Action::MadeReplica { group } => {
                let g = &mut s.groups[group];
                let value = g.servers[g.primary].value;
                let due = g.promotion == Promotion::None && !g.replica().follows;
                *g.replica() = Server { value, follows: true };
                g.diverged = false;
                let server = 1 - g.primary;
                if group == TO && !self.lacks(Rule::ClosedOnReturn) {
                    s.late = s.late.filter(|(at, _)| *at != server);
                }
                due.then_some(())
            }
            _ => None,
        }
    }

    fn started(&self, s: &mut State) -> Option<()> {
        let today = s.seen.map(|(_, epoch)| epoch) == s.epochs();
        if s.phase != Phase::Planned || s.attempts >= self.attempts || !(today || self.lacks(Rule::EpochsOnStart)) {
            return None;
        }
        let target = s.seen[TO].0;
        // The fence of the previous attempt. It does not cover a replaced primary.
        s.late = s.late.filter(|(at, _)| *at != s.groups[TO].primary);
        let server = &mut s.groups[TO].servers[target];
        if server.follows {
            return None;
        }
        server.value = NIL;
        s.attempt = Attempt { source: s.seen[FROM].0, target, epochs: s.epochs(), ..Attempt::default() };
        (s.phase, s.attempts) = (Phase::Running, s.attempts + 1);
        Some(())
    }

    fn done(&self, s: &State) -> bool {
        let (a, from, to) = (&s.attempt, &s.groups[FROM], &s.groups[TO]);
        let feeder = from.servers[1 - a.source];
        // Offsets under another replication id cannot be compared: they may have any value.
        let fed = if feeder.follows {
            feeder.value == from.servers[a.source].value
        } else {
            self.lacks(Rule::SameReplication)
        };
        let fetched = if self.lacks(Rule::FetchWhereFeed) { from.servers[a.source].value } else { feeder.value };
        let replica = to.servers[1 - a.target];
        let waited = !to.streams() || replica.value == to.servers[a.target].value || self.lacks(Rule::Wait);
        s.phase == Phase::Held && !a.done && fed && a.known == fetched && a.sent.is_none() && waited
    }

    fn apply(&self, s: &mut State, action: Action) -> Option<()> {
        let owner = s.owner();
        let possible = match action {
            Action::Written => {
                let g = &mut s.groups[owner];
                let may = s.writes < self.writes && s.phase != Phase::Held && g.promotion == Promotion::None;
                s.writes += 1;
                s.truth = 1 + s.writes;
                s.history |= 1 << s.truth;
                g.servers[g.primary].value = s.truth;
                may
            }
            Action::Replicated { group } => {
                let g = &mut s.groups[group];
                let streams = g.streams();
                g.replica().value = g.servers[g.primary].value;
                streams
            }
            Action::LinkBroken | Action::LinkMended => {
                let mended = matches!(action, Action::LinkMended);
                let changes = s.groups[TO].in_sync != mended;
                s.groups[TO].in_sync = mended;
                self.links && changes
            }
            Action::Observed { group } => {
                let g = &mut s.groups[group];
                g.candidate = g.streams();
                true
            }
            Action::PrimariesRead => {
                s.seen = s.groups.map(|g| (g.primary, g.epoch));
                true
            }
            Action::Started => return self.started(s),
            Action::RestoreSent => {
                let from = &s.groups[FROM];
                let primary = self.lacks(Rule::FetchWhereFeed);
                let value = from.servers[if primary { s.attempt.source } else { 1 - s.attempt.source }].value;
                let busy = s.attempt.sent.is_some() || s.attempt.done || s.attempt.known == value;
                s.attempt.sent = Some(value);
                matches!(s.phase, Phase::Running | Phase::Held) && !busy
            }
            Action::RestoreExecuted => {
                let value = s.attempt.sent.take()?;
                let server = &mut s.groups[TO].servers[s.attempt.target];
                let takes = !server.follows;
                server.value = value;
                s.attempt.known = value;
                takes
            }
            Action::LateRestoreExecuted => {
                let (at, value) = s.late.take()?;
                let server = &mut s.groups[TO].servers[at];
                let takes = !server.follows;
                server.value = value;
                takes
            }
            Action::Held => {
                let may = s.phase == Phase::Running && s.holds < self.holds;
                (s.phase, s.holds) = (Phase::Held, s.holds + 1);
                may && (!s.promoting() || self.lacks(Rule::NoPromotionAtHold))
            }
            Action::Done => {
                let done = self.done(s);
                s.attempt.done = true;
                done
            }
            Action::Switched => {
                let may = s.phase == Phase::Held && s.attempt.done;
                let today = s.attempt.epochs == s.epochs() || self.lacks(Rule::EpochsOnSwitch);
                s.phase = Phase::Switched;
                s.history = 1 << s.truth;
                may && today
            }
            Action::Released => {
                let held = s.phase == Phase::Held && s.holds < self.holds;
                s.phase = Phase::Running;
                s.attempt.done = false;
                held
            }
            Action::Restarted => {
                let may = matches!(s.phase, Phase::Running | Phase::Held) && s.attempts < self.attempts;
                s.restart();
                may
            }
            _ => return self.promote(s, action),
        };
        possible.then_some(())
    }
}

impl Model for Failover {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let group = |value| Group {
            servers: [Server { value, follows: false }, Server { value, follows: true }],
            primary: 0,
            epoch: 0,
            promotion: Promotion::None,
            in_sync: true,
            candidate: true,
            diverged: false,
        };
        State {
            groups: [group(1), group(NIL)],
            phase: Phase::Planned,
            attempt: Attempt::default(),
            seen: [(0, 0); 2],
            late: None,
            truth: 1,
            history: 1 << 1,
            writes: 0,
            holds: 0,
            attempts: 0,
            bad: None,
        }
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        use Action::*;
        out.extend([Written, LinkBroken, LinkMended, PrimariesRead, Started, RestoreSent, RestoreExecuted]);
        out.extend([LateRestoreExecuted, Held, Done, Switched, Released, Restarted]);
        for group in [FROM, TO] {
            out.push(Replicated { group });
            if s.groups[group].epoch < self.promotions[group] || s.groups[group].epoch > 0 {
                out.extend([Observed { group }, PromotionStarted { group }, ReplicaOfNoOne { group }]);
                out.extend([PromotionFinished { group }, PromotionGivenUp { group }, MadeReplica { group }]);
            }
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut after = state.clone();
        self.apply(&mut after, action)?;
        Some(after)
    }

    fn violation(&self, s: &State) -> Option<String> {
        if let Some(bad) = s.bad {
            return Some(bad.to_owned());
        }
        let g = &s.groups[s.owner()];
        if self.available && s.phase == Phase::Switched && s.history >> g.servers[1 - g.primary].value & 1 == 0 {
            return Some("the slot's new group has no replica that may be promoted".to_owned());
        }
        let value = g.servers[g.primary].value;
        (value != s.truth).then(|| format!("clients read {value}, but before they wrote or read {}", s.truth))
    }
}
