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
        /// Bytes of replies that one client has not read; then the node executes no further request of it.
        session_output_max "session_output_max": usize = 16 << 20, "16777216";
        /// A client above session_output_max that has read nothing for this many milliseconds is closed.
        client_stalled_max "client_stalled_max_ms": Duration = Duration::from_secs(30), "30000";
        /// Requests and replies of this many bytes use a connection to the server that no other client shares.
        large_message "large_message": usize = 1 << 20, "1048576";
        /// Such connections of one product on this node, and those of its blocked clients; beyond, these requests are refused.
        dedicated_max "dedicated_max": usize = 8000, "8000";
        /// Commands of one transaction; one more is refused, and the transaction is not executed.
        transaction_commands_max "transaction_commands_max": usize = 1_000_000, "1000000";
        /// Bytes of one transaction; what is more is refused, and the transaction is not executed.
        transaction_bytes_max "transaction_bytes_max": usize = 32 << 20, "33554432";
        /// Keys that WATCH of one client may name before its EXEC or UNWATCH; a WATCH with more is refused.
        watched_keys_max "watched_keys_max": usize = 1_000_000, "1000000";
        /// Bytes of the fieldsets of one client; a HIMPORT PREPARE of more is refused.
        fieldset_bytes_max "fieldset_bytes_max": usize = 1 << 20, "1048576";
        /// Microseconds from which on a request is in SLOWLOG, until its reply arrives; -1: none is.
        slow_request "slow_request_us": i64 = 10_000, "10000";
        /// Requests per second and product that MONITOR shows.
        monitor_rate "monitor_rate": u32 = 10_000, "10000";
        /// Bytes that all buffers for clients and servers may hold; 0: a quarter of the memory of the machine or control group.
        memory_max "memory_max": usize = 0, "0";
        /// A client is closed if a reply to it is larger than this, unless it has a connection to the server of its own.
        reply_max "reply_max": usize = 1 << 30, "1073741824";
        /// Bytes that wait to be sent on one connection to a server; then clients whose next request is for it wait.
        backend_queue_max "backend_queue_max": usize = 64 << 20, "67108864";
        /// Milliseconds in which no byte of a request or its reply moves; then the connection is closed, the outcome unknown.
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
        check(self.large_message >= 64 << 10, "proxy.large_message", "at least 65536")?;
        let memory = self.memory_max == 0 || self.memory_max >= 32 << 20;
        check(memory, "proxy.memory_max", "0, or at least 33554432")?;
        check(self.reply_max >= 1 << 20, "proxy.reply_max", "at least 1048576")?;
        check((1..=1_000_000).contains(&self.dedicated_max), "proxy.dedicated_max", "1 to 1000000")?;
        let commands = (1..=10_000_000).contains(&self.transaction_commands_max);
        check(commands, "proxy.transaction_commands_max", "1 to 10000000")?;
        check(self.transaction_bytes_max >= 64 << 10, "proxy.transaction_bytes_max", "at least 65536")?;
        check((1..=10_000_000).contains(&self.watched_keys_max), "proxy.watched_keys_max", "1 to 10000000")?;
        check(self.fieldset_bytes_max >= 4 << 10, "proxy.fieldset_bytes_max", "at least 4096")?;
        // An hour, as of the times below.
        check((-1..=3_600_000_000).contains(&self.slow_request), "proxy.slow_request_us", "-1 to 3600000000")?;
        check((1..=1_000_000).contains(&self.monitor_rate), "proxy.monitor_rate", "1 to 1000000")?;
        check(self.backend_queue_max >= 64 << 10, "proxy.backend_queue_max", "at least 65536")?;
        let sane = Duration::from_millis(10)..=Duration::from_secs(3600);
        check(sane.contains(&self.client_stalled_max), "proxy.client_stalled_max_ms", "10 to 3600000")?;
        check(sane.contains(&self.request_deadline), "proxy.request_deadline_ms", "10 to 3600000")?;
        check(sane.contains(&self.connect_deadline), "proxy.connect_deadline_ms", "10 to 3600000")
    }
}
