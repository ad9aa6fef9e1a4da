//! Limits of the hot path: how many requests and bytes may wait, and for how long.
//! Knows nothing of the size of a single message; see `resp::limits`.

use std::time::Duration;

const MB: usize = 1024 * 1024;

/// Limits and deadlines of the hot path. Tests may lower them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connected clients of the node.
    pub clients_max: usize,
    /// Unanswered requests of a session; at this number, the session is not read.
    pub pipeline_max: usize,
    /// Bytes of unanswered requests of a session; above this, the session is not read.
    pub session_queued_max: usize,
    /// Bytes of replies that a client has not read. Above a quarter of this, the session is not read; above all of it,
    /// the session is closed.
    pub session_output_max: usize,
    /// Bytes queued for one backend; above this, requests are refused.
    pub backend_queued_max: usize,
    /// Time from sending a request to its reply; after it, the connection to the server is closed.
    pub request_deadline: Duration,
    /// Bytes of replies that wait for replicas (`min-acks`), per worker and server, including their queue entries;
    /// above this, writes are answered as not confirmed.
    pub unconfirmed_max: usize,
    /// A connection to a server is closed after this time without use; the next request opens it again.
    pub backend_idle: Duration,
    /// Time to connect to a server and to log in.
    pub connect_deadline: Duration,
    /// Longest time that a request stays parked; then it is refused.
    pub parked_for_max: Duration,
    /// Bytes parked by one session; at this number, the session is not read. Refusing later requests instead would not
    /// be faster: a refusal has its place behind the replies of the parked requests, so it reaches the client no
    /// earlier than the reply of an executed request does. It would also put "not executed" in the middle of a pipeline
    /// whose beginning and end are executed. Not reading bounds the memory as well, and TCP slows the client down. The
    /// scanner does not run ahead of a parked request, so requests are not counted; this limit bounds them, too.
    pub parked_session_max: usize,
    /// Bytes parked in one worker; above this, requests are refused instead of parked.
    pub parked_worker_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An idle client costs a few KB; 50,000 are within the file limit that most systems can raise to.
            clients_max: 50_000,
            // A longer pipeline does not increase throughput (see the benchmark) and makes other clients wait.
            pipeline_max: 1024,
            // Half of `backend_queued_max`, so that one session alone does not fill the queue of a backend.
            session_queued_max: 32 * MB,
            // A reply of 512 MB passes when no other reply waits; this is what may wait in front of it.
            session_output_max: 64 * MB,
            backend_queued_max: 64 * MB,
            // docs/design/serving.md gives the reasons for this constant and for the three of parking.
            request_deadline: Duration::from_secs(5),
            // The same as `backend_queued_max`.
            unconfirmed_max: 64 * MB,
            // Shorter than the time after which firewalls forget connections, so that no request meets a dead one;
            // longer than the pauses of regular use.
            backend_idle: Duration::from_secs(300),
            connect_deadline: Duration::from_secs(1),
            parked_for_max: Duration::from_secs(5),
            parked_session_max: MB,
            parked_worker_max: 64 * MB,
        }
    }
}
