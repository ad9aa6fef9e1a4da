//! Copies slots from one server to another and deletes keys of slots (see docs/design/migration.md).
//! Knows servers and slots; nothing of the log, of leaders and of when a slot changes its owner.

pub mod big_key;
mod clean;
pub mod copy;
pub mod feed;
mod handle;
pub mod io;
pub mod report;
pub mod spec;
mod track;
pub mod verify;

pub use crate::model::migration::ConnectionId;
pub use handle::{MoverHandle, start};
pub use report::{Finished, Report, State};
pub use spec::{AuthorizationFuture, Authorize, CleanSpec, CopySpec, Endpoint, RunSpec, SlotSet};

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::model::migration::Limits;

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
