//! Starts a mover on its own thread and gives the owner a handle.
//! Knows nothing of what the mover does.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    report::{Finished, Report, State},
    spec::{Authorize, RunSpec},
};
use crate::{
    faults,
    model::{ids::HoldId, migration::Limits},
    panics,
};

/// Commands that wait to be read. Each hold has one `finish` and one `resume`, and holds follow each other.
const COMMANDS_MAX: usize = 16;

/// A command of the owner.
pub(super) enum MoverCommand {
    /// Under this hold, bring the target up to date before the deadline and report the result.
    Finish { hold: HoldId, deadline: Instant, done: oneshot::Sender<Result<Finished, String>> },
    /// The hold was released: continue copying.
    Resume(HoldId),
}

/// A running mover. Dropping the handle stops the mover and closes its connections.
pub struct MoverHandle {
    commands: mpsc::Sender<MoverCommand>,
    report: watch::Receiver<Report>,
}

/// Starts `spec` on its own thread with its own runtime: copying must never delay an election or a lease. Every failure
/// is reported as [`State::Failed`].
#[must_use]
pub fn start(spec: RunSpec, authorize: Arc<dyn Authorize>, limits: watch::Receiver<Limits>) -> MoverHandle {
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (reports, report) = watch::channel(Report::default());
    let failed = reports.clone();
    let thread = std::thread::Builder::new().name("mover".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&reports, format!("no runtime for the mover: {error}; free memory or threads")),
        };
        let run = faults::or_panic("mover", super::run(spec, authorize, limits, inbox, &reports));
        // A panic fails this run, which is fenced and begun anew, and nothing else: the thread shares nothing with others.
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => fail(&reports, why),
            Err(payload) => {
                let why = format!("the mover panicked: {}; this is a bug", panics::text(&*payload));
                tracing::error!(why, "a run fails");
                fail(&reports, why);
            }
        }
    });
    if let Err(error) = thread {
        fail(&failed, format!("no thread for the mover: {error}; raise the limit of threads"));
    }
    MoverHandle { commands, report }
}

fn fail(reports: &watch::Sender<Report>, why: String) {
    reports.send_modify(|report| report.state = State::Failed(why));
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
