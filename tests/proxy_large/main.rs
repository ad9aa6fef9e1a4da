//! Large values and clients that do not read: they delay nobody else, and bytes that move are progress.
//! Knows nothing of clusters: the proxy runs in this process.
#![allow(clippy::unwrap_used)]

mod budget;
#[path = "../common/mod.rs"]
mod common;
mod gate;
mod hostile;
mod shared;
mod streams;

use std::{
    io::Read,
    net::Shutdown,
    sync::{
        Arc, Barrier, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Bed, Client, PATIENCE, Redis, held, request, with_product};
use gate::Relay;
use pontoon::{
    model::{
        ids::{Epoch, HoldId, HostPort, SlotId},
        route::{HoldKind, RouteTable},
        slot::Layout,
    },
    proxy::Limits,
};

const MB: usize = 1 << 20;

/// No deadline passes, however busy the machine is.
fn patient() -> Limits {
    Limits { request_deadline: PATIENCE, ..Limits::default() }
}

fn set(key: &str, len: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${len}\r\n{}\r\n", key.len(), "x".repeat(len))
}

/// Sends a large request from a thread, because the socket takes only a part of it.
fn send_later(client: &Client, bytes: String) {
    let mut stream = client.stream.try_clone().unwrap();
    std::thread::spawn(move || std::io::Write::write_all(&mut stream, bytes.as_bytes()));
}

#[test]
fn others_are_served_while_a_large_request_is_in_flight() {
    let redis = Redis::start();
    let relay = Relay::start(&redis.addr);
    let bed = Bed::start_with(&[&relay.addr], patient(), 1, |t| t);
    let (mut large, mut small) = (bed.client(), bed.client());
    small.call("SET small 1").expect("+OK\r\n");
    large.call("SET before 1");
    send_later(&large, set("k", 100 * MB) + &request_text("GET before"));
    relay.until_waiting(1);
    for _ in 0..1000 {
        small.call("GET small").expect("$1\r\n1\r\n");
    }
    relay.open();
    // In the order of the requests, the one behind the large request included.
    large.expect("+OK\r\n+OK\r\n$1\r\n1\r\n");
    small.call("STRLEN k").expect(&format!(":{}\r\n", 100 * MB));
}

fn request_text(words: &str) -> String {
    String::from_utf8(request(words)).unwrap()
}

#[test]
fn a_request_over_a_slow_link_succeeds_while_bytes_move() {
    let redis = Redis::start();
    let relay = Relay::start(&redis.addr);
    let deadline = Duration::from_millis(1000);
    let bed = Bed::start_with(&[&relay.addr], Limits { request_deadline: deadline, ..patient() }, 1, |t| t);
    let mut client = bed.client();
    // Far more than socket buffers take, so that the proxy still writes when the deadline would have passed.
    send_later(&client, set("k", 32 * MB));
    relay.until_waiting(1);
    let started = std::time::Instant::now();
    relay.trickle(Duration::from_millis(50), || started.elapsed() > 3 * deadline);
    relay.open();
    client.expect("+OK\r\n");
}

#[test]
fn a_request_that_stands_still_fails_at_the_deadline_and_was_not_executed() {
    let redis = Redis::start();
    let relay = Relay::start(&redis.addr);
    let limits = Limits { request_deadline: Duration::from_millis(300), ..patient() };
    let bed = Bed::start_with(&[&relay.addr], limits, 1, |t| t);
    let mut client = bed.client();
    send_later(&client, set("k", 32 * MB));
    let error = client.line();
    assert!(error.starts_with("-ERR its server") && error.ends_with("not executed"), "{error}");
    bed.until("the deadline is counted", |r| r.stats.overdue == 1);
    Client::connect(redis.port()).call("EXISTS k").expect(":0\r\n");
}

#[test]
fn a_hold_cuts_off_a_request_that_is_not_written_and_repeats_it_at_the_new_owner() {
    let servers = [Redis::start(), Redis::start()];
    let relay = Relay::start(&servers[0].addr);
    let bed = Bed::start_with(&[&relay.addr, &servers[1].addr], patient(), 1, |table| {
        with_product(table, |p| p.slots.iter_mut().for_each(|slot| slot.group = Some(0)))
    });
    let mut client = bed.client();
    send_later(&client, set("k", 32 * MB) + &request_text("STRLEN k"));
    relay.until_waiting(1);
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    bed.until("the hold drains although the request stands still", |r| {
        r.holds.get(&HoldId(7)).is_some_and(|hold| hold.drained)
    });
    let slot = usize::from(Layout::Codis.slot(b"k").0);
    let mut after = with_product(bed.table(), |p| {
        let route = &mut p.slots[slot];
        (route.group, route.epoch, route.hold) = (Some(1), Epoch(8), HoldId(0));
    });
    after.epoch = Epoch(8);
    after.holds.clear();
    bed.publish(after);
    client.expect(&format!("+OK\r\n:{}\r\n", 32 * MB));
    relay.open();
    Client::connect(servers[0].port()).call("EXISTS k").expect(":0\r\n");
    Client::connect(servers[1].port()).call("STRLEN k").expect(&format!(":{}\r\n", 32 * MB));
}

#[test]
fn a_full_queue_delays_requests_and_fails_none() {
    let redis = Redis::start();
    let relay = Relay::start(&redis.addr);
    // Values below `large_message`, so that all go over the shared connection.
    let limits = Limits { backend_queued_max: 64 * 1024, ..patient() };
    let bed = Bed::start_with(&[&relay.addr], limits, 1, |t| t);
    let mut clients: Vec<Client> = (0..40).map(|_| bed.client()).collect();
    for (i, client) in clients.iter().enumerate() {
        send_later(client, set(&format!("k{i}"), 512 * 1024) + &request_text(&format!("STRLEN k{i}")));
    }
    relay.until_waiting(1);
    relay.open();
    for client in &mut clients {
        client.expect(&format!("+OK\r\n:{}\r\n", 512 * 1024));
    }
}

#[test]
fn a_client_that_reads_all_the_time_gets_all_replies() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { session_output_max: MB, ..patient() }, 1, |t| t);
    let mut client = bed.client();
    client.send(set("k", MB)).expect("+OK\r\n");
    client.send(request("GET k").repeat(100));
    let want = format!("${MB}\r\n{}\r\n", "x".repeat(MB));
    for _ in 0..100 {
        client.expect(&want);
    }
}

#[test]
fn a_client_may_send_its_whole_pipeline_before_it_reads() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { session_output_max: MB, ..patient() }, 1, |t| t);
    let mut client = bed.client();
    client.send(set("k", 1000)).expect("+OK\r\n");
    // Replies of 200 MB and requests of 4.4 MB are more than the sockets' buffers take.
    client.send(request("GET k").repeat(200_000));
    let want = format!("$1000\r\n{}\r\n", "x".repeat(1000));
    let mut got = vec![0; want.len()];
    for i in 0..200_000 {
        client.stream.read_exact(&mut got).unwrap();
        assert_eq!(got, want.as_bytes(), "reply {i}");
    }
}

#[test]
fn a_client_that_does_not_read_delays_nobody() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |t| t);
    let (mut slow, mut good) = (bed.client(), bed.client());
    slow.send(set("k", 3 * MB)).expect("+OK\r\n");
    slow.send(request("GET k").repeat(1000));
    for _ in 0..2000 {
        good.call("SET small 1").expect("+OK\r\n");
    }
    assert_eq!(bed.proxy.report().borrow().stats.unknown, 0);
}

#[test]
fn a_hold_does_not_wait_for_a_client_that_does_not_read() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |t| t);
    let mut client = bed.client();
    client.send(set("k", 2 * MB)).expect("+OK\r\n");
    Client::connect(redis.port()).send(set("k", 64 * MB)).expect("+OK\r\n");
    client.call("GET k").call("GET k");
    let header = format!("${}\r\n", 64 * MB);
    client.expect(&header);
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    bed.until("the hold drains", |r| r.holds.get(&HoldId(7)).is_some_and(|hold| hold.drained));
    let value = "x".repeat(64 * MB);
    client.expect(&format!("{value}\r\n{header}{value}\r\n"));
}

#[test]
fn a_reply_that_breaks_off_closes_its_client() {
    let addr = common::fake(|mut conn| {
        while let Some(request) = conn.request() {
            if request[1] == b"k" {
                conn.reply(format!("${MB}\r\n{}\r\n", "x".repeat(MB)).as_bytes());
            } else {
                conn.reply(format!("${}\r\n{}", 100 * MB, "x".repeat(10 * MB)).as_bytes());
                return;
            }
        }
    });
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    client.call("GET k").expect(&format!("${MB}\r\n{}\r\n", "x".repeat(MB)));
    client.call("GET big").call("PING");
    // Nothing but the beginning of the reply, whatever was sent behind it.
    let rest = client.rest();
    let header = format!("${}\r\n", 100 * MB);
    assert!(rest.starts_with(&header) && rest[header.len()..].bytes().all(|byte| byte == b'x'));
    bed.until("the broken reply is counted", |r| r.stats.broken_replies == 1);
}

#[test]
fn a_reply_above_the_limit_closes_its_client_alone() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { reply_max: 4 * MB, ..patient() }, 1, |t| t);
    Client::connect(redis.port()).send(set("big", 64 * MB)).expect("+OK\r\n");
    let (mut good, mut greedy) = (bed.client(), bed.client());
    good.call("SET small 1").expect("+OK\r\n");
    greedy.call("GET big");
    // Behind the large reply on the shared connection.
    for _ in 0..100 {
        good.call("GET small").expect("$1\r\n1\r\n");
    }
    assert_eq!(greedy.rest(), "");
    let stats = bed.until("the client is closed", |r| r.stats.large_replies == 1).stats;
    assert_eq!((stats.unknown, stats.over_budget), (0, 0));
}

#[test]
fn a_half_closed_client_gets_the_replies_to_its_parked_requests() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| held(table, 7, HoldKind::Wait, "k"));
    let mut client = bed.client();
    client.call("SET k v").call("GET k").call("PING");
    bed.until("parked", |r| r.stats.parked == 1);
    client.stream.shutdown(Shutdown::Write).unwrap();
    let mut table = with_product(bed.table(), |p| p.slots.iter_mut().for_each(|slot| slot.hold = HoldId(0)));
    table.epoch = Epoch(8);
    table.holds.clear();
    bed.publish(table);
    assert_eq!(client.rest(), "+OK\r\n$1\r\nv\r\n+PONG\r\n");
}

#[test]
fn a_primary_that_is_a_replica_now_is_reported_and_has_executed_nothing() {
    let primary = Redis::start();
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let bed = Bed::start(&[&replica.addr]);
    let mut client = bed.client();
    let addr = &replica.addr;
    let refused = "-TRYAGAIN not executed: its server is a replica now; its group is being probed\r\n";
    client.call("SET k v").expect(refused);
    client.call("EVAL return(redis.call('set',KEYS[1],'v')) 1 k").expect(refused);
    let reported =
        bed.runtime.block_on(async { tokio::time::timeout(PATIENCE, bed.misrouted.lock().await.recv()).await });
    assert_eq!(reported.unwrap(), Some(HostPort::parse(addr).unwrap()));
}

/// As Redis 6 says it.
#[test]
fn a_script_that_a_replica_refuses_is_not_shown_its_error() {
    let refusal = "-READONLY You can't write against a read only replica.";
    let addr = common::fake(move |mut conn| {
        while let Some(request) = conn.request() {
            let error = match &request[1][..] {
                b"quotes" => "-ERR Error running script (call to f_0): @user_script:1: my -READONLYx".to_owned(),
                _ => format!("-ERR Error running script (call to f_0): @user_script:1: @user_script: 1: {refusal}"),
            };
            conn.reply(format!("{error}\r\n").as_bytes());
        }
    });
    let bed = Bed::start(&[&addr]);
    let mut client = bed.client();
    let refused = "-TRYAGAIN not executed: its server is a replica now; its group is being probed\r\n";
    client.call("EVAL return(redis.call('set',KEYS[1],'v')) 1 k").expect(refused);
    client.call("EVAL quotes 1 k").expect("-ERR Error running script (call to f_0): @user_script:1: my -READONLYx\r\n");
    assert_eq!(bed.until("one is counted", |r| r.stats.misrouted > 0).stats.misrouted, 1);
}

#[test]
fn requests_behind_a_connection_that_is_cut_off_stay_in_order() {
    // The server answers nothing before the gate is open, and then reads the rest.
    let (gate, log) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(Mutex::new(Vec::new())));
    let (opens, executed) = (gate.clone(), log.clone());
    let addr = common::fake(move |mut conn| {
        while let Some(request) = conn.request() {
            if request[1] == b"first" {
                let _open = opens.1.wait_while(opens.0.lock().unwrap(), |open| !*open).unwrap();
            }
            if request[1] == b"b" {
                executed.lock().unwrap().push(request[2].clone());
            }
            conn.reply(b"+OK\r\n");
        }
    });
    let bed = Bed::start_with(&[&addr], patient(), 1, |t| t);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(set("first", MB));
    send_later(&client, set("k", 24 * MB) + &request_text("SET b 1"));
    bed.until("all are sent", |r| r.stats.forwarded == 3);
    let free = bed.table();
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    bed.until("the hold has begun", |r| r.holds.contains_key(&HoldId(7)));
    client.call("SET b 2");
    // The worker has read the last request by then.
    for _ in 0..100 {
        other.call("PING").expect("+PONG\r\n");
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    bed.until("the hold drains", |r| r.holds.get(&HoldId(7)).is_some_and(|hold| hold.drained));
    bed.publish(RouteTable { epoch: Epoch(8), ..free });
    client.expect(&"+OK\r\n".repeat(4));
    assert_eq!(*log.lock().unwrap(), [b"1", b"2"]);
}

#[test]
fn a_hold_cuts_off_requests_behind_one_that_is_partly_written() {
    let redis = Redis::start();
    let relay = Relay::start(&redis.addr);
    let bed = Bed::start_with(&[&relay.addr], patient(), 1, |t| t);
    // Values below `large_message` on the shared connection, more than sockets' buffers take.
    let mut clients: Vec<Client> = (0..60).map(|_| bed.client()).collect();
    for client in &clients {
        send_later(client, set("k", 512 * 1024) + &request_text("STRLEN k"));
    }
    bed.until("all are sent", |r| r.stats.forwarded == 120);
    relay.until_waiting(1);
    let free = bed.table();
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "k"));
    bed.until("requests are cut off", |r| r.stats.cut_off > 0);
    bed.publish(RouteTable { epoch: Epoch(8), ..free });
    relay.open();
    for client in &mut clients {
        client.expect(&format!("+OK\r\n:{}\r\n", 512 * 1024));
    }
}

#[test]
fn a_client_that_does_not_read_a_reply_that_is_passed_on_is_closed() {
    let redis = Redis::start();
    let limits = Limits { client_stalled_max: Duration::from_millis(300), ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |t| t);
    Client::connect(redis.port()).send(set("big", 64 * MB)).expect("+OK\r\n");
    let mut client = bed.client();
    client.send(set("k", 2 * MB)).expect("+OK\r\n");
    client.call("GET big");
    bed.until("the client is closed", |r| r.stats.slow_clients == 1);
}

/// Fills a shared connection to the first of two servers, sends `requests` behind, holds the slot of foo, and opens the
/// relay; the hold ends when it has drained.
fn hold_behind_a_full_queue(requests: &str, count: u64) -> ([Redis; 2], Bed, Client) {
    let servers = [Redis::start(), Redis::start()];
    let relay = Relay::start(&servers[0].addr);
    let bed = Bed::start_with(&[&relay.addr, &servers[1].addr], patient(), 1, |t| t);
    let mut client = bed.client();
    // Values below `large_message` on the shared connection, more than sockets' buffers take.
    let others: Vec<Client> = (0..60).map(|_| bed.client()).collect();
    let slot = |key: &str| Layout::Codis.slot(key.as_bytes());
    let key = (0..).map(|i| format!("k{i}")).find(|k| slot(k) < SlotId(512) && slot(k) != slot("foo")).unwrap();
    for other in &others {
        send_later(other, set(&key, 512 * 1024));
    }
    bed.until("all are sent", |r| r.stats.forwarded == 60);
    relay.until_waiting(1);
    client.send(requests);
    bed.until("they are sent, too", |r| r.stats.forwarded == 60 + count);
    let free = bed.table();
    bed.publish(held(bed.table(), 7, HoldKind::Wait, "foo"));
    bed.until("the hold has begun", |r| r.holds.contains_key(&HoldId(7)));
    relay.open();
    bed.until("the hold drains", |r| r.holds.get(&HoldId(7)).is_some_and(|hold| hold.drained));
    bed.publish(RouteTable { epoch: Epoch(8), ..free });
    (servers, bed, client)
}

#[test]
fn a_hold_fails_no_split_command() {
    let (_servers, _bed, mut client) = hold_behind_a_full_queue(&request_text("MSET foo 1 hello 2"), 1);
    client.expect("+OK\r\n").call("MGET foo hello").expect("*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

#[test]
fn a_split_command_does_not_pass_a_request_that_is_cut_off() {
    let requests = request_text("SET foo 1") + &request_text("MSET foo 2 hello 2");
    let (_servers, _bed, mut client) = hold_behind_a_full_queue(&requests, 2);
    client.expect("+OK\r\n");
    let error = client.line();
    assert!(error.starts_with("-ERR outcome unknown: executed for some keys only"), "{error}");
    client.call("MGET foo hello").expect("*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

#[test]
fn large_values_of_a_split_command_arrive_in_the_order_of_its_keys() {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start_with(&[&servers[0].addr, &servers[1].addr], patient(), 1, |t| t);
    let mut client = bed.client();
    let lens = [3 * MB, 10, 0, 70_000, MB, 64 * 1024, 100_000, 5, 16_384, 2 * MB];
    let mut want = format!("*{}\r\n", lens.len());
    for (n, len) in lens.iter().enumerate() {
        let value = char::from(b'a' + n as u8).to_string().repeat(*len);
        let set = format!("*3\r\n$3\r\nSET\r\n$2\r\nk{n}\r\n${len}\r\n{value}\r\n");
        client.send(set).expect("+OK\r\n");
        want += &format!("${len}\r\n{value}\r\n");
    }
    let mget = request_text("MGET k0 k1 k2 k3 k4 k5 k6 k7 k8 k9");
    client.send([request_text("STRLEN k0"), mget.clone(), mget].concat());
    client.expect(&format!(":{}\r\n", 3 * MB)).expect(&want).expect(&want);
}

#[test]
fn a_line_of_64_mb_arrives_whole() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |t| t);
    let mut client = bed.client();
    let script = "return {ok = string.rep('x', 67108864)}";
    let eval = format!("*4\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n1\r\n$1\r\nk\r\n", script.len());
    for _ in 0..2 {
        client.send(eval.as_str());
        client.expect(&format!("+{}\r\n", "x".repeat(64 * MB)));
    }
}

/// Pipelines of whatever length and kind are executed completely, however they are divided into turns.
#[test]
fn long_pipelines_of_short_requests_are_answered_completely() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |t| t);
    let mut client = bed.client();
    for requests in [31, 32, 33, 511, 512, 513, 1024, 20_000] {
        client.send("PING\r\n".repeat(requests)).expect(&"+PONG\r\n".repeat(requests));
        client.send("\r\nnosuch\r\nSET k 1\r\n".repeat(requests));
        let error = "-ERR unknown command 'nosuch', with args beginning with: \r\n";
        client.expect(&format!("{error}+OK\r\n").repeat(requests));
    }
}

#[test]
fn holds_fail_no_pipeline_of_a_server_that_takes_its_requests() {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start_with(&[&servers[0].addr, &servers[1].addr], patient(), 1, |t| t);
    let stop = Arc::new(AtomicBool::new(false));
    let connected = Arc::new(Barrier::new(9));
    let clients = (0..8).map(|id| {
        let (mut client, stop, connected) = (bed.client(), stop.clone(), connected.clone());
        std::thread::spawn(move || {
            // A hold may cut off the requests of a connection that is not up.
            client.call("MSET foo 1 hello 1").expect("+OK\r\n");
            connected.wait();
            let (a, b) = (format!("{{foo}}{id}"), format!("{{hello}}{id}"));
            let requests = request_text(&format!("SET {a} 1")) + &request_text(&format!("MSET {a} 2 {b} 2"));
            let all = requests + &request_text(&format!("GET {a}"));
            while !stop.load(Ordering::Relaxed) {
                client.send(all.repeat(10)).expect(&"+OK\r\n+OK\r\n$1\r\n2\r\n".repeat(10));
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    connected.wait();
    let free = bed.table();
    for id in (7..207).step_by(2) {
        bed.publish(held(bed.table(), id, HoldKind::Wait, "foo"));
        bed.until("the hold drains", |r| r.holds.get(&HoldId(id)).is_some_and(|hold| hold.drained));
        bed.publish(RouteTable { epoch: Epoch(id + 1), ..free.clone() });
        bed.until("the hold ends", |r| r.route_epoch == Epoch(id + 1));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_reply_above_the_limit_of_unconfirmed_ones_is_confirmed_when_it_waits_alone() {
    let primary = Redis::start();
    let _replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let limits = Limits { unconfirmed_max: MB, ..patient() };
    let bed = Bed::start_with(&[&primary.addr], limits, 1, |table| {
        with_product(table, |p| (p.min_acks, p.min_acks_ms) = (1, 20_000))
    });
    let mut client = bed.client();
    client.call("SET small 1").expect("+OK\r\n");
    client.send(set("k", 4 * MB)).expect("+OK\r\n");
    client.call("GETDEL k").expect(&format!("${}\r\n{}\r\n", 4 * MB, "x".repeat(4 * MB)));
}
