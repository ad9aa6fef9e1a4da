//! The leader's word on connections that want to change servers: given behind a quorum round that began after they were
//! named, and never again once their run is being closed. Knows nothing of what they are for; `plan::approval` has the table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rounds::Rounds;
use crate::{
    consensus::{Consensus, ProposeError},
    model::{
        ids::{NodeId, Term},
        migration::Job,
    },
    plan::approval::{Approvals, Connection},
};

/// Which run asks, where it works, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Its job.
    pub job: Job,
    /// Its number.
    pub run: u32,
    /// The node that works on it.
    pub worker: NodeId,
    /// All connections that will change something.
    pub connections: Vec<Connection>,
}

/// Why they are not approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Ask the leader.
    NotLeader,
    /// For this reason; asking again does not help.
    No(String),
}

/// The leader's table. Cheap to clone; on other nodes it only refuses.
#[derive(Clone)]
pub struct Approver {
    consensus: Consensus,
    rounds: Rounds,
    table: Arc<Mutex<Approvals>>,
}

impl Approver {
    /// Nothing is approved yet.
    #[must_use]
    pub fn new(consensus: Consensus, rounds: Rounds) -> Self {
        Self { consensus, rounds, table: Arc::default() }
    }

    /// Answers a worker.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn approve(&self, asking: Asking) -> Result<(), Refused> {
        if !self.consensus.leadership().borrow().is_me {
            return Err(Refused::NotLeader);
        }
        let term = match self.rounds.confirm().await {
            Ok(term) => term,
            Err(ProposeError::Unknown(_) | ProposeError::NotLeader(_)) => return Err(Refused::NotLeader),
            Err(error @ (ProposeError::Stopped(_) | ProposeError::TooLarge { .. })) => {
                return Err(Refused::No(error.to_string()));
            }
        };
        let mut table = self.table();
        // Read under the lock: what `close` marks before it kills is seen here, or these connections are seen there.
        let state = self.consensus.state().borrow().clone();
        if !open(&mut table, term) {
            return Err(Refused::NotLeader);
        }
        table.approve(&state, (asking.job, asking.run), asking.worker, &asking.connections).map_err(Refused::No)
    }

    /// Marks the runs of a job up to this number closed in `term`, and tells which of their connections are known.
    /// `None`: the table is a later term's, so this caller leads no more.
    #[must_use]
    pub fn close(&self, term: Term, job: Job, runs: u32) -> Option<Vec<Connection>> {
        let mut table = self.table();
        let state = self.consensus.state().borrow().clone();
        open(&mut table, term).then(|| table.close(&state, job, runs))
    }

    fn table(&self) -> MutexGuard<'_, Approvals> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the table that of `term`, empty if it was an earlier one's; false if it is a later one's.
fn open(table: &mut Approvals, term: Term) -> bool {
    if table.term() < term {
        *table = Approvals::new(term);
    }
    table.term() == term
}
