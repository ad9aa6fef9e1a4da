//! Tests of the log: openraft's suite over this storage, damage, kill -9, and clusters over loopback.
#![allow(clippy::unwrap_used)]

mod cluster;
mod crash;
mod damage;
mod storage;

use std::path::Path;

use openraft::{CommittedLeaderId, EntryPayload};

use super::{
    directory,
    disk::Disk,
    types::{LogEntry, LogId, Proposal, SnapshotMeta, Vote},
};
use crate::model::{
    change::{Change, SetCluster},
    ids::Uuid,
    state::Entry,
};

/// A change that differs from those of other numbers.
fn change(n: u64) -> Change {
    Change::SetCluster(SetCluster {
        voters: None,
        hold_ms_max: Some(10 + (n % 9000) as u32),
        maintenance: None,
        failover_share_max: None,
    })
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Entry `index` of `term`; the first is blank.
fn log_entry(term: u64, index: u64) -> LogEntry {
    let entry =
        Entry { id: Uuid(u128::from(index) << 8 | u128::from(term)), request_hash: 0, at_ms: 0, change: change(index) };
    let payload = if index == 0 { EntryPayload::Blank } else { EntryPayload::Normal(Proposal::new(entry)) };
    LogEntry { log_id: log_id(term, index), payload }
}

/// The contents of an entry, in a form that can be compared.
fn contents(entry: &LogEntry) -> (LogId, Option<Entry>) {
    match &entry.payload {
        EntryPayload::Normal(p) => (entry.log_id, Some((*p.entry).clone())),
        EntryPayload::Blank | EntryPayload::Membership(_) => (entry.log_id, None),
    }
}

/// An open store in a directory, which gets an identity if it has none.
fn open(dir: &Path) -> Disk {
    directory::identity(dir).unwrap();
    Disk::open(dir).unwrap()
}

/// A store with a vote, a snapshot up to 40, a log purged up to 30, and entries up to 99, closed again.
fn fill(dir: &Path) {
    let disk = open(dir);
    disk.save_vote(&Vote::new_committed(3, 1)).unwrap();
    for first in (0..100).step_by(5) {
        let batch: Vec<_> = (first..first + 5).map(|i| log_entry(3, i)).collect();
        disk.append(&batch).unwrap();
    }
    disk.save_committed(Some(log_id(3, 90))).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(log_id(3, 40)), ..SnapshotMeta::default() };
    disk.save_snapshot(&meta, &vec![7; 20_000]).unwrap();
    disk.purge(log_id(3, 30)).unwrap();
    disk.close();
}
