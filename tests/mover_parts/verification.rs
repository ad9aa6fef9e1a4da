//! mover::verify between two servers whose encodings differ.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use fastrand::Rng;
use pontoon::{
    model::{ids::SlotId, migration::Verify, slot::Layout},
    mover::{
        Endpoint, SlotSet,
        verify::{
            ChangeObserver, Comparison, DbKey, KeyStatus, Outcome, Scope,
            digest::{Clocks, DigestSeed, INEXACT_TOLERANCE_MS, difference},
            read::{ReadKeys, Reader},
        },
    },
    redis::Reply,
};

use crate::{
    dataset::{self, Command, words},
    kinds::Kind,
    server::Redis,
    wait::soon,
};

/// Every value has the encoding for big values here, and pages have another size.
const OTHER: &[&str] = &[
    "--hash-max-listpack-entries",
    "0",
    "--set-max-intset-entries",
    "0",
    "--zset-max-listpack-entries",
    "0",
    "--list-max-listpack-size",
    "1",
    "--stream-node-max-entries",
    "3",
];

pub fn endpoint(redis: &Redis) -> Endpoint {
    Endpoint { addr: redis.addr.clone(), credentials: None }
}

pub fn all_slots() -> SlotSet {
    SlotSet::new(Layout::Codis, &(0..Layout::Codis.slots()).map(SlotId).collect())
}

/// A copy that does nothing, or one in which some keys always change.
#[derive(Default)]
pub struct FakeCopy {
    write_contended: Vec<Bytes>,
    watched: RefCell<BTreeMap<DbKey, u64>>,
}

impl ChangeObserver for FakeCopy {
    fn watch(&self, keys: &[DbKey]) {
        *self.watched.borrow_mut() = keys.iter().map(|key| (key.clone(), 0)).collect();
    }

    fn status(&self, key: &DbKey) -> KeyStatus {
        let mut watched = self.watched.borrow_mut();
        let changes = watched.get_mut(key).expect("a key that is watched");
        *changes += u64::from(self.write_contended.contains(&key.key));
        KeyStatus { changes: *changes, settled: true }
    }

    async fn barrier(&self) -> Result<(), String> {
        Ok(())
    }
}

pub async fn compare(source: &Redis, target: &Redis, slots: &SlotSet, verify: Verify, changes: &FakeCopy) -> Outcome {
    let scope = Scope { slots, databases: 16, verify, keys: 700, reports_groups: true };
    let comparison = Comparison::open(&endpoint(source), &endpoint(target), "pt:test", scope).await.unwrap();
    comparison.run(changes, |_| {}).await.unwrap()
}

/// A command that changes one element of `key:<i>` of the dataset.
async fn one_change(i: usize, rng: &mut Rng, redis: &Redis) -> Command {
    let key = format!("key:{i}");
    let mut client = redis.client().await;
    let mut ask = async |command: &[&[u8]]| match client.ask(command, soon()).await.unwrap() {
        Reply::Bulk(bytes) => bytes.to_vec(),
        Reply::Array(items) => match &items[0] {
            Reply::Bulk(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        },
        Reply::Integer(n) => n.to_string().into_bytes(),
        other => panic!("{other:?}"),
    };
    let (key, text) = (key.as_bytes(), key.clone());
    match i % 7 {
        0 => words(&format!("APPEND {text} x")),
        1 => {
            let len: u64 = String::from_utf8(ask(&[b"LLEN", key]).await).unwrap().parse().unwrap();
            words(&format!("LSET {text} {} changed", rng.u64(0..len)))
        }
        2 | 3 => vec![b"SREM".to_vec(), key.to_vec(), ask(&[b"SRANDMEMBER", key]).await],
        4 => vec![b"HSET".to_vec(), key.to_vec(), ask(&[b"HRANDFIELD", key]).await, b"changed".to_vec()],
        5 => vec![b"ZADD".to_vec(), key.to_vec(), b"0.125".to_vec(), ask(&[b"ZRANDMEMBER", key]).await],
        _ => words(&format!("XSETID {text} 99999-0")),
    }
}

#[tokio::test]
async fn equal_values_are_equal_in_every_encoding() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(OTHER));
    let seed = fastrand::u64(..);
    for db in [0, 9] {
        dataset::send(&source, db, &dataset::commands(seed ^ u64::from(db), 350, Rng::with_seed(1))).await;
        dataset::send(&target, db, &dataset::commands(seed ^ u64::from(db), 350, Rng::with_seed(2))).await;
    }
    // The encodings must differ, or the test shows nothing. (A hash of one long field has the same in both servers.)
    let mut differing = 0;
    for i in (4..350).step_by(7) {
        let dump = format!("DUMP key:{i}");
        differing += usize::from(source.run(&dump).await != target.run(&dump).await);
    }
    assert!(differing > 25, "{differing} of 50 hashes differ, seed {seed}");
    let slots = all_slots();
    let outcome = compare(&source, &target, &slots, Verify::Full, &FakeCopy::default()).await;
    assert_eq!(outcome.different, [""; 0], "seed {seed}");
    assert!(outcome.verified.keys >= 700 && outcome.always_changing == 0 && outcome.unreadable == 0, "{outcome:?}");
    // A sample of so few keys contains all of them; other slots are ignored.
    assert!(compare(&source, &target, &slots, Verify::Sample, &FakeCopy::default()).await.verified.keys >= 700);
    assert_eq!(compare(&source, &target, &slots, Verify::None, &FakeCopy::default()).await, Outcome::default());
    // Some keys get another value, each by one change of one element.
    let mut rng = Rng::with_seed(seed);
    let changed: BTreeSet<usize> = (0..30).map(|_| rng.usize(0..350)).collect();
    let mut before = BTreeMap::new();
    for i in &changed {
        let dump = source.run(&format!("DUMP key:{i}")).await;
        before.insert(*i, dump);
        let change = one_change(*i, &mut rng, &target).await;
        dataset::send(&target, 0, &[change]).await;
    }
    let outcome = compare(&source, &target, &slots, Verify::Full, &FakeCopy::default()).await;
    assert_eq!(outcome.verified.different as usize, changed.len(), "seed {seed}, {changed:?}: {outcome:?}");
    let named = |text: &String| changed.iter().any(|i| text.starts_with(&format!("key:{i} (database 0)")));
    assert!(outcome.different.len() == 8 && outcome.different.iter().all(named), "seed {seed}: {outcome:?}");
    // Copied as payloads they are equal again.
    let mut client = target.client().await;
    for (i, dump) in before {
        let (Reply::Bulk(dump), key) = (dump, format!("key:{i}")) else { panic!("key:{i}") };
        let at = source.run(&format!("PEXPIRETIME key:{i}")).await.integer().unwrap().max(0).to_string();
        let restore: &[&[u8]] = &[b"RESTORE", key.as_bytes(), at.as_bytes(), &dump, b"REPLACE", b"ABSTTL"];
        client.ask(restore, soon()).await.unwrap();
    }
    let outcome = compare(&source, &target, &slots, Verify::Full, &FakeCopy::default()).await;
    assert_eq!(outcome.different, [""; 0], "seed {seed}");
    let only = Layout::Codis.slot(b"key:3");
    let others = SlotSet::new(Layout::Codis, &(0..Layout::Codis.slots()).map(SlotId).filter(|s| *s != only).collect());
    target.run("DEL key:3").await;
    assert_eq!(compare(&source, &target, &others, Verify::Full, &FakeCopy::default()).await.verified.different, 0);
    let outcome = compare(&source, &target, &slots, Verify::Full, &FakeCopy::default()).await;
    assert!(outcome.verified.different == 1 && outcome.different[0].starts_with("key:3 (database 0)"), "{outcome:?}");
}

/// Commands that create a key, and single changes, each of which results in another value.
fn changes() -> Vec<(Vec<Command>, Vec<Command>)> {
    let all = |texts: &[&str]| texts.iter().map(|text| words(text)).collect::<Vec<_>>();
    let long = |head: &str, n: usize, pair: bool| {
        let mut command = words(head);
        for i in 0..n {
            command.push(i.to_string().into_bytes());
            if pair {
                command.push(format!("m{i}").into_bytes());
            }
        }
        command
    };
    let big = |byte: u8| vec![b"SETRANGE".to_vec(), b"k".to_vec(), b"1600000".to_vec(), vec![byte]];
    let stream = &[
        "XADD k 1-1 a b",
        "XADD k 2-1 a b",
        "XADD k 3-1 a b",
        "XGROUP CREATE k g 0",
        "XREADGROUP GROUP g al COUNT 2 STREAMS k >",
    ];
    vec![
        (
            all(&["SET k abc"]),
            all(&["SET k abd", "APPEND k x", "PEXPIRE k 100000", "DEL k", "SETRANGE k 3 abc", "SET k ab"]),
        ),
        (all(&["SET k abc PXAT 4000000000000"]), all(&["PERSIST k", "PEXPIREAT k 4000000000001", "PEXPIRE k 50000"])),
        (vec![big(b'x')], vec![big(b'y'), words("SETRANGE k 524288 x"), words("APPEND k x")]),
        (
            all(&["RPUSH k a b c"]),
            all(&["LSET k 1 x", "RPUSH k d", "LPOP k", "LINSERT k BEFORE c b", "LMOVE k k LEFT RIGHT"]),
        ),
        (vec![long("RPUSH k", 1300, false)], all(&["LSET k 700 x", "RPUSH k x", "RPOP k"])),
        (all(&["SADD k a b c"]), all(&["SADD k d", "SREM k a", "SMOVE k other a"])),
        (all(&["SADD k 1 2 3"]), all(&["SADD k 4", "SREM k 1"])),
        (vec![long("SADD k", 1300, false)], all(&["SADD k x", "SREM k 700"])),
        (all(&["HSET k f1 v1 f2 v2"]), all(&["HSET k f1 v2", "HDEL k f1", "HSET k f3 v", "HSET k f1 v2 f2 v1"])),
        (vec![long("HSET k", 1300, true)], all(&["HSET k 700 x", "HDEL k 700", "HSET k x y"])),
        (all(&["ZADD k 1 a 2 b"]), all(&["ZADD k 1.0000000000000002 a", "ZADD k 3 c", "ZREM k a", "ZADD k 2 a 1 b"])),
        (vec![long("ZADD k", 1300, true)], all(&["ZADD k 7000 m700", "ZREM k m700", "ZINCRBY k 1e-10 m700"])),
        (
            all(stream),
            all(&[
                "XADD k 4-1 a b",
                "XDEL k 3-1",
                "XDEL k 1-1",
                "XSETID k 9-9",
                "XSETID k 3-1 ENTRIESADDED 99",
                "XSETID k 3-1 ENTRIESADDED 3 MAXDELETEDID 2-9",
                "XACK k g 1-1",
                "XGROUP CREATE k h 0",
                "XGROUP SETID k g 1-1 ENTRIESREAD 1",
                "XGROUP CREATECONSUMER k g bob",
                "XGROUP DELCONSUMER k g al",
                "XGROUP DESTROY k g",
                "XCLAIM k g bob 0 1-1 JUSTID",
                "XCLAIM k g al 0 1-1",
            ]),
        ),
        (all(&["SET k a"]), all(&["RENAME k other"])),
    ]
}

/// Why a key differs between two servers.
async fn why(source: &mut Reader, target: &mut Reader, key: &[Bytes]) -> Option<String> {
    let (source, target) = (source.read(0, key).await.unwrap(), target.read(0, key).await.unwrap());
    let ReadKeys { clock_ms: source_ms, exact, .. } = source;
    let tolerance_ms = if exact { 0 } else { INEXACT_TOLERANCE_MS };
    let clocks = Clocks { source_ms, target_ms: target.clock_ms, tolerance_ms };
    difference(&source.digests[0], &target.digests[0], clocks)
}

#[tokio::test]
async fn any_single_change_is_detected() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(OTHER));
    let seed = DigestSeed::default();
    let mut a = Reader::open(&endpoint(&source), "pt:test", seed.clone()).await.unwrap();
    let mut b = Reader::open(&endpoint(&target), "pt:test", seed).await.unwrap();
    let key = [Bytes::from_static(b"k")];
    let mut seen = 0;
    for (make, changes) in changes() {
        for change in changes {
            for redis in [&source, &target] {
                redis.run("FLUSHALL").await;
                dataset::send(redis, 0, &make).await;
            }
            let what = || String::from_utf8_lossy(&change.concat()[..change.concat().len().min(60)]).into_owned();
            let before = why(&mut a, &mut b, &key).await;
            assert_eq!(before, None, "before {}", what());
            dataset::send(&target, 0, std::slice::from_ref(&change)).await;
            assert!(why(&mut a, &mut b, &key).await.is_some(), "{} was not detected", what());
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
    // Another type.
    source.run("RPUSH t a").await;
    target.run("SADD t a").await;
    let key = [Bytes::from_static(b"t")];
    assert!(why(&mut a, &mut b, &key).await.unwrap().contains("a list at the source"));
}

#[tokio::test]
async fn a_key_that_always_changes_is_no_difference() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    for redis in [&source, &target] {
        redis.run("MSET same 1 contended 1 gone 1").await;
    }
    source.run("SET contended 2").await;
    target.run("DEL gone").await;
    target.run("SET extra 1").await;
    let slots = all_slots();
    let changes = FakeCopy { write_contended: vec!["contended".into()], ..FakeCopy::default() };
    let outcome = compare(&source, &target, &slots, Verify::Full, &changes).await;
    assert_eq!((outcome.verified.keys, outcome.verified.different, outcome.always_changing), (3, 2, 1), "{outcome:?}");
    assert!(outcome.different.iter().any(|text| text == "gone (database 0): it is not at the target"), "{outcome:?}");
    let extra = "extra (database 0): it is at the target and not at the source";
    assert!(outcome.different.iter().any(|text| text == extra), "{outcome:?}");
}

async fn redis_8() -> Redis {
    Redis::start_program(|| std::process::Command::new(Kind::Redis8.program()), &[], None).await
}

#[tokio::test]
async fn times_to_live_of_fields_are_compared_where_there_are_any() {
    let (source, target) = tokio::join!(redis_8(), redis_8());
    let seed = DigestSeed::default();
    let mut a = Reader::open(&endpoint(&source), "pt:test", seed.clone()).await.unwrap();
    let mut b = Reader::open(&endpoint(&target), "pt:test", seed).await.unwrap();
    for (fields, expires) in [(3, 1), (3, 3), (1500, 700)] {
        for redis in [&source, &target] {
            redis.run("DEL k").await;
            let pairs: Vec<String> = (0..fields).map(|i| format!("f{i} v{i}")).collect();
            redis.run(&format!("HSET k {}", pairs.join(" "))).await;
            for i in 0..expires {
                redis.run(&format!("HPEXPIREAT k {} FIELDS 1 f{i}", 4_000_000_000_000_u64 + i)).await;
            }
        }
        let key = [Bytes::from_static(b"k")];
        assert_eq!(why(&mut a, &mut b, &key).await, None);
        target.run("HPEXPIREAT k 4000000000001 FIELDS 1 f0").await;
        assert!(why(&mut a, &mut b, &key).await.unwrap().contains("hash's fields"), "{fields}");
        target.run("HPERSIST k FIELDS 1 f0").await;
        assert!(why(&mut a, &mut b, &key).await.is_some(), "{fields}");
    }
}

/// A server without PEXPIRETIME is compared with tolerance.
#[tokio::test]
async fn expiry_without_pexpiretime_is_compared_with_tolerance() {
    let (source, target) = tokio::join!(Redis::start(&["--rename-command", "PEXPIRETIME", ""]), Redis::start(&[]));
    let seed = DigestSeed::default();
    let mut a = Reader::open(&endpoint(&source), "pt:test", seed.clone()).await.unwrap();
    let mut b = Reader::open(&endpoint(&target), "pt:test", seed).await.unwrap();
    let key = [Bytes::from_static(b"k")];
    source.run("SET k v PXAT 4000000000000").await;
    for (at, equal) in [(4_000_000_000_000_u64, true), (3_999_999_999_900, true), (3_999_999_900_000, false)] {
        target.run(&format!("SET k v PXAT {at}")).await;
        assert_eq!(why(&mut a, &mut b, &key).await.is_none(), equal, "{at}");
    }
}

/// Groups in use do not count as a difference if the feed does not report their changes; entries do.
#[tokio::test(flavor = "multi_thread")]
async fn unreported_changes_of_groups_are_not_compared() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    for redis in [&source, &target] {
        redis.run("XADD stream 1-1 a b").await;
        redis.run("XGROUP CREATE stream group 0").await;
    }
    source.run("XREADGROUP GROUP group alice COUNT 1 STREAMS stream >").await;
    let slots = all_slots();
    let different = async |reports_groups| {
        let scope = Scope { slots: &slots, databases: 16, verify: Verify::Full, keys: 1, reports_groups };
        let comparison = Comparison::open(&endpoint(&source), &endpoint(&target), "pt:test", scope).await.unwrap();
        comparison.run(&FakeCopy::default(), |_| {}).await.unwrap().different.len()
    };
    assert_eq!((different(true).await, different(false).await), (1, 0));
    target.run("XADD stream 2-1 a b").await;
    assert_eq!(different(false).await, 1);
}
