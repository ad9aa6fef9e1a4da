//! The slot of a key, in the layouts of Codis and of Redis Cluster; and the text of sets of slots.
//! Knows nothing of owners.

use std::collections::BTreeSet;

use crc::{CRC_16_XMODEM, Crc, Table};

use super::ids::SlotId;

/// How a product's keys are hashed to slots; fixed when the product is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// CRC-32 (IEEE) of tag or key, mod 1024, as Codis 3.2 does (`pkg/proxy/mapper.go`, Hash).
    #[default]
    Codis,
    /// CRC-16 (XMODEM) of tag or key, mod 16384, as Redis Cluster does (cluster specification, "Key distribution
    /// model").
    Redis,
}

impl Layout {
    /// Number of slots.
    #[must_use]
    pub const fn slots(self) -> u16 {
        match self {
            Self::Codis => 1024,
            Self::Redis => 16384,
        }
    }

    /// The slot of `key`.
    #[must_use]
    pub fn slot(self, key: &[u8]) -> SlotId {
        let part = self.hashed_part(key);
        match self {
            Self::Codis => SlotId((crc32fast::hash(part) % 1024) as u16),
            Self::Redis => SlotId(crc16(part) % 16384),
        }
    }

    /// The part of the key that is hashed: between the first `{` and the first `}` after it, else the whole key.
    /// An empty tag `{}` is hashed as the empty string by Codis, and means the whole key in Redis.
    fn hashed_part(self, key: &[u8]) -> &[u8] {
        let Some(open) = memchr::memchr(b'{', key) else { return key };
        let rest = &key[open + 1..];
        match memchr::memchr(b'}', rest) {
            Some(0) if self == Self::Redis => key,
            Some(close) => &rest[..close],
            None => key,
        }
    }
}

/// `slots` as ascending runs (first, last), both inclusive.
#[must_use]
pub fn runs(slots: &BTreeSet<SlotId>) -> Vec<(SlotId, SlotId)> {
    let mut runs: Vec<(SlotId, SlotId)> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some((_, last)) if u32::from(last.0) + 1 == u32::from(slot.0) => *last = *slot,
            Some(_) | None => runs.push((*slot, *slot)),
        }
    }
    runs
}

/// `slots` for people: "0-511, 600".
#[must_use]
pub fn spans(slots: &BTreeSet<SlotId>) -> String {
    let one = |(first, last): (SlotId, SlotId)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs(slots).into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// CRC-16/XMODEM (polynomial 0x1021, start 0), which appendix A of the Redis Cluster specification defines.
fn crc16(bytes: &[u8]) -> u16 {
    CRC16.checksum(bytes)
}

/// Tables of 8 KB, for 16 bytes at a time: a key of 16 bytes takes half of the instructions of a single table.
static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_join_neighbours_only() {
        let set = |slots: &[u16]| slots.iter().copied().map(SlotId).collect::<BTreeSet<_>>();
        assert_eq!(spans(&set(&[])), "");
        assert_eq!(spans(&set(&[7])), "7");
        assert_eq!(spans(&set(&[0, 1, 2, 4, 6, 7])), "0-2, 4, 6-7");
    }

    #[test]
    fn known_slots() {
        let check =
            |layout: Layout, key: &str, slot: u16| assert_eq!(layout.slot(key.as_bytes()), SlotId(slot), "{key}");
        // Redis Cluster specification, appendix A: crc16("123456789") = 0x31C3.
        check(Layout::Redis, "123456789", 0x31C3);
        check(Layout::Redis, "foo", 12182);
        check(Layout::Redis, "{user1000}.following", Layout::Redis.slot(b"user1000").0);
        check(Layout::Redis, "foo{}{bar}", crc16(b"foo{}{bar}") % 16384);
        check(Layout::Redis, "foo{{bar}}zap", Layout::Redis.slot(b"{bar").0);
        check(Layout::Redis, "foo{bar}{zap}", Layout::Redis.slot(b"bar").0);
        check(Layout::Redis, "foo{bar", crc16(b"foo{bar") % 16384);
        // CRC-32 check value: crc32("123456789") = 0xCBF43926.
        check(Layout::Codis, "123456789", (0xCBF4_3926u32 % 1024) as u16);
        check(Layout::Codis, "a{}b", 0);
        check(Layout::Codis, "a}b{c", (crc32fast::hash(b"a}b{c") % 1024) as u16);
        check(Layout::Codis, "x{tag}y", Layout::Codis.slot(b"tag").0);
    }
}
