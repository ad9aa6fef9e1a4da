//! Tests of the log: openraft's suite over this storage, damage, and clusters over loopback.
#![allow(clippy::unwrap_used)]

mod cluster;
mod damage;
mod storage;

use std::path::Path;

use super::{
    crash_test::{change, contents, log_entry, log_id},
    directory,
    disk::Disk,
    types::{SnapshotMeta, Vote},
};
use crate::model::{change::Change, ids::Uuid};

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
