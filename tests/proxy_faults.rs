//! The proxy with failing servers, under holds and without a lease: its errors describe the outcome correctly.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "support/kinds.rs"]
mod kinds;

use std::{
    process::Command,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use common::{Bed, Conn, FAKE_RUN_ID, PATIENCE, Redis, fake, held, request, with_product};
use pontoon::{
    clock::boottime_ns,
    model::{
        ids::{Epoch, HoldId, HostPort},
        route::{HoldKind, Isolated},
        secret::Credentials,
    },
    proxy::Limits,
};

use kinds::Kind;

/// A worker's tick, nanoseconds.
const TICK_NS: u64 = 100_000_000;

/// A request as a server receives it.
type Words = Vec<Vec<u8>>;

/// A server that answers each request when the test sends the reply.
fn controlled_server() -> (String, mpsc::SyncSender<&'static [u8]>, mpsc::Receiver<Words>) {
    let (replies, to_send) = mpsc::sync_channel::<&'static [u8]>(16);
    let (got, seen) = mpsc::sync_channel(16);
    let to_send = Arc::new(Mutex::new(to_send));
    let addr = fake(move |mut conn: Conn| {
        while let Some(args) = conn.request() {
            got.send(args).unwrap();
            let Ok(bytes) = to_send.lock().unwrap().recv() else { return };
            conn.reply(bytes);
        }
    });
    (addr, replies, seen)
}

#[test]
fn requests_fail_when_a_server_closes_the_connection() {
    let addr = fake(|mut conn| {
        conn.request();
        conn.reply(b"$10\r\nhalf");
    });
    let bed = Bed::start(&[&addr]);
    let write = bed.client().call("SET k v").line();
    assert!(write.starts_with("-ERR outcome unknown: "), "{write}");
    let read = bed.client().call("GET k").line();
    assert!(read.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{read}");
}

#[test]
fn invalid_and_extra_replies_close_the_connection() {
    for reply in ["HTTP/1.1 400\r\n", "$?\r\n", "*1\r\n;1\r\n"] {
        let addr = fake(move |mut conn| {
            while conn.request().is_some() {
                conn.reply(reply.as_bytes());
            }
        });
        let bed = Bed::start(&[&addr]);
        let line = bed.client().call("SET k v").line();
        assert!(line.starts_with("-ERR outcome unknown: "), "{reply:?}: {line}");
    }
    // No request waits for the second reply; the connection is closed, and the next request opens a new one.
    let addr = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"+OK\r\n+OK\r\n");
        }
    });
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    for _ in 0..3 {
        let line = client.call("SET k v").line();
        assert!(line == "+OK" || line.contains("not executed") || line.contains("outcome unknown"), "{line}");
    }
}

/// The prober takes this as a sign of life: any byte of any reply counts, for the process that sent it.
#[test]
fn bytes_from_a_server_are_noted_for_the_process_that_sent_them() {
    let (more, go_on) = mpsc::sync_channel::<()>(0);
    let go_on = Mutex::new(go_on);
    let addr = fake(move |mut conn| {
        conn.request();
        for part in [&b"$10\r\nhalf"[..], b"and", b"res\r\n"] {
            go_on.lock().unwrap().recv().unwrap();
            conn.reply(part);
        }
        conn.request();
    });
    let bed = Bed::start(&[&addr]);
    let server = HostPort::parse(&addr).unwrap();
    let received_ns = || bed.activity.received_ns(&server, FAKE_RUN_ID).unwrap_or(0);
    let until_later_than = |ns: u64| {
        let end = std::time::Instant::now() + PATIENCE;
        while received_ns() <= ns {
            assert!(std::time::Instant::now() < end, "no byte is noted");
            std::thread::yield_now();
        }
    };
    let mut client = bed.client();
    client.call("GET k");
    until_later_than(0);
    for _ in 0..2 {
        // A part that arrives in the worker's tick of the part before is not noted; the next is.
        let before = boottime_ns();
        while boottime_ns() < before + 2 * TICK_NS {
            std::thread::yield_now();
        }
        more.send(()).unwrap();
        until_later_than(before);
    }
    assert_eq!(bed.activity.received_ns(&server, "another process"), None);
    more.send(()).unwrap();
    client.expect("$10\r\nhalfandres\r\n");
}

#[test]
fn requests_fail_when_a_server_hangs() {
    let (addr, _replies, seen) = controlled_server();
    let limits = Limits { request_deadline: Duration::from_millis(300), ..Limits::default() };
    let bed = Bed::start_with(&[&addr], limits, 1, |t| t);
    let (mut one, mut two) = (bed.client(), bed.client());
    one.call("SET k v");
    seen.recv_timeout(common::PATIENCE).unwrap();
    two.call("GET k");
    let line = one.line();
    assert!(line.starts_with("-ERR outcome unknown: ") && line.contains("did not answer within"), "{line}");
    let line = two.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");
}

#[test]
fn errors_of_a_server_pass_unchanged() {
    let addr = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n");
        }
    });
    let bed = Bed::start(&[&addr]);
    bed.client().call("GET k").expect("-LOADING Redis is loading the dataset in memory\r\n");
}

#[test]
fn requests_to_a_dead_server_fail_at_once_until_it_is_back() {
    let redis = Redis::start();
    let dead = format!("127.0.0.1:{}", common::free_port());
    let bed = Bed::start(&[&redis.addr, &dead]);
    let mut client = bed.client();
    // DEL of many keys reaches both servers.
    let line = client.call("DEL k1 k2 k3 k4 k5 k6 k7 k8 foo hello").line();
    assert!(
        line.contains("is down") || line.starts_with("-ERR outcome unknown: executed for some keys only"),
        "{line}"
    );
    // The server is known to be down now: the whole command is refused.
    let line = client.call("DEL k1 k2 k3 k4 k5 k6 k7 k8 foo hello").line();
    assert_eq!(line, "-ERR its server is down, not executed");
    assert!(!line.contains(&dead));
    let mut table = with_product(bed.table(), |p| p.groups[1].primary = p.groups[0].primary.clone());
    table.epoch = Epoch(2);
    bed.publish(table);
    bed.until("new routes", |r| r.route_epoch == Epoch(2));
    assert_eq!(client.call("EXISTS k1 k2 k3 k4 k5 k6 k7 k8 foo hello").line(), ":0");
}

#[test]
fn unassigned_slots_are_refused() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| p.slots.iter_mut().for_each(|s| s.group = None))
    });
    let line = bed.client().call("SET k v").line();
    assert!(line.starts_with("-CLUSTERDOWN slot ") && line.contains("not executed"), "{line}");
}

#[test]
fn a_hold_parks_drains_and_releases_in_order() {
    let (addr, replies, seen) = controlled_server();
    let bed = Bed::start(&[&addr]);
    let (mut before, mut after) = (bed.client(), bed.client());
    before.call("SET k old");
    seen.recv_timeout(common::PATIENCE).unwrap();
    let free = bed.table();
    bed.publish(held(free.clone(), 7, HoldKind::Wait, "k"));
    let report = bed.until("the hold is known", |r| r.holds.contains_key(&HoldId(7)));
    assert!(!report.holds[&HoldId(7)].drained);
    assert!(report.holds[&HoldId(7)].waiting_on.contains("a write"), "{report:?}");
    // Parked, together with all later requests of the session, although PING needs no slot.
    after.call("SET k new").call("PING").call("GET k");
    bed.until("parked", |r| r.stats.parked == 1);
    assert!(seen.try_recv().is_err(), "nothing is sent for a held slot");
    replies.send(b"+OK\r\n").unwrap();
    before.expect("+OK\r\n");
    bed.until("drained", |r| r.holds[&HoldId(7)].drained);
    // The hold ends.
    let mut free = free;
    free.epoch = Epoch(8);
    bed.publish(free);
    assert_eq!(seen.recv_timeout(common::PATIENCE).unwrap()[2], b"new");
    replies.send(b"+OK\r\n").unwrap();
    replies.send(b"$3\r\nnew\r\n").unwrap();
    after.expect("+OK\r\n+PONG\r\n$3\r\nnew\r\n");
    bed.until("no holds", |r| r.holds.is_empty());
}

#[test]
fn a_parked_request_is_refused_in_time() {
    let redis = Redis::start();
    let limits = Limits { parked_for_max: Duration::from_millis(300), ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 2, |table| held(table, 7, HoldKind::Wait, "k"));
    bed.until("drained on both workers", |r| r.holds.get(&HoldId(7)).is_some_and(|h| h.drained));
    let mut client = bed.client();
    client.call("MSET k v other w").call("SET other w").call("GET k").call("PING");
    let line = client.line();
    assert!(line.starts_with("-TRYAGAIN not executed"), "{line}");
    client.expect("+OK\r\n");
    assert!(client.line().starts_with("-TRYAGAIN not executed"));
    client.expect("+PONG\r\n");
}

#[test]
fn an_abandoned_server_answers_unknown_at_once() {
    let (addr, _replies, seen) = controlled_server();
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    client.call("SET k v");
    seen.recv_timeout(common::PATIENCE).unwrap();
    bed.publish(held(bed.table(), 7, HoldKind::Abandon, "k"));
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: "), "{line}");
    bed.until("drained", |r| r.holds.get(&HoldId(7)).is_some_and(|h| h.drained));
}

#[test]
fn a_reply_after_the_lease_is_not_delivered() {
    let (addr, replies, seen) = controlled_server();
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    client.call("SET k v");
    seen.recv_timeout(common::PATIENCE).unwrap();
    bed.permit.revoke();
    replies.send(b"+OK\r\n").unwrap();
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: "), "{line}");
    client.call("GET k").expect("-CLUSTERDOWN this node lost contact with its peers, not executed\r\n");
    client.call("PING").expect("+PONG\r\n");
    bed.permit.renew(boottime_ns() + 60_000_000_000, Epoch(1));
    client.call("GET k");
    seen.recv_timeout(common::PATIENCE).unwrap();
    replies.send(b"$1\r\nv\r\n").unwrap();
    client.expect("$1\r\nv\r\n");
    // A grant that requires a newer table than the worker has.
    client.call("GET k");
    seen.recv_timeout(common::PATIENCE).unwrap();
    bed.permit.renew(boottime_ns() + 60_000_000_000, Epoch(9));
    replies.send(b"$1\r\nv\r\n").unwrap();
    assert!(client.line().starts_with("-TRYAGAIN not delivered, safe to repeat"));
    client.call("GET k").expect("-CLUSTERDOWN this node is still learning the newest routes, not executed\r\n");
}

#[test]
fn serve_goes_on_without_a_lease_but_not_before_the_first() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| p.isolated = Isolated::Serve)
    });
    bed.permit.revoke();
    bed.client().call("GET k").expect("-CLUSTERDOWN this node lost contact with its peers, not executed\r\n");
    bed.permit.renew(1, Epoch(1));
    bed.client().call("GET k").expect("$-1\r\n");
}

#[test]
fn a_reply_of_another_slot_epoch_is_not_delivered() {
    let (addr, replies, seen) = controlled_server();
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    for (epoch, delivered) in [(1, true), (5, false)] {
        client.call("SET k v");
        seen.recv_timeout(common::PATIENCE).unwrap();
        let mut table = with_product(bed.table(), |p| p.slots.iter_mut().for_each(|s| s.epoch = Epoch(epoch)));
        table.epoch = Epoch(4 + epoch);
        bed.publish(table);
        bed.until("swapped", |r| r.route_epoch == Epoch(4 + epoch));
        replies.send(b"+OK\r\n").unwrap();
        let line = client.line();
        assert_eq!(line == "+OK", delivered, "{line}");
        assert!(delivered || line.starts_with("-ERR outcome unknown: "), "{line}");
    }
}

#[test]
fn a_removed_product_closes_its_clients() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.send(request("PING")).expect("+PONG\r\n");
    let mut table = bed.table();
    table.products.clear();
    table.epoch = Epoch(2);
    bed.publish(table);
    assert_eq!(client.rest(), "");
    bed.until("no listener", |r| r.listeners.is_empty() && r.clients == 0);
}

#[test]
fn an_unanswered_part_makes_the_outcome_of_the_command_unknown() {
    let redis = Redis::start();
    let addr = fake(|mut conn| {
        conn.request();
    });
    let bed = Bed::start(&[&redis.addr, &addr]);
    let line = bed.client().call("MSET foo 1 hello 2").line();
    assert!(line.starts_with("-ERR outcome unknown: "), "{line}");
    let line = bed.client().call("MGET foo hello").line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");
}

#[test]
fn a_hold_waits_for_parts_of_split_commands() {
    let (addr, replies, seen) = controlled_server();
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr, &addr]);
    let mut client = bed.client();
    client.call("DEL foo hello");
    seen.recv_timeout(common::PATIENCE).unwrap();
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "hello"));
    let report = bed.until("the hold is known", |r| r.holds.contains_key(&HoldId(7)));
    assert!(!report.holds[&HoldId(7)].drained);
    replies.send(b":1\r\n").unwrap();
    client.expect(":1\r\n");
    bed.until("drained", |r| r.holds[&HoldId(7)].drained);
}

#[test]
fn draining_waits_for_requests_in_flight() {
    let (addr, replies, seen) = controlled_server();
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    client.call("SET k v");
    seen.recv_timeout(common::PATIENCE).unwrap();
    bed.runtime.block_on(async {
        let drain = bed.proxy.drain(common::PATIENCE);
        tokio::pin!(drain);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut drain).await;
        assert!(early.is_err(), "ended with a request in flight");
        replies.send(b"+OK\r\n").unwrap();
        drain.await;
    });
    client.expect("+OK\r\n");
    assert_eq!(client.rest(), "");
}

/// A server that does not know AUTH quotes the password in its error; the error for clients does not contain it.
#[test]
fn a_password_quoted_by_a_server_is_not_repeated() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while std::io::Read::read(&mut stream, &mut buffer).unwrap_or(0) > 0 {
                    let reply = b"-ERR unknown command 'AUTH', with args beginning with: 'topsecret42'\r\n";
                    if std::io::Write::write_all(&mut stream, reply).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let bed = Bed::start_with(&[&addr], Limits::default(), 1, |table| {
        with_product(table, |p| {
            p.groups[0].login.control = Some(common::password("topsecret42"));
            p.rules.errors_detailed = true;
        })
    });
    let line = bed.client().call("GET k").line();
    assert!(line.contains("refused AUTH") && !line.contains("topsecret42"), "{line}");
}

/// Some servers leave a refused AUTH unanswered while replies to earlier requests are on their way.
#[test]
fn a_server_without_the_data_user_is_noticed() {
    for kind in Kind::ALL {
        let redis = Redis::start_program(Command::new(kind.program()), common::free_port(), &[]);
        let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
            with_product(table, |p| {
                let absent = Credentials { username: Some("absent".into()), ..common::password("x") };
                p.groups[0].login.data = Some(absent);
                p.rules.errors_detailed = true;
            })
        });
        let line = bed.client().call("GET k").line();
        assert!(line.contains("refused AUTH of the data user: WRONGPASS"), "{kind:?}: {line}");
        assert!(line.contains("not executed"), "{kind:?}: {line}");
        bed.until("counted", |report| report.stats.data_user_refused > 0);
    }
}

/// Without detailed errors, nothing that a client gets says where a server is, or what the system says of it.
#[test]
fn errors_name_servers_only_if_the_operator_wants_it() {
    let dead = format!("127.0.0.1:{}", common::free_port());
    for detailed in [false, true] {
        let bed = Bed::start_with(&[&dead], Limits::default(), 1, |table| {
            with_product(table, |p| p.rules.errors_detailed = detailed)
        });
        let mut client = bed.client();
        // The first attempt fails in the connect, the second one finds the server down.
        for _ in 0..2 {
            let line = client.call("SET k v").line();
            assert!(line.contains("is down") && line.contains("not executed"), "{line}");
            assert_eq!(line.contains(&dead), detailed, "{line}");
            assert!(detailed || !line.contains("os error"), "{line}");
        }
    }
}
