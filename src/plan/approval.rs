//! Which connections may change servers: the leader's table of runs it has approved and runs it is closing, in one term.
//! Knows nothing of quorum rounds: whoever calls `approve` has had one that began after the connections were named.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ids::{HostPort, NodeId, Term},
    migration::Job,
    state::ClusterState,
};

/// Connections one run may have approved: a mover has a few per database and server.
pub const CONNECTIONS_MAX: usize = 256;

/// A connection that is going to change a server, and that the server knows by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where.
    pub server: HostPort,
    /// CLIENT ID of it.
    pub client_id: u64,
}

/// Approvals of one term; a new term begins with an empty table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals {
    term: Term,
    runs: BTreeMap<(Job, u32), Known>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    closing: bool,
    connections: Vec<Connection>,
}

impl Approvals {
    /// The empty table of a term.
    #[must_use]
    pub fn new(term: Term) -> Self {
        Self { term, runs: BTreeMap::new() }
    }

    /// The term it belongs to.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Approves connections of a run, all or none. `state`: the newest applied, behind the round.
    ///
    /// # Errors
    /// Why not, for the log of the worker.
    pub fn approve(
        &mut self,
        state: &ClusterState,
        (job, run): (Job, u32),
        worker: NodeId,
        connections: &[Connection],
    ) -> Result<(), String> {
        self.forget(state);
        let Some(current) = state.current_run(job).filter(|current| current.run == run) else {
            return Err(format!("run {run} of {job} is not current"));
        };
        if current.worker != worker {
            return Err(format!("run {run} of {job} is the work of node {}, not of node {worker}", current.worker));
        }
        if let Some(stray) = connections.iter().find(|c| c.server != current.server) {
            return Err(format!("run {run} of {job} changes {}, not {}", current.server, stray.server));
        }
        let known = self.runs.entry((job, run)).or_default();
        if known.closing {
            return Err(format!("run {run} of {job} is being closed"));
        }
        if known.connections.len() + connections.len() > CONNECTIONS_MAX {
            return Err(format!("run {run} of {job} has more than {CONNECTIONS_MAX} connections"));
        }
        known.connections.extend_from_slice(connections);
        Ok(())
    }

    /// From now on no connection of these runs is approved in this term. What is known of those that were.
    pub fn close(&mut self, state: &ClusterState, job: Job, runs: u32) -> Vec<Connection> {
        self.forget(state);
        // Only the current one can be approved; the others are not, whatever this table says.
        if let Some(current) = state.current_run(job).filter(|current| current.run <= runs) {
            self.runs.entry((job, current.run)).or_default().closing = true;
        }
        let of_job = self.runs.range((job, 0)..=(job, runs));
        of_job.flat_map(|(_, known)| known.connections.iter().cloned()).collect()
    }

    /// Drops what belongs to jobs that are over, and to runs long gone: the table is as small as what is open.
    fn forget(&mut self, state: &ClusterState) {
        let mut jobs = BTreeSet::new();
        jobs.extend(self.runs.keys().map(|(job, _)| *job));
        jobs.retain(|job| state.next_run(*job).is_none());
        let last = |job: Job| state.next_run(job).unwrap_or(0);
        self.runs.retain(|(job, run), _| !jobs.contains(job) && run.saturating_add(2) >= last(*job));
    }
}
