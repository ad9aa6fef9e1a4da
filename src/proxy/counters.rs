//! The counters of the proxy: one line each, from the cell that a worker increments to the name in `/metrics`.
//! Knows nothing of who reads them.

use std::cell::Cell;

/// Makes the cells of a worker and their snapshot from one list. The text is the name in `/metrics`, without the
/// prefix `pontoon_` and the suffix `_total`.
macro_rules! counters {
    ($($(#[doc = $help:literal])+ $field:ident $name:literal;)*) => {
        /// Counters of one worker. Cells suffice, because only its thread uses them.
        #[derive(Debug, Default)]
        pub(super) struct Stats {
            $($(#[doc = $help])+ pub(super) $field: Cell<u64>,)*
        }

        /// Counts one.
        pub(super) fn count(counter: &Cell<u64>) {
            counter.set(counter.get() + 1);
        }

        /// Counters of all workers since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[doc = $help])+ pub $field: u64,)*
        }

        impl Stats {
            pub(super) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($field: self.$field.get(),)* }
            }
        }

        impl StatsSnapshot {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// Calls `each` with the name in `/metrics` (without prefix and suffix), the description and the value of
            /// every counter.
            pub fn for_each(&self, mut each: impl FnMut(&'static str, &'static str, u64)) {
                $(each($name, concat!($($help),+).trim_ascii(), self.$field);)*
            }
        }
    };
}

counters! {
    /// Clients accepted.
    accepted "clients_accepted";
    /// Requests scanned.
    requests "requests";
    /// Requests forwarded to a server, parts of split commands included.
    forwarded "requests_forwarded";
    /// Requests that the proxy refused.
    refused "requests_refused";
    /// Requests answered "outcome unknown" or "not delivered".
    unknown "requests_unknown";
    /// Requests answered NOREPLICAS: executed, but not confirmed by `min-acks` replicas.
    unconfirmed "requests_unconfirmed";
    /// Requests parked under a hold.
    parked "requests_parked";
    /// Clients that were closed because they did not read their replies.
    slow_clients "slow_clients_closed";
    /// Clients that were closed because they sent no request for the product's idle-timeout.
    idle_clients "idle_clients_closed";
    /// Clients that were closed because they sent too many requests without reading the replies.
    long_pipelines "long_pipelines_closed";
    /// Clients that were closed because they did not log in: after their time, too many bytes or failed logins, or for
    /// other clients where a limit was reached.
    strangers_closed "clients_not_logged_in_closed";
    /// Clients that were closed because the credentials that they logged in with are no longer valid.
    outdated_logins "outdated_logins_closed";
    /// Clients that were closed because the memory budget was exceeded.
    over_budget "clients_over_budget_closed";
    /// Clients that were closed because a reply to them was larger than `reply_max`.
    large_replies "large_replies_closed";
    /// Clients that were closed in the middle of a large reply, because the connection to the server ended.
    broken_replies "large_replies_broken";
    /// Times that a session was not read for lack of memory.
    memory_pauses "memory_pauses";
    /// Requests that waited for the product's quota, and were refused.
    over_quota "requests_over_quota";
    /// Times that a session waited for room in a server's queue.
    queue_waits "server_queue_waits";
    /// Connections to servers that were closed because a request had no reply and no progress within its deadline.
    overdue "server_deadlines";
    /// Large requests refused because the product has too many dedicated connections.
    dedicated_refused "dedicated_connections_refused";
    /// Requests that a hold cut off, to be sent again when it ended.
    cut_off "requests_cut_off";
    /// Blocked calls that a hold ended at their server; they are sent again behind it.
    blocked_by_holds "blocked_calls_interrupted";
    /// Blocked calls whose outcome is unknown, or that ended with the lease: their clients were closed, or got an error.
    blocked_lost "blocked_calls_lost";
    /// Writes that a primary refused because it is a replica now.
    misrouted "requests_misrouted";
    /// Times that a server refused the data user, or a command to it.
    data_user_refused "data_user_refused";
    /// Reads sent to replicas, parts of split commands included.
    replica_reads "replica_reads";
    /// Reads that were repeated at the primary.
    replica_repeats "replica_reads_repeated";
    /// Transactions that were sent to a server.
    transactions "transactions";
    /// Transactions answered with nil by the node: a watched slot had another owner, or the connection with the watch was
    /// lost.
    transactions_unwatched "transactions_unwatched";
    /// Commands of transactions, and WATCH, refused because of a limit.
    transactions_refused "transaction_commands_refused";
    /// Calls of HIMPORT PREPARE that were refused.
    fieldsets_refused "fieldsets_refused";
    /// Scripts loaded at a server in front of a call.
    script_loads "script_loads";
    /// Calls of scripts repeated with the body, because the server did not have the script.
    script_repeats "script_calls_repeated";
    /// Scripts and libraries that clients wanted to load, refused because of a limit.
    scripts_refused "scripts_refused";
    /// Requests that a monitor did not see, because of the rate or because it reads slowly.
    monitor_skipped "monitor_requests_skipped";
    /// Commands that the node answers itself, refused because they had too many arguments.
    long_local_commands "long_local_commands_refused";
    /// Split commands that were executed in sections, because they had many keys.
    large_splits "large_split_commands";
}
