//! openraft's suite over this storage, and what that suite does not test.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::consensus::{
    log_store::LogStore,
    state_machine::StateMachine,
    types::{StorageError, TypeConfig},
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(open(dir.path()));
        let machine = StateMachine::load(disk.clone(), watch::channel(Arc::default()).0).unwrap();
        Ok((dir, LogStore { disk, node: 1 }, machine))
    }
}

#[test]
fn openraft_suite() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let disk = open(dir.path());
    assert_eq!(disk.ends().purged, Some(log_id(3, 30)));
    assert_eq!(disk.ends().last, Some(log_id(3, 99)));
    assert_eq!(disk.vote().unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(disk.committed().unwrap(), Some(log_id(3, 90)));
    let entries = disk.entries(0, None, 0).unwrap();
    assert_eq!(entries.len(), 69);
    for (entry, index) in entries.iter().zip(31..) {
        assert_eq!(contents(entry), contents(&log_entry(3, index)));
    }
    let snapshot = disk.snapshot().unwrap().unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(3, 40)));
    assert_eq!(snapshot.snapshot.into_inner(), vec![7; 20_000]);
}

#[test]
fn an_older_snapshot_never_replaces_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let disk = open(dir.path());
    let meta = SnapshotMeta { last_log_id: Some(log_id(3, 20)), ..SnapshotMeta::default() };
    disk.save_snapshot(&meta, b"old").unwrap();
    assert_eq!(disk.snapshot().unwrap().unwrap().meta.last_log_id, Some(log_id(3, 40)));
}

#[test]
fn large_snapshots_stay_in_the_synced_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path());
    for round in 0..3 {
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, round)), ..SnapshotMeta::default() };
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        disk.save_snapshot(&meta, &data).unwrap();
        assert_eq!(disk.snapshot().unwrap().unwrap().snapshot.into_inner(), data);
    }
    disk.close();
    let blobs = std::fs::read_dir(dir.path().join("raft/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0, "sled wrote values aside, which it never syncs");
    open(dir.path());
}

#[test]
fn a_batch_is_limited_by_bytes_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let disk = open(dir.path());
    assert_eq!(disk.entries(50, Some(60), 1).unwrap().len(), 1);
    assert_eq!(disk.entries(50, Some(60), 0).unwrap().len(), 10);
}
