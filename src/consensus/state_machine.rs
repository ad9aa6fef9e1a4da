//! Applies committed entries through `model::apply`, publishes the state, and makes snapshots of it.
//! Knows nothing of what a change means.

use std::{io::Cursor, panic::AssertUnwindSafe, sync::Arc};

use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, storage::RaftStateMachine};
use tokio::sync::watch;

use super::{
    Applied,
    disk::{Disk, Failure},
    log_store::{any, blocking},
    types::{
        LogEntry, LogId, Response, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, TypeConfig,
    },
};
use crate::{
    faults,
    model::{
        apply,
        ids::{Epoch, Term},
        state::{ClusterState, Position},
    },
    panics,
    wire::snapshot,
};

/// The replicated state in memory.
#[derive(Debug)]
pub struct StateMachine {
    disk: Arc<Disk>,
    last: Option<LogId>,
    membership: StoredMembership,
    state: ClusterState,
    publish: watch::Sender<Arc<ClusterState>>,
}

impl StateMachine {
    /// The state of the last snapshot. openraft applies the entries after it.
    ///
    /// # Errors
    /// The snapshot cannot be read or decoded.
    pub fn load(disk: Arc<Disk>, publish: watch::Sender<Arc<ClusterState>>) -> Result<Self, Failure> {
        let mut machine =
            Self { last: None, membership: StoredMembership::default(), state: ClusterState::default(), disk, publish };
        if let Some(found) = machine.disk.snapshot()? {
            machine.replace(&found.meta, found.snapshot.get_ref())?;
        }
        Ok(machine)
    }

    fn replace(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), Failure> {
        let state = snapshot::decode_state(data).map_err(|e| format!("the snapshot {}: {e}", meta.snapshot_id))?;
        self.state = state;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.publish.send_replace(Arc::new(self.state.clone()));
    }

    /// The state, for `recover`.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The membership, for `recover`.
    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Applies one entry without publishing.
    pub fn apply_one(&mut self, entry: &LogEntry) -> Response {
        let index = Epoch(entry.log_id.index);
        self.last = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => apply::note_applied(&mut self.state, index),
            EntryPayload::Membership(m) => {
                self.membership = StoredMembership::new(Some(entry.log_id), m.clone());
                apply::note_applied(&mut self.state, index);
            }
            EntryPayload::Normal(proposal) => {
                let at = Position { index, term: Term(entry.log_id.leader_id.term) };
                let result = apply::apply(&mut self.state, &proposal.entry, at);
                let first = apply::first_index(&self.state, proposal.entry.id);
                return Response(Some(Applied { index: first.unwrap_or(index), result }));
            }
        }
        Response(None)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = self.last;
        // openraft would wait for a worker that has panicked, and the node would look healthy.
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| {
            faults::panic_if_asked("state-machine");
            entries.into_iter().map(|e| self.apply_one(&e)).collect()
        }));
        let answers = applied.map_err(|payload| {
            let why = format!("an entry after {last:?} could not be applied: it panicked: {}", panics::text(&*payload));
            StorageIOError::write_state_machine(any(&why))
        })?;
        self.publish();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            disk: self.disk.clone(),
            last: self.last,
            membership: self.membership.clone(),
            // The published value is shared with this state, so that no copy is made.
            state: self.publish.borrow().clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError> {
        let wrong = |e: Failure| StorageIOError::write_snapshot(Some(meta.signature()), any(&e));
        let data = data.into_inner();
        // It is decoded before it is stored: a snapshot that this version cannot read must not replace one that it can
        // read.
        snapshot::decode_state(&data).map_err(|e| wrong(format!("the leader's snapshot: {e}")))?;
        let (stored_meta, stored) = (meta.clone(), data.clone());
        blocking(&self.disk, move |d| d.save_snapshot(&stored_meta, &stored)).await.map_err(wrong)?;
        self.replace(meta, &data).map_err(wrong)?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        blocking(&self.disk, Disk::snapshot).await.map_err(|e| StorageIOError::read_snapshot(None, any(&e)).into())
    }
}

/// Writes one state to disk.
#[derive(Debug)]
pub struct SnapshotBuilder {
    disk: Arc<Disk>,
    last: Option<LogId>,
    membership: StoredMembership,
    state: Arc<ClusterState>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let position = self.last.map_or_else(|| "empty".into(), |l| format!("{}-{}", l.leader_id.term, l.index));
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{position}-{:08x}", fastrand::u32(..)),
        };
        let (stored, state) = (meta.clone(), self.state.clone());
        let data = blocking(&self.disk, move |d| {
            let data = snapshot::encode_state(&state);
            d.save_snapshot(&stored, &data)?;
            Ok(data)
        })
        .await
        .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), any(&e)))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}
