//! Clients that leave while they are blocked: the server frees them, and no element is lost on them.

use std::net::Shutdown;

use super::*;

/// What a client sends last, in order.
const CALLS: [&str; 4] = ["BLPOP q 0", "BLMOVE {q}1 {q}2 LEFT LEFT 0", "XREAD BLOCK 0 STREAMS q $", "BZPOPMIN q 0"];

#[test]
fn a_client_that_closes_its_connection_is_freed_at_the_server() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    for call in CALLS {
        let client = blocked(&bed, &redis, call);
        drop(client);
        wait_blocked(&redis, 0);
    }
    bed.client().call("RPUSH q a").expect(":1\r\n").call("LLEN q").expect(":1\r\n");
    bed.until("nobody is counted as blocked", |r| r.blocked == 0);
}

#[test]
fn a_client_that_resets_its_connection_is_freed_at_the_server() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let client = blocked(&bed, &redis, "BLPOP q 0");
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    wait_blocked(&redis, 0);
}

#[test]
fn a_client_that_closes_only_its_sending_side_is_closed_without_a_reply() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "");
    wait_blocked(&redis, 0);
}

/// As with `nc`: the end of the input comes before the reply, and the element must not be lost.
#[test]
fn an_element_that_is_there_reaches_a_client_that_sends_nothing_more() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    for n in 0..200 {
        direct(&redis).call(&format!("RPUSH q {n}")).expect(":1\r\n");
        let mut client = bed.client();
        client.send([request("PING"), request("BLPOP q 0"), request("PING")].concat());
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), format!("+PONG\r\n{}+PONG\r\n", texts(&["q", &n.to_string()])));
    }
}

/// Its end is noticed behind what it has sent, up to a bound.
#[test]
fn a_blocked_client_that_has_sent_more_is_noticed_when_it_leaves() {
    let redis = Redis::start();
    let limits = Limits { parked_session_max: 256 << 10, ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    client.send(request("SET k v").repeat(1000));
    drop(client);
    wait_blocked(&redis, 0);
    bed.client().call("EXISTS k").expect(":0\r\n");
}

#[test]
fn a_proxy_that_ends_does_not_wait_for_blocked_clients() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    let mut waiting = blocked(&bed, &redis, "WAIT 1 0");
    let before = Instant::now();
    bed.runtime.block_on(bed.proxy.drain(PATIENCE));
    assert!(before.elapsed() < PATIENCE, "it waited for its deadline");
    assert_eq!((client.rest(), waiting.rest()), (String::new(), String::new()));
    wait_blocked(&redis, 0);
}

#[test]
fn connections_are_used_again() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    bed.client().call("BLPOP q 0.01").expect(NIL);
    let before = info(&redis, "total_connections_received");
    let mut client = bed.client();
    for _ in 0..50 {
        client.call("BLPOP q 0.001").expect(NIL);
    }
    let own = info(&redis, "total_connections_received") - before;
    assert_eq!(own, 1, "the one that asks");
}
