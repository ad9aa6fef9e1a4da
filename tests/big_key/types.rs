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

impl Pair {
    /// Makes rounds while there is something to do.
    fn settle_returned(&mut self) {
        while self.round() {}
        assert!(self.big.is_clean());
    }
}
