//! Calls that are not sent, since the two sides could not be compared afterwards: they stop or change a server or a
//! connection, take long, or leave different data. Knows nothing of how calls are made.

use pontoon::commands::{Flags, Handling};

use super::case::Case;

/// Commands that are never asked of the reference: they end it, change its configuration or users, make it a replica,
/// write files, or make the connection another kind of connection. Those that the table refuses are asked of the node
/// alone.
const DANGEROUS: [&str; 48] = [
    "acl|deluser",
    "acl|load",
    "acl|save",
    "acl|setuser",
    "asking",
    "bgrewriteaof",
    "bgsave",
    "client|caching",
    "client|capa",
    "client|import-source",
    "client|kill",
    "client|pause",
    "client|reply",
    "client|tracking",
    "client|unblock",
    "config|resetstat",
    "config|rewrite",
    "config|set",
    "debug",
    "discard",
    "exec",
    "failover",
    "flushall",
    "flushdb",
    "migrate",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "multi",
    "pfdebug",
    "pfselftest",
    "psubscribe",
    "psync",
    "punsubscribe",
    "quit",
    "replconf",
    "replicaof",
    "restore-asking",
    "save",
    "script|debug",
    "script|flush",
    "shutdown",
    "slaveof",
    "ssubscribe",
    "subscribe",
    "sync",
    "watch",
];

/// Further ones: subscriptions end, and these answer once per channel.
const DANGEROUS_TOO: [&str; 5] = ["unsubscribe", "sunsubscribe", "unwatch", "wait", "waitaof"];

/// The timeouts of blocking calls that return soon, or at once with an error.
const SHORT: [&str; 9] = ["0.01", "10", "-1", "abc", "nan", "1e400", "", "nosuch", "9223372036854775808"];

/// A COUNT of SPOP that takes every member of every generated set.
pub const ALL_MEMBERS: &str = "1000";

/// Whether a single call with arbitrary arguments may be sent. `false` also for commands that only planned sequences
/// contain.
#[must_use]
pub fn may_be_sent(case: &Case) -> bool {
    let Ok(spec) = case.resolved else { return true };
    if matches!(spec.handling, Handling::Refused(_)) {
        return true;
    }
    if DANGEROUS.contains(&spec.name) || DANGEROUS_TOO.contains(&spec.name) || spec.name.starts_with("cluster|") {
        return false;
    }
    if spec.flags.contains(Flags::BLOCKING) {
        return blocks_shortly(case);
    }
    is_repeatable(case)
}

/// Whether a blocking call returns soon.
fn blocks_shortly(case: &Case) -> bool {
    let short = |at: usize| SHORT.contains(&case.word(at).as_str());
    match case.name() {
        "blmpop" | "bzmpop" => short(1),
        // The argument behind each BLOCK.
        "xread" | "xreadgroup" => {
            (0..case.call.len()).filter(|at| case.call[*at].eq_ignore_ascii_case(b"BLOCK")).all(|at| short(at + 1))
        }
        _ => short(case.call.len() - 1),
    }
}

/// The commands with a time to live behind the key, and those with one behind an option.
const LIVES: [&str; 7] = ["expire", "pexpire", "setex", "psetex", "restore", "hexpire", "hpexpire"];
const OPTIONAL_LIVES: [&str; 5] = ["set", "getex", "hgetex", "hsetex", "msetex"];

/// Whether the key or the field could expire while the calls are compared.
fn expires_soon(case: &Case) -> bool {
    let soon = |at: usize| case.word(at).parse::<i64>().is_ok_and(|life| (1..SOON).contains(&life));
    let option = |at: usize| ["EX", "PX"].iter().any(|option| case.call[at].eq_ignore_ascii_case(option.as_bytes()));
    (LIVES.contains(&case.name()) && soon(2))
        || (OPTIONAL_LIVES.contains(&case.name()) && (0..case.call.len()).any(|at| option(at) && soon(at + 1)))
}

/// A shorter life, in seconds or milliseconds, could end during a run.
const SOON: i64 = 1_000_000;

/// Whether the argument is a limit of a range of members.
fn is_lex(case: &Case, at: usize) -> bool {
    case.call.get(at).and_then(|word| word.first()).is_some_and(|first| b"[(-+".contains(first))
}

/// Whether both sides have the same data afterwards, and a reply of bounded size.
fn is_repeatable(case: &Case) -> bool {
    let number = |at: usize| case.word(at).parse::<i64>();
    if expires_soon(case) {
        return false;
    }
    match case.name() {
        // Which members are left would be chosen at random.
        "spop" => case.call.len() > 2 && number(2).map_or(true, |count| count == 0 || case.word(2) == ALL_MEMBERS),
        "srandmember" | "hrandfield" | "zrandmember" => number(2).map_or(true, |count| count > -1000),
        // The id would be chosen by each side's clock.
        "xadd" => !case.call[2..].iter().any(|word| word == b"*"),
        // The order of equal elements of a set is open, and a pipeline may have made any key a set.
        "sort" | "sort_ro" => !case.has("BY"),
        // Strings of many megabytes.
        "setrange" | "setbit" | "bitfield" => {
            (2..case.call.len()).all(|at| number(at).map_or(true, |n| !(10_000..5_000_000_000).contains(&n)))
        }
        // Where scores differ, what is found depends on the random levels of a skip list; planned sequences have equal ones.
        "zrangebylex" | "zrevrangebylex" | "zlexcount" | "zremrangebylex" => !(is_lex(case, 2) && is_lex(case, 3)),
        "zrange" | "zrangestore" => !case.has("BYLEX"),
        // In MULTI, Redis 7.0 counts their arguments before a node looks at the slots.
        "zrank" | "zrevrank" => case.call.len() <= 3,
        // Some servers accept a NUL in a name, and show the name later.
        "client|setname" | "client|setinfo" | "hello" => !case.call.iter().any(|word| word.contains(&0)),
        // A cursor means something only to the server that gave it; whole iterations are compared.
        "scan" => !case.word(1).starts_with('-') && case.word(1).parse::<u64>().map_or(true, |cursor| cursor == 0),
        "hscan" | "sscan" | "zscan" => case.word(2).parse::<u64>().map_or(true, |cursor| cursor == 0),
        _ => true,
    }
}
