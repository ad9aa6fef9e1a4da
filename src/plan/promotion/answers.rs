//! What follows from the answers of servers, in both kinds of promotions.
//! Knows nothing of how servers are asked.

use std::collections::BTreeMap;

use super::{
    servers::{ServerStatus, check_same_process, fit, has_history, was_promoted_from_history},
    stage::{
        ACT_MAX_NS, AfterUnknown, Answers, CATCH_UP_POLL_NS, Failure, Held, LAG_AT_HOLD, LastOffset, POLL_NS, Question,
        REFUSED_MAX, Stage, Turn, UNFIT_MAX_NS,
    },
    view::{OpenPromotion, Reports},
};
use crate::{
    model::{
        change::{Change, MarkResynced, NotePrimary},
        ids::HostPort,
        promotion::{Promotion, PromotionKind},
    },
    plan::{
        acks::{MissingConfirmation, has_all_confirmed},
        failover::primary_back,
        restart::{confirmations, has_failed, undecided_restart},
    },
};

/// What this leader has done for the promotion in this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// When its task began.
    pub began_ns: u64,
    /// It never sent REPLICAOF NO ONE, and no earlier leader can have promoted the candidate.
    pub never_sent: bool,
}

/// Judges answers: a promotion, the reports at that moment, and what this leader has done.
pub(super) struct Judge<'a> {
    pub open: OpenPromotion<'a>,
    pub reports: Reports<'a>,
    pub done: Done,
}

/// The answer of one server.
type Answer = Result<ServerStatus, String>;

impl Judge<'_> {
    /// The stage after these answers to this question.
    pub fn answered(&self, question: &Question, answers: Answers) -> Turn {
        let Promotion { from, to, .. } = self.open.promotion;
        let of = |addr: &HostPort| match answers.get(addr) {
            Some(answer) => answer.clone(),
            None => Err(format!("{addr} was not asked")),
        };
        match question {
            Question::Candidate => self.candidate(&of(to)),
            Question::Both => self.both(of(from), of(to)),
            Question::Replicas(held) => Ok(self.replicas(held, answers)),
            Question::Confirmed { held, offsets, failed, end_ns } => {
                self.confirmed(held, (offsets, *failed), *end_ns, of(to).ok())
            }
            Question::OldPrimary(held) => self.old_primary(held, &of(from)),
            Question::BeforePromote(held) => self.before_promote(held, of(to)),
            Question::LastOffset(held) => self.last_offset(held, of(from)),
            Question::CaughtUp { held, last } => self.caught_up(held, last, of(to)),
            Question::WasPromoted { held, replid, until_ns, then } => {
                match self.was_promoted(held, replid, then, of(to)) {
                    // Unknown.
                    Err(why) if self.open.seen.now_ns + POLL_NS < *until_ns => {
                        Ok(self.again(question.clone(), POLL_NS, why))
                    }
                    Err(why) => Err(Failure::give_up(why)),
                    Ok(turn) => turn,
                }
            }
            // Asked when the promotion is over: see `resynced`.
            Question::Resynced { .. } => Ok(Stage::Over),
        }
    }

    /// Gives up when the old primary has recovered and the candidate was not promoted yet: then the old primary stays.
    /// (A candidate that is a primary without having been promoted was restarted as one.)
    fn check_primary_not_back(&self, to: &Answer) -> Result<(), Failure> {
        let Self { open, reports, .. } = self;
        let back = primary_back(open.group, open.promotion, reports.servers, reports.watchers);
        let Some(why) = back else { return Ok(()) };
        let promoted = to.as_ref().is_ok_and(|status| was_promoted_from_history(open, status));
        if promoted && open.never_released() { Ok(()) } else { Err(Failure::primary_back(why)) }
    }

    /// Gives up when the candidate was provably not promoted: this task has sent nothing, and made all attempts so far, or
    /// was answered by a replica.
    fn give_up_if_nothing_was_sent(&self, why: &str) -> Result<(), Failure> {
        if self.done.never_sent { Err(Failure::not_promoted(why.to_owned())) } else { Ok(()) }
    }

    fn give_up_if_candidate_is_down(&self, why: &str) -> Result<(), Failure> {
        if !self.open.is_down(&self.reports, &self.open.promotion.to) {
            return Ok(());
        }
        self.give_up_if_nothing_was_sent(&format!("the candidate went down before it was promoted: {why}"))
    }

    /// Nothing is held: an unfit candidate ends the promotion.
    fn candidate(&self, to: &Answer) -> Turn {
        if self.open.promotion.kind == PromotionKind::Failover {
            self.check_primary_not_back(to)?;
        }
        let addr = &self.open.promotion.to;
        let fit = match to {
            Ok(status) => {
                check_same_process(&self.open, &self.reports, status).map_err(Failure::not_promoted)?;
                fit(&self.open, &self.reports, status).map_err(|why| format!("{addr}: {why}"))
            }
            Err(why) => Err(why.clone()),
        };
        match fit {
            Ok(()) => Ok(confirms(&self.open, None)),
            Err(why) => {
                let lasts = self.open.seen.now_ns >= self.done.began_ns + UNFIT_MAX_NS;
                if self.open.promotion.attempts == 0 && lasts {
                    return Err(Failure::give_up(format!("the candidate cannot be promoted: {why}")));
                }
                self.give_up_if_candidate_is_down(&why)?;
                Err(Failure::Retry(why))
            }
        }
    }

    /// The offsets of the other replicas, and how many of them have failed with a primary that was restarted.
    fn replicas(&self, held: &Option<Held>, answers: Answers) -> Stage {
        let OpenPromotion { seen, group, product, .. } = &self.open;
        let servers = self.reports.servers;
        let new = undecided_restart(confirmations(product), group, servers);
        let (mut offsets, mut failed) = (BTreeMap::new(), 0);
        for (addr, status) in answers.into_iter().filter_map(|(addr, answer)| Some((addr, answer.ok()?))) {
            if let Some(offset) = status.offset_of_history(&group.replid) {
                offsets.insert(addr, offset);
            } else if let Some(new) = new
                && !status.loading
                && has_failed(group, new, &addr, (&status.run_id, &status.replid), servers)
            {
                failed += 1;
            }
        }
        Stage::asks(Question::Confirmed { held: held.clone(), offsets, failed, end_ns: seen.now_ns + ACT_MAX_NS })
    }

    /// The candidate is asked last, and again until it has caught up: a primary that only the nodes do not reach may
    /// still send to it. The acknowledged writes are older than the first answers, so that waiting loses nothing.
    fn confirmed(
        &self,
        held: &Option<Held>,
        (offsets, failed): (&BTreeMap<HostPort, u64>, usize),
        end_ns: u64,
        to: Option<ServerStatus>,
    ) -> Turn {
        let OpenPromotion { seen, promotion, group, product, .. } = &self.open;
        let most = offsets.values().copied().max().unwrap_or_default();
        let offset = to.and_then(|status| status.offset_of_history(&group.replid));
        if offset.is_some_and(|offset| offset < most) && seen.now_ns + CATCH_UP_POLL_NS < end_ns {
            let question = Question::Confirmed { held: held.clone(), offsets: offsets.clone(), failed, end_ns };
            return Ok(self.again(question, CATCH_UP_POLL_NS, format!("{} catches up", promotion.to)));
        }
        let mut offsets = offsets.clone();
        offsets.extend(offset.map(|offset| (promotion.to.clone(), offset)));
        let required = (product.min_acks, failed);
        let all = has_all_confirmed(group, required, &promotion.to, |addr| offsets.get(addr).copied());
        match all {
            Ok(()) => Ok(match held {
                Some(held) => Stage::asks(Question::BeforePromote(held.clone())),
                None => Stage::Preflight { before: None },
            }),
            Err(MissingConfirmation::Answers(why)) => Err(Failure::Retry(why)),
            Err(MissingConfirmation::Writes(why)) => Err(Failure::not_promoted(why)),
        }
    }

    /// In a later hold: gives up when the old primary may have been up, and have accepted writes, between two probes.
    fn old_primary(&self, held: &Held, from: &Answer) -> Turn {
        let addr = &self.open.promotion.from;
        match from {
            Ok(seen) if seen.follows.is_none() && !seen.loading && seen.replid == self.open.group.replid => {
                Err(Failure::primary_back(format!(
                    "{addr} answers as a primary with its old data, and may have accepted writes between two holds"
                )))
            }
            Ok(_) | Err(_) => Ok(confirms(&self.open, Some(held.clone()))),
        }
    }

    /// Asked first: while the candidate does not answer this, REPLICAOF NO ONE is not sent.
    fn before_promote(&self, held: &Held, to: Answer) -> Turn {
        self.check_primary_not_back(&to)?;
        match to {
            Ok(status) => {
                check_same_process(&self.open, &self.reports, &status).map_err(Failure::not_promoted)?;
                Ok(Stage::Promote { held: held.clone(), last: None })
            }
            Err(why) => self.not_promoted_yet(held, why),
        }
    }

    /// The candidate of a failover did not answer, or has refused REPLICAOF NO ONE.
    pub fn not_promoted_yet(&self, held: &Held, why: String) -> Turn {
        if held.refused >= REFUSED_MAX {
            self.give_up_if_nothing_was_sent(&why)?;
            return Err(Failure::Retry(why));
        }
        self.give_up_if_candidate_is_down(&why)?;
        let now_ns = self.open.seen.now_ns;
        if now_ns + POLL_NS >= held.end_ns {
            return Err(Failure::Retry(why));
        }
        Ok(self.again(Question::BeforePromote(held.clone()), POLL_NS, why))
    }

    /// The state of a switchover's old primary.
    fn primary(&self, from: Answer) -> Result<ServerStatus, Failure> {
        let addr = &self.open.promotion.from;
        match from {
            Ok(status) if status.follows.is_none() && !status.loading => Ok(status),
            // It is replaced or restored as soon as no promotion is open.
            Ok(ServerStatus { follows: Some((host, port)), .. }) => {
                Err(Failure::give_up(format!("{addr} is a replica of {host}:{port} and accepts no writes")))
            }
            Ok(_) => Err(Failure::Retry(format!("{addr} is loading its data"))),
            Err(why) if self.open.is_down(&self.reports, addr) => {
                Err(Failure::give_up(format!("{addr} is down, so that its last writes can no longer be copied: {why}")))
            }
            Err(why) => Err(Failure::Retry(why)),
        }
    }

    fn in_sync(&self, to: &ServerStatus, replid: &str) -> Result<(), Failure> {
        let Promotion { from, to: addr, .. } = self.open.promotion;
        let in_sync = to.is_in_sync_with(from, replid);
        if in_sync { Ok(()) } else { Err(Failure::Retry(format!("{addr} is not in sync with {from}"))) }
    }

    /// A switchover begins an attempt.
    fn both(&self, from: Answer, to: Answer) -> Turn {
        let OpenPromotion { promotion, group, .. } = &self.open;
        let from = self.primary(from)?;
        let to = to.map_err(Failure::Retry)?;
        self.in_sync(&to, &from.replid)?;
        if from.replid != group.replid {
            // The next leader finds in the log which history the new primary must have.
            let note = NotePrimary::replication_id(promotion.product, group.id, group.epoch, from.replid);
            return Ok(Stage::Note(note.into()));
        }
        let lag = from.offset.saturating_sub(to.offset);
        self.candidate(&Ok(to))?;
        if lag > LAG_AT_HOLD {
            return Err(Failure::Retry(format!("{} lags {lag} bytes behind {}", promotion.to, promotion.from)));
        }
        Ok(Stage::Preflight { before: Some((from.run_id, from.replid)) })
    }

    /// Asked behind the barrier: every acknowledged write is below this offset.
    fn last_offset(&self, held: &Held, from: Answer) -> Turn {
        let last = self.primary(from)?;
        if held.before.as_ref() != Some(&(last.run_id, last.replid.clone())) {
            let from = &self.open.promotion.from;
            return Err(Failure::Retry(format!(
                "{from} was restarted, or changed its replication id, since the hold began"
            )));
        }
        let last = LastOffset { replid: last.replid, offset: last.offset };
        Ok(Stage::asks(Question::CaughtUp { held: held.clone(), last }))
    }

    fn caught_up(&self, held: &Held, last: &LastOffset, to: Answer) -> Turn {
        let now_ns = self.open.seen.now_ns;
        let theirs = to.map_err(Failure::Retry)?;
        self.in_sync(&theirs, &last.replid)?;
        if theirs.offset >= last.offset {
            return Ok(Stage::Promote { held: held.clone(), last: Some(last.clone()) });
        }
        let why = format!("{} is at offset {} of {}", self.open.promotion.to, theirs.offset, last.offset);
        if now_ns >= held.end_ns {
            return Err(Failure::Retry(format!("{why}, and the hold's budget is spent")));
        }
        Ok(self.again(Question::CaughtUp { held: held.clone(), last: last.clone() }, CATCH_UP_POLL_NS, why))
    }

    /// Whether the candidate of a switchover, which may have been sent REPLICAOF NO ONE, is a primary of this history, and
    /// what follows. It is asked until it answers, while its slots are held. A server executes what an older control
    /// connection has sent before it answers a new one, or never. So a "no" stays true, and the old primary may accept
    /// writes again.
    ///
    /// # Errors
    /// Returns why that is not known, as text for the operator.
    fn was_promoted(&self, held: &Held, replid: &str, then: &AfterUnknown, to: Answer) -> Result<Turn, String> {
        let addr = &self.open.promotion.to;
        let status = to.map_err(|why| format!("it is not known whether {addr} is a primary: {why}"))?;
        if status.follows.is_some() {
            return Ok(match then {
                AfterUnknown::Left => {
                    Ok(Stage::Release { hold: held.hold, why: "a new leader starts over".into(), pause: false })
                }
                AfterUnknown::Sent(why) => Err(Failure::Retry(why.clone())),
                AfterUnknown::Saving => Err(Failure::Retry(format!("{addr} was restarted after it was promoted"))),
            });
        }
        // A new leader must first receive the nodes' reports.
        has_history(self.reports.servers, addr, &status, replid)
            .map_err(|why| format!("{addr} is a primary, and {why}"))?;
        Ok(Ok(match then {
            AfterUnknown::Left | AfterUnknown::Sent(_) => Stage::Save { held: held.clone(), replid: replid.to_owned() },
            AfterUnknown::Saving => after_save(held.clone()),
        }))
    }

    /// The same question again, after a pause; `why`: what the promotion waits for.
    fn again(&self, question: Question, pause_ns: u64, why: String) -> Stage {
        Stage::Asks { question, from_ns: self.open.seen.now_ns + pause_ns, why }
    }

    /// Whether the candidate may be sent REPLICAOF NO ONE: judged just before. `last`: of a switchover, what it must
    /// have.
    pub fn may_be_promoted(&self, status: &ServerStatus, last: Option<&LastOffset>) -> Result<(), String> {
        fit(&self.open, &self.reports, status)?;
        match last {
            Some(last)
                if !(status.replid == last.replid && status.offset >= last.offset) || status.follows.is_none() =>
            {
                Err("it no longer has all data".into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// With `min-acks`, a failover's candidate must have every confirmed write. Otherwise what follows that.
fn confirms(open: &OpenPromotion<'_>, held: Option<Held>) -> Stage {
    let needed = open.product.min_acks > 0 && !open.promotion.forced;
    match held {
        held if needed && open.promotion.kind == PromotionKind::Failover => Stage::asks(Question::Replicas(held)),
        Some(held) => Stage::asks(Question::BeforePromote(held)),
        None => Stage::Preflight { before: None },
    }
}

/// The barrier of a failover's hold has passed.
pub(super) fn after_barrier(open: &OpenPromotion<'_>, held: Held) -> Stage {
    if open.promotion.attempts >= 2 && !open.promotion.forced {
        return Stage::asks(Question::OldPrimary(held));
    }
    // Until the barrier, nodes that reached the old primary may have acknowledged more.
    confirms(open, Some(held))
}

/// The candidate has saved its configuration, or was asked to.
pub(super) fn after_save(held: Held) -> Stage {
    let held = Held { saved: true, ..held };
    if held.passed { Stage::Finish(held) } else { Stage::Barrier(held) }
}

/// After a switchover was given up, the log must assume that the candidate was promoted. Over this leader's control
/// connection it can be shown that it was not, and never will be. The primary may be down by now, and then this replica
/// is needed.
pub(super) fn resynced(reports: &Reports<'_>, promotion: &Promotion, replid: &str, to: Option<&ServerStatus>) -> Stage {
    let Promotion { product, group, from, to: addr, group_epoch, .. } = promotion;
    let in_sync = |status: &ServerStatus| {
        status.is_replica_of(from) && !status.syncing && has_history(reports.servers, addr, status, replid).is_ok()
    };
    if !to.is_some_and(in_sync) {
        return Stage::Over;
    }
    let (product, group, addr, epoch) = (*product, *group, addr.clone(), *group_epoch);
    Stage::MarkResynced(Change::MarkResynced(MarkResynced { product, group, addr, epoch }))
}
