//! Short names of commands as one number, so that those of most calls are found without a loop over their letters.
//! Knows nothing of which commands there are.

use std::num::NonZeroU64;

/// Longest name that is packed, in bytes: those of the 64 bits.
const PACKED_MAX: usize = 8;

/// A name of at most eight bytes in lower case, the first byte in the lowest bits. Two names are equal in any case of letters if,
/// and only if, they are packed to the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedName(pub(super) NonZeroU64);

impl PackedName {
    /// `None`: the name is empty or too long, or ends with a NUL, which is no different from nothing here.
    #[inline]
    pub(super) const fn of(name: &[u8]) -> Option<Self> {
        if name.len() > PACKED_MAX {
            return None;
        }
        let (mut word, mut at) = (0, name.len());
        while at > 0 {
            at -= 1;
            word = word << 8 | name[at] as u64;
        }
        match NonZeroU64::new(to_lower_case(word)) {
            Some(word) if name[name.len() - 1] != 0 => Some(Self(word)),
            Some(_) | None => None,
        }
    }
}

/// The eight bytes with ASCII letters in lower case. (Bytes of a word at once: "SIMD within a register".)
#[inline]
const fn to_lower_case(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Of each byte below 128, bit 7 of a sum says whether it is at least `A`, and whether it is beyond `Z`.
    let low_bits = word & (0x7f * EACH);
    let from_a = low_bits + (0x80 - b'A' as u64) * EACH;
    let beyond_z = low_bits + (0x7f - b'Z' as u64) * EACH;
    let is_upper = from_a & !beyond_z & !word & (0x80 * EACH);
    word | is_upper >> 2
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_packed_equally_if_they_differ_only_in_the_case_of_letters() {
        let mut names: Vec<Vec<u8>> = vec![b"get".to_vec(), b"GeT".to_vec(), b"get\0".to_vec(), b"\0get".to_vec()];
        for byte in 0..=u8::MAX {
            names.extend([vec![byte], vec![byte; 8], vec![b'a', byte], vec![byte, b'Z', byte]]);
        }
        for a in &names {
            for b in &names {
                let (Some(packed_a), Some(packed_b)) = (PackedName::of(a), PackedName::of(b)) else { continue };
                assert_eq!(packed_a == packed_b, a.eq_ignore_ascii_case(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn what_is_not_packed() {
        for name in [&b""[..], b"\0", b"get\0", b"ninebytes"] {
            assert_eq!(PackedName::of(name), None, "{name:?}");
        }
        assert!(PackedName::of(b"eightlen").is_some() && PackedName::of(b"\0a").is_some());
    }
}
