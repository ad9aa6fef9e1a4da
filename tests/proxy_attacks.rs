//! Clients and servers that try to confuse the pairing of requests, replies and connections.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::mpsc, time::Duration};

use common::{Bed, PATIENCE, Redis, fake, held, logins, with_product};
use pontoon::{
    model::{ids::HoldId, route::HoldKind},
    proxy::Limits,
};

#[test]
fn replies_that_are_off_stay_off() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    // SKIP has no effect while replies are off, and does not turn them on.
    client
        .call("CLIENT REPLY OFF")
        .call("CLIENT REPLY SKIP")
        .call("PING")
        .call("ECHO a")
        .call("GET a")
        .call("NONSENSE");
    client.call("CLIENT REPLY ON").expect("+OK\r\n");
    client.call("CLIENT REPLY SKIP").call("CLIENT REPLY SKIP").call("ECHO a").call("ECHO b").expect("$1\r\nb\r\n");
    // RESET turns replies on, and its own reply is the first.
    client.call("CLIENT REPLY OFF").call("PING").call("RESET").expect("+RESET\r\n");
    client.call("PING").expect("+PONG\r\n");
}

#[test]
fn a_parked_request_with_replies_off_gets_no_reply() {
    let redis = Redis::start();
    let limits = Limits { parked_for_max: Duration::from_millis(100), ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| held(table, 7, HoldKind::Wait, "k"));
    let mut client = bed.client();
    client.call("CLIENT REPLY SKIP").call("SET k v").call("ECHO first").call("CLIENT REPLY OFF").call("SET k v");
    client.expect("$5\r\nfirst\r\n").call("CLIENT REPLY ON").expect("+OK\r\n").call("PING").expect("+PONG\r\n");
}

#[test]
fn parked_requests_are_refused_when_the_node_stops() {
    let (addr, seen) = silent();
    let bed = Bed::start_with(&[&addr], Limits::default(), 1, |table| held(table, 7, HoldKind::Wait, "k"));
    let mut client = bed.client();
    client.call("SET k w");
    bed.until("parked", |r| r.stats.parked == 1);
    bed.runtime.block_on(bed.proxy.drain(PATIENCE));
    let rest = client.rest();
    assert_eq!(rest.matches("-TRYAGAIN not executed").count(), 1, "{rest}");
    assert!(seen.try_recv().is_err(), "nothing was sent");
}

/// A server that never answers, and the requests that it received.
fn silent() -> (String, mpsc::Receiver<Vec<Vec<u8>>>) {
    let (got, seen) = mpsc::sync_channel(16);
    let addr = fake(move |mut conn| {
        while let Some(args) = conn.request() {
            got.send(args).unwrap();
        }
    });
    (addr, seen)
}

#[test]
fn a_pipeline_keeps_its_order_over_a_change_of_connections() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    // The RESP3 connection exists, the RESP2 connection does not yet: requests on it arrive late.
    let mut first = bed.client();
    first.call("HELLO 3");
    while first.line() != "$7" {}
    first.call("CLIENT REPLY SKIP").call("GET k").call("PING");
    while first.line() != "+PONG" {}
    let mut client = bed.client();
    client
        .call("SET k v")
        .call("HELLO 3")
        .call("GET k")
        .call("SELECT 1")
        .call("SET k one")
        .call("SELECT 0")
        .call("GET k");
    client.expect("+OK\r\n");
    while client.line() != "*0" {}
    client.expect("$1\r\nv\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\nv\r\n");
    // A COPY into another database is visible there.
    for i in 0..50 {
        client.call(&format!("SET {{k}}{i} v")).call(&format!("COPY {{k}}{i} {{k}}c{i} DB {}", 2 + i % 10));
        client.call(&format!("SELECT {}", 2 + i % 10)).call(&format!("GET {{k}}c{i}")).call("SELECT 0");
        client.expect("+OK\r\n:1\r\n+OK\r\n$1\r\nv\r\n+OK\r\n");
    }
}

#[test]
fn a_server_that_refuses_the_login_is_down_not_unknown() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| p.rules.errors_detailed = true)
    });
    let line = bed.client().call("SET k v").line();
    assert!(line.starts_with("-ERR server ") && line.contains("NOAUTH") && line.ends_with(", not executed"), "{line}");
}

#[test]
fn an_error_of_many_lines_in_a_part_stays_one_reply() {
    let redis = Redis::start();
    let addr = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"!11\r\nERR a\r\n+b\r\n\r\n");
        }
    });
    let bed = Bed::start(&[&redis.addr, &addr]);
    let mut client = bed.client();
    let line = client.call("MSET foo 1 hello 2").line();
    assert!(line.starts_with("-ERR outcome unknown: executed for some keys only"), "{line}");
    client.call("PING").expect("+PONG\r\n");
    client.call("EXISTS foo hello");
    assert!(client.line().starts_with("-ERR a"));
    client.call("PING").expect("+PONG\r\n");
}

#[test]
fn nothing_of_a_transaction_with_a_refused_command_is_executed() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    // Sent at once, and repeated, as libraries do.
    for _ in 0..3 {
        client.call("MULTI").call("INCR k").call("NOSUCHCOMMAND").call("PING").call("EXEC");
        client.expect("+OK\r\n+QUEUED\r\n");
        assert!(client.line().starts_with("-ERR unknown command 'NOSUCHCOMMAND'"));
        client.expect("+QUEUED\r\n-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    client.call("EXISTS k").expect(":0\r\n");
    client.call("CONFIG GET MAXMEMORY MAXMEMORY-P*").expect("*4\r\n$9\r\nmaxmemory\r\n");
}

#[test]
fn a_transaction_guesses_no_passwords() {
    let redis = Redis::start();
    let bed =
        Bed::start_with(&[&redis.addr], Limits::default(), 1, |t| with_product(t, |p| p.auth = logins("secret", 1)));
    let mut client = bed.client();
    client.call("MULTI").expect("-NOAUTH Authentication required.\r\n");
    client.call("AUTH secret").expect("+OK\r\n").call("MULTI").expect("+OK\r\n");
    client.call("AUTH guess");
    assert!(client.line().starts_with("-ERR 'auth' is not executed in a transaction"));
    client.call("RESET").expect("+RESET\r\n").call("EXEC").expect("-NOAUTH Authentication required.\r\n");
}

#[test]
fn unexpected_pushes_are_dropped() {
    let addr = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b">2\r\n+invalidate\r\n_\r\n|1\r\n+ttl\r\n:5\r\n+value\r\n>1\r\n+x\r\n");
        }
    });
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    client.call("HELLO 3");
    while client.line() != "*0" {}
    client
        .call("GET a")
        .expect("|1\r\n+ttl\r\n:5\r\n+value\r\n")
        .call("GET b")
        .expect("|1\r\n+ttl\r\n:5\r\n+value\r\n");
}

#[test]
fn a_hold_waits_for_the_requests_of_a_client_that_left() {
    let (addr, seen) = silent();
    let bed = Bed::start(&[&addr]);
    let mut gone = bed.client();
    gone.call("SET k v");
    seen.recv_timeout(PATIENCE).unwrap();
    // A reset, so that the session ends at once; after an end of stream it would wait for its reply.
    socket2::SockRef::from(&gone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    // Its request is still unanswered, so the hold is not acked.
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    let report = bed.until("the hold is known", |r| r.holds.contains_key(&HoldId(7)));
    assert!(!report.holds[&HoldId(7)].drained);
    bed.until("answered unknown after the deadline", |r| r.holds[&HoldId(7)].drained && r.stats.unknown == 1);
}
