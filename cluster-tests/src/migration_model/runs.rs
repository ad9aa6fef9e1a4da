//! Who may change a server: attempts, cleanings, wipes and sweeps, their workers and connections, two leaders, and the log
//! that orders them; a slot moves from server A to server B and back.
//! Knows nothing of how a copy gets complete (`copy`) nor of failovers (`failover`).
//!
//! What is abstracted, and why nothing is lost by it:
//! - One key: a late RESTORE or UNLINK hurts the key that it names. Dirty tracking is proven in `copy`; here a worker says
//!   done when the last value it got an answer for is the source's and nothing of it is on its way.
//! - Hold and its barrier are one step (serving_model::lease): clients write while no hold is open, and not after it.
//! - As in serving_model::fence a quorum round is a moment at which the leader's term was current, an entry is committed
//!   when it is proposed, in the current term, and a deposed leader goes on acting. A refused entry is no step.
//! - A leader's loops are not one after the other: it may propose whatever the entries it had applied some time ago allow,
//!   as often as they do. Moving on in the log is a step of its own; only an authorization goes by what its quorum round showed.
//! - Listing and killing a run's connections is one step; that something is named between the two is in
//!   serving_model::fence. Naming and authorization are one step too, unless `detail` is set.
//! - A worker that pauses or dies is one that takes no step; what it sent before is on its way.

mod leader;
mod log;

use crate::serving_model::checker::Model;
use log::{Kind, Log, Phase, RUNS, Reading, View};

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An attempt begins by cleaning the target.
    CleanTarget,
    /// Every UNLINK of it is answered before the first RESTORE is sent.
    UnlinksAnswered,
    /// A lost connection ends the run.
    NoReopening,
    /// A connection asks for authorization only when the server knows its name.
    NamingBeforeAuthorization,
    /// A leader authorizes only after a quorum round that began after the request arrived.
    QuorumRound,
    /// The leader checks in its log whether the run is current.
    LookIntoLog,
    /// A run is marked closed before its connections are killed.
    MarkBeforeKill,
    /// They are killed.
    Kill,
    /// Start is proposed behind the fence of the attempt before.
    CloseBeforeStart,
    /// Start is proposed behind the fence of a sweep.
    CloseSweepBeforeStart,
    /// Start ends a sweep's run also in the log, so that no later leader authorizes for it.
    StartEndsSweep,
    /// StartRun of a sweep demands that no attempt writes to the group.
    NoSweepBesideAttempt,
    /// A migration that was ever started goes by Cancelling, also when it is cancelled between two attempts.
    CancelWipes,
    /// Switch is proposed behind the fence of the attempt.
    CloseBeforeSwitch,
    /// StartRun is proposed behind the fence of the run before.
    CloseBeforeStartRun,
    /// Cleaned is proposed behind the fence of its run.
    CloseBeforeCleaned,
    /// Start carries the term of its fence.
    TermOnStart,
    /// Switch does.
    TermOnSwitch,
    /// StartRun does.
    TermOnStartRun,
    /// Cleaned does.
    TermOnCleaned,
    /// Start and StartRun carry the number of the run they begin, which must be the next.
    NextRun,
    /// Hold carries its attempt.
    AttemptOnHold,
    /// Switch carries its attempt.
    AttemptOnSwitch,
    /// Switch carries its hold's id.
    HoldIdOnSwitch,
    /// Cleaned carries its run.
    RunOnCleaned,
    /// A hold whose run is closed ends by Restart; without: by Release, and the worker goes on.
    RestartBehindFence,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    /// The rules that are left out.
    pub without: &'static [Rule],
    /// Whether a second leader may be elected.
    pub election: bool,
    /// Opening, naming, request, quorum round and authorization of a connection are steps of their own.
    pub detail: bool,
    /// An attempt sends UNLINKs and RESTOREs over different connections.
    pub two_lanes: bool,
    /// Changes by clients at most.
    pub writes: u8,
    /// Runs at most.
    pub runs: usize,
    /// Switches at most: with two the slot comes back.
    pub switches: u8,
    /// Holds at most.
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
/// Of a key whose RESTORE was not answered.
const UNKNOWN: u8 = 0xff;
/// A cleaning run says with it that nothing is left.
const CLEAN: u8 = 0xfe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Server {
    /// Not opened, or waiting in the kernel: the server does not know it, but will serve it.
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
    /// A quorum round followed. The value is the number of entries that the leader had applied then.
    Confirmed(usize, u8),
    Authorized,
}

/// A connection of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Lane {
    server: Server,
    request: Request,
    /// What the key becomes when the command on its way is executed: RESTORE, or UNLINK.
    sent: Option<u8>,
    /// The worker takes it for lost; the server may not.
    lost: bool,
}

/// A run's worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Worker {
    /// The target is clean, the copy began.
    copying: bool,
    /// What it knows the target to hold.
    known: u8,
    /// What it reported last: done for this hold id, or `CLEAN`.
    done: u8,
    over: bool,
    lanes: [Lane; LANES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    active: bool,
    applied: u8,
    /// Runs that it has marked closed, a bit each.
    marked: u8,
    /// Runs whose connections it has killed.
    killed: u8,
}

/// All that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: Log,
    term: usize,
    leaders: [Leader; 2],
    workers: [Worker; RUNS],
    /// What A and B hold.
    content: [u8; 2],
    /// What clients wrote last.
    truth: u8,
    writes: u8,
}

/// A step. Numbers are a run's, a connection's (lane) and a leader's.
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
    WorkerDone { run: usize },
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

    /// What a leader goes by.
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

    /// The lane that a worker sends over; `None` if there is none, or it waits for an answer there.
    fn lane(&self, w: &Worker, unlink: bool) -> Option<usize> {
        let lane = usize::from(w.lanes[0].lost || unlink && self.two_lanes && !w.copying);
        let l = &w.lanes[lane];
        (!w.over && l.request == Request::Authorized && !l.lost && l.sent.is_none()).then_some(lane)
    }

    fn may_open(&self, s: &State, run: usize, lane: usize) -> bool {
        let w = &s.workers[run];
        let kind = self.now(s).runs[run].map(|(kind, _)| kind);
        let wanted = lane == 0 || w.lanes[0].lost || self.two_lanes && kind == Some(Kind::Attempt);
        kind.is_some() && wanted && !w.over && w.lanes[lane].request == Request::None && !w.lanes[lane].lost
    }

    /// Whether `leader` may authorize a connection of `run`, going by the first `applied` entries.
    fn authorizes(&self, s: &State, leader: usize, run: usize, applied: u8) -> bool {
        let marked = s.leaders[leader].marked >> run & 1 == 1;
        !marked && (self.view(s, applied).is_current(run) || self.lacks(Rule::LookIntoLog))
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
                let l = &mut s.workers[run].lanes[lane];
                (l.server, l.request) = (Server::Named, Request::Authorized);
            }
            Action::Named { run, lane } => {
                // The server gets to a waiting connection in time, names it and goes on with what else it sent.
                let waiting = s.workers[run].lanes[lane].server == Server::Waiting;
                if !waiting || !self.may_open(s, run, lane) && s.workers[run].lanes[lane].request == Request::None {
                    return None;
                }
                s.workers[run].lanes[lane].server = Server::Named;
            }
            Action::AuthorizationRequested { run, lane, leader } => {
                let named = s.workers[run].lanes[lane].server == Server::Named;
                let may = self.may_open(s, run, lane) && s.leaders[leader].active;
                if !may || !(named || self.lacks(Rule::NamingBeforeAuthorization)) {
                    return None;
                }
                s.workers[run].lanes[lane].request = Request::Arrived(leader);
            }
            Action::QuorumRound { run, lane } => {
                let Request::Arrived(leader) = s.workers[run].lanes[lane].request else { return None };
                let round = s.term == leader;
                let applied = if round { s.log.len } else { s.leaders[leader].applied };
                if !round && !self.lacks(Rule::QuorumRound) {
                    return None;
                }
                s.workers[run].lanes[lane].request = Request::Confirmed(leader, applied);
            }
            Action::Authorized { run, lane } => {
                let Request::Confirmed(leader, applied) = s.workers[run].lanes[lane].request else { return None };
                if !self.authorizes(s, leader, run, applied) {
                    return None;
                }
                s.workers[run].lanes[lane].request = Request::Authorized;
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
                let cleaning = kind == Kind::Cleaning || !s.workers[run].copying;
                let lane = self.lane(&s.workers[run], true)?;
                s.workers[run].lanes[lane].sent = Some(NIL).filter(|_| cleaning && s.content[server] != NIL);
                s.workers[run].lanes[lane].sent?;
            }
            Action::CleanedTarget { run } => {
                let (kind, server) = now.runs[run]?;
                let lacks = self.lacks(Rule::CleanTarget);
                let w = &mut s.workers[run];
                let asked = w.lanes.iter().any(|l| l.sent.is_some());
                let clean = s.content[server] == NIL && !asked || asked && self.lacks(Rule::UnlinksAnswered) || lacks;
                let due = kind == Kind::Attempt && !w.copying && !w.over && clean;
                w.copying = true;
                return due.then_some(());
            }
            Action::RestoreSent { run } => {
                let (_, server) = now.runs[run]?;
                let w = &mut s.workers[run];
                let lane = self.lane(w, false)?;
                let value = s.content[1 - server];
                w.lanes[lane].sent = Some(value);
                return (w.copying && w.known != value).then_some(());
            }
            Action::Executed { run, lane } => {
                let (_, server) = now.runs[run]?;
                let w = &mut s.workers[run];
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
                let w = &mut s.workers[run];
                let l = &mut w.lanes[lane];
                // With nothing on its way this is a death of the worker, which is a pause; unless it goes on.
                let matters =
                    l.sent.is_some() && l.server == Server::Named || reopens && l.request == Request::Authorized;
                let dead = l.server == Server::Dead;
                if w.over || l.lost || !matters || !self.lacks(Rule::NoReopening) && reopens && !dead {
                    return None;
                }
                l.lost = true;
                (w.over, w.known) = (!reopens || lane == 1, UNKNOWN);
            }
            Action::WorkerDone { run } => {
                let (kind, server) = now.runs[run]?;
                let w = &mut s.workers[run];
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
            | Action::WorkerDone { .. } => return self.work(s, action),
            _ => return self.connect(s, action),
        }
        Some(())
    }

    /// Makes states equal that differ only in what can have no effect any more.
    fn forget(&self, s: &mut State) {
        let now = self.now(s);
        if self.without.is_empty() {
            for l in &mut s.leaders {
                if l.applied == s.log.len && !self.detail {
                    // No fence of another run is asked for any more, and no authorization by an older view waits.
                    let last = now.unfenced.map_or(0, |run| 1 << run);
                    (l.marked, l.killed) = (l.marked & last, l.killed & last);
                }
            }
            for (run, w) in s.workers[..now.count].iter_mut().enumerate() {
                if !now.is_current(run)
                    && w.lanes.iter().all(|l| matches!(l.request, Request::None | Request::Arrived(_)))
                {
                    // Nothing of it will be authorized.
                    *w = Worker { over: true, ..Worker::default() };
                }
            }
        }
        for w in &mut s.workers {
            for l in &mut w.lanes {
                if l.server == Server::Dead {
                    (l.request, l.sent) =
                        (if l.request == Request::None { Request::None } else { Request::Authorized }, None);
                }
            }
            let gone = |l: &Lane| l.server == Server::Dead || l.lost && l.sent.is_none();
            if w.lanes.iter().all(|l| gone(l) || l.request == Request::None) && w.lanes.iter().any(gone) && w.over {
                *w = Worker { over: true, done: w.done, ..Worker::default() };
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
            workers: [Worker::default(); RUNS],
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
            out.extend([UnlinkSent { run }, CleanedTarget { run }, RestoreSent { run }, WorkerDone { run }]);
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
            return Some(format!("clients read {owner} where they wrote {}", s.truth));
        }
        // A sweep finds nothing then either: there are no late writes in this model.
        (now.phase == Phase::Idle && other != NIL).then(|| format!("{other} is left at the other server"))
    }
}
