//! Limits of the hot path: how many requests and bytes may wait, and for how long.
//! Knows nothing of the size of a single message; see `resp::limits`.

use std::time::Duration;

const MB: usize = 1024 * 1024;

/// Limits and deadlines of the hot path. Tests may lower them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connected clients of the node.
    pub clients_max: usize,
    /// Unanswered requests of a session; at this number, no further one is executed.
    pub pipeline_max: usize,
    /// Bytes of unanswered requests of a session; above this, no further request is executed.
    pub session_queued_max: usize,
    /// Commands of a transaction.
    pub transaction_commands_max: usize,
    /// Bytes of a transaction, from MULTI on.
    pub transaction_bytes_max: usize,
    /// Keys that a session watches.
    pub watched_keys_max: usize,
    /// Bytes of the fieldsets of a session.
    pub fieldset_bytes_max: usize,
    /// A request is in SLOWLOG if its reply takes this long. `None`: none is.
    pub slow_request: Option<Duration>,
    /// Requests per second and product that MONITOR shows.
    pub monitor_rate: u32,
    /// Bytes of replies that a client has not read; above this, no further request is executed.
    pub session_output_max: usize,
    /// A session above `session_output_max` is closed when its client has read nothing for this time.
    pub client_stalled_max: Duration,
    /// Time in which a client must log in.
    pub login_deadline: Duration,
    /// Failed logins after which a client that has not logged in is closed.
    pub failed_logins_max: u32,
    /// Time after which a failed login is answered.
    pub failed_login_delay: Duration,
    /// Bytes of a session that are read but not executed while the client does not read its replies: a client that sends
    /// its whole pipeline before it reads gets all replies up to this size.
    pub read_ahead_max: usize,
    /// Requests and replies from this size on use a connection that no other session shares.
    pub large_message: usize,
    /// A session uses dedicated connections for this time after its last large message.
    pub dedicated_for: Duration,
    /// Dedicated connections to servers that a product may have.
    pub dedicated_max: usize,
    /// Dedicated connections to servers of all products together: each needs a file descriptor.
    pub dedicated_total_max: usize,
    /// Bytes queued for one backend; above this, sessions whose next request is for it wait and are not read.
    pub backend_queued_max: usize,
    /// Time without progress of the oldest unanswered request, from its last written byte or from the end of the reply
    /// before it on; after it, the connection to the server is closed. Each byte of the request that is written and each
    /// byte of its reply is progress.
    pub request_deadline: Duration,
    /// Bytes of replies that wait for replicas (`min-acks`), per worker and server, including their queue entries;
    /// above this, writes are answered as not confirmed.
    pub unconfirmed_max: usize,
    /// A connection to a server is closed after this time without use; the next request opens it again.
    pub backend_idle: Duration,
    /// Bytes of memory for all buffers of the node together. From a half on, sessions with much data are not read; from
    /// three quarters on, those with the most data are closed.
    pub memory_max: usize,
    /// Bytes of a reply that is kept until it is complete; its client is closed when it is larger. (A reply on a dedicated
    /// connection is passed on as it arrives, without this limit.)
    pub reply_max: usize,
    /// Bytes of a reply that nobody wants, because its client is gone; above this, its connection is closed.
    pub discarded_max: usize,
    /// Time to connect to a server and to log in.
    pub connect_deadline: Duration,
    /// Longest time that a request stays parked; then it is refused.
    pub parked_for_max: Duration,
    /// Blocked calls are ended at their servers this long before the lease ends, so that no element is given to a node that
    /// may not deliver it.
    pub unblock_before: Duration,
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
            // More is the mistake of a client: the server executes all of them without serving anybody else.
            transaction_commands_max: 1_000_000,
            // The same as of unanswered requests.
            transaction_bytes_max: 32 * MB,
            // A watched key costs the server some 100 bytes for as long as the client likes.
            watched_keys_max: 1_000_000,
            // More names than the columns of any table need; each HIMPORT SET sends those of its fieldset.
            fieldset_bytes_max: MB,
            // The same as in Redis.
            slow_request: Some(Duration::from_millis(10)),
            // A few percent of a worker's time, and more than a person reads.
            monitor_rate: 10_000,
            // Enough that a client with a fast link never waits for the proxy; replies to requests in flight come on
            // top.
            session_output_max: 16 * MB,
            // Longer than pauses of a garbage collector or a short network outage.
            client_stalled_max: Duration::from_secs(30),
            // Client libraries log in at once, also over slow links.
            login_deadline: Duration::from_secs(10),
            // A person who mistypes; a program does not know more passwords.
            failed_logins_max: 3,
            // Long for a program that guesses, short for a person.
            failed_login_delay: Duration::from_secs(1),
            // A pipeline of a million small requests.
            read_ahead_max: 64 * MB,
            // A message of this size occupies a fast server's connection for about a millisecond.
            large_message: MB,
            // A client with one large value usually has more.
            dedicated_for: Duration::from_secs(10),
            // Each blocked client has one. A server's `maxclients` bounds those to it further.
            dedicated_max: 8_000,
            // `pontoon serve` uses what the limit of open files allows.
            dedicated_total_max: 10_000,
            backend_queued_max: 64 * MB,
            // docs/design/serving.md gives the reasons for this constant and for the three of parking.
            request_deadline: Duration::from_secs(5),
            // The same as `backend_queued_max`.
            unconfirmed_max: 64 * MB,
            // Shorter than the time after which firewalls forget connections, so that no request meets a dead one;
            // longer than the pauses of regular use.
            backend_idle: Duration::from_secs(300),
            // A node of 4 GB. `pontoon serve` uses a quarter of the machine's memory.
            memory_max: 1024 * MB,
            // A value of the largest size that Redis has (512 MB) passes if the budget allows it.
            reply_max: 1024 * MB,
            // Discarding more would take longer than to connect again, and a broken server's reply may never end. Twice the
            // largest value of Redis.
            discarded_max: 1024 * MB,
            connect_deadline: Duration::from_secs(1),
            parked_for_max: Duration::from_secs(5),
            // Two ticks, which is much less than what a node that is heard has left of its lease.
            unblock_before: Duration::from_millis(200),
            parked_session_max: MB,
            parked_worker_max: 64 * MB,
        }
    }
}

impl Limits {
    /// The limits of single buffers, lowered so that a few of them do not fill `memory_max`.
    pub(super) fn within_memory(self) -> Self {
        let part = |limit: usize, parts: usize| limit.min(self.memory_max / parts);
        Self {
            session_queued_max: part(self.session_queued_max, 8),
            transaction_bytes_max: part(self.transaction_bytes_max, 8),
            session_output_max: part(self.session_output_max, 16),
            read_ahead_max: part(self.read_ahead_max, 8),
            backend_queued_max: part(self.backend_queued_max, 8),
            unconfirmed_max: part(self.unconfirmed_max, 8),
            parked_worker_max: part(self.parked_worker_max, 8),
            // A reply is one of the few things that a client cannot make smaller.
            reply_max: part(self.reply_max, 2),
            ..self
        }
    }
}
