//! The handle of a running mover: its owner sends commands and reads reports.
//! Knows nothing of what the mover does.

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::report::{Finished, Report, State};
use crate::model::ids::HoldId;

/// Commands that wait to be read. Each hold has one `finish` and one `resume`, and holds follow each other.
pub(super) const COMMANDS_MAX: usize = 16;

/// A command of the owner.
pub(super) enum MoverCommand {
    /// Under this hold, bring the target up to date before the deadline and report the result.
    Finish { hold: HoldId, deadline: Instant, done: oneshot::Sender<Result<Finished, String>> },
    /// The hold was released: continue copying.
    Resume(HoldId),
}

/// A running mover. Dropping the handle stops the mover and closes its connections.
pub struct MoverHandle {
    pub(super) commands: mpsc::Sender<MoverCommand>,
    pub(super) report: watch::Receiver<Report>,
}

impl MoverHandle {
    /// The latest report. The channel closes when the mover has ended; the last value stays.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Brings the target up to date. Call it after the barrier of `hold`, when no writer is left. When it returns, the
    /// target has everything that the source's primary had at some moment after the call.
    ///
    /// # Errors
    /// Returns as text for the operator that it was not done by `deadline` (the mover continues copying), or why the
    /// mover has ended.
    pub async fn finish(&self, hold: HoldId, deadline: Instant) -> Result<Finished, String> {
        let (done, answer) = oneshot::channel();
        let command = MoverCommand::Finish { hold, deadline, done };
        let late = || "the mover did not finish in time; the hold is released".to_owned();
        let ended = || match &self.report.borrow().state {
            State::Failed(why) => why.clone(),
            _ => "the mover has ended".to_owned(),
        };
        timeout_at(deadline, self.commands.send(command)).await.map_err(|_| late())?.map_err(|_| ended())?;
        timeout_at(deadline, answer).await.map_err(|_| late())?.map_err(|_| ended())?
    }

    /// Continues copying after `hold` was released and the run was not closed.
    pub fn resume(&self, hold: HoldId) {
        // The channel is full only if the mover hangs. Then it is not copying, and its owner sees that the report does
        // not change.
        let _ = self.commands.try_send(MoverCommand::Resume(hold));
    }
}
