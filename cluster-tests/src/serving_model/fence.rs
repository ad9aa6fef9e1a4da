//! The connection fence of serving.md ("Acts on servers"): a copy worker has two connections over which it may send a late
//! RESTORE, two leaders authorize connections, close the run and switch; everybody may pause anywhere.
//! Knows nothing of leases: what a leader does here needs none.
//!
//! As in `lease`, a quorum round is a moment at which the leader's term was current, an entry is committed when it is
//! proposed, in the current term, and a pause is that a step does not come yet. Control connections of leaders are
//! fenced the same way (named, authorized, killed by name), so one kind of connection shows it.

use super::checker::Model;

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A connection asks for authorization only when the server knows its name.
    NamingBeforeAuthorization,
    /// A leader authorizes only after a quorum round that began after the request arrived.
    QuorumRound,
    /// The run is marked closed, so that nothing is authorized any more, before its connections are killed.
    MarkBeforeKill,
    /// Its connections are killed.
    Kill,
    /// The switch carries the term of the fence, and only an entry of that term is accepted.
    TermOnSwitch,
    /// A leader checks in its log whether the run is current before it authorizes.
    LookIntoLog,
}

/// The model, with at most one rule left out.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
}

const CONNECTIONS: usize = 2;

/// A connection of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    /// Not opened, or waiting in the kernel: the server does not know it, but will serve it.
    Waiting,
    /// The server has its name, and the worker has the answer.
    Named,
    Dead,
}

/// Its request for authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    None,
    Arrived {
        leader: usize,
    },
    /// A quorum round came after it.
    Confirmed {
        leader: usize,
    },
    Authorized,
    /// RESTORE is on its way.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    /// It has applied its first own entry.
    active: bool,
    /// It has applied the switch.
    knows_switch: bool,
    marked: bool,
    /// Connections that CLIENT LIST showed, while they are to be killed.
    listed: Option<[bool; CONNECTIONS]>,
    fenced: bool,
}

/// All that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    term: usize,
    switched: bool,
    leaders: [Leader; 2],
    connections: [Connection; CONNECTIONS],
    requests: [Request; CONNECTIONS],
    late: bool,
}

/// A step. Numbers are a connection's and a leader's.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Elected,
    FirstEntryApplied,
    LeaderAppliesSwitch { leader: usize },
    Named { connection: usize },
    AuthorizationRequested { connection: usize, leader: usize },
    QuorumRound { connection: usize },
    Authorized { connection: usize },
    RestoreSent { connection: usize },
    RestoreExecuted { connection: usize },
    MarkedClosed { leader: usize },
    Listed { leader: usize },
    Killed { leader: usize },
    SwitchProposed { leader: usize },
}

impl Fence {
    fn lacks(self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn apply(self, s: &mut State, action: Action) -> Option<()> {
        let possible = match action {
            Action::Elected => {
                let first = s.term == 0;
                s.term = 1;
                first
            }
            Action::FirstEntryApplied => {
                let due = s.term == 1 && !s.leaders[1].active;
                s.leaders[1].active = true;
                s.leaders[1].knows_switch = s.switched;
                due
            }
            Action::LeaderAppliesSwitch { leader } => {
                let l = &mut s.leaders[leader];
                let due = s.switched && l.active && !l.knows_switch;
                l.knows_switch = true;
                due
            }
            Action::Named { connection } => {
                let waiting = s.connections[connection] == Connection::Waiting;
                s.connections[connection] = Connection::Named;
                waiting
            }
            Action::AuthorizationRequested { connection, leader } => {
                let known = s.connections[connection] == Connection::Named
                    || self.lacks(Rule::NamingBeforeAuthorization) && s.connections[connection] == Connection::Waiting;
                // It may ask another leader, or again, as long as it is not authorized.
                let asking = !matches!(s.requests[connection], Request::Authorized | Request::Sent);
                s.requests[connection] = Request::Arrived { leader };
                known && asking && s.leaders[leader].active
            }
            Action::QuorumRound { connection } => {
                let Request::Arrived { leader } = s.requests[connection] else { return None };
                s.requests[connection] = Request::Confirmed { leader };
                if s.term == leader {
                    // The round waits until the leader has applied what was committed at its begin.
                    s.leaders[leader].knows_switch = s.switched;
                }
                s.term == leader || self.lacks(Rule::QuorumRound)
            }
            Action::Authorized { connection } => {
                let Request::Confirmed { leader } = s.requests[connection] else { return None };
                s.requests[connection] = Request::Authorized;
                let l = s.leaders[leader];
                !l.marked && (!l.knows_switch || self.lacks(Rule::LookIntoLog))
            }
            Action::RestoreSent { connection } => {
                let authorized = s.requests[connection] == Request::Authorized;
                s.requests[connection] = Request::Sent;
                authorized
            }
            Action::RestoreExecuted { connection } => {
                // The server gets to a waiting connection in time, names it and goes on with what else it sent.
                s.late |= s.switched;
                let sent = s.requests[connection] == Request::Sent;
                s.requests[connection] = Request::Authorized;
                sent && s.connections[connection] == Connection::Named
            }
            Action::MarkedClosed { leader } => {
                let l = &mut s.leaders[leader];
                let first = l.active && !l.marked && !self.lacks(Rule::MarkBeforeKill);
                l.marked = true;
                first
            }
            Action::Listed { leader } => {
                let named = s.connections.map(|c| c == Connection::Named);
                let l = &mut s.leaders[leader];
                let closing = l.active && (l.marked || self.lacks(Rule::MarkBeforeKill)) && !l.fenced;
                l.listed = Some(named);
                closing
            }
            Action::Killed { leader } => {
                let listed = s.leaders[leader].listed.take()?;
                for (connection, listed) in s.connections.iter_mut().zip(listed) {
                    if listed && !self.lacks(Rule::Kill) {
                        *connection = Connection::Dead;
                    }
                }
                s.leaders[leader].fenced = true;
                true
            }
            Action::SwitchProposed { leader } => {
                let its_term = s.term == leader || self.lacks(Rule::TermOnSwitch);
                let first = !s.switched;
                s.switched = true;
                s.leaders[leader].fenced && its_term && first
            }
        };
        possible.then_some(())
    }
}

impl Model for Fence {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        State {
            term: 0,
            switched: false,
            leaders: [Leader { active: true, ..Leader::default() }, Leader::default()],
            connections: [Connection::Waiting; CONNECTIONS],
            requests: [Request::None; CONNECTIONS],
            late: false,
        }
    }

    fn actions(&self, _: &State, out: &mut Vec<Action>) {
        use Action::*;
        out.extend([Elected, FirstEntryApplied]);
        for leader in 0..2 {
            out.extend([LeaderAppliesSwitch { leader }, MarkedClosed { leader }, Listed { leader }]);
            out.extend([Killed { leader }, SwitchProposed { leader }]);
        }
        for connection in 0..CONNECTIONS {
            out.extend([Named { connection }, QuorumRound { connection }, Authorized { connection }]);
            out.extend([RestoreSent { connection }, RestoreExecuted { connection }]);
            out.extend((0..2).map(|leader| AuthorizationRequested { connection, leader }));
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut after = state.clone();
        self.apply(&mut after, action)?;
        Some(after)
    }

    fn violation(&self, s: &State) -> Option<String> {
        s.late.then(|| "a RESTORE was executed after the switch".to_owned())
    }
}
