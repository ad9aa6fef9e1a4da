//! When a key expires: an instant in milliseconds since the epoch, by the clock of the server that said so. A copy
//! writes the same instant to the target, so that a time to live does not grow while a value is on the way.
//! Knows nothing of connections.

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The key does not exist.
    Gone,
    /// The key has no time to live.
    Never,
    /// At this instant, in milliseconds since the epoch; at least 1.
    At(i64),
}

impl Expiry {
    /// The reply to PEXPIRETIME.
    #[must_use]
    pub fn of_expire_time(reply: i64) -> Self {
        match reply {
            -1 => Self::Never,
            ..=-2 => Self::Gone,
            // 0 would mean "no time to live" in RESTORE.
            at => Self::At(at.max(1)),
        }
    }

    /// The reply to PTTL, with the reply to a TIME that was sent before it. The result is too early by the time that
    /// the server let pass between the two, and never too late.
    #[must_use]
    pub fn of_ttl(clock_ms: i64, reply: i64) -> Self {
        match reply {
            -1 => Self::Never,
            ..=-2 => Self::Gone,
            left => Self::At(clock_ms.saturating_add(left).max(1)),
        }
    }
}

/// How a server is asked when a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryQuery {
    /// PEXPIRETIME, from Redis 7.0 on: exact.
    ExpireTime,
    /// TIME and then PTTL: see [`Expiry::of_ttl`].
    TimeAndTtl,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_become_instants() {
        assert_eq!(
            [-2, -1, 0, 70].map(Expiry::of_expire_time),
            [Expiry::Gone, Expiry::Never, Expiry::At(1), Expiry::At(70)]
        );
        assert_eq!(
            [-2, -1, 0, 70].map(|left| Expiry::of_ttl(1000, left)),
            [Expiry::Gone, Expiry::Never, Expiry::At(1000), Expiry::At(1070)]
        );
        assert_eq!(Expiry::of_ttl(1000, i64::MAX), Expiry::At(i64::MAX));
    }
}
