//! What becomes of a blocked call: whether its wait at the server must end, and what its client gets. Pure.
//! Knows nothing of how a call is sent.

use std::time::Duration;

use crate::model::route::Isolated;

/// How CLIENT UNBLOCK ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblock {
    /// As if its time were over.
    Timeout,
    /// With an error.
    Error,
}

/// Whether the node may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum LeaseState {
    Valid,
    /// It will soon have ended, if it is not renewed.
    EndsSoon,
    Over,
}

impl LeaseState {
    /// The state of a lease that ends at `until_ns`, as `serve_check` sees it. `soon`: how long before its end it ends soon.
    pub(in crate::proxy) fn of(until_ns: u64, isolated: Isolated, soon: Duration, clock: impl FnOnce() -> u64) -> Self {
        match until_ns {
            0 => return Self::Over,
            u64::MAX => return Self::Valid,
            _ if isolated == Isolated::Serve => return Self::Valid,
            _ => {}
        }
        let left_ns = until_ns.saturating_sub(clock());
        if left_ns == 0 {
            Self::Over
        } else if u128::from(left_ns) <= soon.as_nanos() {
            Self::EndsSoon
        } else {
            Self::Valid
        }
    }
}

/// The slot of a call, compared with its state when the call was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteState {
    Same,
    Held,
    /// It has another owner or another primary.
    Changed,
}

/// What concerns a call while it waits at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The session is closed.
    pub(super) closed: bool,
    /// The client sends nothing more, or the session is to be closed when its requests are answered.
    pub(super) ending: bool,
    /// Another client has asked for its end.
    pub(super) unblock: Option<Unblock>,
    pub(super) lease: LeaseState,
    pub(super) route: RouteState,
}

/// How the wait at the server ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// The connection is closed at once.
    Close,
    /// The server is asked to unblock the call, and its reply is awaited.
    Unblock(Unblock),
}

/// Whether the wait must end.
pub(super) fn interruption(facts: Facts) -> Option<Interruption> {
    // Without a lease an element that the server gives out would be withheld, and lost.
    if facts.closed || facts.lease == LeaseState::Over {
        return Some(Interruption::Close);
    }
    if let Some(how) = facts.unblock {
        return Some(Interruption::Unblock(how));
    }
    // The reply says whether an element was given out before. If it was, the client gets it.
    let ends = facts.ending || facts.lease == LeaseState::EndsSoon || facts.route != RouteState::Same;
    ends.then_some(Interruption::Unblock(Unblock::Timeout))
}

/// What a command does to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It takes elements, or gives entries to a consumer: executed twice, it takes more.
    Pop,
    /// It only reads.
    Read,
}

/// How a call ended at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has answered that nothing came.
    Nil,
    /// Another reply.
    Reply,
    /// The server has ended it because it is no primary any more. It was not executed.
    Demoted,
    /// It was not executed.
    NotExecuted,
    /// It was executed, and the client must get an error.
    Unconfirmed,
    /// It may have been executed.
    Unknown,
}

/// What happens with a call that has ended at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client gets the reply, or the error of the outcome.
    Deliver,
    /// It is sent again, to the owner of the slot then, with the time that is left.
    Again,
    /// The client gets what is said of a call of unknown outcome.
    Lost,
    /// There is no client any more.
    Drop,
}

/// Decides about a call that has ended at a server. `unblocked`: the node has asked the server to end it; `time_left`: its
/// own time is not over.
pub(super) fn verdict(effect: Effect, outcome: Outcome, facts: Facts, unblocked: bool, time_left: bool) -> Verdict {
    if facts.closed {
        return Verdict::Drop;
    }
    let leased = facts.lease == LeaseState::Valid;
    match outcome {
        Outcome::Reply | Outcome::Unconfirmed => Verdict::Deliver,
        Outcome::Nil if facts.ending => Verdict::Drop,
        Outcome::Nil if facts.unblock.is_some() || !unblocked || !time_left => Verdict::Deliver,
        // It was not executed. Where the lease is over, a lost connection is what its client copes with best.
        Outcome::Nil | Outcome::NotExecuted | Outcome::Demoted if !leased => Verdict::Lost,
        Outcome::NotExecuted | Outcome::Demoted if facts.ending => Verdict::Drop,
        Outcome::Nil | Outcome::NotExecuted | Outcome::Demoted => Verdict::Again,
        Outcome::Unknown if effect == Effect::Read && leased && !facts.ending => Verdict::Again,
        Outcome::Unknown => Verdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Facts =
        Facts { closed: false, ending: false, unblock: None, lease: LeaseState::Valid, route: RouteState::Same };

    #[test]
    fn a_lease_ends_soon_before_it_is_over() {
        let state =
            |until_ns, isolated, now_ns| LeaseState::of(until_ns, isolated, Duration::from_nanos(10), || now_ns);
        for (until_ns, isolated, now_ns, want) in [
            (100, Isolated::Refuse, 89, LeaseState::Valid),
            (100, Isolated::Refuse, 90, LeaseState::EndsSoon),
            (100, Isolated::Refuse, 99, LeaseState::EndsSoon),
            (100, Isolated::Refuse, 100, LeaseState::Over),
            (100, Isolated::Serve, 1000, LeaseState::Valid),
            (0, Isolated::Serve, 0, LeaseState::Over),
            (u64::MAX, Isolated::Refuse, u64::MAX, LeaseState::Valid),
        ] {
            assert_eq!(state(until_ns, isolated, now_ns), want, "{until_ns} {isolated:?} {now_ns}");
        }
    }

    #[test]
    fn a_wait_ends_for_a_reason_and_the_element_that_came_before_is_not_lost() {
        let timeout = Some(Interruption::Unblock(Unblock::Timeout));
        for (what, facts, want) in [
            ("nothing happens", CALM, None),
            ("a hold begins", Facts { route: RouteState::Held, ..CALM }, timeout),
            ("its slot moved without a hold", Facts { route: RouteState::Changed, ..CALM }, timeout),
            ("the client closes its side", Facts { ending: true, ..CALM }, timeout),
            ("the lease ends soon", Facts { lease: LeaseState::EndsSoon, ..CALM }, timeout),
            ("CLIENT UNBLOCK", Facts { unblock: Some(Unblock::Timeout), ..CALM }, timeout),
            (
                "CLIENT UNBLOCK with an error, under a hold",
                Facts { unblock: Some(Unblock::Error), route: RouteState::Held, ..CALM },
                Some(Interruption::Unblock(Unblock::Error)),
            ),
            ("the lease is over", Facts { lease: LeaseState::Over, ..CALM }, Some(Interruption::Close)),
            (
                "the client is gone, under a hold",
                Facts { closed: true, route: RouteState::Held, ..CALM },
                Some(Interruption::Close),
            ),
        ] {
            assert_eq!(interruption(facts), want, "{what}");
        }
    }

    #[test]
    fn a_pop_is_sent_again_only_if_it_was_not_executed() {
        use Effect::{Pop, Read};
        use Outcome::{Demoted, Nil, NotExecuted, Reply, Unconfirmed, Unknown};
        use Verdict::{Again, Deliver, Drop, Lost};
        let ending = Facts { ending: true, ..CALM };
        let over = Facts { lease: LeaseState::Over, ..CALM };
        let soon = Facts { lease: LeaseState::EndsSoon, ..CALM };
        let asked = Facts { unblock: Some(Unblock::Timeout), ..CALM };
        for (what, effect, outcome, facts, unblocked, time_left, want) in [
            ("an element", Pop, Reply, CALM, false, true, Deliver),
            ("an element during a hold", Pop, Reply, CALM, true, true, Deliver),
            ("an element for a client that sends nothing more", Pop, Reply, ending, true, true, Deliver),
            ("an element that replicas do not have", Pop, Unconfirmed, CALM, false, true, Deliver),
            ("its time is over", Pop, Nil, CALM, false, false, Deliver),
            ("the server counts faster", Pop, Nil, CALM, false, true, Deliver),
            ("its time is over during a hold", Pop, Nil, CALM, true, false, Deliver),
            ("a hold", Pop, Nil, CALM, true, true, Again),
            ("a hold, for a read", Read, Nil, CALM, true, true, Again),
            ("CLIENT UNBLOCK", Pop, Nil, asked, true, true, Deliver),
            ("a nil for a client that is gone", Pop, Nil, ending, true, true, Drop),
            ("the lease ended before an element came", Pop, Nil, soon, true, true, Lost),
            ("not sent", Pop, NotExecuted, CALM, false, true, Again),
            ("not sent, and the client is gone", Pop, NotExecuted, ending, false, true, Drop),
            ("not sent, and the lease is over", Pop, NotExecuted, over, false, true, Lost),
            ("the server is a replica now", Pop, Demoted, CALM, false, true, Again),
            ("the connection is lost", Pop, Unknown, CALM, false, true, Lost),
            ("the connection is lost after UNBLOCK", Pop, Unknown, CALM, true, true, Lost),
            ("the connection of a read is lost", Read, Unknown, CALM, false, true, Again),
            ("the connection of a read is lost with the lease", Read, Unknown, over, false, true, Lost),
            ("the session is closed", Pop, Reply, Facts { closed: true, ..CALM }, false, true, Drop),
        ] {
            assert_eq!(verdict(effect, outcome, facts, unblocked, time_left), want, "{what}");
        }
    }
}
