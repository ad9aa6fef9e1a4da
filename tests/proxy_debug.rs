//! DEBUG and CONFIG SET, where the operator allows them, with real servers.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Bed, Client, Redis, with_product};
use pontoon::proxy::Limits;

/// Two groups whose servers allow DEBUG, and a product that allows it, too.
fn bed(servers: &[&Redis]) -> Bed {
    let addrs: Vec<&str> = servers.iter().map(|server| server.addr.as_str()).collect();
    Bed::start_with(&addrs, Limits::default(), 1, |table| with_product(table, |p| p.rules.debug_commands = true))
}

fn server() -> Redis {
    Redis::start_with(&["--enable-debug-command", "yes", "--save", ""])
}

/// The line that answers a call at a server.
fn at(server: &Redis, words: &str) -> String {
    let mut client = Client::connect(server.port());
    client.call(words);
    client.line()
}

/// A value of a setting of a server.
fn setting(server: &Redis, name: &str) -> String {
    let mut client = Client::connect(server.port());
    client.call(&format!("CONFIG GET {name}"));
    (0..5).map(|_| client.line()).last().unwrap()
}

#[test]
fn debug_is_refused_unless_the_operator_allows_it() {
    let redis = server();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    for words in
        ["DEBUG SLEEP 0", "DEBUG OBJECT k", "DEBUG RELOAD", "DEBUG HELP", "DEBUG SEGFAULT", "PFDEBUG ENCODING k"]
    {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with("-NOPERM DEBUG is not executed") && line.ends_with("debug-commands=on"), "{line}");
    }
    client.call("CONFIG SET hz 50");
    assert!(client.line().starts_with("-ERR CONFIG SET 'hz': clients do not change the servers"));
    assert_eq!(setting(&redis, "hz"), "10");
}

#[test]
fn a_sleep_delays_only_its_client() {
    let redis = server();
    let bed = bed(&[&redis]);
    let (mut sleeper, mut other) = (bed.client(), bed.client());
    let start = Instant::now();
    sleeper.call("DEBUG SLEEP 3").call("PING");
    // One worker thread has both clients.
    for _ in 0..20 {
        other.call("SET k v").expect("+OK\r\n");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "the other client waited: {:?}", start.elapsed());
    sleeper.expect("+OK\r\n+PONG\r\n");
    assert!(start.elapsed() >= Duration::from_secs(3));
    sleeper.call("DEBUG SLEEP 3601");
    assert!(sleeper.line().starts_with("-ERR DEBUG SLEEP sleeps at most 3600 s here"));
    // A client that leaves does not keep its operation.
    sleeper.call("DEBUG SLEEP 3000");
    drop(sleeper);
    bed.until("the sleeper is gone", |report| report.clients == 1);
}

#[test]
fn what_is_about_a_key_comes_from_its_server() {
    let (a, b) = (server(), server());
    let bed = bed(&[&a, &b]);
    let mut client = bed.client();
    client.call("SELECT 3").expect("+OK\r\n");
    for i in 0..20 {
        client.call(&format!("SET k{i} value")).expect("+OK\r\n");
        client.call(&format!("DEBUG OBJECT k{i}"));
        let line = client.line();
        assert!(line.starts_with("+Value at:") && line.contains("encoding:embstr"), "{line}");
        client.call(&format!("DEBUG SDSLEN k{i}"));
        assert!(client.line().contains("val_sds_len:5"));
    }
    assert!(at(&a, "INFO keyspace") != "$12" && at(&b, "INFO keyspace") != "$12", "both have keys");
    client.call("DEBUG OBJECT none").expect("-ERR no such key\r\n");
    client.call("HSET h f v").expect(":1\r\n");
    client.call("DEBUG LISTPACK h").expect("+Listpack structure printed on stdout\r\n");
    client.call("DEBUG HTSTATS-KEY h");
    assert!(client.line().starts_with("-ERR The value stored at the specified key is not represented"));
    client.call("PFADD p a b c").expect(":1\r\n").call("PFDEBUG ENCODING p").expect("+sparse\r\n");
    client.call("PFDEBUG TODENSE p").expect(":1\r\n").call("PFDEBUG ENCODING p").expect("+dense\r\n");
    client.call("DEBUG DIGEST-VALUE k1 k2 none k3");
    let lines: Vec<String> = (0..5).map(|_| client.line()).collect();
    assert_eq!(lines[0], "*4");
    assert_eq!(lines[3], format!("+{}", "0".repeat(40)));
    assert!(lines[1] == lines[2] && lines[1] == lines[4] && lines[1] != lines[3], "{lines:?}");
}

#[test]
fn what_is_about_servers_is_carried_out_at_all_of_them() {
    let (a, b) = (server(), server());
    let bed = bed(&[&a, &b]);
    let mut client = bed.client();
    client.call("DEBUG SET-ACTIVE-EXPIRE 0").expect("+OK\r\n");
    for i in 0..20 {
        client.call(&format!("SET k{i} v PX 1")).expect("+OK\r\n");
    }
    client.call("DEBUG SLEEP 0.3").expect("+OK\r\n");
    // Nobody has looked at them, and the servers do not look by themselves.
    client.call("DBSIZE").expect(":20\r\n");
    client.call("DEBUG SET-ACTIVE-EXPIRE 1").expect("+OK\r\n");
    let end = Instant::now() + common::PATIENCE;
    loop {
        client.call("DBSIZE");
        if client.line() == ":0" {
            break;
        }
        assert!(Instant::now() < end, "keys do not expire");
    }
    client.call("DEBUG QUICKLIST-PACKED-THRESHOLD 200b").expect("+OK\r\n");
    client
        .call("DEBUG QUICKLIST-PACKED-THRESHOLD x")
        .expect("-ERR argument must be a memory value bigger than 1 and smaller than 4gb\r\n");
    for i in 0..20 {
        client.call(&format!("SET k{i} v{i}")).expect("+OK\r\n");
    }
    client.call("DEBUG DIGEST");
    let before = client.line();
    assert_eq!(before.len(), 41, "{before}");
    client.call("DEBUG RELOAD").expect("+OK\r\n");
    client.call("DEBUG RELOAD NOFLUSH MERGE").expect("+OK\r\n");
    client.call("DBSIZE").expect(":20\r\n");
    client.call("DEBUG DIGEST").expect(&format!("{before}\r\n"));
    client.call("SET k1 other").expect("+OK\r\n");
    client.call("DEBUG DIGEST");
    assert_ne!(client.line(), before);
    client.call("DEBUG STRUCTSIZE");
    assert!(client.line().starts_with('$') && client.line().contains("robj:16"));
    for (words, want) in [
        ("DEBUG RELOAD NOSAVE", "-ERR DEBUG RELOAD takes no options here"),
        ("DEBUG LOADAOF", "-ERR DEBUG LOADAOF is not executed: a server without an append-only file"),
        ("DEBUG SEGFAULT", "-ERR DEBUG SEGFAULT: this proxy does not carry it out"),
        ("DEBUG SLEEP", "-ERR unknown subcommand or wrong number of arguments for 'SLEEP'. Try DEBUG HELP."),
    ] {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with(want), "{line}");
    }
    client.call("DBSIZE").expect(":20\r\n");
}

#[test]
fn the_node_answers_what_is_about_the_protocol() {
    let redis = server();
    let bed = bed(&[&redis]);
    let mut client = bed.client();
    let types = [
        "string", "integer", "double", "bignum", "null", "array", "set", "map", "attrib", "verbatim", "true", "false",
        "no",
    ];
    // The same as the server, in both versions.
    let mut server = Client::connect(redis.port());
    for hello in ["", "HELLO 3"] {
        for each in [&mut client, &mut server] {
            if !hello.is_empty() {
                each.call(hello);
            }
            for name in types {
                each.call(&format!("DEBUG PROTOCOL {name}"));
            }
            each.call("DEBUG ERROR end");
        }
        let lines = |client: &mut Client| {
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line| line != "-end") {
                lines.push(client.line());
            }
            // The reply to HELLO names the program.
            let from = lines.iter().position(|line| line == "Hello World").unwrap();
            lines.split_off(from)
        };
        assert_eq!(lines(&mut client), lines(&mut server));
    }
    client.call("DEBUG PROTOCOL push").expect(">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\nSome real reply");
}

#[test]
fn a_server_that_forbids_it_is_told_apart() {
    let redis = Redis::start();
    let bed = bed(&[&redis]);
    let mut client = bed.client();
    for words in ["DEBUG SET-ACTIVE-EXPIRE 0", "DEBUG OBJECT k"] {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with("-ERR DEBUG is not executed: the servers forbid it"), "{line}");
    }
    // No server is asked.
    client.call("DEBUG SLEEP 0").expect("+OK\r\n");
    client.call("MULTI").expect("+OK\r\n").call("DEBUG SLEEP 0").expect("+QUEUED\r\n").call("EXEC");
    client.expect("*1\r\n-ERR DEBUG SLEEP is not executed in a transaction by this proxy. Send it before MULTI\r\n");
    client.call("MULTI").expect("+OK\r\n").call("CONFIG SET hz 20").expect("+QUEUED\r\n").call("EXEC");
    client.expect("*1\r\n+OK\r\n");
    assert_eq!(setting(&redis, "hz"), "20");
}

#[test]
fn settings_are_set_at_all_servers() {
    let (a, b) = (server(), server());
    let bed = bed(&[&a, &b]);
    let mut client = bed.client();
    client.call("CONFIG SET hz 50 maxmemory 101mb databases 16").expect("+OK\r\n");
    for server in [&a, &b] {
        assert_eq!((setting(server, "hz"), setting(server, "maxmemory")), ("50".into(), "52953088".into()));
    }
    client.call("CONFIG GET maxmemory").expect("*2\r\n$9\r\nmaxmemory\r\n$9\r\n105906176\r\n");
    for (words, want) in [
        ("CONFIG SET databases 3 hz 20", "-ERR CONFIG SET 'databases': clients do not change"),
        (
            "CONFIG SET hz 20 replica-read-only no",
            "-ERR CONFIG SET 'replica-read-only': it decides whether writes are kept",
        ),
        ("CONFIG SET hz 20 requirepass x", "-ERR Unknown option or number of arguments for CONFIG SET - 'requirepass'"),
        (
            "CONFIG SET hz 20 maxmemory-policy x",
            "-ERR CONFIG SET failed (possibly related to argument 'maxmemory-policy')",
        ),
    ] {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with(want), "{line}");
    }
    assert!([&a, &b].iter().all(|server| setting(server, "hz") == "50"));
    // What was read may be set, also what stays.
    client.call("CONFIG SET replica-read-only yes min-replicas-to-write 0").expect("+OK\r\n");
    client.call("SET k v").expect("+OK\r\n").call("CONFIG RESETSTAT").expect("+OK\r\n");
    for server in [&a, &b] {
        let mut client = Client::connect(server.port());
        client.call("INFO commandstats");
        while !client.line().starts_with("cmdstat_config|resetstat") {}
        client.call("INFO stats");
        while client.line() != "keyspace_hits:0" {}
    }
}
