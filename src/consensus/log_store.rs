//! openraft's log storage over the disk.
//! Knows nothing of sled, nor of what an entry means.

use std::{fmt::Debug, ops::RangeBounds, sync::Arc};

use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    disk::{BATCH_BYTES, Disk, Failure},
    types::{LogEntry, LogId, StorageError, StorageIOError, TypeConfig, Vote},
};
use crate::faults;

/// The log as openraft sees it. Clones share the disk. openraft calls the writing half one call at a time, and each
/// call returns only when its work is done, so that the order is kept although other threads do the work.
#[derive(Clone, Debug)]
pub struct LogStore {
    /// The store on disk.
    pub disk: Arc<Disk>,
    /// This node.
    pub node: u64,
}

/// Runs blocking work on a thread that may block.
pub async fn blocking<T, F>(disk: &Arc<Disk>, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Disk) -> Result<T, Failure> + Send + 'static,
{
    let disk = disk.clone();
    let work = move || {
        faults::panic_if_asked("disk");
        work(&disk)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(format!("the disk thread failed: {e}")),
    }
}

/// An error as openraft takes it.
pub fn any(failure: &Failure) -> AnyError {
    AnyError::error(failure)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, StorageError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = match range.start_bound() {
            Included(i) => *i,
            Excluded(i) => i.saturating_add(1),
            Unbounded => 0,
        };
        let end = match range.end_bound() {
            Included(i) => Some(i.saturating_add(1)),
            Excluded(i) => Some(*i),
            Unbounded => None,
        };
        let read = blocking(&self.disk, move |d| d.entries(start, end, 0)).await;
        read.map_err(|e| StorageIOError::read_logs(any(&e)).into())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, StorageError> {
        let read = blocking(&self.disk, move |d| d.entries(start, Some(end), BATCH_BYTES)).await;
        read.map_err(|e| StorageIOError::read_logs(any(&e)).into())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let ends = self.disk.ends();
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let done = blocking(&self.disk, move |d| d.save_vote(&vote)).await;
        done.map_err(|e| StorageIOError::write_vote(any(&e)).into())
    }

    /// openraft lets a node that led go on leading in its old term after a restart, with a committed position that may
    /// be behind the one it had sent to others: a quorum round would then prove too little for a lease. So the node
    /// starts as the candidate that it was before its election, and the next leader has a new term.
    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let read = blocking(&self.disk, Disk::vote).await;
        let vote = read.map_err(|e| StorageError::from(StorageIOError::read_vote(any(&e))))?;
        let led = |v: &Vote| v.committed && v.leader_id.node_id == self.node;
        Ok(vote.map(|v| if led(&v) { Vote::new(v.leader_id.term, self.node) } else { v }))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let done = blocking(&self.disk, move |d| d.save_committed(committed)).await;
        done.map_err(|e| StorageIOError::write(any(&e)).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        blocking(&self.disk, Disk::committed).await.map_err(|e| StorageIOError::read(any(&e)).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        faults::panic_if_asked("raft-core");
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        for entry in &entries {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                proposal.mark_appended();
            }
        }
        // openraft waits for the callback before it takes its next event, so there is nothing to gain from returning
        // before the sync; entries that arrive together (a follower's) share one.
        match blocking(&self.disk, move |d| d.append(&entries)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                // This comes after the answer. The disk keeps a failure, and the next write returns it.
                let disk = self.disk.clone();
                drop(tokio::task::spawn_blocking(move || disk.settle()));
                Ok(())
            }
            Err(e) => {
                callback.log_io_completed(Err(std::io::Error::other(e.clone())));
                Err(StorageIOError::write_logs(any(&e)).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let done = blocking(&self.disk, move |d| d.truncate(log_id.index)).await;
        done.map_err(|e| StorageIOError::write_logs(any(&e)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let done = blocking(&self.disk, move |d| d.purge(log_id)).await;
        done.map_err(|e| StorageIOError::write_logs(any(&e)).into())
    }
}
