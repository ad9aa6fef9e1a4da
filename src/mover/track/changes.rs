//! Applies a change of a key: marks it dirty, marks fields of a big key, counts it for the verification.
//! Knows nothing of feeds and of fetching.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use tokio::time::Instant;

use super::dirty::Dirty;
use crate::mover::{
    big_key::BigKeys,
    feed::CommandWords,
    io::scan::Scan,
    verify::{ChangeObserver, DbKeyPair, KeyStatus},
};

/// Everything that must be fetched again.
#[derive(Default)]
pub(in crate::mover) struct ChangeTracker {
    pub dirty: Dirty,
    pub big: BigKeys,
    /// Present during a comparison.
    pub watched: Option<Rc<RefCell<WatchedKeys>>>,
}

impl ChangeTracker {
    /// Applies a change of a key in one database, or in all databases if `db` is unknown. (A database that gets its
    /// first key during the copy is found by INFO keyspace, at the latest under the hold, and scanned.)
    ///
    /// # Errors
    /// Returns as text for the operator that too many keys have changed.
    pub fn change(
        &mut self,
        scan: &mut Scan,
        db: Option<u32>,
        key: &[u8],
        command: Option<&CommandWords>,
        now: Instant,
    ) -> Result<(), String> {
        match db {
            Some(db) => {
                scan.add(db);
                self.one(db, key, command, now)
            }
            None => scan.databases().iter().try_for_each(|db| self.one(*db, key, command, now)),
        }
    }

    fn one(&mut self, db: u32, key: &[u8], command: Option<&CommandWords>, now: Instant) -> Result<(), String> {
        if let Some(watched) = &self.watched {
            watched.borrow_mut().changed(db, key);
        }
        let now = now.into_std();
        let big = match command {
            Some(command) => self.big.event(db, key, command, now),
            None => self.big.invalidate(db, key, now),
        };
        if big { Ok(()) } else { self.dirty.mark(db, key) }
    }

    /// Updates whether the watched keys are settled. `answered` is the number of the last completed fetch of a small
    /// key; `in_flight`: whether a fetch is outstanding.
    pub fn settle(&self, answered: u64, in_flight: bool) {
        let Some(watched) = &self.watched else { return };
        let big_clean = self.big.is_clean();
        for ((db, key), watch) in &mut watched.borrow_mut().keys {
            watch.status.settled = (!in_flight || answered >= watch.guard)
                && !self.dirty.has(*db, key)
                && (big_clean || !self.big.contains(*db, key));
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::mover) struct WatchedKey {
    status: KeyStatus,
    /// Fetches up to this number may be about this key.
    guard: u64,
}

/// The keys that the verification watches, and its barriers.
#[derive(Debug, Default)]
pub(in crate::mover) struct WatchedKeys {
    pub keys: HashMap<DbKeyPair, WatchedKey>,
    /// Number of the last fetch that was started.
    pub begun: u64,
    /// Numbers of barriers that were requested and have passed.
    pub requested: u64,
    pub passed: u64,
}

impl WatchedKeys {
    fn changed(&mut self, db: u32, key: &[u8]) {
        // At most 100 keys are watched, and usually none.
        if self.keys.is_empty() {
            return;
        }
        if let Some((_, watch)) = self.keys.iter_mut().find(|((d, k), _)| *d == db && k == key) {
            watch.status.changes += 1;
            watch.status.settled = false;
        }
    }

    /// Fetch number `begun` is about this key.
    pub fn fetch(&mut self, db: u32, key: &[u8], begun: u64) {
        self.begun = begun;
        if let Some((_, watch)) = self.keys.iter_mut().find(|((d, k), _)| *d == db && k == key) {
            watch.guard = begun;
            watch.status.settled = false;
        }
    }
}

/// The verification's view of the copy.
pub(in crate::mover) struct WatchedKeysView(pub Rc<RefCell<WatchedKeys>>);

impl ChangeObserver for WatchedKeysView {
    fn watch(&self, keys: &[DbKeyPair]) {
        let mut watched = self.0.borrow_mut();
        let guard = watched.begun;
        watched.keys =
            keys.iter().map(|key| (key.clone(), WatchedKey { status: KeyStatus::default(), guard })).collect();
    }

    fn status(&self, key: &DbKeyPair) -> KeyStatus {
        self.0.borrow().keys.get(key).map_or_else(KeyStatus::default, |watch| watch.status)
    }

    async fn barrier(&self) -> Result<(), String> {
        let mine = {
            let mut watched = self.0.borrow_mut();
            watched.requested += 1;
            watched.requested
        };
        // The engine polls this future each turn, so no waker is needed.
        std::future::poll_fn(|_| {
            if self.0.borrow().passed >= mine { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        Ok(())
    }
}
