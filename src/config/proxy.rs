//! Limits of the proxy: what one client, one backend connection and all of them may take.
//! Knows nothing of how they are held.

use std::time::Duration;

use super::{check, section::section};

section! {
    /// The hot path's threads and limits.
    ProxyConfig("proxy") {
        /// Data threads; 0: one per core but one, at least one.
        workers "workers": usize = 0, "0";
        /// Clients of this node; one more is answered an error and closed.
        clients_max "clients_max": usize = 50_000, "50000";
        /// Requests of one client that are unanswered; then its next ones are left in the socket.
        pipeline_max "pipeline_max": usize = 16_384, "16384";
        /// Bytes of requests of one client that wait to be sent to servers; then no more is read from it.
        session_queue_max "session_queue_max": usize = 64 << 20, "67108864";
        /// Bytes of replies that one client has not read; then it is closed.
        session_output_max "session_output_max": usize = 1 << 30, "1073741824";
        /// Bytes that wait to be sent on one connection to a server; then requests for it are refused, not executed.
        backend_queue_max "backend_queue_max": usize = 1 << 30, "1073741824";
        /// A server answers a request within this many milliseconds, or its connection is closed and the outcome is unknown.
        request_deadline "request_deadline_ms": Duration = Duration::from_secs(5), "5000";
        /// A server accepts a connection within this many milliseconds.
        connect_deadline "connect_deadline_ms": Duration = Duration::from_secs(1), "1000";
        /// Arguments of one request (Redis: 1048576).
        args_max "args_max": usize = 1 << 20, "1048576";
        /// Bytes of one argument (Redis: proto-max-bulk-len, 512 MB).
        bulk_max "bulk_max": usize = 512 << 20, "536870912";
        /// Bytes of an inline request (Redis: 65536).
        inline_max "inline_max": usize = 64 << 10, "65536";
    }
}

/// More threads than this on one machine is a mistyped number.
const WORKERS_MAX: usize = 256;
/// Redis' own upper bound of an argument's length; a reply of it still fits in the output of a session.
const BULK_MAX: usize = 512 << 20;

impl ProxyConfig {
    /// Number of data threads, with 0 resolved for this machine: cores - 1, at least 1.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1)),
            n => n,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        check(self.workers <= WORKERS_MAX, "proxy.workers", "0 to 256")?;
        check((1..=1_000_000).contains(&self.clients_max), "proxy.clients_max", "1 to 1000000")?;
        check((1..=1_000_000).contains(&self.pipeline_max), "proxy.pipeline_max", "1 to 1000000")?;
        check(self.session_queue_max >= 64 << 10, "proxy.session_queue_max", "at least 65536")?;
        check(self.session_output_max >= 64 << 10, "proxy.session_output_max", "at least 65536")?;
        check(self.backend_queue_max >= 64 << 10, "proxy.backend_queue_max", "at least 65536")?;
        let second_to_hour = Duration::from_millis(10)..=Duration::from_secs(3600);
        check(second_to_hour.contains(&self.request_deadline), "proxy.request_deadline_ms", "10 to 3600000")?;
        check(second_to_hour.contains(&self.connect_deadline), "proxy.connect_deadline_ms", "10 to 3600000")?;
        check((3..=1 << 20).contains(&self.args_max), "proxy.args_max", "3 to 1048576")?;
        check((1024..=BULK_MAX).contains(&self.bulk_max), "proxy.bulk_max", "1024 to 536870912")?;
        check((64..=1 << 20).contains(&self.inline_max), "proxy.inline_max", "64 to 1048576")
    }
}
