//! The keys that changed and wait to be fetched again, each at most once, first in first out.
//! Knows nothing of feeds and of fetching. A mark is cleared by taking it, which happens before the fetch is sent.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

/// Memory for the names of changed keys, with about 100 bytes of overhead each. Beyond, the writers have rewritten so much that
/// copying anew is less work.
const BYTES_MAX: usize = 1 << 30;
/// What the set and the queue take for one key beside its name.
const OVERHEAD: usize = 100;

/// A key in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbKey {
    /// The database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
}

/// The set of changes, and the order in which they came.
#[derive(Debug, Default)]
pub struct Dirty {
    changes: HashMap<u32, HashSet<Bytes>>,
    /// May name keys whose mark was cleared meanwhile; these are passed over.
    queue: VecDeque<DbKey>,
    len: usize,
    bytes: usize,
}

impl Dirty {
    /// ChangeTracker a key.
    ///
    /// # Errors
    /// Too many are marked. A sentence for people.
    pub fn mark(&mut self, db: u32, key: &[u8]) -> Result<(), String> {
        let changes = self.changes.entry(db).or_default();
        if changes.contains(key) {
            return Ok(());
        }
        if self.bytes > BYTES_MAX {
            return Err(
                "more than a gigabyte of names of changed keys wait to be copied: writes outrun the copy; raise its \
                        limits or slow the writers"
                    .into(),
            );
        }
        let key = Bytes::copy_from_slice(key);
        changes.insert(key.clone());
        self.len += 1;
        self.bytes += key.len() + OVERHEAD;
        self.queue.push_back(DbKey { db, key });
        Ok(())
    }

    /// Clears the mark of a key that is going to be fetched for another reason, and says whether there was one.
    pub fn clear(&mut self, item: &DbKey) -> bool {
        let was = self.len > 0 && self.changes.get_mut(&item.db).is_some_and(|changes| changes.remove(&item.key));
        self.len -= usize::from(was);
        was
    }

    /// Whether a key is marked.
    #[must_use]
    pub fn has(&self, db: u32, key: &[u8]) -> bool {
        self.changes.get(&db).is_some_and(|changes| changes.contains(key))
    }

    /// Takes the mark that came first.
    pub fn pop(&mut self) -> Option<DbKey> {
        while let Some(item) = self.queue.pop_front() {
            self.bytes = self.bytes.saturating_sub(item.key.len() + OVERHEAD);
            if self.changes.get_mut(&item.db).is_some_and(|changes| changes.remove(&item.key)) {
                self.len -= 1;
                return Some(item);
            }
        }
        None
    }

    /// ChangeTracker that are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn once_each_in_order_and_again_after_it_was_taken() {
        let item = |db, key: &'static str| DbKey { db, key: Bytes::from_static(key.as_bytes()) };
        let mut dirty = Dirty::default();
        for (db, key) in [(0, "a"), (0, "b"), (1, "a"), (0, "a")] {
            dirty.mark(db, key.as_bytes()).unwrap();
        }
        assert_eq!(dirty.len(), 3);
        assert_eq!(dirty.pop(), Some(item(0, "a")));
        dirty.mark(0, b"a").unwrap();
        assert!(dirty.clear(&item(0, "b")) && !dirty.has(0, b"b") && dirty.has(0, b"a"));
        assert!(!dirty.clear(&item(5, "b")));
        assert_eq!(dirty.len(), 2);
        assert_eq!(dirty.pop(), Some(item(1, "a")));
        assert_eq!(dirty.pop(), Some(item(0, "a")));
        assert_eq!(dirty.pop(), None);
        assert_eq!(dirty.len(), 0);
        assert_eq!(dirty.bytes, 0);
        // Cleared and marked again while its former place in the queue is still there: taken once.
        dirty.mark(0, b"x").unwrap();
        dirty.clear(&item(0, "x"));
        dirty.mark(0, b"x").unwrap();
        assert_eq!(dirty.pop(), Some(item(0, "x")));
        assert_eq!(dirty.pop(), None);
    }
}
