//! Why a node stops, and what its process returns.
//! Knows nothing of how it stops.

use anyhow::anyhow;
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;

use super::{heartbeat::HeartbeatEnd, tasks::UnexpectedEnd};
use crate::consensus::Consensus;

/// Why a node stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM or SIGINT.
    Signal,
    /// The leader answered that this node must not serve.
    Heartbeat(HeartbeatEnd),
    /// The log has stopped, for this reason.
    Log(String),
    /// A supervised task ended.
    Task(UnexpectedEnd),
}

impl StopReason {
    /// Whether the node did what was asked: it was stopped by a signal, or removed from the cluster.
    ///
    /// # Errors
    /// Returns why the node stopped, as text for the operator. [`UnexpectedEnd`] can be downcast: the process then
    /// exits with a code of its own.
    pub fn into_result(self) -> anyhow::Result<()> {
        match self {
            Self::Signal | Self::Heartbeat(HeartbeatEnd::Removed) => Ok(()),
            Self::Heartbeat(HeartbeatEnd::DuplicateNode) => Err(anyhow!(
                "another process with this node's identity serves in the cluster; empty one of the two data directories"
            )),
            Self::Log(reason) => {
                error!(%reason, "the log has stopped");
                Err(anyhow!("the log of this node has stopped: {reason}"))
            }
            Self::Task(end) => Err(end.into()),
        }
    }
}

/// Waits for SIGTERM or SIGINT; returns its name.
pub async fn signalled() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be caught; stop this node with kill -9");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Waits until the log stops although nobody asked it to; returns why.
pub async fn log_stopped(log: &Consensus) -> String {
    let mut stopped = log.stopped();
    loop {
        if let Some(reason) = stopped.borrow_and_update().clone() {
            return reason;
        }
        if stopped.changed().await.is_err() {
            return "its task has ended".into();
        }
    }
}
