//! Settings of a product at one worker that its clients change by CONFIG SET. They are in memory only, as at a Redis: other
//! nodes do not have them, and the next start of this one forgets them. Knows nothing of what they are used for.

use std::{cell::Cell, time::Duration};

use crate::resp::number;

/// Requests in the slow log, if nothing else is set; the same as in Redis.
const SLOW_LOG_LEN: i64 = 128;

/// Most requests in the slow log. Each occupies up to 4 KiB, at each worker.
const SLOW_LOG_LEN_MAX: i64 = 1024;

/// A setting that clients may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnSetting {
    SlowerThan,
    SlowLogLen,
    Timeout,
}

impl OwnSetting {
    const ALL: [Self; 3] = [Self::SlowerThan, Self::SlowLogLen, Self::Timeout];

    /// The setting with this name, in lower case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::SlowerThan => "slowlog-log-slower-than",
            Self::SlowLogLen => "slowlog-max-len",
            Self::Timeout => "timeout",
        }
    }

    /// Reads a value. `idle_ms`: the product's `idle-timeout`, which clients may not exceed.
    ///
    /// # Errors
    /// Returns the text for the client. (Redis, `numericConfigSet`.)
    pub(super) fn parse(self, value: &[u8], idle_ms: u32) -> Result<i64, String> {
        let failed =
            |why: &str| format!("ERR CONFIG SET failed (possibly related to argument '{}') - {why}", self.name());
        let Some(number) = number::parse(value) else {
            return Err(failed("argument couldn't be parsed into an integer"));
        };
        let (min, max) = match self {
            Self::SlowerThan => (-1, i64::MAX),
            Self::SlowLogLen => (0, SLOW_LOG_LEN_MAX),
            Self::Timeout if idle_ms > 0 => (1, i64::from(idle_ms / 1000).max(1)),
            Self::Timeout => (0, i64::from(i32::MAX)),
        };
        match (min..=max).contains(&number) {
            true => Ok(number),
            false => Err(failed(&format!("argument must be between {min} and {max} inclusive"))),
        }
    }
}

/// What clients have set.
#[derive(Debug, Default)]
pub(super) struct OwnSettings {
    slower_than_us: Cell<Option<i64>>,
    slow_log_len: Cell<Option<i64>>,
    timeout_s: Cell<Option<i64>>,
}

impl OwnSettings {
    /// Changes a setting. `value` comes from [`OwnSetting::parse`].
    pub(super) fn set(&self, setting: OwnSetting, value: i64) {
        let cell = match setting {
            OwnSetting::SlowerThan => &self.slower_than_us,
            OwnSetting::SlowLogLen => &self.slow_log_len,
            OwnSetting::Timeout => &self.timeout_s,
        };
        cell.set(Some(value));
    }

    /// A setting as CONFIG GET shows it. `slow_request`, `idle_ms`: what holds if clients have set nothing.
    pub(super) fn shown(&self, setting: OwnSetting, slow_request: Option<Duration>, idle_ms: u32) -> i64 {
        match setting {
            OwnSetting::SlowerThan => match self.slow_request(slow_request) {
                None => -1,
                Some(limit) => i64::try_from(limit.as_micros()).unwrap_or(i64::MAX),
            },
            OwnSetting::SlowLogLen => i64::try_from(self.slow_log_len()).unwrap_or(i64::MAX),
            OwnSetting::Timeout => i64::try_from(self.idle(idle_ms).as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// From which time on a request is slow. `None`: no request is.
    #[inline]
    pub(super) fn slow_request(&self, of_node: Option<Duration>) -> Option<Duration> {
        match self.slower_than_us.get() {
            None => of_node,
            Some(us) => u64::try_from(us).ok().map(Duration::from_micros),
        }
    }

    /// Requests that the slow log keeps.
    pub(super) fn slow_log_len(&self) -> usize {
        usize::try_from(self.slow_log_len.get().unwrap_or(SLOW_LOG_LEN)).unwrap_or_default()
    }

    /// Whether clients have set a time after which idle ones are closed.
    pub(super) fn closes_idle(&self) -> bool {
        self.timeout_s.get().is_some_and(|seconds| seconds > 0)
    }

    /// The time after which idle clients are closed: the shorter one of what clients and the operator say. 0: never.
    pub(super) fn idle(&self, idle_ms: u32) -> Duration {
        let of_operator = Duration::from_millis(idle_ms.into());
        match self.timeout_s.get().map(|seconds| Duration::from_secs(seconds.unsigned_abs())) {
            Some(own) if !own.is_zero() && (idle_ms == 0 || own < of_operator) => own,
            _ => of_operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_do_not_exceed_the_operators_timeout() {
        assert_eq!(OwnSetting::Timeout.parse(b"70", 0), Ok(70));
        assert_eq!(OwnSetting::Timeout.parse(b"0", 0), Ok(0));
        assert_eq!(OwnSetting::Timeout.parse(b"30", 60_000), Ok(30));
        for wrong in ["0", "61"] {
            let error = OwnSetting::Timeout.parse(wrong.as_bytes(), 60_000);
            let why = "argument must be between 1 and 60 inclusive";
            assert_eq!(error, Err(format!("ERR CONFIG SET failed (possibly related to argument 'timeout') - {why}")));
        }
        let own = OwnSettings::default();
        own.set(OwnSetting::Timeout, 30);
        let idle = |ms| own.idle(ms).as_secs();
        assert_eq!((idle(0), idle(60_000), idle(10_000)), (30, 30, 10));
        own.set(OwnSetting::Timeout, 0);
        assert_eq!((idle(0), idle(60_000)), (0, 60));
    }

    #[test]
    fn what_is_set_is_shown() {
        let own = OwnSettings::default();
        let node = Some(Duration::from_micros(10_000));
        let shown = |setting| own.shown(setting, node, 0);
        assert_eq!((shown(OwnSetting::SlowerThan), shown(OwnSetting::SlowLogLen)), (10_000, 128));
        for value in [-1, 0, 5] {
            own.set(OwnSetting::SlowerThan, value);
            assert_eq!(shown(OwnSetting::SlowerThan), value);
        }
        own.set(OwnSetting::SlowLogLen, 0);
        assert_eq!(shown(OwnSetting::SlowLogLen), 0);
    }
}
