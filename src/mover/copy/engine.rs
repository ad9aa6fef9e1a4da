//! The copy engine: one loop that reads the feed, fetches what SCAN finds and what changed, and writes it to the
//! target. Knows nothing of slot owners; it makes the target equal and reports when it is.
//!
//! Why it is correct (see docs/design/migration.md): SCAN returns every key that exists during the whole scan. Every
//! key that changed is fetched after its event. All fetches use one connection, and so do all writes, so those of one
//! key keep their order. A mark is removed before the fetch is sent. Under a hold the feed is read past the primary's
//! offset, the queue is drained and every reply is awaited.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, task::Poll, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    copier::KeyCopier,
    cutover::{Cutover, CutoverParts, CutoverStatus},
    feed_reader::FeedReader,
    monitors::Monitors,
    pacing::Pacing,
    progress::Progress,
    requests::{SourceRequest, TargetRequest},
    source::SourceReader,
    target::TargetWriter,
};
use crate::{
    faults::{self, Point},
    model::{
        ids::HoldId,
        migration::{Counters, Limits, Verified, Verify},
        promotion::ReplicationOffset,
    },
    mover::{
        expiry::ExpiryQuery,
        feed::Feed,
        handle::MoverCommand,
        io::connection::Connection,
        report::{Report, State},
        spec::CopySpec,
        verify::{
            background::{Comparing, evaluate},
            watched::WatchedKeys,
        },
    },
};

/// Longest sleep of the loop.
const TICK: Duration = Duration::from_millis(5);
/// Interval of the polls for databases that got their first key.
const KEYSPACE_EVERY: Duration = Duration::from_secs(1);
/// Caught up: the dirty keys take at most this long at full speed; fits into the usual budget of a hold.
const CAUGHT_UP_MS: u64 = 30;
/// No longer caught up: the dirty keys take longer than this.
const BEHIND_MS: u64 = 500;
/// Caught up: at most this many bytes of the feed are still to come. A hold reads them in milliseconds.
const LAG_MAX: u64 = 1 << 20;

/// The servers of a copy whose target is clean, with open connections.
pub(super) struct OpenedCopy {
    /// For fetching keys: the feed's server.
    pub source: Connection,
    pub expiry_query: ExpiryQuery,
    /// For writing keys.
    pub target: Connection,
    pub feed: Box<dyn Feed>,
    pub monitors: Monitors,
    /// Number of keys by database, after the feed had begun.
    pub databases: BTreeMap<u32, u64>,
    /// What the cleaning of the target has done.
    pub counters: Counters,
}

/// The phase of a copy run.
enum CopyPhase {
    Copying,
    Verifying,
    CaughtUp,
    Cutover(Cutover),
    Finished(HoldId),
}

/// A copy run.
pub(super) struct CopyEngine<'a> {
    spec: &'a CopySpec,
    phase: CopyPhase,
    copier: KeyCopier<'a>,
    feed: FeedReader,
    monitors: Monitors,
    comparing: Option<Comparing<'a>>,
    verified: Option<Verified>,
    progress: Progress,
}

impl<'a> CopyEngine<'a> {
    /// Starts a copy run.
    pub fn new(spec: &'a CopySpec, limits: watch::Receiver<Limits>, opened: OpenedCopy) -> Self {
        let OpenedCopy { source, expiry_query, target, feed, monitors, databases, counters } = opened;
        let now = Instant::now();
        let slots = u64::from(spec.slots.layout().slots()).max(1);
        let keys_total = databases.values().sum::<u64>().saturating_mul(spec.slots.len() as u64) / slots;
        let copier = KeyCopier::new(
            spec,
            SourceReader::new(source, expiry_query, databases.keys(), now),
            TargetWriter::new(target),
            Pacing::new(limits, monitors.replica.is_some(), now),
            feed.reports_stream_groups(),
            counters,
        );
        Self {
            spec,
            phase: CopyPhase::Copying,
            copier,
            feed: FeedReader::new(feed, now),
            monitors,
            comparing: None,
            verified: None,
            progress: Progress::new(keys_total, now),
        }
    }

    /// The loop: copies until the owner drops the handle.
    ///
    /// # Errors
    /// Returns why the copy failed, as text for the operator.
    pub async fn run(
        mut self,
        commands: &mut mpsc::Receiver<MoverCommand>,
        reports: &watch::Sender<Report>,
    ) -> Result<(), String> {
        // Before the first page: the databases with no TTL, as of a moment after the feed began.
        self.copier.source.request_keyspace(&mut self.copier.no_ttl, Instant::now());
        self.report(Instant::now(), reports);
        faults::pause_at(Point::Copying).await;
        let mut command = None;
        let mut compared = None;
        loop {
            let now = Instant::now();
            if let Some(command) = command.take() {
                self.command(command, now);
                self.report(now, reports);
            }
            if let Some(outcome) = compared.take() {
                self.verified = Some(evaluate(&outcome?, self.spec.verify)?);
                self.comparing = None;
                self.copier.changes.watched = None;
                self.phase = CopyPhase::Copying;
            }
            let until = self.turn(now, reports)?;
            let mut timer = std::pin::pin!(sleep_until(until.unwrap_or(now + TICK).min(now + TICK)));
            let ended = std::future::poll_fn(|cx| {
                // Polls everything, so that everything wakes this task.
                let mut ready = self.copier.source.pipeline.connection.poll_ready(cx).is_ready();
                ready |= self.copier.target.pipeline.connection.poll_ready(cx).is_ready();
                ready |= self.feed.feed.connection().poll_ready(cx).is_ready();
                ready |= self.monitors.poll_ready(cx);
                ready |= timer.as_mut().poll(cx).is_ready();
                if let Some(comparing) = &mut self.comparing
                    && let Poll::Ready(result) = comparing.work.as_mut().poll(cx)
                {
                    compared = Some(result);
                    ready = true;
                }
                match commands.poll_recv(cx) {
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Ready(some) => command = some,
                    Poll::Pending if ready => {}
                    Poll::Pending => return Poll::Pending,
                }
                Poll::Ready(false)
            });
            if ended.await {
                return Ok(());
            }
        }
    }

    /// Does everything that can be done without waiting. Returns when to continue if nothing happens.
    fn turn(&mut self, now: Instant, reports: &watch::Sender<Report>) -> Result<Option<Instant>, String> {
        let primary_offset = self.monitors.primary.status().offset;
        self.feed.read(&mut self.copier, self.spec, primary_offset, now)?;
        self.copier.handle_source(&mut self.monitors, now)?;
        self.copier.handle_target(&mut self.monitors, now)?;
        self.apply_waits();
        self.monitors.turn(now)?;
        self.request_periodic(now);
        self.serve_comparison(now);
        let was_held = self.is_held();
        self.advance_cutover(now);
        let held = self.is_held();
        let until = if self.is_writing() { self.copier.request_work(&self.monitors, held, now) } else { None };
        let text = |error: crate::redis::RedisError| error.to_string();
        self.copier.source.pipeline.connection.flush().map_err(text)?;
        self.copier.target.pipeline.connection.flush().map_err(text)?;
        self.feed.feed.connection().flush().map_err(text)?;
        if (was_held && !held) || self.progress.is_due(now) {
            self.report(now, reports);
        }
        Ok(until)
    }

    fn command(&mut self, command: MoverCommand, now: Instant) {
        match command {
            MoverCommand::Finish { hold, deadline, done } => {
                if !matches!(self.phase, CopyPhase::CaughtUp) {
                    let _ = done.send(Err("the copy is not caught up; the hold came too early".into()));
                    return;
                }
                if let Err(why) = self.copier.mark_unreported(now) {
                    let _ = done.send(Err(why));
                    return;
                }
                let keys = self.copier.counters.keys;
                self.phase =
                    CopyPhase::Cutover(Cutover::begin(hold, deadline, done, self.cutover_parts().1, keys, now));
            }
            MoverCommand::Resume(hold) => {
                let same = match &self.phase {
                    CopyPhase::Cutover(cutover) => cutover.hold == hold,
                    CopyPhase::Finished(finished) => *finished == hold,
                    CopyPhase::Copying | CopyPhase::Verifying | CopyPhase::CaughtUp => false,
                };
                if same {
                    self.phase = CopyPhase::CaughtUp;
                }
            }
        }
    }

    /// Sends the requests that are sent at intervals.
    fn request_periodic(&mut self, now: Instant) {
        let writing = self.is_writing();
        let copier = &mut self.copier;
        copier.source.pipeline.request_stats(now, SourceRequest::Stats);
        if writing {
            copier.target.pipeline.request_stats(now, TargetRequest::Stats);
            copier.libraries.request(&mut copier.source.pipeline, &mut copier.target.pipeline);
        }
        if now.saturating_duration_since(copier.source.keyspace_requested) >= KEYSPACE_EVERY {
            copier.source.request_keyspace(&mut copier.no_ttl, now);
        }
    }

    /// Advances the barriers of the comparison, and updates which watched keys are settled.
    fn serve_comparison(&mut self, now: Instant) {
        let Some(comparing) = &mut self.comparing else { return };
        let watched = &self.copier.changes.watched;
        comparing.barrier = match comparing.barrier {
            Some((poll, false)) if self.monitors.primary.polled(poll) => {
                self.feed.feed.begin_barrier(self.monitors.primary.status().offset);
                Some((poll, true))
            }
            Some((_, true)) if self.feed.feed.passed_barrier() => {
                if let Some(watched) = watched {
                    watched.borrow_mut().passed += 1;
                }
                None
            }
            None if watched.as_ref().is_some_and(|w| w.borrow().passed < w.borrow().requested) => {
                Some((self.monitors.primary.poll_now(now), false))
            }
            other => other,
        };
        let in_flight = &self.copier.in_flight;
        self.copier.changes.settle(in_flight.completed(), in_flight.keys() > 0);
    }

    fn start_comparison(&mut self) {
        let begun = self.copier.in_flight.started();
        let watched = Rc::new(RefCell::new(WatchedKeys { begun, ..WatchedKeys::default() }));
        self.copier.changes.watched = Some(watched.clone());
        let reports_groups = self.feed.feed.reports_stream_groups();
        self.comparing = Some(Comparing::start(self.spec, self.progress.keys_total, reports_groups, watched));
        self.phase = CopyPhase::Verifying;
    }

    /// The phase, and the parts that a cut-over uses.
    fn cutover_parts(&mut self) -> (&mut CopyPhase, CutoverParts<'_>) {
        let drained = self.copier.is_drained();
        let parts = CutoverParts {
            monitors: &mut self.monitors,
            feed: &mut self.feed,
            source: &mut self.copier.source,
            target: &mut self.copier.target,
            no_ttl: &mut self.copier.no_ttl,
            drained,
        };
        (&mut self.phase, parts)
    }

    fn advance_cutover(&mut self, now: Instant) {
        let (CopyPhase::Cutover(cutover), parts) = self.cutover_parts() else { return };
        let status = cutover.advance(parts, now);
        self.apply_cutover(status, now);
    }

    fn apply_waits(&mut self) {
        for (got, wanted) in std::mem::take(&mut self.copier.target.waited) {
            if let CopyPhase::Cutover(cutover) = &mut self.phase {
                let status = cutover.waited(got, wanted);
                self.apply_cutover(status, Instant::now());
            }
        }
    }

    fn apply_cutover(&mut self, status: CutoverStatus, now: Instant) {
        let CopyPhase::Cutover(cutover) = &mut self.phase else { return };
        match status {
            CutoverStatus::Pending => return,
            CutoverStatus::Abandoned => {}
            CutoverStatus::TimedOut => {
                let remaining = self.copier.changes.big.remaining();
                let why = cutover.missing(self.spec, self.copier.waiting(), remaining);
                cutover.fail(why);
            }
            CutoverStatus::ReplicasMissing { got, wanted } => {
                let target = &self.spec.target.addr;
                cutover.fail(format!("only {got} of {wanted} replicas of {target} got everything in time"));
            }
            CutoverStatus::Done { replicas } => {
                let status = self.monitors.target.status();
                let at = ReplicationOffset { replid: status.identity.replid.clone(), offset: status.offset };
                if cutover.finish(replicas, at, self.copier.counters.keys, now) {
                    self.phase = CopyPhase::Finished(cutover.hold);
                    return;
                }
            }
        }
        self.phase = CopyPhase::CaughtUp;
    }

    /// Whether writers are stopped, so that nothing is gained by going slowly.
    fn is_held(&self) -> bool {
        matches!(self.phase, CopyPhase::Cutover(_))
    }

    /// Whether requests may be sent to the target.
    fn is_writing(&self) -> bool {
        !matches!(self.phase, CopyPhase::Finished(_))
    }

    fn report(&mut self, now: Instant, reports: &watch::Sender<Report>) {
        let waiting = self.copier.waiting();
        self.progress.measure(self.copier.counters.keys, waiting, now);
        let (big_ms, contended_ms) = self.copier.big_ms();
        let queue_ms = self.progress.queue_ms(waiting) + big_ms;
        let lag_bytes = self.feed.lag(self.monitors.primary.status().offset);
        self.change_phase(queue_ms, lag_bytes);
        let big = &self.copier.changes.big;
        let (_, big_bytes, big_refetched) = big.written();
        let dirty = self.copier.changes.dirty.len();
        let counted = self.copier.counters;
        let counters = Counters {
            keys: counted.keys + big.cleaned(),
            bytes: counted.bytes + big_bytes,
            refetched: counted.refetched + big_refetched,
            dirty: dirty as u64,
            ..counted
        };
        let waiting_on = self.waiting_on(lag_bytes);
        reports.send_modify(|report| {
            report.state = self.state();
            report.counters = counters;
            report.dirty = (dirty + self.copier.source.key_queries + big.remaining().keys) as u64;
            report.keys_total = self.progress.keys_total.max(counters.keys.saturating_sub(counters.refetched));
            report.keys_per_second = self.progress.rate();
            report.lag_bytes = lag_bytes;
            report.queue_ms = queue_ms + contended_ms;
            report.waiting_on = waiting_on;
            report.verified = self.verified.or_else(|| self.comparing.as_ref().map(|c| *c.progress.borrow()));
            report.write_contended = big.write_contended();
            report.write_contended.truncate(Report::CONTENDED_MAX);
        });
    }

    fn change_phase(&mut self, queue_ms: u64, lag_bytes: u64) {
        let copier = &self.copier;
        let scanned = copier.source.scan.is_done() && copier.source.found.is_empty();
        let near = scanned && copier.libraries.is_done() && copier.contended_fits();
        let caught_up = near && queue_ms <= CAUGHT_UP_MS && lag_bytes <= LAG_MAX;
        match &self.phase {
            CopyPhase::Copying if caught_up && self.spec.verify != Verify::None && self.verified.is_none() => {
                self.start_comparison()
            }
            CopyPhase::Copying if caught_up => self.phase = CopyPhase::CaughtUp,
            CopyPhase::CaughtUp if !near || queue_ms > BEHIND_MS => self.phase = CopyPhase::Copying,
            _ => {}
        }
    }

    fn state(&self) -> State {
        match &self.phase {
            CopyPhase::Copying => State::Copying,
            CopyPhase::Verifying => State::Verifying,
            CopyPhase::CaughtUp => State::CaughtUp,
            CopyPhase::Cutover(cutover) => State::Finishing(cutover.hold),
            CopyPhase::Finished(hold) => State::Finished(*hold),
        }
    }

    /// What limits the speed, as text for the operator. Empty: nothing.
    fn waiting_on(&self, lag_bytes: u64) -> String {
        if let Some(slow) = self.copier.pacing.slow_server(&self.monitors, self.progress.measured()) {
            return slow;
        }
        if lag_bytes > LAG_MAX {
            return format!("the feed of {} is behind", self.spec.feed.addr);
        }
        let contended = if self.is_held() { None } else { self.copier.why_contended() };
        contended.unwrap_or_default()
    }
}
