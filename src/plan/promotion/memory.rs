//! What a leader remembers about a promotion in its term. Every result of a step is recorded here before the next
//! decision.

use std::{collections::BTreeMap, time::Duration};

use super::{
    answers::{Done, Judge, after_barrier, after_save, resynced},
    servers::ServerStatus,
    stage::{
        AfterUnknown, Answers, BACKOFF_MAX_NS, BEGIN_MAX_NS, Failure, GivenUp, HOLD_MAX_NS, Held, POLL_NS, Question,
        Stage, Turn, UNKNOWN_MAX_NS,
    },
    view::{OpenPromotion, PromotionObservation, Reports},
};
use crate::{
    model::{
        change::Change,
        ids::{Epoch, HoldId, HostPort, NodeId, PromotionId},
        outcome::Outcome,
        promotion::{Promotion, PromotionKind},
        route::Mode,
    },
    plan::{lease::Barrier, timing::as_ns},
};

/// What became of REPLICAOF NO ONE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromoteResult {
    /// The candidate is a primary.
    Promoted,
    /// It was not sent, or was refused: it had no effect. The reason, for people.
    NotExecuted(String),
    /// It may have been sent, and what the candidate is now is not known. What happened, for people.
    Unknown(String),
}

/// The answers of a preflight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightResult {
    /// Possible servers (nodes) that did not answer.
    pub silent: Vec<NodeId>,
    /// How long each server that was pinged took, or why it did not answer, for people.
    pub pings: BTreeMap<HostPort, Result<Duration, String>>,
}

/// What this leader has done for a promotion in this term. Another leader, or another term, begins with an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromotionMemory {
    pub(super) stage: Stage,
    began_ns: Option<u64>,
    /// Holds that this leader has opened.
    holds: u32,
    /// This leader may have sent REPLICAOF NO ONE.
    promote_sent: bool,
    /// The candidate has answered this leader as a replica: what earlier leaders have sent is without effect, and stays so
    /// (see [`ServerStatus`]).
    was_replica: bool,
    /// The log's count of holds when the attempt began.
    attempts_before: u32,
    /// Attempts with a hold that failed.
    backoffs: u32,
    /// The promotion and the group's replication id as last seen: what follows its end needs them.
    newest: Option<(Box<Promotion>, String)>,
    /// Attempts that failed, and why the last one did.
    failures: u32,
    last_failure: String,
}

impl PromotionMemory {
    /// Goes on where that needs nothing but time or the barrier. Call it before each decision.
    pub fn observe(&mut self, seen: &PromotionObservation<'_>, id: PromotionId) {
        let began_ns = *self.began_ns.get_or_insert(seen.now_ns);
        let Some(open) = OpenPromotion::of(seen, id) else { return };
        self.newest = Some((Box::new(open.promotion.clone()), open.group.replid.clone()));
        if let Stage::Pause { until_ns, why } = &self.stage {
            if open.promotion.kind == PromotionKind::Switchover {
                let attempts = open.promotion.attempts;
                if attempts >= seen.timing.attempts_max || seen.now_ns >= began_ns + BEGIN_MAX_NS {
                    let why = format!("{attempts} holds failed; the last: {why}");
                    self.stage = Stage::GiveUp(GivenUp { why, primary_back: false, forced: false });
                    return;
                }
            }
            if seen.now_ns >= *until_ns {
                self.stage = Stage::Begin;
            }
        }
        if self.stage == Stage::Begin {
            self.attempts_before = open.promotion.attempts;
            self.stage = begin(&open);
        }
        if let Stage::Barrier(held) = &self.stage {
            let held = held.clone();
            let turn = behind_barrier(&open, held);
            self.turns(&open, turn);
        }
    }

    /// Attempts that failed so far, and why the last one did, for people.
    #[must_use]
    pub fn failures(&self) -> (u32, &str) {
        (self.failures, &self.last_failure)
    }

    /// Whether the barrier of the open hold has passed.
    #[must_use]
    pub fn is_behind_barrier(&self) -> bool {
        self.stage.held().is_some_and(|held| held.passed)
    }

    /// Servers have answered, or not.
    pub fn asked(&mut self, seen: &PromotionObservation<'_>, reports: &Reports<'_>, id: PromotionId, answers: Answers) {
        let Stage::Asks { question, .. } = &self.stage else { return };
        if let Question::Resynced { promotion, replid } = question {
            let to = answers.get(&promotion.to).and_then(|answer| answer.as_ref().ok());
            self.stage = resynced(reports, promotion, replid, to);
            return;
        }
        let question = question.clone();
        if let Some(Ok(to)) = OpenPromotion::of(seen, id).and_then(|open| answers.get(&open.promotion.to)) {
            self.was_replica |= to.follows.is_some();
        }
        let Some(judge) = self.judge(seen, reports, id) else { return };
        let turn = judge.answered(&question, answers);
        self.turns(&judge.open, turn);
    }

    /// A preflight has ended; or why it could not be made, for people.
    pub fn preflighted(
        &mut self,
        seen: &PromotionObservation<'_>,
        id: PromotionId,
        result: Result<PreflightResult, String>,
    ) {
        let Stage::Preflight { before } = &self.stage else { return };
        let Some(open) = OpenPromotion::of(seen, id) else { return };
        let turn = match result.and_then(|result| check_preflight(&result, seen.timing.ping_timeout)) {
            Ok(()) => Ok(Stage::OpenHold { before: before.clone(), since_ns: seen.now_ns }),
            Err(why) => Err(Failure::Retry(why)),
        };
        self.turns(&open, turn);
    }

    /// Whether the candidate may be sent REPLICAOF NO ONE, judged by its status just before. After `Ok` it may have been
    /// sent, until [`PromotionMemory::promoted`] says otherwise.
    ///
    /// # Errors
    /// Returns why it may not, as text for the operator; its subject is the candidate.
    pub fn may_promote(
        &self,
        seen: &PromotionObservation<'_>,
        reports: &Reports<'_>,
        id: PromotionId,
        status: &ServerStatus,
    ) -> Result<(), String> {
        let Stage::Promote { last, .. } = &self.stage else { return Err("it is not to be promoted now".into()) };
        let Some(judge) = self.judge(seen, reports, id) else { return Err("its promotion is over".into()) };
        judge.may_be_promoted(status, last.as_ref())
    }

    /// REPLICAOF NO ONE was sent, or was to be sent.
    pub fn promoted(
        &mut self,
        seen: &PromotionObservation<'_>,
        reports: &Reports<'_>,
        id: PromotionId,
        result: PromoteResult,
    ) {
        let Stage::Promote { held, last } = &self.stage else { return };
        let (mut held, last) = (held.clone(), last.clone());
        self.promote_sent |= !matches!(result, PromoteResult::NotExecuted(_));
        let Some(judge) = self.judge(seen, reports, id) else { return };
        let turn = match (result, last) {
            // A save that failed is not repeated, since a slow disk must not prevent the failover.
            (PromoteResult::Promoted, None) if held.saved => Ok(Stage::Finish(held)),
            (PromoteResult::Promoted, last) => {
                let replid = last.map_or_else(|| judge.open.group.replid.clone(), |last| last.replid);
                Ok(Stage::Save { held, replid })
            }
            (PromoteResult::NotExecuted(why), None) => {
                held.refused += 1;
                judge.not_promoted_yet(&held, why)
            }
            (PromoteResult::Unknown(why), None) => judge.not_promoted_yet(&held, why),
            (PromoteResult::NotExecuted(why), Some(_)) => Err(Failure::Retry(why)),
            (PromoteResult::Unknown(why), Some(last)) => {
                let until_ns = seen.now_ns + UNKNOWN_MAX_NS;
                let then = AfterUnknown::Sent(why);
                Ok(Stage::asks(Question::WasPromoted { held, replid: last.replid, until_ns, then }))
            }
        };
        self.turns(&judge.open, turn);
    }

    /// The candidate was asked to save its configuration. `answered`: it has, or cannot.
    pub fn saved(&mut self, seen: &PromotionObservation<'_>, id: PromotionId, answered: bool) {
        let Stage::Save { held, replid } = &self.stage else { return };
        let Some(open) = OpenPromotion::of(seen, id) else { return };
        let held = held.clone();
        let stage = match (answered, open.promotion.kind) {
            (true, _) => after_save(held),
            // It may have died.
            (false, PromotionKind::Failover) => Stage::asks(Question::BeforePromote(Held { saved: true, ..held })),
            (false, PromotionKind::Switchover) => {
                let (replid, until_ns) = (replid.clone(), seen.now_ns + UNKNOWN_MAX_NS);
                Stage::asks(Question::WasPromoted { held, replid, until_ns, then: AfterUnknown::Saving })
            }
        };
        self.stage = stage;
    }

    /// A change was appended and accepted at a log index, or refused with this text. `seen`: with the state after it.
    pub fn proposed(
        &mut self,
        seen: &PromotionObservation<'_>,
        id: PromotionId,
        change: &Change,
        result: Result<(Epoch, &Outcome), String>,
    ) {
        let (index, outcome) = match result {
            Ok(accepted) => accepted,
            // A new task begins if the promotion is still open.
            Err(_) if matches!(change, Change::GiveUpPromotion(_) | Change::MarkResynced(_)) => {
                self.stage = Stage::Over;
                return;
            }
            Err(why) => {
                let releases = matches!(self.stage, Stage::Release { .. });
                let hold = seen.state.promotion_hold(id).filter(|_| !releases);
                return self.fails(seen, id, hold, Failure::Retry(why));
            }
        };
        self.stage = match (std::mem::take(&mut self.stage), change) {
            (Stage::OpenHold { before, since_ns }, Change::OpenHold(_)) => {
                let Outcome::Held(hold) = *outcome else { return self.pause(seen, id, "no hold was opened".into()) };
                self.holds += 1;
                let budget_ns = match before {
                    Some(_) => u64::from(seen.state.settings.hold_ms_max) * 1_000_000,
                    None => HOLD_MAX_NS,
                };
                let end_ns = since_ns + budget_ns;
                Stage::Barrier(Held { hold, end_ns, before, passed: false, saved: false, refused: 0 })
            }
            (Stage::Note(_), Change::NotePrimary(_)) => {
                let why = "the primary's replication id had to be written to the log first";
                return self.pause(seen, id, why.into());
            }
            (Stage::Release { why, pause: true, .. }, Change::Release(_)) => return self.pause(seen, id, why),
            (Stage::Release { pause: false, .. }, Change::Release(_)) => Stage::Begin,
            (Stage::Finish(_), Change::FinishPromotion(_)) => match &self.newest {
                Some((promotion, _)) => Stage::Repoint { promotion: promotion.clone(), epoch: index },
                None => Stage::Over,
            },
            (Stage::GiveUp(_), Change::GiveUpPromotion(_)) => match &self.newest {
                Some((promotion, replid)) if promotion.kind == PromotionKind::Switchover => {
                    let (promotion, replid) = (promotion.clone(), replid.clone());
                    Stage::asks(Question::Resynced { promotion, replid })
                }
                Some(_) | None => Stage::Over,
            },
            (_, _) => Stage::Over,
        };
    }

    /// The other servers were made to follow the new primary, as far as they answer. Replication reconciliation repeats
    /// this for the rest.
    pub fn repointed(&mut self) {
        self.stage = Stage::Over;
    }

    fn judge<'a>(&self, seen: &PromotionObservation<'a>, reports: &Reports<'a>, id: PromotionId) -> Option<Judge<'a>> {
        let open = OpenPromotion::of(seen, id)?;
        let began_ns = self.began_ns.unwrap_or(seen.now_ns);
        let never_sent = !self.promote_sent && (self.was_replica || self.holds == open.promotion.attempts);
        Some(Judge { open, reports: *reports, done: Done { began_ns, never_sent } })
    }

    fn turns(&mut self, open: &OpenPromotion<'_>, turn: Turn) {
        match turn {
            Ok(stage) => self.stage = stage,
            Err(failure) => self.fails(&open.seen, open.promotion.id, open.hold.map(|hold| hold.id), failure),
        }
    }

    /// An attempt has failed. `hold`: the hold that is to be released before the next one.
    fn fails(&mut self, seen: &PromotionObservation<'_>, id: PromotionId, hold: Option<HoldId>, failure: Failure) {
        match (failure, hold) {
            (Failure::GiveUp(given_up), _) => self.stage = Stage::GiveUp(given_up),
            (Failure::Retry(why), Some(hold)) => self.stage = Stage::Release { hold, why, pause: true },
            (Failure::Retry(why), None) => self.pause(seen, id, why),
        }
    }

    /// The next attempt begins after a pause, which is long and doubles only if slots were held.
    fn pause(&mut self, seen: &PromotionObservation<'_>, id: PromotionId, why: String) {
        let attempts = seen.state.promotions.get(&id).map_or(0, |promotion| promotion.attempts);
        let pause_ns = if attempts > self.attempts_before {
            let factor = 1u64.checked_shl(self.backoffs).unwrap_or(u64::MAX);
            self.backoffs = self.backoffs.saturating_add(1);
            as_ns(seen.timing.backoff).saturating_mul(factor).min(BACKOFF_MAX_NS)
        } else {
            POLL_NS
        };
        self.failures = self.failures.saturating_add(1);
        self.last_failure.clone_from(&why);
        self.stage = Stage::Pause { until_ns: seen.now_ns.saturating_add(pause_ns), why };
    }
}

/// The first stage of an attempt. A hold that is open was opened by an earlier leader, for the same candidate.
fn begin(open: &OpenPromotion<'_>) -> Stage {
    let now_ns = open.seen.now_ns;
    let left = open.hold.map(|hold| Held {
        hold: hold.id,
        end_ns: now_ns + HOLD_MAX_NS,
        before: None,
        passed: false,
        saved: false,
        refused: 0,
    });
    match (open.promotion.kind, left) {
        (PromotionKind::Failover, None) => Stage::asks(Question::Candidate),
        (PromotionKind::Failover, Some(held)) => Stage::Barrier(held),
        (PromotionKind::Switchover, None) => Stage::asks(Question::Both),
        // If the candidate was promoted, it had all data then, and the slots have been held since.
        (PromotionKind::Switchover, Some(held)) => {
            let replid = open.group.replid.clone();
            let until_ns = now_ns + UNKNOWN_MAX_NS;
            Stage::asks(Question::WasPromoted { held, replid, until_ns, then: AfterUnknown::Left })
        }
    }
}

/// The stage behind the barrier, or the barrier's stage while it has not passed.
fn behind_barrier(open: &OpenPromotion<'_>, held: Held) -> Turn {
    let OpenPromotion { seen, promotion, product, .. } = open;
    if open.hold.is_none_or(|hold| hold.id != held.hold) {
        return Ok(Stage::Over);
    }
    let failover = promotion.kind == PromotionKind::Failover;
    // Data of a cache may be stale or lost; waiting for nodes is worse (docs/design/failover.md).
    let passed = (failover && product.mode == Mode::Cache) || seen.barrier == Some(&Barrier::Passed);
    if !passed {
        if seen.now_ns < held.end_ns {
            return Ok(Stage::Barrier(held));
        }
        let nodes = if let Some(Barrier::Waiting(nodes)) = seen.barrier { nodes.join("; ") } else { "unknown".into() };
        return Err(Failure::Retry(format!("not all nodes held in time: {nodes}")));
    }
    let held = Held { passed: true, ..held };
    Ok(match promotion.kind {
        _ if held.saved => Stage::Finish(held),
        PromotionKind::Switchover => Stage::asks(Question::LastOffset(held)),
        PromotionKind::Failover => after_barrier(open, held),
    })
}

/// # Errors
/// Returns what prevents a hold, as text for the operator.
fn check_preflight(result: &PreflightResult, ping_timeout: Duration) -> Result<(), String> {
    if let Some(node) = result.silent.first() {
        return Err(format!(
            "node {node} does not answer and may still serve; bring it back, or run `pontoon node remove {node}`"
        ));
    }
    for (addr, took) in &result.pings {
        let took = took.clone()?;
        if took > ping_timeout {
            return Err(format!("{addr} took {} ms to answer; a hold would be long", took.as_millis()));
        }
    }
    Ok(())
}
