//! HIMPORT through the proxy. No Redis 8.10 can be had from a package registry, so the server is one of these tests: it has
//! fieldsets for each connection, transactions and hashes, as the documentation of Redis describes them.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use common::{Bed, Client, Conn, Redis, fake, held, moved, with_product};
use pontoon::{
    model::{ids::HoldId, route::HoldKind},
    proxy::Limits,
};

type Words = Vec<String>;

/// What all connections of a server have in common.
#[derive(Default)]
struct Store {
    hashes: BTreeMap<String, BTreeMap<String, String>>,
    /// All requests, in the order in which they came.
    requests: Vec<Words>,
}

/// A server with HIMPORT.
struct Server {
    addr: String,
    store: Arc<Mutex<Store>>,
}

impl Server {
    fn start() -> Self {
        let store = Arc::<Mutex<Store>>::default();
        let own = store.clone();
        Self { addr: fake(move |conn| serve(conn, &own)), store }
    }

    fn hash(&self, key: &str) -> Vec<(String, String)> {
        self.store.lock().unwrap().hashes.get(key).cloned().unwrap_or_default().into_iter().collect()
    }

    fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.store.lock().unwrap().requests).into_iter().map(|words| words.join(" ")).collect()
    }
}

fn serve(mut conn: Conn, store: &Mutex<Store>) {
    let mut fieldsets = BTreeMap::new();
    let mut queued: Option<Vec<Words>> = None;
    while let Some(request) = conn.request() {
        let words: Words = request.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let mut store = store.lock().unwrap();
        store.requests.push(words.clone());
        let reply = match (words[0].as_str(), queued.take()) {
            ("MULTI", None) => {
                queued = Some(Vec::new());
                "+OK\r\n".into()
            }
            ("EXEC", Some(commands)) => {
                let replies: Vec<_> =
                    commands.iter().map(|words| execute(words, &mut fieldsets, &mut store.hashes)).collect();
                // The next client of this connection must not find what this one has prepared.
                assert!(fieldsets.is_empty(), "left on the connection: {fieldsets:?}");
                format!("*{}\r\n{}", replies.len(), replies.concat())
            }
            (_, Some(mut commands)) => {
                commands.push(words);
                queued = Some(commands);
                "+QUEUED\r\n".into()
            }
            (_, None) => {
                assert_ne!(words[0], "HIMPORT", "outside of a transaction");
                execute(&words, &mut fieldsets, &mut store.hashes)
            }
        };
        conn.reply(reply.as_bytes());
    }
}

type Hashes = BTreeMap<String, BTreeMap<String, String>>;

fn execute(words: &[String], fieldsets: &mut BTreeMap<String, Words>, hashes: &mut Hashes) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["HIMPORT", "PREPARE", name, fields @ ..] => {
            fieldsets.insert((*name).into(), fields.iter().map(|field| (*field).into()).collect());
            "+OK\r\n".into()
        }
        ["HIMPORT", "DISCARD", name] => format!(":{}\r\n", usize::from(fieldsets.remove(*name).is_some())),
        ["HIMPORT", "SET", key, ..] if key.starts_with("string") => {
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n".into()
        }
        ["HIMPORT", "SET", key, name, values @ ..] => {
            let fields = fieldsets[*name].iter().cloned();
            let hash = fields.zip(values.iter().map(|value| (*value).to_owned())).collect();
            hashes.insert((*key).into(), hash);
            "+OK\r\n".into()
        }
        ["HGET", key, field] => {
            let value = hashes.get(*key).and_then(|hash| hash.get(*field));
            value.map_or("$-1\r\n".into(), |value| format!("${}\r\n{value}\r\n", value.len()))
        }
        ["WATCH" | "UNWATCH", ..] => "+OK\r\n".into(),
        other => panic!("{other:?}"),
    }
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(field, value)| ((*field).into(), (*value).into())).collect()
}

#[test]
fn a_set_has_its_fieldset_in_front_and_leaves_nothing_on_the_connection() {
    let server = Server::start();
    let bed = Bed::start(&[&server.addr]);
    let mut client = bed.client();
    client.call("HIMPORT PREPARE u name age").expect("+OK\r\n");
    assert_eq!(server.take_requests(), [""; 0], "PREPARE alone concerns no server");
    client.call("HIMPORT SET user:1 u alice 30").expect("+OK\r\n");
    let sent = server.take_requests();
    let [.., multi, prepare, set, discard, exec] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(
        [multi, prepare, set, discard, exec],
        ["MULTI", "HIMPORT PREPARE u name age", "HIMPORT SET user:1 u alice 30", "HIMPORT DISCARD u", "EXEC"]
    );
    assert_eq!(server.hash("user:1"), pairs(&[("age", "30"), ("name", "alice")]));
    client.call("HGET user:1 age").expect("$2\r\n30\r\n");
    // As one pipeline.
    let pipeline = ["HIMPORT PREPARE v a", "HIMPORT SET p:1 v 1", "HIMPORT SET p:2 v 2", "HGET p:2 a"];
    client.send(pipeline.map(common::request).concat()).expect("+OK\r\n+OK\r\n+OK\r\n$1\r\n2\r\n");
}

#[test]
fn clients_with_fieldsets_of_the_same_name_do_not_disturb_each_other() {
    let server = Server::start();
    let bed = Bed::start(&[&server.addr]);
    let (mut one, mut two) = (bed.client(), bed.client());
    one.call("HIMPORT PREPARE f a b").expect("+OK\r\n");
    two.call("HIMPORT SET k f 1 2").expect("-ERR no such fieldset\r\n");
    two.call("HIMPORT PREPARE f x y").expect("+OK\r\n");
    one.call("HIMPORT SET one f 1 2").expect("+OK\r\n");
    two.call("HIMPORT SET two f 1 2").expect("+OK\r\n");
    one.call("HIMPORT SET three f 3 4").expect("+OK\r\n");
    assert_eq!(server.hash("one"), pairs(&[("a", "1"), ("b", "2")]));
    assert_eq!(server.hash("two"), pairs(&[("x", "1"), ("y", "2")]));
    assert_eq!(server.hash("three"), pairs(&[("a", "3"), ("b", "4")]));
}

#[test]
fn what_is_wrong_gets_the_errors_of_redis() {
    let server = Server::start();
    let limits = Limits { fieldset_bytes_max: 4096, ..Limits::default() };
    let bed = Bed::start_with(&[&server.addr], limits, 1, |table| table);
    let mut client = bed.client();
    client.call("HIMPORT SET k f 1").expect("-ERR no such fieldset\r\n");
    client.call("HIMPORT PREPARE f a a").expect("-ERR duplicate field name in fieldset\r\n");
    client.call("HIMPORT SET k f 1 2").expect("-ERR no such fieldset\r\n");
    client.call("HIMPORT PREPARE f").expect("-ERR wrong number of arguments for 'himport|prepare' command\r\n");
    client.call("HIMPORT PREPARE f a b").expect("+OK\r\n");
    client.call("HIMPORT SET k f 1").expect("-ERR value count does not match fieldset field count\r\n");
    client
        .call("HIMPORT SET string f 1 2")
        .expect("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
    client.call(&format!("HIMPORT PREPARE g {}", "x".repeat(5000)));
    let error = client.line();
    assert!(error.contains("proxy.fieldset_bytes_max") && error.contains("HIMPORT DISCARD"), "{error}");
    client.call("HIMPORT SET k f 1 2").expect("+OK\r\n");
    client.call("HIMPORT DISCARD g").expect(":0\r\n").call("HIMPORT DISCARD f").expect(":1\r\n");
    client.call("HIMPORT SET k f 1 2").expect("-ERR no such fieldset\r\n");
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("HIMPORT PREPARE g a").expect("+OK\r\n");
    client.call("HIMPORT DISCARDALL").expect(":2\r\n").call("HIMPORT DISCARDALL").expect(":0\r\n");
    // An error that nobody wants.
    client.call("CLIENT REPLY SKIP").call("HIMPORT SET k none 1").call("HIMPORT DISCARD g").expect(":0\r\n");
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("RESET").expect("+RESET\r\n");
    client.call("HIMPORT SET k f 1").expect("-ERR no such fieldset\r\n");
    bed.until("counted", |report| report.stats.fieldsets_refused == 2);
}

#[test]
fn in_a_transaction_only_the_replies_of_the_client_are_in_that_to_exec() {
    let server = Server::start();
    let bed = Bed::start(&[&server.addr]);
    let mut client = bed.client();
    client.call("HIMPORT PREPARE f a b").expect("+OK\r\n").call("HIMPORT PREPARE g c").expect("+OK\r\n");
    client.call("MULTI").expect("+OK\r\n");
    let queued = [
        "HIMPORT SET {x}1 f 1 2",
        "HGET {x}1 a",
        "PING",
        "HIMPORT SET {x}2 f 1",
        "HIMPORT SET {x}2 g 3",
        "HIMPORT SET string{x} g 3",
        "HGET {x}2 c",
    ];
    for words in queued {
        client.call(words).expect("+QUEUED\r\n");
    }
    client.call("EXEC").expect("*7\r\n+OK\r\n$1\r\n1\r\n+PONG\r\n");
    client.expect("-ERR value count does not match fieldset field count\r\n+OK\r\n");
    client.expect("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n$1\r\n3\r\n");
    // The names of fields are known when a command is queued, so they come before MULTI.
    client.call("MULTI").expect("+OK\r\n").call("HIMPORT PREPARE f z");
    let error = client.line();
    assert!(error.contains("Send it before MULTI"), "{error}");
    client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    // It needs the key's slot, as every command with a key.
    client.call("MULTI").expect("+OK\r\n").call("HGET foo a").expect("+QUEUED\r\n").call("HIMPORT SET hello g 1");
    assert!(client.line().starts_with("-CROSSSLOT"));
    client.call("DISCARD").expect("+OK\r\n");
    // EXEC ends a watch, and one is part of each call.
    client.call("WATCH foo").expect("+OK\r\n").call("HIMPORT SET foo g 1");
    let error = client.line();
    assert!(error.contains("Send it before WATCH"), "{error}");
    client.call("UNWATCH").expect("+OK\r\n").call("HIMPORT SET foo g 1").expect("+OK\r\n");
}

#[test]
fn a_held_slot_parks_it_and_it_goes_to_the_new_owner_with_its_fieldset() {
    let servers = [Server::start(), Server::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    let mut client = bed.client();
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("HIMPORT SET foo f 1").expect("+OK\r\n");
    let before = bed.table();
    bed.publish(held(before.clone(), 9, HoldKind::Wait, "foo"));
    bed.until("the hold drains", |report| report.holds.get(&HoldId(9)).is_some_and(|hold| hold.drained));
    client.call("HIMPORT SET foo f 2");
    bed.until("parked", |report| report.stats.parked == 1);
    bed.publish(moved(before, "foo", 1, 10));
    client.expect("+OK\r\n");
    assert_eq!(servers[0].hash("foo"), pairs(&[("a", "1")]));
    assert_eq!(servers[1].hash("foo"), pairs(&[("a", "2")]));
}

#[test]
fn the_quota_pays_for_the_fieldset_of_each_call() {
    let server = Server::start();
    let quota = |table| with_product(table, |product| product.rules.bytes_max = 200_000);
    let bed = Bed::start_with(&[&server.addr], Limits::default(), 1, quota);
    let mut client = bed.client();
    // More than the quota of the second that a request waits at most.
    let field = "x".repeat(400_000);
    client.call(&format!("HIMPORT PREPARE f {field}")).expect("+OK\r\n");
    let pipeline = ["HIMPORT SET k f 1", "HGET k a"].map(common::request).concat();
    for _ in 0..10 {
        let set = client.send(&pipeline).line();
        let get = client.line();
        if set == "+OK" {
            assert!(get.starts_with("-TRYAGAIN not executed: the product uses all of its quota"), "{get}");
            return;
        }
        assert!(set.starts_with("-TRYAGAIN not executed: the product uses all of its quota"), "{set}");
    }
    panic!("no call was admitted");
}

#[test]
fn a_server_without_it_says_so() {
    let server = Redis::start();
    let bed = Bed::start(&[&server.addr]);
    let mut client = bed.client();
    // Nothing is known of the server's commands yet.
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("HIMPORT SET k f 1");
    let error = client.line();
    assert!(error.starts_with("-ERR unknown command 'HIMPORT'"), "{error}");
    client.call("EXISTS k").expect(":0\r\n");
}

#[test]
fn a_large_one_and_one_behind_a_large_reply_wait_for_their_connection() {
    let server = Server::start();
    let limits = Limits { large_message: 64 << 10, ..Limits::default() };
    let bed = Bed::start_with(&[&server.addr], limits, 1, |table| table);
    let mut client = bed.client();
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n");
    let value = "x".repeat(100_000);
    client.call(&format!("HIMPORT SET large f {value}")).expect("+OK\r\n");
    client.call("HGET large a").expect(&format!("$100000\r\n{value}\r\n"));
    client.call("HIMPORT SET small f 1").expect("+OK\r\n").call("HGET small a").expect("$1\r\n1\r\n");
    assert_eq!(server.hash("large"), pairs(&[("a", &value)]));
}

/// A server that refuses every command between MULTI and EXEC with this error.
fn refusing(error: &'static str) -> String {
    fake(move |mut conn| {
        let mut commands = 0;
        while let Some(request) = conn.request() {
            match request[0].as_slice() {
                b"MULTI" => {
                    commands = 0;
                    conn.reply(b"+OK\r\n");
                }
                b"EXEC" if commands == 0 => conn.reply(b"*0\r\n"),
                b"EXEC" => conn.reply(b"-EXECABORT Transaction discarded because of previous errors.\r\n"),
                _ => {
                    commands += 1;
                    conn.reply(error.as_bytes());
                }
            }
        }
    })
}

#[test]
fn what_the_server_refuses_is_said_as_for_every_command() {
    for (error, want) in [
        ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", "-OOM command not allowed"),
        ("-READONLY You can't write against a read only replica.\r\n", "-TRYAGAIN not executed: "),
    ] {
        let bed = Bed::start(&[&refusing(error)]);
        let mut client = bed.client();
        client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("HIMPORT SET k f 1");
        let got = client.line();
        assert!(got.starts_with(want), "{got}");
    }
}

#[test]
fn a_lost_connection_leaves_the_outcome_unknown() {
    let server = fake(|mut conn: Conn| {
        while let Some(request) = conn.request() {
            match request[0].as_slice() {
                b"MULTI" => conn.reply(b"+OK\r\n"),
                b"EXEC" => conn.reply(b"*0\r\n"),
                _ => return,
            }
        }
    });
    let bed = Bed::start(&[&server]);
    let mut client: Client = bed.client();
    client.call("HIMPORT PREPARE f a").expect("+OK\r\n").call("HIMPORT SET k f 1");
    let error = client.line();
    assert!(error.starts_with("-ERR outcome unknown: "), "{error}");
}
