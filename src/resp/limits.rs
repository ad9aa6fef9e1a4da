//! The limits of what is accepted as one message, each with its reason.
//! Knows nothing of how many messages may wait somewhere; that is the proxy's.

/// Arguments of one request. Redis' own limit up to 6.2; its later one (2^31) lets one client fill any memory.
pub const ARGS_MAX: usize = 1024 * 1024;

/// Bytes of one bulk string: Redis' default `proto-max-bulk-len`, the largest value a stock server takes.
pub const BULK_MAX: usize = 512 * 1024 * 1024;

/// Bytes of one request, all arguments together: what a stock server takes before it closes the connection
/// (`client-query-buffer-limit`), and ours to it is shared.
pub const REQUEST_MAX: usize = 1024 * 1024 * 1024;

/// Bytes of an inline command, and of a header line: Redis' `PROTO_INLINE_MAX_SIZE`.
pub const INLINE_MAX: usize = 64 * 1024;

/// Arguments of a request of a client that has not logged in: enough for `HELLO 3 AUTH u p SETNAME n` (Redis has the same).
pub const ARGS_MAX_BEFORE_LOGIN: usize = 10;

/// Bytes of a bulk string of a client that has not logged in (Redis has the same).
pub const BULK_MAX_BEFORE_LOGIN: usize = 16 * 1024;

/// Digits of a number in a header, sign included: `-9223372036854775808`.
pub const NUMBER_LEN_MAX: usize = 20;

/// Nesting of a reply. A script of Redis can return about 2,000 levels before Lua's stack ends, and a client must not be
/// able to have a shared connection closed by one; a level costs 8 bytes here and no recursion.
pub const NESTING_MAX: usize = 8192;

/// Elements of one aggregate of a reply. Nothing is allocated for them; this only keeps the arithmetic far from its ends.
pub const ELEMENTS_MAX: u64 = u32::MAX as u64;

/// Bytes of a reply's simple string, error or number line: a script may return a status of any length a bulk has.
pub const LINE_MAX: usize = BULK_MAX;
