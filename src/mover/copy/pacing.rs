//! When a copy may send requests, and how many: shares of the servers' time, bursts and rests, limits of the settings.
//! Knows nothing of keys, only their number.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::monitors::Monitors;
use crate::{
    model::migration::Limits,
    mover::io::pace::{Meter, Rests, SHARE_PRIMARY, SHARE_REPLICA, Share},
};

/// Budget of a hold in milliseconds if the migration does not set one (the cluster's default).
const HOLD_MS: u64 = 250;

/// The pace of a copy.
pub(super) struct Pacing {
    limits: watch::Receiver<Limits>,
    /// Counts what is started and sent.
    pub meter: Meter,
    rests: Rests,
    source: Share,
    target: Share,
    /// Start of the current burst.
    burst: Option<Instant>,
    /// The share at the current burst.
    burst_share: f64,
}

impl Pacing {
    /// `from_replica`: the source is a replica, which may be used more.
    pub fn new(limits: watch::Receiver<Limits>, from_replica: bool, now: Instant) -> Self {
        Self {
            limits,
            meter: Meter::new(now),
            rests: Rests::default(),
            source: Share::new(if from_replica { SHARE_REPLICA } else { SHARE_PRIMARY }, now),
            target: Share::new(SHARE_PRIMARY, now),
            burst: None,
            burst_share: 1.0,
        }
    }

    /// The share of the servers' time that may be used now; 1: all of it.
    pub fn share(&mut self, monitors: &Monitors, now: Instant) -> f64 {
        let source = self.source.adapt(monitors.feed_server(), now);
        let target = self.target.adapt(&monitors.target, now);
        self.burst_share = source.min(target);
        self.burst_share
    }

    /// Whether a burst may begin now, or when. Only for shares below 1. `idle`: no request is outstanding.
    ///
    /// # Errors
    /// The time to wait for. `None`: wait for replies.
    pub fn burst_until(&mut self, idle: bool, now: Instant) -> Result<(), Option<Instant>> {
        // The next burst begins after both servers have answered the last one, so its duration is the time that they
        // used.
        if let Some(began) = self.burst {
            if !idle {
                return Err(None);
            }
            self.burst = None;
            self.rests.worked(now.saturating_duration_since(began), self.burst_share, now);
        }
        match self.rests.until(now) {
            Some(until) => Err(Some(until)),
            None => Ok(()),
        }
    }

    /// A burst begins, unless one is in progress.
    pub fn begin_burst(&mut self, now: Instant) {
        self.burst.get_or_insert(now);
    }

    /// How many keys the settings allow to start now.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let limits = *self.limits.borrow();
        self.meter.allowed(&limits, now)
    }

    /// The budget of a hold, milliseconds.
    pub fn hold_ms(&self) -> u64 {
        match u64::from(self.limits.borrow().hold_ms_max) {
            0 => HOLD_MS,
            ms => ms,
        }
    }

    /// Which server slows the copy down, as text for the operator.
    pub fn slow_server(&self, monitors: &Monitors, now: Instant) -> Option<String> {
        let server = if self.source.is_slow() {
            monitors.feed_server()
        } else if self.target.is_slow() {
            &monitors.target
        } else {
            return None;
        };
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        Some(format!(
            "{} is slow (PING {:.1} ms, at rest {:.1} ms)",
            server.connection().addr(),
            ms(server.ping(now)),
            ms(server.baseline())
        ))
    }
}
