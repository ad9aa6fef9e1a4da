//! The next step of a promotion, from the state, from what servers and nodes answered, and from what the leader has done
//! in this term.
//! Knows nothing of how a step is carried out, nor of how a candidate is chosen: `plan::failover` or an operator has
//! chosen it.
//!
//! ```text
//! ask the candidate -> preflight -> Hold -> barrier -> [switchover: it has all data] -> REPLICAOF NO ONE
//!     | unfit: GiveUp       | wait        | the budget is spent: Release, pause, again      -> CONFIG REWRITE
//!                                                                                          -> FinishPromotion -> repoint
//! ```
//! If REPLICAOF NO ONE or CONFIG REWRITE is not answered, the candidate is asked for its role over another connection
//! before anything else is done. The log has the whole truth: a new leader goes on with the same candidate, and its
//! control connection to the candidate closes the former leader's.
//!
//! `view` is what is known, `servers` judges one server's answer, `stage` says how far the leader is, `answers` what
//! follows from answers, `memory` records results.

mod answers;
mod memory;
mod servers;
mod stage;
mod view;

use std::collections::BTreeSet;

pub use self::{
    memory::{PreflightResult, PromoteResult, PromotionMemory},
    servers::ServerStatus,
    stage::{ACT_MAX_NS, Answers, SAVE_MAX_NS},
    view::{PromotionObservation, Reports},
};
use self::{
    stage::{BACKOFF_MAX_NS, BEGIN_MAX_NS, GivenUp, HOLD_MAX_NS, Held, Question, Stage, UNKNOWN_MAX_NS},
    view::OpenPromotion,
};
use super::{
    lease::{Barrier, barrier_wait},
    waiting::{Wait, seconds},
};
use crate::model::{
    change::{Change, FinishPromotion, GiveUpPromotion, OpenHold, Release},
    ids::{Epoch, GroupId, HostPort, ProductId, PromotionId},
    promotion::{Promotion, PromotionKind},
    route::{Isolated, Mode},
    state::Cause,
};

/// What the leader does next for a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromotionStep {
    /// Nothing is left to do in this task.
    Over,
    /// Decide again with news, or at `until_ns`.
    Wait {
        /// What the promotion waits for.
        wait: Wait,
        /// Time on the leader's clock, nanoseconds.
        until_ns: u64,
    },
    /// Ask these servers for their replication status, all at once.
    Ask {
        /// The servers.
        servers: BTreeSet<HostPort>,
        /// When an answer is late, on the leader's clock, nanoseconds.
        until_ns: u64,
    },
    /// Ping every possible server (node) of the product, and these Redis servers.
    Preflight {
        /// The product's setting; `None`: no node has to answer.
        isolated: Option<Isolated>,
        /// The Redis servers.
        servers: BTreeSet<HostPort>,
    },
    /// Make the candidate a primary, if [`PromotionMemory::may_promote`] accepts its status just before.
    Promote {
        /// The candidate.
        candidate: HostPort,
        /// When the command may no longer be sent, on the leader's clock, nanoseconds.
        until_ns: u64,
    },
    /// Make the candidate save its configuration, within [`SAVE_MAX_NS`].
    SaveConfig {
        /// The candidate.
        candidate: HostPort,
    },
    /// Append this change.
    Propose(Change),
    /// Make the other servers of the group follow its new primary.
    Repoint {
        /// The group.
        group: (ProductId, GroupId),
        /// Its epoch.
        epoch: Epoch,
        /// Its primary.
        primary: HostPort,
    },
}

/// The next step of promotion `id`. Call [`PromotionMemory::observe`] with `seen` before.
#[must_use]
pub fn next(seen: &PromotionObservation<'_>, memory: &PromotionMemory, id: PromotionId) -> PromotionStep {
    if let Some(step) = after_the_end(seen, &memory.stage) {
        return step;
    }
    let Some(open) = OpenPromotion::of(seen, id) else { return PromotionStep::Over };
    match &memory.stage {
        Stage::Begin => PromotionStep::Wait { wait: Wait::new("the next attempt", IN_A_MOMENT), until_ns: seen.now_ns },
        Stage::Asks { question, from_ns, why } if seen.now_ns < *from_ns => {
            PromotionStep::Wait { wait: asks_wait(&open, question, why), until_ns: *from_ns }
        }
        Stage::Asks { question, .. } => asks(&open, question),
        Stage::Preflight { before } => preflight(&open, before.is_some()),
        Stage::OpenHold { .. } => open_hold(&open),
        Stage::Barrier(held) => barrier(&open, held),
        Stage::Promote { held, .. } => PromotionStep::Promote {
            candidate: open.promotion.to.clone(),
            until_ns: held.end_ns.min(seen.now_ns + ACT_MAX_NS),
        },
        Stage::Save { .. } => PromotionStep::SaveConfig { candidate: open.promotion.to.clone() },
        Stage::Finish(held) => {
            let (promotion, hold, term) = (id, held.hold, seen.term);
            PromotionStep::Propose(Change::FinishPromotion(FinishPromotion { promotion, hold, term }))
        }
        Stage::Note(change) => PromotionStep::Propose(change.clone()),
        Stage::Release { hold, why, .. } => {
            PromotionStep::Propose(Change::Release(Release { hold: *hold, why: why.clone() }))
        }
        Stage::Pause { until_ns, why } => PromotionStep::Wait { wait: pause_wait(&open, why), until_ns: *until_ns },
        Stage::GiveUp(GivenUp { why, primary_back, forced }) => {
            let (promotion, why, primary_back, forced) = (id, why.clone(), *primary_back, *forced);
            PromotionStep::Propose(Change::GiveUpPromotion(GiveUpPromotion { promotion, why, primary_back, forced }))
        }
        Stage::Repoint { .. } | Stage::MarkResynced(_) | Stage::Over => PromotionStep::Over,
    }
}

/// What is done when the log has the end of the promotion.
fn after_the_end(seen: &PromotionObservation<'_>, stage: &Stage) -> Option<PromotionStep> {
    if let Stage::Repoint { promotion, epoch } = stage {
        let Promotion { product, group, to, .. } = &**promotion;
        return Some(PromotionStep::Repoint { group: (*product, *group), epoch: *epoch, primary: to.clone() });
    }
    if let Stage::Asks { question: Question::Resynced { promotion, .. }, .. } = stage {
        return Some(ask([&promotion.to], seen.now_ns + ACT_MAX_NS));
    }
    if let Stage::MarkResynced(change) = stage {
        return Some(PromotionStep::Propose(change.clone()));
    }
    None
}

/// The servers that a question goes to, and by when they must answer.
fn asks(open: &OpenPromotion<'_>, question: &Question) -> PromotionStep {
    let Promotion { from, to, .. } = open.promotion;
    let soon_ns = open.seen.now_ns + ACT_MAX_NS;
    match question {
        Question::Candidate | Question::BeforePromote(_) | Question::WasPromoted { .. } => ask([to], soon_ns),
        Question::Resynced { .. } => ask([to], soon_ns),
        Question::Both => ask([from, to], soon_ns),
        Question::Replicas(_) => {
            let replicas = open.group.servers.iter().skip(1).map(|server| &server.addr).filter(|addr| *addr != to);
            ask(replicas, soon_ns)
        }
        Question::Confirmed { end_ns, .. } => ask([to], *end_ns),
        Question::OldPrimary(_) => ask([from], soon_ns),
        Question::LastOffset(held) => ask([from], held.end_ns),
        Question::CaughtUp { held, .. } => ask([to], held.end_ns),
    }
}

fn ask<'a>(servers: impl IntoIterator<Item = &'a HostPort>, until_ns: u64) -> PromotionStep {
    PromotionStep::Ask { servers: servers.into_iter().cloned().collect(), until_ns }
}

/// Every possible server answers; for a switchover, both servers answer quickly too.
fn preflight(open: &OpenPromotion<'_>, switchover: bool) -> PromotionStep {
    let Promotion { from, to, .. } = open.promotion;
    if switchover {
        let isolated = Some(open.product.isolated);
        return PromotionStep::Preflight { isolated, servers: [from.clone(), to.clone()].into() };
    }
    let isolated = (open.product.mode == Mode::Store).then_some(open.product.isolated);
    PromotionStep::Preflight { isolated, servers: BTreeSet::new() }
}

fn open_hold(open: &OpenPromotion<'_>) -> PromotionStep {
    let Promotion { id, group, kind, to, attempts, .. } = open.promotion;
    let reason = format!("{} of group {group} to {to}", kind.name());
    let cause = Cause::Promotion(*id);
    PromotionStep::Propose(Change::OpenHold(OpenHold { cause, attempt: attempts + 1, kind: kind.hold(), reason }))
}

fn barrier(open: &OpenPromotion<'_>, held: &Held) -> PromotionStep {
    let nodes = if let Some(Barrier::Waiting(nodes)) = open.seen.barrier { nodes.as_slice() } else { &[] };
    let budget_ns = match held.before {
        Some(_) => u64::from(open.seen.state.settings.hold_ms_max) * 1_000_000,
        None => HOLD_MAX_NS,
    };
    PromotionStep::Wait { wait: barrier_wait(held.hold, nodes, budget_ns), until_ns: held.end_ns }
}

/// What ends a step that takes a moment.
const IN_A_MOMENT: &str = "it begins, within a second";

/// What a promotion waits for before it asks again.
fn asks_wait(open: &OpenPromotion<'_>, question: &Question, why: &str) -> Wait {
    let Promotion { from, to, .. } = open.promotion;
    let (what, ends_when) = match question {
        Question::Candidate | Question::Both | Question::Resynced { .. } => {
            ("its servers are asked".to_owned(), IN_A_MOMENT.to_owned())
        }
        Question::Replicas(_) | Question::Confirmed { .. } => (
            format!("{to} does not have everything yet that other replicas have"),
            "it has, or within a second it has not: then the attempt is repeated".to_owned(),
        ),
        Question::OldPrimary(_) => (format!("{from} is asked whether it is back"), IN_A_MOMENT.to_owned()),
        Question::BeforePromote(_) => (
            format!("{to} has not become a primary yet"),
            format!(
                "it has, or {} s after the hold began: then the hold ends, and another one follows after a pause; or it is down: \
                 then another replica is chosen",
                seconds(HOLD_MAX_NS)
            ),
        ),
        Question::LastOffset(_) => (format!("{from} is asked for its last offset"), IN_A_MOMENT.to_owned()),
        Question::CaughtUp { .. } => (
            format!("{to} does not have the last writes of {from} yet"),
            format!(
                "it has, or {} ms after the hold began: then the hold ends, and another one follows after a pause",
                open.seen.state.settings.hold_ms_max
            ),
        ),
        Question::WasPromoted { .. } => (
            format!("it is not known whether {to} has become a primary"),
            format!("it answers, or within {} s: then the switchover is given up", seconds(UNKNOWN_MAX_NS)),
        ),
    };
    let detail = if why.is_empty() { String::new() } else { format!(": {why}") };
    Wait::new(what, ends_when).with_detail(detail)
}

/// What a promotion waits for between two attempts.
fn pause_wait(open: &OpenPromotion<'_>, why: &str) -> Wait {
    let pause = seconds(BACKOFF_MAX_NS);
    let ends_when = match open.promotion.kind {
        PromotionKind::Failover => {
            format!("an attempt succeeds; the next one begins after a pause of at most {pause} s")
        }
        PromotionKind::Switchover => format!(
            "an attempt succeeds; it is given up after {} holds, or {} s",
            open.seen.timing.attempts_max,
            seconds(BEGIN_MAX_NS)
        ),
    };
    Wait::new("the last attempt failed", ends_when).with_detail(format!(": {why}"))
}
