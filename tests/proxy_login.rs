//! Clients before their login, failed logins, and what becomes of clients when the credentials change.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use common::{Bed, Client, PATIENCE, Redis, logins, password, request, with_product};
use pontoon::{
    model::{
        auth::{FormerCredentials, ProductAuth},
        ids::{Epoch, ProductId},
        route::RouteTable,
    },
    proxy::Limits,
};

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// What a client that has not logged in may get, bytes.
const REPLIED_MAX: usize = 4096;

/// Limits with which tests do not wait for seconds.
fn quick() -> Limits {
    Limits { failed_login_delay: Duration::from_millis(100), ..Limits::default() }
}

fn guarded(limits: Limits, redis: &Redis) -> Bed {
    Bed::start_with(&[&redis.addr], limits, 2, |t| with_product(t, |p| p.auth = logins("secret", 5)))
}

/// A bed whose clients have no deadline that a test could meet.
fn unhurried(redis: &Redis) -> Bed {
    guarded(Limits { login_deadline: Duration::from_secs(600), ..quick() }, redis)
}

fn publish(bed: &Bed, auth: ProductAuth) {
    let mut table: RouteTable = with_product(bed.table(), |p| p.auth = auth);
    table.epoch = Epoch(table.epoch.0 + 1);
    let epoch = table.epoch;
    bed.publish(table);
    bed.until("the table is swapped", |r| r.route_epoch == epoch);
}

fn logged_in(bed: &Bed, password: &str) -> Client {
    let mut client = bed.client();
    client.call(&format!("AUTH {password}")).expect("+OK\r\n");
    client
}

#[track_caller]
fn assert_closed(client: &mut Client) {
    match client.stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection should be closed: {other:?}"),
    }
}

fn failed(bed: &Bed) -> u64 {
    bed.proxy.report().borrow().product_clients[&ProductId(1)].failed_logins
}

#[test]
fn strangers_that_send_garbage_and_do_not_read_cost_nothing() {
    let redis = Redis::start();
    let bed = unhurried(&redis);
    let honest = logged_in(&bed, "secret");
    let garbage = "garbage\r\n".repeat(1024);
    let attack = |_| {
        let mut client = bed.client();
        client.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let error = (0..128 * 1024).find_map(|_| client.stream.write_all(garbage.as_bytes()).err());
        let kind = error.expect("the node does not read 1 GB").kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
        client
    };
    let clients: Vec<Client> = (0..30).map(attack).collect();
    let report = bed.until("all are closed", |r| r.stats.strangers_closed == 30 && r.clients == 1);
    assert_eq!(report.memory_used, 0);
    for mut client in clients {
        let got = client.rest();
        assert!(got.len() <= REPLIED_MAX, "{} bytes", got.len());
        assert!(got.starts_with(NOAUTH), "{got}");
    }
    drop(honest);
}

#[test]
fn requests_without_replies_are_limited_too() {
    let redis = Redis::start();
    let bed = unhurried(&redis);
    for nothing in ["\r\n", "*0\r\n", "*-1\r\n"] {
        let mut client = bed.client();
        let _ = client.stream.write_all(nothing.repeat(20_000).as_bytes());
        let got = client.rest();
        assert_eq!(got, "-NOAUTH the connection is closed: too many requests before a login\r\n", "{nothing:?}");
    }
}

#[test]
fn half_requests_of_strangers_are_small_and_their_time_is_short() {
    let redis = Redis::start();
    let deadline = Duration::from_millis(1500);
    let bed = guarded(Limits { login_deadline: deadline, ..quick() }, &redis);
    for (half, error) in [
        (format!("*10\r\n$4\r\nAUTH\r\n$16000\r\n{}", "x".repeat(16_000)), "unauthenticated bulk length"),
        (format!("*3\r\n$1000\r\n{0}\r\n$1000\r\n{0}\r\n$1000\r\n", "x".repeat(1000)), "unauthenticated bulk length"),
        ("x".repeat(3000), "too big inline request"),
        ("*11\r\n".into(), "unauthenticated multibulk length"),
    ] {
        let mut client = bed.client();
        let _ = client.stream.write_all(half.as_bytes());
        assert!(client.rest().contains(error), "{error}");
    }
    let mut inside = logged_in(&bed, "secret");
    let begin = Instant::now();
    let halves: Vec<Client> = (0..30)
        .map(|_| {
            let mut client = bed.client();
            client.send(format!("*2\r\n$4\r\nAUTH\r\n$1900\r\n{}", "x".repeat(1800)));
            client
        })
        .collect();
    for mut client in halves {
        assert_eq!(client.rest(), "-NOAUTH the connection is closed: no login within 1.5s\r\n");
    }
    // The resolution of deadlines is a tick, 100 ms.
    assert!(begin.elapsed() > deadline - Duration::from_millis(200), "{:?}", begin.elapsed());
    let report = bed.until("all are closed", |r| r.stats.strangers_closed == 30 && r.clients == 1);
    assert_eq!(report.memory_used, 0);
    // Who has logged in has no deadline, also when it logs out.
    inside.call("PING").expect("+PONG\r\n").call("RESET").expect("+RESET\r\n").call("PING").expect(NOAUTH);
    let mut later = bed.client();
    assert_eq!(later.rest(), "-NOAUTH the connection is closed: no login within 1.5s\r\n");
    inside.call("AUTH secret").expect("+OK\r\n").call("PING").expect("+PONG\r\n");
}

/// Connections that never log in take the places of each other, not of clients with the password.
fn strangers_give_way(bed: &Bed, max: usize) {
    let mut inside = logged_in(bed, "secret");
    let mut strangers: VecDeque<Client> = (1..max).map(|_| bed.client()).collect();
    let oldest_gives_way = |strangers: &mut VecDeque<Client>| {
        let want = "-NOAUTH the connection is closed: too many clients, and it has not logged in\r\n";
        assert_eq!(strangers.pop_front().unwrap().rest(), want);
    };
    for _ in 0..3 * max {
        strangers.push_back(bed.client());
        oldest_gives_way(&mut strangers);
    }
    let mut second = logged_in(bed, "secret");
    oldest_gives_way(&mut strangers);
    let closed = 3 * max as u64 + 1;
    bed.until("counted", |r| r.stats.strangers_closed == closed && r.clients == max);
    strangers.drain(..).for_each(|mut stranger| {
        stranger.call("PING").expect(NOAUTH);
    });
    bed.until("the others have left", |r| r.clients == 2);
    let _others: Vec<Client> = (2..max).map(|_| logged_in(bed, "secret")).collect();
    assert_eq!(bed.client().rest(), "-ERR max number of clients reached\r\n", "all have logged in");
    inside.call("PING").expect("+PONG\r\n");
    second.call("PING").expect("+PONG\r\n");
}

#[test]
fn strangers_do_not_use_up_the_clients_of_a_node() {
    let redis = Redis::start();
    let limits = Limits { clients_max: 8, login_deadline: Duration::from_secs(600), ..quick() };
    strangers_give_way(&guarded(limits, &redis), 8);
}

#[test]
fn strangers_do_not_use_up_the_clients_of_a_product() {
    let redis = Redis::start();
    let limits = Limits { login_deadline: Duration::from_secs(600), ..quick() };
    let bed = Bed::start_with(&[&redis.addr], limits, 2, |t| {
        with_product(t, |p| (p.auth, p.clients_max) = (logins("secret", 5), 5))
    });
    strangers_give_way(&bed, 5);
}

#[test]
fn a_pipelined_login_is_handled_in_order() {
    let redis = Redis::start();
    let bed = unhurried(&redis);
    let hello = "HELLO 2 AUTH default secret SETNAME me";
    let pipeline = [
        request("CLIENT SETINFO LIB-NAME lib"),
        request("AUTH secret"),
        request("CLIENT SETINFO LIB-NAME lib"),
        request("CLIENT SETINFO LIB-VER 1.0"),
        request("SET k v"),
        request(hello),
        request("CLIENT GETNAME"),
        request("GET k"),
    ]
    .concat();
    let end = |client: &mut Client| {
        client.expect(&format!("{NOAUTH}+OK\r\n+OK\r\n+OK\r\n+OK\r\n"));
        while client.line() != "*0" {}
        client.expect("$2\r\nme\r\n$1\r\nv\r\n");
    };
    end(bed.client().send(&pipeline));
    let mut slow = bed.client();
    for byte in &pipeline {
        slow.send([*byte]);
    }
    end(&mut slow);
    // What follows a login in the same write has the limits of a client that has logged in.
    let mut modern = bed.client();
    modern.send(
        [request(hello), request(&format!("SET large {}", "x".repeat(100_000))), request("STRLEN large")].concat(),
    );
    while modern.line() != "*0" {}
    modern.expect("+OK\r\n:100000\r\n");
    // And what follows a logout has those of a client that has not.
    modern.send([request("RESET"), request("GET k"), request(&format!("AUTH {}", "x".repeat(3000)))].concat());
    assert_eq!(modern.rest(), format!("+RESET\r\n{NOAUTH}-ERR Protocol error: unauthenticated bulk length\r\n"));
}

#[test]
fn only_who_fails_waits_and_the_third_failure_is_the_last() {
    let redis = Redis::start();
    // Longer than twenty logins take on a machine that stalls.
    let delay = Duration::from_secs(3);
    let bed = guarded(Limits { failed_login_delay: delay, ..Limits::default() }, &redis);
    let begin = Instant::now();
    let mut guesser = bed.client();
    guesser.send([request("AUTH one"), request("HELLO 3 AUTH default two"), request("AUTH secret")].concat());
    // From the same address, at the same time.
    for _ in 0..20 {
        logged_in(&bed, "secret");
    }
    assert!(begin.elapsed() < delay, "{:?}", begin.elapsed());
    guesser.expect(&format!("{WRONGPASS}{WRONGPASS}+OK\r\n"));
    assert!(begin.elapsed() >= 2 * delay, "{:?}", begin.elapsed());
    let mut guesser = bed.client();
    guesser.send([request("AUTH one"), request("AUTH two"), request("AUTH three"), request("AUTH secret")].concat());
    guesser.expect(&WRONGPASS.repeat(3));
    assert_closed(&mut guesser);
    // A client that has logged in is not closed; its failures count.
    let mut inside = logged_in(&bed, "secret");
    for _ in 0..4 {
        inside.call("AUTH wrong").expect(WRONGPASS);
    }
    inside.call("PING").expect("+PONG\r\n");
    bed.until("counted", |r| r.product_clients[&ProductId(1)].failed_logins == 9 && r.stats.strangers_closed == 1);
}

#[test]
fn a_client_that_never_logged_in_does_not_outlive_a_password() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], quick(), 2, |table| table);
    let mut clients: Vec<Client> = (0..4).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| _ = client.call("SET k v").expect("+OK\r\n"));
    // The worker sees only the last of three changes.
    publish(&bed, ProductAuth { version: Epoch(9), ..ProductAuth::default() });
    clients.iter_mut().for_each(assert_closed);
    bed.client().call("GET k").expect("$1\r\nv\r\n");
    let mut open = bed.client();
    open.call("PING").expect("+PONG\r\n");
    publish(&bed, logins("secret", 10));
    assert_closed(&mut open);
    bed.client().call("GET k").expect(NOAUTH);
}

#[test]
fn a_password_that_is_removed_closes_clients_as_well() {
    let redis = Redis::start();
    let bed = unhurried(&redis);
    let mut clients = [bed.client(), logged_in(&bed, "secret")];
    clients[0].call("PING").expect(NOAUTH);
    // They may come from other machines, and the product is on loopback only from now on.
    publish(&bed, ProductAuth { version: Epoch(6), ..ProductAuth::default() });
    clients.iter_mut().for_each(assert_closed);
    bed.until("counted", |r| r.stats.outdated_logins == 2);
}

#[test]
fn a_rotation_closes_nobody_until_the_former_password_is_removed() {
    let redis = Redis::start();
    let bed = unhurried(&redis);
    let (mut old, mut waiting) = (logged_in(&bed, "secret"), bed.client());
    waiting.call("PING").expect(NOAUTH);
    let former = FormerCredentials { credentials: password("secret"), version: Epoch(5) };
    let both = ProductAuth { former: Some(former), ..logins("next", 8) };
    publish(&bed, both.clone());
    old.call("PING").expect("+PONG\r\n");
    waiting.call("AUTH secret").expect("+OK\r\n");
    let mut new = logged_in(&bed, "next");
    bed.client().call("AUTH other").expect(WRONGPASS);
    bed.until("known", |r| r.product_clients[&ProductId(1)].former_logins == 2);
    waiting.call("AUTH next").expect("+OK\r\n");
    bed.until("known", |r| r.product_clients[&ProductId(1)].former_logins == 1);
    publish(&bed, ProductAuth { former: None, ..both });
    assert_closed(&mut old);
    new.call("PING").expect("+PONG\r\n");
    waiting.call("PING").expect("+PONG\r\n");
    bed.client().call("AUTH secret").expect(WRONGPASS);
    bed.until("counted", |r| r.stats.outdated_logins == 1 && r.product_clients[&ProductId(1)].former_logins == 0);
    // Another password at once: all are closed, also in the middle of a request.
    publish(&bed, logins("third", 12));
    assert_closed(&mut new);
    assert_closed(&mut waiting);
    assert_eq!(failed(&bed), 2);
}
