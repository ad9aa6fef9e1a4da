//! Applies a change of a key: marks it dirty, marks fields of a big key, counts it for the verification.
//! Knows nothing of feeds and of fetching.

use std::{cell::RefCell, rc::Rc};

use tokio::time::Instant;

use super::dirty::Dirty;
use crate::mover::{big_key::BigKeys, feed::CommandWords, io::scan::Scan, verify::watched::WatchedKeys};

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
        watched.borrow_mut().settle(answered, in_flight, |db, key| {
            !self.dirty.has(db, key) && (big_clean || !self.big.contains(db, key))
        });
    }
}
