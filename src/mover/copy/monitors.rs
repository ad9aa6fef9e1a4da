//! The monitors of all servers of a copy.
//! Knows nothing of what is copied.

use std::task::Context;

use tokio::time::Instant;

use crate::mover::io::monitor::ServerMonitor;

/// One monitor per server.
pub(super) struct Monitors {
    /// The source's primary.
    pub primary: ServerMonitor,
    /// The server of the feed, if it is not the primary.
    pub replica: Option<ServerMonitor>,
    /// The target's primary.
    pub target: ServerMonitor,
}

impl Monitors {
    /// The server that is read.
    pub fn feed_server(&self) -> &ServerMonitor {
        self.replica.as_ref().unwrap_or(&self.primary)
    }

    /// Like [`Monitors::feed_server`].
    pub fn feed_server_mut(&mut self) -> &mut ServerMonitor {
        self.replica.as_mut().unwrap_or(&mut self.primary)
    }

    /// Reads replies and sends the requests that are due.
    ///
    /// # Errors
    /// As [`ServerMonitor::turn`].
    pub fn turn(&mut self, now: Instant) -> Result<(), String> {
        self.primary.turn(now)?;
        if let Some(replica) = &mut self.replica {
            replica.turn(now)?;
        }
        self.target.turn(now)
    }

    /// Whether any connection is ready. Polls all of them, so that each wakes the task.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        let mut ready = self.primary.connection().poll_ready(cx).is_ready();
        ready |= self.target.connection().poll_ready(cx).is_ready();
        ready |= self.replica.as_ref().is_some_and(|replica| replica.connection().poll_ready(cx).is_ready());
        ready
    }
}
