//! The worker's part of a cut-over: under a hold, everything that the source's primary has reaches the target, and is known to.
//! Knows nothing of the barrier, which has passed before it is asked.

use tokio::{sync::oneshot, time::Instant};

use super::{
    engine::{CopyEngine, CopyPhase},
    fetch::TargetRequest,
};
use crate::{
    model::{ids::HoldId, promotion::ReplicationOffset},
    mover::report::Finished,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutoverStage {
    /// The primary is asked who and where it is, the target who it is.
    Looking,
    /// The feed is read to the primary's offset.
    Reading,
    /// Databases that got their first key are polled for: the count of answers that tells.
    Databases(u64),
    /// Everything is fetched and written.
    Draining,
    /// The target's replicas get it, and the target is asked where it is: which poll that is.
    Replicating(u64),
}

/// A cut-over under way.
#[derive(Debug)]
pub(in crate::mover) struct Cutover {
    pub hold: HoldId,
    deadline: Instant,
    done: Option<oneshot::Sender<Result<Finished, String>>>,
    /// Of primary and target.
    polls: (u64, u64),
    /// What the source had answered when the primary was asked for its offset.
    fetched: u64,
    step: CutoverStage,
    offset: u64,
    /// So many of the target's replicas have everything; `None`: not said yet.
    waited: Option<u32>,
    keys_before: u64,
    began: Instant,
}

impl Cutover {
    pub fn new(
        hold: HoldId,
        deadline: Instant,
        done: oneshot::Sender<Result<Finished, String>>,
        polls: (u64, u64),
        (fetched, keys_before): (u64, u64),
        began: Instant,
    ) -> Self {
        Self {
            hold,
            deadline,
            done: Some(done),
            polls,
            fetched,
            step: CutoverStage::Looking,
            offset: 0,
            waited: None,
            keys_before,
            began,
        }
    }

    /// Tells whoever asked; `false`: nobody waits for it any more, so nothing is switched under this hold.
    fn answer(&mut self, result: Result<Finished, String>) -> bool {
        self.done.take().is_some_and(|done| done.send(result).is_ok())
    }
}

impl CopyEngine<'_> {
    /// Goes as far as it can. Call before [`CopyEngine::pump`], so that what a step asks for is sent in the same turn.
    pub fn finish_step(&mut self, now: Instant) {
        loop {
            let CopyPhase::Cutover(finishing) = &mut self.phase else { return };
            if finishing.done.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return self.resume();
            }
            if now >= finishing.deadline {
                let why = self.what_is_missing();
                return self.give_up(why);
            }
            let (step, polls, deadline) = (finishing.step, finishing.polls, finishing.deadline);
            let (fetched_before, waited) = (finishing.fetched, finishing.waited);
            let next = match step {
                CutoverStage::Looking if self.primary.polled(polls.0) && self.target_server.polled(polls.1) => {
                    let offset = self.primary.status().offset;
                    finishing.offset = offset;
                    self.feed.begin_barrier(offset);
                    CutoverStage::Reading
                }
                CutoverStage::Reading if self.feed.passed_barrier() => CutoverStage::Databases(self.ask_keyspace(now)),
                CutoverStage::Databases(count) if self.keyspaces >= count => CutoverStage::Draining,
                // A write that nobody waits for any more may have been executed in the middle of a fetch, and tell of itself
                // only now (the model: a torn fetch). So the offset that counts is one asked for after the last fetch.
                CutoverStage::Draining if self.is_drained() && self.fetched != fetched_before => {
                    let poll = self.primary.poll_at_once(now);
                    if let CopyPhase::Cutover(finishing) = &mut self.phase {
                        (finishing.fetched, finishing.polls.0) = (self.fetched, poll);
                    }
                    CutoverStage::Looking
                }
                CutoverStage::Draining if self.is_drained() => {
                    // Its offset is asked for behind the last answer, so everything is below it. While the replicas are
                    // waited for, not after: others write there too, and a later offset would be theirs to reach.
                    let poll = self.target_server.poll_at_once(now);
                    match self.target_server.status().replicas {
                        0 => {
                            if let CopyPhase::Cutover(finishing) = &mut self.phase {
                                finishing.waited = Some(0);
                            }
                        }
                        replicas => {
                            // WAIT on a connection that has written nothing answers at once; ours has. 0 would wait for ever.
                            let ms = deadline.saturating_duration_since(now).as_millis().max(1).to_string();
                            let count = replicas.to_string();
                            self.target.send(&[b"PING"], TargetRequest::Ping);
                            self.target
                                .send(&[b"WAIT", count.as_bytes(), ms.as_bytes()], TargetRequest::Wait(replicas));
                        }
                    }
                    CutoverStage::Replicating(poll)
                }
                CutoverStage::Replicating(poll) if self.target_server.polled(poll) => match waited {
                    Some(replicas) => return self.finished(replicas, now),
                    None => return,
                },
                _ => return,
            };
            if let CopyPhase::Cutover(finishing) = &mut self.phase {
                finishing.step = next;
            }
        }
    }

    /// So many of the target's replicas have everything.
    pub fn waited(&mut self, got: u32, wanted: u32) {
        let CopyPhase::Cutover(Cutover { step: CutoverStage::Replicating(_), waited, .. }) = &mut self.phase else {
            return;
        };
        if got >= wanted {
            *waited = Some(got);
        } else {
            self.give_up(format!(
                "of {wanted} replicas of {} only {got} have got everything in time",
                self.spec.target.addr
            ));
        }
    }

    /// Nothing waits and nothing is under way.
    fn is_drained(&self) -> bool {
        self.waiting() == 0
            && self.ready.is_empty()
            && self.changes.big.is_clean()
            && self.carrying.is_done()
            && self.scan.is_done()
            && !self.page_asked
            && self.source.awaited.iter().all(|what| matches!(what, super::fetch::SourceRequest::Stats(_)))
            && self.target.awaited.iter().all(|what| matches!(what, TargetRequest::Stats(_)))
    }

    fn finished(&mut self, replicas: u32, now: Instant) {
        let keys = self.counters.keys;
        let status = self.target_server.status();
        let target_offset = ReplicationOffset { replid: status.identity.replid.clone(), offset: status.offset };
        let CopyPhase::Cutover(finishing) = &mut self.phase else { return };
        let finished = Finished {
            offset: finishing.offset,
            keys: keys - finishing.keys_before,
            replicas,
            target_offset,
            took: now.saturating_duration_since(finishing.began),
        };
        let hold = finishing.hold;
        if finishing.answer(Ok(finished)) {
            self.phase = CopyPhase::Finished(hold);
        } else {
            self.resume();
        }
    }

    fn give_up(&mut self, why: String) {
        if let CopyPhase::Cutover(finishing) = &mut self.phase {
            // Whoever has gone has given up, too.
            let _ = finishing.answer(Err(why));
        }
        self.resume();
    }

    fn what_is_missing(&self) -> String {
        let CopyPhase::Cutover(finishing) = &self.phase else { return String::new() };
        match finishing.step {
            CutoverStage::Looking => {
                format!("{} or {} did not say in time who it is", self.spec.primary.addr, self.spec.target.addr)
            }
            CutoverStage::Reading => format!(
                "the feed of {} did not reach the primary's offset {} in time",
                self.spec.feed.addr, finishing.offset
            ),
            CutoverStage::Databases(_) => format!("{} did not say in time which databases it has", self.spec.feed.addr),
            CutoverStage::Draining => {
                let left = self.changes.big.remaining();
                let big = format!("; {} elements of {} big keys", left.elements + left.contended_elements, left.keys);
                let keys = format!("{} keys were not copied in time", self.waiting());
                if left.keys > 0 { keys + &big } else { keys }
            }
            CutoverStage::Replicating(_) if finishing.waited.is_some() => {
                format!("{} did not say in time where it is", self.spec.target.addr)
            }
            CutoverStage::Replicating(_) => {
                format!("the replicas of {} did not get everything in time", self.spec.target.addr)
            }
        }
    }
}
