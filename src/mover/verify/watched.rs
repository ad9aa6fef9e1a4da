//! The keys that the verification watches while the copy continues.
//! Knows nothing of feeds and of fetching; the copy reports to it.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{ChangeObserver, DbKey, KeyStatus};

#[derive(Debug, Default)]
pub(in crate::mover) struct WatchedKey {
    status: KeyStatus,
    /// Fetches up to this number may be about this key.
    guard: u64,
}

/// The keys that the verification watches, and its barriers.
#[derive(Debug, Default)]
pub(in crate::mover) struct WatchedKeys {
    pub keys: HashMap<DbKey, WatchedKey>,
    /// Number of the last fetch that was started.
    pub begun: u64,
    /// Numbers of barriers that were requested and have passed.
    pub requested: u64,
    pub passed: u64,
}

impl WatchedKeys {
    /// The feed has reported a change of this key.
    pub fn changed(&mut self, db: u32, key: &[u8]) {
        // At most 100 keys are watched, and usually none.
        if self.keys.is_empty() {
            return;
        }
        if let Some((_, watch)) = self.keys.iter_mut().find(|(watched, _)| watched.db == db && watched.key == key) {
            watch.status.changes += 1;
            watch.status.settled = false;
        }
    }

    /// Fetch number `begun` is about this key.
    pub fn fetch(&mut self, db: u32, key: &[u8], begun: u64) {
        self.begun = begun;
        if let Some((_, watch)) = self.keys.iter_mut().find(|(watched, _)| watched.db == db && watched.key == key) {
            watch.guard = begun;
            watch.status.settled = false;
        }
    }

    /// Updates which keys are settled: those whose last fetch is complete and that are `clean`. `answered` is the
    /// number of the last completed fetch; `in_flight`: whether a fetch is outstanding.
    pub fn settle(&mut self, answered: u64, in_flight: bool, clean: impl Fn(u32, &[u8]) -> bool) {
        for (key, watch) in &mut self.keys {
            watch.status.settled = (!in_flight || answered >= watch.guard) && clean(key.db, &key.key);
        }
    }
}

/// The verification's view of the copy.
pub(in crate::mover) struct WatchedKeysView(pub Rc<RefCell<WatchedKeys>>);

impl ChangeObserver for WatchedKeysView {
    fn watch(&self, keys: &[DbKey]) {
        let mut watched = self.0.borrow_mut();
        let guard = watched.begun;
        watched.keys =
            keys.iter().map(|key| (key.clone(), WatchedKey { status: KeyStatus::default(), guard })).collect();
    }

    fn status(&self, key: &DbKey) -> KeyStatus {
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
