//! The mover's part of a cut-over: under a hold, the target gets everything that the source's primary has, and this is
//! verified. Knows nothing of the barrier, which has passed before it starts.

use tokio::{sync::oneshot, time::Instant};

use super::{feed_reader::FeedReader, monitors::Monitors, source::SourceReader, target::TargetWriter};
use crate::{
    model::{ids::HoldId, promotion::ReplicationOffset},
    mover::{big_key::RemainingWork, report::Finished, spec::CopySpec, track::no_ttl::NoTtl},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutoverStage {
    /// Polling the primary's identity and offset and the target's identity.
    Polling,
    /// Reading the feed up to the primary's offset.
    Reading,
    /// Polling for databases that got their first key, until this many replies to INFO keyspace have arrived.
    Databases(u64),
    /// Fetching and writing what is left.
    Draining,
    /// Waiting for the target's replicas, and for this poll of the target's offset.
    Replicating(u64),
}

/// What [`Cutover::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutoverStatus {
    /// The cut-over continues.
    Pending,
    /// The owner does not wait for it any more, so nothing is switched under this hold.
    Abandoned,
    /// The deadline has passed.
    TimedOut,
    /// This many replicas got everything, fewer than the target has.
    ReplicasMissing { got: u32, wanted: u32 },
    /// The target and this many replicas of it have everything.
    Done { replicas: u32 },
}

/// The parts of the engine that a cut-over uses.
pub(super) struct CutoverParts<'p> {
    pub monitors: &'p mut Monitors,
    pub feed: &'p mut FeedReader,
    pub source: &'p mut SourceReader,
    pub target: &'p mut TargetWriter,
    pub no_ttl: &'p mut NoTtl,
    /// Everything that was read of the feed is written.
    pub drained: bool,
}

/// A running cut-over.
#[derive(Debug)]
pub(super) struct Cutover {
    pub hold: HoldId,
    deadline: Instant,
    done: Option<oneshot::Sender<Result<Finished, String>>>,
    /// Polls of primary and target.
    polls: (u64, u64),
    /// Values that the source had sent when the primary's offset was requested.
    values_before: u64,
    stage: CutoverStage,
    offset: u64,
    /// Replicas of the target that have everything. `None`: not known yet.
    replicas: Option<u32>,
    keys_before: u64,
    began: Instant,
}

impl Cutover {
    /// Starts a cut-over: polls primary and target. `keys`: copied so far.
    pub fn begin(
        hold: HoldId,
        deadline: Instant,
        done: oneshot::Sender<Result<Finished, String>>,
        parts: CutoverParts<'_>,
        keys: u64,
        now: Instant,
    ) -> Self {
        Self {
            hold,
            deadline,
            done: Some(done),
            polls: (parts.monitors.primary.poll_now(now), parts.monitors.target.poll_now(now)),
            values_before: parts.source.values_read,
            stage: CutoverStage::Polling,
            offset: 0,
            replicas: None,
            keys_before: keys,
            began: now,
        }
    }

    /// Advances as far as possible. Call it before requests are sent, so that its requests are sent in the same turn.
    pub fn advance(&mut self, parts: CutoverParts<'_>, now: Instant) -> CutoverStatus {
        let CutoverParts { monitors, feed, source, target, no_ttl, drained } = parts;
        loop {
            if self.done.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return CutoverStatus::Abandoned;
            }
            if now >= self.deadline {
                return CutoverStatus::TimedOut;
            }
            self.stage = match self.stage {
                CutoverStage::Polling
                    if monitors.primary.polled(self.polls.0) && monitors.target.polled(self.polls.1) =>
                {
                    self.offset = monitors.primary.status().offset;
                    feed.feed.begin_barrier(self.offset);
                    CutoverStage::Reading
                }
                CutoverStage::Reading if feed.feed.passed_barrier() => {
                    CutoverStage::Databases(source.request_keyspace(no_ttl, now))
                }
                CutoverStage::Databases(count) if source.keyspace_replies >= count => CutoverStage::Draining,
                // A write whose client has given up may have been executed during a fetch, and its event may come only
                // now. (The model checker found this torn fetch.) So the offset that counts is requested after the last
                // fetch.
                CutoverStage::Draining if drained && source.values_read != self.values_before => {
                    self.values_before = source.values_read;
                    self.polls.0 = monitors.primary.poll_at_once(now);
                    CutoverStage::Polling
                }
                CutoverStage::Draining if drained => self.begin_replication(monitors, target, now),
                CutoverStage::Replicating(poll) if monitors.target.polled(poll) => match self.replicas {
                    Some(replicas) => return CutoverStatus::Done { replicas },
                    None => return CutoverStatus::Pending,
                },
                _ => return CutoverStatus::Pending,
            };
        }
    }

    fn begin_replication(&mut self, monitors: &mut Monitors, target: &mut TargetWriter, now: Instant) -> CutoverStage {
        // The target's offset is requested after its last reply, so everything is below it. It is requested together
        // with WAIT, not after it: others write there, too, and replicas would have to reach their later offset.
        let poll = monitors.target.poll_at_once(now);
        match monitors.target.status().replicas {
            0 => self.replicas = Some(0),
            replicas => target.request_wait(replicas, self.deadline.saturating_duration_since(now).as_millis()),
        }
        CutoverStage::Replicating(poll)
    }

    /// Handles a reply to WAIT: `got` of `wanted` replicas of the target have everything.
    pub fn waited(&mut self, got: u32, wanted: u32) -> CutoverStatus {
        if !matches!(self.stage, CutoverStage::Replicating(_)) {
            return CutoverStatus::Pending;
        }
        if got < wanted {
            return CutoverStatus::ReplicasMissing { got, wanted };
        }
        self.replicas = Some(got);
        CutoverStatus::Pending
    }

    /// Sends the result to the owner. Returns `false` if it does not wait any more; then nothing is switched under this
    /// hold.
    pub fn finish(&mut self, replicas: u32, target_offset: ReplicationOffset, keys: u64, now: Instant) -> bool {
        let finished = Finished {
            offset: self.offset,
            keys: keys - self.keys_before,
            replicas,
            target_offset,
            took: now.saturating_duration_since(self.began),
        };
        self.send(Ok(finished))
    }

    /// Reports a failure to the owner.
    pub fn fail(&mut self, why: String) {
        // An owner that has dropped the handle does not wait for the result.
        self.send(Err(why));
    }

    fn send(&mut self, result: Result<Finished, String>) -> bool {
        self.done.take().is_some_and(|done| done.send(result).is_ok())
    }

    /// What was not done in time, as text for the operator.
    pub fn missing(&self, spec: &CopySpec, waiting: usize, remaining: RemainingWork) -> String {
        let (primary, feed, target) = (&spec.primary.addr, &spec.feed.addr, &spec.target.addr);
        match self.stage {
            CutoverStage::Polling => format!("{primary} or {target} did not report its identity in time"),
            CutoverStage::Reading => {
                format!("the feed of {feed} did not reach the primary's offset {} in time", self.offset)
            }
            CutoverStage::Databases(_) => format!("{feed} did not report its databases in time"),
            CutoverStage::Draining => {
                let keys = format!("{waiting} keys were not copied in time");
                if remaining.keys == 0 {
                    return keys;
                }
                let elements = remaining.elements + remaining.contended_elements;
                format!("{keys}; {elements} elements of {} big keys", remaining.keys)
            }
            CutoverStage::Replicating(_) if self.replicas.is_some() => {
                format!("{target} did not report its offset in time")
            }
            CutoverStage::Replicating(_) => format!("the replicas of {target} did not get everything in time"),
        }
    }
}
