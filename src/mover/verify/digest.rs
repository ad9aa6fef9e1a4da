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
/// Tolerance of expiry times in milliseconds where a server has no PEXPIRETIME: its times come from TIME and PTTL, and
/// the server may let time pass between the two, both when the key is copied and when it is compared.
pub const INEXACT_TOLERANCE_MS: i64 = 1000;

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

    /// The digest of all elements; 0 if there is none.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        if self.digests.is_empty() {
            return 0;
        }
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
    /// When it expires, in milliseconds since the epoch. `None`: it has no time to live.
    pub expires_at: Option<i64>,
    /// Fields of a hash that have a time to live: when they expire (milliseconds since the epoch), by the digest of
    /// field and value. They are not part of `digest`.
    pub expiring_fields: BTreeMap<u64, i64>,
    /// Properties that only newer servers report, by name. Compared where both servers report them.
    pub extras: BTreeMap<String, Bytes>,
}

impl ValueDigest {
    /// Whether a server that does not have the key may have expired it. `until`: see [`Clocks::expired_until`].
    fn may_be_expired(&self, until: i64) -> bool {
        // A hash ends with its last field.
        let all_fields = self.digest == 0 && self.expiring_fields.values().all(|at| *at <= until);
        self.expires_at.is_some_and(|at| at <= until) || (!self.expiring_fields.is_empty() && all_fields)
    }
}

/// The clocks of two servers after both had replied, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The clock of the source.
    pub source_ms: i64,
    /// The clock of the target.
    pub target_ms: i64,
    /// Tolerance of expiry times in milliseconds: 0 if both servers report them exactly.
    pub tolerance_ms: i64,
}

impl Clocks {
    /// What expires until this instant may be missing at one server and not at the other.
    fn expired_until(self) -> i64 {
        self.source_ms.max(self.target_ms) + self.tolerance_ms
    }
}

/// Why the digests of a key differ between two servers. `None`: they do not.
#[must_use]
pub fn difference(source: &KeyDigest, target: &KeyDigest, clocks: Clocks) -> Option<String> {
    let until = clocks.expired_until();
    let (source, target) = match (source, target) {
        (KeyDigest::Missing, KeyDigest::Missing) => return None,
        (KeyDigest::Key(source), KeyDigest::Key(target)) => (source, target),
        (KeyDigest::Key(there), KeyDigest::Missing) | (KeyDigest::Missing, KeyDigest::Key(there))
            if there.may_be_expired(until) =>
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
    match (source.expires_at, target.expires_at) {
        (None, None) => {}
        (Some(a), Some(b)) if a.abs_diff(b) <= clocks.tolerance_ms.unsigned_abs() => {}
        (a, b) => {
            let text = |at: Option<i64>| at.map_or("never".to_owned(), |at| format!("at {at} ms"));
            return Some(format!("it expires {} at the source, {} at the target", text(a), text(b)));
        }
    }
    let alive = |digest: &ValueDigest| -> BTreeMap<u64, i64> {
        digest.expiring_fields.iter().filter(|(_, at)| **at > until).map(|(field, at)| (*field, *at)).collect()
    };
    if alive(source) != alive(target) {
        return Some("the hash's fields that have a time to live differ".into());
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

    fn key(expires_at: Option<i64>) -> ValueDigest {
        let (expiring_fields, extras) = (BTreeMap::new(), BTreeMap::new());
        ValueDigest { kind: "hash".into(), digest: 7, expires_at, expiring_fields, extras }
    }

    /// Both servers report exact times, and their clocks stand at 1000 ms.
    const EXACT: Clocks = Clocks { source_ms: 1000, target_ms: 1000, tolerance_ms: 0 };

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
        let at = |instant| KeyDigest::Key(key(instant));
        let same =
            |a: &KeyDigest, b: &KeyDigest| difference(a, b, EXACT).is_none() && difference(b, a, EXACT).is_none();
        assert!(same(&at(None), &at(None)));
        assert!(same(&at(Some(5000)), &at(Some(5000))));
        assert!(!same(&at(Some(5000)), &at(Some(5001))));
        assert!(!same(&at(Some(500)), &at(None)));
        assert!(same(&at(Some(1000)), &KeyDigest::Missing));
        assert!(!same(&at(Some(1001)), &KeyDigest::Missing));
        assert!(!same(&at(None), &KeyDigest::Missing));
        assert!(!same(&KeyDigest::Changed, &KeyDigest::Changed));
        let mut other = key(None);
        other.digest = 8;
        assert!(difference(&at(None), &KeyDigest::Key(other), EXACT).unwrap().contains("values"));
        let extra = |value: &'static str| {
            let extras = BTreeMap::from([("entries-added".to_owned(), Bytes::from_static(value.as_bytes()))]);
            KeyDigest::Key(ValueDigest { extras, ..key(None) })
        };
        assert!(same(&extra("3"), &at(None)));
        assert!(difference(&extra("3"), &extra("4"), EXACT).unwrap().contains("entries-added: 3"));
    }

    #[test]
    fn a_server_without_exact_times_gets_tolerance() {
        let at = |instant| KeyDigest::Key(key(Some(instant)));
        let clocks = Clocks { tolerance_ms: INEXACT_TOLERANCE_MS, ..EXACT };
        assert_eq!(difference(&at(5000), &at(4000), clocks), None);
        assert!(difference(&at(5000), &at(3999), clocks).unwrap().contains("expires at 5000 ms"));
        assert_eq!(difference(&at(2000), &KeyDigest::Missing, clocks), None);
        assert!(difference(&at(2001), &KeyDigest::Missing, clocks).is_some());
    }

    /// A key that has expired by one server's clock is no difference, whichever server it is.
    #[test]
    fn clocks_that_differ_make_no_difference_of_keys() {
        let soon = KeyDigest::Key(key(Some(4000)));
        for clocks in [Clocks { source_ms: 5000, ..EXACT }, Clocks { target_ms: 5000, ..EXACT }] {
            assert_eq!(difference(&soon, &KeyDigest::Missing, clocks), None);
            assert_eq!(difference(&KeyDigest::Missing, &soon, clocks), None);
        }
    }

    #[test]
    fn fields_that_have_expired_are_not_compared() {
        let fields = |digest: u64, expiry: &[(u64, i64)]| {
            let expiring_fields = expiry.iter().copied().collect();
            KeyDigest::Key(ValueDigest { digest, expiring_fields, ..key(None) })
        };
        let same =
            |a: &KeyDigest, b: &KeyDigest| difference(a, b, EXACT).is_none() && difference(b, a, EXACT).is_none();
        assert!(same(&fields(7, &[(1, 5000)]), &fields(7, &[(1, 5000)])));
        assert!(!same(&fields(7, &[(1, 5000)]), &fields(7, &[(1, 5001)])));
        assert!(!same(&fields(7, &[(1, 5000)]), &fields(7, &[])));
        assert!(same(&fields(7, &[(1, 1000)]), &fields(7, &[])));
        // The last field of a hash takes the hash with it.
        assert!(same(&fields(0, &[(1, 900), (2, 1000)]), &KeyDigest::Missing));
        assert!(!same(&fields(0, &[(1, 900), (2, 1001)]), &KeyDigest::Missing));
        assert!(!same(&fields(7, &[(1, 900)]), &KeyDigest::Missing));
    }
}
