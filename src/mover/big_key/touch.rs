//! Which parts of a big key a command of the feed changes and must be fetched again.
//! Knows nothing of values: only names and positions are read from the feed, never the written values.

use super::BigKeyType;
use crate::commands::Args;

/// The part of a key that a command changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Only its time to live.
    Ttl,
    /// The fields, members or elements named by these arguments: every `step`-th from `first` up to, but not including,
    /// `end`.
    Fields {
        /// Position of the first name.
        first: usize,
        /// Distance between two names.
        step: usize,
        /// Position after the last name.
        end: usize,
    },
    /// These bytes of a string. It may have grown by them and has not shrunk.
    Bytes {
        /// Offset of the first byte.
        from: u64,
        /// Number of bytes; not 0.
        len: u64,
    },
    /// The whole key.
    Whole,
}

/// Classifies a command of the feed that changes a key of type `kind`. A command that is not in this table changes the
/// whole key: that is always correct, only slower. `args[0]` is the name, in any case.
#[must_use]
pub fn touch<A: Args + ?Sized>(kind: BigKeyType, args: &A) -> Touch {
    if args.len() < 2 {
        return Touch::Whole;
    }
    let len = args.len();
    let fields = |first: usize, step: usize, end: usize| {
        if first < end && end <= len { Touch::Fields { first, step, end } } else { Touch::Whole }
    };
    let name = args.get(0).to_ascii_lowercase();
    match (kind, name.as_slice()) {
        // Options such as NX do not matter: the time to live is requested again. An expiry in the past is replicated as
        // DEL.
        (_, b"expire" | b"pexpire" | b"expireat" | b"pexpireat" | b"persist") => Touch::Ttl,
        (BigKeyType::Hash, b"hset" | b"hmset") => fields(2, 2, len),
        (BigKeyType::Hash, b"hsetnx" | b"hincrby" | b"hincrbyfloat") => fields(2, 1, 3),
        (BigKeyType::Hash, b"hdel") => fields(2, 1, len),
        (
            BigKeyType::Hash,
            b"hexpire" | b"hpexpire" | b"hexpireat" | b"hpexpireat" | b"hpersist" | b"hgetdel" | b"hgetex",
        ) => counted(args, 1),
        (BigKeyType::Hash, b"hsetex") => counted(args, 2),
        (BigKeyType::Set, b"sadd" | b"srem") => fields(2, 1, len),
        // Both keys change the same member.
        (BigKeyType::Set, b"smove") => fields(3, 1, 4),
        (BigKeyType::Zset, b"zrem") => fields(2, 1, len),
        (BigKeyType::Zset, b"zincrby") => fields(3, 1, 4),
        (BigKeyType::Zset, b"zadd") => {
            let mut at = 2;
            while at < len
                && [&b"nx"[..], b"xx", b"gt", b"lt", b"ch", b"incr"]
                    .iter()
                    .any(|f| args.get(at).eq_ignore_ascii_case(f))
            {
                at += 1;
            }
            // Score, member, score, member.
            if at < len && (len - at).is_multiple_of(2) { fields(at + 1, 2, len) } else { Touch::Whole }
        }
        (BigKeyType::String, b"setbit") if len == 4 => match number(args.get(2)) {
            Some(bit) => Touch::Bytes { from: bit / 8, len: 1 },
            None => Touch::Whole,
        },
        // An empty SETRANGE changes nothing, but is too rare for a case of its own.
        (BigKeyType::String, b"setrange") if len == 4 && !args.get(3).is_empty() => match number(args.get(2)) {
            Some(from) => Touch::Bytes { from, len: args.get(3).len() as u64 },
            None => Touch::Whole,
        },
        _ => Touch::Whole,
    }
}

/// `... FIELDS n f f f`, where each field takes `step` arguments.
fn counted<A: Args + ?Sized>(args: &A, step: usize) -> Touch {
    // A field may be called "fields". The first such word after the key is the keyword, since all words before it are
    // options.
    let Some(at) = (2..args.len()).find(|i| args.get(*i).eq_ignore_ascii_case(b"fields")) else { return Touch::Whole };
    let first = at + 2;
    let count = args.len().checked_sub(first).map(|n| n / step);
    let given = if at + 1 < args.len() { number(args.get(at + 1)) } else { None };
    match (count, given) {
        (Some(count), Some(given)) if count > 0 && given == count as u64 => {
            Touch::Fields { first, step, end: first + count * step }
        }
        _ => Touch::Whole,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    crate::resp::number::parse(text).and_then(|n| n.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: BigKeyType, line: &str) -> Option<Vec<String>> {
        let args: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        match touch(kind, &args[..]) {
            Touch::Fields { first, step, end } => {
                Some((first..end).step_by(step).map(|i| String::from_utf8_lossy(&args[i]).into_owned()).collect())
            }
            _ => None,
        }
    }

    fn is(kind: BigKeyType, line: &str) -> Touch {
        let args: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        touch(kind, &args[..])
    }

    #[test]
    fn commands_that_name_their_fields() {
        for (kind, line, want) in [
            (BigKeyType::Hash, "HSET k a 1 b 2", "a b"),
            (BigKeyType::Hash, "hmset k a 1", "a"),
            (BigKeyType::Hash, "HSETNX k a 1", "a"),
            (BigKeyType::Hash, "hincrby k a 1", "a"),
            (BigKeyType::Hash, "HINCRBYFLOAT k a 1.5", "a"),
            (BigKeyType::Hash, "HDEL k a b c", "a b c"),
            (BigKeyType::Hash, "HPEXPIREAT k 123 FIELDS 2 a b", "a b"),
            (BigKeyType::Hash, "HPERSIST k FIELDS 1 fields", "fields"),
            (BigKeyType::Hash, "HSETEX k PXAT 5 fields 2 a 1 b 2", "a b"),
            (BigKeyType::Set, "SADD k a b", "a b"),
            (BigKeyType::Set, "srem k a", "a"),
            (BigKeyType::Set, "SMOVE k other a", "a"),
            (BigKeyType::Zset, "ZADD k 1 a 2 b", "a b"),
            (BigKeyType::Zset, "zadd k NX ch 1 nx", "nx"),
            (BigKeyType::Zset, "ZADD k INCR 1 a", "a"),
            (BigKeyType::Zset, "ZINCRBY k 5 a", "a"),
            (BigKeyType::Zset, "ZREM k a b", "a b"),
        ] {
            assert_eq!(names(kind, line).map(|n| n.join(" ")).as_deref(), Some(want), "{line}");
        }
    }

    #[test]
    fn everything_else_is_the_whole_key() {
        for (kind, line) in [
            (BigKeyType::Hash, "DEL k"),
            (BigKeyType::Hash, "RENAME a k"),
            (BigKeyType::Hash, "SADD k a"),
            (BigKeyType::Hash, "HSET k"),
            (BigKeyType::Hash, "HPEXPIREAT k 123 FIELDS 3 a b"),
            (BigKeyType::Hash, "HPEXPIREAT k 123"),
            (BigKeyType::Hash, "HPERSIST k FIELDS"),
            (BigKeyType::Set, "SPOP k 3"),
            (BigKeyType::Zset, "ZPOPMIN k"),
            (BigKeyType::Zset, "ZADD k 1 a 2"),
            (BigKeyType::Zset, "ZADD k NX"),
            (BigKeyType::List, "RPUSH k a"),
            (BigKeyType::Stream, "XADD k 1-1 a b"),
            (BigKeyType::String, "APPEND k a"),
            (BigKeyType::String, "SETBIT k x 1"),
            (BigKeyType::String, "SETRANGE k -1 a"),
            (BigKeyType::String, "SET k a"),
            (BigKeyType::Set, "SUNIONSTORE k a b"),
        ] {
            assert_eq!(is(kind, line), Touch::Whole, "{line}");
        }
    }

    #[test]
    fn bytes_and_times() {
        assert_eq!(is(BigKeyType::String, "SETBIT k 17 1"), Touch::Bytes { from: 2, len: 1 });
        assert_eq!(is(BigKeyType::String, "setrange k 10 abc"), Touch::Bytes { from: 10, len: 3 });
        for line in ["PEXPIREAT k 1", "persist k", "EXPIRE k 5 NX"] {
            assert_eq!(is(BigKeyType::List, line), Touch::Ttl, "{line}");
        }
    }
}
