//! Searches a server for keys of some slots, by SCAN over all its databases.
//! Knows nothing of assignments, which search before the hold and again after the barrier.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    model::{
        ids::{HostPort, SlotId},
        secret::Credentials,
        slot::Layout,
    },
    redis::{Client, RedisError},
};

/// How long a search may take when an operator waits for it; slots that it cannot show to be empty in this time count
/// as not empty.
pub const SCAN_BUDGET: Duration = Duration::from_secs(1);
/// How many keys a page has: about 100 us of the server's time.
const PAGE: u32 = 1000;

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanResult {
    /// Every database was scanned to its end, and no key of these slots was there.
    Empty {
        /// How many keys were searched.
        keys_scanned: u64,
    },
    /// A key of one of the slots.
    Found {
        /// The key; [`show_key`] makes it fit to show.
        key: Bytes,
        /// Its slot.
        slot: SlotId,
        /// Its database.
        db: u32,
    },
    /// The search did not come to its end.
    Unfinished {
        /// Why, for people.
        why: String,
    },
}

/// Scans `server` for keys of `slots`, in every database that has keys, for at most `budget`.
/// `databases` is the product's number; it counts only where the server does not say which databases have keys.
/// A key that is there all the time is found; one that comes or goes meanwhile may be missed (as SCAN guarantees).
pub async fn scan_for_slots(
    server: &HostPort,
    credentials: Option<&Credentials>,
    layout: Layout,
    slots: &BTreeSet<SlotId>,
    databases: u32,
    budget: Duration,
) -> ScanResult {
    let deadline = Instant::now() + budget;
    let mut seen = 0;
    let scan = Scan { server, credentials, layout, slots, databases, deadline };
    match scan.run(&mut seen).await {
        Ok(Some((key, slot, db))) => ScanResult::Found { key, slot, db },
        Ok(None) => ScanResult::Empty { keys_scanned: seen },
        Err(RedisError::Timeout { .. }) => ScanResult::Unfinished {
            why: format!(
                "{server} has too many keys to search within {} ms ({seen} were searched)",
                budget.as_millis()
            ),
        },
        Err(error) => ScanResult::Unfinished { why: error.to_string() },
    }
}

struct Scan<'a> {
    server: &'a HostPort,
    credentials: Option<&'a Credentials>,
    layout: Layout,
    slots: &'a BTreeSet<SlotId>,
    databases: u32,
    deadline: Instant,
}

impl Scan<'_> {
    async fn run(&self, seen: &mut u64) -> Result<Option<(Bytes, SlotId, u32)>, RedisError> {
        let mut wanted = vec![false; usize::from(self.layout.slots())];
        for slot in self.slots {
            if let Some(entry) = wanted.get_mut(usize::from(slot.0)) {
                *entry = true;
            }
        }
        let mut client = Client::connect(self.server, self.credentials, "pt:scan", self.deadline).await?;
        let databases: Vec<u32> = match client.info("keyspace", self.deadline).await {
            Ok(info) => info.keyspace().into_keys().collect(),
            Err(RedisError::NotAllowed { .. }) => (0..self.databases).collect(),
            Err(error) => return Err(error),
        };
        for db in databases {
            client.select(db, self.deadline).await?;
            let mut cursor = 0;
            loop {
                let page = client.scan(cursor, PAGE, self.deadline).await?;
                for key in page.keys {
                    let slot = self.layout.slot(&key);
                    if wanted[usize::from(slot.0)] {
                        return Ok(Some((key, slot, db)));
                    }
                    *seen += 1;
                }
                cursor = page.cursor;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(None)
    }
}

/// A key as text for people: bytes other than printable ASCII are escaped, and a long key is cut.
#[must_use]
pub fn show_key(key: &[u8]) -> String {
    /// Enough to recognise a key by; keys can be 512 MB.
    const SHOWN: usize = 128;
    let shown = key[..key.len().min(SHOWN)].escape_ascii();
    if key.len() > SHOWN { format!("{shown}... ({} bytes)", key.len()) } else { shown.to_string() }
}
