//! How much of everything the hot path lets wait, and for how long.
//! Knows nothing of the size of one message; that is `resp::limits`.

use std::time::Duration;

const MB: usize = 1024 * 1024;

/// Limits and deadlines of the hot path. Tests may shorten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connected clients of the node.
    pub clients_max: usize,
    /// Unanswered requests of a session; beyond, it is not read.
    pub pipeline_max: usize,
    /// Bytes of unanswered requests of a session; beyond, it is not read.
    pub session_queued_max: usize,
    /// Bytes of replies a client has not taken: at a quarter of it the session is not read, beyond it is closed.
    pub session_output_max: usize,
    /// Bytes queued for one backend connection; beyond, requests are refused.
    pub backend_queued_max: usize,
    /// From sending a request to its reply; then the connection is closed.
    pub request_deadline: Duration,
    /// Bytes of replies that wait for replicas (`min-acks`), per worker and server, places in the queue included; beyond, a
    /// write is answered as not confirmed.
    pub unconfirmed_max: usize,
    /// A connection to a server that nobody has used for so long is closed; the next request opens it again.
    pub backend_idle: Duration,
    /// For connecting to a server and logging in.
    pub connect_deadline: Duration,
    /// A request stays parked at most.
    pub parked_for_max: Duration,
    /// Bytes parked by one session; beyond, it is not read. serving.md would refuse what comes later at once, and also beyond
    /// 1,024 requests. But a refusal overtakes nothing: it has its place behind the parked replies, so it would reach the
    /// client no earlier than an execution does, and "not executed" in the middle of a pipeline whose beginning and end are
    /// executed helps nobody. Not reading bounds the memory as well, and TCP tells the client. The scanner does not run
    /// ahead of a parked request, so requests are not counted; 1 MB is what bounds them.
    pub parked_session_max: usize,
    /// Bytes parked in one worker; beyond, requests are refused instead of parked.
    pub parked_worker_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A client at rest costs a few KB; 50,000 are within the file limit most systems can raise to.
            clients_max: 50_000,
            // More in one pipeline gains nothing (see the benchmark) and makes other clients wait.
            pipeline_max: 1024,
            session_queued_max: 32 * MB,
            // A reply of 512 MB passes when nothing else waits; this is what may wait in front of it.
            session_output_max: 64 * MB,
            backend_queued_max: 64 * MB,
            // serving.md, constants, like the three of parking.
            request_deadline: Duration::from_secs(5),
            // As much as may be queued for the server.
            unconfirmed_max: 64 * MB,
            // Below what firewalls forget connections after, so that no request meets a dead one; above any rhythm of use.
            backend_idle: Duration::from_secs(300),
            connect_deadline: Duration::from_secs(1),
            parked_for_max: Duration::from_secs(5),
            parked_session_max: MB,
            parked_worker_max: 64 * MB,
        }
    }
}
