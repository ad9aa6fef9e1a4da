//! What one session may have at a time: requests in flight, requests that are not executed, unread replies, memory.

use std::{
    io::{ErrorKind, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use pontoon::proxy::Limits;

use crate::{
    MB,
    common::{Bed, Client, PATIENCE, Redis, fake, request},
    gate::Relay,
    patient, send_later, set,
};

/// A client sends a pipeline of which the server answers the first `answered` requests with `len` bytes each. Returns how
/// many requests are in flight then.
fn in_flight_after(answered: usize, len: usize) -> usize {
    let got = Arc::new(AtomicUsize::new(0));
    let (count, (report, other_came)) = (got.clone(), mpsc::sync_channel(1));
    let addr = fake(move |mut conn| {
        while let Some(words) = conn.request() {
            if words[1] == b"other" {
                report.send(()).unwrap();
            } else if count.fetch_add(1, Ordering::SeqCst) < answered {
                conn.reply(format!("${len}\r\n{}\r\n", "x".repeat(len)).as_bytes());
            }
        }
    });
    let bed = Bed::start_with(&[&addr], patient(), 1, |t| t);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(request("GET k").repeat(2 * answered + 20));
    for _ in 0..answered {
        client.expect(&format!("${len}\r\n{}\r\n", "x".repeat(len)));
    }
    // The worker has sent what the session may send by then.
    for _ in 0..100 {
        other.call("PING").expect("+PONG\r\n");
    }
    other.call("GET other");
    other_came.recv_timeout(PATIENCE).unwrap();
    got.load(Ordering::SeqCst) - answered
}

/// A connection is shared fairly by bytes.
#[test]
fn a_session_with_large_replies_has_few_requests_in_flight() {
    assert!(in_flight_after(100, 100) > 100, "small replies let the window grow");
    let large = in_flight_after(100, 20_000);
    assert!(large <= 8, "{large} requests are in flight");
    let very_large = in_flight_after(10, MB);
    assert!(very_large <= 2, "{very_large} requests are in flight");
}

/// At half of the budget, a session with more than its share is not read until there is memory.
#[test]
fn near_the_budget_a_session_with_much_data_is_not_read() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { memory_max: 32 * MB, ..patient() }, 1, |t| t);
    // A request that does not end.
    let first = bed.client();
    send_later(&first, format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n{}", 30 * MB, "x".repeat(12 * MB)));
    bed.until("it has arrived", |r| r.memory_used >= 12 * MB);
    let mut second = bed.client();
    send_later(&second, set("k", 8 * MB));
    bed.until("the second is not read", |r| r.stats.memory_pauses > 0);
    second.stream.set_nonblocking(true).unwrap();
    let answer = second.stream.read(&mut [0; 64]).map_err(|error| error.kind());
    second.stream.set_nonblocking(false).unwrap();
    // Others are served.
    bed.client().call("SET small 1").expect("+OK\r\n");
    drop(first);
    if answer == Err(ErrorKind::WouldBlock) {
        second.expect("+OK\r\n");
    } else {
        // The machine is so busy that the pause has ended, because the first client was closed for the second.
        assert!(bed.until("a client is closed", |r| r.stats.over_budget > 0).stats.over_budget > 0);
    }
}

/// Replies of the node itself count like those of servers, and progress decides.
#[test]
fn a_client_that_does_not_read_what_the_node_answers_is_closed_and_a_slow_one_is_not() {
    const STALLED: Duration = Duration::from_secs(2);
    let redis = Redis::start();
    let limits = Limits { session_output_max: 256 * 1024, client_stalled_max: STALLED, ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |t| t);
    let (deaf, mut slow) = (bed.client(), bed.client());
    // More than the sockets' buffers take.
    let (word, count) = ("x".repeat(64 * 1024), 800);
    let pipeline = request(&format!("ECHO {word}")).repeat(count);
    send_later(&deaf, String::from_utf8(pipeline.clone()).unwrap());
    send_later(&slow, String::from_utf8(pipeline).unwrap());
    let mut chunk = vec![0; 64 * 1024];
    let (began, mut read, mut closed) = (Instant::now(), 0, 0);
    let (_never, pace) = mpsc::sync_channel::<()>(0);
    while began.elapsed() < 3 * STALLED || closed == 0 {
        let _ = pace.recv_timeout(Duration::from_millis(20));
        read += slow.stream.read(&mut chunk).unwrap();
        closed = bed.proxy.report().borrow().stats.slow_clients;
        assert!(began.elapsed() < 3 * STALLED + PATIENCE, "no client is closed");
    }
    let total = count * format!("${}\r\n{word}\r\n", word.len()).len();
    assert!(read < total, "the slow client was not slow");
    while read < total {
        let len = slow.stream.read(&mut chunk).unwrap();
        assert!(len > 0, "the slow client was closed after {read} of {total} bytes");
        read += len;
    }
    assert_eq!(closed, 1);
    slow.call("PING").expect("+PONG\r\n");
}

/// Beyond `read_ahead_max`, a client that does not read is not read either, and closed with a reason of its own.
#[test]
fn a_client_that_sends_too_much_before_it_reads_is_closed_with_a_reason() {
    let redis = Redis::start();
    let limits = Limits {
        session_output_max: 64 * 1024,
        read_ahead_max: MB,
        client_stalled_max: Duration::from_secs(2),
        ..patient()
    };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |t| t);
    let (mut reads, deaf) = (bed.client(), bed.client());
    reads.send(set("k", 1000)).expect("+OK\r\n");
    let count = 2_000_000;
    let pipeline = String::from_utf8(request("GET k").repeat(count)).unwrap();
    send_later(&deaf, pipeline);
    let memory = AtomicUsize::new(0);
    let report = bed.until("the client is closed", |r| {
        memory.fetch_max(r.memory_used, Ordering::Relaxed);
        r.stats.long_pipelines == 1
    });
    let memory = memory.into_inner();
    assert!((MB..8 * MB).contains(&memory), "{memory} bytes were kept");
    assert_eq!((report.stats.slow_clients, report.stats.over_budget), (0, 0));
    // It has executed what the client could have read, and kept as many requests as it may.
    assert!(report.stats.requests < count as u64 / 4, "{} were executed", report.stats.requests);

    // A client that reads meanwhile may send as much as it likes.
    let count = 100_000;
    send_later(&reads, String::from_utf8(request("GET k").repeat(count)).unwrap());
    let want = format!("$1000\r\n{}\r\n", "x".repeat(1000));
    for _ in 0..count {
        reads.expect(&want);
    }
    assert_eq!(bed.proxy.report().borrow().stats.long_pipelines, 1);
}

#[test]
fn a_large_reply_is_passed_on_within_the_budget() {
    let redis = Redis::start();
    // Less than the reply: it must not be kept whole.
    let bed = Bed::start_with(&[&redis.addr], Limits { memory_max: 32 * MB, ..patient() }, 1, |t| t);
    let mut client = bed.client();
    Client::connect(redis.port()).send(set("big", 100 * MB)).expect("+OK\r\n");
    client.send(set("k", 2 * MB)).expect("+OK\r\n");
    client.send([request("GET big"), request("GET k"), request("GET big"), request("PING")].concat());
    for len in [100 * MB, 2 * MB, 100 * MB] {
        client.expect(&format!("${len}\r\n{}\r\n", "x".repeat(len)));
    }
    client.expect("+PONG\r\n");
    assert_eq!(bed.proxy.report().borrow().stats.over_budget, 0);
}

#[test]
fn at_the_budget_the_clients_with_the_most_data_are_closed() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { memory_max: 32 * MB, ..patient() }, 2, |t| t);
    let mut good = bed.client();
    good.call("SET small 1").expect("+OK\r\n");
    // Requests that never end: 64 clients with 1 MB each.
    let greedy: Vec<Client> = (0..64).map(|_| bed.client()).collect();
    for client in &greedy {
        let begin = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{}", 4 * MB, "x".repeat(MB));
        send_later(client, begin);
    }
    bed.until("some are closed", |r| r.stats.over_budget > 0);
    for _ in 0..100 {
        good.call("GET small").expect("$1\r\n1\r\n");
    }
    good.send(set("k", 64 * 1024)).expect("+OK\r\n");
}

#[test]
fn clients_whose_large_requests_do_not_move_are_closed_before_others() {
    let servers = [Redis::start(), Redis::start()];
    let relay = Relay::start(&servers[0].addr);
    let limits = Limits { memory_max: 64 * MB, request_deadline: 10 * PATIENCE, ..patient() };
    let bed = Bed::start_with(&[&relay.addr, &servers[1].addr], limits, 1, |t| t);
    // Complete requests that fill the budget, for a server that does not read.
    let greedy: Vec<Client> = (0..8).map(|_| bed.client()).collect();
    for (client, done) in greedy.iter().zip(1..) {
        send_later(client, set("foo", 8 * MB));
        bed.until("it is sent, or a client is closed", |r| r.stats.forwarded + r.stats.over_budget >= done);
    }
    let mut good = bed.client();
    good.send(set("hello", 7 * MB)).expect("+OK\r\n");
}
