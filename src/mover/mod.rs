//! Copies slots from one server to another and deletes them, as migration.md says.
//! Knows servers and slots; nothing of the log, of leaders or of when a slot changes its owner.

pub mod big_key;
pub mod connection;
pub mod feed;
mod handle;
pub mod job;
pub mod report;

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
    _limits: watch::Receiver<Limits>,
    mut orders: mpsc::Receiver<handle::Order>,
    _reports: &watch::Sender<Report>,
) -> Result<(), String> {
    // The connections come with the next commits.
    approve.approve(Vec::new()).await?;
    while let Some(order) = orders.recv().await {
        if let handle::Order::Finish { hold, deadline, done } = order {
            let _ = done.send(Err(format!("{job:?} under hold {hold} before {deadline:?}: nothing is copied yet")));
        }
    }
    Ok(())
}
