//! Servers that send what no server should: their replies do not end, or nobody asked for them. The connection is closed,
//! little memory is used, and other sessions go on. Knows nothing of real servers.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
};

use pontoon::proxy::Limits;

use crate::{
    MB,
    common::{Bed, PATIENCE, Redis, fake},
    patient,
};

/// Bytes after which the server gives up: it has sent more than any limit allows.
const SENT_MAX: usize = 256 * MB;

/// A server whose replies to requests for a key that ends in `evil` do not end.
struct Endless {
    addr: String,
    /// Lets it send one of these replies.
    go: mpsc::SyncSender<()>,
    /// The number of bytes that it could send before the connection was closed.
    sent: mpsc::Receiver<usize>,
}

impl Endless {
    /// It sends `begin`, and then `part` for ever.
    fn start(begin: &'static str, part: String) -> Self {
        let (go, may_go) = mpsc::sync_channel(16);
        let (report, sent) = mpsc::sync_channel(16);
        let may_go = Mutex::new(may_go);
        let addr = fake(move |mut conn| {
            while let Some(words) = conn.request() {
                if !words[1].ends_with(b"evil") {
                    conn.reply(b"+OK\r\n");
                    continue;
                }
                may_go.lock().unwrap().recv().unwrap();
                conn.reply(begin.as_bytes());
                let mut total = 0;
                while total < SENT_MAX && conn.stream.write_all(part.as_bytes()).is_ok() {
                    total += part.len();
                }
                return report.send(total).unwrap();
            }
        });
        Self { addr, go, sent }
    }

    /// Asserts that it could send at most this much.
    #[track_caller]
    fn has_sent_at_most(&self, max: usize) {
        let sent = self.sent.recv_timeout(PATIENCE).unwrap();
        assert!(sent <= max, "{} MB were read", sent / MB);
    }
}

/// Parts of an array.
fn elements() -> String {
    format!("${MB}\r\n{}\r\n", "x".repeat(MB))
}

/// A proxy with this server and a good one. Limits: 16 MB of a reply are kept, and 32 MB discarded.
fn bed(server: &Endless) -> (Bed, Redis) {
    let good = Redis::start();
    let limits = Limits { memory_max: 32 * MB, discarded_max: 32 * MB, ..patient() };
    // crc32 mod 1024: foo is in the lower half, hello in the upper.
    (Bed::start_with(&[&good.addr, &server.addr], limits, 1, |t| t), good)
}

/// One client asks for such a reply, and another one waits behind it on the same connection.
fn asks_for_evil(begin: &'static str, part: String) {
    let server = Endless::start(begin, part);
    let (bed, _good) = bed(&server);
    let (mut victim, mut behind, mut good) = (bed.client(), bed.client(), bed.client());
    victim.call("GET {hello}evil");
    bed.until("it is sent", |r| r.stats.forwarded == 1);
    behind.call("GET hello");
    bed.until("it is sent, too", |r| r.stats.forwarded == 2);
    server.go.send(()).unwrap();
    assert_eq!(victim.rest(), "", "a reply that is too large closes its client");
    good.call("SET foo 1").expect("+OK\r\n").call("GET foo").expect("$1\r\n1\r\n");
    let line = behind.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat: its server "), "{line}");
    assert!(line.contains("sent a reply without end: ") && line.ends_with(" bytes of it were discarded"), "{line}");
    // Over a new connection.
    behind.call("GET hello").expect("+OK\r\n");
    // What was kept, what was discarded, and what the sockets' buffers hold.
    server.has_sent_at_most(96 * MB);
    let report = bed.until("the memory is free", |r| r.memory_used < MB && r.stats.large_replies == 1);
    assert_eq!(report.stats.over_budget, 0);
}

#[test]
fn an_array_that_does_not_end_closes_its_client_and_its_connection() {
    asks_for_evil("*4294967295\r\n", elements());
}

#[test]
fn a_line_that_does_not_end_closes_its_client_and_its_connection() {
    asks_for_evil("+", "x".repeat(MB));
}

/// A large reply is passed on without a limit of its size; its client is gone, and so is the connection.
#[test]
fn a_reply_that_does_not_end_is_not_read_for_a_client_that_is_gone() {
    let server = Endless::start("*4294967295\r\n", elements());
    let (bed, _good) = bed(&server);
    server.go.send(()).unwrap();
    let mut client = bed.client();
    // A large request: on a dedicated connection.
    client.send(format!("*3\r\n$3\r\nSET\r\n$11\r\n{{hello}}evil\r\n${MB}\r\n{}\r\n", "x".repeat(MB)));
    client.expect(&format!("*4294967295\r\n${MB}\r\nxxx"));
    drop(client);
    // Less than it would discard: the sockets' buffers.
    server.has_sent_at_most(28 * MB);
    bed.client().call("GET hello").expect("+OK\r\n");
}

/// What nobody waits for is not kept: it would be charged to nobody. `begin` follows a complete reply.
fn is_not_asked_for(hello: &str, begin: &'static str) {
    let server = Endless::start(begin, elements());
    let (bed, _good) = bed(&server);
    server.go.send(()).unwrap();
    let mut client = bed.client();
    // The reply of HELLO has several lines.
    client.call(hello).call("ECHO end");
    while client.line() != "end" {}
    client.call("GET {hello}evil").expect("+OK\r\n");
    server.has_sent_at_most(28 * MB);
    client.call("EXISTS foo").expect(":0\r\n").call("GET hello").expect("+OK\r\n");
}

#[test]
fn a_reply_that_nobody_asked_for_closes_the_connection_before_it_is_complete() {
    is_not_asked_for("PING", "+OK\r\n*4294967295\r\n");
}

#[test]
fn a_push_that_does_not_end_closes_the_connection() {
    is_not_asked_for("HELLO 3", "+OK\r\n>4294967295\r\n");
}
