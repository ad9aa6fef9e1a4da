//! Quorum confirmation, shared: one quorum round answers all callers that asked before it began.
//! Knows nothing of what is granted after a confirmation.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{
    consensus::{Consensus, ProposeError},
    model::ids::Term,
};

/// How many callers may wait at once: a few for each node of the largest cluster.
const WAITING_MAX: usize = 1024;

type Waiter = oneshot::Sender<Result<Term, ProposeError>>;

/// Asks for quorum confirmation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QuorumConfirmer {
    waiters: mpsc::Sender<Waiter>,
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
        let (waiters, mut asked) = mpsc::channel::<Waiter>(WAITING_MAX);
        let rounds = async move {
            let mut waiting = Vec::new();
            while let Some(first) = asked.recv().await {
                waiting.push(first);
                // All of these asked before the round below begins.
                while let Ok(next) = asked.try_recv() {
                    waiting.push(next);
                }
                let answer = round().await;
                for waiter in waiting.drain(..) {
                    let _ = waiter.send(answer.clone());
                }
            }
        };
        (Self { waiters }, rounds)
    }

    /// Waits for a quorum round that begins after this call. Returns the term in which this node led throughout it.
    ///
    /// # Errors
    /// When this node does not lead, or a quorum did not answer in time.
    pub async fn confirm(&self) -> Result<Term, ProposeError> {
        let (waiter, answer) = oneshot::channel();
        let stopped = || ProposeError::Stopped("the node is shutting down".into());
        self.waiters.send(waiter).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    /// A lease counts from when a heartbeat was sent, so the proof that no other node leads must be newer than its
    /// arrival.
    #[tokio::test]
    async fn callers_during_a_round_share_the_next_one() {
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
        while quorum.waiters.capacity() > WAITING_MAX - 2 {
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
