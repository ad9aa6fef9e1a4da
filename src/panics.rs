//! The text of a panic, and how a panic reaches the task that depends on the one that panicked.
//! Knows nothing of what the tasks do.

use std::{any::Any, collections::BTreeMap};

use tokio::task::{JoinError, JoinHandle};

/// The message of a panic, from the payload that unwinding carries.
#[must_use]
pub fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The output of a task that has ended; `None` if it was aborted.
///
/// # Panics
/// With the panic of that task, so that the supervisor of the calling task learns of it.
pub fn pass_on<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(output) => Some(output),
        Err(Ok(payload)) => std::panic::resume_unwind(payload),
        Err(Err(_aborted)) => None,
    }
}

/// Removes the tasks that have ended.
///
/// # Panics
/// As [`pass_on`], if one of them panicked.
pub async fn reap<K: Ord + Copy>(tasks: &mut BTreeMap<K, JoinHandle<()>>) {
    let ended: Vec<K> = tasks.iter().filter(|(_, task)| task.is_finished()).map(|(key, _)| *key).collect();
    for key in ended {
        if let Some(task) = tasks.remove(&key) {
            pass_on(task.await);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_panic_reaches_the_task_that_removes_ended_tasks() {
        let outer = tokio::spawn(async {
            let mut tasks =
                BTreeMap::from([(1, tokio::spawn(async {})), (2, tokio::spawn(async { panic!("of {}", 2) }))]);
            tasks.insert(3, tokio::spawn(std::future::pending()));
            while tasks.len() > 1 {
                reap(&mut tasks).await;
                tokio::task::yield_now().await;
            }
        });
        let payload = outer.await.unwrap_err().into_panic();
        assert_eq!(text(&*payload), "of 2");
    }

    #[tokio::test]
    async fn an_aborted_task_is_no_panic() {
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(pass_on(task.await), None);
        assert_eq!(pass_on(tokio::spawn(async { 7 }).await), Some(7));
    }
}
