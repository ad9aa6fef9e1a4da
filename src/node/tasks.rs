//! The supervisor: every long-running task and thread of a node has a name here, and its unexpected end becomes known.
//! Knows nothing of what the tasks do, nor of what follows from an end.
//!
//! A task that serves one call, one client session or one run of a mover is not supervised: its panic ends that call,
//! session or run. All other tasks are: a node that lacks one of them seems healthy and is not.

use std::fmt;

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinError},
};

use crate::{consensus, faults, panics, proxy::ThreadEnd};

/// Ends that wait to be read: more than a node has tasks, so that the panic that is the cause of the others is not lost
/// behind tasks that returned because of it.
const ENDS_MAX: usize = 64;

/// Starts tasks and watches them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    ends: mpsc::Sender<UnexpectedEnd>,
}

/// Where unexpected ends arrive.
#[derive(Debug)]
pub struct TaskEnds(mpsc::Receiver<UnexpectedEnd>);

/// A supervised task or thread has ended, and nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task '{task}' of this node ended unexpectedly: {how}. This is a bug; report it with the log above")]
pub struct UnexpectedEnd {
    /// The task's name.
    pub task: String,
    /// How it ended.
    pub how: End,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It panicked, with this message.
    Panicked(String),
    /// It returned.
    Returned,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(text) => write!(f, "it panicked: {text}"),
            Self::Returned => f.write_str("it returned"),
        }
    }
}

impl Tasks {
    /// A supervisor without tasks.
    #[must_use]
    pub fn new() -> (Self, TaskEnds) {
        let (ends, ended) = mpsc::channel(ENDS_MAX);
        (Self { ends }, TaskEnds(ended))
    }

    /// Starts a task that runs until it is aborted. That it returns is unexpected, and so is a panic.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.start(name, task, Some(End::Returned))
    }

    /// Starts a task that may return. Only a panic is unexpected.
    pub fn spawn_finite(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.start(name, task, None)
    }

    /// Watches the threads of the proxy.
    pub fn watch_threads(&self, mut ended: watch::Receiver<Option<ThreadEnd>>) {
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let Ok(Some(end)) = ended.wait_for(Option::is_some).await.map(|end| end.clone()) else { return };
            let how = end.panic.map_or(End::Returned, End::Panicked);
            // An error: another end waits to be read, or the node stops already.
            let _ = ends.try_send(UnexpectedEnd { task: end.thread, how });
        });
    }

    /// Watches the threads of the storage engine.
    pub fn watch_storage(&self) {
        let ends = self.ends.clone();
        consensus::on_storage_panic(move |thread, text| {
            // An error: another end waits to be read, or the node stops already.
            let _ = ends.try_send(UnexpectedEnd { task: thread.to_owned(), how: End::Panicked(text.to_owned()) });
        });
    }

    fn start(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        returned: Option<End>,
    ) -> AbortHandle {
        let task = tokio::spawn(faults::or_panic(name, task));
        let (abort, ends) = (task.abort_handle(), self.ends.clone());
        tokio::spawn(async move {
            let how = match task.await.map_err(JoinError::try_into_panic) {
                Ok(()) => returned,
                Err(Ok(payload)) => Some(End::Panicked(panics::text(&*payload).to_owned())),
                Err(Err(_aborted)) => None,
            };
            if let Some(how) = how {
                // An error: another end waits to be read, or the node stops already.
                let _ = ends.try_send(UnexpectedEnd { task: name.to_owned(), how });
            }
        });
        abort
    }
}

impl TaskEnds {
    /// Waits for the first unexpected end. Cancel-safe.
    pub async fn wait(&mut self) -> UnexpectedEnd {
        match self.0.recv().await {
            Some(end) => end,
            // No supervisor is left, so nothing more can end.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    fn end(task: &str, how: End) -> UnexpectedEnd {
        UnexpectedEnd { task: task.to_owned(), how }
    }

    #[tokio::test]
    async fn an_unexpected_end_names_the_task_and_how_it_ended() {
        let (tasks, mut ends) = Tasks::new();
        tasks.spawn("returns", async {});
        assert_eq!(ends.wait().await, end("returns", End::Returned));
        tasks.spawn("panics", async { panic!("of {}", 7) });
        assert_eq!(ends.wait().await, end("panics", End::Panicked("of 7".into())));
        tasks.spawn_finite("may return", async { panic!("but not so") });
        let last = ends.wait().await;
        assert_eq!(last, end("may return", End::Panicked("but not so".into())));
        assert!(
            last.to_string().contains("'may return' of this node ended unexpectedly: it panicked: but not so"),
            "{last}"
        );
    }

    #[tokio::test]
    async fn expected_ends_are_not_reported() {
        let (tasks, mut ends) = Tasks::new();
        let (done, is_done) = oneshot::channel();
        tasks.spawn_finite("returns", async move { done.send(()).unwrap() });
        is_done.await.unwrap();
        let (held, dropped) = oneshot::channel::<()>();
        tasks
            .spawn("aborted", async move {
                let _held = held;
                std::future::pending().await
            })
            .abort();
        assert!(dropped.await.is_err());
        // What is reported later comes alone.
        tasks.spawn("panics", async { panic!() });
        assert_eq!(ends.wait().await.task, "panics");
        assert!(timeout(Duration::from_millis(20), ends.wait()).await.is_err());
    }

    #[tokio::test]
    async fn threads_are_tasks_too() {
        let (tasks, mut ends) = Tasks::new();
        let (sender, ended) = watch::channel(None);
        tasks.watch_threads(ended);
        sender.send_replace(Some(ThreadEnd { thread: "worker-1".into(), panic: Some("x".into()) }));
        assert_eq!(ends.wait().await, end("worker-1", End::Panicked("x".into())));
    }
}
