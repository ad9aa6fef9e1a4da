//! Transactions through the proxy, with the replies of a plain redis-server as the reference.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bed, Client, Conn, PATIENCE, Redis, fake, held};
use pontoon::{
    model::{
        ids::{Epoch, HoldId},
        route::HoldKind,
        slot::Layout,
    },
    proxy::Limits,
};

/// `{foo}` belongs to the first of two servers, `{hello}` to the second.
fn two() -> ([Redis; 2], Bed) {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    (servers, bed)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Sends each line to the proxy and to a plain server, and expects the same reply.
fn same_as_redis(lines: &[&str]) {
    let (_servers, bed) = two();
    let reference = Redis::start();
    let (mut proxy, mut plain) = (bed.client(), Client::connect(reference.port()));
    for line in lines {
        plain.call(line);
        proxy.call(line);
        let want = reply(&mut plain);
        let got = reply(&mut proxy);
        assert_eq!(got, want, "{line} of {lines:?}");
    }
}

/// One reply, whatever it is.
fn reply(client: &mut Client) -> String {
    let line = client.line();
    let mut out = line.clone() + "\r\n";
    let (kind, rest) = line.split_at(1);
    match kind {
        "$" if rest != "-1" => out += &(client.line() + "\r\n"),
        "*" | "~" | "%" if rest != "-1" => {
            let count = rest.parse::<usize>().unwrap() * if kind == "%" { 2 } else { 1 };
            (0..count).for_each(|_| out += &reply(client));
        }
        _ => {}
    }
    out
}

#[test]
fn transactions_answer_as_redis_does() {
    same_as_redis(&[
        "MULTI",
        "SET foo 1",
        "INCR foo",
        "GET foo",
        "EXEC",
        "GET foo",
        // Nothing in it, and only what the node answers.
        "MULTI",
        "EXEC",
        "MULTI",
        "PING",
        "ECHO x",
        "PING y",
        "EXEC",
        // Mixed with what the node answers.
        "MULTI",
        "PING",
        "SET foo a",
        "ECHO b",
        "GET foo",
        "PING",
        "EXEC",
        "MULTI",
        "SET foo 2",
        "DISCARD",
        "GET foo",
        "EXEC",
        "DISCARD",
        "UNWATCH",
        "MULTI",
        "MULTI",
        "SET foo 5",
        "WATCH foo",
        "EXEC",
        "GET foo",
        // Errors that abort it.
        "MULTI",
        "NONSENSE a b",
        "SET foo 6",
        "EXEC",
        "GET foo",
        "MULTI",
        "SET foo",
        "EXEC",
        "MULTI",
        "OBJECT NONSENSE",
        "EXEC",
        "GET foo",
        "MULTI",
        "EXEC x",
        "EXEC",
        "MULTI",
        "DISCARD x",
        "DISCARD",
        // Errors inside it that do not.
        "MULTI",
        "SET foo x",
        "INCR foo",
        "LPUSH foo a",
        "GET foo",
        "EXEC",
        "MULTI",
        "LMPOP 0 foo LEFT",
        "ZUNION x foo",
        "EXEC",
        "MULTI",
        "SORT foo BY",
        "EXEC",
        "MULTI",
        "MGET {foo}a {foo}b",
        "MSET {foo}a 1 {foo}b 2",
        "DEL {foo}a {foo}b {foo}c",
        "EXEC",
        "MULTI",
        "EVAL return{redis.call('set',KEYS[1],ARGV[1]),ARGV[1]} 1 foo 9",
        "GET foo",
        "EXEC",
        "MULTI",
        "EVAL return/**/1 0",
        "EVAL return{1,2} 0",
        "EXEC",
        "MULTI",
        "SELECT 0",
        "GET foo",
        "UNWATCH",
        "EXEC",
        "SELECT 3",
        "MULTI",
        "SET foo other",
        "EXEC",
        "SELECT 0",
        "GET foo",
        "MULTI",
        "RESET",
        "EXEC",
        "PING",
        "MULTI",
        "SET foo 1",
        "QUIT",
    ]);
}

#[test]
fn databases_are_selected_as_in_redis() {
    same_as_redis(&[
        "MULTI",
        "SET foo 0",
        "SELECT 1",
        "SET foo 1",
        "SELECT 2",
        "SET foo 2",
        "GET foo",
        "EXEC",
        "GET foo",
        "SELECT 0",
        "GET foo",
        "SELECT 1",
        "GET foo",
        "MULTI",
        "SELECT 99",
        "SELECT x",
        "SELECT 1",
        "GET foo",
        "EXEC",
        "GET foo",
        "MULTI",
        "SELECT 0",
        "DISCARD",
        "GET foo",
        "MULTI",
        "SELECT 0",
        "INCR foo",
        "NONSENSE",
        "EXEC",
        "GET foo",
        "MULTI",
        "SELECT 3",
        "SELECT 1",
        "INCR foo",
        "PING",
        "EXEC",
        "GET foo",
    ]);
}

#[test]
fn no_script_runs_as_the_control_user() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    client.call("MULTI").expect("+OK\r\n").call("SELECT 1").expect("+QUEUED\r\n").call("EVAL return/**/1 1 foo");
    assert!(client.line().starts_with("-ERR a transaction that selects another database runs no scripts"));
    client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    client.call("MULTI").expect("+OK\r\n").call("FCALL f 1 foo").expect("+QUEUED\r\n").call("SELECT 1");
    assert!(client.line().starts_with("-ERR a transaction that selects another database runs no scripts"));
    client.call("DISCARD").expect("+OK\r\n");
}

#[test]
fn watched_keys_decide_as_in_redis() {
    same_as_redis(&[
        "WATCH foo",
        "GET foo",
        "MULTI",
        "SET foo 1",
        "EXEC",
        "GET foo",
        // Its own write counts.
        "WATCH foo",
        "SET foo 2",
        "MULTI",
        "SET foo 3",
        "EXEC",
        "GET foo",
        "WATCH foo {foo}a",
        "SET {foo}a 2",
        "MULTI",
        "PING",
        "EXEC",
        "MULTI",
        "PING",
        "EXEC",
        "WATCH foo",
        "SET foo 4",
        "UNWATCH",
        "MULTI",
        "SET foo 5",
        "EXEC",
        "GET foo",
        "WATCH foo",
        "SET foo 6",
        "MULTI",
        "DISCARD",
        "MULTI",
        "SET foo 7",
        "EXEC",
        "WATCH foo",
        "SET foo 8",
        "RESET",
        "MULTI",
        "SET foo 9",
        "EXEC",
        "WATCH foo",
        "WATCH {foo}b",
        "SET {foo}b 1",
        "MULTI",
        "GET foo",
        "EXEC",
        "WATCH foo",
        "MULTI",
        "NONSENSE",
        "EXEC",
        "MULTI",
        "GET foo",
        "EXEC",
        "WATCH foo",
        "SELECT 5",
        "MULTI",
        "PING",
        "EXEC",
        "SELECT 0",
        "WATCH foo",
        "MULTI",
        "EXEC",
        "WATCH foo",
        "DEL foo",
        "MULTI",
        "EXEC",
    ]);
}

#[test]
fn a_change_by_another_client_makes_exec_answer_nil() {
    let (_servers, bed) = two();
    let (mut one, mut other) = (bed.client(), bed.client());
    for round in 0..50 {
        one.call("WATCH {foo}n").expect("+OK\r\n").call("GET {foo}n");
        reply(&mut one);
        if round % 2 == 0 {
            other.call("INCR {foo}n");
            reply(&mut other);
        }
        one.call("MULTI").expect("+OK\r\n").call("INCR {foo}n").expect("+QUEUED\r\n").call("EXEC");
        let got = reply(&mut one);
        assert_eq!(got == "*-1\r\n", round % 2 == 0, "round {round}: {got:?}");
    }
    // The connections with watches are used again.
    let report = bed.until("50 transactions", |r| r.stats.transactions == 50);
    assert_eq!(report.stats.transactions_unwatched, 0);
    one.send(common::request("HELLO 3"));
    reply(&mut one);
    one.call("WATCH {foo}n").expect("+OK\r\n");
    other.call("INCR {foo}n");
    reply(&mut other);
    one.call("MULTI").expect("+OK\r\n").call("EXEC").expect("_\r\n");
}

#[test]
fn a_pipeline_reads_what_the_watch_saw() {
    let (_servers, bed) = two();
    let (mut one, mut other) = (bed.client(), bed.client());
    let rounds = 300;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..rounds {
                other.call("INCR {foo}n");
                reply(&mut other);
            }
        });
        let mut done = 0;
        while done < rounds {
            one.send([common::request("WATCH {foo}n"), common::request("GET {foo}n")].concat());
            one.expect("+OK\r\n");
            let value = reply(&mut one).lines().nth(1).map_or(0, |n| n.parse::<u64>().unwrap());
            let set = common::request(&format!("SET {{foo}}n {}", value + 1));
            one.send([common::request("MULTI"), set, common::request("EXEC")].concat());
            one.expect("+OK\r\n+QUEUED\r\n");
            done += usize::from(reply(&mut one) != "*-1\r\n");
        }
    });
    let mut one = bed.client();
    one.call("GET {foo}n").expect(&format!("$3\r\n{}\r\n", 2 * rounds));
}

#[test]
fn what_a_sharded_system_cannot_do_is_refused_with_the_reason_and_nothing_is_executed() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    for (command, error) in [
        ("SET hello 1", "-CROSSSLOT "),
        ("MGET foo hello", "-CROSSSLOT "),
        ("DBSIZE", "-ERR 'dbsize' concerns all groups"),
        ("AUTH x", "-ERR 'auth' is not executed in a transaction"),
        ("HELLO 3", "-ERR 'hello' is not executed in a transaction"),
        ("REPLICAOF h 1", "-ERR 'replicaof': "),
        ("SHUTDOWN", "-ERR Command not allowed inside a transaction"),
    ] {
        client.call("MULTI").expect("+OK\r\n").call("SET foo 1").expect("+QUEUED\r\n").call(command);
        let got = client.line();
        assert!(got.starts_with(error), "{command}: {got}");
        client.call("GET foo").expect("+QUEUED\r\n");
        client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
        client.call("GET foo").expect("$-1\r\n");
    }
    client.call("WATCH foo hello");
    assert!(client.line().starts_with("-CROSSSLOT "));
    client.call("WATCH foo").expect("+OK\r\n").call("WATCH hello");
    assert!(client.line().starts_with("-CROSSSLOT "));
    // A watch and a transaction of other keys.
    client.call("MULTI").expect("+OK\r\n").call("SET hello 1").expect("+QUEUED\r\n").call("EXEC");
    assert!(client.line().starts_with("-EXECABORT Transaction discarded because of: CROSSSLOT "));
    client.call("GET hello").expect("$-1\r\n");
}

#[test]
fn limits_are_errors_when_a_command_is_queued() {
    let server = Redis::start();
    let limits =
        Limits { transaction_commands_max: 3, transaction_bytes_max: 1000, watched_keys_max: 3, ..Limits::default() };
    let bed = Bed::start_with(&[&server.addr], limits, 1, |table| table);
    let mut client = bed.client();
    client.call("MULTI").expect("+OK\r\n");
    for _ in 0..3 {
        client.call("INCR n").expect("+QUEUED\r\n");
    }
    client.call("PING");
    assert!(client.line().contains("at most 3 commands (proxy.transaction_commands_max)"));
    client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    client.call("MULTI").expect("+OK\r\n").call(&format!("SET n {}", "x".repeat(1000)));
    assert!(client.line().contains("at most 1000 bytes (proxy.transaction_bytes_max)"));
    client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    client.call("GET n").expect("$-1\r\n");
    // Keys that are watched.
    client.call("WATCH {a}1 {a}2").expect("+OK\r\n").call("WATCH {a}3 {a}4");
    assert!(client.line().contains("at most 3 keys (proxy.watched_keys_max)"));
    client.call("WATCH {a}3").expect("+OK\r\n").call("UNWATCH").expect("+OK\r\n");
    client.call("WATCH {a}1 {a}2 {a}3").expect("+OK\r\n");
}

#[test]
fn a_large_transaction_and_its_reply_pass() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    let value = "v".repeat(300_000);
    let mut out = common::request("MULTI");
    for _ in 0..10 {
        out.extend(common::request(&format!("APPEND foo {value}")));
        out.extend(common::request("GET foo"));
    }
    out.extend(common::request("PING"));
    out.extend(common::request("EXEC"));
    client.send(out).expect(&format!("+OK\r\n{}*21\r\n", "+QUEUED\r\n".repeat(21)));
    for i in 1..=10 {
        let len = i * value.len();
        client.expect(&format!(":{len}\r\n${len}\r\n{}\r\n", value.repeat(i)));
    }
    client.expect("+PONG\r\n").call("STRLEN foo").expect(":3000000\r\n");
}

#[test]
fn a_held_slot_parks_the_whole_transaction() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    let before = bed.table();
    let held_table = held(before.clone(), 9, HoldKind::Wait, "foo");
    client
        .call("MULTI")
        .expect("+OK\r\n")
        .call("SET foo 1")
        .expect("+QUEUED\r\n")
        .call("GET foo")
        .expect("+QUEUED\r\n");
    bed.publish(held_table);
    bed.until("the hold drains", |r| r.holds.get(&HoldId(9)).is_some_and(|h| h.drained));
    client.call("EXEC");
    bed.until("parked", |r| r.stats.parked == 1);
    // The slot moves to the other server.
    bed.publish(common::moved(before, "foo", 1, 10));
    client.expect("*2\r\n+OK\r\n$1\r\n1\r\n");
    let mut second = Client::connect(_servers[1].port());
    second.call("GET foo").expect("$1\r\n1\r\n");
}

#[test]
fn a_watched_slot_that_moves_away_and_back_makes_exec_answer_nil() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    client.call("WATCH foo").expect("+OK\r\n").call("MULTI").expect("+OK\r\n").call("SET foo 1").expect("+QUEUED\r\n");
    let slot = usize::from(Layout::Codis.slot(b"foo").0);
    let mut table = common::with_product(bed.table(), |p| p.slots[slot].epoch = Epoch(12));
    table.epoch = Epoch(12);
    bed.publish(table);
    bed.until("swapped", |r| r.route_epoch == Epoch(12));
    client.call("EXEC").expect("*-1\r\n").call("GET foo").expect("$-1\r\n");
    bed.until("counted", |r| r.stats.transactions_unwatched == 1);
}

#[test]
fn a_lost_watch_makes_exec_answer_nil() {
    let (servers, bed) = two();
    let mut client = bed.client();
    client.call("WATCH foo").expect("+OK\r\n");
    let mut direct = Client::connect(servers[0].port());
    // All connections of the proxy, that with the watch among them.
    direct.call("CLIENT KILL TYPE normal SKIPME yes");
    reply(&mut direct);
    until("the proxy notices it", || {
        client.call("MULTI").expect("+OK\r\n").call("SET foo 1").expect("+QUEUED\r\n").call("EXEC");
        let got = reply(&mut client);
        // If it had not noticed, the outcome would be unknown, and the watch over.
        assert!(got == "*-1\r\n" || got.starts_with("-ERR outcome unknown"), "{got}");
        true
    });
    client.call("MULTI").expect("+OK\r\n").call("SET foo 2").expect("+QUEUED\r\n");
    client.call("EXEC").expect("*1\r\n+OK\r\n");
}

/// A server that answers MULTI with an error, and runs what follows.
fn without_multi(mut conn: Conn) {
    while let Some(request) = conn.request() {
        match request[0].as_slice() {
            b"MULTI" => conn.reply(b"-ERR unknown command 'MULTI'\r\n"),
            b"EXEC" => conn.reply(b"-ERR EXEC without MULTI\r\n"),
            b"GET" => conn.reply(b"$1\r\nv\r\n"),
            _ => panic!("executed outside of a transaction: {request:?}"),
        }
    }
}

#[test]
fn a_server_without_multi_executes_nothing_of_a_transaction() {
    let server = fake(without_multi);
    let bed = Bed::start(&[&server]);
    let mut client = bed.client();
    client.call("GET foo").expect("$1\r\nv\r\n");
    client.call("MULTI").expect("+OK\r\n").call("SET foo 1").expect("+QUEUED\r\n").call("EXEC");
    let got = client.line();
    assert!(got.starts_with("-EXECABORT Transaction discarded because of: its server does not allow MULTI"), "{got}");
    client.call("GET foo").expect("$1\r\nv\r\n");
}

/// A server that loses the connection at EXEC, or refuses a command.
fn refusing(mut conn: Conn) {
    let mut commands = 0;
    while let Some(request) = conn.request() {
        match request[0].as_slice() {
            b"MULTI" => {
                commands = 0;
                conn.reply(b"+OK\r\n");
            }
            b"EXEC" if commands == 0 => conn.reply(b"*0\r\n"),
            b"EXEC" => conn.reply(b"-EXECABORT Transaction discarded because of previous errors.\r\n"),
            b"SET" => {
                commands += 1;
                conn.reply(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n");
            }
            b"APPEND" => return,
            _ => {
                commands += 1;
                conn.reply(b"+QUEUED\r\n");
            }
        }
    }
}

#[test]
fn what_the_server_refuses_when_it_queues_is_in_the_answer_to_exec() {
    let server = fake(refusing);
    let bed = Bed::start(&[&server]);
    let mut client = bed.client();
    client
        .call("MULTI")
        .expect("+OK\r\n")
        .call("GET a{x}")
        .expect("+QUEUED\r\n")
        .call("SET {x} 1")
        .expect("+QUEUED\r\n");
    client.call("EXEC").expect(
        "-EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.\r\n",
    );
    // The connection is lost before the server has answered.
    client.call("MULTI").expect("+OK\r\n").call("APPEND {x} 1").expect("+QUEUED\r\n").call("EXEC");
    assert!(client.line().starts_with("-ERR outcome unknown: "));
}

#[test]
fn an_unexpected_reply_to_a_block_closes_the_connection_and_nobody_gets_the_reply_of_another() {
    let server = fake(|mut conn: Conn| {
        let mut multi = false;
        while let Some(request) = conn.request() {
            match request[0].as_slice() {
                b"MULTI" => {
                    multi = true;
                    conn.reply(b"+OK\r\n");
                }
                b"EXEC" if multi => {
                    multi = false;
                    conn.reply(b"*0\r\n");
                }
                // It is executed at once.
                b"INCR" => {
                    multi = false;
                    conn.reply(b":1\r\n");
                }
                _ => conn.reply(b"+x\r\n"),
            }
        }
    });
    let bed = Bed::start(&[&server]);
    let (mut one, mut other) = (bed.client(), bed.client());
    one.call("MULTI").expect("+OK\r\n").call("INCR n").expect("+QUEUED\r\n").call("EXEC");
    assert!(one.line().starts_with("-ERR outcome unknown: "));
    other.call("GET n").expect("+x\r\n");
}

#[test]
fn replies_are_off_and_requests_are_inline_as_ever() {
    let (_servers, bed) = two();
    let mut client = bed.client();
    client
        .send("MULTI\r\nSET foo 1\r\nGET foo\r\nEXEC\r\n")
        .expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\n1\r\n");
    client.call("CLIENT REPLY OFF").call("MULTI").call("INCR foo").call("EXEC").call("CLIENT REPLY ON");
    client.expect("+OK\r\n").call("GET foo").expect("$1\r\n2\r\n");
    client.call("MULTI").expect("+OK\r\n").call("CLIENT GETNAME").expect("+QUEUED\r\n").call("CLIENT SETNAME x");
    client.expect("+QUEUED\r\n").call("GET foo").expect("+QUEUED\r\n").call("CLIENT GETNAME").expect("+QUEUED\r\n");
    client.call("EXEC").expect("*4\r\n$-1\r\n+OK\r\n$1\r\n2\r\n$1\r\nx\r\n");
}

#[test]
fn a_transaction_and_what_follows_are_answered_while_its_server_is_silent() {
    let server = fake(|mut conn: Conn| {
        let mut commands = 0;
        while let Some(request) = conn.request() {
            match request[0].as_slice() {
                b"MULTI" => {
                    commands = 0;
                    conn.reply(b"+OK\r\n");
                }
                b"EXEC" if commands == 0 => conn.reply(b"*0\r\n"),
                // No answer to this EXEC.
                b"EXEC" => {}
                _ => {
                    commands += 1;
                    conn.reply(b"+QUEUED\r\n");
                }
            }
        }
    });
    let limits = Limits { request_deadline: std::time::Duration::from_secs(1), ..Limits::default() };
    let bed = Bed::start_with(&[&server], limits, 1, |table| table);
    let mut client = bed.client();
    let pipeline = ["MULTI", "SET {x} 1", "EXEC", "PING"].map(common::request).concat();
    client.send(pipeline).expect("+OK\r\n+QUEUED\r\n");
    assert!(client.line().starts_with("-ERR outcome unknown: "));
    client.expect("+PONG\r\n");
}
