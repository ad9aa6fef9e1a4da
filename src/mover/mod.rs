//! Copies slots from one server to another and deletes them, as migration.md says.
//! Knows servers and slots; nothing of the log, of leaders or of when a slot changes its owner.

mod attempt;
mod big;
pub mod big_key;
mod clean;
mod comparing;
pub mod connection;
mod copy;
mod dirty;
pub mod feed;
mod fetch;
mod finish;
pub mod functions;
mod handle;
pub mod job;
mod lane;
mod libraries;
mod losses;
mod marks;
mod pace;
pub mod payload;
pub mod report;
pub mod scan;
pub mod server;
mod untimed;
pub mod verify;

pub use handle::{Handle, start};
pub use job::{Approval, Approve, CleanJob, CopyJob, Endpoint, Job, Named, SlotSet};
pub use report::{Finished, Report, State};

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::model::migration::Limits;

/// Does `job` to its end.
async fn run(
    job: Job,
    approve: Arc<dyn Approve>,
    limits: watch::Receiver<Limits>,
    mut orders: mpsc::Receiver<handle::Order>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    match &job {
        Job::Copy(job) => attempt::run(job, approve, limits, &mut orders, reports).await,
        Job::Clean(job) => clean::run(job, approve, limits, &mut orders, reports).await,
    }
}
