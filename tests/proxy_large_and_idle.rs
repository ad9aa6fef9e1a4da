//! Values larger than every queue, and unused connections.
//! Knows nothing of clusters: the proxy runs in this process.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use common::{Bed, PATIENCE, Redis, fake, held, with_product};
use pontoon::{
    model::{ids::HostPort, route::HoldKind},
    proxy::Limits,
};

#[test]
fn a_value_larger_than_every_queue_passes_both_ways() {
    // More than may be queued for a backend or a client (64 MB each) or a session (32 MB).
    let value = "x".repeat(100 << 20);
    let redis = Redis::start();
    let limits = Limits { request_deadline: PATIENCE, ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let mut client = bed.client();
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len())).expect("+OK\r\n");
    client.call("GET k").expect(&format!("${}\r\n{value}\r\n", value.len()));
    // Other clients are served meanwhile and afterwards.
    bed.client().call("STRLEN k").expect(&format!(":{}\r\n", value.len()));
}

#[test]
fn a_bulk_above_the_limit_is_refused_by_its_header() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let header = |len: u64| format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n");
    let mut client = bed.client();
    client.send(header((512 << 20) + 1)).expect("-ERR Protocol error: invalid bulk length\r\n");
    assert_eq!(client.rest(), "");
    // With one byte less, the proxy waits for the bytes.
    let mut waits = bed.client();
    waits.send(header(512 << 20)).send("begin");
    bed.client().call("PING").expect("+PONG\r\n");
    waits.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let nothing = std::io::Read::read(&mut waits.stream, &mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

/// A server that answers all requests with OK and reports when a connection begins and ends.
fn watched() -> (String, mpsc::Receiver<&'static str>) {
    let (report, events) = mpsc::sync_channel(16);
    let addr = fake(move |mut conn| {
        report.send("opened").unwrap();
        while conn.request().is_some() {
            conn.reply(b"+OK\r\n");
        }
        report.send("closed").unwrap();
    });
    (addr, events)
}

#[test]
fn an_unused_connection_is_closed_and_opened_again() {
    let (addr, events) = watched();
    let limits = Limits { backend_idle: Duration::from_millis(300), ..Limits::default() };
    let bed = Bed::start_with(&[&addr], limits, 1, |table| table);
    let mut client = bed.client();
    client.call("SELECT 3").expect("+OK\r\n");
    client.call("GET a").expect("+OK\r\n");
    assert_eq!(events.recv_timeout(PATIENCE), Ok("opened"));
    let used = Instant::now();
    assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    assert!(used.elapsed() >= Duration::from_millis(100), "closed while it was young: {:?}", used.elapsed());
    // The same session, which had a reference to the old connection.
    client.call("GET a").expect("+OK\r\n");
    assert_eq!(events.recv_timeout(PATIENCE), Ok("opened"));
}

#[test]
fn the_connection_to_a_server_that_left_the_routes_is_closed() {
    let (old, events) = watched();
    let (new, events_new) = watched();
    let bed = Bed::start(&[&old]);
    let mut client = bed.client();
    client.call("GET a").expect("+OK\r\n");
    assert_eq!(events.recv_timeout(PATIENCE), Ok("opened"));
    let mut table = with_product(bed.table(), |product| product.groups[0].primary = HostPort::parse(&new).unwrap());
    table.epoch.0 += 1;
    bed.publish(table);
    assert_eq!(events.recv_timeout(PATIENCE), Ok("closed"));
    client.call("GET a").expect("+OK\r\n");
    assert_eq!(events_new.recv_timeout(PATIENCE), Ok("opened"));
}

/// A product sees its clients only in rounds of five seconds, so the timeout here is below what an operator may set.
const IDLE: Duration = Duration::from_secs(1);

#[test]
fn a_client_without_a_request_is_closed_and_no_other_is() {
    // It answers GET never, and everything else at once.
    let addr = fake(|mut conn| {
        while let Some(request) = conn.request() {
            if request[0] != b"GET" {
                conn.reply(b"+OK\r\n");
            }
        }
    });
    let limits = Limits { request_deadline: 2 * PATIENCE, parked_for_max: 2 * PATIENCE, ..Limits::default() };
    let idle_ms = IDLE.as_millis() as u32;
    let bed = Bed::start_with(&[&addr], limits, 2, |t| {
        held(with_product(t, |p| p.rules.idle_ms = idle_ms), 1, HoldKind::Wait, "held")
    });
    let mut parked = bed.client();
    parked.call("SET held 1");
    let (mut idle, mut waits, mut sends, mut pings) = (bed.client(), bed.client(), bed.client(), bed.client());
    idle.call("SET a 1").expect("+OK\r\n");
    waits.call("GET a");
    sends.send("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\n");
    let begun = Instant::now();
    let closed = || bed.until("reported", |_| true).stats.idle_clients;
    // Until the idle one is closed, and for three more rounds.
    let mut left = None;
    while left.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(15)) {
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(15), "the idle client is not closed");
        // Bytes of an unfinished request are no silence, and neither are requests that the node answers itself.
        sends.send("x");
        pings.call("PING").expect("+PONG\r\n");
        if left.is_none() && closed() > 0 {
            assert!(begun.elapsed() >= IDLE, "it was closed while it was young");
            left = Some(Instant::now());
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(idle.rest(), "");
    pings.call("PING").expect("+PONG\r\n");
    sends.send(b"?").call("PING");
    for (client, what) in [(&mut waits, "in flight"), (&mut parked, "parked")] {
        client.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let nothing = std::io::Read::read(&mut client.stream, &mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "closed with a request {what}");
    }
    assert_eq!(closed(), 1);
}
