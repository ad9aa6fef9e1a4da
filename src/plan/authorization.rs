//! Which connections may change servers: the leader's table of runs it has authorized and runs it is closing, in one term.
//! Knows nothing of quorum rounds: whoever calls `authorize` has had one that began after the connections were named.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ids::{NodeId, Term},
    migration::{ConnectionId, Job},
    state::ClusterState,
};

/// Connections one run may have authorized: a mover has a few per database and server.
pub const CONNECTIONS_MAX: usize = 256;

/// Authorizations of one term; a new term begins with an empty table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorizations {
    term: Term,
    runs: BTreeMap<(Job, u32), KnownRun>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KnownRun {
    closing: bool,
    connections: Vec<ConnectionId>,
}

impl Authorizations {
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
    /// Why not, for the log of the node.
    pub fn authorize(
        &mut self,
        state: &ClusterState,
        (job, run): (Job, u32),
        node: NodeId,
        connections: &[ConnectionId],
    ) -> Result<(), String> {
        self.forget(state);
        let Some(current) = state.current_run(job).filter(|current| current.run == run) else {
            return Err(format!("run {run} of {job} is not current"));
        };
        if current.node != node {
            return Err(format!("run {run} of {job} is the work of node {}, not of node {node}", current.node));
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

    /// From now on no connection of these runs is authorized in this term. What is known of those that were.
    pub fn close(&mut self, state: &ClusterState, job: Job, runs: u32) -> Vec<ConnectionId> {
        self.forget(state);
        // Only the current one can be authorized; the others are not, whatever this table says.
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
