//! Starts a mover on a thread of its own, and what its owner holds.
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

/// Orders that wait to be read: a hold has one `finish` and one `go_on`, and holds follow each other.
const ORDERS_MAX: usize = 16;

/// What an owner tells its mover.
pub(super) enum MoverOrder {
    /// Under this hold, bring everything over before the deadline, and say so.
    Finish { hold: HoldId, deadline: Instant, done: oneshot::Sender<Result<Finished, String>> },
    /// The hold was released: copy on.
    GoOn(HoldId),
}

/// A running mover. Dropping it stops the mover and closes its connections.
pub struct MoverHandle {
    orders: mpsc::Sender<MoverOrder>,
    report: watch::Receiver<Report>,
}

/// Starts `spec` on its own thread with its own runtime: copying must never delay an election or a lease. Whatever goes wrong
/// is in the report as [`State::Failed`].
#[must_use]
pub fn start(spec: RunSpec, authorize: Arc<dyn Authorize>, limits: watch::Receiver<Limits>) -> MoverHandle {
    let (orders, inbox) = mpsc::channel(ORDERS_MAX);
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
    MoverHandle { orders, report }
}

fn fail(reports: &watch::Sender<Report>, why: String) {
    reports.send_modify(|report| report.state = State::Failed(why));
}

impl MoverHandle {
    /// The latest report. Its sender is gone when the mover has ended; the last value stays.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Call when the barrier of `hold` has passed: no writer is left. Returns when the target has everything that the
    /// source's primary had at some moment after the call.
    ///
    /// # Errors
    /// A sentence for people: not done by `deadline` (the mover copies on), or the mover has ended.
    pub async fn finish(&self, hold: HoldId, deadline: Instant) -> Result<Finished, String> {
        let (done, answer) = oneshot::channel();
        let order = MoverOrder::Finish { hold, deadline, done };
        let late = || "the mover did not finish in time; the hold is to be released".to_owned();
        let ended = || match &self.report.borrow().state {
            State::Failed(why) => why.clone(),
            _ => "the mover has ended".to_owned(),
        };
        timeout_at(deadline, self.orders.send(order)).await.map_err(|_| late())?.map_err(|_| ended())?;
        timeout_at(deadline, answer).await.map_err(|_| late())?.map_err(|_| ended())?
    }

    /// `hold` was released and the run was not closed: copy on.
    pub fn go_on(&self, hold: HoldId) {
        // Full only if the mover hangs; then it is not copying anyway, and its owner sees the report stand still.
        let _ = self.orders.try_send(MoverOrder::GoOn(hold));
    }
}
