//! A model of the roles that the servers of a group have in memory and on disk (`docs/design/failover.md`, "Roles in
//! memory and on disk"): from every reachable state, with all servers started and no further fault, the group can
//! become healthy, and the acknowledged write is there.
//!
//! Three servers, one write, switchovers, a leader that can change, and servers that are killed and restart with their
//! data before they count as down. Every party may pause at any point. The abstractions:
//! - A hold and its barrier are one step. While slots are held, nobody writes.
//! - A replication id is a number, which is new after each promotion and each restart. An offset is whether a server has
//!   the write.
//! - A partial and a full synchronization have the same result: the data of the server that is followed.
//!
//! The model does not use the code of Pontoon. `tests/simulation/promotions/` runs that.

use std::collections::{HashMap, HashSet, VecDeque};

const SERVERS: usize = 3;

/// A rule that can be left out of the model, to show why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The candidate saves its role before the log names it.
    SaveBeforeFinish,
    /// A new leader takes a candidate for promoted only if its former replication id is the group's.
    FormerHistory,
    /// A primary that follows another server is restored although another server has data, if its own is no worse.
    RestoreBesideOthers,
}

/// The model: how many faults happen, and whether servers can save their configuration.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Servers that are killed.
    pub kills: u8,
    /// Changes of the leader.
    pub elections: u8,
    /// Switchovers.
    pub switchovers: u8,
    /// The servers can save their configuration.
    pub saves: bool,
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
}

/// The link of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    /// It was never up since the server was started or pointed at another one.
    Never,
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Server {
    up: bool,
    /// The server that it follows; `None`: it is a primary.
    memory: Option<usize>,
    disk: Option<usize>,
    link: Link,
    history: u8,
    /// It has the write.
    written: bool,
    /// A node has seen it in sync under `history`.
    seen: bool,
    /// According to the log.
    diverged: bool,
}

/// What the log says about a promotion, and what its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Promotion {
    to: usize,
    switchover: bool,
    held: bool,
    /// The leader knows that the candidate is a primary.
    promoted: bool,
    /// The leader has asked the candidate to save its configuration.
    saved: bool,
    /// The history that began when the candidate was promoted. A new leader recognizes it by the former replication id.
    history: Option<u8>,
}

/// The state of the whole system at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    servers: [Server; SERVERS],
    /// The primary that the log names, and its history if the log knows it.
    primary: usize,
    noted: Option<u8>,
    promotion: Option<Promotion>,
    acknowledged: bool,
    /// The next new history.
    next: u8,
    kills: u8,
    elections: u8,
    switchovers: u8,
}

/// A step of one party. The field is a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client writes, and the write is acknowledged.
    Write,
    /// A server is killed.
    Kill(usize),
    /// Another node leads.
    Elect,
    /// An operator wants another primary.
    SwitchOver(usize),
    /// A killed server starts.
    Start(usize),
    /// A replica connects and copies.
    Connect(usize),
    /// A replica receives.
    Receive(usize),
    /// A node sees a replica in sync.
    See(usize),
    /// The leader notes the primary's history.
    Note,
    /// The slots are held.
    Hold,
    /// REPLICAOF NO ONE at the candidate.
    Promote,
    /// A new leader finds that the candidate is a primary.
    FindPromoted,
    /// CONFIG REWRITE at the candidate.
    SaveCandidate,
    /// FinishPromotion.
    Finish,
    /// GiveUpPromotion.
    GiveUp,
    /// A candidate replaces a primary that follows another server.
    FailOver(usize),
    /// A primary that follows another server is made a primary again.
    Restore,
    /// REPLICAOF at a server that does not follow the primary.
    Repoint(usize),
    /// CONFIG REWRITE at a server that has the role that the log gives it.
    Save(usize),
    /// MarkResynced.
    Resync(usize),
}

/// What an exploration found.
#[derive(Debug)]
pub struct Explored {
    /// The number of reachable states.
    pub states: usize,
    /// The steps to a state that must not be reached, and why.
    pub violation: Option<(String, Vec<Action>)>,
    /// The steps to a state from which the group cannot become healthy, whatever happens except further faults.
    pub stuck: Option<Vec<Action>>,
}

impl Roles {
    fn initial(self) -> State {
        let server = |index: usize| Server {
            up: true,
            memory: (index > 0).then_some(0),
            disk: (index > 0).then_some(0),
            link: if index > 0 { Link::Up } else { Link::Never },
            history: 0,
            written: false,
            seen: index > 0,
            diverged: false,
        };
        let (kills, elections, switchovers) = (self.kills, self.elections, self.switchovers);
        State {
            servers: [0, 1, 2].map(server),
            primary: 0,
            noted: Some(0),
            promotion: None,
            acknowledged: false,
            next: 1,
            kills,
            elections,
            switchovers,
        }
    }

    fn actions() -> Vec<Action> {
        let mut all = vec![Action::Write, Action::Elect, Action::Note, Action::Hold, Action::Promote];
        all.extend([Action::FindPromoted, Action::SaveCandidate, Action::Finish, Action::GiveUp, Action::Restore]);
        for server in 0..SERVERS {
            all.extend([Action::Kill(server), Action::SwitchOver(server), Action::Start(server)]);
            all.extend([Action::Connect(server), Action::Receive(server), Action::See(server)]);
            all.extend([Action::FailOver(server), Action::Repoint(server), Action::Save(server)]);
            all.push(Action::Resync(server));
        }
        all
    }

    /// The state after an action; `None`: it is impossible.
    fn step(self, before: &State, action: Action) -> Option<State> {
        let mut s = *before;
        let primary = s.servers[s.primary];
        let leads = primary.up && primary.memory.is_none();
        match action {
            Action::Write => {
                if s.acknowledged || !leads || s.promotion.is_some_and(|p| p.held) {
                    return None;
                }
                s.servers[s.primary].written = true;
                s.acknowledged = true;
            }
            Action::Kill(server) => {
                s.kills = s.kills.checked_sub(1)?;
                if !std::mem::take(&mut s.servers[server].up) {
                    return None;
                }
                s.cut_links();
            }
            Action::Elect => {
                s.elections = s.elections.checked_sub(1)?;
                let promotion = s.promotion.as_mut()?;
                (promotion.promoted, promotion.saved) = (false, false);
            }
            Action::Start(server) => {
                let history = s.new_history();
                let server = &mut s.servers[server];
                if std::mem::replace(&mut server.up, true) {
                    return None;
                }
                (server.memory, server.link, server.history, server.seen) = (server.disk, Link::Never, history, false);
            }
            Action::Connect(server) | Action::Receive(server) => {
                let Server { up, memory, link, .. } = s.servers[server];
                let of = memory.filter(|of| up && s.can_be_followed(*of))?;
                if (link == Link::Up) != matches!(action, Action::Receive(_)) {
                    return None;
                }
                let (history, written) = (s.servers[of].history, s.servers[of].written);
                let server = &mut s.servers[server];
                server.seen &= server.history == history;
                (server.link, server.history, server.written) = (Link::Up, history, written);
            }
            Action::See(server) => {
                let server = &mut s.servers[server];
                if !server.up || server.link != Link::Up || server.memory.is_none() {
                    return None;
                }
                server.seen = true;
            }
            Action::Note => s.noted = Some(leads.then_some(primary.history)?),
            Action::SwitchOver(_) | Action::FailOver(_) | Action::Hold | Action::Promote | Action::FindPromoted => {
                s.promote(action, self.without == Some(Rule::FormerHistory))?;
            }
            Action::SaveCandidate | Action::Finish | Action::GiveUp => self.end_promotion(&mut s, action)?,
            Action::Restore => {
                if s.promotion.is_some() || !primary.up || !self.may_restore(&s) {
                    return None;
                }
                s.make_primary(s.primary);
            }
            Action::Repoint(server) => {
                let wrong = s.servers[server].up && s.servers[server].memory != Some(s.primary);
                if s.promotion.is_some() || !leads || server == s.primary || !wrong {
                    return None;
                }
                (s.servers[server].memory, s.servers[server].link) = (Some(s.primary), Link::Never);
                s.cut_links();
            }
            Action::Save(server) => {
                let role = (server != s.primary).then_some(s.primary);
                let at = &mut s.servers[server];
                if !self.saves || s.promotion.is_some() || !at.up || at.memory != role {
                    return None;
                }
                at.disk = at.memory;
            }
            Action::Resync(server) => {
                let at = s.servers[server];
                let in_sync = at.up && at.memory == Some(s.primary) && at.link == Link::Up;
                if s.promotion.is_some() || !at.diverged || !in_sync || at.history != primary.history {
                    return None;
                }
                s.servers[server].diverged = false;
            }
        }
        (s != *before).then_some(s)
    }

    fn end_promotion(self, s: &mut State, action: Action) -> Option<()> {
        let promotion = s.promotion?;
        let candidate = &mut s.servers[promotion.to];
        match action {
            Action::SaveCandidate => {
                let promotion = s.promotion.as_mut().filter(|promotion| promotion.promoted)?;
                // If it has died, it is asked for its role again, and the promotion is given up.
                if !candidate.up || candidate.memory.is_some() {
                    return None;
                }
                promotion.saved = true;
                candidate.disk = if self.saves { None } else { candidate.disk };
            }
            Action::Finish => {
                if !promotion.promoted || !(promotion.saved || self.without == Some(Rule::SaveBeforeFinish)) {
                    return None;
                }
                s.servers[s.primary].diverged = true;
                s.servers[promotion.to].diverged = false;
                (s.primary, s.noted, s.promotion) = (promotion.to, None, None);
            }
            _ => {
                // The candidate is not the primary that was promoted, or does not answer.
                let promoted =
                    candidate.up && candidate.memory.is_none() && promotion.history == Some(candidate.history);
                if promotion.held && promoted {
                    return None;
                }
                candidate.diverged |= promotion.held;
                s.promotion = None;
            }
        }
        Some(())
    }

    /// `restored_data`, `src/plan/replication.rs`: no candidate, and no server that has more. Every server keeps an
    /// append-only file.
    fn may_restore(self, s: &State) -> bool {
        let primary = s.servers[s.primary];
        let Some(of) = primary.memory else { return false };
        if (0..SERVERS).any(|server| s.is_candidate(server)) {
            return false;
        }
        let loaded = primary.link == Link::Never;
        let copied = primary.history == s.servers[of].history || primary.seen;
        let others = || (0..SERVERS).filter(|server| *server != s.primary).map(|server| s.servers[server]);
        let no_worse = |other: &Server| {
            let same = other.history == primary.history;
            other.diverged || (same && other.written <= primary.written) || (!same && loaded)
        };
        if self.without == Some(Rule::RestoreBesideOthers) {
            return loaded && others().all(|other| other.diverged || !other.up);
        }
        (loaded || (copied && others().all(|other| other.up || other.diverged)))
            && others().filter(|other| other.up).all(|other| no_worse(&other))
    }

    /// Visits every reachable state, and finds those from which the group cannot become healthy.
    ///
    /// # Panics
    /// When there are more than `states_max` states.
    #[must_use]
    pub fn explore(self, states_max: usize) -> Explored {
        let actions = Self::actions();
        let initial = self.initial();
        // Each state, and how it was reached first.
        let mut reached: HashMap<State, (State, Action)> = HashMap::from([(initial, (initial, Action::Write))]);
        let mut repaired_from: HashMap<State, Vec<State>> = HashMap::new();
        let mut open = VecDeque::from([initial]);
        let mut explored = Explored { states: 0, violation: None, stuck: None };
        let mut order = Vec::new();
        while let Some(state) = open.pop_front() {
            order.push(state);
            if self.saves && state.is_healthy() && state.acknowledged && !state.servers[state.primary].written {
                let why = "the acknowledged write is lost".to_owned();
                explored.violation.get_or_insert_with(|| (why, trace(&reached, initial, state)));
            }
            for action in &actions {
                let Some(after) = self.step(&state, *action) else { continue };
                let fault = matches!(action, Action::Kill(_) | Action::Elect | Action::SwitchOver(_));
                if !fault {
                    repaired_from.entry(after).or_default().push(state);
                }
                if let std::collections::hash_map::Entry::Vacant(new) = reached.entry(after) {
                    new.insert((state, *action));
                    open.push_back(after);
                }
            }
            assert!(reached.len() <= states_max, "more than {states_max} states");
        }
        explored.states = reached.len();
        let mut live: HashSet<State> = order.iter().copied().filter(State::is_healthy).collect();
        let mut open: Vec<State> = live.iter().copied().collect();
        while let Some(state) = open.pop() {
            for before in repaired_from.get(&state).into_iter().flatten() {
                if live.insert(*before) {
                    open.push(*before);
                }
            }
        }
        let stuck = order.iter().find(|state| !live.contains(state));
        explored.stuck = stuck.map(|state| trace(&reached, initial, *state));
        explored
    }
}

impl State {
    fn new_history(&mut self) -> u8 {
        self.next += 1;
        self.next - 1
    }

    fn make_primary(&mut self, server: usize) {
        let history = self.new_history();
        let server = &mut self.servers[server];
        (server.memory, server.link, server.history, server.seen) = (None, Link::Never, history, false);
    }

    fn can_be_followed(&self, server: usize) -> bool {
        let server = self.servers[server];
        server.up && (server.memory.is_none() || server.link == Link::Up)
    }

    /// Links to servers that cannot be followed any more go down.
    fn cut_links(&mut self) {
        for _ in 0..SERVERS {
            for server in 0..SERVERS {
                let cut = self.servers[server].memory.is_some_and(|of| !self.can_be_followed(of));
                if self.servers[server].link == Link::Up && (cut || !self.servers[server].up) {
                    self.servers[server].link = Link::Down;
                }
            }
        }
    }

    /// Whether a server can replace a primary that follows another one.
    fn is_candidate(&self, server: usize) -> bool {
        let at = self.servers[server];
        server != self.primary
            && at.up
            && !at.diverged
            && at.seen
            && at.memory == Some(self.primary)
            && self.noted == Some(at.history)
    }

    /// The steps of a promotion up to REPLICAOF NO ONE. `any`: a new leader takes any primary for the promoted one.
    fn promote(&mut self, action: Action, any: bool) -> Option<()> {
        let primary = self.servers[self.primary];
        if let Action::SwitchOver(to) | Action::FailOver(to) = action {
            let switchover = matches!(action, Action::SwitchOver(_));
            let at = self.servers[to];
            let fits = match switchover {
                true => primary.memory.is_none() && at.link == Link::Up && at.memory == Some(self.primary),
                false => primary.up && primary.memory.is_some() && self.is_candidate(to),
            };
            if self.promotion.is_some() || !fits || at.diverged || to == self.primary {
                return None;
            }
            self.switchovers = self.switchovers.checked_sub(u8::from(switchover))?;
            self.promotion =
                Some(Promotion { to, switchover, held: false, promoted: false, saved: false, history: None });
            return Some(());
        }
        let promotion = self.promotion?;
        let at = self.servers[promotion.to];
        match action {
            Action::Hold if !promotion.held => self.promotion = Some(Promotion { held: true, ..promotion }),
            Action::Promote if promotion.held && at.up && at.memory.is_some() => {
                // In a switchover, the candidate has everything that the primary has, which is up.
                let all =
                    primary.up && primary.memory.is_none() && at.link == Link::Up && at.memory == Some(self.primary);
                let all = all && at.history == primary.history && at.written == primary.written;
                if !(all || (!promotion.switchover && self.is_candidate(promotion.to))) {
                    return None;
                }
                self.make_primary(promotion.to);
                self.cut_links();
                let history = Some(self.servers[promotion.to].history);
                self.promotion = Some(Promotion { promoted: true, history, ..promotion });
            }
            // It is the process that was promoted. One that was restarted as a primary is none: its data may be older.
            Action::FindPromoted if promotion.held && !promotion.promoted && at.up && at.memory.is_none() => {
                if any || promotion.history == Some(at.history) {
                    self.promotion = Some(Promotion { promoted: true, ..promotion });
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// All servers are up, and follow the primary of the log.
    fn is_healthy(&self) -> bool {
        let fits = |server: usize| {
            let at = self.servers[server];
            let role = if server == self.primary { at.memory.is_none() } else { at.memory == Some(self.primary) };
            at.up && role && !at.diverged && (server == self.primary || at.link == Link::Up)
        };
        self.promotion.is_none() && (0..SERVERS).all(fits)
    }
}

/// The actions that lead to a state.
fn trace(reached: &HashMap<State, (State, Action)>, initial: State, end: State) -> Vec<Action> {
    let (mut at, mut steps) = (end, Vec::new());
    while at != initial {
        let (before, action) = reached[&at];
        steps.push(action);
        at = before;
    }
    steps.reverse();
    steps
}
