//! Time, clocks and delays: how long messages take, and how fast each clock runs.
//! Knows nothing of what the messages say.

use fastrand::Rng;

/// Nanoseconds of true time.
pub type Ns = u64;
pub const MS: Ns = 1_000_000;
pub const SECOND: Ns = 1000 * MS;

/// A node's `CLOCK_BOOTTIME`: a rate and an offset of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    rate: f64,
    offset: Ns,
}

impl Clock {
    /// Rates of two clocks differ by at most `rates_differ`; extremes are more likely, since they find more.
    pub fn random(rng: &mut Rng, rates_differ: f64) -> Self {
        let place = match rng.u8(0..4) {
            0 => -0.5,
            1 => 0.5,
            _ => rng.f64() - 0.5,
        };
        // An hour at least, so that an empty table's "0" is long ago on every clock.
        Self { rate: 1.0 + place * rates_differ, offset: rng.u64(3600 * SECOND..7200 * SECOND) }
    }

    pub fn read(&self, now: Ns) -> Ns {
        self.offset + (now as f64 * self.rate) as Ns
    }

    /// True time that passes while this clock counts `local`.
    pub fn lasts(&self, local: Ns) -> Ns {
        (local as f64 / self.rate) as Ns
    }
}

/// A random duration whose logarithm is even: short ones are common, long ones happen.
pub fn spread(rng: &mut Rng, from: Ns, to: Ns) -> Ns {
    let (low, high) = ((from as f64).ln(), (to as f64).ln());
    (low + rng.f64() * (high - low)).exp() as Ns
}

/// A message between nodes, or to or from a client.
pub fn message(rng: &mut Rng) -> Ns {
    if rng.u8(0..25) == 0 { spread(rng, MS, 900 * MS) } else { spread(rng, MS / 20, 3 * MS) }
}

/// How long a node takes to learn and apply a committed entry.
pub fn apply(rng: &mut Rng) -> Ns {
    if rng.u8(0..12) == 0 { spread(rng, 5 * MS, 1500 * MS) } else { spread(rng, MS / 5, 8 * MS) }
}

/// How long a worker takes to its next turn.
pub fn turn(rng: &mut Rng) -> Ns {
    if rng.u8(0..25) == 0 { spread(rng, 2 * MS, 400 * MS) } else { spread(rng, MS / 100, MS) }
}

/// Half of a trip to a server, with its queue.
pub fn server(rng: &mut Rng, slow: bool) -> Ns {
    let late = if slow { rng.u8(0..2) == 0 } else { rng.u8(0..100) == 0 };
    if late { spread(rng, 20 * MS, 7000 * MS) } else { spread(rng, MS / 10, 2 * MS) }
}
