//! Makes a change and says what came of it: first what was done, with the ids, then, with `--wait`, the progress.
//! Knows nothing of the single changes.

use std::{collections::BTreeSet, future::Future, time::Duration};

use tokio::signal::ctrl_c;
use tonic::{Response, Status};

use super::{
    Remote,
    client::Client,
    error::{CliError, failed},
    migrate::watch,
    output,
};
use crate::wire::pb::admin::{ChangeOptions, ChangeReply, StatusRequest};

/// Pause between two questions what the leader waits for. A person waits for a promotion or a hold, which take seconds.
const POLL: Duration = Duration::from_secs(2);

/// Makes a change. `check` is the command that shows whether it was made.
///
/// # Errors
/// As [`Remote::send`]. After the change was made: [`CliError::Made`], also when the operator ends the waiting.
pub(super) async fn run<F, Fut>(remote: &Remote, check: &str, call: F) -> Result<ChangeReply, CliError>
where
    F: Fn(Client, ChangeOptions) -> Fut,
    Fut: Future<Output = Result<Response<ChangeReply>, Status>>,
{
    let attempt = remote.attempt(false);
    let reply = tokio::select! {
        reply = remote.send(attempt, check, &call) => reply?,
        pressed = ctrl_c() => return Err(pressed.map_or_else(failed, |()| interrupted(remote, check))),
    };
    output::print_change(remote, &reply)?;
    if !remote.common.wait || remote.common.dry_run {
        return Ok(reply);
    }
    // The same change again: the node does not make it twice, it only waits.
    let waited = tokio::select! {
        waited = remote.send(attempt.waiting(), check, &call) => waited,
        never = progress(remote, &reply) => match never {},
        pressed = ctrl_c() => return Err(pressed.map_or_else(failed, |()| CliError::Made(goes_on(remote, &reply, check)))),
    };
    match waited {
        Ok(waited) => {
            if !remote.json() {
                let news = waited.done.iter().filter(|line| !reply.done.contains(line) && !waited.unchanged);
                news.for_each(|line| output::print_text(&format!("{line}\n")));
                waited
                    .warnings
                    .iter()
                    .filter(|line| !reply.warnings.contains(line))
                    .for_each(|line| output::warn(line));
            }
            Ok(reply)
        }
        // The first answer says that it was made.
        Err(CliError::Failed(why) | CliError::Refused(_, why) | CliError::Unknown(why)) => Err(CliError::Made(why)),
        Err(error) => Err(error),
    }
}

fn interrupted(remote: &Remote, check: &str) -> CliError {
    if remote.common.dry_run {
        return CliError::Failed("interrupted; nothing was changed".into());
    }
    CliError::Unknown(format!("interrupted before the node answered, outcome unknown\ncheck with: {check}"))
}

/// What goes on after the operator has ended the waiting, and how to watch or cancel it.
fn goes_on(remote: &Remote, reply: &ChangeReply, check: &str) -> String {
    match &reply.migrations[..] {
        [] => format!("interrupted: the change was made (log entry {}) and goes on; see it: {check}", reply.index),
        ids => watch::goes_on(ids, remote.product()),
    }
}

/// Shows how far the change is, until this is dropped. Programs get the reply and the exit code.
async fn progress(remote: &Remote, reply: &ChangeReply) -> std::convert::Infallible {
    if remote.json() {
        return std::future::pending().await;
    }
    if !reply.migrations.is_empty() {
        return watch::show_progress(remote, &reply.migrations).await;
    }
    let mut shown = BTreeSet::new();
    loop {
        tokio::time::sleep(POLL).await;
        let Ok(status) = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await else { continue };
        for waiting in status.waiting_on {
            if !shown.contains(&waiting) {
                output::print_text(&format!("waiting on: {waiting}\n"));
                shown.insert(waiting);
            }
        }
    }
}
