//! How much work a mover may do now: limited by the settings, the servers' PING latency and the other clients' load.
//! Knows nothing of the keys, only their number and size.

use std::time::Duration;

use tokio::time::Instant;

use super::monitor::ServerMonitor;
use crate::model::migration::Limits;

/// While we work, a PING may take this much longer than the baseline.
const LATENCY_MORE: Duration = Duration::from_micros(500);
/// Most of the time of a primary that also serves other clients (see docs/design/migration.md).
pub const SHARE_PRIMARY: f64 = 0.3;
/// Most of the time of a replica.
pub const SHARE_REPLICA: f64 = 0.9;
/// Least share: the copy always makes progress, however slow the servers are.
const SHARE_MIN: f64 = 0.01;
/// Interval of changes of the share: some PINGs must show the effect of the last change.
const ADAPT_EVERY: Duration = Duration::from_millis(50);
const SHARE_MORE: f64 = 0.02;
const SHARE_LESS: f64 = 0.7;
/// PINGs that stay slow for this long at the least share are not slow because of us. Then their latency becomes the new
/// baseline while it lasts. Otherwise the copy would stay at the least share on a machine that others load, and writes
/// would outrun it.
const NOT_OURS_AFTER: Duration = Duration::from_secs(2);
/// How fast a raised baseline falls with each change of the share: almost completely within some seconds.
const BASELINE_DECAY: f64 = 0.02;
/// Keys of one burst on a server that serves other clients: a third of a millisecond of its time.
pub const BURST: usize = 64;
/// Limit of the rest that is owed, and of the credit for rests that were too long, in seconds.
const DEBT_MAX: f64 = 0.05;
/// Limits are averaged over this time in seconds, so that a second's worth of work does not come at once.
const SAVED_MAX: f64 = 0.05;

/// The share of one server's time that may be used, controlled by its PING latency.
#[derive(Debug)]
pub struct Share {
    most: f64,
    now: f64,
    changed: Instant,
    slow: bool,
    /// PING latency that others cause, if it is above the baseline.
    loaded: Duration,
    /// Since when the share is the least although PINGs are slow.
    least: Option<Instant>,
}

impl Share {
    /// At most `most` of the server's time while other clients use it.
    #[must_use]
    pub fn new(most: f64, now: Instant) -> Self {
        Self { most, now: most / 4.0, changed: now, slow: false, loaded: Duration::ZERO, least: None }
    }

    /// Updates and returns the share; 1 for an idle server.
    pub fn adapt(&mut self, server: &ServerMonitor, now: Instant) -> f64 {
        if server.is_idle() {
            (self.slow, self.least) = (false, None);
            return 1.0;
        }
        if now.saturating_duration_since(self.changed) >= ADAPT_EVERY {
            self.changed = now;
            self.step(server.ping(now), server.baseline(), now);
        }
        self.now
    }

    fn step(&mut self, ping: Duration, baseline: Duration, now: Instant) {
        self.slow = ping > baseline.max(self.loaded) + LATENCY_MORE;
        if ping < self.loaded {
            self.loaded -= (self.loaded - ping).mul_f64(BASELINE_DECAY);
        }
        if !self.slow {
            (self.now, self.least) = ((self.now + SHARE_MORE).min(self.most), None);
            return;
        }
        self.now = (self.now * SHARE_LESS).max(SHARE_MIN);
        if self.now > SHARE_MIN {
            return;
        }
        if now.saturating_duration_since(*self.least.get_or_insert(now)) >= NOT_OURS_AFTER {
            (self.loaded, self.least) = (ping, None);
        }
    }

    /// Whether the last PINGs were slow.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow
    }
}

/// Rests between bursts, so that the work takes no more than its share of the time.
#[derive(Debug)]
pub struct Rests {
    /// Seconds of rest that are owed. Negative: rested too long, which counts as credit.
    debt: f64,
    until: Option<Instant>,
}

impl Default for Rests {
    fn default() -> Self {
        Self { debt: 0.0, until: None }
    }
}

impl Rests {
    /// Work of this duration was done under this share.
    pub fn worked(&mut self, took: Duration, share: f64, now: Instant) {
        if share >= 1.0 {
            *self = Self::default();
            return;
        }
        self.debt = (self.debt + took.as_secs_f64() * (1.0 / share - 1.0)).min(DEBT_MAX);
        // Timers have a resolution of a millisecond.
        if self.debt >= 0.001 {
            self.until = Some(now + Duration::from_secs_f64(self.debt));
        }
    }

    /// When work may continue. `None`: now.
    pub fn until(&mut self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.until {
            if now < until {
                return Some(until);
            }
            self.until = None;
            self.debt = (-now.saturating_duration_since(until).as_secs_f64()).max(-DEBT_MAX);
        }
        None
    }
}

/// One limit per second. 0: unlimited.
#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + passed * rate as f64).min((rate as f64 * SAVED_MAX).max(1.0));
        rate == 0 || self.left >= 1.0
    }
}

/// The limits of the settings.
#[derive(Debug)]
pub struct Meter {
    keys: Bucket,
    bytes: Bucket,
}

impl Meter {
    /// Starts with no credit.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let bucket = || Bucket { left: 0.0, filled: now };
        Self { keys: bucket(), bytes: bucket() }
    }

    /// How many keys may be started now.
    pub fn allowed(&mut self, limits: &Limits, now: Instant) -> usize {
        let keys = self.keys.fill(limits.keys_per_second, now);
        let bytes = self.bytes.fill(limits.bytes_per_second, now);
        match (keys && bytes, limits.keys_per_second, limits.bytes_per_second) {
            (false, _, _) => 0,
            (true, 0, 0) => usize::MAX,
            // The size of a key is known only afterwards, so start few at a time.
            (true, 0, _) => BURST,
            (true, _, 0) => self.keys.left as usize,
            (true, _, _) => (self.keys.left as usize).min(BURST),
        }
    }

    /// A key was started.
    pub fn key(&mut self) {
        self.keys.left -= 1.0;
    }

    /// A value of `count` bytes was sent.
    pub fn bytes(&mut self, count: usize) {
        self.bytes.left -= count as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_as_long_as_the_share_demands() {
        let mut rests = Rests::default();
        let mut now = Instant::now();
        let began = now;
        let mut worked = Duration::ZERO;
        for _ in 0..1000 {
            now += Duration::from_micros(300);
            worked += Duration::from_micros(300);
            rests.worked(Duration::from_micros(300), 0.3, now);
            while let Some(until) = rests.until(now) {
                // A timer that fires late.
                now = until + Duration::from_micros(700);
            }
        }
        let share = worked.as_secs_f64() / now.duration_since(began).as_secs_f64();
        assert!((0.27..0.33).contains(&share), "{share}");
        rests.worked(Duration::from_secs(9), 1.0, now);
        assert_eq!(rests.until(now), None);
    }

    #[test]
    fn limits_hold_over_a_second() {
        let limits = Limits { keys_per_second: 1000, bytes_per_second: 50_000, hold_ms_max: 0 };
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        let mut keys = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            for _ in 0..meter.allowed(&limits, now) {
                meter.key();
                meter.bytes(100);
                keys += 1;
            }
        }
        // 500 keys of 100 bytes are the tighter limit.
        assert!((450..=570).contains(&keys), "{keys}");
        assert_eq!(meter.allowed(&Limits::default(), now), usize::MAX);
    }

    /// Applies this many changes of the share, where `ping` gives the latency for a share. Returns the last share.
    fn after(share: &mut Share, from: &mut Instant, changes: u32, ping: impl Fn(f64) -> Duration) -> f64 {
        for _ in 0..changes {
            *from += ADAPT_EVERY;
            share.step(ping(share.now), AT_REST, *from);
        }
        share.now
    }

    const AT_REST: Duration = Duration::from_micros(50);
    const SLOW: Duration = Duration::from_millis(2);

    #[test]
    fn a_share_falls_fast_and_recovers_slowly() {
        let mut now = Instant::now();
        let mut share = Share::new(SHARE_PRIMARY, now);
        assert!((after(&mut share, &mut now, 100, |_| AT_REST) - SHARE_PRIMARY).abs() < 1e-9);
        assert!((after(&mut share, &mut now, 30, |_| SLOW) - SHARE_MIN).abs() < 1e-9 && share.is_slow());
    }

    #[test]
    fn latency_that_others_cause_does_not_stop_the_copy() {
        let mut now = Instant::now();
        let mut share = Share::new(SHARE_PRIMARY, now);
        assert!(after(&mut share, &mut now, 200, |_| SLOW) > SHARE_PRIMARY / 2.0, "{share:?}");
        // The latency that the copy itself causes still counts, on top of that.
        let own = |share: f64| SLOW + Duration::from_millis(5).mul_f64(share);
        let found = after(&mut share, &mut now, 400, own);
        assert!((0.03..0.2).contains(&found), "{found}");
        // The raised baseline falls when the others are gone.
        after(&mut share, &mut now, 400, |_| AT_REST);
        assert!(after(&mut share, &mut now, 30, |_| SLOW) <= SHARE_MIN, "{share:?}");
    }

    #[test]
    fn latency_that_the_copy_causes_never_becomes_the_baseline() {
        let mut now = Instant::now();
        let mut share = Share::new(SHARE_PRIMARY, now);
        let own = |share: f64| AT_REST + Duration::from_millis(10).mul_f64(share);
        for _ in 0..50 {
            let found = after(&mut share, &mut now, 40, own);
            assert!(found < 0.1 && share.loaded.is_zero(), "{share:?}");
        }
    }
}
