//! Limits of the replicated state. They keep a snapshot small enough to copy in milliseconds, and are far above what a
//! cluster needs. Knows nothing of limits on clients or requests.

/// Nodes. Each is a Raft member; a leader talks to all of them every 100 ms.
pub const MEMBERS_MAX: usize = 128;
/// Nodes that were removed and are remembered, so that they are refused when they come back: two generations of a full
/// cluster.
pub const REMOVED_MAX: usize = 2 * MEMBERS_MAX;
/// Voters: seven survive three failures; more make every commit slower.
pub const VOTERS_MAX: u8 = 7;
/// Products. The largest slot table takes 256 KB, so that a full state stays near 32 MB.
pub const PRODUCTS_MAX: usize = 128;
/// Groups of a product: as many as the smaller layout has slots. Route tables number them with 16 bits.
pub const GROUPS_MAX: usize = 1024;
/// Changes of a product's groups that are remembered for SCANs under way. A scan during which more happen must begin anew;
/// a large rebalance has some dozens.
pub const GROUP_CHANGES_MAX: usize = 64;
/// Servers of a group: a primary and its replicas.
pub const SERVERS_MAX: usize = 16;
/// Databases of a product; a node may hold a connection per server and database.
pub const DATABASES_MAX: u32 = 1024;
/// Bytes of a product's name: error texts and tables show it.
pub const NAME_LEN_MAX: usize = 64;
/// Bytes of a user name or password; Redis itself has no limit, a SHA-512 in hex has 128.
pub const CREDENTIAL_LEN_MAX: usize = 512;
/// Bytes of the password of a data user that Pontoon makes, at least: 128 bits in hex cannot be guessed.
pub const DATA_PASSWORD_LEN_MIN: usize = 32;
/// Bytes of a `run_id`; Redis' has 40.
pub const RUN_ID_LEN_MAX: usize = 64;
/// Bytes kept of a text for people (why a hold was opened, an assignment given up).
pub const TEXT_LEN_MAX: usize = 512;
/// Assignments that have not ended. Each holds its slots, so more of them would only wait for each other.
pub const ASSIGNMENTS_MAX: usize = 64;
/// Assignments that ended: kept so that a client that waits for one learns its result, also after a change of leader.
pub const ENDED_MAX: usize = 256;
/// Migrations that have not ended. Most of them wait: one per source runs, two per target.
pub const MIGRATIONS_MAX: usize = 256;
/// Migrations that ended, kept for `migrate ls` and for clients that wait for one.
pub const ENDED_MIGRATIONS_MAX: usize = 100;
/// Attempts into one target at a time: more would only share its time.
pub const ATTEMPTS_PER_TARGET_MAX: usize = 2;
/// Promotions that ended, kept for clients that wait for one and for the history of a group. (A group has at most
/// one promotion that has not ended.)
pub const PROMOTIONS_ENDED_MAX: usize = 100;
/// Replicas that may have to confirm a write: a group has no more.
pub const MIN_ACKS_MAX: u8 = SERVERS_MAX as u8 - 1;
/// How long a write may wait for its replicas, milliseconds: below, a healthy replica on a busy machine is late; above
/// a minute no client waits.
pub const MIN_ACKS_MS: std::ops::RangeInclusive<u32> = 10..=60_000;
/// The default: a replica that is up confirms in a millisecond or two, a fork takes some hundred.
pub const DEFAULT_MIN_ACKS_MS: u32 = 1_000;
/// Clients of a product on one node, unless only the node's own limit applies: no node has more file descriptors.
pub const CLIENTS_MAX: u32 = 1_000_000;
/// Requests per second of a product on one node, unless there is no limit: no node executes more.
pub const OPS_MAX: u32 = 100_000_000;
/// Bytes per second of a product on one node, unless there is no limit: no network card is faster than a terabyte.
pub const BYTES_MAX: u64 = 1 << 40;
/// How long a client may be without a request, milliseconds, unless for ever: with less than ten seconds, a client that
/// sends one request every few seconds connects anew for each; what stays for more than an hour may stay for ever.
pub const IDLE_MS: std::ops::RangeInclusive<u32> = 10_000..=3_600_000;
/// Bytes of a replication id; Redis' has 40.
pub const REPLID_LEN_MAX: usize = 64;
/// Bytes of a zone's name: tables show it.
pub const ZONE_LEN_MAX: usize = 64;
/// Events of a class: some dozens for a migration, so the last migrations are recorded completely. An event has some 300
/// bytes and at most 2.2 KB, so all classes together have a megabyte, and at most 7 MB whatever clients declare.
pub const EVENTS_MAX: usize = 1000;
/// Bytes kept of an actor, and of what a client declares: a name of a user, a host and a command.
pub const ACTOR_LEN_MAX: usize = 128;
/// Bytes kept of the address of a request: an IPv6 address with a zone and a port has 60.
pub const ADDRESS_LEN_MAX: usize = 64;
/// How long a condition (a group that is held back, a node that closes clients) must have been absent to begin anew,
/// with another event, milliseconds: one that comes and goes must not displace all other events.
pub const CONDITION_ABSENT_MS: u64 = 60_000;
/// First results by change id. A repeat comes within minutes; this many changes take longer than that.
pub const RESULTS_MAX: usize = 4096;
/// Budget of a hold of kind Wait, milliseconds: below, no barrier passes; above, requests would be refused (they are
/// parked 5 s at most in the default, and a client waits).
pub const HOLD_MS: std::ops::RangeInclusive<u32> = 10..=10_000;
/// How long a primary must not have answered to be down, milliseconds: probes are 500 ms apart, so with less one lost
/// packet would fail a group over; with more than ten minutes an operator is quicker.
pub const DOWN_AFTER_MS: std::ops::RangeInclusive<u32> = 500..=600_000;
/// How long a primary may answer without serving before something is done, milliseconds, unless nothing is: with less,
/// every slow script or short restart would count; data that loads for more than an hour is for an operator.
pub const IMPAIRED_AFTER_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;
/// How long a cache waits for a group before it ejects its slots, milliseconds, unless it never does. For the same
/// reasons as [`DOWN_AFTER_MS`].
pub const EJECT_AFTER_MS: std::ops::RangeInclusive<u32> = DOWN_AFTER_MS;
/// How far a replica that serves reads may be behind, milliseconds, unless there is no limit: with less, probes every
/// half second are not precise enough; with more, a node would have to remember a primary's offsets of more than a
/// minute.
pub const MAX_LAG_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Share of the primaries that may be down at once, percent: 0 would never fail over, which is what maintenance is for.
pub const FAILOVER_SHARE: std::ops::RangeInclusive<u8> = 1..=100;
/// Bytes of a script or library: real ones have some KB, the largest known some hundred. It fits into an entry of the log.
pub const SCRIPT_LEN_MAX: usize = 512 << 10;
/// Scripts of a product: applications have dozens, the largest some hundred.
pub const SCRIPTS_MAX: usize = 1000;
/// Bytes of the scripts of a product.
pub const SCRIPT_BYTES_MAX: usize = 16 << 20;
/// Libraries of a product: applications have one or two.
pub const LIBRARIES_MAX: usize = 256;
/// Bytes of the libraries of a product.
pub const LIBRARY_BYTES_MAX: usize = 4 << 20;
/// Products whose catalogues may be full; if there are more, each gets a smaller one. So the catalogues of a snapshot have
/// some 80 MB, and at most twice as many while products are created.
pub const FULL_CATALOGUES: usize = 4;
/// Bytes of a library's name; Redis has no limit.
pub const LIBRARY_NAME_LEN_MAX: usize = 128;
/// Names of deleted libraries that are remembered, so that a server that was away deletes them, too.
pub const DELETED_LIBRARIES_MAX: usize = 1000;
/// The time for which loads are counted, milliseconds.
pub const LOADS_MINUTE_MS: u64 = 60_000;
/// New scripts and libraries that the clients of a product may load within a minute, unless it is set: more than an
/// application has, and a client that loads without end needs hours to fill a log.
pub const SCRIPT_LOADS_DEFAULT: u32 = 1000;
/// The most that can be set: above, events of clients and results of changes would be forgotten within seconds.
pub const SCRIPT_LOADS_MAX: u32 = 10_000;
/// Bytes of new scripts and libraries that the clients of a product may load within a minute: a full catalogue.
pub const LOADED_BYTES_MAX: u64 = 16 << 20;
