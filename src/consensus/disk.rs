//! Raft's data on disk: log, vote and snapshot in sled, and the witness beside it.
//! Knows nothing of openraft's traits; every function here blocks.
//!
//! sled's `flush` does not fsync on Linux, so `sync_data` follows it before anything is acknowledged. Values above 128
//! KB (also those that sled makes itself, of up to 16 of our values) would go to files that are never synced: see
//! `trees::CHUNK`.

use std::{
    fs::{File, OpenOptions},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use prost::Message;

pub use super::trees::Failure;
use super::{
    OpenError, convert,
    trees::{CHUNK, Trees, Unopened, chunk_key, decode, key_number, log_key, remove, seal, unseal},
    types::{LogEntry, LogId, Snapshot, SnapshotMeta, Vote},
    witness::{Witness, WitnessRecord},
};
use crate::{
    model::{ids::Uuid, limits::SCRIPT_LEN_MAX},
    wire::pb::raft as pb,
};

/// Longest entry, in encoded bytes: that of a script or library of the longest kind, and what is beside it. (An assignment of
/// all 16384 slots has about 50 KB.) A longer one is refused when it is proposed.
pub const ENTRY_MAX: usize = SCRIPT_LEN_MAX + (4 << 10);
/// Entries are read in batches of about this number of bytes, so that one message to a follower stays below 4 MB.
pub const BATCH_BYTES: usize = 1 << 20;

const FOLDER: &str = "raft";
const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const SNAPSHOT: &[u8] = b"snapshot";

/// The open store.
#[derive(Debug)]
pub struct Disk {
    trees: RwLock<Option<Trees>>,
    writer: Mutex<Writer>,
    /// Locked apart from the writer, which does not wait for the late sync of the witness. If both are locked, the
    /// writer is first.
    witness: Mutex<Witness>,
    /// Bytes that were appended.
    appended: AtomicU64,
}

#[derive(Debug)]
struct Writer {
    /// sled's database file, for `sync_data`.
    file: File,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Generation of the current snapshot's pieces.
    generation: u64,
    /// Last entry in the current snapshot.
    snapshot: Option<LogId>,
    /// A write has failed: sled's memory may be ahead of the disk, so nothing more is written.
    failed: Option<Failure>,
}

/// The ends of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Last entry that was removed after a snapshot.
    pub purged: Option<LogId>,
    /// Last entry; `purged` if there is none.
    pub last: Option<LogId>,
}

/// The error for a damaged log: what is damaged, and what to do now.
pub fn remedy(data_dir: &Path, what: &str) -> OpenError {
    OpenError(format!(
        "the log in {} is damaged: {what}. This node refuses to start, because it may have forgotten what it promised \
         to others. If other nodes are alive: run `pontoon node remove ID` there, move this directory away, and start \
         this node with --join. If none is alive: restore all of this directory from one copy",
        data_dir.display()
    ))
}

impl Disk {
    /// Opens the store of a data directory that has a witness, and checks everything in it.
    ///
    /// # Errors
    /// The log is damaged or behind its witness, or the file system refuses something. The text says what to do.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let witness = open_witness(data_dir)?;
        let folder = data_dir.join(FOLDER);
        let fresh = !folder.exists();
        let trees = Trees::open(&folder).map_err(|e| match e {
            Unopened::Damaged(what) => remedy(data_dir, &what),
            Unopened::System(e) => OpenError(format!(
                "the log in {} cannot be opened: {e}. It is not known to be damaged: see that there is space and that this \
                 user may write there, then start this node again",
                folder.display()
            )),
        })?;
        let io = |e: std::io::Error| OpenError(format!("cannot open {}: {e}", folder.display()));
        // The handle is opened for writing, because POSIX lets a system refuse fsync on a read-only one.
        let file = OpenOptions::new().read(true).write(true).open(folder.join("db")).map_err(io)?;
        let writer = Writer { file, last: None, purged: None, generation: 0, snapshot: None, failed: None };
        let disk = Self {
            trees: RwLock::new(Some(trees)),
            writer: Mutex::new(writer),
            witness: Mutex::new(witness),
            appended: AtomicU64::new(0),
        };
        disk.verify().map_err(|e| remedy(data_dir, &e))?;
        if fresh {
            disk.lock().flush(&disk.trees().map_err(OpenError)?).map_err(OpenError)?;
            File::open(&folder).and_then(|f| f.sync_all()).map_err(io)?;
            File::open(data_dir).and_then(|f| f.sync_all()).map_err(io)?;
        }
        Ok(disk)
    }

    /// Closes sled; every later call fails. Acknowledged data is on disk already.
    pub fn close(&self) {
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "the witness file could not be synced at its end");
        }
        let taken = self.trees.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(trees) = taken
            && let Err(error) = trees.db.flush()
        {
            tracing::warn!(%error, "the log could not be flushed at its end; nothing acknowledged is lost");
        }
    }

    fn trees(&self) -> Result<Trees, Failure> {
        let guard = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        guard.clone().ok_or_else(|| "the log is closed".into())
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // After a panic while writing, `failed` is set or sled's own state answers; the guard protects no invariant.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The uuid, cluster, vote and last entry in the witness.
    pub fn facts(&self) -> WitnessRecord {
        self.witness().facts().clone()
    }

    /// The ends of the log.
    pub fn ends(&self) -> Ends {
        let w = self.lock();
        Ends { purged: w.purged, last: w.last }
    }

    /// Makes this node part of a cluster, durably. A node that has a vote or a log keeps its cluster.
    pub fn set_cluster(&self, id: Uuid) -> Result<(), Failure> {
        let facts = self.facts();
        match facts.cluster_id {
            Some(own) if own != id && (facts.vote.is_some() || facts.last.is_some()) => {
                Err(format!("this node belongs to cluster {own} already"))
            }
            _ => self.replace_cluster(id),
        }
    }

    /// Puts this node into another cluster, durably. For `recover` only.
    pub fn replace_cluster(&self, id: Uuid) -> Result<(), Failure> {
        self.update_witness(&mut self.lock(), |facts| facts.cluster_id = Some(id))
    }

    /// Appends entries, which are on disk when this returns. The caller calls [`Disk::settle`] after it has
    /// acknowledged the append.
    pub fn append(&self, entries: &[LogEntry]) -> Result<(), Failure> {
        let Some(last) = entries.last().map(|e| e.log_id) else { return Ok(()) };
        let trees = self.trees()?;
        let mut w = self.ready()?;
        let mut batch = sled::Batch::default();
        for entry in entries {
            let sealed = seal(&convert::log_entry_pb(entry).encode_to_vec());
            self.appended.fetch_add(sealed.len() as u64, Ordering::Relaxed);
            for (part, chunk) in (0_u16..).zip(sealed.chunks(CHUNK)) {
                batch.insert(&log_key(entry.log_id.index, part)[..], chunk);
            }
        }
        let done = trees.log.apply_batch(batch);
        w.check("append to the log", done)?;
        w.flush(&trees)?;
        w.last = Some(last);
        let facts = WitnessRecord { last: w.last, ..self.facts() };
        let done = self.witness().put(facts);
        done.map_err(|e| w.fail("write the witness file", &e))
    }

    /// Bytes that were appended since the start, or since [`Disk::forget_appended`].
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Counts appended bytes from 0 on.
    pub fn forget_appended(&self) {
        self.appended.store(0, Ordering::Relaxed);
    }

    /// Syncs the witness of the last append. Only the next write to the log waits for it.
    pub fn settle(&self) -> Result<(), Failure> {
        let done = self.witness().settle();
        done.map_err(|e| self.lock().fail("sync the witness file", &e))
    }

    /// The writer, if the log may be written to: no write has failed, and the witness of the last append is on disk.
    fn ready(&self) -> Result<MutexGuard<'_, Writer>, Failure> {
        self.settle()?;
        let w = self.lock();
        w.usable()?;
        Ok(w)
    }

    fn witness_last(&self, w: &mut Writer) -> Result<(), Failure> {
        let last = w.last;
        self.update_witness(w, |facts| facts.last = last)
    }

    /// Changes the witness, which is on disk when this returns.
    fn update_witness(&self, w: &mut Writer, change: impl FnOnce(&mut WitnessRecord)) -> Result<(), Failure> {
        let mut witness = self.witness();
        let mut facts = witness.facts().clone();
        change(&mut facts);
        witness.write(facts).map_err(|e| w.fail("write the witness file", &e))
    }

    /// Removes the entries from `since` on.
    pub fn truncate(&self, since: u64) -> Result<(), Failure> {
        let trees = self.trees()?;
        let before = match since.checked_sub(1) {
            Some(index) => trees.entries(index, Some(index + 1), 0)?.pop().map(|e| e.log_id),
            None => None,
        };
        let mut w = self.ready()?;
        // The witness is first: a crash in between leaves more in the log than the witness asks for, never less.
        w.last = before.or(w.purged);
        self.witness_last(&mut w)?;
        let done = remove(&trees.log, Bound::Included(log_key(since, 0).to_vec()), Bound::Unbounded);
        w.check("truncate the log", done)?;
        w.flush(&trees)
    }

    /// Removes the entries up to and including `upto`, which a snapshot contains.
    pub fn purge(&self, upto: LogId) -> Result<(), Failure> {
        let trees = self.trees()?;
        let mut w = self.ready()?;
        let mut batch = sled::Batch::default();
        let end = log_key(upto.index + 1, 0);
        let done = trees
            .log
            .range(..end)
            .keys()
            .try_for_each(|key| key.map(|k| batch.remove(k)))
            .and_then(|()| trees.meta.insert(PURGED, seal(&convert::log_id_pb(&upto).encode_to_vec())).map(|_| ()))
            // The position is written before the removal: a crash in between leaves too many entries, which `verify`
            // removes.
            .and_then(|()| trees.db.flush().map(|_| ()))
            .and_then(|()| trees.log.apply_batch(batch));
        w.check("purge the log", done)?;
        w.flush(&trees)?;
        w.purged = Some(upto);
        if w.last.is_none_or(|l| l.index <= upto.index) {
            w.last = Some(upto);
        }
        self.witness_last(&mut w)
    }

    /// Entries from `start` to before `end`: at most about `bytes` bytes (0: no limit), and at least one entry if there
    /// is one.
    pub fn entries(&self, start: u64, end: Option<u64>, bytes: usize) -> Result<Vec<LogEntry>, Failure> {
        self.trees()?.entries(start, end, bytes)
    }

    /// Saves the vote, which is on disk when this returns.
    pub fn save_vote(&self, vote: &Vote) -> Result<(), Failure> {
        let trees = self.trees()?;
        let mut w = self.ready()?;
        let done = trees.meta.insert(VOTE, seal(&convert::vote_pb(vote).encode_to_vec()));
        w.check("save the vote", done)?;
        w.flush(&trees)?;
        self.update_witness(&mut w, |facts| facts.vote = Some(*vote))
    }

    /// Replaces the vote by a lower one. For `recover` only.
    pub fn lower_vote(&self, vote: &Vote) -> Result<(), Failure> {
        // The witness is first: a crash in between leaves a log that has more than the witness asks for.
        let mut w = self.ready()?;
        self.update_witness(&mut w, |facts| facts.vote = Some(*vote))?;
        drop(w);
        self.save_vote(vote)
    }

    /// The last vote.
    pub fn vote(&self) -> Result<Option<Vote>, Failure> {
        let bytes = self.meta(VOTE)?;
        bytes.map(|b| convert::vote(Some(&decode::<pb::BallotVote>(&b, "vote")?))).transpose()
    }

    /// Notes which entries are committed. This is not synced: an older position is correct, too, and only makes a start
    /// slower.
    pub fn save_committed(&self, committed: Option<LogId>) -> Result<(), Failure> {
        let trees = self.trees()?;
        // This does not use `ready`: nothing is synced here, and applying committed entries waits for it.
        let mut w = self.lock();
        w.usable()?;
        let done = match committed {
            Some(id) => trees.meta.insert(COMMITTED, seal(&convert::log_id_pb(&id).encode_to_vec())),
            None => trees.meta.remove(COMMITTED),
        };
        w.check("save the committed position", done).map(|_| ())
    }

    /// The last entry that was known to be committed, at most the end of the log.
    pub fn committed(&self) -> Result<Option<LogId>, Failure> {
        let last = self.ends().last;
        let id = self.position(COMMITTED)?;
        Ok(id.filter(|c| last.is_some_and(|l| c.index <= l.index)))
    }

    /// Replaces the snapshot; the new one is on disk when this returns.
    pub fn save_snapshot(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), Failure> {
        let trees = self.trees()?;
        let mut w = self.ready()?;
        if meta.last_log_id < w.snapshot {
            // It was built here while a newer one came from the leader, and the log was purged up to that one.
            return Ok(());
        }
        let last = meta.last_log_id;
        let meta = convert::snapshot_meta_pb(meta).encode_to_vec();
        let mut blob = Vec::with_capacity(4 + meta.len() + data.len());
        blob.extend_from_slice(&(meta.len() as u32).to_be_bytes());
        blob.extend_from_slice(&meta);
        blob.extend_from_slice(data);
        let Some(generation) = w.generation.checked_add(1) else {
            return Err(w.fail("store the snapshot", &"the stored one has the last generation"));
        };
        // Otherwise pieces that a crash left would follow a shorter snapshot of the same generation.
        let done = remove(&trees.snapshot, Bound::Included(chunk_key(generation, 0).to_vec()), Bound::Unbounded);
        w.check("store the snapshot", done)?;
        for (part, chunk) in (0_u32..).zip(blob.chunks(CHUNK)) {
            let done = trees.snapshot.insert(chunk_key(generation, part), chunk);
            w.check("store the snapshot", done)?;
        }
        w.flush(&trees)?;
        let mut pointer = generation.to_be_bytes().to_vec();
        pointer.extend_from_slice(&(blob.len() as u64).to_be_bytes());
        pointer.extend_from_slice(&crc32fast::hash(&blob).to_be_bytes());
        let done = trees.meta.insert(SNAPSHOT, seal(&pointer));
        w.check("store the snapshot", done)?;
        w.flush(&trees)?;
        w.generation = generation;
        w.snapshot = last;
        let done = remove(&trees.snapshot, Bound::Unbounded, Bound::Excluded(chunk_key(generation, 0).to_vec()));
        w.check("remove the former snapshot", done).map(|_| ())
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        let Some(pointer) = self.meta(SNAPSHOT)? else { return Ok(None) };
        let bad = |why: &str| format!("the snapshot {why}");
        let number = |at: usize| {
            let bytes =
                pointer.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or_else(|| bad("has no position"))?;
            Ok::<u64, Failure>(u64::from_be_bytes(bytes))
        };
        let (generation, len) = (number(0)?, number(8)?);
        let mut blob = Vec::new();
        for item in self.trees()?.snapshot.scan_prefix(generation.to_be_bytes()) {
            blob.extend_from_slice(&item.map_err(|e| bad(&format!("cannot be read: {e}")))?.1);
        }
        if blob.len() as u64 != len || pointer.get(16..20) != Some(&crc32fast::hash(&blob).to_be_bytes()[..]) {
            return Err(bad("has a wrong length or checksum"));
        }
        let meta_len =
            blob.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or_else(|| bad("is empty"))?;
        let split =
            usize::try_from(meta_len).ok().and_then(|len| len.checked_add(4)).ok_or_else(|| bad("is cut off"))?;
        let meta = blob.get(4..split).ok_or_else(|| bad("is cut off"))?;
        let meta = pb::SnapshotMeta::decode(meta).map_err(|e| bad(&format!("cannot be decoded: {e}")))?;
        let meta = convert::snapshot_meta(&meta)?;
        let data = blob.split_off(split);
        Ok(Some(Snapshot { meta, snapshot: Box::new(std::io::Cursor::new(data)) }))
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let name = String::from_utf8_lossy(key);
        let value = self.trees()?.meta.get(key).map_err(|e| format!("{name} cannot be read: {e}"))?;
        value.map(|v| unseal(&v).map(<[u8]>::to_vec).ok_or_else(|| format!("{name} has a wrong checksum"))).transpose()
    }

    fn position(&self, key: &[u8]) -> Result<Option<LogId>, Failure> {
        let bytes = self.meta(key)?;
        bytes.map(|b| convert::log_id(&decode::<pb::LogId>(&b, "position")?)).transpose()
    }

    /// Checks that everything is there, intact, without gaps, and not behind the witness.
    fn verify(&self) -> Result<(), Failure> {
        let trees = self.trees()?;
        let purged = self.position(PURGED)?;
        if let Some(p) = purged {
            // A crash interrupted a purge.
            remove(&trees.log, Bound::Unbounded, Bound::Excluded(log_key(p.index + 1, 0).to_vec()))
                .map_err(|e| format!("it cannot be purged: {e}"))?;
        }
        let mut last = purged;
        let mut ids = Vec::new();
        for entry in trees.entries(0, None, 0)? {
            let next = last.map_or(0, |l| l.index + 1);
            if entry.log_id.index != next {
                return Err(format!("entry {next} is missing, the next one is {}", entry.log_id.index));
            }
            if last.is_some_and(|l| entry.log_id < l) {
                return Err(format!("entry {next} is older than the one before"));
            }
            last = Some(entry.log_id);
            ids.push(entry.log_id);
        }
        let snapshot = self.snapshot()?.and_then(|s| s.meta.last_log_id);
        if purged.is_some() && snapshot < purged {
            return Err("the snapshot that holds what was purged is missing".into());
        }
        self.committed()?;
        let vote = self.vote()?;
        let facts = self.facts();
        let mut w = self.lock();
        if let Some(promised) = facts.vote
            && vote.is_none_or(|v| v < promised)
        {
            return Err(format!("it lacks the vote {promised} that was given"));
        }
        if let Some(promised) = facts.last {
            let held = purged.is_some_and(|p| promised.index <= p.index) || ids.contains(&promised);
            if !held {
                let has = last.map_or_else(|| "is empty".into(), |l| format!("ends with entry {}", l.index));
                return Err(format!("it {has}, but entry {} was acknowledged", promised.index));
            }
        }
        w.last = last;
        w.purged = purged;
        w.snapshot = snapshot;
        w.generation = trees.snapshot.last().ok().flatten().and_then(|(k, _)| key_number(&k)).unwrap_or(0);
        Ok(())
    }
}

impl Writer {
    fn usable(&self) -> Result<(), Failure> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn check<T>(&mut self, doing: &str, result: sled::Result<T>) -> Result<T, Failure> {
        result.map_err(|e| self.fail(doing, &e))
    }

    fn fail(&mut self, doing: &str, error: &dyn std::fmt::Display) -> Failure {
        let failure = format!("cannot {doing}: {error}");
        self.failed = Some(failure.clone());
        failure
    }

    /// Syncs everything that was written before.
    fn flush(&mut self, trees: &Trees) -> Result<(), Failure> {
        let done = trees.db.flush();
        self.check("flush the log", done)?;
        self.file.sync_data().map_err(|e| self.fail("sync the log", &e))
    }
}

fn open_witness(data_dir: &Path) -> Result<Witness, OpenError> {
    Witness::open(data_dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => remedy(data_dir, "its witness file is missing"),
        std::io::ErrorKind::InvalidData => remedy(data_dir, &format!("its witness file {e}")),
        _ => unreadable_witness(data_dir, &e),
    })
}

/// The error for a witness file that the system does not let this process open.
pub fn unreadable_witness(data_dir: &Path, error: &std::io::Error) -> OpenError {
    if error.kind() == std::io::ErrorKind::IsADirectory {
        return remedy(data_dir, "its witness file is a directory");
    }
    OpenError(format!(
        "cannot open the witness file {}: {error}. It is not known to be damaged: see that this user may read and write it, \
         then start this node again",
        super::witness::path(data_dir).display()
    ))
}

/// Whether there is a log below the directory.
pub fn exists(data_dir: &Path) -> bool {
    folder(data_dir).exists()
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}
