//! Limits what all hostile clients together do in a second. Without a limit they use up the processors, and the
//! latencies of honest clients then show how the kernel shares them, and not what the proxy does.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// What an operation of a socket costs in addition to its bytes, expressed in bytes: the system calls and wake-ups of
/// an operation cost about as much CPU time as copying this number of bytes from process to process.
pub const OPERATION: usize = 4096;

/// A rate that many clients share, in the order in which they ask.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: f64,
    /// When the next operation may begin.
    next: Mutex<Instant>,
}

impl Pace {
    /// A rate in bytes per second.
    ///
    /// # Panics
    /// When the rate is 0.
    #[must_use]
    pub fn new(bytes_per_second: usize) -> Self {
        assert!(bytes_per_second > 0, "the rate must be at least one byte per second");
        #[allow(clippy::cast_precision_loss)]
        Self { bytes_per_second: bytes_per_second as f64, next: Mutex::new(Instant::now()) }
    }

    /// Waits until an operation that moves this number of bytes may begin.
    pub async fn charge(&self, bytes: usize) {
        sleep_until(self.begin(Instant::now(), bytes)).await;
    }

    /// Returns when an operation may begin that is wanted at `now`.
    fn begin(&self, now: Instant, bytes: usize) -> Instant {
        #[allow(clippy::cast_precision_loss)]
        let cost = Duration::from_secs_f64((OPERATION + bytes) as f64 / self.bytes_per_second);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.max(*next);
        *next = begin + cost;
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_share_the_rate_and_do_not_save_it_up() {
        let pace = Pace::new(10 * OPERATION);
        let now = Instant::now();
        let begins = [0, 1, 2].map(|_| pace.begin(now, OPERATION) - now);
        assert_eq!(begins, [0, 200, 400].map(Duration::from_millis));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.begin(later, OPERATION), later);
        assert_eq!(pace.begin(later, OPERATION), later + Duration::from_millis(200));
    }
}
