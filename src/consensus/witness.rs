//! A small checksummed file beside the log that says what the log must contain: sled can lose data quietly when its
//! file is damaged. It also keeps this node's uuid and its cluster's id. Knows nothing of sled.
//!
//! Two slots are written in turn, each synced before the other is written, so that a torn write leaves the former one.
//! The log store keeps this order: vote: log synced, then witness synced, then the answer; truncation: witness first;
//! append: log synced, then witness written ([`Witness::put`]: that survives the death of the process), then the
//! answer, then witness synced ([`Witness::settle`]), before anything more is written to the log. So the log is never
//! behind its witness, unless something was lost. The late sync halves the time of a commit. In exchange, one loss goes
//! unnoticed: that of data which was synced before, together with a power cut in the milliseconds before the late sync.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::types::{LogId, Vote};
use crate::model::ids::Uuid;

/// Bytes of one slot: a page, so that no disk sector belongs to both slots.
const SLOT: usize = 4096;
/// Length of the file, in bytes: two slots.
const LEN: u64 = 2 * SLOT as u64;
/// First bytes of a slot; the digit is the version of its layout.
const MAGIC: &[u8; 8] = b"PNTNWIT1";
/// The first of them, without the version.
const MAGIC_NAME: &[u8; 7] = b"PNTNWIT";
/// The version.
pub const VERSION: &str = "1";
/// Bytes of a slot that are used; the last four are the checksum of the others.
const USED: usize = 8 + 8 + 16 + 16 + 1 + 17 + 24 + 4;
/// The name in the data directory.
const NAME: &str = "witness";

/// The facts in the witness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessRecord {
    /// This node.
    pub uuid: Uuid,
    /// Its cluster, once it belongs to one.
    pub cluster_id: Option<Uuid>,
    /// The last vote that was given.
    pub vote: Option<Vote>,
    /// The last entry of the log that was acknowledged.
    pub last: Option<LogId>,
}

/// The open file.
#[derive(Debug)]
pub struct Witness {
    file: File,
    sequence: u64,
    facts: WitnessRecord,
    /// Whether the newest slot is written and not synced.
    unsettled: bool,
}

/// The path of the witness in a data directory.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

impl Witness {
    /// Makes the file under another name and renames it, so that it exists completely or not at all.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn create(data_dir: &Path, facts: WitnessRecord) -> io::Result<Self> {
        let aside = data_dir.join("witness.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        let mut bytes = encode(1, &facts).to_vec();
        bytes.extend_from_slice(&encode(0, &facts));
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, path(data_dir))?;
        File::open(data_dir)?.sync_all()?;
        Self::open(data_dir)
    }

    /// The version of this program that wrote it, if that is another one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn other_version(data_dir: &Path) -> io::Result<Option<String>> {
        let file = File::open(path(data_dir))?;
        let mut begins = [[0; MAGIC.len()]; 2];
        file.read_exact_at(&mut begins[0], 0)?;
        file.read_exact_at(&mut begins[1], SLOT as u64)?;
        // If they differ, one is damaged.
        let [begin, same] = begins;
        let version = begin.strip_prefix(MAGIC_NAME).filter(|_| begin == same && begin != *MAGIC);
        Ok(version.map(|version| version.escape_ascii().to_string()))
    }

    /// Opens it.
    ///
    /// # Errors
    /// `NotFound` if there is no file, `InvalidData` if it is damaged, and other errors of the file system.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path(data_dir))?;
        let (sequence, facts) = read(&file)?;
        Ok(Self { file, sequence, facts, unsettled: false })
    }

    /// The facts in the file, which nobody needs to be able to write.
    ///
    /// # Errors
    /// As [`Witness::open`].
    pub fn facts_of(data_dir: &Path) -> io::Result<WitnessRecord> {
        read(&File::open(path(data_dir))?).map(|(_, facts)| facts)
    }

    /// The facts now.
    pub fn facts(&self) -> &WitnessRecord {
        &self.facts
    }

    /// Replaces the facts, which are on disk when this returns.
    ///
    /// # Errors
    /// Errors of the file system; the facts before are still there.
    pub fn write(&mut self, facts: WitnessRecord) -> io::Result<()> {
        self.put(facts)?;
        self.settle()
    }

    /// Replaces the facts. They survive the end of this process when this returns, and a power cut after
    /// [`Witness::settle`].
    ///
    /// # Errors
    /// Errors of the file system; the facts before are still there.
    pub fn put(&mut self, facts: WitnessRecord) -> io::Result<()> {
        if facts == self.facts {
            return Ok(());
        }
        // Without this a power cut could tear both slots.
        self.settle()?;
        let sequence = self.sequence.checked_add(1).ok_or_else(|| damaged("has the last sequence number"))?;
        // Odd numbers are in the first slot, so that the newest slot is never overwritten.
        let at = if sequence % 2 == 1 { 0 } else { SLOT as u64 };
        self.file.write_all_at(&encode(sequence, &facts), at)?;
        self.unsettled = true;
        self.sequence = sequence;
        self.facts = facts;
        Ok(())
    }

    /// Syncs the facts that were put, if there are any.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.unsettled {
            self.file.sync_data()?;
            self.unsettled = false;
        }
        Ok(())
    }
}

/// The newest slot of a file.
fn read(file: &File) -> io::Result<(u64, WitnessRecord)> {
    let mut bytes = Vec::with_capacity(2 * SLOT);
    file.take(LEN + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != LEN {
        return Err(damaged(&format!("has {} bytes instead of {LEN}", bytes.len())));
    }
    let (a, b) = bytes.split_at(SLOT);
    match (decode(a), decode(b)) {
        (Some(x), Some(y)) => Ok(if x.0 > y.0 { x } else { y }),
        // A crash tore the other slot while it was written; its facts were not acknowledged.
        (Some(slot), None) | (None, Some(slot)) => Ok(slot),
        (None, None) => Err(damaged("has no slot with a right checksum")),
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn encode(sequence: u64, facts: &WitnessRecord) -> [u8; SLOT] {
    let mut out = Vec::with_capacity(SLOT);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&facts.uuid.0.to_be_bytes());
    out.extend_from_slice(&facts.cluster_id.map_or(0, |c| c.0).to_be_bytes());
    let flags = u8::from(facts.cluster_id.is_some())
        | u8::from(facts.vote.is_some()) << 1
        | u8::from(facts.last.is_some()) << 2;
    out.push(flags);
    let vote = facts.vote.unwrap_or_default();
    out.extend_from_slice(&vote.leader_id.term.to_be_bytes());
    out.extend_from_slice(&vote.leader_id.node_id.to_be_bytes());
    out.push(u8::from(vote.committed));
    let last = facts.last.unwrap_or_default();
    out.extend_from_slice(&last.leader_id.term.to_be_bytes());
    out.extend_from_slice(&last.leader_id.node_id.to_be_bytes());
    out.extend_from_slice(&last.index.to_be_bytes());
    let sum = crc32fast::hash(&out);
    out.extend_from_slice(&sum.to_be_bytes());
    let mut slot = [0; SLOT];
    slot[..USED].copy_from_slice(&out);
    slot
}

/// Sequence number and facts; `None` when the checksum is wrong.
fn decode(slot: &[u8]) -> Option<(u64, WitnessRecord)> {
    let used = slot.get(..USED)?;
    let (body, sum) = used.split_at(USED - 4);
    if crc32fast::hash(body).to_be_bytes() != sum || !body.starts_with(MAGIC) {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let wide = |at: usize| Some(Uuid(u128::from_be_bytes(body.get(at..at + 16)?.try_into().ok()?)));
    let flags = *body.get(48)?;
    let mut vote = Vote::new(number(49)?, number(57)?);
    vote.committed = *body.get(65)? == 1;
    let last = LogId::new(openraft::CommittedLeaderId::new(number(66)?, number(74)?), number(82)?);
    let facts = WitnessRecord {
        uuid: wide(16)?,
        cluster_id: (flags & 1 != 0).then_some(wide(32)?),
        vote: (flags & 2 != 0).then_some(vote),
        last: (flags & 4 != 0).then_some(last),
    };
    Some((number(8)?, facts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn facts(n: u64) -> WitnessRecord {
        WitnessRecord {
            uuid: Uuid(7),
            cluster_id: Some(Uuid(u128::from(n))),
            vote: Some(Vote::new_committed(n, 3)),
            last: Some(LogId::new(openraft::CommittedLeaderId::new(n, 3), n * 10)),
        }
    }

    #[test]
    fn keeps_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Witness::create(dir.path(), WitnessRecord { uuid: Uuid(7), ..WitnessRecord::default() }).unwrap();
        for n in 1..6 {
            w.write(facts(n)).unwrap();
            assert_eq!(*Witness::open(dir.path()).unwrap().facts(), facts(n));
        }
    }

    #[test]
    fn what_is_put_is_there_for_the_next_process_and_torn_leaves_the_former() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Witness::create(dir.path(), WitnessRecord::default()).unwrap();
        for n in 1..6 {
            w.put(facts(n)).unwrap();
            assert_eq!(*Witness::open(dir.path()).unwrap().facts(), facts(n));
            let good = std::fs::read(path(dir.path())).unwrap();
            let mut torn = good.clone();
            torn[if n % 2 == 0 { 20 } else { SLOT + 20 }] ^= 1;
            std::fs::write(path(dir.path()), &torn).unwrap();
            let former = if n == 1 { WitnessRecord::default() } else { facts(n - 1) };
            assert_eq!(*Witness::open(dir.path()).unwrap().facts(), former);
            std::fs::write(path(dir.path()), &good).unwrap();
        }
        w.settle().unwrap();
    }

    #[test]
    fn a_torn_slot_leaves_the_former_one_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Witness::create(dir.path(), WitnessRecord::default()).unwrap();
        w.write(facts(1)).unwrap();
        w.write(facts(2)).unwrap();
        let good = std::fs::read(path(dir.path())).unwrap();
        for newest in [0, SLOT] {
            let mut torn = good.clone();
            torn[newest + 20] ^= 1;
            std::fs::write(path(dir.path()), &torn).unwrap();
            let found = Witness::open(dir.path()).unwrap().facts().clone();
            assert!(found == facts(1) || found == facts(2));
            torn[(newest + SLOT) % (2 * SLOT) + 50] ^= 1;
            std::fs::write(path(dir.path()), &torn).unwrap();
            assert_eq!(Witness::open(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        std::fs::write(path(dir.path()), &good[..good.len() - 1]).unwrap();
        assert_eq!(Witness::open(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
