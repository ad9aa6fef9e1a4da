//! The copy engine: one loop that reads the feed, fetches what SCAN finds and what changed, and writes it to the target.
//! Knows nothing of who owns a slot; it makes the target equal and says when it is.
//!
//! Why it is right (migration.md): SCAN returns every key that was there all along; every key that changed is fetched after its
//! event; fetches of one key go over one connection, and so do its writes, so they keep their order; a mark is cleared before
//! the fetch is sent. Under a hold the feed is read past the primary's offset, the queue drained and every answer awaited.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    cutover::Cutover,
    fetch::{ReadyKey, SourceRequest, TargetRequest},
    libraries::LibraryCopy,
    start::OpenedCopy,
};
use crate::{
    commands::Args,
    faults::{self, Point, Rule},
    model::{
        ids::HoldId,
        migration::{Counters, Limits, Verified, Verify},
    },
    mover::{
        feed::{Event, Feed},
        handle::MoverCommand,
        io::{
            monitor::ServerMonitor,
            pace::{Meter, Rests, SHARE_PRIMARY, SHARE_REPLICA, Share},
            pipeline::Pipeline,
            scan::Scan,
        },
        report::{Report, State},
        spec::CopySpec,
        track::{
            changes::{ChangeTracker, WatchedKeys},
            dirty::DbKey,
            no_ttl::NoTtl,
        },
        verify::background::{Comparing, evaluate},
    },
};

/// The loop polls at the clock at least this often.
const TICK: Duration = Duration::from_millis(5);
/// Between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Between two polls for databases that have come into use.
const KEYSPACE_EVERY: Duration = Duration::from_secs(1);
/// Caught up: what waits takes at most this long at full speed, with a hold's usual budget.
const CAUGHT_UP_MS: u64 = 30;
/// No longer caught up.
const BEHIND_MS: u64 = 500;
/// Caught up: at most so much of the feed is still to come. A hold reads it in milliseconds.
const LAG_MAX: u64 = 1 << 20;
/// A feed that does not move while the primary does is dead, whatever its socket says.
const FEED_STILL_MAX: Duration = Duration::from_secs(15);
/// Keys per second before any was copied.
const RATE_FIRST: f64 = 20_000.0;
/// A report with more keys waiting than this tells how fast we are; with fewer, how little there was to do.
const BUSY: usize = 256;

/// What the engine is at.
pub(in crate::mover) enum CopyPhase {
    Copying,
    Verifying,
    CaughtUp,
    Cutover(Cutover),
    Finished(HoldId),
}

pub(in crate::mover) struct CopyEngine<'a> {
    pub spec: &'a CopySpec,
    pub limits: watch::Receiver<Limits>,
    pub phase: CopyPhase,
    pub source: Pipeline<SourceRequest>,
    pub target: Pipeline<TargetRequest>,
    pub feed: Box<dyn Feed>,
    /// See [`Feed::reports_stream_groups`].
    pub reports_groups: bool,
    /// Streams that were copied, if it does not.
    pub streams: HashSet<(u32, Bytes)>,
    /// Of the source's primary.
    pub primary: ServerMonitor,
    /// Of the feed's server, if that is not the primary.
    pub replica: Option<ServerMonitor>,
    pub target_server: ServerMonitor,
    pub scan: Scan,
    /// A page is awaited.
    pub page_asked: bool,
    /// Keys of these slots that SCAN found and whose size was not asked yet.
    pub found: VecDeque<DbKey>,
    pub ready: VecDeque<ReadyKey>,
    pub changes: ChangeTracker,
    pub carrying: LibraryCopy,
    /// Databases none of whose keys has a time to live.
    pub no_ttl: NoTtl,
    /// The target refuses the versions of the source's payloads.
    pub lowers: bool,
    /// Number of the last fetch, and of the last one that is through.
    pub begun: u64,
    pub answered: u64,
    /// Keys from the question for their size until the target's answer.
    pub flying: usize,
    /// Bytes of values asked for and not yet taken by the target, by estimate.
    pub flying_bytes: usize,
    /// Bytes of values asked for and not answered, by estimate.
    pub asked_bytes: usize,
    /// PTTL of the key whose DUMP comes next.
    pub ttl: i64,
    /// COMMAND GETKEYS under way: their keys are not marked yet.
    pub asks: usize,
    /// A test wants changes replayed instead of fetched; never in a release build.
    replays: bool,
    /// Values and parts of values that the source has answered.
    pub fetched: u64,
    /// Looks at the keyspace that were answered.
    pub keyspaces: u64,
    pub counters: Counters,
    pub meter: Meter,
    comparing: Option<Comparing<'a>>,
    verified: Option<Verified>,
    rests: Rests,
    share_source: Share,
    share_target: Share,
    /// Of the burst that is under way.
    burst: Option<Instant>,
    burst_share: f64,
    keyspace_asked: Instant,
    keys_total: u64,
    reported: Instant,
    reported_keys: u64,
    was_busy: bool,
    rate: f64,
    rate_most: f64,
    /// The feed's position, and since when it has been there.
    still: (u64, Instant),
    waiting_on: String,
}

impl<'a> CopyEngine<'a> {
    /// Of an attempt whose connections are open and whose target is clean.
    pub fn new(spec: &'a CopySpec, limits: watch::Receiver<Limits>, opened: OpenedCopy) -> Self {
        let OpenedCopy { source, target, feed, primary, replica, target_server, databases, counters } = opened;
        let mut scan = Scan::default();
        databases.keys().for_each(|db| scan.add(*db));
        let keys_total =
            databases.values().sum::<u64>() * spec.slots.len() as u64 / u64::from(spec.slots.layout().slots()).max(1);
        let now = Instant::now();
        let share_source = Share::new(if replica.is_some() { SHARE_REPLICA } else { SHARE_PRIMARY }, now);
        Self {
            spec,
            limits,
            phase: CopyPhase::Copying,
            source: Pipeline::new(source),
            target: Pipeline::new(target),
            reports_groups: feed.reports_stream_groups(),
            streams: HashSet::new(),
            feed,
            primary,
            replica,
            target_server,
            scan,
            page_asked: false,
            found: VecDeque::new(),
            ready: VecDeque::new(),
            changes: ChangeTracker::default(),
            carrying: LibraryCopy::default(),
            no_ttl: NoTtl::default(),
            lowers: false,
            begun: 0,
            answered: 0,
            flying: 0,
            flying_bytes: 0,
            asked_bytes: 0,
            ttl: 0,
            asks: 0,
            replays: faults::without(Rule::Refetch),
            fetched: 0,
            keyspaces: 0,
            counters,
            meter: Meter::new(now),
            comparing: None,
            verified: None,
            rests: Rests::default(),
            share_source,
            share_target: Share::new(SHARE_PRIMARY, now),
            burst: None,
            burst_share: 1.0,
            keyspace_asked: now,
            keys_total,
            reported: now,
            reported_keys: 0,
            was_busy: false,
            rate: 0.0,
            rate_most: RATE_FIRST,
            still: (0, now),
            waiting_on: String::new(),
        }
    }

    /// The loop: copies until told to stop.
    ///
    /// # Errors
    /// The attempt cannot go on; a sentence for people.
    pub async fn turns(
        mut self,
        orders: &mut mpsc::Receiver<MoverCommand>,
        reports: &watch::Sender<Report>,
    ) -> Result<(), String> {
        // Before the first page: which databases have no times to live, as of a moment after the feed began.
        self.ask_keyspace(Instant::now());
        self.report(Instant::now(), reports);
        faults::pause_at(Point::Copying).await;
        let mut order = None;
        let mut compared = None;
        loop {
            let now = Instant::now();
            if let Some(order) = order.take() {
                self.order(order, now);
                self.report(now, reports);
            }
            if let Some(outcome) = compared.take() {
                self.verified = Some(evaluate(&outcome?, self.spec.verify)?);
                self.comparing = None;
                self.changes.watched = None;
                self.phase = CopyPhase::Copying;
            }
            self.read_feed(now)?;
            self.on_source(now)?;
            self.on_target(now)?;
            self.primary.turn(now)?;
            if let Some(replica) = &mut self.replica {
                replica.turn(now)?;
            }
            self.target_server.turn(now)?;
            self.ask_around(now);
            self.serve_comparison(now);
            let was_finishing = matches!(self.phase, CopyPhase::Cutover(_));
            self.finish_step(now);
            let until = self.pump(now)?;
            self.source.connection.flush().map_err(|error| error.to_string())?;
            self.target.connection.flush().map_err(|error| error.to_string())?;
            self.feed.connection().flush().map_err(|error| error.to_string())?;
            let finished = was_finishing && !matches!(self.phase, CopyPhase::Cutover(_));
            if finished || now.saturating_duration_since(self.reported) >= REPORT_EVERY {
                self.report(now, reports);
            }
            let mut timer = std::pin::pin!(sleep_until(until.unwrap_or(now + TICK).min(now + TICK)));
            let ended = std::future::poll_fn(|cx| {
                // Each must be asked, so that each wakes us.
                let mut ready = self.source.connection.poll_ready(cx).is_ready();
                ready |= self.target.connection.poll_ready(cx).is_ready();
                ready |= self.feed.connection().poll_ready(cx).is_ready();
                ready |= self.primary.connection().poll_ready(cx).is_ready();
                ready |= self.target_server.connection().poll_ready(cx).is_ready();
                ready |= self.replica.as_ref().is_some_and(|replica| replica.connection().poll_ready(cx).is_ready());
                ready |= timer.as_mut().poll(cx).is_ready();
                if let Some(comparing) = &mut self.comparing
                    && let Poll::Ready(result) = comparing.work.as_mut().poll(cx)
                {
                    compared = Some(result);
                    ready = true;
                }
                match orders.poll_recv(cx) {
                    Poll::Ready(None) => return Poll::Ready(true),
                    Poll::Ready(some) => order = some,
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

    fn order(&mut self, order: MoverCommand, now: Instant) {
        match order {
            MoverCommand::Finish { hold, deadline, done } => {
                if !matches!(self.phase, CopyPhase::CaughtUp) {
                    let _ = done.send(Err("the copy is not caught up; the hold came too early".into()));
                    return;
                }
                if !self.reports_groups {
                    self.changes.big.invalidate_streams(now.into_std());
                    for (db, key) in std::mem::take(&mut self.streams) {
                        // More than fit are more than a hold has time for.
                        if let Err(why) = self.changes.dirty.mark(db, &key) {
                            let _ = done.send(Err(why));
                            return;
                        }
                    }
                }
                let poll = self.primary.poll_now(now);
                let target_poll = self.target_server.poll_now(now);
                let before = (self.fetched, self.counters.keys);
                self.phase = CopyPhase::Cutover(Cutover::new(hold, deadline, done, (poll, target_poll), before, now));
            }
            MoverCommand::Resume(hold) => {
                let same = match &self.phase {
                    CopyPhase::Cutover(finishing) => finishing.hold == hold,
                    CopyPhase::Finished(finished) => *finished == hold,
                    CopyPhase::Copying | CopyPhase::Verifying | CopyPhase::CaughtUp => false,
                };
                if same {
                    self.resume();
                }
            }
        }
    }

    /// Reads the feed and changes what it tells.
    fn read_feed(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.feed.connection().fill();
        let Self { feed, changes, scan, source, target, asks, spec, carrying, replays, no_ttl, .. } = self;
        let mut wrong = Ok(());
        feed.drain(&mut |event| match event {
            Event::Changed { db, key, command: Some(command) } if *replays && spec.slots.has_key(key) => {
                target.select(db.unwrap_or(0), TargetRequest::Select);
                let args: Vec<&[u8]> = (0..command.len()).map(|i| command.get(i)).collect();
                target.send(&args, TargetRequest::Replayed);
            }
            Event::Changed { db, key, command } if spec.slots.has_key(key) => {
                no_ttl.changed(db, command);
                if let Err(why) = changes.change(scan, db, key, command, now) {
                    wrong = Err(why);
                }
            }
            Event::Changed { .. } => {}
            Event::UnknownCommand { db, command } => {
                let mut args: Vec<&[u8]> = vec![b"COMMAND", b"GETKEYS"];
                args.extend((0..command.len()).map(|i| command.get(i)));
                *asks += 1;
                let name = String::from_utf8_lossy(command.get(0)).into_owned();
                source.send(&args, SourceRequest::Keys { db, name });
            }
            Event::Functions => carrying.changed(),
        })?;
        wrong?;
        filled.map_err(|error| format!("the feed is stale: {error}"))?;
        feed.tick(now);
        let position = feed.position();
        if position != Some(self.still.0) {
            self.still = (position.unwrap_or(0), now);
        } else if position.is_some_and(|at| at < self.primary.status().offset)
            && now.saturating_duration_since(self.still.1) > FEED_STILL_MAX
        {
            return Err(format!(
                "the feed of {} has stood still for {} s while its primary went on",
                self.spec.feed.addr,
                FEED_STILL_MAX.as_secs()
            ));
        }
        Ok(())
    }

    /// Asks what is due, over the pipelines.
    fn ask_around(&mut self, now: Instant) {
        self.source.request_stats(now, SourceRequest::Stats);
        if self.is_writing() {
            self.target.request_stats(now, TargetRequest::Stats);
            self.carry_libraries();
        }
        if now.saturating_duration_since(self.keyspace_asked) >= KEYSPACE_EVERY {
            self.ask_keyspace(now);
        }
    }

    /// Passes the verification's barriers, and tells it what is at rest.
    fn serve_comparison(&mut self, now: Instant) {
        let Some(comparing) = &mut self.comparing else { return };
        comparing.barrier = match comparing.barrier {
            Some((poll, false)) if self.primary.polled(poll) => {
                self.feed.begin_barrier(self.primary.status().offset);
                Some((poll, true))
            }
            Some((_, true)) if self.feed.passed_barrier() => {
                if let Some(watched) = &self.changes.watched {
                    watched.borrow_mut().passed += 1;
                }
                None
            }
            None if self.changes.watched.as_ref().is_some_and(|w| w.borrow().passed < w.borrow().requested) => {
                Some((self.primary.poll_now(now), false))
            }
            other => other,
        };
        self.changes.settle(self.answered, self.flying > 0);
    }

    fn start_comparison(&mut self) {
        let watched = Rc::new(RefCell::new(WatchedKeys { begun: self.begun, ..WatchedKeys::default() }));
        self.changes.watched = Some(watched.clone());
        self.comparing = Some(Comparing::start(self.spec, self.keys_total, self.reports_groups, watched));
        self.phase = CopyPhase::Verifying;
    }

    /// Copies on after a hold.
    pub fn resume(&mut self) {
        self.phase = CopyPhase::CaughtUp;
    }

    /// Whether writers are stopped, so that nothing is gained by going slowly.
    pub fn is_finishing(&self) -> bool {
        matches!(self.phase, CopyPhase::Cutover(_))
    }

    /// Asks which databases have keys; [`CopyEngine::keyspaces`] counts the answers. Returns the count that this answer will make.
    pub fn ask_keyspace(&mut self, now: Instant) -> u64 {
        self.keyspace_asked = now;
        self.source.send(&[b"INFO", b"keyspace"], SourceRequest::Keyspace);
        self.no_ttl.begin_poll()
    }

    /// Whether anything may be sent to the target.
    pub fn is_writing(&self) -> bool {
        !matches!(self.phase, CopyPhase::Finished(_))
    }

    /// The share of the servers' time that may be used now; 1: all of it.
    pub fn share(&mut self, now: Instant) -> f64 {
        let feed_server = self.replica.as_ref().unwrap_or(&self.primary);
        let source = self.share_source.adapt(feed_server, now);
        let target = self.share_target.adapt(&self.target_server, now);
        self.burst_share = source.min(target);
        self.burst_share
    }

    /// Whether a burst may begin now, or when. Only asked while the share is below 1.
    pub fn burst_until(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        // The next burst begins when the last one is answered by both servers: so its time is theirs.
        if let Some(began) = self.burst {
            if !self.source.awaited.is_empty() || !self.target.awaited.is_empty() || !self.ready.is_empty() {
                return Err(None);
            }
            self.burst = None;
            self.rests.worked(now.saturating_duration_since(began), self.burst_share, now);
        }
        match self.rests.until(now) {
            Some(until) => Err(Some(until)),
            None => Ok(()),
        }
    }

    /// A burst begins.
    pub fn begin_burst(&mut self, now: Instant) {
        self.burst.get_or_insert(now);
    }

    /// The load of a server, from INFO stats over one of the pipelines.
    pub fn load(&mut self, stats: &[u8], ours: u64, of_target: bool, now: Instant) {
        let server = match (&mut self.replica, of_target) {
            (_, true) => &mut self.target_server,
            (Some(replica), false) => replica,
            (None, false) => &mut self.primary,
        };
        server.load(stats, ours, now);
    }

    /// Keys that wait or are on their way.
    pub fn waiting(&self) -> usize {
        self.found.len() + self.changes.dirty.len() + self.flying + self.asks
    }

    fn queue_ms(&self) -> u64 {
        (self.waiting() as f64 * 1000.0 / self.rate_most) as u64 + self.big_ms().0
    }

    fn lag(&self) -> u64 {
        self.feed.position().map_or(0, |at| self.primary.status().offset.saturating_sub(at))
    }

    fn report(&mut self, now: Instant, reports: &watch::Sender<Report>) {
        let passed = now.saturating_duration_since(self.reported).as_secs_f64();
        if passed > 0.0 {
            let rate = (self.counters.keys - self.reported_keys) as f64 / passed;
            self.rate += (rate - self.rate) * passed.min(1.0);
            let busy = self.waiting() > BUSY;
            if busy && self.was_busy {
                self.rate_most += (rate.max(1.0) - self.rate_most) * 0.3;
            }
            self.was_busy = busy;
            self.reported = now;
            self.reported_keys = self.counters.keys;
        }
        let (queue_ms, lag_bytes) = (self.queue_ms(), self.lag());
        let near = self.scan.is_done() && self.found.is_empty() && self.carrying.is_done() && self.contended_fits();
        let close = near && queue_ms <= CAUGHT_UP_MS && lag_bytes <= LAG_MAX;
        match &self.phase {
            CopyPhase::Copying if close && self.spec.verify != Verify::None && self.verified.is_none() => {
                self.start_comparison()
            }
            CopyPhase::Copying if close => self.phase = CopyPhase::CaughtUp,
            CopyPhase::CaughtUp if !near || queue_ms > BEHIND_MS => self.phase = CopyPhase::Copying,
            _ => {}
        }
        let big = self.changes.big.written();
        let counters = Counters {
            keys: self.counters.keys + self.changes.big.cleaned(),
            bytes: self.counters.bytes + big.1,
            refetched: self.counters.refetched + big.2,
            dirty: self.changes.dirty.len() as u64,
            ..self.counters
        };
        self.waiting_on = self.why_slow();
        let state = match &self.phase {
            CopyPhase::Copying => State::Copying,
            CopyPhase::Verifying => State::Verifying,
            CopyPhase::CaughtUp => State::CaughtUp,
            CopyPhase::Cutover(finishing) => State::Finishing(finishing.hold),
            CopyPhase::Finished(hold) => State::Finished(*hold),
        };
        reports.send_modify(|report| {
            report.state = state;
            report.counters = counters;
            report.dirty = (self.changes.dirty.len() + self.asks + self.changes.big.remaining().keys) as u64;
            report.keys_total = self.keys_total.max(counters.keys.saturating_sub(counters.refetched));
            report.keys_per_second = self.rate as u64;
            report.lag_bytes = lag_bytes;
            report.queue_ms = queue_ms + self.big_ms().1;
            report.waiting_on.clone_from(&self.waiting_on);
            report.verified = self.verified.or_else(|| self.comparing.as_ref().map(|c| *c.progress.borrow()));
            report.write_contended = self.changes.big.write_contended();
            report.write_contended.truncate(Report::CONTENDED_MAX);
        });
    }

    fn why_slow(&self) -> String {
        let feed_server = self.replica.as_ref().unwrap_or(&self.primary);
        let ping = |server: &ServerMonitor| {
            let ms = |d: Duration| d.as_secs_f64() * 1000.0;
            format!(
                "{} is slow (PING {:.1} ms, at rest {:.1} ms)",
                server.connection().addr(),
                ms(server.ping(self.reported)),
                ms(server.baseline())
            )
        };
        if self.share_source.is_slow() {
            ping(feed_server)
        } else if self.share_target.is_slow() {
            ping(&self.target_server)
        } else if self.lag() > LAG_MAX {
            format!("the feed of {} is behind", self.spec.feed.addr)
        } else {
            self.why_contended().unwrap_or_default()
        }
    }
}
