//! The worker's part of a cut-over: under a hold, everything that the source's primary has reaches the target, and is known to.
//! Knows nothing of the barrier, which has passed before it is asked.

use tokio::{sync::oneshot, time::Instant};

use super::{
    copy::{Copy, Phase},
    fetch::Writing,
    report::Finished,
};
use crate::model::{ids::HoldId, promotion::Reached};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The primary is asked who and where it is, the target who it is.
    Looking,
    /// The feed is read to the primary's offset.
    Reading,
    /// Databases that got their first key are looked for: the count of answers that tells.
    Databases(u64),
    /// Everything is fetched and written.
    Draining,
    /// The target's replicas get it, and the target is asked where it is: which look that is.
    Replicating(u64),
}

/// A cut-over under way.
#[derive(Debug)]
pub(super) struct Finishing {
    pub hold: HoldId,
    deadline: Instant,
    done: Option<oneshot::Sender<Result<Finished, String>>>,
    /// Of primary and target.
    looks: (u64, u64),
    /// What the source had answered when the primary was asked for its offset.
    fetched: u64,
    step: Step,
    offset: u64,
    /// So many of the target's replicas have everything; `None`: not said yet.
    waited: Option<u32>,
    keys_before: u64,
    began: Instant,
}

impl Finishing {
    pub fn new(
        hold: HoldId,
        deadline: Instant,
        done: oneshot::Sender<Result<Finished, String>>,
        looks: (u64, u64),
        (fetched, keys_before): (u64, u64),
        began: Instant,
    ) -> Self {
        Self {
            hold,
            deadline,
            done: Some(done),
            looks,
            fetched,
            step: Step::Looking,
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

impl Copy<'_> {
    /// Goes as far as it can. Call before [`Copy::pump`], so that what a step asks for is sent in the same turn.
    pub fn finish_step(&mut self, now: Instant) {
        loop {
            let Phase::Finishing(finishing) = &mut self.phase else { return };
            if finishing.done.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return self.go_on();
            }
            if now >= finishing.deadline {
                let why = self.what_is_missing();
                return self.give_up(why);
            }
            let (step, looks, deadline) = (finishing.step, finishing.looks, finishing.deadline);
            let (fetched_before, waited) = (finishing.fetched, finishing.waited);
            let next = match step {
                Step::Looking if self.primary.looked(looks.0) && self.target_server.looked(looks.1) => {
                    let offset = self.primary.seen().offset;
                    finishing.offset = offset;
                    self.feed.begin_barrier(offset);
                    Step::Reading
                }
                Step::Reading if self.feed.passed_barrier() => Step::Databases(self.ask_keyspace(now)),
                Step::Databases(count) if self.keyspaces >= count => Step::Draining,
                // A write that nobody waits for any more may have been executed in the middle of a fetch, and tell of itself
                // only now (the model: a torn fetch). So the offset that counts is one asked for after the last fetch.
                Step::Draining if self.is_drained() && self.fetched != fetched_before => {
                    let look = self.primary.look_at_once(now);
                    if let Phase::Finishing(finishing) = &mut self.phase {
                        (finishing.fetched, finishing.looks.0) = (self.fetched, look);
                    }
                    Step::Looking
                }
                Step::Draining if self.is_drained() => {
                    // Its offset is asked for behind the last answer, so everything is below it. While the replicas are
                    // waited for, not after: others write there too, and a later offset would be theirs to reach.
                    let look = self.target_server.look_at_once(now);
                    match self.target_server.seen().replicas {
                        0 => {
                            if let Phase::Finishing(finishing) = &mut self.phase {
                                finishing.waited = Some(0);
                            }
                        }
                        replicas => {
                            // WAIT on a connection that has written nothing answers at once; ours has. 0 would wait for ever.
                            let ms = deadline.saturating_duration_since(now).as_millis().max(1).to_string();
                            let count = replicas.to_string();
                            self.target.send(&[b"PING"], Writing::Ping);
                            self.target.send(&[b"WAIT", count.as_bytes(), ms.as_bytes()], Writing::Wait(replicas));
                        }
                    }
                    Step::Replicating(look)
                }
                Step::Replicating(look) if self.target_server.looked(look) => match waited {
                    Some(replicas) => return self.finished(replicas, now),
                    None => return,
                },
                _ => return,
            };
            if let Phase::Finishing(finishing) = &mut self.phase {
                finishing.step = next;
            }
        }
    }

    /// So many of the target's replicas have everything.
    pub fn waited(&mut self, got: u32, wanted: u32) {
        let Phase::Finishing(Finishing { step: Step::Replicating(_), waited, .. }) = &mut self.phase else { return };
        if got >= wanted {
            *waited = Some(got);
        } else {
            self.give_up(format!(
                "of {wanted} replicas of {} only {got} have got everything in time",
                self.job.target.addr
            ));
        }
    }

    /// Nothing waits and nothing is under way.
    fn is_drained(&self) -> bool {
        self.waiting() == 0
            && self.ready.is_empty()
            && self.marks.big.is_clean()
            && self.carrying.is_done()
            && self.scan.is_done()
            && !self.page_asked
            && self.source.awaited.iter().all(|what| matches!(what, super::fetch::Fetching::Stats(_)))
            && self.target.awaited.iter().all(|what| matches!(what, Writing::Stats(_)))
    }

    fn finished(&mut self, replicas: u32, now: Instant) {
        let keys = self.counters.keys;
        let seen = self.target_server.seen();
        let target_at = Reached { replid: seen.identity.replid.clone(), offset: seen.offset };
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let finished = Finished {
            offset: finishing.offset,
            keys: keys - finishing.keys_before,
            replicas,
            target_at,
            took: now.saturating_duration_since(finishing.began),
        };
        let hold = finishing.hold;
        if finishing.answer(Ok(finished)) {
            self.phase = Phase::Finished(hold);
        } else {
            self.go_on();
        }
    }

    fn give_up(&mut self, why: String) {
        if let Phase::Finishing(finishing) = &mut self.phase {
            // Whoever has gone has given up, too.
            let _ = finishing.answer(Err(why));
        }
        self.go_on();
    }

    fn what_is_missing(&self) -> String {
        let Phase::Finishing(finishing) = &self.phase else { return String::new() };
        match finishing.step {
            Step::Looking => {
                format!("{} or {} did not say in time who it is", self.job.primary.addr, self.job.target.addr)
            }
            Step::Reading => format!(
                "the feed of {} did not reach the primary's offset {} in time",
                self.job.feed.addr, finishing.offset
            ),
            Step::Databases(_) => format!("{} did not say in time which databases it has", self.job.feed.addr),
            Step::Draining => {
                let left = self.marks.big.left();
                let big = format!("; {} elements of {} big keys", left.elements + left.hot_elements, left.keys);
                let keys = format!("{} keys were not copied in time", self.waiting());
                if left.keys > 0 { keys + &big } else { keys }
            }
            Step::Replicating(_) if finishing.waited.is_some() => {
                format!("{} did not say in time where it is", self.job.target.addr)
            }
            Step::Replicating(_) => format!("the replicas of {} did not get everything in time", self.job.target.addr),
        }
    }
}
