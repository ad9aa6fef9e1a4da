//! The slot of a key, in the layouts of Codis and of Redis Cluster; and the text of sets of slots.
//! Knows nothing of owners.

use std::collections::BTreeSet;

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

/// All of `slots`, as data: "0-511, 600". With 16384 slots up to 90 KB; sentences have [`brief`].
#[must_use]
pub fn spans(slots: &BTreeSet<SlotId>) -> String {
    listed(&runs(slots))
}

/// Runs of slots that a sentence names: more are not read.
const RUNS_NAMED: usize = 8;

/// `slots` in a sentence: "0-511, 600". Of very many runs the first ones, and how many there are.
#[must_use]
pub fn brief(slots: &BTreeSet<SlotId>) -> String {
    let runs = runs(slots);
    match runs.get(..RUNS_NAMED) {
        // One more is no longer than to say that there is one more.
        Some(first) if runs.len() > RUNS_NAMED + 1 => {
            format!("{} and {} more ranges ({} slots in all)", listed(first), runs.len() - RUNS_NAMED, slots.len())
        }
        Some(_) | None => listed(&runs),
    }
}

fn listed(runs: &[(SlotId, SlotId)]) -> String {
    let one = |(first, last): &(SlotId, SlotId)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// CRC-16/XMODEM (polynomial 0x1021, start 0), which appendix A of the Redis Cluster specification defines; eight bytes
/// at a time. (The code that the compiler makes of the crate `crc` differs by a factor of 1.7 with changes elsewhere: 66 or
/// 112 instructions for a key of 16 bytes. These are 55.)
fn crc16(bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut crc = 0_u16;
    for chunk in chunks {
        let [high, low] = crc.to_be_bytes();
        let [a, b, c, d, e, f, g, h] = *chunk;
        crc = CRC16[7][usize::from(a ^ high)]
            ^ CRC16[6][usize::from(b ^ low)]
            ^ CRC16[5][usize::from(c)]
            ^ CRC16[4][usize::from(d)]
            ^ CRC16[3][usize::from(e)]
            ^ CRC16[2][usize::from(f)]
            ^ CRC16[1][usize::from(g)]
            ^ CRC16[0][usize::from(h)];
    }
    for byte in rest {
        let [high, low] = crc.to_be_bytes();
        crc = u16::from_be_bytes([low, 0]) ^ CRC16[0][usize::from(high ^ byte)];
    }
    crc
}

/// `CRC16[n][byte]`: the checksum of `byte` and `n` zeros behind it. 4 KB.
static CRC16: [[u16; 256]; 8] = crc16_tables();

const fn crc16_tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut table = 0;
        while table < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            tables[table][byte] = crc;
            table += 1;
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_definition() {
        let definition = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);
        let bytes: Vec<u8> = (0..600_u32).map(|n| (n * 7919).to_be_bytes()[2]).collect();
        for (first, last) in (0..40).flat_map(|first| (first..=first + 40).map(move |last| (first, last))) {
            assert_eq!(crc16(&bytes[first..last]), definition.checksum(&bytes[first..last]), "{first}..{last}");
        }
        assert_eq!(crc16(&bytes), definition.checksum(&bytes));
    }

    #[test]
    fn spans_join_neighbours_only() {
        let set = |slots: &[u16]| slots.iter().copied().map(SlotId).collect::<BTreeSet<_>>();
        assert_eq!(spans(&set(&[])), "");
        assert_eq!(spans(&set(&[7])), "7");
        assert_eq!(spans(&set(&[0, 1, 2, 4, 6, 7])), "0-2, 4, 6-7");
        let scattered = |n: u16| (0..n).map(|i| SlotId(2 * i)).collect::<BTreeSet<_>>();
        assert_eq!(brief(&scattered(9)), spans(&scattered(9)));
        assert_eq!(brief(&scattered(4096)), "0, 2, 4, 6, 8, 10, 12, 14 and 4088 more ranges (4096 slots in all)");
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
