//! Copies slots from one server to another and deletes keys of slots (see docs/design/migration.md).
//! Knows servers and slots; nothing of the log, of leaders and of when a slot changes its owner.

pub mod big_key;
mod clean;
pub mod copy;
pub mod expiry;
pub mod feed;
mod handle;
pub mod io;
pub mod payload;
pub mod report;
pub mod spec;
mod track;
pub mod verify;

pub use crate::model::migration::ConnectionId;
pub use handle::MoverHandle;
pub use report::{Finished, Report, State};
pub use spec::{AuthorizationFuture, Authorize, CleanSpec, CopySpec, Endpoint, KnownProcesses, RunSpec, SlotSet};

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::{mpsc, watch};

use crate::{faults, model::migration::Limits, panics};

/// Starts `spec` on its own thread with its own runtime: copying must never delay an election or a lease. Every failure
/// is reported as [`State::Failed`].
#[must_use]
pub fn start(spec: RunSpec, authorize: Arc<dyn Authorize>, limits: watch::Receiver<Limits>) -> MoverHandle {
    let (commands, inbox) = mpsc::channel(handle::COMMANDS_MAX);
    let (reports, report) = watch::channel(Report::default());
    let failed = reports.clone();
    let thread = std::thread::Builder::new().name("mover".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&reports, format!("no runtime for the mover: {error}; free memory or threads")),
        };
        let run = faults::or_panic("mover", run(spec, authorize, limits, inbox, &reports));
        // A panic fails only this run, which is fenced and started again: the thread shares nothing with others.
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

/// Runs `spec` to its end.
async fn run(
    spec: RunSpec,
    authorize: Arc<dyn Authorize>,
    limits: watch::Receiver<Limits>,
    mut commands: mpsc::Receiver<handle::MoverCommand>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    match &spec {
        RunSpec::Copy(spec) => copy::run(spec, authorize, limits, &mut commands, reports).await,
        RunSpec::Clean(spec) => clean::run(spec, authorize, limits, &mut commands, reports).await,
    }
}
