//! `min-acks` on the wire: what the proxy sends to a primary, when, and what its clients receive. The servers are
//! scripted.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use common::{Bed, Client, Conn, PATIENCE, Redis, fake_with, held, with_product};
use pontoon::{
    model::{
        ids::{HoldId, HostPort},
        route::{HoldKind, ProductRoutes, RouteTable},
    },
    proxy::Limits,
};

/// What a scripted primary does with a `WAIT`.
enum WaitAnswer {
    Count(u32),
    /// Never answers.
    Nothing,
    /// Closes the connection.
    Close,
}

/// A primary that executes all commands at once; the test decides what it answers to `WAIT`.
struct Primary {
    addr: String,
    answer: mpsc::SyncSender<WaitAnswer>,
    /// Requests from its acks connections.
    asked: mpsc::Receiver<String>,
    executed: Arc<AtomicUsize>,
}

impl Primary {
    fn start() -> Self {
        Self::start_with(|_| "one".into())
    }

    /// `run_id` gives the run id for the login with this number.
    fn start_with(run_id: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let (answer, to_give) = mpsc::sync_channel(64);
        let (seen, asked) = mpsc::sync_channel(4096);
        let to_give = Arc::new(Mutex::new(to_give));
        let executed = Arc::new(AtomicUsize::new(0));
        let (count, log_ins) = (executed.clone(), AtomicUsize::new(0));
        let addr = fake_with(
            move || run_id(log_ins.fetch_add(1, Ordering::SeqCst)),
            move |mut conn: Conn| {
                let acks = conn.name.ends_with(":acks");
                while let Some(words) = conn.request() {
                    if acks {
                        let words: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
                        seen.send(words.join(" ")).unwrap();
                        if words[0] == "PING" {
                            conn.reply(b"+PONG\r\n");
                            continue;
                        }
                        match to_give.lock().unwrap().recv() {
                            Ok(WaitAnswer::Count(n)) => conn.reply(format!(":{n}\r\n").as_bytes()),
                            Ok(WaitAnswer::Nothing) => {}
                            Ok(WaitAnswer::Close) | Err(_) => return,
                        }
                        continue;
                    }
                    conn.reply(match &words[0][..] {
                        b"GET" => b"$1\r\nv\r\n",
                        b"DEL" => b":1\r\n",
                        _ if words[1] == b"bad" => b"-WRONGTYPE it is bad\r\n",
                        _ => b"+OK\r\n",
                    });
                    count.fetch_add(1, Ordering::SeqCst);
                }
            },
        );
        Self { addr, answer, asked, executed }
    }

    /// Expects a PING and then this WAIT.
    #[track_caller]
    fn expect(&self, wait: &str) {
        assert_eq!(self.asked.recv_timeout(PATIENCE).unwrap(), "PING");
        assert_eq!(self.asked.recv_timeout(PATIENCE).unwrap(), wait);
    }

    fn answer(&self, answer: WaitAnswer) {
        self.answer.send(answer).unwrap();
    }

    fn has_executed(&self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.executed.load(Ordering::SeqCst) < count {
            assert!(std::time::Instant::now() < end, "{count} are not executed");
            std::thread::yield_now();
        }
    }
}

fn with_acks(min_acks: u8, ms: u32) -> impl FnOnce(RouteTable) -> RouteTable {
    move |table| with_product(table, |p| set(p, min_acks, ms))
}

fn set(product: &mut ProductRoutes, min_acks: u8, ms: u32) {
    (product.min_acks, product.min_acks_ms) = (min_acks, ms);
}

fn bed(primaries: &[&Primary]) -> Bed {
    let addrs: Vec<_> = primaries.iter().map(|p| p.addr.as_str()).collect();
    Bed::start_with(&addrs, Limits::default(), 1, with_acks(1, 20_000))
}

/// Asserts that this client received nothing. Call it after a later request of another client was answered.
fn is_silent(client: &mut Client) {
    client.stream.set_nonblocking(true).unwrap();
    let got = client.stream.read(&mut [0; 64]);
    client.stream.set_nonblocking(false).unwrap();
    assert_eq!(got.map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
}

#[test]
fn a_write_is_answered_when_a_replica_has_it() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    let (mut one, mut two) = (bed.client(), bed.client());
    // A read behind a write keeps its place; reads of other clients do not wait.
    one.call("SET k 1").call("GET k");
    primary.expect("WAIT 1 20000");
    primary.has_executed(2);
    two.call("GET k").expect("$1\r\nv\r\n");
    is_silent(&mut one);
    primary.answer(WaitAnswer::Count(1));
    one.expect("+OK\r\n$1\r\nv\r\n");
    // More replicas than required also confirm.
    two.call("SET k 2");
    primary.expect("WAIT 1 20000");
    primary.answer(WaitAnswer::Count(3));
    two.expect("+OK\r\n");
}

#[test]
fn writes_that_arrive_during_a_wait_form_the_next_batch() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    let mut clients: Vec<_> = (0..20).map(|_| bed.client()).collect();
    clients[0].call("SET a 1");
    primary.expect("WAIT 1 20000");
    for client in &mut clients[1..] {
        client.call("SET b 1").call("DEL b");
    }
    primary.has_executed(39);
    // The proxy has read their replies, because it answered a later request.
    bed.client().call("GET c").expect("$1\r\nv\r\n");
    for client in &mut clients {
        is_silent(client);
    }
    primary.answer(WaitAnswer::Count(1));
    clients[0].expect("+OK\r\n");
    primary.expect("WAIT 1 20000");
    primary.answer(WaitAnswer::Count(1));
    for client in &mut clients[1..] {
        client.expect("+OK\r\n:1\r\n");
    }
    assert!(primary.asked.try_recv().is_err(), "38 writes are one batch");
}

#[test]
fn too_few_replicas_do_not_confirm() {
    let primary = Primary::start();
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 1, with_acks(2, 700));
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 2 700");
    primary.answer(WaitAnswer::Count(1));
    let line = client.line();
    assert_eq!(line, "-NOREPLICAS executed, not confirmed on 2 replicas: 1 confirmed within 700 ms");
    bed.until("the write is counted", |r| r.stats.unconfirmed == 1);
    // The session and the connection stay open.
    client.call("SET k 2");
    primary.expect("WAIT 2 700");
    primary.answer(WaitAnswer::Count(2));
    client.expect("+OK\r\n");
}

/// Each write has its own deadline, whatever the batch before it waits for.
#[test]
fn a_write_that_arrives_during_a_wait_is_answered_in_time() {
    const WITHIN: Duration = Duration::from_secs(3);
    let primary = Primary::start();
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 1, with_acks(1, WITHIN.as_millis() as u32));
    let (mut one, mut two) = (bed.client(), bed.client());
    let began = std::time::Instant::now();
    one.call("SET a 1");
    primary.expect("WAIT 1 3000");
    two.call("SET b 1");
    // No WAIT is ever answered.
    for client in [&mut one, &mut two] {
        let line = client.line();
        assert_eq!(line, "-NOREPLICAS executed, not confirmed on 1 replicas: fewer confirmed within 3000 ms");
    }
    let took = began.elapsed();
    assert!(took >= WITHIN && took < 2 * WITHIN, "the second write waited for the WAIT of the first: {took:?}");
    primary.answer(WaitAnswer::Nothing);
}

/// The result of a WAIT concerns only the writes of its batch that still wait.
#[test]
fn a_late_confirmation_concerns_no_later_write() {
    let primary = Primary::start();
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 1, with_acks(1, 3_000));
    let mut client = bed.client();
    client.call("SET a 1");
    primary.expect("WAIT 1 3000");
    assert!(client.line().contains("fewer confirmed within 3000 ms"));
    // Within the grace of the WAIT before, so that this write waits on the same connection.
    client.call("SET b 1");
    primary.has_executed(2);
    primary.answer(WaitAnswer::Count(1));
    primary.expect("WAIT 1 3000");
    is_silent(&mut client);
    primary.answer(WaitAnswer::Count(1));
    client.expect("+OK\r\n");
}

#[test]
fn with_read_confirmed_reads_wait_like_writes() {
    let primary = Primary::start();
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 1, |table| {
        with_product(table, |p| {
            set(p, 1, 20_000);
            p.reads.confirmed = true;
        })
    });
    let mut client = bed.client();
    client.call("GET k");
    primary.expect("WAIT 1 20000");
    is_silent(&mut client);
    primary.answer(WaitAnswer::Count(1));
    client.expect("$1\r\nv\r\n");
    client.call("GET k");
    primary.expect("WAIT 1 20000");
    primary.answer(WaitAnswer::Count(0));
    let line = client.line();
    assert_eq!(
        line,
        "-NOREPLICAS not delivered, not confirmed on 1 replicas, safe to repeat: 0 confirmed within 20000 ms"
    );
    // Errors have seen nothing.
    client.call("SET bad 1").expect("-WRONGTYPE it is bad\r\n");
    // Without min-acks, nothing waits.
    let mut table = with_product(bed.table(), |p| set(p, 0, 20_000));
    table.epoch.0 = 2;
    bed.publish(table);
    bed.until("the setting", |r| r.route_epoch.0 == 2);
    client.call("GET k").expect("$1\r\nv\r\n");
    assert!(primary.asked.try_recv().is_err());
}

#[test]
fn writes_are_not_confirmed_without_an_answer_or_connection() {
    let primary = Primary::start();
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 1, with_acks(1, 20_000));
    let mut client = bed.client();
    let check = |client: &mut Client, answer, part: &str| {
        client.call("SET k 1");
        primary.expect("WAIT 1 20000");
        primary.answer(answer);
        let line = client.line();
        assert!(line.starts_with("-NOREPLICAS executed, not confirmed on 1 replicas: "), "{line}");
        assert!(line.contains(part), "{line}");
    };
    check(&mut client, WaitAnswer::Close, "closed the connection");
    // Over a new connection, because the former one must not be used again.
    check(&mut client, WaitAnswer::Count(0), "0 confirmed");
    client.call("SET k 1");
    primary.expect("WAIT 1 20000");
    primary.answer(WaitAnswer::Count(1));
    client.expect("+OK\r\n");
}

#[test]
fn errors_and_reads_do_not_wait() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    bed.client().call("SET bad 1").expect("-WRONGTYPE it is bad\r\n").call("GET k").expect("$1\r\nv\r\n");
    assert!(primary.asked.try_recv().is_err());
}

#[test]
fn min_acks_can_be_turned_on_and_off() {
    let primary = Primary::start();
    let bed = Bed::start(&[&primary.addr]);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.call("SET k 1").expect("+OK\r\n");
    assert!(primary.asked.try_recv().is_err());
    let mut epoch = 1;
    let mut publish = |min_acks| {
        epoch += 1;
        let mut table = with_acks(min_acks, 20_000)(bed.table());
        table.epoch.0 = epoch;
        bed.publish(table);
        bed.until("the setting", |r| r.route_epoch.0 == epoch);
    };
    publish(1);
    client.call("SET k 2");
    primary.expect("WAIT 1 20000");
    publish(0);
    // The write before still waits under the setting with which it was sent.
    other.call("SET k 3").expect("+OK\r\n");
    is_silent(&mut client);
    primary.answer(WaitAnswer::Count(1));
    client.expect("+OK\r\n");
}

#[test]
fn another_process_cannot_confirm() {
    // The data connection logs in first. The acks connection logs in later, to a server that was restarted meanwhile.
    let primary = Primary::start_with(|n| if n == 0 { "one".into() } else { "two".into() });
    let bed = bed(&[&primary]);
    let line = bed.client().call("SET k 1").line();
    assert!(
        line.starts_with("-NOREPLICAS executed, not confirmed on 1 replicas: ") && line.contains("restarted"),
        "{line}"
    );
    assert!(primary.asked.try_recv().is_err(), "a process that did not execute the write is not asked");
    let silent = Primary::start_with(|_| String::new());
    let line = self::bed(&[&silent]).client().call("SET k 1").line();
    assert!(line.contains("does not report its run id"), "{line}");
}

#[test]
fn unmanaged_replicas_do_not_count() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    bed.unmanaged.publish(BTreeMap::from([(HostPort::parse(&primary.addr).unwrap(), 1)]));
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 2 20000");
    primary.answer(WaitAnswer::Count(1));
    assert!(client.line().starts_with("-NOREPLICAS executed, not confirmed on 2 replicas"));
}

#[test]
fn parts_are_confirmed_separately() {
    let (a, b) = (Primary::start(), Primary::start());
    let bed = bed(&[&a, &b]);
    let mut client = bed.client();
    for (theirs, want) in [
        ([1, 1], "+OK"),
        ([1, 0], "-NOREPLICAS executed, not confirmed on 1 replicas: 0 confirmed within 20000 ms"),
        ([0, 0], "-NOREPLICAS executed, not confirmed on 1 replicas: 0 confirmed within 20000 ms"),
    ] {
        // crc32 mod 1024: foo is in the lower half, hello in the upper.
        client.call("MSET foo 1 hello 2");
        for (primary, count) in [&a, &b].into_iter().zip(theirs) {
            primary.expect("WAIT 1 20000");
            primary.answer(WaitAnswer::Count(count));
        }
        assert_eq!(client.line(), want);
    }
}

#[test]
fn a_failover_answers_waiting_writes_as_unknown_at_once() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 1 20000");
    bed.publish(held(bed.table(), 7, HoldKind::Abandon, "k"));
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: ") && line.contains("replaced by a failover"), "{line}");
    bed.until("drained", |r| r.holds.get(&HoldId(7)).is_some_and(|h| h.drained));
}

#[test]
fn a_hold_waits_for_the_replicas() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 1 20000");
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    let report = bed.until("the hold", |r| r.holds.get(&HoldId(7)).is_some_and(|h| h.waiting_on != "not checked yet"));
    let hold = &report.holds[&HoldId(7)];
    assert!(!hold.drained && hold.waiting_on.contains("waits for the replicas of"), "{hold:?}");
    primary.answer(WaitAnswer::Count(1));
    client.expect("+OK\r\n");
    bed.until("drained", |r| r.holds.get(&HoldId(7)).is_some_and(|h| h.drained));
}

#[test]
fn check_2_applies_when_the_replicas_confirm() {
    let primary = Primary::start();
    let bed = bed(&[&primary]);
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 1 20000");
    // The slot gets another owner meanwhile. It is the same server, so that nothing else ends the wait.
    let mut table = with_product(bed.table(), |p| p.slots.iter_mut().for_each(|slot| slot.epoch.0 = 9));
    table.epoch.0 = 9;
    bed.publish(table);
    bed.until("the routes", |r| r.route_epoch.0 == 9);
    primary.answer(WaitAnswer::Count(1));
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: "), "{line}");

    client.call("SET k 2");
    primary.expect("WAIT 1 20000");
    bed.permit.revoke();
    primary.answer(WaitAnswer::Count(1));
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: "), "{line}");
}

#[test]
fn waiting_replies_are_limited() {
    let primary = Primary::start();
    let limits = Limits { unconfirmed_max: 1000, ..Limits::default() };
    let bed = Bed::start_with(&[&primary.addr], limits, 1, with_acks(1, 20_000));
    let mut client = bed.client();
    client.call("SET k 1");
    primary.expect("WAIT 1 20000");
    let mut others: Vec<_> = (0..20).map(|_| bed.client()).collect();
    for (i, other) in others.iter_mut().enumerate() {
        other.call("SET k 1");
        primary.has_executed(2 * i + 2);
        // The proxy has read their replies, because it answered a later request.
        bed.client().call("GET c").expect("$1\r\nv\r\n");
    }
    // There was no room for the last one.
    let line = others[19].line();
    assert!(line.contains("too many writes wait"), "{line}");
    primary.answer(WaitAnswer::Count(1));
    client.expect("+OK\r\n");
}

/// The assumption of all other tests, with a real server: after a PING, `WAIT` counts replicas, and there are none.
#[test]
fn a_real_server_without_replicas_confirms_nothing() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 2, with_acks(1, 50));
    let line = bed.client().call("SET k 1").line();
    assert_eq!(line, "-NOREPLICAS executed, not confirmed on 1 replicas: fewer confirmed within 50 ms");
    bed.client().call("GET k").expect("$1\r\n1\r\n");
}

/// Many writers with a real primary and a real replica: every write is confirmed, and the replica then has it.
#[test]
fn a_real_replica_has_what_was_acknowledged() {
    let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.addr.rsplit(':').next().unwrap().to_owned();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let bed = Bed::start_with(&[&primary.addr], Limits::default(), 2, with_acks(1, 5_000));
    let direct = |addr: &str| Client::connect(addr.rsplit(':').next().unwrap().parse().unwrap());
    let end = std::time::Instant::now() + PATIENCE;
    while !bed.client().call("SET first 1").line().starts_with("+OK") {
        assert!(std::time::Instant::now() < end, "the replica does not connect");
    }
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (mut client, mut replica) = (bed.client(), direct(&replica.addr));
            scope.spawn(move || {
                for i in 0..200 {
                    client.call(&format!("SET {writer}:{i} x")).expect("+OK\r\n");
                    replica.call(&format!("GET {writer}:{i}")).expect("$1\r\nx\r\n");
                }
            });
        }
    });
    // Without the replica, no write is confirmed.
    drop(replica);
    let mut table = with_acks(1, 50)(bed.table());
    table.epoch.0 = 2;
    bed.publish(table);
    bed.until("the setting", |r| r.route_epoch.0 == 2);
    let mut client = bed.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(client.call("SET last 1").line().starts_with("-NOREPLICAS executed"));
}
