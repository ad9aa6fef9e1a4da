//! The fields of one big key that must be fetched again: each once, however often it is written.
//! Knows nothing of commands and values. Bounded: beyond its limits it says so, and the whole key is copied anew.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Most fields that wait at one key. Refetching them takes about as long as copying a tenth of a million fields, so
/// beyond it nothing would be won over the whole key.
pub const FIELDS_MAX: usize = 100_000;
/// Most bytes of their names at one key: a field's name may be as long as a value.
pub const NAMES_MAX: usize = 8 << 20;

/// Fields that wait for being fetched.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    waiting: BTreeSet<Bytes>,
    bytes: usize,
}

impl Fields {
    /// Notes a field. `false`: there are too many, and it was not noted.
    #[must_use]
    pub fn insert(&mut self, name: &[u8]) -> bool {
        if self.waiting.contains(name) {
            return true;
        }
        if self.waiting.len() >= FIELDS_MAX || self.bytes + name.len() > NAMES_MAX {
            return false;
        }
        self.bytes += name.len();
        self.waiting.insert(Bytes::copy_from_slice(name))
    }

    /// Takes up to `count` fields out: their changes are cleared before they are asked for, so that a write between the
    /// question and its answer changes them again.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(count.min(self.waiting.len()));
        while taken.len() < count {
            let Some(name) = self.waiting.pop_first() else { break };
            self.bytes -= name.len();
            taken.push(name);
        }
        taken
    }

    /// Bytes of the names that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_waits_once() {
        let mut fields = Fields::default();
        for name in ["b", "a", "b", "c", "a"] {
            assert!(fields.insert(name.as_bytes()));
        }
        assert_eq!(fields.len(), 3);
        assert_eq!(fields.take(2), ["a", "b"]);
        assert!(fields.insert(b"a"), "written again after it was asked for");
        assert_eq!(fields.take(9), ["a", "c"]);
        assert!(fields.is_empty() && fields.bytes == 0);
    }

    #[test]
    fn too_many_are_refused() {
        let mut fields = Fields::default();
        let fits = (0..FIELDS_MAX).all(|i| fields.insert(i.to_string().as_bytes()));
        assert!(fits && !fields.insert(b"one more") && fields.insert(b"7"), "what waits already is no more");
        let mut long = Fields::default();
        assert!(long.insert(&vec![0; NAMES_MAX]) && !long.insert(b"x"));
        assert_eq!(long.take(1).len(), 1);
        assert!(long.insert(b"x"), "room again");
    }
}
