//! Which replies took long, for the slow log: the time from the batch of requests in which a request was sent to the read
//! that returned its reply. Neither is taken for a single request. Knows nothing of what the log keeps.

use std::time::Duration;

use super::{Backend, InFlight, Requester};
use crate::{
    proxy::{dispatch::CallContext, product::ProductView, session::Session, worker::Worker},
    resp::request::{RequestScanner, Scanned},
};

/// What a transaction is called in the log.
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// What a HIMPORT SET is called in the log: its bytes are among those that the node adds.
const HIMPORT_SET: &[u8] = b"*2\r\n$7\r\nHIMPORT\r\n$3\r\nSET\r\n";

/// What a request is called whose bytes are not kept, because too many were sent behind it.
const NOT_KEPT: &[u8] = b"*1\r\n$29\r\n(arguments are not known now)\r\n";

/// Finds the slow replies of one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowCheck {
    now_us: u32,
    /// A reply that took this long is slow; the largest number: none is.
    limit_us: u32,
}

impl SlowCheck {
    #[inline]
    pub(super) fn new(worker: &Worker, product: &ProductView) -> Self {
        match product.own_settings.slow_request(worker.config.limits.slow_request) {
            None => Self { now_us: 0, limit_us: u32::MAX },
            Some(limit) => {
                Self { now_us: worker.clock.micros(), limit_us: u32::try_from(limit.as_micros()).unwrap_or(u32::MAX) }
            }
        }
    }

    /// Looks at the oldest request of a connection, whose reply has arrived.
    #[inline]
    pub(super) fn look_at(self, worker: &Worker, backend: &Backend, entry: &InFlight) {
        // A replica's is taken when its reply is delivered.
        let place = if backend.replica { None } else { Some(backend.take_answered(entry.len)) };
        let took_us = self.now_us.wrapping_sub(entry.sent_us);
        if took_us >= self.limit_us && self.limit_us != u32::MAX {
            let from = backend.answered.get();
            let place = place.unwrap_or(from..from + entry.len as usize);
            let out = backend.out.borrow();
            note(worker, entry, took_us, out.get(place).unwrap_or_default());
        }
    }
}

#[cold]
fn note(worker: &Worker, entry: &InFlight, took_us: u32, request: &[u8]) {
    let request = match &entry.requester {
        Requester::Block(block) if block.is_probe() => return,
        Requester::Block(block) if block.is_import() => HIMPORT_SET,
        Requester::Block(_) => EXEC,
        Requester::Session(..) | Requester::Part(..) if request.is_empty() => NOT_KEPT,
        Requester::Session(..) | Requester::Part(..) => request,
        // An operation notes itself; SCRIPT LOAD is nobody's.
        Requester::Step(_) | Requester::Load(_) => return,
    };
    let mut scanner = RequestScanner::default();
    if let Ok(Scanned::Request(len)) = scanner.scan(request) {
        let call = CallContext { bytes: &request[..len], args: scanner.args() };
        let took = Duration::from_micros(took_us.into());
        entry.requester.session().note_slow(worker, &call, took);
    }
}

impl Session {
    /// Puts a request of it into the slow log.
    pub(in crate::proxy) fn note_slow(&self, worker: &Worker, call: &CallContext<'_>, took: Duration) {
        let name = self.client.borrow().name.clone();
        let place = (worker.index(), worker.config.workers);
        let max = self.product.own_settings.slow_log_len();
        self.product.slow_log.add(place, max, took, call, (self.addr, &name));
    }
}
