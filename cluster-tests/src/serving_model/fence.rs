//! A model of the connection fence: after a switch, no connection of the mover's run can change a server any more.
//! Knows nothing of leases: the actions of a leader in this model need none.
//!
//! A mover has two connections over which it may send a late RESTORE. Two leaders, one of which may be deposed,
//! authorize connections, close the run (mark it closed, then list and kill its connections) and propose the switch.
//! Every party may pause at any point. The violation is a RESTORE that is executed after the switch.
//!
//! The abstractions are those of [`lease`](super::lease):
//! - A quorum round is a moment at which the leader's term was current.
//! - An entry is committed when it is proposed, in the current term.
//! - A pause of a party means that its next step has not happened yet.
//!
//! The control connections of leaders are fenced in the same way (named, authorized, killed by name). One kind of
//! connection is therefore enough for this model.

use super::checker::Model;

/// A rule that can be left out of the model, to show why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A mover requests authorization for a connection only after the server has confirmed the connection's name.
    NamingBeforeAuthorization,
    /// A leader authorizes only after a quorum round that began after the request arrived.
    QuorumRound,
    /// A leader marks the run closed, so that it authorizes no further connection, before it kills the run's
    /// connections.
    MarkBeforeKill,
    /// The leader kills the run's connections.
    Kill,
    /// The switch carries the term in which the leader fenced the run, and is accepted only in that term.
    TermOnSwitch,
    /// Before a leader authorizes a connection, it checks in its log that the run is current.
    CheckLog,
}

/// The model, with at most one rule left out.
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
}

const CONNECTIONS: usize = 2;

/// A connection of the mover, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    /// Not opened yet, or waiting in the kernel: the server does not know the connection yet, but will serve it.
    Waiting,
    /// The server knows the name of the connection, and the mover has received the confirmation.
    Named,
    Dead,
}

/// The authorization request of a connection, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    None,
    Arrived {
        leader: usize,
    },
    /// A quorum round followed the arrival of the request.
    Confirmed {
        leader: usize,
    },
    Authorized,
    /// The connection was authorized, and a RESTORE is on its way.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Leader {
    /// The leader has applied the first entry of its own term.
    active: bool,
    /// The leader has applied the switch.
    knows_switch: bool,
    /// The leader has marked the run closed.
    marked: bool,
    /// Connections that CLIENT LIST returned and that are not killed yet.
    listed: Option<[bool; CONNECTIONS]>,
    /// The leader has killed the listed connections.
    fenced: bool,
}

/// The state of the whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    term: usize,
    switched: bool,
    leaders: [Leader; 2],
    connections: [Connection; CONNECTIONS],
    requests: [Request; CONNECTIONS],
    /// A RESTORE was executed after the switch: the violation.
    late: bool,
}

/// A step of one party. The fields are the number of a connection and of a leader.
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
                // Until it is authorized, a connection may repeat its request or send it to the other leader.
                let asking = !matches!(s.requests[connection], Request::Authorized | Request::Sent);
                s.requests[connection] = Request::Arrived { leader };
                known && asking && s.leaders[leader].active
            }
            Action::QuorumRound { connection } => {
                let Request::Arrived { leader } = s.requests[connection] else { return None };
                s.requests[connection] = Request::Confirmed { leader };
                if s.term == leader {
                    // The round waits until the leader has applied all entries that were committed when it began.
                    s.leaders[leader].knows_switch = s.switched;
                }
                s.term == leader || self.lacks(Rule::QuorumRound)
            }
            Action::Authorized { connection } => {
                let Request::Confirmed { leader } = s.requests[connection] else { return None };
                s.requests[connection] = Request::Authorized;
                let l = s.leaders[leader];
                !l.marked && (!l.knows_switch || self.lacks(Rule::CheckLog))
            }
            Action::RestoreSent { connection } => {
                let authorized = s.requests[connection] == Request::Authorized;
                s.requests[connection] = Request::Sent;
                authorized
            }
            Action::RestoreExecuted { connection } => {
                // The server serves a waiting connection eventually: first it executes the naming, then the RESTORE.
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
