//! All big keys of a run: whose turn it is, which come late, which are never clean.
//! Knows nothing of connections, and of keys that are not big.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{BigKeyError, BigKeyType, CHUNK_ELEMENTS, copy::BigCopy, copy::CopyStanding, requests::Requests, shown};
use crate::commands::Args;

/// Keys that are being read at the same time: enough to fill the wait for one's answers with another's, few enough that
/// their pages, which a server answers one behind the other, hold nobody up for long.
const READING_MAX: usize = 2;
/// Clean keys that are remembered, so that what is written to them is fetched by field. A forgotten one is copied anew.
const CLEAN_MAX: usize = 32_768;
/// Keys that may wait for being read before the engine should stop looking for more.
const WAITING_MAX: usize = 1_000;
/// Most bytes of names of dirty fields, of all keys together: our memory. Beyond it a key is stale instead of noted.
const NAMES_MAX: usize = 128 << 20;
/// A stale copy is begun anew after this at the earliest: what is written once is often written again.
const LATE_MIN: Duration = Duration::from_millis(100);
/// It waits this many times what the stale one had taken, so that a list that is written all the time costs the servers a
/// fifth of the copying.
const LATE_FACTOR: u32 = 4;
/// A stale copy is begun anew after this at the latest: writers may have stopped.
const LATE_MAX: Duration = Duration::from_secs(30);
/// DataLossDetector in a row after which a key is shown to people.
const CONTENDED_INVALIDATIONS: u32 = 3;
/// Most keys that are shown.
const CONTENDED_MAX: usize = 10;

/// A big key of a run; never reused in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BigId(u64);

/// Requests of one key that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRound {
    /// Whose they are; its answers are given back under this id.
    pub id: BigId,
    /// The database that must be selected at both servers.
    pub db: u32,
}

/// A key that is not copied in pieces after all: to be fetched as any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnedKey {
    /// Its database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
    /// It is of a module's type, which has no pieces: one DUMP, however big it is.
    pub in_one_piece: bool,
}

/// What is still to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemainingWork {
    /// Keys that are not clean.
    pub keys: usize,
    /// Those of them that were stale and wait for their next try.
    pub late: usize,
    /// Elements of those that get clean, as far as known; a piece of a string counts as a chunk of them.
    pub elements: u64,
    /// Elements of those that are stale again and again, and get clean only when nobody writes to them.
    pub contended_elements: u64,
}

struct BigKeyEntry {
    db: u32,
    copy: BigCopy,
    /// It is in one of the queues.
    queued: bool,
    /// It counts among those being read.
    reading: bool,
    late: bool,
    /// It counts among those that got clean.
    counted: bool,
    /// Bytes of names of its dirty fields that are in the sum.
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
    /// Keys that have not been begun.
    fresh: VecDeque<BigId>,
    late: BTreeSet<(Instant, BigId)>,
    unclean: BTreeSet<BigId>,
    /// Clean ones, the longest clean first; ids may be here that have become unclean since.
    clean: VecDeque<BigId>,
    /// Bytes of names of dirty fields of all keys.
    names: usize,
    reading: usize,
    pages_are_next: bool,
    hurried: bool,
    back: VecDeque<ReturnedKey>,
    cleaned: u64,
    /// Of keys that are forgotten.
    done: (u64, u64, u64),
}

impl BigKeys {
    /// Takes a key that the engine's gate found big. One that is here already is copied anew.
    pub fn begin(&mut self, db: u32, key: Bytes, now: Instant) {
        if let Some(id) = self.find(db, &key) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.copy.invalidate();
            }
            self.place(id, now);
            return;
        }
        self.last += 1;
        let id = BigId(self.last);
        self.by_key.entry(db).or_default().insert(key.clone(), id);
        let entry = BigKeyEntry {
            db,
            copy: BigCopy::new(key),
            queued: false,
            reading: false,
            late: false,
            counted: false,
            names: 0,
            began: now,
        };
        self.entries.insert(id, entry);
        self.place(id, now);
        self.forget_clean();
    }

    fn find(&self, db: u32, key: &[u8]) -> Option<BigId> {
        self.by_key.get(&db)?.get(key).copied()
    }

    /// Whether a key is here.
    #[must_use]
    pub fn holds(&self, db: u32, key: &[u8]) -> bool {
        self.find(db, key).is_some()
    }

    /// A command of the feed has named this key. `false`: it is not here, and is to be noted as dirty like any other.
    pub fn event<A: Args + ?Sized>(&mut self, db: u32, key: &[u8], args: &A, now: Instant) -> bool {
        self.change(db, key, now, |copy| copy.event(args))
    }

    /// Something unknown has happened to this key. `false`: it is not here.
    pub fn invalidate(&mut self, db: u32, key: &[u8], now: Instant) -> bool {
        self.change(db, key, now, BigCopy::invalidate)
    }

    fn change(&mut self, db: u32, key: &[u8], now: Instant, change: impl FnOnce(&mut BigCopy)) -> bool {
        let Some(id) = self.find(db, key) else { return false };
        if let Some(entry) = self.entries.get_mut(&id) {
            change(&mut entry.copy);
            if self.names.saturating_sub(entry.names) + entry.copy.names() > NAMES_MAX {
                entry.copy.invalidate();
            }
        }
        self.place(id, now);
        true
    }

    /// All streams are to be copied anew: feed 2 does not tell of changes to their groups.
    pub fn invalidate_streams(&mut self, now: Instant) {
        let ids: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.copy.kind() == Some(BigKeyType::Stream)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.copy.invalidate();
            }
            self.place(id, now);
        }
    }

    /// Whether stale copies are begun anew at once: while the slots are held nobody writes.
    pub fn hurry(&mut self, hurried: bool) {
        self.hurried = hurried;
    }

    /// Appends the requests of one key's next round; `None`: nothing to do before answers, events or time come.
    /// What goes to `target` must be sent there before what later answers will make.
    pub fn ask(&mut self, now: Instant, source: &mut Requests, target: &mut Requests) -> Option<KeyRound> {
        self.wake(now);
        for _ in 0..2 {
            self.pages_are_next = !self.pages_are_next;
            while let Some(id) = if self.pages_are_next { self.next_page(now) } else { self.fields.pop_front() } {
                let Some(entry) = self.entries.get_mut(&id) else { continue };
                entry.queued = false;
                let db = entry.db;
                let before = source.count();
                entry.copy.ask(source, target);
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

    /// Lost copies whose time has come are begun anew.
    fn wake(&mut self, now: Instant) {
        while let Some((at, id)) = self.late.first().copied().filter(|(at, _)| self.hurried || *at <= now) {
            self.late.remove(&(at, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                (entry.late, entry.queued) = (false, true);
                self.fresh.push_back(id);
            }
        }
    }

    /// When [`BigKeys::ask`] may have something to ask although nothing else has happened.
    #[must_use]
    pub fn next_try(&self) -> Option<Instant> {
        self.late.first().map(|(at, _)| *at)
    }

    /// The source's next answer for this key; what it makes is appended for the target.
    ///
    /// # Errors
    /// The run cannot go on.
    pub fn answer(&mut self, id: BigId, reply: &[u8], target: &mut Requests, now: Instant) -> Result<(), BigKeyError> {
        self.told(id, now, |copy| copy.answer(reply, target))
    }

    /// The target's next answer for this key.
    ///
    /// # Errors
    /// The run cannot go on.
    pub fn target_answer(&mut self, id: BigId, reply: &[u8], now: Instant) -> Result<(), BigKeyError> {
        self.told(id, now, |copy| copy.target_answer(reply))
    }

    fn told(
        &mut self,
        id: BigId,
        now: Instant,
        tell: impl FnOnce(&mut BigCopy) -> Result<(), BigKeyError>,
    ) -> Result<(), BigKeyError> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Err(BigKeyError::Unasked { key: format!("big key {}", id.0) });
        };
        tell(&mut entry.copy)?;
        self.place(id, now);
        Ok(())
    }

    fn count_names(&mut self, id: BigId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let names = entry.copy.names();
            self.names = self.names.saturating_sub(std::mem::replace(&mut entry.names, names)) + names;
        }
    }

    /// Puts a key where it belongs after something has happened to it.
    fn place(&mut self, id: BigId, now: Instant) {
        self.count_names(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let standing = entry.copy.standing();
        if entry.late {
            return;
        }
        let stale = entry.copy.is_stale();
        entry.counted &= !stale;
        if entry.reading && (stale || standing != CopyStanding::Copying) {
            entry.reading = false;
            self.reading -= 1;
        }
        if let CopyStanding::NotOurs { in_one_piece } = standing {
            self.remove(id, Some(in_one_piece));
            return;
        }
        if standing == CopyStanding::Clean {
            entry.copy.forget_invalidations();
            self.cleaned += u64::from(!std::mem::replace(&mut entry.counted, true));
            if self.unclean.remove(&id) {
                self.clean.push_back(id);
            }
            return;
        }
        self.unclean.insert(id);
        if entry.queued || !entry.copy.wants_round() {
            return;
        }
        if stale && !self.hurried {
            let wait = (now.saturating_duration_since(entry.began) * LATE_FACTOR).clamp(LATE_MIN, LATE_MAX);
            entry.late = true;
            self.late.insert((now + wait, id));
            return;
        }
        entry.queued = true;
        match standing {
            CopyStanding::Settling => self.fields.push_back(id),
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
        if let Some(in_one_piece) = back {
            self.back.push_back(ReturnedKey { db: entry.db, key: entry.copy.key().clone(), in_one_piece });
        }
    }

    fn forget_clean(&mut self) {
        while self.entries.len() > CLEAN_MAX {
            let Some(id) = self.clean.pop_front() else { return };
            if self.entries.contains_key(&id) && !self.unclean.contains(&id) {
                self.remove(id, None);
            }
        }
    }

    /// The next key that is to be fetched as any other.
    pub fn take_back(&mut self) -> Option<ReturnedKey> {
        self.back.pop_front()
    }

    /// Whether the engine should not poll for more big keys now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unclean.len() >= WAITING_MAX
    }

    /// Whether the target has all that the source had after the last event that was told.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unclean.is_empty() && self.back.is_empty()
    }

    /// How often a key has got clean after it was begun or stale.
    #[must_use]
    pub fn cleaned(&self) -> u64 {
        self.cleaned
    }

    /// The database of a key.
    #[must_use]
    pub fn database(&self, id: BigId) -> Option<u32> {
        self.entries.get(&id).map(|entry| entry.db)
    }

    /// What is still to do.
    #[must_use]
    pub fn left(&self) -> RemainingWork {
        let mut left = RemainingWork { keys: self.unclean.len(), late: self.late.len(), ..RemainingWork::default() };
        for entry in self.unclean.iter().filter_map(|id| self.entries.get(id)) {
            if entry.copy.invalidations() >= CONTENDED_INVALIDATIONS {
                // All of it, since it will be stale once more.
                left.contended_elements += entry.copy.total() * weight(&entry.copy);
            } else {
                left.elements += entry.copy.left() * weight(&entry.copy);
            }
        }
        left
    }

    /// Elements written, their bytes, and fields fetched again, of all keys.
    #[must_use]
    pub fn written(&self) -> (u64, u64, u64) {
        self.entries.values().map(|e| e.copy.written()).fold(self.done, |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
    }

    /// Keys that are written faster than they can be copied, for people.
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
                format!("{kind} '{key}' in database {} ({} elements)", entry.db, entry.copy.left())
            })
            .collect()
    }
}

/// A piece of a string takes about what a chunk of elements does.
fn weight(copy: &BigCopy) -> u64 {
    if copy.kind() == Some(BigKeyType::String) { CHUNK_ELEMENTS as u64 } else { 1 }
}
