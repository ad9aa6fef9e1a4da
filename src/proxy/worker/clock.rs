//! Time in a worker: its tick, and the clock reading of the current batch of requests.
//! Knows nothing of what is timed.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::clock::boottime_ns;

/// Length of a tick: the resolution of deadlines and parking times. Requests carry the tick, so that no clock is read
/// for a single request.
pub(in crate::proxy) const TICK: Duration = Duration::from_millis(100);

/// The time of a worker.
#[derive(Debug)]
pub(in crate::proxy) struct WorkerClock {
    started: Instant,
    tick: Cell<u32>,
    /// The last reading of `CLOCK_BOOTTIME` in nanoseconds; 0 if the clock was not read in this batch of requests.
    batch_ns: Cell<u64>,
    /// The same in microseconds, modulo 2^32: kept, because each request needs it.
    batch_us: Cell<u32>,
}

impl WorkerClock {
    /// Starts at tick 0.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), tick: Cell::new(0), batch_ns: Cell::new(0), batch_us: Cell::new(0) }
    }

    /// The current tick.
    #[inline]
    pub(in crate::proxy) fn tick(&self) -> u32 {
        self.tick.get()
    }

    /// Sets the tick from the time since the start, so that ticks count that were skipped while the thread was busy or
    /// stopped. Returns the tick before and the tick now.
    pub(super) fn advance(&self) -> (u32, u32) {
        let tick = (self.started.elapsed().as_millis() / TICK.as_millis()) as u32;
        (self.tick.replace(tick), tick)
    }

    /// The time since `tick`, with the resolution of a tick.
    #[inline]
    pub(in crate::proxy) fn age(&self, tick: u32) -> Duration {
        TICK * self.tick.get().wrapping_sub(tick)
    }

    /// Whether `tick` is in the future; a tick is less than half of their range away.
    #[inline]
    pub(in crate::proxy) fn is_before(&self, tick: u32) -> bool {
        self.tick.get().wrapping_sub(tick) > u32::MAX / 2
    }

    /// Begins a batch of requests, in which the clock was not read yet.
    #[inline]
    pub(in crate::proxy) fn begin_batch(&self) {
        self.batch_ns.set(0);
    }

    /// A time since the current batch of requests began, in nanoseconds of `CLOCK_BOOTTIME`. The clock is read at most
    /// once per batch.
    #[inline]
    pub(in crate::proxy) fn batch_ns(&self) -> u64 {
        match self.batch_ns.get() {
            0 => self.read(),
            ns => ns,
        }
    }

    /// The same in microseconds, modulo 2^32: 71 minutes.
    #[inline]
    pub(in crate::proxy) fn micros(&self) -> u32 {
        if self.batch_ns.get() == 0 {
            self.read();
        }
        self.batch_us.get()
    }

    /// Reads `CLOCK_BOOTTIME`, in nanoseconds.
    pub(super) fn read(&self) -> u64 {
        let now_ns = boottime_ns();
        self.batch_ns.set(now_ns);
        self.batch_us.set((now_ns / 1000) as u32);
        now_ns
    }
}
