//! Copies keys from the source to the target: fetches what SCAN finds and what changed, and writes it.
//! Knows nothing of holds, of phases and of how changes are learned.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    in_flight::InFlight,
    libraries::{LibraryCopy, LibrarySide},
    monitors::Monitors,
    pacing::Pacing,
    requests::{FetchKey, SourceRequest, TargetRequest},
    source::SourceReader,
    target::{TargetWriter, dump_value, is_version_refused},
};
use crate::{
    model::migration::Counters,
    mover::{
        big_key::Requests,
        expiry::Expiry,
        io::{
            pace::BURST,
            pipeline::Pipeline,
            scan::{bulks, text},
        },
        payload,
        spec::CopySpec,
        track::{changes::ChangeTracker, dirty::DbKey, no_ttl::NoTtl},
    },
    redis::Info,
    resp::number,
};

/// No chunks are requested while the target's socket has not accepted this many bytes.
const OUTPUT_MAX: usize = 4 << 20;
/// Elements that a target writes in a millisecond; a low estimate, measured 500 to 1,000.
const ELEMENTS_PER_MS: u64 = 400;
/// Part of a hold's budget that copying write-contended keys may take.
const HOLD_PART: u64 = 2;

/// The copy of keys between two servers.
pub(super) struct KeyCopier<'a> {
    spec: &'a CopySpec,
    pub source: SourceReader,
    pub target: TargetWriter,
    pub changes: ChangeTracker,
    pub libraries: LibraryCopy,
    /// Databases none of whose keys has a time to live.
    pub no_ttl: NoTtl,
    pub pacing: Pacing,
    pub in_flight: InFlight,
    pub counters: Counters,
    /// See [`Feed::reports_stream_groups`](crate::mover::feed::Feed::reports_stream_groups).
    reports_groups: bool,
    /// Streams that were copied, if the feed does not report changes of their groups.
    streams: HashSet<(u32, Bytes)>,
}

impl<'a> KeyCopier<'a> {
    /// Nothing is copied yet. `counters`: what was done to the target before.
    pub fn new(
        spec: &'a CopySpec,
        source: SourceReader,
        target: TargetWriter,
        pacing: Pacing,
        reports_groups: bool,
        counters: Counters,
    ) -> Self {
        Self {
            spec,
            source,
            target,
            changes: ChangeTracker::default(),
            libraries: LibraryCopy::default(),
            no_ttl: NoTtl::default(),
            pacing,
            in_flight: InFlight::default(),
            counters,
            reports_groups,
            streams: HashSet::new(),
        }
    }

    /// Handles what the source has sent.
    ///
    /// # Errors
    /// Returns as text for the operator why the copy failed.
    pub fn handle_source(&mut self, monitors: &mut Monitors, now: Instant) -> Result<(), String> {
        let filled = self.source.pipeline.connection.fill();
        while let Some((len, request)) = self.source.pipeline.next_reply()? {
            self.source_reply(request, len, monitors, now)?;
            self.source.pipeline.done(len);
        }
        filled.map_err(|error| format!("the source is lost: {error}"))?;
        self.source.pipeline.check(now)
    }

    fn source_reply(
        &mut self,
        request: SourceRequest,
        len: usize,
        monitors: &mut Monitors,
        now: Instant,
    ) -> Result<(), String> {
        let reply = self.source.pipeline.reply(len);
        if reply[0] == b'-' && !matches!(request, SourceRequest::Chunk(..) | SourceRequest::Libraries) {
            let text = String::from_utf8_lossy(&reply[1..len - 2]);
            return Err(request.error(self.source.pipeline.connection.addr(), &text));
        }
        match request {
            SourceRequest::Select => {}
            SourceRequest::ExpireTime => self.source.expire_time_reply(len)?,
            SourceRequest::Time => self.source.time_reply(len)?,
            SourceRequest::Ttl => self.source.ttl_reply(len)?,
            SourceRequest::Size(key) => self.source.size_reply(key, len),
            SourceRequest::Value(key, estimate) => self.copy_value(key, estimate, len),
            SourceRequest::Big(item, any_size) => self.begin_big(item, any_size, now),
            SourceRequest::Chunk(id, db) => {
                self.source.values_read += 1;
                let mut out = Requests::default();
                let handled = self.changes.big.source_reply(id, reply, &mut out, now.into_std());
                handled.map_err(|error| error.to_string())?;
                let target = &mut self.target.pipeline;
                let bytes = send(target, db, &mut out, TargetRequest::Select, || TargetRequest::Chunk(id));
                self.pacing.meter.bytes(bytes);
            }
            SourceRequest::KeyPage => {
                let big = &self.changes.big;
                let count = self.source.page_reply(len, &self.spec.slots, |db, key| big.contains(db, key))?;
                self.counters.scanned += count;
            }
            SourceRequest::Keys { db, name } => {
                let keys = bulks(reply).ok_or_else(|| self.source.unknown_form(&format!("COMMAND GETKEYS {name}")))?;
                for key in keys.iter().filter(|key| self.spec.slots.has_key(key)) {
                    self.no_ttl.changed(db, None);
                    self.changes.change(&mut self.source.scan, db, key, None, now)?;
                }
                self.source.key_queries -= 1;
            }
            SourceRequest::Keyspace => {
                let info = text(reply).ok_or_else(|| self.source.unknown_form("INFO"))?;
                let info = Info::parse(&String::from_utf8_lossy(info));
                self.source.keyspace_replies += 1;
                let none = info.expires().into_iter().filter(|(_, count)| *count == 0).map(|(db, _)| db);
                self.no_ttl.answered(self.source.keyspace_replies, none);
                for db in info.keyspace().keys() {
                    self.source.scan.add(*db);
                }
            }
            SourceRequest::Libraries => {
                let addr = self.source.pipeline.connection.addr();
                self.libraries.reply(LibrarySide::Source, addr, reply, &mut self.target.pipeline)?;
            }
            SourceRequest::Stats(ours) => {
                let stats = text(reply).ok_or_else(|| self.source.unknown_form("INFO"))?;
                monitors.feed_server_mut().load(stats, ours, now);
            }
        }
        Ok(())
    }

    /// Writes a value that the source has sent.
    fn copy_value(&mut self, key: FetchKey, estimate: usize, len: usize) {
        self.source.values_read += 1;
        self.in_flight.received(estimate);
        let number = key.number;
        if self.changes.big.contains(key.item.db, &key.item.key) {
            // The key was small when this was requested, is big now and is copied in chunks. All chunks were requested
            // later, and would be appended to a list that exists already.
            self.target.pipeline.send(&[b"PING"], TargetRequest::Superseded { number, estimate });
            return;
        }
        let reply = self.source.pipeline.reply(len);
        let kind = payload::kind(dump_value(reply));
        if kind.is_some_and(|kind| self.target.unknown.contains(&kind)) {
            self.target.pipeline.send(&[b"PING"], TargetRequest::Superseded { number, estimate });
            self.queue_elements(key.item, kind);
            return;
        }
        let expiry = if key.ttl { self.source.expiry } else { Expiry::Never };
        let Some(lowered) = self.target.write_value(&key.item, reply, expiry) else {
            self.target.pipeline.expect(TargetRequest::Unlink { number, estimate });
            return;
        };
        self.pacing.meter.bytes(len);
        if !self.reports_groups && kind.is_some_and(payload::is_stream) {
            self.streams.insert((key.item.db, key.item.key.clone()));
        }
        self.target.pipeline.expect(TargetRequest::Restore { key, bytes: len, estimate, lowered, kind });
    }

    /// Copies a key by its elements, since the target does not know payloads of this kind.
    fn queue_elements(&mut self, item: DbKey, kind: Option<u8>) {
        // `BigKeys` may forget a stream that is clean.
        if !self.reports_groups && kind.is_some_and(payload::is_stream) {
            self.streams.insert((item.db, item.key.clone()));
        }
        self.source.queue_elements(item);
    }

    /// Handles what the target has sent.
    ///
    /// # Errors
    /// Returns as text for the operator why the copy failed.
    pub fn handle_target(&mut self, monitors: &mut Monitors, now: Instant) -> Result<(), String> {
        let filled = self.target.pipeline.connection.fill();
        while let Some((len, request)) = self.target.pipeline.next_reply()? {
            self.target_reply(request, len, monitors, now)?;
            self.target.pipeline.done(len);
        }
        filled.map_err(|error| format!("the target is lost: {error}"))?;
        self.target.pipeline.check(now)
    }

    fn target_reply(
        &mut self,
        request: TargetRequest,
        len: usize,
        monitors: &mut Monitors,
        now: Instant,
    ) -> Result<(), String> {
        let reply = self.target.pipeline.reply(len);
        match (request, reply[0]) {
            (TargetRequest::Restore { key, estimate, lowered: false, .. }, b'-') if is_version_refused(reply) => {
                // From now on versions are lowered, and this key is fetched again.
                self.target.lowers = true;
                self.in_flight.complete(key.number, estimate);
                self.changes.dirty.mark(key.item.db, &key.item.key)?;
            }
            (TargetRequest::Restore { key, estimate, kind: Some(kind), .. }, b'-')
                if is_version_refused(reply) && payload::has_elements(kind) =>
            {
                self.target.unknown.insert(kind);
                self.in_flight.complete(key.number, estimate);
                self.queue_elements(key.item, Some(kind));
            }
            (TargetRequest::Chunk(id), _) => {
                let handled = self.changes.big.target_reply(id, reply, now.into_std());
                handled.map_err(|error| error.to_string())?;
            }
            (TargetRequest::Libraries, _) => {
                let (reply, addr) = (Bytes::copy_from_slice(reply), self.target.pipeline.connection.addr().clone());
                self.libraries.reply(LibrarySide::Target, &addr, &reply, &mut self.target.pipeline)?;
            }
            (TargetRequest::Replayed, _) => {}
            (request, b'-') => {
                let text = String::from_utf8_lossy(&reply[1..len - 2]);
                return Err(request.error(self.target.pipeline.connection.addr(), &text));
            }
            (TargetRequest::Select | TargetRequest::Ping | TargetRequest::Load, _) => {}
            (TargetRequest::Restore { key, bytes, estimate, .. }, _) => {
                self.counters.keys += 1;
                self.counters.bytes += bytes as u64;
                self.in_flight.complete(key.number, estimate);
            }
            (TargetRequest::Unlink { number, estimate }, _) => {
                self.counters.deleted += u64::from(reply != b":0\r\n");
                self.in_flight.complete(number, estimate);
            }
            (TargetRequest::Superseded { number, estimate }, _) => self.in_flight.complete(number, estimate),
            (TargetRequest::Wait(wanted), _) => {
                let got = number::parse(&reply[1..len - 2]).unwrap_or(0);
                self.target.waited.push((u32::try_from(got).unwrap_or(0), wanted));
            }
            (TargetRequest::Stats(ours), _) => monitors.target.load(text(reply).unwrap_or_default(), ours, now),
        }
        Ok(())
    }

    /// Requests as much as there is to do and room for. `held`: clients are waiting, so nothing is gained by going
    /// slowly. Returns when to call it again if nothing happens.
    pub fn request_work(&mut self, monitors: &Monitors, held: bool, now: Instant) -> Option<Instant> {
        self.source.request_values(&mut self.in_flight);
        let mut room = self.in_flight.room();
        let mut shared = false;
        if !held {
            shared = self.pacing.share(monitors, now) < 1.0;
            if shared {
                let idle = self.source.is_idle() && self.target.is_idle();
                match self.pacing.burst_until(idle, now) {
                    Ok(()) => room = room.min(BURST),
                    Err(until) => return until,
                }
            }
            room = room.min(self.pacing.allowed(now));
        }
        if room == 0 {
            return None;
        }
        let rounds = if shared { 1 } else { usize::MAX };
        let requested =
            self.request_sizes(room) + self.request_chunks(rounds, held, now) + self.source.request_page(shared);
        if requested > 0 {
            self.pacing.begin_burst(now);
        }
        None
    }

    fn request_sizes(&mut self, room: usize) -> usize {
        let mut started = 0;
        while started < room && !self.changes.big.is_full() {
            // Keys that SCAN found come first: this removes their marks and saves a second fetch.
            let (item, ttl) = match self.source.found.pop_front() {
                Some(item) => {
                    // In a database with no TTL this key has none. If it has got one since, an event has marked it.
                    let ttl = self.changes.dirty.clear(&item) || !self.no_ttl.has(item.db);
                    (item, ttl)
                }
                None if self.source.scan.is_done() => {
                    let Some(item) = self.changes.dirty.pop() else { break };
                    self.counters.refetched += 1;
                    (item, true)
                }
                None => break,
            };
            self.begin_small(item, ttl);
            started += 1;
        }
        started
    }

    fn begin_small(&mut self, item: DbKey, ttl: bool) {
        let number = self.in_flight.start();
        self.pacing.meter.key();
        if let Some(watched) = &self.changes.watched {
            watched.borrow_mut().fetch(item.db, &item.key, number);
        }
        self.source.request_size(FetchKey { item, ttl, number });
    }

    /// Starts the copy of a key that is too big for one DUMP, or whose encoding the target does not know (`any_size`).
    /// Everything that was requested of it before is written.
    fn begin_big(&mut self, item: DbKey, any_size: bool, now: Instant) {
        // The fetch of the other ones has ended with the answer of the target.
        if !any_size {
            self.in_flight.cancel();
        }
        // SCAN returned it a second time: that adds nothing to its events.
        if self.changes.big.contains(item.db, &item.key) {
            return;
        }
        // Nothing of it is requested yet, so what will be requested covers an older mark.
        self.changes.dirty.clear(&item);
        self.changes.big.begin(item.db, item.key, any_size, now.into_std());
    }

    /// Requests at most `rounds` rounds of big keys. Returns the number of rounds and of keys that turned out to be
    /// small.
    fn request_chunks(&mut self, rounds: usize, held: bool, now: Instant) -> usize {
        self.changes.big.set_urgent(held);
        let mut requested = 0;
        let (mut source, mut target) = (Requests::default(), Requests::default());
        while requested < rounds && self.target.pipeline.connection.output.len() < OUTPUT_MAX {
            let Some(round) = self.changes.big.next_round(now.into_std(), &mut source, &mut target) else { break };
            let (id, db) = (round.id, round.db);
            send(&mut self.target.pipeline, db, &mut target, TargetRequest::Select, || TargetRequest::Chunk(id));
            send(&mut self.source.pipeline, db, &mut source, SourceRequest::Select, || SourceRequest::Chunk(id, db));
            requested += 1;
        }
        while let Some(returned) = self.changes.big.take_returned() {
            let item = DbKey { db: returned.db, key: returned.key };
            if returned.dump_only {
                let number = self.in_flight.start();
                self.source.queue_whole(FetchKey { item, ttl: true, number });
            } else {
                self.begin_small(item, true);
            }
            requested += 1;
        }
        requested
    }

    /// Marks everything dirty whose changes the feed does not report: streams, if it does not report changes of their
    /// groups.
    ///
    /// # Errors
    /// Too many keys are dirty: more than a hold has time for.
    pub fn mark_unreported(&mut self, now: Instant) -> Result<(), String> {
        if self.reports_groups {
            return Ok(());
        }
        self.changes.big.invalidate_streams(now.into_std());
        std::mem::take(&mut self.streams).iter().try_for_each(|(db, key)| self.changes.dirty.mark(*db, key))
    }

    /// Estimated milliseconds of copying big keys: of those that become clean while they are written, and of
    /// write-contended ones.
    pub fn big_ms(&self) -> (u64, u64) {
        let remaining = self.changes.big.remaining();
        (remaining.elements / ELEMENTS_PER_MS, remaining.contended_elements / ELEMENTS_PER_MS)
    }

    /// Whether the write-contended keys can be copied under a hold.
    pub fn contended_fits(&self) -> bool {
        self.big_ms().1 <= self.pacing.hold_ms() / HOLD_PART
    }

    /// Why the slots cannot be held, if a write-contended key is the reason, as text for the operator.
    pub fn why_contended(&self) -> Option<String> {
        if self.contended_fits() {
            return None;
        }
        let write_contended = self.changes.big.write_contended();
        let first = write_contended.first()?;
        Some(format!(
            "{first} is written faster than it can be copied; its copy takes about {} ms while the slots are held: raise \
             hold-max to twice that, or pause its writers",
            self.big_ms().1
        ))
    }

    /// Keys that wait or are in flight.
    pub fn waiting(&self) -> usize {
        self.source.found.len() + self.changes.dirty.len() + self.in_flight.keys() + self.source.key_queries
    }

    /// Whether everything is written and nothing is outstanding.
    pub fn is_drained(&self) -> bool {
        self.waiting() == 0
            && self.changes.big.is_clean()
            && self.libraries.is_done()
            && self.source.is_drained()
            && self.target.is_drained()
    }
}

/// Sends the requests of a big key's round. Returns their bytes.
fn send<T>(
    pipeline: &mut Pipeline<T>,
    db: u32,
    requests: &mut Requests,
    select: T,
    mut request: impl FnMut() -> T,
) -> usize {
    let (bytes, count) = requests.take();
    if count > 0 {
        pipeline.select(db, select);
        pipeline.out().extend_from_slice(&bytes);
        (0..count).for_each(|_| pipeline.expect(request()));
    }
    bytes.len()
}
