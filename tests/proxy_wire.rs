//! Requests and replies of the proxy, byte by byte, with real servers.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{Read, Write},
    time::Instant,
};

use common::{Bed, Client, PATIENCE, Redis, logins, password, request, with_product};
use pontoon::{
    model::ids::{Epoch, ProductId},
    proxy::{Limits, ProxyReport},
};

#[test]
fn a_pipeline_keeps_its_order() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 2, |t| t);
    let mut all = Vec::new();
    let mut want = String::new();
    for i in 0..200 {
        all.extend(request(&format!("SET k{i} v{i}")));
        all.extend(request("PING"));
        all.extend(request(&format!("MGET k{i} none k0")));
        all.extend(request(&format!("GET k{i}")));
        let len = format!("v{i}").len();
        want += &format!("+OK\r\n+PONG\r\n*3\r\n${len}\r\nv{i}\r\n$-1\r\n$2\r\nv0\r\n${len}\r\nv{i}\r\n");
    }
    bed.client().send(&all).expect(&want);
}

#[test]
fn split_commands_are_merged() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    client.call("MSET a 1 b 2 c 3 d 4 e 5 f 6").expect("+OK\r\n");
    client.call("MGET f e d c b a").expect("*6\r\n$1\r\n6\r\n$1\r\n5\r\n$1\r\n4\r\n$1\r\n3\r\n$1\r\n2\r\n$1\r\n1\r\n");
    client.call("EXISTS a b c none a").expect(":4\r\n");
    client.call("TOUCH a b").expect(":2\r\n");
    client.call("DEL a b none").expect(":2\r\n");
    client.call("UNLINK c d e f a").expect(":4\r\n");
    client.call("MSET a 1 b").expect("-ERR wrong number of arguments for 'mset' command\r\n");
    client.call("SUNION a b c").expect(
        "-CROSSSLOT Keys in request don't hash to the same slot, not executed. Use a hash tag: of {a}b only a is \
            hashed\r\n",
    );
    client.call("SUNION {a}1 {a}2").expect("*0\r\n");
    client.call("HELLO 3");
    assert_eq!(client.line(), "%7");
    client.send("PING\r\n");
    while client.line() != "+PONG" {}
    client.call("MGET a b c").expect("*3\r\n_\r\n_\r\n_\r\n");
}

#[test]
fn an_error_of_a_part_is_never_reported_as_success() {
    let (a, b) = (Redis::start(), Redis::start_with(&["--maxmemory", "1"]));
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    // One key on each server.
    client.call("MSET foo 1 hello 2 k1 3 k2 4 k3 5 k4 6 k5 7 k6 8");
    let line = client.line();
    assert!(line.starts_with("-ERR outcome unknown: executed for some keys only"), "{line}");
}

#[test]
fn requests_in_single_bytes_and_inline_commands_work() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    for byte in request("SET key value") {
        client.send([byte]);
    }
    client.expect("+OK\r\n");
    client.send("\r\nGET key\r\nset \"a b\" 'x'\nECHO \"\\x41\"\r\n").expect("$5\r\nvalue\r\n+OK\r\n$1\r\nA\r\n");
}

#[test]
fn a_client_that_closed_its_half_gets_its_replies() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.send("SET k v\r\nGET k\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "+OK\r\n$1\r\nv\r\n");
}

#[test]
fn malformed_requests_are_refused_at_every_byte() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let whole = request("SET k v");
    let mut other = bed.client();
    // The positions of the three arguments; all other bytes are structure.
    let is_payload = |at: usize| (8..11).contains(&at) || at == 17 || at == 24;
    for cut in (0..whole.len()).filter(|at| !is_payload(*at)) {
        for bad in [0u8, b'\n', b'\r', b'x', b'9', 0xff] {
            if whole[cut] == bad {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[cut] = bad;
            let mut client = bed.client();
            client.send(&bytes);
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let got = client.rest();
            assert!(!got.contains("+OK"), "byte {cut} = {bad:#x}: {got:?}");
            assert!(cut == 0 || bad == b'9' || got.contains("Protocol error"), "byte {cut} = {bad:#x}: {got:?}");
        }
    }
    other.call("SET still fine").expect("+OK\r\n");
    for (bytes, want) in [
        ("*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        ("*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("set \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        assert_eq!(bed.client().send(bytes).rest(), want);
    }
}

#[test]
fn an_announced_bulk_allocates_no_memory() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let mut waiting: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = bed.client();
            client.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nbeginning");
            client
        })
        .collect();
    bed.client().call("SET a b").expect("+OK\r\n");
    assert!(rss() < 400, "{} MB", rss());
    let mut one = waiting.pop().unwrap();
    one.send("x");
}

#[test]
fn a_reply_larger_than_every_buffer_passes() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let value = "x".repeat(20 << 20);
    let mut client = bed.client();
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len())).expect("+OK\r\n");
    client.call("GET k").expect(&format!("${}\r\n{value}\r\n", value.len()));
    client.call("GET none").expect("$-1\r\n");
}

#[test]
fn clients_log_in_by_auth_and_hello() {
    let redis = Redis::start_with(&["--requirepass", "server-secret"]);
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| {
            p.auth = logins("client-secret", 1);
            p.groups[0].login.control = Some(password("server-secret"));
        })
    });
    let mut client = bed.client();
    client.call("GET k").expect("-NOAUTH Authentication required.\r\n");
    client.call("PING").expect("-NOAUTH Authentication required.\r\n");
    client.call("NONSENSE").expect("-NOAUTH Authentication required.\r\n");
    client.call("AUTH wrong").expect("-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    client.call("AUTH default client-secret").expect("+OK\r\n");
    client.call("SET k v").expect("+OK\r\n");
    client.call("RESET").expect("+RESET\r\n");
    client.call("GET k").expect("-NOAUTH Authentication required.\r\n");
    assert!(bed.client().send("*11\r\n").rest().contains("unauthenticated multibulk length"));
    // Many arguments are allowed in the same write as the login.
    let mut both = request("AUTH client-secret");
    both.extend(request("DEL k 1 2 3 4 5 6 7 8 9 10 11 12"));
    bed.client().send(&both).expect("+OK\r\n:1\r\n");
    let mut modern = bed.client();
    modern.call("HELLO 3 AUTH default client-secret SETNAME me");
    assert_eq!(modern.line(), "%7");
}

#[test]
fn databases_and_versions_are_separate() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("SET k zero").expect("+OK\r\n");
    client.call("SELECT 3").expect("+OK\r\n");
    client.call("GET k").expect("$-1\r\n");
    client.call("HSET h f v").expect(":1\r\n");
    client.call("SELECT 16").expect("-ERR DB index is out of range\r\n");
    client.call("SELECT x").expect("-ERR value is not an integer or out of range\r\n");
    client.call("HELLO 4").expect("-NOPROTO unsupported protocol version\r\n");
    client.call("HELLO 3");
    while client.line() != "modules" {}
    client.expect("*0\r\n");
    client.call("HGETALL h").expect("%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    client.call("GET none").expect("_\r\n");
    client.call("SELECT 0").expect("+OK\r\n");
    client.call("GET k").expect("$4\r\nzero\r\n");
}

#[test]
fn the_node_answers_local_commands() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("PING hi").expect("$2\r\nhi\r\n");
    client.call("ECHO hi").expect("$2\r\nhi\r\n");
    client.call("CLIENT SETNAME me").expect("+OK\r\n");
    client.call("CLIENT GETNAME").expect("$2\r\nme\r\n");
    client.call("CONFIG GET save").expect("*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
    client.call("COMMAND GETKEYS MSET a 1 b 2").expect("*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    client.call("COMMAND INFO nonsense").expect("*1\r\n$-1\r\n");
    client.call("NONSENSE a b").expect("-ERR unknown command 'NONSENSE', with args beginning with: 'a' 'b' \r\n");
    client.call("GET").expect("-ERR wrong number of arguments for 'get' command\r\n");
    client.call("CLIENT REPLY SKIP").call("PING").call("ECHO now").expect("$3\r\nnow\r\n");
    client.call("CLIENT REPLY OFF").call("SET k v").call("GET k").call("CLIENT REPLY ON").expect("+OK\r\n");
    client.call("GET k").expect("$1\r\nv\r\n");
    client.call("BLPOP k 0").expect("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
    client.call("QUIT").expect("+OK\r\n");
    assert_eq!(client.rest(), "");
    assert_eq!(bed.client().send("POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a b\r\n").rest().matches("-ERR").count(), 1);
}

#[test]
fn a_client_that_does_not_read_is_closed_alone() {
    let redis = Redis::start();
    let client_stalled_max = std::time::Duration::from_millis(300);
    let limits = Limits { session_output_max: 1 << 20, client_stalled_max, ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |t| t);
    let mut good = bed.client();
    let value = "x".repeat(1 << 20);
    good.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len())).expect("+OK\r\n");
    let mut slow = bed.client();
    for _ in 0..50 {
        slow.call("GET k");
    }
    bed.until("the slow client is closed", |r| r.stats.slow_clients == 1);
    good.call("PING").expect("+PONG\r\n");
    good.call("EXISTS k").expect(":1\r\n");
}

#[test]
fn clients_above_the_limit_are_refused() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits { clients_max: 2, ..Limits::default() }, 2, |t| t);
    let (mut a, mut b) = (bed.client(), bed.client());
    a.call("PING").expect("+PONG\r\n");
    b.call("PING").expect("+PONG\r\n");
    assert_eq!(bed.client().rest(), "-ERR max number of clients reached\r\n");
    drop(a);
    bed.until("one has left", |r| r.clients == 1);
    bed.client().call("PING").expect("+PONG\r\n");
}

#[test]
fn clients_above_the_limit_of_their_product_are_refused() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 2, |t| with_product(t, |p| p.clients_max = 1));
    let mut first = bed.client();
    first.call("PING").expect("+PONG\r\n");
    assert_eq!(bed.client().rest(), "-ERR max number of clients reached\r\n");
    let of = |r: &ProxyReport| r.product_clients.get(&ProductId(1)).map(|of| (of.connected, of.refused));
    bed.until("counted", |r| of(r) == Some((1, [0, 1, 0])));
    // A new limit takes effect at once, and those that are connected stay.
    let mut table = with_product(bed.table(), |p| p.clients_max = 2);
    table.epoch = Epoch(2);
    bed.publish(table);
    bed.until("published", |r| r.route_epoch == Epoch(2));
    // The acceptor may see the table after the workers.
    let is_served = || {
        let (mut second, mut got) = (bed.client(), [0; 7]);
        let sent = second.stream.write_all(b"PING\r\n");
        sent.is_ok() && second.stream.read_exact(&mut got).is_ok() && got == *b"+PONG\r\n"
    };
    let end = Instant::now() + PATIENCE;
    while !is_served() {
        assert!(Instant::now() < end, "still refused");
    }
    first.call("PING").expect("+PONG\r\n");
}

#[test]
fn a_pipeline_beyond_every_limit_is_only_slower() {
    let redis = Redis::start();
    let limits = Limits { pipeline_max: 4, session_queued_max: 1000, ..Limits::default() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |t| t);
    let mut client = bed.client();
    let mut all = Vec::new();
    (0..5000).for_each(|_| all.extend(request("INCR n")));
    client.send(&all);
    let want: String = (1..=5000).map(|i| format!(":{i}\r\n")).collect();
    client.expect(&want);
}

#[test]
fn a_taken_port_is_reported_and_tried_again() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    bed.publish(with_product(bed.table(), |p| p.port = port));
    bed.until("the error is reported", |r| r.listeners.values().any(|l| l.error.is_some()));
    drop(other);
    bed.until("it is bound", |r| r.listeners.values().all(|l| l.error.is_none()));
    Client::connect(port).call("PING").expect("+PONG\r\n");
}

#[test]
fn draining_finishes_requests_in_flight() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("PING").expect("+PONG\r\n");
    let Bed { proxy, runtime, port, .. } = bed;
    runtime.block_on(proxy.drain(std::time::Duration::from_secs(5)));
    assert_eq!(client.rest(), "");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
