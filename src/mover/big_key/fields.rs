//! The dirty fields of one big key: each is stored once, however often it is written.
//! Knows nothing of commands and values. The set is bounded: beyond its limits it refuses a field, and the whole key is
//! copied again.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Most dirty fields of one key. Fetching them again takes about as long as copying a tenth of a million fields, so
/// more would save nothing compared to copying the whole key.
pub const FIELDS_MAX: usize = 100_000;
/// Most bytes of the names of one key's dirty fields: a name may be as long as a value.
pub const NAMES_MAX: usize = 8 << 20;

/// Fields that must be fetched again.
#[derive(Clone, Debug, Default)]
pub struct DirtyFields {
    waiting: BTreeSet<Bytes>,
    bytes: usize,
}

impl DirtyFields {
    /// Adds a field. Returns `false` if there are too many; then the field is not added.
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

    /// Removes and returns up to `count` fields. A field is removed before it is requested, so that a write between the
    /// request and the reply adds it again.
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

    /// Bytes of the names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes all fields.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_waits_once() {
        let mut fields = DirtyFields::default();
        for name in ["b", "a", "b", "c", "a"] {
            assert!(fields.insert(name.as_bytes()));
        }
        assert_eq!(fields.len(), 3);
        assert_eq!(fields.take(2), ["a", "b"]);
        assert!(fields.insert(b"a"), "written again after it was requested");
        assert_eq!(fields.take(9), ["a", "c"]);
        assert!(fields.is_empty() && fields.bytes == 0);
    }

    #[test]
    fn too_many_are_refused() {
        let mut fields = DirtyFields::default();
        let fits = (0..FIELDS_MAX).all(|i| fields.insert(i.to_string().as_bytes()));
        assert!(
            fits && !fields.insert(b"one more") && fields.insert(b"7"),
            "a field that is already there takes no room"
        );
        let mut long = DirtyFields::default();
        assert!(long.insert(&vec![0; NAMES_MAX]) && !long.insert(b"x"));
        assert_eq!(long.take(1).len(), 1);
        assert!(long.insert(b"x"), "room again");
    }
}
