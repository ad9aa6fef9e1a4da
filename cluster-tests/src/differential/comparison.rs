//! Whether two replies to one call are the same. Knows nothing of where they come from.

use super::{case::Case, reply::Reply};

/// What of two replies is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// Every byte.
    Exact,
    /// The elements, in any order.
    AnyOrder,
    /// The elements in this order; within them, what may have any order in descriptions.
    Described,
    /// Elements of two, in any order: fields and values.
    PairsInAnyOrder,
    /// The kinds of replies and the numbers of elements: what is random, or about the server or connection.
    Shape,
    /// Numbers may differ by the time that passes between two calls: in seconds, or in milliseconds.
    Time(i64),
    /// All but the values of these fields; with `pending`, also without the times of pending entries.
    Without { fields: &'static [&'static str], pending: bool },
    /// All but the id of the client; a node calls Valkey otherwise, see [`VALKEY`].
    Hello,
    /// The first part of an iteration: a cursor and elements. All elements are compared where it is the only part.
    Cursor,
}

/// The longest time that may pass between a call at one side and the same call at the other.
const APART_SECONDS: i64 = 60;

/// How replies to the call are compared.
fn comparison(case: &Case) -> Comparison {
    use Comparison::{AnyOrder, Cursor, Described, Exact, Hello, PairsInAnyOrder, Shape, Time, Without};
    match case.name() {
        "smembers" | "sinter" | "sunion" | "sdiff" | "spop" | "hkeys" | "hvals" | "keys" | "command"
        | "command|list" | "function|list" | "acl|cat" => AnyOrder,
        "command|docs" if case.call.len() == 2 => PairsInAnyOrder,
        "command|info" if case.call.len() == 2 => AnyOrder,
        "command|info" => Described,
        // The time is the id.
        "xadd" if case.call[2..].iter().any(|word| word == b"*") => Shape,
        "hgetall" | "config|get" => PairsInAnyOrder,
        "srandmember"
        | "hrandfield"
        | "zrandmember"
        | "randomkey"
        | "time"
        | "lolwut"
        | "info"
        | "lastsave"
        | "client|id"
        | "client|info"
        | "client|list"
        | "memory|usage"
        | "memory|stats"
        | "memory|doctor"
        | "memory|malloc-stats"
        | "acl|genpass"
        | "acl|log"
        | "slowlog|get"
        | "slowlog|len"
        | "latency|histogram"
        | "latency|latest"
        | "function|stats"
        | "function|dump"
        | "dump"
        | "vrandmember"
        | "vlinks"
        | "vinfo" => Shape,
        "ttl" | "expiretime" | "httl" | "hexpiretime" | "object|idletime" => Time(1),
        "pttl" | "pexpiretime" | "hpttl" | "hpexpiretime" => Time(1000),
        "hello" => Hello,
        "xinfo|stream" | "xinfo|groups" | "xinfo|consumers" | "xpending" => Without { fields: &TIMES, pending: true },
        "scan" | "hscan" | "sscan" | "zscan" => Cursor,
        _ => Exact,
    }
}

/// What a node says in HELLO where its servers are Valkey, which says the same with `extended-redis-compatibility`.
const VALKEY: [(&str, &str); 2] = [("server", "redis"), ("version", "7.2.4")];

/// Whether the replies are the same.
#[must_use]
pub fn same(case: &Case, node: &Reply, redis: &Reply) -> bool {
    if node == redis {
        return true;
    }
    if node.is_error() || redis.is_error() {
        return false;
    }
    match comparison(case) {
        Comparison::Exact => false,
        Comparison::AnyOrder => sorted(node, 1) == sorted(redis, 1),
        Comparison::Described => node.items().iter().map(ordered).eq(redis.items().iter().map(ordered)),
        Comparison::PairsInAnyOrder => sorted(node, 2) == sorted(redis, 2),
        Comparison::Shape => shape(node) == shape(redis),
        Comparison::Time(unit) => near(node, redis, APART_SECONDS * unit),
        Comparison::Without { fields, pending } => without(node, fields, pending) == without(redis, fields, pending),
        Comparison::Hello => same_hello(&without(node, &["id"], false), &without(redis, &["id"], false)),
        Comparison::Cursor => {
            let is_whole = |reply: &Reply| reply.items().first().is_some_and(|cursor| cursor.bytes() == b"0");
            match is_whole(node) && is_whole(redis) {
                true => sorted(&node.items()[1], 1) == sorted(&redis.items()[1], 1),
                false => [node, redis].iter().all(|reply| reply.items().len() == 2),
            }
        }
    }
}

/// Whether two replies to HELLO without an id are the same, but for the name and version of Valkey.
fn same_hello(node: &Reply, redis: &Reply) -> bool {
    let (Reply::Items(kind, ours), Reply::Items(other, theirs)) = (node, redis) else { return false };
    let is_valkey = redis.field("server").is_some_and(|server| server.bytes() == b"valkey");
    let is_said = |at: usize| {
        let said =
            |(name, value): &(&str, &str)| theirs[at - 1].bytes() == name.as_bytes() && ours[at] == Reply::bulk(value);
        is_valkey && at > 0 && VALKEY.iter().any(said)
    };
    let is_same = |at: usize| ours[at] == theirs[at] || is_said(at);
    kind == other && ours.len() == theirs.len() && (0..ours.len()).all(is_same)
}

/// The elements in groups of `of`, in ascending order. A map consists of pairs in any case.
#[must_use]
pub fn sorted(reply: &Reply, of: usize) -> Vec<Vec<Reply>> {
    let of = if matches!(reply, Reply::Items(b'%', _)) { 2 } else { of };
    let mut groups: Vec<Vec<Reply>> =
        reply.items().chunks(of).map(|group| group.iter().map(ordered).collect()).collect();
    groups.sort();
    groups
}

/// The reply with everything in order that may have any order in descriptions of commands and functions: sets, statuses,
/// rows, and pairs of a name and a description.
fn ordered(reply: &Reply) -> Reply {
    let Reply::Items(kind, items) = reply else { return reply.clone() };
    let mut items: Vec<Reply> = items.iter().map(ordered).collect();
    let is_row = |item: &Reply| matches!(item, Reply::Items(..));
    let is_described = |pair: &[Reply]| matches!(pair, [Reply::Bulk(..), Reply::Items(..)]);
    if *kind == b'~' || items.iter().all(|item| matches!(item, Reply::Line(b'+', _))) || items.iter().all(is_row) {
        items.sort();
    } else if *kind == b'%' || (items.len().is_multiple_of(2) && items.chunks_exact(2).all(is_described)) {
        let mut pairs: Vec<&[Reply]> = items.chunks_exact(2).collect();
        pairs.sort();
        items = pairs.concat();
    }
    Reply::Items(*kind, items)
}

/// The reply without its contents.
fn shape(reply: &Reply) -> Reply {
    match reply {
        Reply::Line(kind, _) => Reply::Line(*kind, Vec::new()),
        Reply::Bulk(kind, _) => Reply::Bulk(*kind, Vec::new()),
        Reply::Null(kind) => Reply::Null(*kind),
        Reply::Items(kind, items) => Reply::Items(*kind, items.iter().map(shape).collect()),
    }
}

fn near(a: &Reply, b: &Reply, apart: i64) -> bool {
    match (a, b) {
        (Reply::Items(kind, a), Reply::Items(other, b)) => {
            kind == other && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b, apart))
        }
        // A negative number is no time.
        _ => match (a.integer(), b.integer()) {
            (Some(a), Some(b)) => a == b || (a >= 0 && b >= 0 && a.abs_diff(b) <= apart.unsigned_abs()),
            _ => a == b,
        },
    }
}

/// Fields of consumers that are times.
const TIMES: [&str; 4] = ["idle", "inactive", "seen-time", "active-time"];

/// The reply with some values set to 0: of these fields, and with `pending` the times in rows of pending entries, which
/// are an id, a consumer unless it is known, the time, and a count.
fn without(reply: &Reply, fields: &[&str], pending: bool) -> Reply {
    let Reply::Items(kind, items) = reply else { return reply.clone() };
    let zero = || Reply::Line(b':', b"0".to_vec());
    let ends_with_numbers = matches!(&items[..], [Reply::Bulk(..), .., Reply::Line(b':', _), Reply::Line(b':', _)]);
    let is_row = pending && ends_with_numbers && items.len() <= 4;
    let mut out = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let is_value = at > 0 && fields.iter().any(|field| items[at - 1].bytes() == field.as_bytes());
        let is_time = is_value || (is_row && at + 2 == items.len());
        out.push(if is_time { zero() } else { without(item, fields, pending) });
    }
    Reply::Items(*kind, out)
}

/// The reply with all times of a stream's consumers set to 0.
#[must_use]
pub fn without_idle_times(reply: &Reply) -> Reply {
    without(reply, &TIMES, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::connection::words;

    fn items(numbers: &[i64]) -> Reply {
        Reply::Items(b'*', numbers.iter().map(|n| Reply::Line(b':', n.to_string().into_bytes())).collect())
    }

    #[test]
    fn only_what_is_open_is_ignored() {
        let same = |call: &str, a: &Reply, b: &Reply| same(&Case::new(words(call)), a, b);
        let (a, b, c) = (items(&[1, 2]), items(&[2, 1]), items(&[1, 3]));
        assert!(same("SMEMBERS a", &a, &b) && !same("SMEMBERS a", &a, &c) && !same("LRANGE a 0 1", &a, &b));
        assert!(same("SRANDMEMBER a 2", &a, &c) && !same("SRANDMEMBER a 2", &a, &items(&[1])));
        let number = |n: i64| items(&[n]).items()[0].clone();
        assert!(same("TTL a", &number(100), &number(90)) && !same("TTL a", &number(100), &number(1)));
        assert!(!same("TTL a", &number(-1), &number(1)) && !same("GET a", &number(100), &number(90)));
        assert!(same("HGETALL a", &items(&[1, 2, 3, 4]), &items(&[3, 4, 1, 2])));
        assert!(!same("HGETALL a", &items(&[1, 2, 3, 4]), &items(&[3, 2, 1, 4])));
        let error = Reply::error("ERR x");
        assert!(!same("TIME", &error, &number(1)) && same("GET a", &error, &error));
    }

    #[test]
    fn hello_says_the_version_of_the_servers() {
        let hello = |server: &str, version: &str, id: i64| {
            let mut reply = ["server", server, "version", version, "id"].map(Reply::bulk).to_vec();
            reply.extend_from_slice(items(&[id]).items());
            Reply::Items(b'*', reply)
        };
        let same = |node: &Reply, redis: &Reply| same(&Case::new(words("HELLO")), node, redis);
        assert!(same(&hello("redis", "8.2.3", 1), &hello("redis", "8.2.3", 2)));
        assert!(!same(&hello("redis", "7.2.4", 1), &hello("redis", "8.2.3", 2)));
        assert!(same(&hello("redis", "7.2.4", 1), &hello("valkey", "8.1.8", 2)));
        assert!(!same(&hello("redis", "7.0.15", 1), &hello("valkey", "8.1.8", 2)));
    }

    #[test]
    fn idle_times_are_those_of_rows_and_fields() {
        let row = |time: i64, count: i64| {
            let mut row = vec![Reply::bulk("1-1"), Reply::bulk("c")];
            row.extend_from_slice(items(&[time, count]).items());
            Reply::Items(b'*', vec![Reply::Items(b'*', row)])
        };
        assert_eq!(without_idle_times(&row(1, 1)), without_idle_times(&row(7, 1)));
        assert_ne!(without_idle_times(&row(1, 1)), without_idle_times(&row(1, 2)));
    }
}
