//! Ids of a stream's entries.
//! Knows nothing of entries.

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Milliseconds.
    pub time: u64,
    /// Sequence number within the millisecond.
    pub seq: u64,
}

impl StreamId {
    /// The greatest id.
    pub const MAX: Self = Self { time: u64::MAX, seq: u64::MAX };

    /// Parses `time-seq`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (time, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { time: time.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// The next id. (Exclusive ranges, `(id`, came with Redis 6.2.)
    pub fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { time: self.time, seq }),
            None => Some(Self { time: self.time.checked_add(1)?, seq: 0 }),
        }
    }

    /// `time-seq`.
    pub fn text(self) -> String {
        format!("{}-{}", self.time, self.seq)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_have_an_order_and_a_next() {
        let id = |text: &str| StreamId::parse(text.as_bytes());
        assert_eq!(id("5-7").unwrap().next(), id("5-8"));
        assert_eq!(StreamId { time: 5, seq: u64::MAX }.next(), id("6-0"));
        assert_eq!(StreamId::MAX.next(), None);
        assert!(id("5-10").unwrap() > id("5-9").unwrap() && id("6-0").unwrap() > id("5-10").unwrap());
        for bad in ["", "5", "5-", "-5", "a-1", "1-1-1"] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
