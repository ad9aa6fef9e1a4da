//! Bounds the bytes of the log on disk: openraft counts entries only, and some are large.
//! Knows nothing of what an entry means.

use std::sync::Arc;

use openraft::RaftMetrics;

use super::{
    disk::Disk,
    types::{Raft, RaftNode},
};
use crate::faults;

/// Follows the log until Raft ends. After `bytes_max` appended bytes it has a snapshot made, and then removes the entries
/// that the snapshot contains.
pub fn spawn(raft: Raft, disk: Arc<Disk>, bytes_max: u64) {
    let watching = async move {
        let mut metrics = raft.metrics();
        // The entry that the snapshot must contain, and the snapshot that there was when it was asked for.
        let mut wanted: Option<(u64, Option<u64>)> = None;
        loop {
            let (applied, snapshot, running) = indexes(&metrics.borrow_and_update());
            match wanted {
                Some((index, _)) if snapshot >= Some(index) => {
                    wanted = None;
                    if raft.trigger().purge_log(index).await.is_err() {
                        return;
                    }
                }
                // Another one was being made then.
                Some((_, before)) if snapshot == before => {}
                Some((index, _)) => wanted = ask(&raft, index, snapshot).await,
                None if disk.appended() >= bytes_max => {
                    disk.forget_appended();
                    wanted = ask(&raft, applied.unwrap_or_default(), snapshot).await;
                }
                None => {}
            }
            if !running || metrics.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(faults::or_panic("log-compaction", watching));
}

async fn ask(raft: &Raft, index: u64, snapshot: Option<u64>) -> Option<(u64, Option<u64>)> {
    // An error: Raft ends, and so does the caller.
    raft.trigger().snapshot().await.ok().map(|()| (index, snapshot))
}

/// Log indexes of the last applied entry and of the last one in the snapshot, and whether Raft runs.
fn indexes(metrics: &RaftMetrics<u64, RaftNode>) -> (Option<u64>, Option<u64>, bool) {
    let index = |id: Option<openraft::LogId<u64>>| id.map(|id| id.index);
    (index(metrics.last_applied), index(metrics.snapshot), metrics.running_state.is_ok())
}
