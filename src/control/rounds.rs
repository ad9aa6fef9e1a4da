//! Quorum rounds, shared: one round serves everyone who asked before it began.
//! Knows nothing of what is granted on the strength of a round.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{
    consensus::{Consensus, ProposeError},
    model::ids::Term,
};

/// Callers that may wait for a round at once: a few for each node of the largest cluster.
const WAITING_MAX: usize = 1024;

type Asker = oneshot::Sender<Result<Term, ProposeError>>;

/// Asks for quorum rounds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rounds {
    askers: mpsc::Sender<Asker>,
}

impl Rounds {
    /// Starts the task that runs the rounds, one at a time; it ends with the last clone.
    #[must_use]
    pub fn start(consensus: Consensus, deadline: Duration) -> Self {
        let (askers, mut asked) = mpsc::channel::<Asker>(WAITING_MAX);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(first) = asked.recv().await {
                waiting.push(first);
                // All of these asked before the round below begins.
                while let Ok(next) = asked.try_recv() {
                    waiting.push(next);
                }
                let answer = consensus.confirm_leadership(deadline).await;
                for asker in waiting.drain(..) {
                    let _ = asker.send(answer.clone());
                }
            }
        });
        Self { askers }
    }

    /// A round that begins after this call. The term in which this node led throughout it.
    ///
    /// # Errors
    /// When this node does not lead, or a quorum did not answer in time.
    pub async fn confirm(&self) -> Result<Term, ProposeError> {
        let (asker, answer) = oneshot::channel();
        let stopped = || ProposeError::Stopped("the node is shutting down".into());
        self.askers.send(asker).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
