//! What a session counts besides its requests: errors, and commands that fail. Knows nothing of who reads the counters.

use super::Session;
use crate::{commands::CommandNumber, proxy::worker::Worker};

impl Session {
    /// Sets the command of the request that is handled.
    pub(in crate::proxy) fn set_number(&self, number: Option<CommandNumber>) {
        self.number.set(number);
    }

    /// Counts `reply` if it is an error.
    #[inline]
    pub(in crate::proxy) fn note_error(&self, worker: &Worker, command: Option<CommandNumber>, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            self.product.usage(worker).fail(command, reply);
        }
    }

    /// The same for the reply to the last request that was handled.
    pub(in crate::proxy) fn note_error_of_last(&self, worker: &Worker, reply: &[u8]) {
        self.note_error(worker, self.number.get(), reply);
    }
}
