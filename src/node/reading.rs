//! Reads files of a running node on a thread of their own: a file system that does not answer must delay neither the node
//! nor its end. Knows nothing of what is read.

use std::time::Duration;

use tokio::{sync::oneshot, time::timeout};
use tracing::warn;

/// After this time the log says what the node waits for. A file is read within milliseconds.
const SLOW: Duration = Duration::from_secs(5);

/// What `read` gives. The thread may outlive the caller, and does not keep the process from ending.
///
/// # Errors
/// As `read`, as text for the operator; also if there is no thread for it, or it panicked.
pub async fn on_a_thread<T: Send + 'static>(
    what: &'static str,
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, mut result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("reading".into());
    // An error: nobody waits any more.
    let spawned = thread.spawn(move || drop(done.send(read())));
    spawned.map_err(|e| format!("{what} cannot be read: there is no thread for it: {e}"))?;
    let got = match timeout(SLOW, &mut result).await {
        Ok(got) => got,
        Err(_) => {
            warn!(what, "reading takes long; does the file system answer? Until then SIGHUP changes nothing");
            result.await
        }
    };
    got.map_err(|_| format!("{what} cannot be read: its thread ended"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_does_not_answer_does_not_keep_the_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (_never, stuck) = std::sync::mpsc::sync_channel::<()>(1);
        runtime.block_on(async {
            let reading = on_a_thread("the secret", move || stuck.recv().map_err(|e| e.to_string()));
            assert!(timeout(Duration::from_millis(10), reading).await.is_err());
            assert_eq!(on_a_thread("the secret", || Ok(7)).await, Ok(7));
            assert_eq!(on_a_thread::<()>("the secret", || Err("no".into())).await, Err("no".into()));
        });
    }
}
