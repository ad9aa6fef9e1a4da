//! Compares what source and target say of their keys, before any hold: a part of them, or all.
//! Knows the feed only as [`ChangeObserver`]; never writes to a server.
//!
//! A key that changes is not equal at two moments. So one that differs is compared again, between two barriers of the feed:
//! if it was settled before and the feed named no change of it until after, the difference is real.

pub mod background;
pub mod digest;
pub mod read;
mod stream;

use std::{collections::BTreeMap, future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use self::{
    digest::{DigestSeed, difference},
    read::Reader,
};
use super::{Endpoint, SlotSet};
use crate::{
    model::migration::{Verified, Verify},
    redis::{RedisError, Reply},
};

/// Of a sample: one key in this many.
const SAMPLE_ONE_IN: u64 = 100;
/// Of a sample: at least about this many keys, if there are so many.
const SAMPLE_MIN: u64 = 1000;
/// Keys asked for at once.
const BATCH: usize = 100;
/// A page of SCAN, as in the copy.
const SCAN_COUNT: u32 = 500;
/// How often a key that differs is compared again before it is given up as one that always changes: it did not come to
/// rest, or ...
const ROUNDS_MAX: u32 = 20;
/// ... it changed while it was compared, so often.
const CHANGES_MAX: u32 = 5;
/// Pause before each further round, times the round: the copy has time to follow.
const ROUND_PAUSE: Duration = Duration::from_millis(5);
/// Keys named in the outcome.
pub const NAMED_MAX: usize = 8;

/// A key and its database.
pub type DbKeyPair = (u32, Bytes);

/// What the copy knows of a key that is being watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// How often the feed has named it changed (or everything) since it is watched.
    pub changes: u64,
    /// It does not wait to be copied and no copy of it is under way.
    pub settled: bool,
}

/// The copy that goes on meanwhile, as verification sees it.
pub trait ChangeObserver {
    /// Counts changes of exactly these keys from now on; at most 100 of them.
    fn watch(&self, keys: &[DbKeyPair]);

    /// What is known of a watched key.
    fn status(&self, key: &DbKeyPair) -> KeyStatus;

    /// Resolves when the feed has delivered every change that the source made before the call. It need not be copied yet.
    ///
    /// # Errors
    /// The copy has ended; why.
    fn barrier(&self) -> impl Future<Output = Result<(), String>>;
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Keys of these slots.
    pub slots: &'a SlotSet,
    /// Databases of the product, from 0.
    pub databases: u32,
    /// How many of the keys.
    pub verify: Verify,
    /// About how many keys there are.
    pub keys: u64,
    /// The feed tells how groups of streams change ([`Feed::tells_stream_groups`](super::feed::Feed::tells_stream_groups)); if
    /// not, a group that is used differs without end.
    pub tells_groups: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys compared, and how many of them differ lastingly.
    pub verified: Verified,
    /// Some that differ, with the reason.
    pub different: Vec<String>,
    /// Keys that changed in every round: neither equal nor different.
    pub busy: u64,
    /// Keys that cannot be compared (a module's big values, elements of more than 64 MB).
    pub unread: u64,
    /// Some of these, with the reason.
    pub unread_named: Vec<String>,
}

/// A comparison of two servers.
pub struct Comparison<'a> {
    source: Reader,
    target: Reader,
    scope: Scope<'a>,
    /// Keys that differed when they were first compared.
    suspects: Vec<DbKeyPair>,
    outcome: Outcome,
}

impl<'a> Comparison<'a> {
    /// Connects to both. `source` is the server that the copy fetches from. `name`: that of the run's connections.
    ///
    /// # Errors
    /// A sentence for people.
    pub async fn open(source: &Endpoint, target: &Endpoint, name: &str, scope: Scope<'a>) -> Result<Self, String> {
        let seed = DigestSeed::default();
        let text = |error: RedisError| error.to_string();
        let source = Reader::open(source, name, seed.clone()).await.map_err(text)?;
        let target = Reader::open(target, name, seed).await.map_err(text)?;
        let groups = |reader: Reader| if scope.tells_groups { reader } else { reader.without_groups() };
        Ok(Self {
            source: groups(source),
            target: groups(target),
            scope,
            suspects: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    /// Compares. `progress` is called with what was compared so far.
    ///
    /// # Errors
    /// A sentence: a server is gone, or the copy has ended. A difference is no error.
    pub async fn run(mut self, changes: &impl ChangeObserver, progress: impl Fn(Verified)) -> Result<Outcome, String> {
        let one_in = match self.scope.verify {
            Verify::None => return Ok(self.outcome),
            Verify::Full => 1,
            Verify::Sample => (self.scope.keys / SAMPLE_MIN).clamp(1, SAMPLE_ONE_IN),
        };
        // Keys of the source, then those that only the target has: deletes that never came over.
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
            let page = client.scan(cursor, SCAN_COUNT, Instant::now() + read::REQUEST_MAX).await.map_err(text)?;
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

    /// Those of the target's keys that the source does not have.
    async fn absent(&mut self, db: u32, keys: Vec<Bytes>) -> Result<Vec<Bytes>, RedisError> {
        let commands: Vec<[&[u8]; 2]> = keys.iter().map(|key| [b"EXISTS" as &[u8], key]).collect();
        let commands: Vec<&[&[u8]]> = commands.iter().map(|command| &command[..]).collect();
        let client = self.source.client(db).await?;
        let replies = client.pipeline(&commands, Instant::now() + read::REQUEST_MAX).await?;
        let mut absent = Vec::new();
        for (key, reply) in keys.into_iter().zip(replies) {
            match reply {
                Reply::Integer(0) => absent.push(key),
                Reply::Integer(_) => {}
                Reply::Error(text) => return Err(RedisError::of_answer(client.addr(), "EXISTS", &text)),
                _ => {
                    let why = "its answer to EXISTS has an unknown shape".into();
                    return Err(RedisError::Protocol { addr: client.addr().clone(), why });
                }
            }
        }
        Ok(absent)
    }

    /// Compares keys; those that differ are gathered, and compared again when there are many.
    async fn batch(&mut self, db: u32, keys: Vec<Bytes>, changes: &impl ChangeObserver) -> Result<(), String> {
        let differing = self.differing(db, keys).await?;
        self.suspects.extend(differing.into_iter().map(|(key, _)| (db, key)));
        while self.suspects.len() >= BATCH {
            self.resolve(changes).await?;
        }
        Ok(())
    }

    /// Compares some of the keys that differed again and again, until each is equal, different or known to change always.
    async fn resolve(&mut self, changes: &impl ChangeObserver) -> Result<(), String> {
        let mut suspects = self.suspects.split_off(self.suspects.len().saturating_sub(BATCH));
        if suspects.is_empty() {
            return Ok(());
        }
        // SCAN may return a key twice.
        suspects.sort_unstable();
        suspects.dedup();
        changes.watch(&suspects);
        let mut changed: BTreeMap<DbKeyPair, u32> = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            sleep(ROUND_PAUSE * round).await;
            changes.barrier().await?;
            let before: BTreeMap<DbKeyPair, KeyStatus> =
                suspects.iter().map(|key| (key.clone(), changes.status(key))).collect();
            let mut by_db: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
            for (db, key) in suspects.drain(..) {
                by_db.entry(db).or_default().push(key);
            }
            let mut differing = Vec::new();
            for (db, keys) in by_db {
                differing.extend(self.differing(db, keys).await?.into_iter().map(|(key, why)| ((db, key), why)));
            }
            changes.barrier().await?;
            for (place, why) in differing {
                let (before, after) = (before.get(&place).copied().unwrap_or_default(), changes.status(&place));
                if before.changes != after.changes {
                    let times = changed.entry(place.clone()).or_default();
                    *times += 1;
                    if *times >= CHANGES_MAX {
                        self.outcome.busy += 1;
                        continue;
                    }
                } else if before.settled {
                    self.outcome.verified.different += 1;
                    name(&mut self.outcome.different, &place, &why);
                    continue;
                }
                suspects.push(place);
            }
            if suspects.is_empty() {
                return Ok(());
            }
        }
        self.outcome.busy += suspects.len() as u64;
        Ok(())
    }

    /// The keys that are not the same on both sides now, and why.
    async fn differing(&mut self, db: u32, keys: Vec<Bytes>) -> Result<Vec<(Bytes, String)>, String> {
        let began = Instant::now();
        let (source, target) = tokio::try_join!(self.source.read(db, &keys), self.target.read(db, &keys))
            .map_err(|error| error.to_string())?;
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX / 2);
        let mut differing = Vec::new();
        for ((key, source), target) in keys.into_iter().zip(&source).zip(&target) {
            if let digest::SeenDigest::Unread(why) =
                if matches!(source, digest::SeenDigest::Unread(_)) { source } else { target }
            {
                self.outcome.unread += 1;
                name(&mut self.outcome.unread_named, &(db, key), why);
            } else if let Some(why) = difference(source, target, elapsed) {
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

/// Adds a key to a list for people: escaped, cut, and not too many.
fn name(list: &mut Vec<String>, (db, key): &DbKeyPair, why: &str) {
    /// Enough to recognise a key by.
    const SHOWN: usize = 128;
    if list.len() < NAMED_MAX {
        let cut = if key.len() > SHOWN { "..." } else { "" };
        list.push(format!("{}{cut} (database {db}): {why}", key[..key.len().min(SHOWN)].escape_ascii()));
    }
}
