//! The sled database of the log: its trees, their keys, and the checksums of their values. Only this file and `disk.rs`
//! name sled.
//! Knows nothing of the witness, nor of what must be synced when; every function here blocks.

use std::{
    ops::Bound,
    path::Path,
    time::{Duration, Instant},
};

use prost::Message;

use super::{convert, types::LogEntry};
use crate::wire::pb::raft as pb;

/// Longest value given to sled. sled keeps up to 16 neighbours in one page and writes pages above 128 KB to files of
/// their own, without fsync; 17 of these stay far below.
pub const CHUNK: usize = 4096;
/// sled's cache; its default is 1 GB. The log that is kept is a few MB.
const CACHE: u64 = 16 << 20;
/// sled's threads end within milliseconds after a close. If it takes longer, another program holds the file.
const LOCKED_MAX: Duration = Duration::from_secs(5);
/// Time between two checks of whether it is closed.
const LOCKED_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// sled writes what nobody waits for (the committed position) after this time, in milliseconds.
const FLUSH_MS: u64 = 500;

/// A failure of the disk or of the data on it, as text for the operator.
pub type Failure = String;

/// sled's database and the trees in it.
#[derive(Clone, Debug)]
pub struct Trees {
    pub db: sled::Db,
    pub log: sled::Tree,
    pub meta: sled::Tree,
    pub snapshot: sled::Tree,
}

impl Trees {
    /// Opens the database in a folder, or makes it.
    ///
    /// # Errors
    /// See [`Unopened`].
    pub fn open(folder: &Path) -> Result<Self, Unopened> {
        remove_unfinished(folder).map_err(Unopened::System)?;
        open_until(folder, Instant::now() + LOCKED_MAX)
    }

    /// The entries from `start` to before `end`: at most about `limit` bytes (0: no limit), and at least one entry if
    /// there is one.
    ///
    /// # Errors
    /// Returns which entry is damaged or cannot be read.
    pub fn entries(&self, start: u64, end: Option<u64>, limit: usize) -> Result<Vec<LogEntry>, Failure> {
        let from = Bound::Included(log_key(start, 0).to_vec());
        let to = end.map_or(Bound::Unbounded, |e| Bound::Excluded(log_key(e.max(start), 0).to_vec()));
        let mut out = Vec::new();
        let mut total = 0;
        let mut open: Option<(u64, Vec<u8>)> = None;
        let mut finish = |index: u64, bytes: Vec<u8>, total: &mut usize| -> Result<(), Failure> {
            *total += bytes.len();
            let body = unseal(&bytes).ok_or_else(|| format!("entry {index} has a wrong checksum"))?;
            let entry = convert::log_entry(&decode::<pb::LogEntry>(body, "entry")?)?;
            if entry.log_id.index != index {
                return Err(format!("entry {index} says that it is {}", entry.log_id.index));
            }
            out.push(entry);
            Ok(())
        };
        for item in self.log.range::<Vec<u8>, _>((from, to)) {
            let (key, value) = item.map_err(|e| format!("the log cannot be read: {e}"))?;
            let index = key_number(&key).ok_or("the log has a key without an index")?;
            match &mut open {
                Some((i, bytes)) if *i == index => bytes.extend_from_slice(&value),
                _ => {
                    if let Some((i, bytes)) = open.take() {
                        finish(i, bytes, &mut total)?;
                    }
                    if limit > 0 && total >= limit {
                        return Ok(out);
                    }
                    open = Some((index, value.to_vec()));
                }
            }
        }
        if let Some((i, bytes)) = open {
            finish(i, bytes, &mut total)?;
        }
        Ok(out)
    }
}

/// Why sled did not open.
#[derive(Debug)]
pub enum Unopened {
    /// The operating system refused something (space, permission, too many files). To wipe the directory would be wrong
    /// advice.
    System(std::io::Error),
    /// The data on disk is damaged.
    Damaged(Failure),
}

/// Removes indexes that a crash left unfinished. sled writes each under a name with this end and renames it; at a start it
/// would take the unfinished one for a damaged index.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            tracing::info!(file = %entry.path().display(), "an unfinished index of the log, left by a crash, is removed");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled reports a lock that is taken as an error of its own, with this text in it.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn open_until(folder: &Path, give_up: Instant) -> Result<Trees, Unopened> {
    // sled panics on some damages. The operator must get our error then, and not a backtrace.
    let opened = std::panic::catch_unwind(|| {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(Some(FLUSH_MS));
        let db = config.open()?;
        let (log, meta, snapshot) = (db.open_tree("log")?, db.open_tree("meta")?, db.open_tree("snapshot")?);
        Ok::<_, sled::Error>(Trees { db, log, meta, snapshot })
    });
    match opened {
        Ok(Ok(trees)) => Ok(trees),
        // This process holds the data directory, so the lock is that of an earlier handle in it whose threads are
        // ending.
        Ok(Err(sled::Error::Io(e))) if is_locked(&e) && Instant::now() < give_up => {
            std::thread::sleep(LOCKED_POLL_INTERVAL);
            open_until(folder, give_up)
        }
        Ok(Err(sled::Error::Io(e))) if e.raw_os_error().is_some() => Err(Unopened::System(e)),
        Ok(Err(e)) => Err(Unopened::Damaged(format!("sled cannot open it: {e}"))),
        Err(_) => Err(Unopened::Damaged("sled cannot read it".into())),
    }
}

/// Removes a range of keys, in one batch.
pub fn remove(tree: &sled::Tree, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> sled::Result<()> {
    let mut batch = sled::Batch::default();
    let mut any = false;
    for key in tree.range::<Vec<u8>, _>((from, to)).keys() {
        batch.remove(key?);
        any = true;
    }
    if any { tree.apply_batch(batch) } else { Ok(()) }
}

/// The key of a piece of an entry.
pub fn log_key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The key of a piece of the snapshot of a generation.
pub fn chunk_key(generation: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&generation.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The number that a key begins with: an entry's index, or a snapshot's generation.
pub fn key_number(key: &[u8]) -> Option<u64> {
    key.get(..8)?.try_into().ok().map(u64::from_be_bytes)
}

/// The bytes, after their checksum.
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut out = crc32fast::hash(bytes).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// The bytes without their checksum; `None` if it is wrong.
pub fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_at_checked(4)?;
    (crc32fast::hash(body).to_be_bytes() == sum).then_some(body)
}

/// Decodes a stored message; errors name it `what`.
///
/// # Errors
/// Returns that it cannot be decoded, and why.
pub fn decode<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M, Failure> {
    M::decode(bytes).map_err(|e| format!("{what} cannot be decoded: {e}"))
}
