//! All big keys of a run: which is next, which are delayed, which never become clean.
//! Knows nothing of connections and of small keys.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{BigKeyError, BigKeyType, CHUNK_ELEMENTS, copy::BigCopy, copy::CopyStatus, requests::Requests, shown};
use crate::commands::Args;

/// Keys that are read concurrently: enough to use the time while one key's replies are outstanding, few enough that
/// their pages, which a server answers one after the other, delay no other client for long.
const READING_MAX: usize = 2;
/// Clean keys that are tracked, so that writes to them are fetched by field. A key that is no longer tracked is copied
/// again.
const CLEAN_MAX: usize = 32_768;
/// Number of keys that are not clean at which the engine stops adding more.
const WAITING_MAX: usize = 1_000;
/// Most bytes of names of dirty fields of all keys together; limits our memory. Beyond it a key becomes stale.
const NAMES_MAX: usize = 128 << 20;
/// Least delay before a stale copy is restarted: a key that was written once is often written again.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The delay is this many times the duration of the stale copy, so that a list that is written all the time uses at
/// most a fifth of the servers' copying time.
const RETRY_FACTOR: u32 = 4;
/// Largest delay before a stale copy is restarted: the writers may have stopped.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Invalidations in a row after which a key is reported as write-contended.
const CONTENDED_INVALIDATIONS: u32 = 3;
/// Most keys that are reported.
const CONTENDED_MAX: usize = 10;

/// Identifies a big key within a run; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BigId(u64);

/// The requests of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRound {
    /// Whose requests they are; the replies are passed back with this id.
    pub id: BigId,
    /// The database that must be selected at both servers.
    pub db: u32,
}

/// A key that is not copied in chunks after all. It must be fetched like a small one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnedKey {
    /// Its database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
    /// It has a module's type, which cannot be read in chunks: one DUMP, whatever its size.
    pub dump_only: bool,
}

/// What is still to be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemainingWork {
    /// Keys that are not clean.
    pub keys: usize,
    /// How many of them are stale and wait for their next try.
    pub delayed: usize,
    /// Elements of keys that become clean while they are written, as far as known. A piece of a string counts as a
    /// chunk.
    pub elements: u64,
    /// Elements of keys that become stale again and again, and become clean only while nobody writes to them.
    pub contended_elements: u64,
}

struct BigKeyEntry {
    db: u32,
    copy: BigCopy,
    /// It is in one of the queues.
    queued: bool,
    /// It counts among the keys that are being read.
    reading: bool,
    delayed: bool,
    /// It counts among the keys that became clean.
    counted: bool,
    /// Bytes of the names of its dirty fields, as counted in the total.
    names: usize,
    began: Instant,
}

/// All big keys of a run.
#[derive(Default)]
pub struct BigKeys {
    entries: BTreeMap<BigId, BigKeyEntry>,
    by_key: HashMap<u32, HashMap<Bytes, BigId>>,
    last: u64,
    /// Keys with dirty fields.
    fields: VecDeque<BigId>,
    /// Keys being read.
    pages: VecDeque<BigId>,
    /// Keys whose copy has not started.
    fresh: VecDeque<BigId>,
    delayed: BTreeSet<(Instant, BigId)>,
    unclean: BTreeSet<BigId>,
    /// Clean keys, the longest clean first. May contain keys that are no longer clean.
    clean: VecDeque<BigId>,
    /// Bytes of names of dirty fields of all keys.
    names: usize,
    reading: usize,
    pages_are_next: bool,
    urgent: bool,
    returned: VecDeque<ReturnedKey>,
    cleaned: u64,
    /// Totals of keys that are no longer tracked: elements, bytes, fields fetched again.
    done: (u64, u64, u64),
}

impl BigKeys {
    /// Starts the copy of a key that is probably big. A key that is tracked already is copied again. `any_size`: also if it
    /// is small.
    pub fn begin(&mut self, db: u32, key: Bytes, any_size: bool, now: Instant) {
        if let Some(id) = self.find(db, &key) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.copy.invalidate();
            }
            self.requeue(id, now);
            return;
        }
        self.last += 1;
        let id = BigId(self.last);
        self.by_key.entry(db).or_default().insert(key.clone(), id);
        let entry = BigKeyEntry {
            db,
            copy: BigCopy::new(key, any_size),
            queued: false,
            reading: false,
            delayed: false,
            counted: false,
            names: 0,
            began: now,
        };
        self.entries.insert(id, entry);
        self.requeue(id, now);
        self.evict_clean();
    }

    fn find(&self, db: u32, key: &[u8]) -> Option<BigId> {
        self.by_key.get(&db)?.get(key).copied()
    }

    /// Whether a key is tracked.
    #[must_use]
    pub fn contains(&self, db: u32, key: &[u8]) -> bool {
        self.find(db, key).is_some()
    }

    /// Applies a command of the feed that names this key. Returns `false` if the key is not tracked; then it must be
    /// marked dirty like a small one.
    pub fn event<A: Args + ?Sized>(&mut self, db: u32, key: &[u8], args: &A, now: Instant) -> bool {
        self.change(db, key, now, |copy| copy.event(args))
    }

    /// Applies a change of which only the fact is known. Returns `false` if the key is not tracked.
    pub fn invalidate(&mut self, db: u32, key: &[u8], now: Instant) -> bool {
        self.change(db, key, now, BigCopy::invalidate)
    }

    fn change(&mut self, db: u32, key: &[u8], now: Instant, change: impl FnOnce(&mut BigCopy)) -> bool {
        let Some(id) = self.find(db, key) else { return false };
        if let Some(entry) = self.entries.get_mut(&id) {
            change(&mut entry.copy);
            if self.names.saturating_sub(entry.names) + entry.copy.name_bytes() > NAMES_MAX {
                entry.copy.invalidate();
            }
        }
        self.requeue(id, now);
        true
    }

    /// Marks all streams stale: the tracking feed does not report changes of their groups.
    pub fn invalidate_streams(&mut self, now: Instant) {
        let ids: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.copy.kind() == Some(BigKeyType::Stream)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.copy.invalidate();
            }
            self.requeue(id, now);
        }
    }

    /// Sets whether stale copies are restarted at once: under a hold nobody writes.
    pub fn set_urgent(&mut self, urgent: bool) {
        self.urgent = urgent;
    }

    /// Appends the requests of one key's next round. Returns `None` if there is nothing to do before a reply, an event
    /// or the end of a delay. The requests in `target` must be sent before the requests that later replies produce.
    pub fn next_round(&mut self, now: Instant, source: &mut Requests, target: &mut Requests) -> Option<KeyRound> {
        self.requeue_delayed(now);
        for _ in 0..2 {
            self.pages_are_next = !self.pages_are_next;
            while let Some(id) = if self.pages_are_next { self.next_page(now) } else { self.fields.pop_front() } {
                let Some(entry) = self.entries.get_mut(&id) else { continue };
                entry.queued = false;
                let db = entry.db;
                let before = source.count();
                entry.copy.next_round(source, target);
                self.count_names(id);
                if source.count() > before {
                    return Some(KeyRound { id, db });
                }
            }
        }
        None
    }

    fn next_page(&mut self, now: Instant) -> Option<BigId> {
        if let Some(id) = self.pages.pop_front() {
            return Some(id);
        }
        if self.reading >= READING_MAX {
            return None;
        }
        let id = self.fresh.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&id) {
            (entry.reading, entry.began) = (true, now);
            self.reading += 1;
        }
        Some(id)
    }

    /// Queues the stale copies whose delay has passed.
    fn requeue_delayed(&mut self, now: Instant) {
        while let Some((at, id)) = self.delayed.first().copied().filter(|(at, _)| self.urgent || *at <= now) {
            self.delayed.remove(&(at, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                (entry.delayed, entry.queued) = (false, true);
                self.fresh.push_back(id);
            }
        }
    }

    /// When [`BigKeys::next_round`] may have something to do although nothing else has happened.
    #[must_use]
    pub fn next_retry(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Consumes the source's next reply for this key and appends the requests that it produces for the target.
    ///
    /// # Errors
    /// The run cannot continue.
    pub fn source_reply(
        &mut self,
        id: BigId,
        reply: &[u8],
        target: &mut Requests,
        now: Instant,
    ) -> Result<(), BigKeyError> {
        self.apply_reply(id, now, |copy| copy.source_reply(reply, target))
    }

    /// Consumes the target's next reply for this key.
    ///
    /// # Errors
    /// The run cannot continue.
    pub fn target_reply(&mut self, id: BigId, reply: &[u8], now: Instant) -> Result<(), BigKeyError> {
        self.apply_reply(id, now, |copy| copy.target_reply(reply))
    }

    fn apply_reply(
        &mut self,
        id: BigId,
        now: Instant,
        apply: impl FnOnce(&mut BigCopy) -> Result<(), BigKeyError>,
    ) -> Result<(), BigKeyError> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Err(BigKeyError::UnexpectedReply { key: format!("big key {}", id.0) });
        };
        apply(&mut entry.copy)?;
        self.requeue(id, now);
        Ok(())
    }

    fn count_names(&mut self, id: BigId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let names = entry.copy.name_bytes();
            self.names = self.names.saturating_sub(std::mem::replace(&mut entry.names, names)) + names;
        }
    }

    /// Moves a key to the queue that matches its state.
    fn requeue(&mut self, id: BigId, now: Instant) {
        self.count_names(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let status = entry.copy.status();
        if entry.delayed {
            return;
        }
        let stale = entry.copy.is_stale();
        entry.counted &= !stale;
        if entry.reading && (stale || status != CopyStatus::Copying) {
            entry.reading = false;
            self.reading -= 1;
        }
        if let CopyStatus::NotBig { dump_only } = status {
            self.remove(id, Some(dump_only));
            return;
        }
        if status == CopyStatus::Clean {
            entry.copy.reset_invalidations();
            self.cleaned += u64::from(!std::mem::replace(&mut entry.counted, true));
            if self.unclean.remove(&id) {
                self.clean.push_back(id);
                self.forget_requeued();
            }
            return;
        }
        self.unclean.insert(id);
        if entry.queued || !entry.copy.has_work() {
            return;
        }
        if stale && !self.urgent {
            let wait = (now.saturating_duration_since(entry.began) * RETRY_FACTOR).clamp(RETRY_MIN, RETRY_MAX);
            entry.delayed = true;
            self.delayed.insert((now + wait, id));
            return;
        }
        entry.queued = true;
        match status {
            CopyStatus::Settling => self.fields.push_back(id),
            _ if entry.reading => self.pages.push_back(id),
            _ => self.fresh.push_back(id),
        }
    }

    fn remove(&mut self, id: BigId, back: Option<bool>) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.names = self.names.saturating_sub(entry.names);
        self.unclean.remove(&id);
        if let Some(keys) = self.by_key.get_mut(&entry.db) {
            keys.remove(entry.copy.key());
        }
        let (elements, bytes, refetched) = entry.copy.written();
        self.done = (self.done.0 + elements, self.done.1 + bytes, self.done.2 + refetched);
        if let Some(dump_only) = back {
            self.returned.push_back(ReturnedKey { db: entry.db, key: entry.copy.key().clone(), dump_only });
        }
    }

    /// Drops what `clean` has of keys that are not clean, are gone, or became clean again later: a key that is written all the
    /// time would add to it without end.
    fn forget_requeued(&mut self) {
        if self.clean.len() <= 2 * CLEAN_MAX {
            return;
        }
        let mut seen = BTreeSet::new();
        let newest = std::mem::take(&mut self.clean).into_iter().rev();
        let mut newest: Vec<BigId> = newest
            .filter(|id| self.entries.contains_key(id) && !self.unclean.contains(id) && seen.insert(*id))
            .collect();
        newest.reverse();
        self.clean = newest.into();
    }

    fn evict_clean(&mut self) {
        while self.entries.len() > CLEAN_MAX {
            let Some(id) = self.clean.pop_front() else { return };
            if self.entries.contains_key(&id) && !self.unclean.contains(&id) {
                self.remove(id, None);
            }
        }
    }

    /// The next key that must be fetched like a small one.
    pub fn take_returned(&mut self) -> Option<ReturnedKey> {
        self.returned.pop_front()
    }

    /// Whether the engine must not start more big keys now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unclean.len() >= WAITING_MAX
    }

    /// Whether the target has everything that the source had after the last event that was reported.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unclean.is_empty() && self.returned.is_empty()
    }

    /// How often a key became clean after it was started or stale.
    #[must_use]
    pub fn cleaned(&self) -> u64 {
        self.cleaned
    }

    /// The database of a key.
    #[must_use]
    pub fn database(&self, id: BigId) -> Option<u32> {
        self.entries.get(&id).map(|entry| entry.db)
    }

    /// What is still to be copied.
    #[must_use]
    pub fn remaining(&self) -> RemainingWork {
        let mut left =
            RemainingWork { keys: self.unclean.len(), delayed: self.delayed.len(), ..RemainingWork::default() };
        for entry in self.unclean.iter().filter_map(|id| self.entries.get(id)) {
            if entry.copy.invalidations() >= CONTENDED_INVALIDATIONS {
                // All of its elements, since the copy will become stale again.
                left.contended_elements += entry.copy.total() * weight(&entry.copy);
            } else {
                left.elements += entry.copy.remaining() * weight(&entry.copy);
            }
        }
        left
    }

    /// Elements written, their bytes, and fields fetched again, of all keys.
    #[must_use]
    pub fn written(&self) -> (u64, u64, u64) {
        self.entries.values().map(|e| e.copy.written()).fold(self.done, |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
    }

    /// Keys that are written faster than they can be copied, as text for the operator.
    #[must_use]
    pub fn write_contended(&self) -> Vec<String> {
        self.unclean
            .iter()
            .filter_map(|id| self.entries.get(id))
            .filter(|entry| entry.copy.invalidations() >= CONTENDED_INVALIDATIONS)
            .take(CONTENDED_MAX)
            .map(|entry| {
                let kind = entry.copy.kind().map_or("key", BigKeyType::name);
                let key = shown(entry.copy.key());
                format!("{kind} '{key}' in database {} ({} elements)", entry.db, entry.copy.remaining())
            })
            .collect()
    }
}

/// A piece of a string takes about as long as a chunk of elements.
fn weight(copy: &BigCopy) -> u64 {
    if copy.kind() == Some(BigKeyType::String) { CHUNK_ELEMENTS as u64 } else { 1 }
}
