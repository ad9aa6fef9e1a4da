//! Limits of one message, each with its reason.
//! Knows nothing of how many messages may wait; `proxy::limits` has those limits.

/// Arguments of one request. The limit of Redis up to 6.2; the later one (2^31) lets one client fill any memory.
pub const ARGS_MAX: usize = 1024 * 1024;

/// Bytes of one bulk string: the default of Redis' `proto-max-bulk-len`, the largest value that a stock server accepts.
pub const BULK_MAX: usize = 512 * 1024 * 1024;

/// Bytes of one request with all its arguments: a stock server closes a connection whose request is larger
/// (`client-query-buffer-limit`), and other clients share the proxy's connection to it.
pub const REQUEST_MAX: usize = 1024 * 1024 * 1024;

/// Bytes of an inline command and of a header line: Redis' `PROTO_INLINE_MAX_SIZE`.
pub const INLINE_MAX: usize = 64 * 1024;

/// Arguments of a request of a client that has not logged in: enough for `HELLO 3 AUTH u p SETNAME n` (Redis has the
/// same).
pub const ARGS_MAX_BEFORE_LOGIN: usize = 10;

/// Bytes of a request of a client that has not logged in: enough for `HELLO 3 AUTH u p SETNAME n` with the longest user
/// name and password (512 bytes each) and name (256 bytes). Redis allows 16 KB for each argument.
pub const REQUEST_MAX_BEFORE_LOGIN: usize = 2048;

/// Digits of a number in a header, sign included: `-9223372036854775808`.
pub const NUMBER_LEN_MAX: usize = 20;

/// Nesting of a reply. A script in Redis can return about 2,000 levels before Lua's stack overflows, and a client must
/// not be able to make the proxy close a shared connection. A level costs 8 bytes and no recursion.
pub const NESTING_MAX: usize = 8192;

/// Elements of one aggregate in a reply. Nothing is allocated for them; the limit only prevents overflow of the
/// arithmetic.
pub const ELEMENTS_MAX: u64 = u32::MAX as u64;

/// Bytes of a simple string, error or number in a reply: a script may return a status as long as a bulk string.
pub const LINE_MAX: usize = BULK_MAX;
