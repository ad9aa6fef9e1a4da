//! Big keys in the engine: their rounds go over the same two connections as all other fetches and writes.
//! Knows nothing of how a big key is read and written; see `big_key`.

use tokio::time::Instant;

use super::{
    big_key::{BigId, BigKeys, Requests},
    copy::{Copy, Phase},
    dirty::{Dirty, Item},
    feed::Words,
    fetch::{Fetching, SIZE_LEAST, Writing},
    scan::Scan,
};

/// Rounds of big keys wait while so many bytes have not been taken by the target's socket.
const OUTPUT_MAX: usize = 4 << 20;
/// What the target's writing of this many elements takes is about what it takes for an ordinary key.
const ELEMENTS_PER_KEY: u64 = 8;
/// Part of a hold's budget that copying what is never clean before it may take.
const HOLD_PART: u64 = 2;
/// The budget where no setting of the migration says one (`hold-max` of the cluster, as serving.md has it).
const HOLD_MS: u64 = 250;

/// Where changes are noted.
pub(super) struct Marks<'a> {
    pub dirty: &'a mut Dirty,
    pub big: &'a mut BigKeys,
    pub scan: &'a mut Scan,
    pub now: Instant,
}

impl Marks<'_> {
    /// Marks a key in the database of its change, or in all that have keys when that is not known. (A database that gets its
    /// first key meanwhile is found by looking at the keyspace, at the latest under the hold, and walked through.)
    pub fn mark(&mut self, db: Option<u32>, key: &[u8], command: Option<&Words>) -> Result<(), String> {
        match db {
            Some(db) => {
                self.scan.add(db);
                self.mark_in(db, key, command)
            }
            None => {
                let databases: Vec<u32> = self.scan.databases().iter().copied().collect();
                databases.into_iter().try_for_each(|db| self.mark_in(db, key, command))
            }
        }
    }

    fn mark_in(&mut self, db: u32, key: &[u8], command: Option<&Words>) -> Result<(), String> {
        let now = self.now.into_std();
        let taken = match command {
            Some(command) => self.big.event(db, key, command, now),
            None => self.big.lose(db, key, now),
        };
        if taken { Ok(()) } else { self.dirty.mark(db, key) }
    }
}

impl Copy<'_> {
    /// A key that was to be fetched is too big for one DUMP.
    pub fn begin_big(&mut self, item: Item, now: Instant) {
        self.flying -= 1;
        // Found by SCAN a second time: that says nothing new.
        if self.big.holds(item.db, &item.key) {
            return;
        }
        // Nothing of it was asked yet, so an older mark is settled by what is.
        self.dirty.clear(&item);
        self.big.begin(item.db, item.key, now.into_std());
    }

    /// Keys that are not copied in pieces after all are fetched like others, whatever their size.
    pub fn take_back(&mut self) {
        while let Some(back) = self.big.take_back() {
            self.flying += 1;
            self.ready.push_back((Item { db: back.db, key: back.key }, SIZE_LEAST));
        }
    }

    /// Asks for parts of big keys, at most `room` rounds. Returns how many were begun.
    pub fn pump_big(&mut self, finishing: bool, room: usize, now: Instant) -> usize {
        self.big.hurry(finishing);
        let mut begun = 0;
        while begun < room && self.target.connection.output.len() < OUTPUT_MAX {
            let (mut source, mut target) = (Requests::default(), Requests::default());
            let Some(round) = self.big.ask(now.into_std(), &mut source, &mut target) else { break };
            self.write_big(round.id, round.db, &target);
            self.source.select(round.db, Fetching::Select);
            self.source.out().extend_from_slice(source.bytes());
            for _ in 0..source.count() {
                self.source.expect(Fetching::Big(round.id));
            }
            self.meter.key();
            begun += 1;
        }
        begun
    }

    fn write_big(&mut self, id: BigId, db: u32, requests: &Requests) {
        if requests.count() == 0 {
            return;
        }
        self.target.select(db, Writing::Select);
        self.target.out().extend_from_slice(requests.bytes());
        for _ in 0..requests.count() {
            self.target.expect(Writing::Big(id));
        }
    }

    /// Reads the source's answer of `len` bytes about a big key.
    pub fn big_answer(&mut self, id: BigId, len: usize, now: Instant) -> Result<(), String> {
        let mut requests = Requests::default();
        let db = self.big.database(id).unwrap_or(0);
        let reply = self.source.reply(len);
        self.big.answer(id, reply, &mut requests, now.into_std()).map_err(|error| error.to_string())?;
        self.meter.bytes(requests.bytes().len());
        self.write_big(id, db, &requests);
        Ok(())
    }

    /// Brings the counters up to date.
    pub fn count_big(&mut self) {
        let (cleaned, (_, bytes, refetched)) = (self.big.cleaned(), self.big.written());
        self.counters.keys += cleaned - std::mem::replace(&mut self.big_cleaned, cleaned);
        self.counters.bytes += bytes - std::mem::replace(&mut self.big_bytes, bytes);
        self.counters.refetched += refetched - std::mem::replace(&mut self.big_refetched, refetched);
    }

    /// What big keys still take, as a number of ordinary keys: of those that get clean, and of those that do only when nobody
    /// writes to them.
    pub fn big_waiting(&self) -> (u64, u64) {
        let left = self.big.left();
        (left.elements / ELEMENTS_PER_KEY, left.hot_elements / ELEMENTS_PER_KEY)
    }

    /// Whether what only gets clean under a hold fits into one.
    pub fn hot_fits(&self) -> bool {
        let budget = match u64::from(self.limits.borrow().hold_ms_max) {
            0 => HOLD_MS,
            ms => ms,
        };
        self.hot_ms() <= budget / HOLD_PART
    }

    /// How long copying takes that only gets clean under a hold.
    pub fn hot_ms(&self) -> u64 {
        (self.big_waiting().1 as f64 * 1000.0 / self.rate_most) as u64
    }

    /// Why no hold can come, if a big key is the reason.
    pub fn why_hot(&self) -> Option<String> {
        if matches!(self.phase, Phase::Finishing(_)) || self.hot_fits() {
            return None;
        }
        let hot = self.big.hot();
        let first = hot.first()?;
        Some(format!(
            "{first} is written faster than it can be copied; its copy takes about {} ms while the slots are held: raise hold-max \
             to twice that, or let its writers rest",
            self.hot_ms()
        ))
    }
}
