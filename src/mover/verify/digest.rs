//! The digest of a key: a few numbers that are equal for two servers when the key has the same content there. They do
//! not depend on encodings, on the order of a hash or set, or on the server's version. (DEBUG DIGEST-VALUE is disabled
//! by default.)
//! Knows one key at a time; nothing of slots and of which side is correct.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher,
};

use bytes::Bytes;

/// Most fields of a hash or members of a set that are digested. 8 bytes are kept for each, since HSCAN and SSCAN may
/// return one twice.
pub const ELEMENTS_MAX: usize = 16 << 20;
/// Tolerance of times to live in milliseconds: both are read at different moments, and RESTORE takes relative ones.
pub const TTL_TOLERANCE_MS: i64 = 1000;

/// Computes the digests of one comparison. Both sides use clones of one seed, so that nobody can prepare values that
/// collide.
#[derive(Clone, Debug, Default)]
pub struct DigestSeed(RandomState);

impl DigestSeed {
    /// The digest of a value that consists of parts.
    #[must_use]
    pub fn of(&self, parts: &[&[u8]]) -> u64 {
        // Slices hash their length first, so ("ab", "c") differs from ("a", "bc").
        self.0.hash_one(parts)
    }

    /// A digest of elements whose order matters.
    #[must_use]
    pub fn sequence(&self) -> SequenceDigest<'_> {
        SequenceDigest { seed: self, digest: 0, count: 0 }
    }

    /// A digest of elements whose order does not matter.
    #[must_use]
    pub fn members(&self) -> MemberDigest<'_> {
        MemberDigest { seed: self, digests: Vec::new() }
    }
}

/// The digest of a list, a sorted set or a stream's entries. It depends on the order.
pub struct SequenceDigest<'a> {
    seed: &'a DigestSeed,
    digest: u64,
    count: u64,
}

impl SequenceDigest<'_> {
    /// Adds the next element, in parts.
    pub fn push(&mut self, parts: &[&[u8]]) {
        let element = self.seed.of(parts);
        self.digest = self.seed.of(&[&self.digest.to_le_bytes(), &element.to_le_bytes()]);
        self.count += 1;
    }

    /// The digest of all elements.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.seed.of(&[&self.digest.to_le_bytes(), &self.count.to_le_bytes()])
    }
}

/// The digest of a set or hash: elements in any order, each counted once however often it is added.
pub struct MemberDigest<'a> {
    seed: &'a DigestSeed,
    digests: Vec<u64>,
}

impl MemberDigest<'_> {
    /// Adds an element, in parts. Returns `false` if there are too many.
    #[must_use]
    pub fn push(&mut self, parts: &[&[u8]]) -> bool {
        self.digests.push(self.seed.of(parts));
        self.digests.len() <= ELEMENTS_MAX
    }

    /// The digest of all elements.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        self.digests.sort_unstable();
        self.digests.dedup();
        let mut sequence = self.seed.sequence();
        for digest in &self.digests {
            sequence.push(&[&digest.to_le_bytes()]);
        }
        sequence.finish()
    }
}

/// The digest of a key at one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyDigest {
    /// It does not exist (or has expired).
    Missing,
    /// It exists.
    Key(ValueDigest),
    /// It changed while it was read.
    Changed,
    /// It cannot be read in a comparable way, and why.
    Unreadable(String),
}

/// The digest of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueDigest {
    /// Its type, as TYPE names it.
    pub kind: String,
    /// Digest of everything that every server reports.
    pub digest: u64,
    /// Time to live in milliseconds. `None`: it has none.
    pub ttl: Option<i64>,
    /// Expiry times of a hash's fields (milliseconds since the epoch), by digest of the field. `None`: the server does
    /// not support them.
    pub field_expiry: Option<BTreeMap<u64, i64>>,
    /// Properties that only newer servers report, by name. Compared where both servers report them.
    pub extras: BTreeMap<String, Bytes>,
}

/// Why the digests of a key differ between two servers. `None`: they do not. `elapsed_ms`: milliseconds from before the
/// first request until both servers had replied.
#[must_use]
pub fn difference(source: &KeyDigest, target: &KeyDigest, elapsed_ms: i64) -> Option<String> {
    let tolerance = TTL_TOLERANCE_MS + elapsed_ms;
    let (source, target) = match (source, target) {
        (KeyDigest::Missing, KeyDigest::Missing) => return None,
        (KeyDigest::Key(source), KeyDigest::Key(target)) => (source, target),
        // It has just expired at one server.
        (KeyDigest::Key(ValueDigest { ttl: Some(ttl), .. }), KeyDigest::Missing)
        | (KeyDigest::Missing, KeyDigest::Key(ValueDigest { ttl: Some(ttl), .. }))
            if *ttl <= tolerance =>
        {
            return None;
        }
        (KeyDigest::Key(_), KeyDigest::Missing) => return Some("it is not at the target".into()),
        (KeyDigest::Missing, KeyDigest::Key(_)) => return Some("it is at the target and not at the source".into()),
        _ => return Some("it changed while it was read".into()),
    };
    if source.kind != target.kind {
        return Some(format!("a {} at the source, a {} at the target", source.kind, target.kind));
    }
    if source.digest != target.digest {
        return Some(format!("the values of this {} differ", source.kind));
    }
    match (source.ttl, target.ttl) {
        (None, None) => {}
        (Some(a), Some(b)) if (a - b).abs() <= tolerance => {}
        (a, b) => {
            let text = |ttl: Option<i64>| ttl.map_or("none".to_owned(), |ttl| format!("{ttl} ms"));
            return Some(format!("time to live: {} at the source, {} at the target", text(a), text(b)));
        }
    }
    if let (Some(a), Some(b)) = (&source.field_expiry, &target.field_expiry) {
        let near = a.len() == b.len()
            && a.iter().all(|(field, at)| b.get(field).is_some_and(|b| (at - b).abs() <= TTL_TOLERANCE_MS));
        if !near {
            return Some("times to live of the hash's fields differ".into());
        }
    }
    let unequal = |(name, value): (&String, &Bytes)| {
        target.extras.get(name).filter(|there| *there != value).map(|there| {
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{name}: {} at the source, {} at the target", text(value), text(there))
        })
    };
    source.extras.iter().find_map(unequal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(ttl: Option<i64>) -> ValueDigest {
        ValueDigest { kind: "hash".into(), digest: 7, ttl, field_expiry: None, extras: BTreeMap::new() }
    }

    #[test]
    fn order_counts_in_sequences_only() {
        let seed = DigestSeed::default();
        let members = |parts: &[&str]| {
            let mut members = seed.members();
            for part in parts {
                assert!(members.push(&[part.as_bytes(), b"v"]));
            }
            members.finish()
        };
        assert_eq!(members(&["a", "b", "c"]), members(&["c", "a", "b", "a"]));
        assert_ne!(members(&["a", "b"]), members(&["a"]));
        assert_ne!(members(&[]), members(&["a"]));
        let sequence = |parts: &[&str]| {
            let mut sequence = seed.sequence();
            parts.iter().for_each(|part| sequence.push(&[part.as_bytes()]));
            sequence.finish()
        };
        assert_eq!(sequence(&["a", "b"]), sequence(&["a", "b"]));
        assert_ne!(sequence(&["a", "b"]), sequence(&["b", "a"]));
        assert_ne!(sequence(&["a", "a"]), sequence(&["a"]));
        assert_ne!(seed.of(&[b"ab", b"c"]), seed.of(&[b"a", b"bc"]));
    }

    #[test]
    fn differences_are_named() {
        let at = |ttl| KeyDigest::Key(key(ttl));
        let same = |a: &KeyDigest, b: &KeyDigest| difference(a, b, 0).is_none() && difference(b, a, 0).is_none();
        assert!(same(&at(None), &at(None)));
        assert!(same(&at(Some(5000)), &at(Some(6000))));
        assert!(!same(&at(Some(5000)), &at(Some(6001))));
        assert!(!same(&at(Some(500)), &at(None)));
        // Reading took long.
        assert_eq!(difference(&at(Some(5000)), &at(Some(6500)), 500), None);
        assert!(same(&at(Some(900)), &KeyDigest::Missing));
        assert!(!same(&at(Some(1100)), &KeyDigest::Missing));
        assert!(!same(&at(None), &KeyDigest::Missing));
        assert!(!same(&KeyDigest::Changed, &KeyDigest::Changed));
        let mut other = key(None);
        other.digest = 8;
        assert!(difference(&at(None), &KeyDigest::Key(other), 0).unwrap().contains("values"));
        let fields = |expiry: &[(u64, i64)]| {
            KeyDigest::Key(ValueDigest { field_expiry: Some(expiry.iter().copied().collect()), ..key(None) })
        };
        assert!(same(&fields(&[(1, 1000)]), &fields(&[(1, 1999)])));
        assert!(!same(&fields(&[(1, 1000)]), &fields(&[(1, 2001)])));
        assert!(!same(&fields(&[(1, 1000)]), &fields(&[])));
        assert!(same(&fields(&[(1, 1000)]), &at(None)), "one of the servers does not report them");
        let extra = |value: &'static str| {
            let extras = BTreeMap::from([("entries-added".to_owned(), Bytes::from_static(value.as_bytes()))]);
            KeyDigest::Key(ValueDigest { extras, ..key(None) })
        };
        assert!(same(&extra("3"), &at(None)));
        assert!(difference(&extra("3"), &extra("4"), 0).unwrap().contains("entries-added: 3"));
    }
}
