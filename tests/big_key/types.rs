//! Every type except streams, without concurrent writes.
//! Knows nothing of concurrent writes.

use super::pair::Pair;

#[test]
fn every_type_is_copied_in_pieces() {
    let mut pair = Pair::start();
    let source = &mut pair.source;
    source.all((0..20_000).map(|i| format!("HSET hash field:{i} value:{i}")));
    source.all((0..20_000).map(|i| format!("SADD set member:{i}")));
    source.all((0..20_000).map(|i| format!("SADD intset {i}")));
    source.all((0..20_000).map(|i| format!("ZADD zset {} member:{i}", f64::from(i) * 0.1)));
    // All members have one score: read with ZSCAN. Then two scores, each many times.
    source.all((0..20_000).map(|i| format!("ZADD ties 7 member:{i}")));
    source.all((0..20_000).map(|i| format!("ZADD twice {} member:{i}", i % 2)));
    source.all((0..20_000).map(|i| format!("RPUSH list element:{i}")));
    source.run("ZADD zset inf a -inf b 1e300 c 3.0000000000000004 d 0.30000000000000004 e");
    let string: Vec<u8> = (0..5_000_001u32).map(|i| (i * 7) as u8).collect();
    source.ask(&[b"SET", b"string", &string]);
    source.ask(&[b"HSET", b"wide", b"one", &string, b"two", &string]);
    source.run("HSET wide three 3");
    for key in ["hash", "zset"] {
        source.run(&format!("PEXPIRE {key} 600000"));
    }
    // Older values at the target.
    pair.target.run("SET hash old");
    pair.target.run("RPUSH list old");
    let keys = ["hash", "set", "intset", "zset", "ties", "twice", "list", "string", "wide"];
    for key in keys {
        pair.begin(key);
    }
    pair.settle();
    assert_eq!(pair.returned, []);
    for key in keys {
        pair.assert_equal(key);
    }
}

#[test]
fn small_and_missing_keys_are_returned() {
    let mut pair = Pair::start();
    pair.source.run("HSET small a 1");
    pair.target.run("SET gone old");
    pair.begin("small");
    pair.begin("gone");
    pair.settle_returned();
    let back: Vec<_> = pair.returned.iter().map(|b| (&b.key[..], b.dump_only)).collect();
    assert_eq!(back, [(&b"small"[..], false), (b"gone", false)]);
    assert_eq!(pair.target.run("EXISTS gone"), ":0\r\n");
}

/// An older server does not know the encodings of small values of a newer one, but it has the same commands.
#[test]
fn small_keys_are_copied_in_pieces_to_an_older_server() {
    let mut pair = Pair::to_redis_6();
    for command in [
        "HSET hash a 1 b 2",
        "RPUSH list a b c",
        "SADD set a b",
        "SADD intset 1 2",
        "ZADD zset 1 a 2.5 b",
        "XADD stream 1-1 f v",
        "XADD stream 2-1 f w",
        "XGROUP CREATE stream group 0",
        "XGROUP CREATECONSUMER stream group idler",
        "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream >",
        "XGROUP CREATE groups group $ MKSTREAM",
        "PEXPIRE hash 600000",
    ] {
        pair.source.run(command);
    }
    pair.target.run("SET gone old");
    for key in ["hash", "list", "set", "intset", "zset", "stream", "groups", "gone"] {
        pair.begin_of_any_size(key);
    }
    pair.settle_returned();
    let back: Vec<_> = pair.returned.iter().map(|b| &b.key[..]).collect();
    assert_eq!(back, [&b"gone"[..]]);
    assert_eq!(pair.target.run("EXISTS gone"), ":0\r\n");
    for show in [
        "HMGET hash a b",
        "HLEN hash",
        "LRANGE list 0 -1",
        "SMISMEMBER set a b c",
        "SMISMEMBER intset 1 2 3",
        "ZRANGE zset 0 -1 WITHSCORES",
        "XRANGE stream - +",
        "XPENDING stream group",
        "XINFO CONSUMERS groups group",
        "EXISTS groups",
    ] {
        assert_eq!(pair.target.run(show), pair.source.run(show), "{show}");
    }
    assert!(pair.target.run("XINFO CONSUMERS stream group").contains("idler"));
    assert!(pair.target.run("PTTL hash").starts_with(":59"));
}

impl Pair {
    /// Makes rounds while there is something to do.
    fn settle_returned(&mut self) {
        while self.round() {}
        assert!(self.big.is_clean());
    }
}
