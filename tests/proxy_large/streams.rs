//! Large replies on dedicated connections: when they are passed on, how long they may take, and when their sessions and
//! connections are ordinary again. The servers are scripted.

use std::{
    io::{ErrorKind, Read},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use pontoon::{clock::boottime_ns, model::ids::Epoch, proxy::Limits};

use crate::{
    MB,
    common::{Bed, Client, PATIENCE, fake, with_product},
    patient,
};

/// A value of `len` bytes as a reply.
fn bulk(len: usize) -> String {
    format!("${len}\r\n{}\r\n", "x".repeat(len))
}

/// A server that answers `GET k` with a large message, gives the test each other request and sends what the test wants.
/// It confirms writes when the test says so.
struct Directed {
    addr: String,
    requests: mpsc::Receiver<String>,
    /// Parts of the replies; each reply ends with CRLF.
    parts: mpsc::SyncSender<String>,
    /// Requests of the connection that confirms writes, without PING.
    waits: mpsc::Receiver<String>,
    confirm: mpsc::SyncSender<u32>,
}

impl Directed {
    fn start() -> Self {
        let (seen, requests) = mpsc::sync_channel(16);
        let (parts, to_send) = mpsc::sync_channel::<String>(16);
        let (asked, waits) = mpsc::sync_channel(16);
        let (confirm, counts) = mpsc::sync_channel::<u32>(16);
        let (to_send, counts) = (Arc::new(Mutex::new(to_send)), Arc::new(Mutex::new(counts)));
        let addr = fake(move |mut conn| {
            while let Some(words) = conn.request() {
                let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
                match words.join(" ").as_str() {
                    "PING" => conn.reply(b"+PONG\r\n"),
                    "GET k" => conn.reply(bulk(MB).as_bytes()),
                    wait if words[0] == "WAIT" => {
                        asked.send(wait.to_owned()).unwrap();
                        let Ok(count) = counts.lock().unwrap().recv() else { return };
                        conn.reply(format!(":{count}\r\n").as_bytes());
                    }
                    other => {
                        seen.send(other.to_owned()).unwrap();
                        let mut ended = false;
                        while !ended {
                            let Ok(part) = to_send.lock().unwrap().recv() else { return };
                            conn.reply(part.as_bytes());
                            ended = part.ends_with("\r\n");
                        }
                    }
                }
            }
        });
        Self { addr, requests, parts, waits, confirm }
    }

    /// Expects this request.
    #[track_caller]
    fn expect(&self, request: &str) {
        assert_eq!(self.requests.recv_timeout(PATIENCE).unwrap(), request);
    }

    fn send(&self, part: impl Into<String>) {
        self.parts.send(part.into()).unwrap();
    }
}

/// A session that uses dedicated connections from now on.
fn with_dedicated(bed: &Bed) -> Client {
    let mut client = bed.client();
    client.call("GET k").expect(&bulk(MB));
    client
}

/// Asserts that this client has received nothing.
#[track_caller]
fn is_silent(client: &Client) {
    client.stream.set_nonblocking(true).unwrap();
    let got = (&client.stream).read(&mut [0; 64]);
    client.stream.set_nonblocking(false).unwrap();
    assert_eq!(got.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
}

/// Check 2 comes before the first byte that is passed on, and a reply that has passed it is completed.
#[test]
fn check_2_comes_before_the_first_byte_of_a_large_reply() {
    let server = Directed::start();
    let bed = Bed::start_with(&[&server.addr], patient(), 1, |t| t);
    let mut client = with_dedicated(&bed);
    let (header, value) = (format!("${}\r\n", 8 * MB), "x".repeat(4 * MB));

    // The lease is lost while nothing has been passed on.
    client.call("GET big");
    server.expect("GET big");
    server.send(header.clone() + "x");
    bed.permit.revoke();
    server.send(value.clone());
    server.send(value[1..].to_owned() + "\r\n");
    let line = client.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");
    bed.permit.renew(boottime_ns() + 3_600_000_000_000, Epoch(1));

    // The slot gets another owner.
    client.call("GET big");
    server.expect("GET big");
    server.send(header.clone() + "x");
    let mut table = with_product(bed.table(), |p| p.slots.iter_mut().for_each(|slot| slot.epoch = Epoch(5)));
    table.epoch = Epoch(5);
    bed.publish(table);
    bed.until("the routes", |r| r.route_epoch == Epoch(5));
    server.send(value.clone());
    server.send(value[1..].to_owned() + "\r\n");
    let line = client.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");

    // It is lost in the middle of the reply: the client has the beginning, which cannot be taken back.
    client.call("GET big");
    server.expect("GET big");
    server.send(header.clone() + &value);
    client.expect(&header).expect("xxxx");
    bed.permit.revoke();
    server.send(value.clone() + "\r\n");
    client.expect(&value[4..]).expect(&value).expect("\r\n");
}

/// Of a reply that waits for replicas, no byte is passed on before; `call` is what the client sends.
fn waits_for_replicas(call: &str, reads: bool) {
    let server = Directed::start();
    let bed = Bed::start_with(&[&server.addr], patient(), 1, |t| t);
    let mut client = with_dedicated(&bed);
    let mut table = with_product(bed.table(), |p| {
        (p.min_acks, p.min_acks_ms) = (1, 3_600_000);
        p.reads.confirmed = reads;
    });
    table.epoch = Epoch(2);
    bed.publish(table);
    bed.until("the setting", |r| r.route_epoch == Epoch(2));
    let (header, value) = (format!("${}\r\n", 16 * MB), "x".repeat(8 * MB));
    for confirmed in [1, 0] {
        bed.until("nothing is kept", |r| r.memory_used < MB);
        client.call(call);
        server.expect(call);
        server.send(header.clone() + &value);
        // It is incomplete, and kept.
        bed.until("half of the reply has arrived", |r| r.memory_used > 7 * MB);
        is_silent(&client);
        server.send(value.clone() + "\r\n");
        assert_eq!(server.waits.recv_timeout(PATIENCE).unwrap(), "WAIT 1 3600000");
        is_silent(&client);
        server.confirm.send(confirmed).unwrap();
        if confirmed == 1 {
            client.expect(&header).expect(&value).expect(&value).expect("\r\n");
        } else {
            let line = client.line();
            assert!(line.starts_with("-NOREPLICAS ") && line.contains("0 confirmed"), "{line}");
        }
    }
    // Without min-acks, it is passed on as it arrives.
    let mut table = with_product(bed.table(), |p| p.min_acks = 0);
    table.epoch = Epoch(3);
    bed.publish(table);
    bed.until("the setting", |r| r.route_epoch == Epoch(3));
    client.call(call);
    server.expect(call);
    server.send(header.clone() + &value);
    client.expect(&header).expect(&value);
    server.send(value.clone() + "\r\n");
    client.expect(&value).expect("\r\n");
}

#[test]
fn a_large_reply_to_a_write_is_not_passed_on_before_replicas_have_the_write() {
    waits_for_replicas("GETDEL big", false);
}

#[test]
fn a_large_reply_to_a_read_that_is_confirmed_is_not_passed_on_before() {
    waits_for_replicas("GET big", true);
}

/// A deadline runs from the last byte of a reply, on shared and on dedicated connections.
#[test]
fn a_reply_that_takes_longer_than_the_deadline_arrives_while_bytes_move() {
    const DEADLINE: Duration = Duration::from_millis(1500);
    let (len, first) = (2 * MB, MB);
    let addr = fake(move |mut conn| {
        while let Some(words) = conn.request() {
            if words[1] == b"k" {
                conn.reply(bulk(MB).as_bytes());
                continue;
            }
            let (len, first) = if words[1] == b"big" { (len, first) } else { (1000, 0) };
            conn.reply(format!("${len}\r\n{}", "x".repeat(first)).as_bytes());
            let (began, mut sent) = (Instant::now(), first);
            let (_never, pace) = mpsc::sync_channel::<()>(0);
            while began.elapsed() < 3 * DEADLINE && sent < len {
                let _ = pace.recv_timeout(Duration::from_millis(50));
                conn.reply(b"x");
                sent += 1;
            }
            conn.reply(format!("{}\r\n", "x".repeat(len - sent)).as_bytes());
        }
    });
    let bed = Bed::start_with(&[&addr], Limits { request_deadline: DEADLINE, ..patient() }, 1, |t| t);
    let (mut shared, mut dedicated) = (bed.client(), with_dedicated(&bed));
    shared.call("GET small");
    dedicated.call("GET big");
    shared.expect(&bulk(1000));
    dedicated.expect(&bulk(len));
}

/// A server with large values that tells the test which of its connections, by number, gets each request, and which
/// ends.
fn numbered() -> (String, mpsc::Receiver<(usize, &'static str)>) {
    let (report, events) = mpsc::sync_channel(1000);
    let opened = AtomicUsize::new(0);
    let addr = fake(move |mut conn| {
        let number = opened.fetch_add(1, Ordering::SeqCst);
        while let Some(words) = conn.request() {
            let large = words[1] == b"k";
            report.send((number, if large { "large" } else { "small" })).unwrap();
            conn.reply(bulk(if large { MB } else { 1 }).as_bytes());
        }
        report.send((number, "closed")).unwrap();
    });
    (addr, events)
}

#[test]
fn a_session_returns_to_the_shared_connection_after_its_large_replies() {
    const DEDICATED_FOR: Duration = Duration::from_secs(3);
    let (addr, events) = numbered();
    let bed = Bed::start_with(&[&addr], Limits { dedicated_for: DEDICATED_FOR, ..patient() }, 1, |t| t);
    let mut client = bed.client();
    let mut large = || {
        client.call("GET k").expect(&bulk(MB));
        events.recv_timeout(PATIENCE).unwrap()
    };
    // The first large reply was not expected; the second follows at once.
    assert_eq!((large(), large()), ((0, "large"), (1, "large")));
    // Each one counts, those that are passed on as they arrive, too.
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < DEDICATED_FOR * 3 / 2 {
        let event = large();
        assert!(event == (1, "large") || last.elapsed() > DEDICATED_FOR / 2, "{event:?}");
        last = Instant::now();
    }
    let end = Instant::now() + PATIENCE;
    loop {
        client.call("GET a").expect(&bulk(1));
        match events.recv_timeout(PATIENCE).unwrap() {
            (0, "small") => break,
            (1, "small") => assert!(Instant::now() < end, "the session keeps its dedicated connection"),
            event => panic!("{event:?}"),
        }
    }
    // Its connection is idle, and another session gets it.
    let mut other = bed.client();
    other.call("GET k").expect(&bulk(MB)).call("GET a").expect(&bulk(1));
    assert_eq!([events.recv_timeout(PATIENCE), events.recv_timeout(PATIENCE)], [Ok((0, "large")), Ok((1, "small"))]);
}

#[test]
fn a_dedicated_connection_that_is_not_used_is_closed() {
    let (addr, events) = numbered();
    let limits = Limits { backend_idle: Duration::from_millis(300), dedicated_for: PATIENCE * 100, ..patient() };
    let bed = Bed::start_with(&[&addr], limits, 1, |t| t);
    let mut client = with_dedicated(&bed);
    client.call("GET a").expect(&bulk(1));
    let mut closed = Vec::new();
    while closed.len() < 2 {
        match events.recv_timeout(PATIENCE) {
            Ok((number, "closed")) => closed.push(number),
            Ok(_) => {}
            Err(error) => panic!("{error}: only {closed:?} are closed"),
        }
    }
    // The session opens another one.
    client.call("GET a").expect(&bulk(1));
    assert_eq!(events.recv_timeout(PATIENCE), Ok((2, "small")));
}
