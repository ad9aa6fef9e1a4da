//! Which connections may change servers: the leader's table of the runs that it has authorized and of those that it is
//! closing, in one term. Knows nothing of quorum confirmation: before it calls `authorize`, the caller waits for one
//! that began after the connections were named.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ids::{NodeId, Term},
    migration::{ConnectionId, Job},
    state::ClusterState,
};

/// How many connections of one run may be authorized: a mover has a few for each database and server.
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

    /// Authorizes connections of a run, all or none. `state`: the newest applied state, after the quorum confirmation.
    ///
    /// # Errors
    /// Why none was authorized, as text for the log of the node: the run is not current, belongs to another node,
    /// changes another server, is being closed, or has too many connections.
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
            return Err(format!("run {run} of {job} belongs to node {}, not to node {node}", current.node));
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

    /// Ends the authorization of connections of these runs in this term. Returns the connections that were authorized.
    pub fn close(&mut self, state: &ClusterState, job: Job, runs: u32) -> Vec<ConnectionId> {
        self.forget(state);
        // Only the current run can be authorized, so that only it has to be marked.
        if let Some(current) = state.current_run(job).filter(|current| current.run <= runs) {
            self.runs.entry((job, current.run)).or_default().closing = true;
        }
        let of_job = self.runs.range((job, 0)..=(job, runs));
        of_job.flat_map(|(_, known)| known.connections.iter().cloned()).collect()
    }

    /// Drops jobs that are over and runs before the last two, so that the table stays as small as the number of open
    /// jobs.
    fn forget(&mut self, state: &ClusterState) {
        let mut jobs = BTreeSet::new();
        jobs.extend(self.runs.keys().map(|(job, _)| *job));
        jobs.retain(|job| state.next_run(*job).is_none());
        let last = |job: Job| state.next_run(job).unwrap_or(0);
        self.runs.retain(|(job, run), _| !jobs.contains(job) && run.saturating_add(2) >= last(*job));
    }
}
