//! Waiting for a condition until a deadline; the only place of these tests that sleeps.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};

/// Much longer than anything here takes, also on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Polls until there is a value. Panics at the deadline with the last reason why there is none.
pub async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = soon();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(why) if Instant::now() >= deadline => panic!("waited {PATIENCE:?} for {what}: {why}"),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// Repeats an action until a task has ended. Returns the result of the task.
pub async fn meanwhile<T>(task: JoinHandle<T>, mut act: impl FnMut()) -> T {
    wait_for("a task to end", async || {
        act();
        if task.is_finished() { Ok(()) } else { Err("it goes on".into()) }
    })
    .await;
    task.await.unwrap()
}
