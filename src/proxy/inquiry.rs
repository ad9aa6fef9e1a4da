//! How one thread asks the workers of the node something: the question runs in a turn of its own at each worker, and its
//! answer comes back. The workers share no data. Knows nothing of what is asked.

use std::{fmt, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::worker::Worker;

/// Questions that may wait for a worker; more than are asked at the same time, and who asks waits.
const WAITING_MAX: usize = 64;

/// Time in which a worker answers; a worker whose turns take longer is not well.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What a worker runs to answer.
type Question = dyn FnOnce(&Rc<Worker>) + Send;

/// A question to a worker, with the way for its answer.
pub(super) struct Inquiry(Box<Question>);

impl Inquiry {
    /// Lets the worker answer.
    pub(super) fn answer(self, worker: &Rc<Worker>) {
        (self.0)(worker);
    }
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inquiry")
    }
}

/// A worker gave no answer in time, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a thread of this node gave no answer within {ANSWER_MAX:?}")
    }
}

/// The ways to all workers of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers(Arc<[mpsc::Sender<Inquiry>]>);

impl Workers {
    /// The ways to `count` workers, and what these receive.
    pub(super) fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Inquiry>>) {
        let (senders, receivers): (Vec<_>, _) = (0..count).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        (Self(senders.into()), receivers)
    }

    /// Number of workers.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Asks one worker.
    ///
    /// # Errors
    /// It gives no answer in time.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        index: usize,
        question: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let deadline = Instant::now() + ANSWER_MAX;
        let answered = self.send(index, deadline, question).await?;
        received(answered, deadline).await
    }

    /// Asks all workers, at the same time. The answers are in the order of the workers.
    ///
    /// # Errors
    /// One of them gives no answer in time. The others may have done what was asked.
    pub(super) async fn ask_all<T: Send + 'static>(
        &self,
        question: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Unanswered> {
        let deadline = Instant::now() + ANSWER_MAX;
        let mut awaited = Vec::with_capacity(self.count());
        for index in 0..self.count() {
            awaited.push(self.send(index, deadline, question.clone()).await?);
        }
        let mut answers = Vec::with_capacity(awaited.len());
        for answered in awaited {
            answers.push(received(answered, deadline).await?);
        }
        Ok(answers)
    }

    async fn send<T: Send + 'static>(
        &self,
        index: usize,
        deadline: Instant,
        question: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Unanswered> {
        let worker = self.0.get(index).ok_or(Unanswered)?;
        let (answer, answered) = oneshot::channel();
        let inquiry = Inquiry(Box::new(move |worker| {
            // An error: who asked does not wait any more.
            let _ = answer.send(question(worker));
        }));
        match timeout_at(deadline, worker.send(inquiry)).await {
            Ok(Ok(())) => Ok(answered),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }
}

async fn received<T>(answered: oneshot::Receiver<T>, deadline: Instant) -> Result<T, Unanswered> {
    match timeout_at(deadline, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(Unanswered),
    }
}
