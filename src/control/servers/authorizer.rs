//! Authorizes connections that change servers: after a quorum confirmation that began when they were already named, and
//! not any more once their run is being closed. Knows nothing of what they are for; `plan::authorization` has the
//! table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    consensus::{Consensus, ProposeError},
    control::leadership::quorum::QuorumConfirmer,
    model::{
        ids::{NodeId, Term},
        migration::{ConnectionId, Job},
    },
    plan::authorization::Authorizations,
};

/// A run that asks for authorization, and its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRequest {
    /// The run's job.
    pub job: Job,
    /// The run's number.
    pub run: u32,
    /// The node that works on it.
    pub node: NodeId,
    /// All connections that will change a server.
    pub connections: Vec<ConnectionId>,
}

/// Why connections are not authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizationError {
    /// This node does not lead: ask the leader.
    NotLeader,
    /// For this reason, for the log of the node. Asking again does not help.
    No(String),
}

/// The leader's table. Cheap to clone; on other nodes it only refuses.
#[derive(Clone)]
pub struct Authorizer {
    consensus: Consensus,
    quorum: QuorumConfirmer,
    table: Arc<Mutex<Authorizations>>,
}

impl Authorizer {
    /// An authorizer that has authorized nothing yet.
    #[must_use]
    pub fn new(consensus: Consensus, quorum: QuorumConfirmer) -> Self {
        Self { consensus, quorum, table: Arc::default() }
    }

    /// Authorizes the connections of a run, all or none.
    ///
    /// # Errors
    /// See [`AuthorizationError`].
    pub async fn authorize(&self, request: AuthorizationRequest) -> Result<(), AuthorizationError> {
        if !self.consensus.leadership().borrow().is_me {
            return Err(AuthorizationError::NotLeader);
        }
        let term = match self.quorum.confirm().await {
            Ok(term) => term,
            Err(ProposeError::Unknown(_) | ProposeError::NotLeader(_)) => return Err(AuthorizationError::NotLeader),
            Err(error @ (ProposeError::Stopped(_) | ProposeError::TooLarge { .. })) => {
                return Err(AuthorizationError::No(error.to_string()));
            }
        };
        let mut table = self.table();
        // Read under the lock: either this call sees what `close` has marked, or `close` sees these connections.
        let state = self.consensus.state().borrow().clone();
        if !open(&mut table, term) {
            return Err(AuthorizationError::NotLeader);
        }
        table
            .authorize(&state, (request.job, request.run), request.node, &request.connections)
            .map_err(AuthorizationError::No)
    }

    /// Marks the runs of a job up to this number closed in `term`, and returns those of their connections that were
    /// authorized. `None`: the table belongs to a later term, so this node does not lead in `term` any more.
    #[must_use]
    pub fn close(&self, term: Term, job: Job, runs: u32) -> Option<Vec<ConnectionId>> {
        let mut table = self.table();
        let state = self.consensus.state().borrow().clone();
        open(&mut table, term).then(|| table.close(&state, job, runs))
    }

    fn table(&self) -> MutexGuard<'_, Authorizations> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a table of an earlier term by an empty one of `term`. `false`: the table belongs to a later term.
fn open(table: &mut Authorizations, term: Term) -> bool {
    if table.term() < term {
        *table = Authorizations::new(term);
    }
    table.term() == term
}
