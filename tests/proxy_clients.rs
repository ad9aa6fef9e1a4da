//! What a node knows of its clients and lets them do to each other: CLIENT LIST, KILL, PAUSE, UNBLOCK, MONITOR, SLOWLOG,
//! with several workers and a real server. What other products' clients do is invisible.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Bed, Client, PATIENCE, Redis, free_port, logins};
use pontoon::{
    model::{
        ids::ProductId,
        route::{ProductRoutes, RouteTable},
    },
    proxy::Limits,
};

/// Workers of the node: clients of a product are spread over them.
const WORKERS: usize = 3;

/// A node with two products on the same server.
struct Node {
    redis: Redis,
    bed: Bed,
    /// The port of the second product.
    other: u16,
}

impl Node {
    fn start() -> Self {
        Self::start_with(Limits::default())
    }

    fn start_with(limits: Limits) -> Self {
        let (redis, other) = (Redis::start(), free_port());
        let bed = Bed::start_with(&[&redis.addr], limits, WORKERS, |table| with_second(table, other));
        bed.until("both listen", |report| report.listeners.len() == 2);
        Self { redis, bed, other }
    }

    fn clients(&self, count: usize) -> Vec<Client> {
        (0..count)
            .map(|_| self.bed.client())
            .map(|mut client| {
                client.call("PING").expect("+PONG\r\n");
                client
            })
            .collect()
    }

    fn other(&self) -> Client {
        let mut client = Client::connect(self.other);
        client.call("PING").expect("+PONG\r\n");
        client
    }
}

fn with_second(mut table: RouteTable, port: u16) -> RouteTable {
    let first = table.products.values().next().unwrap().clone();
    let second = ProductRoutes { id: ProductId(2), name: "second".into(), port, ..(*first).clone() };
    table.products.insert(ProductId(2), Arc::new(second));
    table
}

/// The text of a bulk reply whose lines end with a line feed alone.
fn bulk(client: &mut Client, call: &str) -> String {
    let head = client.call(call).line();
    assert!(head.starts_with('$'), "{call}: {head}");
    client.line()
}

fn number(client: &mut Client, call: &str) -> u64 {
    let line = client.call(call).line();
    line.strip_prefix(':').unwrap_or_else(|| panic!("{call}: {line}")).parse().unwrap()
}

fn id(client: &mut Client) -> u64 {
    number(client, "CLIENT ID")
}

/// A field of a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{name} in {line}"))
}

/// CLIENT LIST of one client.
fn shown(asker: &mut Client, id: u64) -> String {
    bulk(asker, &format!("CLIENT LIST ID {id}"))
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Whether the proxy has closed the connection.
fn is_closed(client: &mut Client) -> bool {
    client.rest().is_empty()
}

#[test]
fn a_list_has_the_clients_of_all_workers_and_of_no_other_product() {
    let node = Node::start();
    let mut clients = node.clients(7);
    let mut ids: Vec<u64> = clients.iter_mut().map(id).collect();
    let mut other = node.other();
    let other_id = id(&mut other);
    let asker = &mut clients[0];
    let list = bulk(asker, "CLIENT LIST");
    let listed: Vec<u64> = list.lines().map(|line| field(line, "id").parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(listed, ids, "{list}");
    assert!(ids.iter().all(|id| *id > 1 << 40 && *id < 2 << 40), "ids of node 1: {ids:?}");
    let threads: std::collections::BTreeSet<_> = list.lines().map(|line| field(line, "io-thread")).collect();
    assert_eq!(threads.len(), WORKERS, "{list}");
    assert_eq!(shown(asker, other_id), "");
    assert_eq!(bulk(&mut other, "CLIENT LIST").lines().count(), 1);
    // The own request counts, as in Redis' tests.
    for words in ["CLIENT LIST", "CLIENT INFO"] {
        let line = bulk(&mut other, words);
        assert!(line.contains(" qbuf=26 ") && line.contains(" obl=0 oll=0 omem=0 "), "{line}");
    }
    // The names of the fields are those of a server, in its order, and more.
    let mut direct = Client::connect(node.redis.port());
    let names = |text: &str| -> Vec<String> {
        let fields = text.lines().next().unwrap().split(' ');
        fields.map(|field| field.split('=').next().unwrap().to_owned()).collect()
    };
    let (theirs, ours) = (names(&bulk(&mut direct, "CLIENT LIST")), names(&list));
    let mut rest = ours.iter();
    for name in &theirs {
        assert!(rest.any(|ours| ours == name), "{name} of {theirs:?} is in its place in {ours:?}");
    }
}

#[test]
fn the_fields_of_a_client_are_true() {
    let node = Node::start();
    let mut clients = node.clients(2);
    let [asker, client] = &mut clients[..] else { unreachable!() };
    let me = id(client);
    client.call("CLIENT SETNAME job").expect("+OK\r\n");
    client.call("CLIENT SETINFO LIB-NAME lib").expect("+OK\r\n").call("CLIENT SETINFO lib-ver 1.2").expect("+OK\r\n");
    client
        .call("CLIENT SETINFO LIB-VER a\nb")
        .expect("-ERR LIB-VER cannot contain spaces, newlines or special characters.\r\n");
    client.call("CLIENT SETINFO foo b").expect("-ERR Unrecognized option 'foo'\r\n");
    client.call("SELECT 3").expect("+OK\r\n").call("CLIENT NO-EVICT ON").expect("+OK\r\n");
    client.call("CLIENT NO-TOUCH on").expect("+OK\r\n").call("GET k").expect("$-1\r\n");
    let line = shown(asker, me);
    let local = client.stream.local_addr().unwrap().to_string();
    for (name, want) in [
        ("addr", local.as_str()),
        ("laddr", &format!("127.0.0.1:{}", node.bed.port)),
        ("name", "job"),
        ("flags", "eT"),
        ("db", "3"),
        ("multi", "-1"),
        ("watch", "0"),
        ("cmd", "get"),
        ("user", "default"),
        ("redir", "-1"),
        ("resp", "2"),
        ("lib-name", "lib"),
        ("lib-ver", "1.2"),
        ("events", "r"),
    ] {
        assert_eq!(field(&line, name), want, "{line}");
    }
    assert!(field(&line, "fd").parse::<i32>().unwrap() > 2);
    client
        .call("WATCH {a}1 {a}2")
        .expect("+OK\r\n")
        .call("MULTI")
        .expect("+OK\r\n")
        .call("SET {a}1 1")
        .expect("+QUEUED\r\n");
    let line = shown(asker, me);
    assert_eq!((field(&line, "multi"), field(&line, "watch"), field(&line, "flags")), ("1", "2", "xeT"), "{line}");
    assert!(field(&line, "multi-mem").parse::<usize>().unwrap() > 0 && field(&line, "cmd") == "set", "{line}");
    client.call("DISCARD").expect("+OK\r\n").call("BLPOP q 0");
    wait_until("it is blocked", || field(&shown(asker, me), "flags").starts_with('b'));
    assert_eq!(field(&shown(asker, me), "cmd"), "blpop");
    asker.call("HELLO 3 SETNAME asker").call("PING");
    while asker.line() != "+PONG" {}
    let head = asker.call("CLIENT INFO").line();
    assert!(head.starts_with('='), "{head}");
    let line = asker.line();
    assert_eq!((field(&line, "cmd"), field(&line, "resp"), field(&line, "name")), ("client|info", "3", "asker"));
}

#[test]
fn age_and_idle_grow() {
    let node = Node::start();
    let mut clients = node.clients(2);
    let [asker, client] = &mut clients[..] else { unreachable!() };
    let me = id(client);
    wait_until("it is idle for a second", || {
        let line = shown(asker, me);
        field(&line, "idle").parse::<u64>().unwrap() >= 1 && field(&line, "age").parse::<u64>().unwrap() >= 1
    });
    client.call("PING").expect("+PONG\r\n");
    assert_eq!(field(&shown(asker, me), "idle"), "0");
    wait_until("both are old", || bulk(asker, "CLIENT LIST MAXAGE 1").lines().count() == 2);
    assert_eq!(bulk(asker, "CLIENT LIST NOT-MAXAGE 1").lines().count(), 0);
}

#[test]
fn clients_are_killed_by_what_they_are() {
    let node = Node::start();
    let mut other = node.other();
    let other_id = id(&mut other);
    let mut clients = node.clients(6);
    let ids: Vec<u64> = clients.iter_mut().map(id).collect();
    let addr = |client: &Client| client.stream.local_addr().unwrap();
    let others_addr = addr(&other);
    let addrs: Vec<_> = clients.iter().map(addr).collect();
    let (asker, victims) = clients.split_first_mut().unwrap();
    asker.call("CLIENT KILL 1.2.3.4:5").expect("-ERR No such client\r\n");
    asker.call(&format!("CLIENT KILL {others_addr}")).expect("-ERR No such client\r\n");
    assert_eq!(number(asker, &format!("CLIENT KILL ID {other_id}")), 0, "a client of another product");
    asker.call(&format!("CLIENT KILL {}", addrs[1])).expect("+OK\r\n");
    assert!(is_closed(&mut victims[0]));
    assert_eq!(number(asker, &format!("CLIENT KILL ID {} ADDR {}", ids[2], addrs[3])), 0, "both must hold");
    assert_eq!(number(asker, &format!("CLIENT KILL ID {} ADDR {}", ids[2], addrs[2])), 1);
    assert!(is_closed(&mut victims[1]));
    assert_eq!(number(asker, &format!("CLIENT KILL LADDR 127.0.0.1:{} ID {}", node.bed.port, ids[3])), 1);
    assert!(is_closed(&mut victims[2]));
    assert_eq!(number(asker, "CLIENT KILL TYPE pubsub"), 0);
    // Itself only if it says so, and behind its answer.
    assert_eq!(number(asker, &format!("CLIENT KILL ID {}", ids[0])), 0);
    assert_eq!(number(asker, "CLIENT KILL TYPE normal USER default SKIPME yes"), 2);
    assert!(is_closed(&mut victims[3]) && is_closed(&mut victims[4]));
    asker.call("CLIENT KILL USER default SKIPME no").expect(":1\r\n");
    assert!(is_closed(asker));
    other.call("PING").expect("+PONG\r\n");
    assert_eq!(bulk(&mut other, "CLIENT LIST").lines().count(), 1);
}

#[test]
fn a_blocked_client_is_unblocked_from_any_worker() {
    let node = Node::start();
    let mut other = node.other();
    let mut clients = node.clients(4);
    let (client, askers) = clients.split_first_mut().unwrap();
    let me = id(client);
    for asker in askers {
        assert_eq!(number(asker, &format!("CLIENT UNBLOCK {me}")), 0, "it is not blocked");
        client.call("BLPOP q 0");
        wait_until("it is blocked", || field(&shown(asker, me), "flags") == "b");
        assert_eq!(number(&mut other, &format!("CLIENT UNBLOCK {me}")), 0, "a client of another product");
        assert_eq!(number(asker, &format!("CLIENT UNBLOCK {me} TIMEOUT")), 1);
        client.expect("*-1\r\n").call("BLPOP q 0");
        wait_until("it is blocked", || field(&shown(asker, me), "flags") == "b");
        assert_eq!(number(asker, &format!("CLIENT UNBLOCK {me} error")), 1);
        client.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
        assert_eq!(number(asker, "CLIENT UNBLOCK 12345"), 0);
        asker.call("CLIENT UNBLOCK 5 foo").expect("-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n");
        asker.call("CLIENT UNBLOCK abc").expect("-ERR value is not an integer or out of range\r\n");
    }
}

/// Whether nothing comes for a moment, while another client is served.
fn waits(client: &mut Client, witness: &mut Client) -> bool {
    for _ in 0..20 {
        witness.call("GET witness").line();
    }
    client.stream.set_nonblocking(true).unwrap();
    let nothing = std::io::Read::read(&mut client.stream, &mut [0; 1]).is_err();
    client.stream.set_nonblocking(false).unwrap();
    nothing
}

/// How many clients are blocked, as the node says.
fn blocked(client: &mut Client) -> String {
    let head = client.call("INFO clients").line();
    // With the end of the bulk string.
    let mut left = head[1..].parse::<usize>().unwrap() + 2;
    let mut found = String::new();
    while left > 0 {
        let line = client.line();
        left -= line.len() + 2;
        if line.starts_with("blocked_clients:") {
            found = line;
        }
    }
    found
}

#[test]
fn a_pause_of_writes_keeps_back_writes_only() {
    let node = Node::start();
    let mut other = node.other();
    let mut clients = node.clients(5);
    let [asker, writer, transaction, reader, script] = &mut clients[..] else { unreachable!() };
    transaction.call("MULTI").expect("+OK\r\n").call("SET t 1").expect("+QUEUED\r\n");
    asker.call("CLIENT PAUSE 600000 WRITE").expect("+OK\r\n");
    writer.call("SET k 1").call("GET k");
    transaction.call("EXEC");
    script.call("EVAL return(1) 0");
    reader.call("GET k").expect("$-1\r\n").call("MULTI").expect("+OK\r\n").call("GET k").expect("+QUEUED\r\n");
    reader
        .call("EXEC")
        .expect("*1\r\n$-1\r\n")
        .call("SET k")
        .expect("-ERR wrong number of arguments for 'set' command\r\n");
    // A script that says that it changes nothing, in a transaction, too.
    let script_that_reads = "*3\r\n$4\r\nEVAL\r\n$35\r\n#!lua flags=no-writes\nreturn(12345)\r\n$1\r\n0\r\n";
    reader.send(script_that_reads).expect(":12345\r\n").call("MULTI").expect("+OK\r\n");
    reader.send(script_that_reads).expect("+QUEUED\r\n").call("EXEC").expect("*1\r\n:12345\r\n");
    other.call("SET {other} 1").expect("+OK\r\n");
    assert!(waits(writer, &mut other) && waits(transaction, &mut other) && waits(script, &mut other));
    let writer_id = number(reader, "CLIENT ID");
    assert!(writer_id > 0);
    let list = bulk(reader, "CLIENT LIST");
    assert_eq!(list.lines().filter(|line| field(line, "flags").contains('b')).count(), 3, "{list}");
    // As in Redis, those that wait count as blocked.
    assert_eq!(blocked(reader), "blocked_clients:3");
    // A shorter or weaker pause changes nothing.
    asker.call("CLIENT PAUSE 1 WRITE").expect("+OK\r\n");
    assert!(waits(writer, &mut other));
    asker.call("CLIENT UNPAUSE").expect("+OK\r\n");
    writer.expect("+OK\r\n$1\r\n1\r\n");
    transaction.expect("*1\r\n+OK\r\n");
    script.expect(":1\r\n");
    assert_eq!(blocked(reader), "blocked_clients:0");
    for (call, want) in [
        ("CLIENT PAUSE abc", "-ERR timeout is not an integer or out of range\r\n"),
        ("CLIENT PAUSE -1", "-ERR timeout is negative\r\n"),
        ("CLIENT PAUSE 1 foo", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n"),
    ] {
        asker.call(call).expect(want);
    }
    writer.call("SET k 2").expect("+OK\r\n");
}

#[test]
fn a_pause_of_all_ends_at_its_time() {
    let node = Node::start();
    let mut other = node.other();
    let mut clients = node.clients(4);
    let [asker, reader, blocked, leaver] = &mut clients[..] else { unreachable!() };
    let (blocked_id, leaver_id) = (id(blocked), id(leaver));
    blocked.call("BLPOP q 0");
    wait_until("it is blocked", || field(&shown(asker, blocked_id), "flags") == "b");
    let started = Instant::now();
    asker.call("CLIENT PAUSE 700 ALL").expect("+OK\r\n");
    // Also what only the node answers, and UNPAUSE.
    reader.call("PING").call("CLIENT UNPAUSE");
    leaver.call("SET leaver 1");
    leaver.stream.shutdown(std::net::Shutdown::Both).unwrap();
    asker.call("nosuch").expect("-ERR unknown command 'nosuch', with args beginning with: \r\n");
    assert!(waits(reader, &mut other));
    reader.expect("+PONG\r\n+OK\r\n");
    assert!(started.elapsed() >= Duration::from_millis(700), "{:?}", started.elapsed());
    assert_eq!(shown(asker, leaver_id), "");
    asker.call("GET leaver").expect("$-1\r\n").call("RPUSH q x").expect(":1\r\n");
    blocked.expect("*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
}

#[test]
fn a_killed_client_that_was_paused_executes_nothing() {
    let node = Node::start();
    let mut clients = node.clients(2);
    let [asker, victim] = &mut clients[..] else { unreachable!() };
    let victim_id = id(victim);
    asker.call("CLIENT PAUSE 600000 WRITE").expect("+OK\r\n");
    victim.call("SET k 1");
    wait_until("it waits", || field(&shown(asker, victim_id), "flags") == "b");
    assert_eq!(number(asker, &format!("CLIENT KILL ID {victim_id}")), 1);
    assert!(is_closed(victim));
    wait_until("it does not wait any more", || blocked(asker) == "blocked_clients:0");
    asker.call("CLIENT UNPAUSE").expect("+OK\r\n").call("GET k").expect("$-1\r\n");
    assert_eq!(blocked(asker), "blocked_clients:0");
}

#[test]
fn a_monitor_sees_its_product_and_no_passwords() {
    let node = Node::start();
    let mut other = node.other();
    let mut clients = node.clients(WORKERS + 1);
    let (monitor, callers) = clients.split_first_mut().unwrap();
    let monitor_id = id(monitor);
    monitor.call("MONITOR").expect("+OK\r\n");
    assert_eq!(field(&shown(&mut callers[0], monitor_id), "flags"), "O");
    let mut seen = |want: &str, client: &Client| {
        let line = monitor.line();
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.starts_with('+') && time.split_once('.').unwrap().1.len() == 6, "{line}");
        assert_eq!(rest, format!("[0 {}] {want}", client.stream.local_addr().unwrap()));
    };
    other.call("SET secret-of-another 1").expect("+OK\r\n");
    for client in callers.iter_mut() {
        client.call("SET k a\"b\\\n\x01").expect("+OK\r\n");
        seen(r#""SET" "k" "a\"b\\\n\x01""#, client);
    }
    let client = &mut callers[0];
    client.call("AUTH default hidden").expect("+OK\r\n");
    seen(r#""AUTH" "(redacted)" "(redacted)""#, client);
    client.call("HELLO 2 AUTH default hidden").call("PING");
    while client.line() != "+PONG" {}
    seen(r#""HELLO" "2" "AUTH" "(redacted)" "(redacted)""#, client);
    seen(r#""PING""#, client);
    // What is refused, and what is for operators.
    client.call("CONFIG SET requirepass hidden").line();
    client.call("nosuch").line();
    bulk(client, "CLIENT LIST");
    client.call("ECHO last").expect("$4\r\nlast\r\n");
    seen(r#""ECHO" "last""#, client);
    // The EXEC of a transaction that is refused is shown, what was wrong in it is not.
    client.call("MULTI").expect("+OK\r\n").call("nosuch").line();
    client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    seen(r#""MULTI""#, client);
    seen(r#""EXEC""#, client);
    monitor.call("RESET");
    while monitor.line() != "+RESET" {}
    client.call("SET k 1").expect("+OK\r\n");
    monitor.call("PING").expect("+PONG\r\n");
}

#[test]
fn monitors_are_bounded_in_number_and_rate() {
    let node = Node::start_with(Limits { monitor_rate: 3 * WORKERS as u32, ..Limits::default() });
    let mut clients = node.clients(6);
    let (caller, monitors) = clients.split_first_mut().unwrap();
    let (last, monitors) = monitors.split_last_mut().unwrap();
    for monitor in monitors.iter_mut() {
        monitor.call("MONITOR").expect("+OK\r\n");
    }
    let refused = last.call("MONITOR").line();
    assert!(refused.contains("has 4 clients that MONITOR at this node already"), "{refused}");
    let started = Instant::now();
    for _ in 0..1000 {
        caller.call("PING").expect("+PONG\r\n");
    }
    let seconds = started.elapsed().as_secs() + 2;
    node.bed.until("the rest was skipped", |report| report.stats.monitor_skipped > 0);
    assert!(1000 > 3 * seconds, "the machine is too slow for this test");
    monitors[0].call("QUIT");
    let lines = monitors[0].rest().lines().filter(|line| line.contains("PING")).count() as u64;
    assert!((1..=3 * seconds).contains(&lines), "{lines} lines in {seconds} s");
    // Its place is free again.
    wait_until("another may monitor", || last.call("MONITOR").line() == "+OK");
}

#[test]
fn a_monitor_that_does_not_read_is_closed() {
    let limits = Limits { session_output_max: 64 << 10, monitor_rate: 1_000_000, ..Limits::default() };
    let node = Node::start_with(limits);
    let mut clients = node.clients(2);
    let [caller, monitor] = &mut clients[..] else { unreachable!() };
    let monitor_id = id(monitor);
    monitor.call("MONITOR").expect("+OK\r\n");
    let value = "x".repeat(1000);
    wait_until("the monitor is closed", || {
        for _ in 0..200 {
            caller.call(&format!("ECHO {value}")).line();
            caller.line();
        }
        shown(caller, monitor_id).is_empty()
    });
}

#[test]
fn what_concerns_all_workers_is_executed_in_a_transaction() {
    let node = Node::start();
    let mut client = node.bed.client();
    client.call("CONFIG SET slowlog-log-slower-than -1").expect("+OK\r\n");
    let queue = |client: &mut Client, calls: &[&str]| {
        client.call("MULTI").expect("+OK\r\n");
        for call in calls {
            client.call(call).expect("+QUEUED\r\n");
        }
    };
    // Alone, and between commands for a server. What the client sends behind EXEC comes after it.
    for with_server in [false, true] {
        let before: &[&str] = if with_server { &["SET k 1"] } else { &[] };
        let behind: &[&str] = if with_server { &["INCR k"] } else { &[] };
        let calls = ["SLOWLOG LEN", "CONFIG SET slowlog-max-len 7", "CONFIG GET hz", "CLIENT LIST", "MONITOR"];
        queue(&mut client, &[before, &calls, behind].concat());
        client.call("EXEC").call("CONFIG GET slowlog-max-len");
        client.expect(if with_server { "*7\r\n+OK\r\n" } else { "*5\r\n" }).expect(":0\r\n+OK\r\n");
        client.expect("*2\r\n$2\r\nhz\r\n$2\r\n10\r\n");
        assert!(value(&mut client).starts_with("id="));
        client.expect("-ERR MONITOR isn't allowed for DENY BLOCKING client\r\n");
        if with_server {
            client.expect(":2\r\n");
        }
        client.expect("*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n7\r\n");
        client.call("CONFIG SET slowlog-max-len 128").expect("+OK\r\n");
    }
    // Nothing is done for a transaction that is given up.
    client.call("WATCH k").expect("+OK\r\n");
    node.bed.client().call("SET k 2").expect("+OK\r\n");
    queue(&mut client, &["GET k", "CONFIG SET slowlog-max-len 9"]);
    client.call("EXEC").expect("*-1\r\n");
    client.call("CONFIG GET slowlog-max-len").expect("*2\r\n$15\r\nslowlog-max-len\r\n$3\r\n128\r\n");
}

#[test]
fn clients_set_what_the_slow_log_keeps() {
    let node = Node::start();
    let mut client = node.clients(1).remove(0);
    client.call("CONFIG SET slowlog-log-slower-than 0").expect("+OK\r\n");
    client.call("SLOWLOG RESET").expect("+OK\r\n").call("GET k").expect("$-1\r\n");
    let texts: Vec<_> = slow_log(&mut client, "SLOWLOG GET").into_iter().map(|(_, text)| text).collect();
    for wanted in ["(GET k) ", "(SLOWLOG RESET) "] {
        assert!(texts.iter().any(|text| text.starts_with(wanted)), "{texts:?}");
    }
    // All workers know it.
    for mut other in node.clients(4) {
        other.call("CONFIG GET slowlog-log-slower-than").expect("*2\r\n$23\r\nslowlog-log-slower-than\r\n$1\r\n0\r\n");
        other.call("GET k").expect("$-1\r\n");
    }
    client.call("CONFIG SET slowlog-max-len 2 slowlog-log-slower-than -1").expect("+OK\r\n");
    assert_eq!(number(&mut client, "SLOWLOG LEN"), 2);
    assert_eq!(slow_log(&mut client, "SLOWLOG GET -1").len(), 2);
    for (call, why) in [
        ("slowlog-max-len 1025", "argument must be between 0 and 1024 inclusive"),
        ("slowlog-log-slower-than x", "argument couldn't be parsed into an integer"),
    ] {
        let name = call.split(' ').next().unwrap();
        let want = format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}\r\n");
        client.call(&format!("CONFIG SET {call}")).expect(&want);
    }
}

#[test]
fn clients_set_a_timeout() {
    use std::io::Read;
    let node = Node::start();
    let mut client = node.clients(1).remove(0);
    client.call("CONFIG SET timeout 1").expect("+OK\r\n");
    client.call("CONFIG GET timeout").expect("*2\r\n$7\r\ntimeout\r\n$1\r\n1\r\n");
    client.stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "it is closed");
}

#[test]
fn strangers_see_nothing() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), WORKERS, |table| {
        common::with_product(table, |product| product.auth = logins("secret", 1))
    });
    for call in ["CLIENT LIST", "CLIENT KILL ID 1", "CLIENT PAUSE 9", "MONITOR", "SLOWLOG GET"] {
        bed.client().call(call).expect("-NOAUTH Authentication required.\r\n");
    }
    let mut client = bed.client();
    client.call("AUTH secret").expect("+OK\r\n");
    assert_eq!(bulk(&mut client, "CLIENT LIST").lines().filter(|line| field(line, "user") == "default").count(), 1);
}

/// The elements of a reply, those of nested arrays in parentheses.
fn value(client: &mut Client) -> String {
    let head = client.line();
    match (&head[..1], head[1..].parse::<usize>()) {
        ("*", Ok(len)) => format!("({})", (0..len).map(|_| value(client)).collect::<Vec<_>>().join(" ")),
        ("$", Ok(_)) => client.line(),
        _ => head[1..].to_owned(),
    }
}

/// The entries of the slow log, newest first: the microseconds, and what follows them.
fn slow_log(client: &mut Client, call: &str) -> Vec<(u64, String)> {
    let text = value(client.call(call));
    let entries = text.strip_prefix('(').unwrap().strip_suffix(')').unwrap();
    let entry = |entry: &str| {
        let mut parts = entry.splitn(4, ' ').skip(2);
        (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().trim_end_matches(')').to_owned())
    };
    entries
        .split(") (")
        .filter(|text| !text.is_empty())
        .fold(Vec::<String>::new(), |mut all, text| {
            // Each entry begins with its id, and has a list of arguments inside.
            all.push(text.trim_start_matches('(').to_owned());
            all
        })
        .iter()
        .map(|text| entry(text))
        .collect()
}

/// Lets the server answer nobody for a while.
fn stop_for(direct: &mut Client, ms: u64) {
    direct.call(&format!("CLIENT PAUSE {ms} ALL")).expect("+OK\r\n");
}

#[test]
fn the_slow_log_has_what_took_long() {
    let node = Node::start();
    let mut other = node.other();
    let mut direct = Client::connect(node.redis.port());
    let mut clients = node.clients(4);
    for client in &mut clients {
        client.call("SET warm 1").expect("+OK\r\n");
    }
    other.call("SET warm 1").expect("+OK\r\n");
    // What the node does itself is faster than that, also on a busy machine.
    for client in [&mut clients[0], &mut other] {
        client.call("CONFIG SET slowlog-log-slower-than 100000").expect("+OK\r\n");
    }
    // The node finds out once whether a connection executes transactions.
    clients[2]
        .call("MULTI")
        .expect("+OK\r\n")
        .call("SET m 1")
        .expect("+QUEUED\r\n")
        .call("EXEC")
        .expect("*1\r\n+OK\r\n");
    clients[1].call("CLIENT SETNAME job").expect("+OK\r\n");
    stop_for(&mut direct, 300);
    let long = "v".repeat(200);
    clients[0].call(&format!("SET k {long}"));
    clients[1].call("GET one").call("GET two");
    clients[2].call("MULTI").expect("+OK\r\n").call("SET m 1").expect("+QUEUED\r\n").call("EXEC");
    clients[3].call("BLPOP q 0.4");
    other.call("GET of-another");
    clients[0].expect("+OK\r\n");
    clients[1].expect("$-1\r\n$-1\r\n");
    clients[2].expect("*1\r\n+OK\r\n");
    clients[3].expect("*-1\r\n");
    other.expect("$-1\r\n");
    let addrs: Vec<_> = clients.iter().map(|client| client.stream.local_addr().unwrap()).collect();
    let asker = &mut clients[3];
    assert_eq!(number(asker, "SLOWLOG LEN"), 4);
    let entries = slow_log(asker, "SLOWLOG GET");
    let texts: std::collections::BTreeSet<&str> = entries.iter().map(|(_, text)| text.as_str()).collect();
    let shown_value = format!("{}... (72 more bytes)", "v".repeat(128));
    let wanted = [
        format!("(SET k {shown_value}) {} ", addrs[0]),
        format!("(GET one) {} job", addrs[1]),
        format!("(GET two) {} job", addrs[1]),
        format!("(EXEC) {} ", addrs[2]),
    ];
    assert_eq!(texts, wanted.iter().map(String::as_str).collect(), "{entries:?}");
    assert!(entries.iter().all(|(us, _)| (100_000..20_000_000).contains(us)), "{entries:?}");
    assert_eq!(slow_log(asker, "SLOWLOG GET 1").len(), 1);
    assert_eq!(slow_log(asker, "SLOWLOG GET -1").len(), 4);
    assert_eq!(slow_log(&mut other, "SLOWLOG GET").len(), 1, "that of its own product");
    for call in ["SLOWLOG GET -2", "SLOWLOG GET abc"] {
        asker.call(call).expect("-ERR count should be greater than or equal to -1\r\n");
    }
    asker.call("SLOWLOG RESET").expect("+OK\r\n");
    assert_eq!((number(asker, "SLOWLOG LEN"), number(&mut other, "SLOWLOG LEN")), (0, 1));
}

#[test]
fn many_bytes_in_flight_do_not_mix_up_the_slow_log() {
    let node = Node::start();
    let mut direct = Client::connect(node.redis.port());
    let mut client = node.clients(1).remove(0);
    client.call("SET warm 1").expect("+OK\r\n");
    let value = "v".repeat(100_000);
    for round in 0..3 {
        stop_for(&mut direct, 200);
        // More than is kept of unanswered requests.
        for i in 0..30 {
            client.call(&format!("SET key{i} {value}"));
        }
        client.call(&format!("GET last{round}"));
        for _ in 0..30 {
            client.expect("+OK\r\n");
        }
        client.expect("$-1\r\n");
        stop_for(&mut direct, 100);
        client.call(&format!("GET small{round}")).expect("$-1\r\n");
        let entries = slow_log(&mut client, "SLOWLOG GET 200");
        assert!(entries[0].1.starts_with(&format!("(GET small{round})")), "{:?}", entries[0]);
        for (_, text) in &entries {
            let known = text.starts_with("(SET key") || text.starts_with("(GET ") || text.contains("are not known now");
            assert!(known, "{text}");
        }
    }
    assert!(number(&mut client, "SLOWLOG LEN") <= 128);
}

#[test]
fn the_slow_log_can_be_off() {
    let node = Node::start_with(Limits { slow_request: None, ..Limits::default() });
    let mut direct = Client::connect(node.redis.port());
    let mut client = node.clients(1).remove(0);
    client.call("SET warm 1").expect("+OK\r\n");
    stop_for(&mut direct, 100);
    client.call("GET k").expect("$-1\r\n");
    assert_eq!(number(&mut client, "SLOWLOG LEN"), 0);
}
