//! Properties of every row of the command table and of every call, including hostile ones.
#![allow(clippy::unwrap_used)]

use pontoon::commands::{
    self, BlockTimeout, Flags, Handling, KeySpec, KeysError, Local, NO_CLUSTER, ResolveError, Spec, Split,
    is_blocking_call, lookup, resolve,
};
use proptest::prelude::*;

fn every_row() -> impl Iterator<Item = &'static Spec> {
    commands::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn routing(line: &str) -> Result<Vec<usize>, KeysError> {
    let call = words(line);
    let mut out = Vec::new();
    resolve(&call[..]).unwrap().routing_keys(&call[..], &mut out).map(|()| out)
}

#[test]
fn each_row_is_consistent() {
    let mut names = std::collections::BTreeSet::new();
    for spec in every_row() {
        let name = spec.name;
        assert!(names.insert(name), "{name}: twice");
        assert_eq!(name.to_ascii_lowercase(), name);
        assert!(spec.arity != 0, "{name}");
        assert!(
            !(spec.flags.contains(Flags::WRITE) && spec.flags.contains(Flags::READONLY)),
            "{name}: write and readonly"
        );
        assert!(
            spec.arity.unsigned_abs() as usize > usize::from(name.contains('|')),
            "{name}: an arity that no call has"
        );
        for sub in spec.subcommands {
            assert!(sub.name.starts_with(&format!("{name}|")), "{} in {name}", sub.name);
            assert!(sub.subcommands.is_empty(), "{}", sub.name);
        }
        match spec.handling {
            Handling::Slot | Handling::Cursor | Handling::Database | Handling::Split(_) => {
                assert!(spec.keys != KeySpec::None, "{name}: routed without keys");
                assert!(!spec.flags.intersects(Flags::ADMIN | Flags::PUBSUB), "{name}: not for a shared connection");
                // Otherwise a blocked call could not be sent again with the time that is left.
                let shortest = vec![b"1".to_vec(); usize::from(spec.arity.unsigned_abs())];
                assert!(
                    !spec.flags.contains(Flags::BLOCKING)
                        || spec.keys == KeySpec::Streams
                        || BlockTimeout::of(spec, &shortest[..]).is_some(),
                    "{name}: the position of its timeout is not known"
                );
            }
            Handling::AnyServer => assert!(spec.keys == KeySpec::None && !spec.is_write(), "{name}"),
            Handling::Container => assert!(!spec.subcommands.is_empty() && spec.arity == -2, "{name}"),
            Handling::Unsupported(why) | Handling::Refused(why) => {
                assert!(why.contains("not executed") || why == NO_CLUSTER, "{name}: {why}")
            }
            Handling::Close(_) => assert!(spec.arity == -1, "{name}: must be found whatever follows"),
            Handling::AllGroups(_) | Handling::Scripts(_) | Handling::WaitReplicas => {
                assert!(spec.keys == KeySpec::None, "{name}: sent to all")
            }
            Handling::Script(_) => assert!(spec.keys != KeySpec::None, "{name}: routed without keys"),
            Handling::Local(_) | Handling::Node(_) | Handling::Transaction(_) | Handling::HashImport(_) => {}
        }
    }
    assert!(names.len() > 500, "only {} rows", names.len());
}

#[test]
fn each_row_is_found_in_any_case() {
    for spec in commands::all() {
        for name in [spec.name.to_string(), spec.name.to_uppercase(), spec.name[..1].to_uppercase() + &spec.name[1..]] {
            assert!(std::ptr::eq(lookup(name.as_bytes()).unwrap(), spec), "{name}");
        }
        let longer = format!("{}x", spec.name);
        assert!(lookup(longer.as_bytes()).is_none_or(|found| found.name == longer));
        for sub in spec.subcommands {
            let word = sub.name.split('|').nth(1).unwrap().to_uppercase();
            assert!(std::ptr::eq(spec.subcommand(word.as_bytes()).unwrap(), sub), "{}", sub.name);
        }
    }
    // Bytes such as `@` and `` ` `` differ in the bit that distinguishes upper and lower case.
    for name in [
        "",
        "g",
        "get ",
        "gett",
        "bitcount\0",
        "restore\rasking",
        "object|encoding",
        "\x07et",
        "no-such-command",
        "HOST",
    ] {
        assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
    }
    assert!(lookup(&[b'a'; 1 << 20]).is_none());
}

#[test]
fn calls_resolve_as_in_the_server() {
    assert_eq!(resolve(&words("get k")[..]).unwrap().name, "get");
    assert_eq!(resolve(&words("Object ENCODING k")[..]).unwrap().name, "object|encoding");
    assert_eq!(resolve(&words("COMMAND")[..]).unwrap().handling, Handling::Local(Local::CommandAll));
    assert!(matches!(resolve::<[Vec<u8>]>(&[]), Err(ResolveError::Unknown)));
    assert!(matches!(resolve(&words("nope")[..]), Err(ResolveError::Unknown)));
    assert!(
        matches!(resolve(&words("OBJECT nope k")[..]), Err(ResolveError::UnknownSubcommand(s)) if s.name == "object")
    );
    assert!(matches!(resolve(&words("GET")[..]), Err(ResolveError::WrongArity(s)) if s.name == "get"));
    assert!(matches!(resolve(&words("GET a b")[..]), Err(ResolveError::WrongArity(_))));
    assert!(matches!(resolve(&words("OBJECT")[..]), Err(ResolveError::WrongArity(_))));
    assert_eq!(
        resolve(&words("OBJECT ENCODING")[..]).unwrap_err().to_string(),
        "wrong number of arguments for 'object|encoding' command"
    );
}

#[test]
fn handling_equals_the_documentation() {
    let handling = |line: &str| resolve(&words(line)[..]).unwrap().handling;
    for line in [
        "GET k",
        "MSETNX a 1 b 2",
        "RESTORE k 0 x",
        "DELEX k IFEQ v",
        "XREAD STREAMS k 0",
        "OBJECT FREQ k",
        "MEMORY USAGE k",
        "BLPOP k 0",
        "BLMOVE a b LEFT LEFT 0",
        "BZPOPMIN k 0",
        "BLMPOP 0 1 k LEFT",
        "XREAD BLOCK 0 STREAMS k $",
    ] {
        assert_eq!(handling(line), Handling::Slot, "{line}");
    }
    assert_eq!(handling("MGET a b"), Handling::Split(Split::Mget));
    assert_eq!(handling("MSET a b"), Handling::Split(Split::Mset));
    assert_eq!(handling("MSETEX 1 a b"), Handling::Split(Split::Msetex));
    assert_eq!(handling("COPY a b DB 1"), Handling::Database);
    assert_eq!(handling("MOVE k 1"), Handling::Database);
    for line in ["DEL a", "UNLINK a", "EXISTS a", "TOUCH a"] {
        assert_eq!(handling(line), Handling::Split(Split::Sum), "{line}");
    }
    for line in ["WAIT 0 0", "WAITAOF 0 0 0"] {
        assert_eq!(handling(line), Handling::WaitReplicas, "{line}");
    }
    for line in ["EVAL x 1 k", "EVALSHA x 0", "FCALL f 0"] {
        assert!(matches!(handling(line), Handling::Script(_)), "{line}");
    }
    for line in ["DEBUG SLEEP 0", "PFDEBUG ENCODING k"] {
        assert_eq!(handling(line), Handling::Local(Local::Debug), "{line}");
    }
    for line in ["SCRIPT LOAD x", "FUNCTION LIST"] {
        assert!(matches!(handling(line), Handling::Scripts(_)), "{line}");
    }
    for line in ["MULTI", "EXEC", "DISCARD", "WATCH k", "UNWATCH"] {
        assert!(matches!(handling(line), Handling::Transaction(_)), "{line}");
    }
    for line in ["SUBSCRIBE c", "PUBLISH c m", "SPUBLISH c m"] {
        assert!(matches!(handling(line), Handling::Unsupported(_)), "{line}");
    }
    for line in [
        "SHUTDOWN",
        "REPLICAOF a b",
        "SLAVEOF a b",
        "SYNC",
        "PSYNC a b",
        "CLUSTER NODES",
        "MIGRATE h p k 0 0",
        "RESTORE-ASKING k 0 x",
        "MODULE LOAD x",
        "ACL SETUSER x",
        "CLUSTERSCAN 0",
        "CONFIG REWRITE",
        "FAILOVER",
        "BACKUP START",
    ] {
        assert!(matches!(handling(line), Handling::Refused(_)), "{line}");
    }
    for line in [
        "SCAN 0",
        "KEYS *",
        "DBSIZE",
        "RANDOMKEY",
        "FLUSHALL",
        "FLUSHDB ASYNC",
        "SWAPDB 0 1",
        "SAVE",
        "BGSAVE",
        "BGREWRITEAOF",
        "LASTSAVE",
        "SLOTSINFO",
        "SLOTSSCAN 1 0",
    ] {
        assert!(matches!(handling(line), Handling::AllGroups(_)), "{line}");
    }
    for line in ["MONITOR", "SLOWLOG GET", "CLIENT LIST", "CLIENT KILL a:1", "CLIENT PAUSE 1", "CLIENT UNBLOCK 1"] {
        assert!(matches!(handling(line), Handling::Node(_)), "{line}");
    }
    for line in ["HSCAN k 0", "SSCAN k 0", "ZSCAN k 0"] {
        assert_eq!(handling(line), Handling::Cursor, "{line}");
    }
    for line in ["MOVE k 1", "COPY a b DB 1"] {
        assert_eq!(handling(line), Handling::Database, "{line}");
    }
    for line in ["POST / HTTP/1.1", "Host: localhost:6379", "POST"] {
        assert!(matches!(handling(line), Handling::Close(_)), "{line}");
    }
    for line in ["ACL LIST", "CONFIG SET a b", "INFO", "LATENCY DOCTOR", "MODULE LIST", "PONTOON ON 1 INFO", "ROLE"] {
        assert!(matches!(handling(line), Handling::Local(_)), "{line}");
    }
    assert_eq!(handling("CONFIG GET save"), Handling::Local(Local::ConfigGet));
    assert_eq!(handling("COMMAND DOCS get"), Handling::AnyServer);
}

/// A wrong result here would make the proxy send a wrong "safe to repeat".
#[test]
fn writes_are_known() {
    for name in [
        "set",
        "getex",
        "getdel",
        "getset",
        "sort",
        "georadius",
        "georadiusbymember",
        "eval",
        "evalsha",
        "fcall",
        "bitfield",
        "xreadgroup",
        "pfadd",
        "publish",
        "spop",
        "xautoclaim",
        "lmpop",
        "restore",
        "hgetex",
        "hgetdel",
        "delex",
        "msetex",
        "copy",
        "json.set",
        "vadd",
        "ts.madd",
    ] {
        assert!(lookup(name.as_bytes()).unwrap().is_write(), "{name}");
    }
    for name in [
        "get",
        "mget",
        "sort_ro",
        "georadius_ro",
        "eval_ro",
        "evalsha_ro",
        "fcall_ro",
        "bitfield_ro",
        "xread",
        "pfcount",
        "touch",
        "dump",
        "hrandfield",
        "digest",
        "json.get",
        "vsim",
        "ts.get",
    ] {
        assert!(!lookup(name.as_bytes()).unwrap().is_write(), "{name}");
    }
    assert!(lookup(b"pfcount").unwrap().needs_primary());
}

#[test]
fn keys_of_calls() {
    assert_eq!(routing("GET k"), Ok(vec![1]));
    assert_eq!(routing("MSET a 1 b 2"), Ok(vec![1, 3]));
    assert_eq!(routing("MSET a 1 b"), Err(KeysError::Arity));
    assert_eq!(routing("MSETEX 2 a 1 b 2 EX 10"), Ok(vec![2, 4]));
    assert_eq!(routing("MSETEX 2 a 1 b"), Err(KeysError::Numkeys));
    assert_eq!(routing("EVAL return 0 x"), Ok(vec![]));
    for numkeys in ["-1", "3", "01", "+1", "1x", "99999999999999999999", "1000000000", "9223372036854775807"] {
        assert_eq!(routing(&format!("EVAL return {numkeys} a b")), Err(KeysError::Numkeys), "{numkeys}");
    }
    assert_eq!(routing("EVAL return 2 a b c"), Ok(vec![3, 4]));
    assert_eq!(routing("ZUNIONSTORE out 2 a b WEIGHTS 1 2"), Ok(vec![1, 3, 4]));
    assert_eq!(routing("BITOP AND out a b"), Ok(vec![2, 3, 4]));
    assert_eq!(routing("JSON.MGET a b $"), Ok(vec![1, 2]));
    assert_eq!(routing("JSON.MSET a $ 1 b $ 2"), Ok(vec![1, 4]));
    assert_eq!(routing("CMS.MERGE out 2 a b"), Ok(vec![1, 3, 4]));
    assert_eq!(routing("XREAD COUNT 1 STREAMS a b 0 0"), Ok(vec![4, 5]));
    assert_eq!(routing("XREAD STREAMS a b 0"), Err(KeysError::Syntax));
    // A group and a consumer whose names are keywords.
    assert_eq!(routing("XREADGROUP GROUP block streams STREAMS a >"), Ok(vec![5]));
    assert_eq!(routing("XGROUP CREATE k g $"), Ok(vec![2]));
}

#[test]
fn sort_reads_no_keys_of_other_slots() {
    assert_eq!(routing("SORT {t}l BY nosort GET #"), Ok(vec![1]));
    assert_eq!(routing("SORT {t}l BY {t}w_* GET {t}h_*->f STORE {t}o"), Ok(vec![1, 7, 3, 5]));
    for pattern in ["w_*", "{t*}", "*{t}", "{}w_*", "{t", "w_*->{t}"] {
        let pattern = if pattern.contains('*') { pattern.to_string() } else { format!("{pattern}*") };
        assert_eq!(routing(&format!("SORT {{t}}l BY {pattern}")), Err(KeysError::Pattern), "{pattern}");
        assert_eq!(routing(&format!("SORT_RO {{t}}l GET {pattern}")), Err(KeysError::Pattern), "{pattern}");
    }
}

#[test]
fn only_calls_with_block_block() {
    let blocks = |line: &str| is_blocking_call(resolve(&words(line)[..]).unwrap(), &words(line)[..]);
    for line in [
        "BLPOP k 0",
        "XREAD BLOCK 0 STREAMS k $",
        "xread count 1 block 5 streams k $",
        "XREADGROUP GROUP g c BLOCK 1 STREAMS k >",
        "WAITAOF 0 0 0",
    ] {
        assert!(blocks(line), "{line}");
    }
    for line in [
        "GET k",
        "XREAD STREAMS block 0",
        "XREAD COUNT 2 STREAMS k block",
        "XREADGROUP GROUP block c STREAMS k >",
        "XREADGROUP GROUP g c NOACK STREAMS block block",
    ] {
        assert!(!blocks(line), "{line}");
    }
}

/// Arguments in which keywords and numbers are frequent.
fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(vec!["STREAMS", "store", "STOREDIST", "BLOCK", "COUNT", "GROUP", "KEYS", "BY", "GET", "LIMIT", "AUTH2", "NOACK", "", "#"])
            .prop_map(|word| word.as_bytes().to_vec()),
        2 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        3 => (0u8..9).prop_map(|n| vec![b'0' + n]),
        2 => prop::collection::vec(any::<u8>(), 0..8),
        1 => "[{}*a]{0,6}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_never_panics_and_stays_in_bounds(row in any::<prop::sample::Index>(), rest in prop::collection::vec(argument(), 0..14)) {
        let rows: Vec<_> = every_row().collect();
        let spec = rows[row.index(rows.len())];
        let mut call = vec![spec.name.as_bytes().to_vec()];
        call.extend(rest);
        for routing in [false, true] {
            let mut out = vec![usize::MAX];
            let found = if routing { spec.routing_keys(&call[..], &mut out) } else { spec.keys(&call[..], &mut out) };
            prop_assert_eq!(out.remove(0), usize::MAX, "what was there stays");
            if found.is_err() {
                prop_assert!(out.is_empty());
            }
            prop_assert!(out.iter().all(|i| (1..call.len()).contains(i)), "{:?}", out);
            let mut unique = out.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), out.len(), "no argument is two keys");
        }
        is_blocking_call(spec, &call[..]);
        let slices: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(resolve(&call[..]).is_ok(), resolve(&slices[..]).is_ok());
    }

    #[test]
    fn lookup_finds_only_equal_names(name in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(spec) = lookup(&name) {
            prop_assert!(spec.name.as_bytes().eq_ignore_ascii_case(&name));
        }
    }
}
