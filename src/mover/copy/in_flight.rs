//! The budget of small keys in flight, from the request for a key's size to the target's reply.
//! Knows nothing of connections.

/// Most keys in flight: enough that neither server waits for us.
const KEYS_MAX: usize = 2048;
/// Most estimated bytes of values in flight until the target has them: limits our memory.
const BYTES_MAX: usize = 16 << 20;
/// Most estimated bytes of values that were requested and not received. A server executes at once what it finds in a
/// connection's buffer, and produces about 100 MB of payloads a second. So another client waits at most some
/// milliseconds for ours.
const REQUESTED_MAX: usize = 512 << 10;

/// What is in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    keys: usize,
    /// Estimated bytes of values that the target does not have yet.
    bytes: usize,
    /// Estimated bytes of values that the source has not sent yet.
    requested: usize,
    started: u64,
    completed: u64,
}

impl InFlight {
    /// Starts the fetch of a key and returns its number.
    pub fn start(&mut self) -> u64 {
        self.started += 1;
        self.keys += 1;
        self.started
    }

    /// Ends a fetch without a value: the key is copied in chunks instead.
    pub fn cancel(&mut self) {
        self.keys -= 1;
    }

    /// Whether a value of this estimated size may be requested now. One value is always allowed, however big it is.
    pub fn allows(&self, estimate: usize) -> bool {
        let full = self.bytes > 0 && self.bytes + estimate > BYTES_MAX;
        !full && (self.requested == 0 || self.requested + estimate <= REQUESTED_MAX)
    }

    /// A value was requested from the source.
    pub fn request(&mut self, estimate: usize) {
        self.bytes += estimate;
        self.requested += estimate;
    }

    /// The source has sent a value.
    pub fn received(&mut self, estimate: usize) {
        self.requested -= estimate;
    }

    /// The target has replied to the write of a value. Fetches complete in the order of their numbers.
    pub fn complete(&mut self, number: u64, estimate: usize) {
        self.completed = number;
        self.keys -= 1;
        self.bytes -= estimate;
    }

    /// How many more keys may be started.
    pub fn room(&self) -> usize {
        KEYS_MAX.saturating_sub(self.keys)
    }

    /// Number of keys in flight.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Number of the last fetch that was started.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Number of the last fetch that is complete.
    pub fn completed(&self) -> u64 {
        self.completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_value_travels_alone_and_the_budget_is_given_back() {
        let mut in_flight = InFlight::default();
        let number = in_flight.start();
        assert!(in_flight.allows(2 * BYTES_MAX));
        in_flight.request(2 * BYTES_MAX);
        assert!(!in_flight.allows(1));
        in_flight.received(2 * BYTES_MAX);
        assert!(!in_flight.allows(1), "the target does not have it yet");
        in_flight.complete(number, 2 * BYTES_MAX);
        in_flight.request(REQUESTED_MAX);
        assert!(!in_flight.allows(1) && in_flight.completed() == number && in_flight.keys() == 0);
        in_flight.received(REQUESTED_MAX);
        assert!(in_flight.allows(REQUESTED_MAX));
    }
}
