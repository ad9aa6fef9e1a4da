//! Quorum quorum, shared: one round serves everyone who asked before it began.
//! Knows nothing of what is granted on the strength of a round.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{
    consensus::{Consensus, ProposeError},
    model::ids::Term,
};

/// Callers that may wait for a round at once: a few for each node of the largest cluster.
const WAITING_MAX: usize = 1024;

type Waiter = oneshot::Sender<Result<Term, ProposeError>>;

/// Asks for quorum quorum. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QuorumConfirmer {
    askers: mpsc::Sender<Waiter>,
}

impl QuorumConfirmer {
    /// The confirmer and the task that runs its rounds, one at a time; the task ends with the last clone.
    pub fn new(consensus: Consensus, deadline: Duration) -> (Self, impl Future<Output = ()> + Send + 'static) {
        Self::over(move || {
            let consensus = consensus.clone();
            async move { consensus.confirm_leadership(deadline).await }
        })
    }

    fn over<F>(mut round: impl FnMut() -> F + Send + 'static) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        F: Future<Output = Result<Term, ProposeError>> + Send + 'static,
    {
        let (askers, mut asked) = mpsc::channel::<Waiter>(WAITING_MAX);
        let rounds = async move {
            let mut waiting = Vec::new();
            while let Some(first) = asked.recv().await {
                waiting.push(first);
                // All of these asked before the round below begins.
                while let Ok(next) = asked.try_recv() {
                    waiting.push(next);
                }
                let answer = round().await;
                for asker in waiting.drain(..) {
                    let _ = asker.send(answer.clone());
                }
            }
        };
        (Self { askers }, rounds)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    /// A lease counts from a heartbeat's send, so the proof that nobody else leads must be younger than its arrival.
    #[tokio::test]
    async fn who_asks_during_a_round_gets_the_next_one_and_shares_it() {
        let (begun, mut begins) = mpsc::channel(8);
        let ends = Arc::new(Semaphore::new(0));
        let (of_round, mut term) = (ends.clone(), 0);
        let (quorum, rounds) = QuorumConfirmer::over(move || {
            term += 1;
            begun.try_send(term).unwrap();
            let (ends, term) = (of_round.clone(), term);
            async move {
                ends.acquire().await.unwrap().forget();
                Ok(Term(term))
            }
        });
        tokio::spawn(rounds);
        let ask = || {
            let quorum = quorum.clone();
            tokio::spawn(async move { quorum.confirm().await.unwrap() })
        };
        let first = ask();
        assert_eq!(begins.recv().await, Some(1));
        let others = [ask(), ask()];
        while quorum.askers.capacity() > WAITING_MAX - 2 {
            tokio::task::yield_now().await;
        }
        ends.add_permits(1);
        assert_eq!(first.await.unwrap(), Term(1));
        assert_eq!(begins.recv().await, Some(2));
        ends.add_permits(1);
        for other in others {
            assert_eq!(other.await.unwrap(), Term(2));
        }
        assert!(begins.try_recv().is_err(), "one round for both");
    }
}
