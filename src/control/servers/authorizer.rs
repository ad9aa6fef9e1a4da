//! The leader's word on connections that want to change servers: given behind a quorum round that began after they were
//! named, and never again once their run is being closed. Knows nothing of what they are for; `plan::authorization` has the table.

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

/// Which run asks, where it works, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRequest {
    /// Its job.
    pub job: Job,
    /// Its number.
    pub run: u32,
    /// The node that works on it.
    pub node: NodeId,
    /// All connections that will change something.
    pub connections: Vec<ConnectionId>,
}

/// Why they are not authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizationError {
    /// Ask the leader.
    NotLeader,
    /// For this reason; request again does not help.
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
    /// Nothing is authorized yet.
    #[must_use]
    pub fn new(consensus: Consensus, quorum: QuorumConfirmer) -> Self {
        Self { consensus, quorum, table: Arc::default() }
    }

    /// Answers a node.
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
        // Read under the lock: what `close` marks before it kills is seen here, or these connections are seen there.
        let state = self.consensus.state().borrow().clone();
        if !open(&mut table, term) {
            return Err(AuthorizationError::NotLeader);
        }
        table
            .authorize(&state, (request.job, request.run), request.node, &request.connections)
            .map_err(AuthorizationError::No)
    }

    /// Marks the runs of a job up to this number closed in `term`, and tells which of their connections are known.
    /// `None`: the table is a later term's, so this caller leads no more.
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

/// Makes the table that of `term`, empty if it was an earlier one's; false if it is a later one's.
fn open(table: &mut Authorizations, term: Term) -> bool {
    if table.term() < term {
        *table = Authorizations::new(term);
    }
    table.term() == term
}
