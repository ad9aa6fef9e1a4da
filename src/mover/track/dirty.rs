//! The dirty keys: each at most once, first in, first out.
//! Knows nothing of feeds and of fetching. A mark is removed before the fetch is sent.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

/// Limit of the memory for dirty keys in bytes. Beyond it the writers have changed so much that copying again is less
/// work.
const BYTES_MAX: usize = 1 << 30;
/// Memory of the set and the queue for one key, without its name.
const OVERHEAD: usize = 100;

/// A key in a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbKey {
    /// The database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
}

/// The dirty keys and the order in which they were marked.
#[derive(Debug, Default)]
pub struct Dirty {
    marked: HashMap<u32, HashSet<Bytes>>,
    /// May contain keys whose mark was removed; they are skipped.
    queue: VecDeque<DbKey>,
    len: usize,
    bytes: usize,
}

impl Dirty {
    /// Marks a key dirty.
    ///
    /// # Errors
    /// Returns as text for the operator that too many keys are dirty.
    pub fn mark(&mut self, db: u32, key: &[u8]) -> Result<(), String> {
        let marked = self.marked.entry(db).or_default();
        if marked.contains(key) {
            return Ok(());
        }
        if self.bytes > BYTES_MAX {
            return Err("more than a gigabyte of names of dirty keys: writes outrun the copy; raise its \
                        limits or slow the writers"
                .into());
        }
        let key = Bytes::copy_from_slice(key);
        marked.insert(key.clone());
        self.len += 1;
        self.bytes += key.len() + OVERHEAD;
        self.queue.push_back(DbKey { db, key });
        Ok(())
    }

    /// Removes the mark of a key that is fetched for another reason. Returns whether it was marked.
    pub fn clear(&mut self, item: &DbKey) -> bool {
        let was = self.len > 0 && self.marked.get_mut(&item.db).is_some_and(|marked| marked.remove(&item.key));
        self.len -= usize::from(was);
        was
    }

    /// Whether a key is marked.
    #[must_use]
    pub fn has(&self, db: u32, key: &[u8]) -> bool {
        self.marked.get(&db).is_some_and(|marked| marked.contains(key))
    }

    /// Removes and returns the oldest mark.
    pub fn pop(&mut self) -> Option<DbKey> {
        while let Some(item) = self.queue.pop_front() {
            self.bytes = self.bytes.saturating_sub(item.key.len() + OVERHEAD);
            if self.marked.get_mut(&item.db).is_some_and(|marked| marked.remove(&item.key)) {
                self.len -= 1;
                return Some(item);
            }
        }
        None
    }

    /// Number of dirty keys.
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
        // Cleared and marked again while its former entry is still in the queue: returned once.
        dirty.mark(0, b"x").unwrap();
        dirty.clear(&item(0, "x"));
        dirty.mark(0, b"x").unwrap();
        assert_eq!(dirty.pop(), Some(item(0, "x")));
        assert_eq!(dirty.pop(), None);
    }
}
