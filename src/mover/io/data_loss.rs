//! Detects by a server's own counters that it lost keys: FLUSHALL, FLUSHDB, SWAPDB, evictions.
//! Knows nothing of connections and of the consequences.

use crate::redis::Info;

/// Commands that empty or swap databases, as INFO commandstats names them.
const FLUSHES: &[&str] = &["cmdstat_flushall", "cmdstat_flushdb", "cmdstat_swapdb"];
/// A command that we send all the time: its counter decreases only when the counters are reset.
const PING_CALLS: &str = "cmdstat_ping";

/// The counters at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mover) struct DataLossDetector {
    flushes: u64,
    evicted: u64,
    pings: u64,
}

impl DataLossDetector {
    /// From INFO commandstats and INFO stats. Counters that a server does not report count as 0.
    pub fn of(commands: &Info, stats: &Info) -> Self {
        Self {
            flushes: FLUSHES.iter().map(|name| commands.calls(name)).sum(),
            evicted: stats.get("evicted_keys").and_then(|n| n.parse().ok()).unwrap_or(0),
            pings: commands.calls(PING_CALLS),
        }
    }

    /// What has happened between this moment and a later one. `None`: nothing. `evictions`: whether evictions count.
    pub fn until(&self, later: &Self, evictions: bool) -> Option<String> {
        if later.pings < self.pings {
            Some(
                "had its statistics reset (CONFIG RESETSTAT), so it is unknown whether it was flushed meanwhile".into(),
            )
        } else if later.flushes != self.flushes {
            Some("was flushed (FLUSHALL, FLUSHDB or SWAPDB): copied keys may be gone".into())
        } else if evictions && later.evicted != self.evicted {
            let evicted = later.evicted.abs_diff(self.evicted);
            Some(format!(
                "evicted {evicted} keys, and copied keys may be among them; raise its maxmemory or set its \
                 maxmemory-policy to noeviction, then resume the migration"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commands: &str, evicted: u64) -> DataLossDetector {
        DataLossDetector::of(&Info::parse(commands), &Info::parse(&format!("evicted_keys:{evicted}\r\n")))
    }

    #[test]
    fn flushes_evictions_and_resets_are_detected() {
        let before = at("cmdstat_ping:calls=20,usec=1\r\ncmdstat_flushall:calls=3,usec=9\r\n", 5);
        let same =
            at("cmdstat_ping:calls=25,usec=1\r\ncmdstat_flushall:calls=3,usec=9\r\ncmdstat_del:calls=1,usec=1\r\n", 5);
        assert_eq!(before.until(&same, true), None);
        let flushed =
            at("cmdstat_ping:calls=25,usec=1\r\ncmdstat_flushall:calls=3,usec=9\r\ncmdstat_flushdb:calls=1\r\n", 5);
        assert!(before.until(&flushed, true).is_some_and(|why| why.contains("flushed")));
        let evicted = at("cmdstat_ping:calls=25,usec=1\r\ncmdstat_flushall:calls=3,usec=9\r\n", 7);
        assert!(before.until(&evicted, true).is_some_and(|why| why.contains("evicted 2 keys")));
        assert_eq!(before.until(&evicted, false), None);
        let reset = at("cmdstat_ping:calls=2,usec=1\r\n", 0);
        assert!(before.until(&reset, false).is_some_and(|why| why.contains("RESETSTAT")));
    }
}
