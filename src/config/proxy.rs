//! Limits of the proxy: what one client, one backend connection and all of them may take.
//! Knows nothing of how they are held.

use std::time::Duration;

use super::{check, section::section};

section! {
    /// The hot path's threads and limits.
    ProxyConfig("proxy") {
        /// Data threads; 0: one per core but one, at least one.
        workers "workers": usize = 0, "0";
        /// Clients of this node; one more gets an error and is closed.
        clients_max "clients_max": usize = 50_000, "50000";
        /// Unanswered requests of one client; then further requests stay in the socket.
        pipeline_max "pipeline_max": usize = 1024, "1024";
        /// Bytes of requests of one client that wait to be sent to servers; then the node reads no more from it.
        session_queue_max "session_queue_max": usize = 32 << 20, "33554432";
        /// Bytes of replies that one client has not read; then it is closed.
        session_output_max "session_output_max": usize = 64 << 20, "67108864";
        /// Bytes that wait to be sent on one connection to a server; then requests for it are refused, not executed.
        backend_queue_max "backend_queue_max": usize = 64 << 20, "67108864";
        /// A server answers a request within this many milliseconds, or its connection is closed and the outcome is unknown.
        request_deadline "request_deadline_ms": Duration = Duration::from_secs(5), "5000";
        /// A server accepts a connection within this many milliseconds.
        connect_deadline "connect_deadline_ms": Duration = Duration::from_secs(1), "1000";
    }
}

/// A larger number of threads is a mistyped number.
const WORKERS_MAX: usize = 256;

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
        let sane = Duration::from_millis(10)..=Duration::from_secs(3600);
        check(sane.contains(&self.request_deadline), "proxy.request_deadline_ms", "10 to 3600000")?;
        check(sane.contains(&self.connect_deadline), "proxy.connect_deadline_ms", "10 to 3600000")
    }
}
