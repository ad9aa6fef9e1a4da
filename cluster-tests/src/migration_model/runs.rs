//! A model of runs: which mover may change a server, while a slot moves from server A to server B and back.
//! Knows nothing of how a copy becomes complete (`copy`) nor of failovers (`failover`).
//!
//! A run is a copy attempt or a cleaning. Cleanings are the deletion of the source's keys after the switch (clean
//! source), the deletion of the staged keys after a cancel (wipe target), and sweeps. Each run has a mover with
//! connections to the server that it changes. Two leaders, one of which may be deposed, authorize connections, close
//! runs and propose the entries that begin and end runs. The log decides which of these entries take effect.
//!
//! Two things are violations:
//! - The server that owns the slot does not hold the last value that clients wrote.
//! - When no migration is planned, the other server still holds the key.
//!
//! The model abstracts from the following. For each abstraction, the reason says why it hides no violation:
//! - There is one key: a late RESTORE or UNLINK damages only the key that it names. Change tracking is proven in
//!   `copy`. Here, a mover reports that it is done when the last confirmed value is the source's and none of its
//!   commands is on its way.
//! - A hold and its barrier are one step (proven in `serving_model::lease`): clients write only while no hold is open.
//! - As in `serving_model::fence`, a quorum round is a moment at which the leader's term was current, an entry is
//!   committed when it is proposed, in the current term, and a deposed leader continues to act. A rejected entry is no
//!   step.
//! - The loops of a leader run concurrently: it may propose whatever the log allowed at some earlier time, any number
//!   of times. Applying a further entry is a separate step. Only an authorization depends on the entries that were
//!   applied at its quorum round.
//! - Listing and killing a run's connections is one step. `serving_model::fence` covers a connection that is named
//!   between the two. Naming and authorization are one step, too, unless `detail` is set.
//! - A mover that pauses or dies takes no step. The commands that it has sent are still on their way.

mod leader;
mod log;

use crate::serving_model::checker::Model;
use log::{Kind, Log, Phase, RUNS, Reading, View};

/// A rule that can be left out of the model, to show why it is needed.
///
/// "Behind the fence of a run" means: the leader proposes the entry only after it has marked the run closed and killed
/// its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An attempt begins by deleting all keys of the slot at the target.
    CleanTarget,
    /// Every UNLINK of this deletion is answered before the mover sends the first RESTORE.
    UnlinksAnswered,
    /// A lost connection ends the run: the mover does not connect again.
    NoReopening,
    /// A mover requests authorization for a connection only after the server has confirmed the connection's name.
    NamingBeforeAuthorization,
    /// A leader authorizes only after a quorum round that began after the request arrived.
    QuorumRound,
    /// Before the leader authorizes a connection, it checks in its log that the run is current.
    CheckLog,
    /// The leader marks a run closed before it kills the run's connections.
    MarkBeforeKill,
    /// The leader kills the run's connections.
    Kill,
    /// Start is proposed behind the fence of the previous attempt.
    CloseBeforeStart,
    /// Start is proposed behind the fence of a sweep.
    CloseSweepBeforeStart,
    /// Start ends a sweep's run in the log, too, so that no later leader authorizes a connection for it.
    StartEndsSweep,
    /// StartRun of a sweep is rejected while an attempt writes to the group.
    NoSweepBesideAttempt,
    /// A cancelled migration that was ever started goes through Cancelling, also if it is cancelled between two
    /// attempts.
    CancelWipes,
    /// Switch is proposed behind the fence of its attempt.
    CloseBeforeSwitch,
    /// StartRun is proposed behind the fence of the previous run.
    CloseBeforeStartRun,
    /// Cleaned is proposed behind the fence of its run.
    CloseBeforeCleaned,
    /// Start carries the term of its fence, and is accepted only in that term.
    TermOnStart,
    /// Switch carries the term of its fence, and is accepted only in that term.
    TermOnSwitch,
    /// StartRun carries the term of its fence, and is accepted only in that term.
    TermOnStartRun,
    /// Cleaned carries the term of its fence, and is accepted only in that term.
    TermOnCleaned,
    /// Start and StartRun carry the number of the run that they begin. It must be the next number.
    NextRun,
    /// Hold carries its attempt, and is accepted only for the current one.
    AttemptOnHold,
    /// Switch carries its attempt, and is accepted only for the current one.
    AttemptOnSwitch,
    /// Switch carries the id of its hold, and is accepted only while this hold is open.
    HoldIdOnSwitch,
    /// Cleaned carries its run, and is accepted only for the current one.
    RunOnCleaned,
    /// A hold whose run is closed ends by Restart. Without the rule, it ends by Release, and the mover continues.
    RestartBehindFence,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    /// The rules that are left out.
    pub without: &'static [Rule],
    /// Whether a second leader may be elected.
    pub election: bool,
    /// Whether opening, naming, request, quorum round and authorization of a connection are separate steps.
    pub detail: bool,
    /// Whether an attempt sends UNLINKs and RESTOREs over different connections.
    pub two_lanes: bool,
    /// Maximum number of changes by clients.
    pub writes: u8,
    /// Maximum number of runs.
    pub runs: usize,
    /// Maximum number of switches. With two, the slot moves back.
    pub switches: u8,
    /// Maximum number of holds.
    pub holds: u8,
    /// Whether attempts are restarted.
    pub restart: bool,
    /// Whether migrations are cancelled.
    pub cancel: bool,
    /// Whether leftovers are swept.
    pub sweep: bool,
}

impl Runs {
    /// One migration with one leader.
    pub const SMALL: Self = Self {
        without: &[],
        election: false,
        detail: false,
        two_lanes: false,
        writes: 1,
        runs: 2,
        switches: 1,
        holds: 1,
        restart: true,
        cancel: false,
        sweep: false,
    };
}

const LANES: usize = 2;
const NIL: u8 = 0;
/// The value of a key at the target while a RESTORE of it is unanswered.
const UNKNOWN: u8 = 0xff;
/// The report of a cleaning run that no key is left.
const CLEAN: u8 = 0xfe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Server {
    /// Not opened yet, or waiting in the kernel: the server does not know the connection yet, but will serve it.
    #[default]
    Waiting,
    Named,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Request {
    #[default]
    None,
    Arrived(usize),
    /// A quorum round followed. The second value is the number of entries that the leader had applied at that time.
    Confirmed(usize, u8),
    Authorized,
}

/// A connection of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Lane {
    server: Server,
    request: Request,
    /// The value that the key gets when the command that is on its way (RESTORE or UNLINK) is executed.
    sent: Option<u8>,
    /// The mover regards the connection as lost. The server may still serve it.
    lost: bool,
}

/// The mover of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Mover {
    /// The target is clean, and the copy has begun.
    copying: bool,
    /// The value at the target that a reply has confirmed last.
    known: u8,
    /// The last report: done for this hold id, or `CLEAN`.
    done: u8,
    /// The run has ended: the mover sends nothing more.
    over: bool,
    lanes: [Lane; LANES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    active: bool,
    applied: u8,
    /// Runs that the leader has marked closed, one bit each.
    marked: u8,
    /// Runs whose connections the leader has killed, one bit each.
    killed: u8,
}

/// The state of the whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Log,
    term: usize,
    leaders: [Leader; 2],
    movers: [Mover; RUNS],
    /// The values of the key at A and B.
    content: [u8; 2],
    /// The last value that clients wrote.
    truth: u8,
    writes: u8,
}

/// A step of one party. The fields are the number of a run, of one of its connections (lane) and of a leader.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Set,
    Deleted,
    Elected,
    FirstEntryApplied,
    LeaderApplies { leader: usize },
    Opened { run: usize, lane: usize, leader: usize },
    Named { run: usize, lane: usize },
    AuthorizationRequested { run: usize, lane: usize, leader: usize },
    QuorumRound { run: usize, lane: usize },
    Authorized { run: usize, lane: usize },
    UnlinkSent { run: usize },
    CleanedTarget { run: usize },
    RestoreSent { run: usize },
    Executed { run: usize, lane: usize },
    ConnectionLost { run: usize, lane: usize },
    MoverDone { run: usize },
    MarkedClosed { leader: usize },
    Killed { leader: usize },
    StartProposed { leader: usize },
    HoldProposed { leader: usize },
    SwitchProposed { leader: usize },
    ReleaseProposed { leader: usize },
    RestartProposed { leader: usize },
    CancelProposed { leader: usize },
    StartRunProposed { leader: usize },
    CleanedProposed { leader: usize },
}

impl Runs {
    fn lacks(&self, rule: Rule) -> bool {
        self.without.contains(&rule)
    }

    fn view(&self, s: &State, len: u8) -> View {
        let start_ends_sweep = !self.lacks(Rule::StartEndsSweep);
        s.log.view(len, Reading { start_ends_sweep, cancel_wipes: !self.lacks(Rule::CancelWipes) })
    }

    fn now(&self, s: &State) -> View {
        self.view(s, s.log.len)
    }

    /// The part of the log that a leader has applied, or `None` if the leader is not active.
    fn seen(&self, s: &State, leader: usize) -> Option<View> {
        let l = &s.leaders[leader];
        l.active.then(|| self.view(s, l.applied))
    }

    fn closed(&self, s: &State, leader: usize, run: Option<usize>) -> bool {
        run.is_none_or(|run| (s.leaders[leader].marked & s.leaders[leader].killed) >> run & 1 == 1)
    }

    fn in_term(&self, s: &State, leader: usize, rule: Rule) -> bool {
        s.term == leader || self.lacks(rule)
    }

    /// Returns the lane over which a mover sends, or `None` if it has none or awaits a reply there.
    fn lane(&self, w: &Mover, unlink: bool) -> Option<usize> {
        let lane = usize::from(w.lanes[0].lost || unlink && self.two_lanes && !w.copying);
        let l = &w.lanes[lane];
        (!w.over && l.request == Request::Authorized && !l.lost && l.sent.is_none()).then_some(lane)
    }

    fn may_open(&self, s: &State, run: usize, lane: usize) -> bool {
        let w = &s.movers[run];
        let kind = self.now(s).runs[run].map(|(kind, _)| kind);
        let wanted = lane == 0 || w.lanes[0].lost || self.two_lanes && kind == Some(Kind::Attempt);
        kind.is_some() && wanted && !w.over && w.lanes[lane].request == Request::None && !w.lanes[lane].lost
    }

    /// Whether `leader` may authorize a connection of `run` after it has applied the first `applied` entries.
    fn authorizes(&self, s: &State, leader: usize, run: usize, applied: u8) -> bool {
        let marked = s.leaders[leader].marked >> run & 1 == 1;
        !marked && (self.view(s, applied).is_current(run) || self.lacks(Rule::CheckLog))
    }

    fn connect(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Opened { run, lane, leader } => {
                let round = s.term == leader;
                let applied = if round { s.log.len } else { s.leaders[leader].applied };
                let may = self.may_open(s, run, lane) && s.leaders[leader].active;
                if !may || !(round || self.lacks(Rule::QuorumRound)) || !self.authorizes(s, leader, run, applied) {
                    return None;
                }
                let l = &mut s.movers[run].lanes[lane];
                (l.server, l.request) = (Server::Named, Request::Authorized);
            }
            Action::Named { run, lane } => {
                // The server serves a waiting connection eventually: first it executes the naming, then what was sent
                // next.
                let waiting = s.movers[run].lanes[lane].server == Server::Waiting;
                if !waiting || !self.may_open(s, run, lane) && s.movers[run].lanes[lane].request == Request::None {
                    return None;
                }
                s.movers[run].lanes[lane].server = Server::Named;
            }
            Action::AuthorizationRequested { run, lane, leader } => {
                let named = s.movers[run].lanes[lane].server == Server::Named;
                let may = self.may_open(s, run, lane) && s.leaders[leader].active;
                if !may || !(named || self.lacks(Rule::NamingBeforeAuthorization)) {
                    return None;
                }
                s.movers[run].lanes[lane].request = Request::Arrived(leader);
            }
            Action::QuorumRound { run, lane } => {
                let Request::Arrived(leader) = s.movers[run].lanes[lane].request else { return None };
                let round = s.term == leader;
                let applied = if round { s.log.len } else { s.leaders[leader].applied };
                if !round && !self.lacks(Rule::QuorumRound) {
                    return None;
                }
                s.movers[run].lanes[lane].request = Request::Confirmed(leader, applied);
            }
            Action::Authorized { run, lane } => {
                let Request::Confirmed(leader, applied) = s.movers[run].lanes[lane].request else { return None };
                if !self.authorizes(s, leader, run, applied) {
                    return None;
                }
                s.movers[run].lanes[lane].request = Request::Authorized;
            }
            _ => return None,
        }
        Some(())
    }

    fn work(&self, s: &mut State, action: Action) -> Option<()> {
        let now = self.now(s);
        match action {
            Action::UnlinkSent { run } => {
                let (kind, server) = now.runs[run]?;
                let cleaning = kind == Kind::Cleaning || !s.movers[run].copying;
                let lane = self.lane(&s.movers[run], true)?;
                s.movers[run].lanes[lane].sent = Some(NIL).filter(|_| cleaning && s.content[server] != NIL);
                s.movers[run].lanes[lane].sent?;
            }
            Action::CleanedTarget { run } => {
                let (kind, server) = now.runs[run]?;
                let lacks = self.lacks(Rule::CleanTarget);
                let w = &mut s.movers[run];
                let asked = w.lanes.iter().any(|l| l.sent.is_some());
                let clean = s.content[server] == NIL && !asked || asked && self.lacks(Rule::UnlinksAnswered) || lacks;
                let due = kind == Kind::Attempt && !w.copying && !w.over && clean;
                w.copying = true;
                return due.then_some(());
            }
            Action::RestoreSent { run } => {
                let (_, server) = now.runs[run]?;
                let w = &mut s.movers[run];
                let lane = self.lane(w, false)?;
                let value = s.content[1 - server];
                w.lanes[lane].sent = Some(value);
                return (w.copying && w.known != value).then_some(());
            }
            Action::Executed { run, lane } => {
                let (_, server) = now.runs[run]?;
                let w = &mut s.movers[run];
                let l = &mut w.lanes[lane];
                if l.server != Server::Named {
                    return None;
                }
                let value = l.sent.take()?;
                if !l.lost && w.copying && !(self.two_lanes && lane == 1) {
                    w.known = value;
                }
                s.content[server] = value;
            }
            Action::ConnectionLost { run, lane } => {
                let reopens = self.lacks(Rule::NoReopening) || self.lacks(Rule::RestartBehindFence);
                let w = &mut s.movers[run];
                let l = &mut w.lanes[lane];
                // If no command is on its way and the mover does not connect again, this equals a pause of the mover.
                let matters =
                    l.sent.is_some() && l.server == Server::Named || reopens && l.request == Request::Authorized;
                let dead = l.server == Server::Dead;
                if w.over || l.lost || !matters || !self.lacks(Rule::NoReopening) && reopens && !dead {
                    return None;
                }
                l.lost = true;
                (w.over, w.known) = (!reopens || lane == 1, UNKNOWN);
            }
            Action::MoverDone { run } => {
                let (kind, server) = now.runs[run]?;
                let w = &mut s.movers[run];
                let unlinks = self.two_lanes && self.lacks(Rule::UnlinksAnswered);
                let answered = |(lane, l): (usize, &Lane)| l.sent.is_none() || l.lost || lane == 1 && unlinks;
                let idle = !w.over && w.lanes.iter().enumerate().all(answered);
                let done = match (kind, now.phase) {
                    (Kind::Cleaning, _) if s.content[server] == NIL => CLEAN,
                    (Kind::Attempt, Phase::Held(hold)) if now.attempt() == Some(run) && w.copying => {
                        hold * u8::from(w.known == s.content[1 - server])
                    }
                    _ => 0,
                };
                let new = done != 0 && w.done != done && w.lanes[0].request == Request::Authorized;
                w.done = done;
                return (idle && new).then_some(());
            }
            _ => return None,
        }
        Some(())
    }

    fn apply(&self, s: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Set | Action::Deleted => {
                let now = self.now(s);
                if s.writes >= self.writes || matches!(now.phase, Phase::Held(_)) {
                    return None;
                }
                s.writes += 1;
                s.truth = if matches!(action, Action::Deleted) { NIL } else { 1 + s.writes };
                s.content[now.owner] = s.truth;
            }
            Action::Elected => {
                if s.term == 1 {
                    return None;
                }
                s.term = 1;
            }
            Action::FirstEntryApplied => {
                if s.term == 0 || s.leaders[1].active {
                    return None;
                }
                s.leaders[1] = Leader { active: true, applied: s.log.len, ..Leader::default() };
            }
            Action::LeaderApplies { leader } => {
                s.leaders[leader].applied += 1;
                return (s.leaders[leader].applied <= s.log.len).then_some(());
            }
            Action::MarkedClosed { leader }
            | Action::Killed { leader }
            | Action::StartProposed { leader }
            | Action::HoldProposed { leader }
            | Action::SwitchProposed { leader }
            | Action::ReleaseProposed { leader }
            | Action::RestartProposed { leader }
            | Action::CancelProposed { leader }
            | Action::StartRunProposed { leader }
            | Action::CleanedProposed { leader } => return self.lead(s, leader, action),
            Action::UnlinkSent { .. }
            | Action::CleanedTarget { .. }
            | Action::RestoreSent { .. }
            | Action::Executed { .. }
            | Action::ConnectionLost { .. }
            | Action::MoverDone { .. } => return self.work(s, action),
            _ => return self.connect(s, action),
        }
        Some(())
    }

    /// Clears every fact that can no longer have an effect, so that states which differ only in such facts become
    /// equal.
    fn forget(&self, s: &mut State) {
        let now = self.now(s);
        if self.without.is_empty() {
            for l in &mut s.leaders {
                if l.applied == s.log.len && !self.detail {
                    // No fence of an earlier run is needed any more, and no authorization based on an older log is
                    // pending.
                    let last = now.unfenced.map_or(0, |run| 1 << run);
                    (l.marked, l.killed) = (l.marked & last, l.killed & last);
                }
            }
            for (run, w) in s.movers[..now.count].iter_mut().enumerate() {
                if !now.is_current(run)
                    && w.lanes.iter().all(|l| matches!(l.request, Request::None | Request::Arrived(_)))
                {
                    // No connection of this run can be authorized any more.
                    *w = Mover { over: true, ..Mover::default() };
                }
            }
        }
        for w in &mut s.movers {
            for l in &mut w.lanes {
                if l.server == Server::Dead {
                    (l.request, l.sent) =
                        (if l.request == Request::None { Request::None } else { Request::Authorized }, None);
                }
            }
            let gone = |l: &Lane| l.server == Server::Dead || l.lost && l.sent.is_none();
            if w.lanes.iter().all(|l| gone(l) || l.request == Request::None) && w.lanes.iter().any(gone) && w.over {
                *w = Mover { over: true, done: w.done, ..Mover::default() };
            }
        }
    }
}

impl Model for Runs {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        State {
            log: Log::EMPTY,
            term: 0,
            leaders: [Leader { active: true, ..Leader::default() }, Leader::default()],
            movers: [Mover::default(); RUNS],
            content: [1, NIL],
            truth: 1,
            writes: 0,
        }
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        use Action::*;
        out.extend([Set, Deleted]);
        if self.election {
            out.extend([Elected, FirstEntryApplied]);
        }
        let runs = self.now(s).count;
        for leader in 0..if self.election { 2 } else { 1 } {
            if !s.leaders[leader].active {
                continue;
            }
            out.extend([LeaderApplies { leader }, MarkedClosed { leader }, Killed { leader }]);
            out.extend([StartProposed { leader }, HoldProposed { leader }, SwitchProposed { leader }]);
            out.extend([ReleaseProposed { leader }, RestartProposed { leader }, CancelProposed { leader }]);
            out.extend([StartRunProposed { leader }, CleanedProposed { leader }]);
            for run in 0..runs {
                for lane in 0..LANES {
                    out.push(if self.detail {
                        AuthorizationRequested { run, lane, leader }
                    } else {
                        Opened { run, lane, leader }
                    });
                }
            }
        }
        for run in 0..runs {
            for lane in 0..LANES {
                if self.detail {
                    out.extend([Named { run, lane }, QuorumRound { run, lane }, Authorized { run, lane }]);
                }
                out.extend([Executed { run, lane }, ConnectionLost { run, lane }]);
            }
            out.extend([UnlinkSent { run }, CleanedTarget { run }, RestoreSent { run }, MoverDone { run }]);
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut after = state.clone();
        self.apply(&mut after, action)?;
        self.forget(&mut after);
        Some(after)
    }

    fn violation(&self, s: &State) -> Option<String> {
        let now = self.now(s);
        let (owner, other) = (s.content[now.owner], s.content[1 - now.owner]);
        if owner != s.truth {
            return Some(format!("clients read {owner}, but they wrote {}", s.truth));
        }
        // Nothing is left for a sweep either: this model has no late writes.
        (now.phase == Phase::Idle && other != NIL).then(|| format!("value {other} is left at the other server"))
    }
}
