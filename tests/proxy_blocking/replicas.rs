//! WAIT and WAITAOF: how many replicas have a client's writes.

use super::*;

/// A replica of a server that is in sync.
fn replica_of(redis: &Redis) -> Redis {
    let before = info(redis, "connected_slaves");
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &redis.port().to_string()]);
    wait_until("the replica is in sync", || {
        info(redis, "connected_slaves") > before && direct(redis).call("WAIT 1 100").line() != ":0"
    });
    replica
}

/// A key of the group with this index of two.
fn key_of(group: u16) -> String {
    let is_of = |key: &String| (Layout::Codis.slot(key.as_bytes()).0 >= 512) == (group == 1);
    (0..).map(|n| format!("k{n}")).find(is_of).unwrap()
}

#[test]
fn the_replicas_of_the_groups_that_were_written_to_count() {
    let (one, two) = (Redis::start(), Redis::start());
    let _replica = replica_of(&one);
    let bed = Bed::start_with(&[&one.addr, &two.addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call(&format!("SET {} v", key_of(0))).expect("+OK\r\n");
    client.call("WAIT 1 0").expect(":1\r\n").call("WAIT 1 0").expect(":1\r\n");
    // Written to the group without a replica, too: directly, as a part of a split command, by a blocking one.
    for write in [format!("SET {} v", key_of(1)), format!("MSET {} 1 {} 2", key_of(0), key_of(1))] {
        let mut client = bed.client();
        client.call(&format!("SET {} v", key_of(0))).expect("+OK\r\n");
        client.call(&write).expect("+OK\r\n");
        let began = Instant::now();
        client.call("WAIT 1 200").expect(":0\r\n");
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
    let mut client = bed.client();
    let list = format!("{{{}}}list", key_of(0));
    direct(&one).call(&format!("RPUSH {list} a")).expect(":1\r\n");
    client.call(&format!("BLPOP {list} 0")).expect(&texts(&[&list, "a"]));
    client.call("WAIT 1 0").expect(":1\r\n");
    // More than there are.
    let began = Instant::now();
    client.call("WAIT 2 100").expect(":1\r\n");
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_client_that_has_written_nothing_is_told_of_the_smallest_group() {
    let (one, two) = (Redis::start(), Redis::start());
    let _replicas = (replica_of(&one), replica_of(&one), replica_of(&two));
    let bed = Bed::start_with(&[&one.addr, &two.addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call(&format!("GET {}", key_of(0))).expect("$-1\r\n");
    client.call("WAIT 1 0").expect(":1\r\n");
    client.call("WAIT 0 0");
    let count: u64 = client.line()[1..].parse().unwrap();
    assert!(count <= 1, "{count}");
}

/// The process that is there now has other replicas, and perhaps other data.
#[test]
fn a_restarted_server_does_not_count() {
    let mut redis = Redis::start();
    let port = redis.port();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| table);
    let mut client = bed.client();
    client.call("SET k v").expect("+OK\r\n");
    redis.kill();
    let redis = Redis::start_at(port, &[]);
    let _replica = replica_of(&redis);
    let mut other = bed.client();
    wait_until("the server is up", || other.call("SET k v").line() == "+OK");
    other.call("WAIT 1 0").expect(":1\r\n");
    client.call("WAIT 1 5000").expect(":0\r\n");
    // It has been told.
    client.call("SET k v").expect("+OK\r\n").call("WAIT 1 0").expect(":1\r\n");
}

#[test]
fn a_server_that_dies_while_it_is_asked_counts_as_none() {
    let mut redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| table);
    let mut client = bed.client();
    client.call("SET k v").expect("+OK\r\n").call("WAIT 1 0");
    wait_blocked(&redis, 1);
    redis.kill();
    client.expect(":0\r\n");
    client.call("WAIT 0 10").expect(":0\r\n");
}

#[test]
fn errors_are_those_of_the_server() {
    let (reference, redis) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    for call in ["WAIT x 1", "WAIT 1 x", "WAIT -1 1", "WAIT 1 -1", "WAIT 1", "WAIT 0 0", "WAITAOF 0 0 0"] {
        let want = direct(&reference).call(call).line();
        assert_eq!(bed.client().call(call).line(), want, "{call}");
    }
}

/// One client's WAIT does not delay the acknowledgements of others.
#[test]
fn writes_are_confirmed_while_a_client_waits() {
    let redis = Redis::start();
    let _replica = replica_of(&redis);
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| {
        with_product(table, |p| (p.min_acks, p.min_acks_ms) = (1, 20_000))
    });
    let mut waiting = bed.client();
    waiting.call("SET k v").expect("+OK\r\n").call("WAIT 9 0");
    wait_until("it waits", || bed.proxy.report().borrow().blocked == 1);
    bed.client().call("SET k w").expect("+OK\r\n");
    drop(waiting);
    wait_blocked(&redis, 0);
}

#[test]
fn waitaof_counts_the_local_file_too() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/redis-8");
    if !std::path::Path::new(program).exists() {
        eprintln!("skipped: {program} is not installed (make servers)");
        return;
    }
    let redis =
        Redis::start_program(std::process::Command::new(program), common::free_port(), &["--appendonly", "yes"]);
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call("SET k v").expect("+OK\r\n").call("WAITAOF 1 0 0").expect("*2\r\n:1\r\n:0\r\n");
    client.call("WAITAOF 1 1 50").expect("*2\r\n:1\r\n:0\r\n");
}
