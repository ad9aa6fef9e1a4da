//! Compares the keys of source and target before any hold: a sample, or all.
//! Knows the feed only as [`ChangeObserver`]; never writes to a server.
//!
//! A key that changes cannot be read at the same moment at both servers. So a key that differs is compared again
//! between two barriers of the feed. If it was settled before and the feed reported no change of it until after, the
//! difference is real.

pub mod background;
mod connection;
pub mod digest;
pub mod read;
mod stream;
pub(in crate::mover) mod watched;

pub use super::track::dirty::DbKey;

use std::{collections::BTreeMap, future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use self::{
    connection::REQUEST_MAX,
    digest::{Clocks, DigestSeed, INEXACT_TOLERANCE_MS, difference},
    read::Reader,
};
use super::spec::{Endpoint, SlotSet};
use crate::{
    model::migration::{Verified, Verify},
    redis::{RedisError, Reply},
};

/// A sample has one key in this many.
const SAMPLE_ONE_IN: u64 = 100;
/// A sample has at least about this many keys, if that many exist.
const SAMPLE_MIN: u64 = 1000;
/// Keys requested at once.
const BATCH: usize = 100;
/// COUNT of SCAN, as in the copy.
const SCAN_COUNT: u32 = 500;
/// Most comparisons of a key that differs. A key that was not settled in any of them counts as always changing.
const ROUNDS_MAX: u32 = 20;
/// A key that changed this often while it was compared counts as always changing, too.
const CHANGES_MAX: u32 = 5;
/// Pause before each further comparison, times the number of comparisons: the copy needs time to follow.
const ROUND_PAUSE: Duration = Duration::from_millis(5);
/// Most keys named in the outcome.
pub const NAMED_MAX: usize = 8;

/// What the copy knows of a watched key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// How often the feed has reported it (or everything) changed since it is watched.
    pub changes: u64,
    /// It is not dirty and not in flight.
    pub settled: bool,
}

/// The running copy, as the verification sees it.
pub trait ChangeObserver {
    /// Counts changes of exactly these keys from now on; at most 100 keys.
    fn watch(&self, keys: &[DbKey]);

    /// The status of a watched key.
    fn status(&self, key: &DbKey) -> KeyStatus;

    /// Resolves when the feed has delivered every change that the source made before the call. The changes need not be
    /// copied yet.
    ///
    /// # Errors
    /// Returns why the copy has ended.
    fn barrier(&self) -> impl Future<Output = Result<(), String>>;
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Keys of these slots.
    pub slots: &'a SlotSet,
    /// Number of databases of the product.
    pub databases: u32,
    /// Which of the keys.
    pub verify: Verify,
    /// Estimated number of keys.
    pub keys: u64,
    /// The feed reports changes of streams' groups
    /// ([`Feed::reports_stream_groups`](super::feed::Feed::reports_stream_groups)). If not, a group that is in use
    /// always differs.
    pub reports_groups: bool,
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Number of keys compared, and of those that differ.
    pub verified: Verified,
    /// Some keys that differ, with the reason.
    pub different: Vec<String>,
    /// Keys that changed during every comparison: neither equal nor different.
    pub always_changing: u64,
    /// Keys that cannot be compared (big values of modules, elements of more than 64 MB).
    pub unreadable: u64,
    /// Some of these keys, with the reason.
    pub unreadable_named: Vec<String>,
}

/// A comparison of two servers.
pub struct Comparison<'a> {
    source: Reader,
    target: Reader,
    scope: Scope<'a>,
    /// Keys that differed when they were first compared.
    suspects: Vec<DbKey>,
    outcome: Outcome,
}

impl<'a> Comparison<'a> {
    /// Connects to both servers. `source` is the server that the copy fetches from; `name` is the name of the run's
    /// connections.
    ///
    /// # Errors
    /// Returns as text for the operator why a server cannot be reached or refuses a command.
    pub async fn open(source: &Endpoint, target: &Endpoint, name: &str, scope: Scope<'a>) -> Result<Self, String> {
        let seed = DigestSeed::default();
        let text = |error: RedisError| error.to_string();
        let source = Reader::open(source, name, seed.clone()).await.map_err(text)?;
        let target = Reader::open(target, name, seed).await.map_err(text)?;
        let groups = |reader: Reader| if scope.reports_groups { reader } else { reader.without_groups() };
        Ok(Self {
            source: groups(source),
            target: groups(target),
            scope,
            suspects: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    /// Compares. `progress` is called with the result so far.
    ///
    /// # Errors
    /// Returns as text for the operator that a connection is lost or the copy has ended. A difference is not an error.
    pub async fn run(mut self, changes: &impl ChangeObserver, progress: impl Fn(Verified)) -> Result<Outcome, String> {
        let one_in = match self.scope.verify {
            Verify::None => return Ok(self.outcome),
            Verify::Full => 1,
            Verify::Sample => (self.scope.keys / SAMPLE_MIN).clamp(1, SAMPLE_ONE_IN),
        };
        // First keys of the source, then keys that only the target has: deletions that were not copied.
        for side in [Side::Source, Side::Target] {
            for db in 0..self.scope.databases {
                self.pass(side, db, one_in, changes, &progress).await?;
            }
        }
        while !self.suspects.is_empty() {
            self.resolve(changes).await?;
        }
        progress(self.outcome.verified);
        Ok(self.outcome)
    }

    async fn pass(
        &mut self,
        side: Side,
        db: u32,
        one_in: u64,
        changes: &impl ChangeObserver,
        progress: &impl Fn(Verified),
    ) -> Result<(), String> {
        let text = |error: RedisError| error.to_string();
        let mut cursor = 0;
        let mut batch = Vec::new();
        loop {
            let reader = match side {
                Side::Source => &mut self.source,
                Side::Target => &mut self.target,
            };
            let client = reader.client(db).await.map_err(text)?;
            let page = client.scan(cursor, SCAN_COUNT, Instant::now() + REQUEST_MAX).await.map_err(text)?;
            let slots = self.scope.slots;
            batch.extend(page.keys.into_iter().filter(|key| slots.has_key(key) && fastrand::u64(0..one_in) == 0));
            cursor = page.cursor;
            while batch.len() >= BATCH || (cursor == 0 && !batch.is_empty()) {
                let mut keys = batch.split_off(batch.len().saturating_sub(BATCH));
                if side == Side::Target {
                    keys = self.absent(db, keys).await.map_err(text)?;
                } else {
                    self.outcome.verified.keys += keys.len() as u64;
                }
                self.batch(db, keys, changes).await?;
                progress(self.outcome.verified);
            }
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// The keys of the target that the source does not have.
    async fn absent(&mut self, db: u32, keys: Vec<Bytes>) -> Result<Vec<Bytes>, RedisError> {
        let commands: Vec<[&[u8]; 2]> = keys.iter().map(|key| [b"EXISTS" as &[u8], key]).collect();
        let commands: Vec<&[&[u8]]> = commands.iter().map(|command| &command[..]).collect();
        let client = self.source.client(db).await?;
        let replies = client.pipeline(&commands, Instant::now() + REQUEST_MAX).await?;
        let mut absent = Vec::new();
        for (key, reply) in keys.into_iter().zip(replies) {
            match reply {
                Reply::Integer(0) => absent.push(key),
                Reply::Integer(_) => {}
                Reply::Error(text) => return Err(RedisError::of_answer(client.addr(), "EXISTS", &text)),
                _ => {
                    let why = "its answer to EXISTS has an unknown form".into();
                    return Err(RedisError::Protocol { addr: client.addr().clone(), why });
                }
            }
        }
        Ok(absent)
    }

    /// Compares keys and collects those that differ. Compares the collected ones again when there are many.
    async fn batch(&mut self, db: u32, keys: Vec<Bytes>, changes: &impl ChangeObserver) -> Result<(), String> {
        let differing = self.differing(db, keys).await?;
        self.suspects.extend(differing.into_iter().map(|(key, _)| DbKey { db, key }));
        while self.suspects.len() >= BATCH {
            self.resolve(changes).await?;
        }
        Ok(())
    }

    /// Compares some of the keys that differed until each is equal, different or known to change always.
    async fn resolve(&mut self, changes: &impl ChangeObserver) -> Result<(), String> {
        let mut suspects = self.suspects.split_off(self.suspects.len().saturating_sub(BATCH));
        if suspects.is_empty() {
            return Ok(());
        }
        // SCAN may return a key twice.
        suspects.sort_unstable();
        suspects.dedup();
        changes.watch(&suspects);
        let mut changed: BTreeMap<DbKey, u32> = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            sleep(ROUND_PAUSE * round).await;
            changes.barrier().await?;
            let before: BTreeMap<DbKey, KeyStatus> =
                suspects.iter().map(|key| (key.clone(), changes.status(key))).collect();
            let mut by_db: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
            for DbKey { db, key } in suspects.drain(..) {
                by_db.entry(db).or_default().push(key);
            }
            let mut differing = Vec::new();
            for (db, keys) in by_db {
                differing
                    .extend(self.differing(db, keys).await?.into_iter().map(|(key, why)| (DbKey { db, key }, why)));
            }
            changes.barrier().await?;
            for (key, why) in differing {
                let (before, after) = (before.get(&key).copied().unwrap_or_default(), changes.status(&key));
                if before.changes != after.changes {
                    let times = changed.entry(key.clone()).or_default();
                    *times += 1;
                    if *times >= CHANGES_MAX {
                        self.outcome.always_changing += 1;
                        continue;
                    }
                } else if before.settled {
                    self.outcome.verified.different += 1;
                    name(&mut self.outcome.different, &key, &why);
                    continue;
                }
                suspects.push(key);
            }
            if suspects.is_empty() {
                return Ok(());
            }
        }
        self.outcome.always_changing += suspects.len() as u64;
        Ok(())
    }

    /// The keys that differ now, and why.
    async fn differing(&mut self, db: u32, keys: Vec<Bytes>) -> Result<Vec<(Bytes, String)>, String> {
        let began = Instant::now();
        let (source, target) = tokio::try_join!(self.source.read(db, &keys), self.target.read(db, &keys))
            .map_err(|error| error.to_string())?;
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX / 2);
        let exact = source.exact && target.exact;
        let clocks = Clocks {
            source_ms: source.clock_ms,
            target_ms: target.clock_ms,
            tolerance_ms: if exact { 0 } else { INEXACT_TOLERANCE_MS + elapsed },
        };
        let mut differing = Vec::new();
        for ((key, source), target) in keys.into_iter().zip(&source.digests).zip(&target.digests) {
            if let digest::KeyDigest::Unreadable(why) =
                if matches!(source, digest::KeyDigest::Unreadable(_)) { source } else { target }
            {
                self.outcome.unreadable += 1;
                name(&mut self.outcome.unreadable_named, &DbKey { db, key }, why);
            } else if let Some(why) = difference(source, target, clocks) {
                differing.push((key, why));
            }
        }
        Ok(differing)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// Adds a key to a list for the operator: escaped, truncated, and not too many.
fn name(list: &mut Vec<String>, DbKey { db, key }: &DbKey, why: &str) {
    /// Enough to recognise a key.
    const SHOWN: usize = 128;
    if list.len() < NAMED_MAX {
        let cut = if key.len() > SHOWN { "..." } else { "" };
        list.push(format!("{}{cut} (database {db}): {why}", key[..key.len().min(SHOWN)].escape_ascii()));
    }
}
