//! Groups whose servers are of different kinds and versions: slots move between all of them, up and down.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    kinds::Kind,
    redis::RedisOptions,
    workload::Written,
};
use pontoon::model::slot::Layout;

/// Commands that make a value of each type and encoding, and a command that shows it.
fn values(tag: &str) -> Vec<(Vec<Vec<String>>, Vec<String>)> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let many = |part: &dyn Fn(usize) -> String| (0..700).map(|n| format!(" {}", part(n))).collect::<String>();
    let long = "x".repeat(100);
    [
        ("SET", "number", "42".to_owned(), "GET"),
        ("SET", "text", "text".to_owned(), "GET"),
        ("SET", "long", "y".repeat(20_000), "GET"),
        ("SETBIT", "bits", "70000 1".to_owned(), "BITCOUNT"),
        ("PFADD", "log", many(&|n| n.to_string()), "PFCOUNT"),
        ("HSET", "small-hash", "a 1 b 2".to_owned(), "HGETALL"),
        ("HSET", "hash", many(&|n| format!("f{n} {n}")), "HGETALL"),
        ("HSET", "long-hash", format!("a {long}"), "HGETALL"),
        ("RPUSH", "small-list", "a b c".to_owned(), "LRANGE"),
        ("RPUSH", "list", many(&|n| format!("{n}-{long}")), "LRANGE"),
        ("SADD", "integers", "3 1 2".to_owned(), "SMEMBERS"),
        ("SADD", "small-set", "a b c".to_owned(), "SMEMBERS"),
        ("SADD", "set", many(&|n| format!("m{n}")), "SMEMBERS"),
        ("ZADD", "small-sorted", "1 a 2.5 b".to_owned(), "ZRANGE"),
        ("ZADD", "sorted", many(&|n| format!("{n}.5 m{n}")), "ZRANGE"),
        ("GEOADD", "places", "13.36 38.11 Palermo".to_owned(), "GEOHASH"),
        ("XADD", "stream", "1-1 f v".to_owned(), "XRANGE"),
    ]
    .into_iter()
    .map(|(make, name, arguments, show)| {
        let key = format!("{{{tag}}}{name}");
        let mut commands = vec![words(format!("{make} {key} {}", arguments.trim()))];
        if make == "XADD" {
            commands.push(words(format!("XADD {key} 2-1 f w")));
            commands.push(words(format!("XGROUP CREATE {key} group 0")));
            commands.push(words(format!("XREADGROUP GROUP group consumer COUNT 1 STREAMS {key} >")));
        }
        commands.push(words(format!("PEXPIREAT {key} 4000000000000")));
        let show = match show {
            "LRANGE" | "ZRANGE" => format!("{show} {key} 0 -1"),
            "XRANGE" => format!("{show} {key} - +"),
            "GEOHASH" => format!("{show} {key} Palermo"),
            show => format!("{show} {key}"),
        };
        (commands, words(show))
    })
    .collect()
}

fn call(client: &mut Client, words: &[String]) -> Reply {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let reply = client.call(&words).unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{words:?}: {reply:?}");
    reply
}

/// All values as text. The order of hashes and sets differs from server to server.
fn shown(client: &mut Client, tag: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (_, show) in values(tag) {
        let text = call(client, &show).text();
        let mut words: Vec<&str> = text.split(' ').collect();
        if ["HGETALL", "SMEMBERS"].contains(&show[0].as_str()) {
            words.sort_unstable();
        }
        all.push(format!("{}: {}", show[1], words.join(" ")));
        let Reply::Integer(left) = call(client, &["PTTL".into(), show[1].clone()]) else { panic!("{show:?}") };
        assert!(left > 1_000_000_000, "{show:?}: {left}");
    }
    let key = format!("{{{tag}}}stream");
    all.push(call(client, &["XPENDING".into(), key, "group".into()]).text());
    all
}

#[test]
fn slots_move_between_servers_of_all_kinds() {
    let mut cluster = Cluster::prepared(3);
    // As long as a request may be late, the source is not cleaned for the last time.
    cluster
        .nodes
        .iter_mut()
        .for_each(|node| node.more.extend(["--set", "proxy.request_deadline_ms=1000"].map(str::to_owned)));
    cluster.start_all();
    // Every kind is a source and a target, of an older one and of a newer one.
    let ring = [Kind::Redis6, Kind::Machine, Kind::Valkey8, Kind::Redis8];
    for (gid, kind) in (1..).zip(ring) {
        let slots = format!("{}-{}", 256 * (gid - 1), 256 * gid - 1);
        let options = RedisOptions { kind, ..RedisOptions::default() };
        cluster.add_group_with_replicas(gid, &slots, 0, &options);
    }
    let tag = (0..).map(|n| format!("tag{n}")).find(|tag| Layout::Codis.slot(tag.as_bytes()).0 < 64).unwrap();
    let mut client = cluster.node(1).client();
    for command in values(&tag).iter().flat_map(|(commands, _)| commands) {
        call(&mut client, command);
    }
    let made = shown(&mut client, &tag);
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let written = Written::start(&ports, "w");
    // Once around, and back.
    for to in [2, 3, 4, 1, 4, 3, 2, 1] {
        let (target, kind) = (to.to_string(), ring[to - 1]);
        cluster.cli().ok(&["migrate", "start", "0-63", "--to", &target, "--wait", "--timeout", "60s"]);
        let key = format!("{{{tag}}}text");
        assert_eq!(cluster.locate(&key)["group"], to, "{kind:?}");
        assert_eq!(cluster.servers[to - 1].call(&["GET", &key]), Reply::bulk("text"), "{kind:?}");
        for (now, before) in shown(&mut client, &tag).iter().zip(&made) {
            assert!(now == before, "{kind:?}: {now:.300}; it was {before:.300}");
        }
        written.wait_acknowledged(|_| true);
    }
    let (all, lost) = written.finish(ports[0]);
    let errors: Vec<_> = all.iter().filter_map(|write| write.error.as_ref()).collect();
    assert!(errors.is_empty() && lost.is_empty(), "{errors:?} {lost:?}");
    for server in &cluster.servers {
        assert!(server.call(&["CONFIG", "GET", "sanitize-dump-payload"]).text().contains("clients"));
        let flags = server.call(&["ACL", "GETUSER", "default"]).text();
        assert!(flags.contains("skip-sanitize-payload"), "movers would be slowed: {flags}");
    }
}
