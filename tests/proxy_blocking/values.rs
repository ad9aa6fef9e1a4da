//! Replies, timeouts and order: as at a redis-server itself.

use super::*;

/// What is asked, with commands before it that prepare the data.
const CALLS: &[(&str, &[&str])] = &[
    ("BLPOP q 0.05", &[]),
    ("BLPOP q 0.0001", &[]),
    ("BLPOP q 5", &["RPUSH q a b"]),
    ("BRPOP {q}1 {q}2 5", &["RPUSH {q}2 a b"]),
    ("BRPOP q 0.05", &[]),
    ("BLMOVE {q}1 {q}2 LEFT RIGHT 0.05", &[]),
    ("BLMOVE {q}1 {q}2 LEFT RIGHT 5", &["RPUSH {q}1 a b"]),
    ("BRPOPLPUSH {q}1 {q}2 0.05", &[]),
    ("BRPOPLPUSH {q}1 {q}2 5", &["RPUSH {q}1 a b"]),
    ("BLMPOP 0.05 1 q LEFT", &[]),
    ("BLMPOP 5 2 {q}1 {q}2 RIGHT COUNT 2", &["RPUSH {q}2 a b c"]),
    ("BZPOPMIN z 0.05", &[]),
    ("BZPOPMIN z 5", &["ZADD z 1 a 2 b"]),
    ("BZPOPMAX z 5", &["ZADD z 1.5 a 2.5 b"]),
    ("BZMPOP 0.05 1 z MIN", &[]),
    ("BZMPOP 5 1 z MAX COUNT 2", &["ZADD z 1 a 2 b 3 c"]),
    ("XREAD BLOCK 50 STREAMS s $", &["XADD s 1-1 f v"]),
    ("XREAD BLOCK 50 STREAMS s $", &[]),
    ("XREAD BLOCK 5000 STREAMS s 0", &["XADD s 1-1 f v"]),
    (
        "XREAD COUNT 1 BLOCK 5000 STREAMS {s}1 {s}2 $ 0",
        &["XADD {s}1 1-1 f v", "XADD {s}2 1-1 f v", "XADD {s}2 1-2 f w"],
    ),
    ("XREADGROUP GROUP g c BLOCK 50 STREAMS s >", &["XGROUP CREATE s g 0 MKSTREAM"]),
    ("XREADGROUP GROUP g c BLOCK 5000 STREAMS s >", &["XADD s 1-1 f v", "XGROUP CREATE s g 0"]),
    ("XREADGROUP GROUP g c NOACK BLOCK 5000 STREAMS s 0", &["XGROUP CREATE s g 0 MKSTREAM"]),
    // What is not valid, or not possible.
    ("BLPOP q -1", &[]),
    ("BLPOP q x", &[]),
    ("BLPOP q nan", &["RPUSH q a"]),
    ("BLPOP q inf", &[]),
    ("BLPOP q 1e30", &[]),
    ("BLPOP q 0x0.1", &[]),
    ("BLPOP q", &[]),
    ("BLPOP q 1", &["SET q v"]),
    ("BLMOVE {q}1 {q}2 LEFT UP 1", &[]),
    ("BLMOVE {q}1 {q}2 LEFT LEFT", &[]),
    ("BLMPOP x 1 q LEFT", &[]),
    ("BLMPOP -1 1 q LEFT", &[]),
    ("BLMPOP 1 0 q LEFT", &[]),
    ("BLMPOP 1 x q LEFT", &[]),
    ("BLMPOP x x q LEFT", &[]),
    ("BLMPOP -1 0 q LEFT", &[]),
    ("BLMPOP 1 1 q MIDDLE", &[]),
    ("BLMPOP x 9 q LEFT", &[]),
    ("BLMPOP inf 1 q LEFT", &[]),
    ("BZMPOP 1 1 z MIN COUNT 0", &[]),
    ("BZMPOP x 9 z MIN", &[]),
    ("BZPOPMIN z y", &[]),
    ("XREAD BLOCK -1 STREAMS s $", &[]),
    ("XREAD BLOCK 1.5 STREAMS s $", &[]),
    ("XREAD BLOCK STREAMS s $", &[]),
    ("XREAD BLOCK 1 STREAMS s", &[]),
    ("XREAD BLOCK 1 STREAMS s x", &[]),
    ("XREAD BLOCK 50 STREAMS s $", &["SET s v"]),
    ("XREADGROUP GROUP g c BLOCK 50 STREAMS s >", &[]),
    ("XREADGROUP GROUP g c BLOCK 50 STREAMS s $", &["XGROUP CREATE s g 0 MKSTREAM"]),
];

/// The timeout of a call that waits, for the reply to come no earlier.
fn at_least(words: &str) -> Duration {
    match words {
        _ if words.contains(" 0.05") || words.contains("BLOCK 50 ") => Duration::from_millis(50),
        _ => Duration::ZERO,
    }
}

#[test]
fn replies_are_those_of_a_server() {
    let (reference, redis) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    for hello in ["", "HELLO 3"] {
        let (mut own, mut proxied) = (direct(&reference), bed.client());
        let ask = |client: &mut Client, words: &str| {
            // The reply to PING shows where the reply ends.
            client.send([request(words), request("PING end-of-the-reply")].concat());
            let mut reply = String::new();
            while !reply.ends_with("$16\r\nend-of-the-reply\r\n") && !reply.ends_with("$16\r\nend-of-the-reply") {
                reply.push_str(&client.line());
                reply.push_str("\r\n");
            }
            reply
        };
        if !hello.is_empty() {
            ask(&mut own, hello);
            ask(&mut proxied, hello);
        }
        for (words, before) in CALLS {
            for prepare in ["FLUSHALL"].iter().chain(*before) {
                direct(&reference).call(prepare).line();
                direct(&redis).call(prepare).line();
            }
            let began = Instant::now();
            let got = ask(&mut proxied, words);
            let took = began.elapsed();
            assert_eq!(got, ask(&mut own, words), "{hello} {words}");
            if got.starts_with(NIL) || got.starts_with("_\r\n") {
                assert!(took >= at_least(words), "{hello} {words}: after {took:?}");
            }
        }
    }
}

#[test]
fn keys_of_two_slots_are_refused() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr, &redis.addr]);
    let line = bed.client().call("BLPOP foo hello 0").line();
    assert!(line.starts_with("-CROSSSLOT ") && line.contains("not executed"), "{line}");
}

#[test]
fn the_client_that_waits_longest_is_served_first() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut waiting: Vec<Client> = (0..3).map(|_| blocked(&bed, &redis, "BLPOP q 0")).collect();
    bed.client().call("RPUSH q a b c").expect(":3\r\n");
    for (client, element) in waiting.iter_mut().zip(["a", "b", "c"]) {
        client.expect(&texts(&["q", element]));
    }
    bed.until("nobody is counted as blocked", |r| r.blocked == 0);
}

#[test]
fn what_is_sent_behind_a_blocking_call_waits_for_it() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = bed.client();
    let pipeline = ["SET k 1", "BLPOP q 0", "INCR k", "GET k", "BRPOP q 0.01"];
    client.send(pipeline.map(request).concat());
    client.expect("+OK\r\n");
    wait_blocked(&redis, 1);
    bed.until("it is counted as blocked", |r| r.blocked == 1);
    // More while it is blocked.
    client.call("INCR k");
    bed.client().call("GET k").expect("$1\r\n1\r\n");
    bed.client().call("RPUSH q a").expect(":1\r\n");
    client.expect(&texts(&["q", "a"])).expect(":2\r\n$1\r\n2\r\n").expect(NIL).expect(":3\r\n");
}

#[test]
fn replies_that_the_client_does_not_want_are_not_sent() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call("RPUSH q a b c").expect(":3\r\n");
    client.send(["CLIENT REPLY SKIP", "BLPOP q 0", "BLPOP q 0", "CLIENT REPLY OFF"].map(request).concat());
    client.send(["BLPOP q 0", "BLPOP q 0.01", "CLIENT REPLY ON", "PING"].map(request).concat());
    client.expect(&texts(&["q", "b"])).expect("+OK\r\n+PONG\r\n");
    assert_eq!(info(&redis, "blocked_clients"), 0);
}

/// The deadline for requests is on top of the time for which a server may rightly block.
#[test]
fn a_blocked_call_outlasts_the_request_deadline() {
    let redis = Redis::start();
    let deadline = Duration::from_millis(100);
    let limits = Limits { request_deadline: deadline, ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let mut for_ever = blocked(&bed, &redis, "BLPOP q 0");
    bed.client().call("BLPOP other 1").expect(NIL);
    bed.client().call("RPUSH q a").expect(":1\r\n");
    for_ever.expect(&texts(&["q", "a"]));
    // A server that is still silent when its time is over is given up.
    let mut client = blocked(&bed, &redis, "BLPOP q 0.2");
    redis.signal("STOP");
    assert_eq!(client.rest(), "");
    redis.signal("CONT");
}

#[test]
fn large_elements_pass() {
    let redis = Redis::start();
    let limits = Limits { large_message: 64 << 10, ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    let element = "x".repeat(3 << 20);
    direct(&redis).call(&format!("RPUSH q {element}")).expect(":1\r\n");
    client.expect(&texts(&["q", &element]));
    client.call("PING").expect("+PONG\r\n");
}
