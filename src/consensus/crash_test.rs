//! The log under kill -9 and on a full disk: what the helper process `log_writer` of `cluster-tests` does, and what it
//! checks afterwards. Only debug builds and this crate's tests have this module.
//! Knows nothing of how the process is started or killed: see `cluster-tests/tests/crash.rs`.
//!
//! The functions write what they have done to standard output, one line for each step, so that the process that kills
//! this one knows what was acknowledged.

use std::{convert::Infallible, path::Path, time::Duration};

use openraft::{CommittedLeaderId, EntryPayload};

use super::{
    Consensus, ConsensusConfig, Timing, directory,
    disk::Disk,
    types::{LogEntry, LogId, Proposal, SnapshotMeta, Vote},
};
use crate::{
    model::{
        change::{Change, NewMember, SetCluster},
        ids::{HostPort, NodeId, Uuid},
        state::Entry,
    },
    wire::auth::ClusterSecret,
};

/// Bytes of each snapshot: three of the pieces into which the store cuts one.
const SNAPSHOT_BYTES: usize = 9000;
/// Deadline of a proposal. The only voter is this process, so a longer wait means that the log neither works nor stops.
const DEADLINE: Duration = Duration::from_secs(30);
/// A disk that is not full after this many proposals is an error. With files of at most 96 KB, as in the test, it is
/// full after about 400.
const PROPOSALS_MAX: u64 = 10_000;

/// A change that differs from those of other numbers.
pub(super) fn change(n: u64) -> Change {
    Change::SetCluster(SetCluster {
        voters: None,
        hold_ms_max: Some(10 + (n % 9000) as u32),
        maintenance: None,
        failover_share_max: None,
    })
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Entry `index` of `term`; the first is blank.
pub(super) fn log_entry(term: u64, index: u64) -> LogEntry {
    let entry = Entry {
        id: Uuid(u128::from(index) << 8 | u128::from(term)),
        request_hash: 0,
        at_ms: 0,
        author: Default::default(),
        change: change(index),
    };
    let payload = if index == 0 { EntryPayload::Blank } else { EntryPayload::Normal(Proposal::new(entry)) };
    LogEntry { log_id: log_id(term, index), payload }
}

/// The contents of an entry, in a form that can be compared.
pub(super) fn contents(entry: &LogEntry) -> (LogId, Option<Entry>) {
    match &entry.payload {
        EntryPayload::Normal(p) => (entry.log_id, Some((*p.entry).clone())),
        EntryPayload::Blank | EntryPayload::Membership(_) => (entry.log_id, None),
    }
}

/// Appends, truncates, purges and makes snapshots in a random order, until this process is killed. Creates the store
/// if there is none, else continues it in the next term. Writes:
///
/// | line | meaning |
/// |---|---|
/// | `vote TERM` | the vote for this term is saved |
/// | `ack TERM INDEX` | all entries up to this one are appended |
/// | `cut` | the last entry is about to be truncated |
///
/// # Errors
/// Returns the error of the store, which nothing but a fault of the store or of the machine can cause.
pub fn append_until_killed(data_dir: &Path, seed: u64) -> Result<Infallible, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    directory::identity(data_dir).map_err(|e| e.to_string())?;
    let disk = Disk::open(data_dir).map_err(|e| e.to_string())?;
    let mut term = disk.vote()?.map_or(0, |v| v.leader_id.term) + 1;
    let mut next = disk.ends().last.map_or(0, |l| l.index + 1);
    disk.save_vote(&Vote::new_committed(term, 1))?;
    println!("vote {term}");
    loop {
        let count = random.u64(1..6);
        disk.append(&(next..next + count).map(|i| log_entry(term, i)).collect::<Vec<_>>())?;
        next += count;
        println!("ack {term} {}", next - 1);
        let floor = disk.ends().purged.map_or(0, |p| p.index) + 3;
        match random.u8(..10) {
            0 if next > floor => {
                println!("cut");
                next -= 1;
                disk.truncate(next)?;
                term += 1;
                disk.save_vote(&Vote::new_committed(term, 1))?;
                println!("vote {term}");
            }
            1 if next > floor => {
                let upto = entry_at(&disk, next - 2)?.ok_or_else(|| format!("entry {} is missing", next - 2))?.log_id;
                let meta = SnapshotMeta { last_log_id: Some(upto), ..SnapshotMeta::default() };
                disk.save_snapshot(&meta, &vec![upto.index as u8; SNAPSHOT_BYTES])?;
                disk.purge(upto)?;
            }
            _ => {}
        }
    }
}

/// Checks a store that [`append_until_killed`] wrote: it opens, its vote is at least that of term `vote`, and it has
/// the entry `acknowledged` (term and index), or has purged it.
///
/// # Errors
/// Returns why the store cannot be opened, or what it lacks.
pub fn verify(data_dir: &Path, vote: u64, acknowledged: Option<(u64, u64)>) -> Result<(), String> {
    let disk = Disk::open(data_dir).map_err(|e| e.to_string())?;
    let saved = disk.vote()?;
    if saved.is_none_or(|v| v.leader_id.term < vote) {
        return Err(format!("the vote of term {vote} is missing, the saved vote is {saved:?}"));
    }
    if let Some((term, index)) = acknowledged {
        let id = log_id(term, index);
        let purged = disk.ends().purged.is_some_and(|p| p >= id);
        let found = entry_at(&disk, index)?.is_some_and(|e| contents(&e) == contents(&log_entry(term, index)));
        if !purged && !found {
            return Err(format!("{id} is missing, the log is {:?}", disk.ends()));
        }
    }
    disk.close();
    Ok(())
}

/// Starts a cluster of this one node and proposes changes until its log stops, then ends this process without running
/// destructors, as kill -9 would: what a process could still write while it ends must not matter. The caller limits
/// the size of files, so that the disk is full soon. Writes:
///
/// | line | meaning |
/// |---|---|
/// | `ack INDEX` | the change is committed as this entry |
/// | `error TEXT` | the answer to the first proposal that failed |
/// | `stopped TEXT` | why the log has stopped |
/// | `after TEXT` | the answer to a proposal after that |
///
/// # Errors
/// Returns why the cluster did not start, or that its log did not stop as expected.
pub async fn run_until_disk_is_full(data_dir: &Path) -> Result<Infallible, String> {
    let me = NewMember {
        id: NodeId(1),
        uuid: directory::identity(data_dir).map_err(|e| e.to_string())?,
        // Other nodes would call it; there are none.
        admin: HostPort::parse("127.0.0.1:24001").map_err(|e| e.to_string())?,
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let timing = Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
    };
    let config = ConsensusConfig {
        me: me.clone(),
        data_dir: data_dir.to_owned(),
        secret: ClusterSecret::none(),
        source: None,
        timing,
    };
    let consensus = Consensus::open(config).await.map_err(|e| e.to_string())?;
    let mut stopped = consensus.stopped();
    consensus.initialize(Uuid(5), vec![me]).await?;
    consensus.leadership().wait_for(|l| l.is_me).await.map_err(|e| e.to_string())?;
    let mut proposed = 0;
    loop {
        match consensus.propose(Uuid(u128::from(proposed)), change(proposed), DEADLINE).await {
            Ok(applied) => println!("ack {}", applied.index),
            Err(e) => {
                println!("error {e}");
                break;
            }
        }
        proposed += 1;
        if proposed == PROPOSALS_MAX {
            return Err(format!("the disk is not full after {PROPOSALS_MAX} changes"));
        }
    }
    let why = stopped.wait_for(Option::is_some).await.map_err(|e| e.to_string())?.clone();
    println!("stopped {}", why.unwrap_or_default());
    match consensus.propose(Uuid(1 << 70), change(0), DEADLINE).await {
        Ok(applied) => return Err(format!("the log has stopped and yet appended entry {}", applied.index)),
        Err(e) => println!("after {e}"),
    }
    std::process::exit(0);
}

/// Checks a store that [`run_until_disk_is_full`] wrote: it opens, its log has the entry `acknowledged`, and an entry
/// can be appended now that there is space.
///
/// # Errors
/// Returns why the store cannot be opened or written, or what it lacks.
pub fn verify_after_full_disk(data_dir: &Path, acknowledged: u64) -> Result<(), String> {
    let disk = Disk::open(data_dir).map_err(|e| e.to_string())?;
    let last = disk.ends().last.filter(|l| l.index >= acknowledged);
    let last = last.ok_or_else(|| format!("entry {acknowledged} is missing: {:?}", disk.ends()))?;
    disk.append(&[LogEntry { log_id: log_id(99, last.index + 1), payload: EntryPayload::Blank }])?;
    disk.close();
    Ok(())
}

fn entry_at(disk: &Disk, index: u64) -> Result<Option<LogEntry>, String> {
    Ok(disk.entries(index, Some(index + 1), 0)?.pop())
}
