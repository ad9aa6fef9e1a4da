//! The same generated calls to a cluster of three groups and to one plain Redis: every reply and every key is the same, but
//! for the table of deviations. `PONTOON_SEED` runs another seed, `PONTOON_CALLS` another number of calls.
#![allow(clippy::unwrap_used)]

use cluster_tests::{
    binary::repository,
    cluster::Cluster,
    differential::{
        self,
        connection::Connection,
        deviations::{DEVIATIONS, HEADING, section},
        run::{Run, Subject, Tally},
    },
    kinds::Kind,
    ports::Ports,
    process::Scratch,
    redis::{RedisOptions, RedisServer},
};

/// Clients, each of a node and of the reference.
const CONNECTIONS: usize = 4;
const GROUPS: u16 = 3;
/// Replies that are compared: with Redis 7.0, and with each newer server.
const REPLIES: usize = 30_000;
const REPLIES_NEWER: usize = 10_000;
const SEED: u64 = 20_261_130;

/// A number in the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Runs against servers of this kind. Returns the tally, and how often each deviation was met.
fn compare(kind: Kind, replies: usize) -> (Tally, Vec<usize>) {
    let options = RedisOptions { kind, ..RedisOptions::default() };
    let mut cluster = Cluster::start(3);
    for gid in 1..=GROUPS {
        let (from, to) = (1024 * (gid - 1) / GROUPS, 1024 * gid / GROUPS - 1);
        cluster.add_group_with_replicas(gid, &format!("{from}-{to}"), 0, &options);
    }
    let reference = cluster.add_server(&options);
    let reference = cluster.servers[reference].port;
    let servers: Vec<u16> = cluster.servers[..usize::from(GROUPS)].iter().map(|server| server.port).collect();
    let nodes: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    play(Subject::Cluster, &nodes, reference, &servers, replies)
}

fn play(subject: Subject, nodes: &[u16], reference: u16, servers: &[u16], replies: usize) -> (Tally, Vec<usize>) {
    let seed = setting("PONTOON_SEED", SEED);
    let replies = setting("PONTOON_CALLS", replies as u64) as usize;
    let mut run = Run::new(subject, nodes, reference, servers, CONNECTIONS);
    let mut generator = differential::generator(seed, reference, CONNECTIONS);
    differential::play(&mut run, &mut generator, replies);
    println!("seed {seed}: {:?}, {} of {} commands", run.tally, generator.generated.len(), generator.commands());
    assert!(run.differences() == 0, "seed {seed}: {} differences\n{}", run.differences(), run.report());
    (run.tally, run.met)
}

#[test]
fn three_groups_of_redis_7_answer_as_one_redis() {
    let (tally, met) = compare(Kind::Machine, REPLIES);
    assert!(tally.errors > tally.compared / 10 && tally.errors < tally.compared / 2, "{tally:?}");
    for (deviation, met) in DEVIATIONS.iter().zip(met) {
        assert!(met > 0, "no call met the deviation '{}': is it still needed?", deviation.calls);
    }
}

#[test]
fn three_groups_of_redis_8_answer_as_one_redis() {
    compare(Kind::Redis8, REPLIES_NEWER);
}

#[test]
fn three_groups_of_valkey_8_answer_as_one_valkey() {
    compare(Kind::Valkey8, REPLIES_NEWER);
}

/// What the comparison ignores is what two plain servers do not agree on, and no more: without this test, a difference
/// could be one of the generator.
#[test]
fn two_plain_servers_do_not_differ() {
    for kind in [Kind::Machine, Kind::Redis8, Kind::Valkey8] {
        let (ports, dir) = (Ports::take(), Scratch::new());
        let options = RedisOptions { kind, ..RedisOptions::default() };
        let servers = [0, 1].map(|n| RedisServer::start_with(ports.server(n), dir.path(), &options));
        let [one, other] = servers.each_ref().map(|server| server.port);
        let (tally, _) = play(Subject::Plain, &[one], other, &[one], REPLIES_NEWER);
        assert!(tally.transactions > 10 && tally.others > 10, "{tally:?}");
    }
}

/// A reply and a key that differ are found.
#[test]
fn differences_are_found() {
    let (ports, dir) = (Ports::take(), Scratch::new());
    let servers = [0, 1].map(|n| RedisServer::start(ports.server(n), dir.path()));
    let [one, other] = servers.each_ref().map(|server| server.port);
    let mut run = Run::new(Subject::Plain, &[one], other, &[one], 1);
    run.compare_keys();
    assert_eq!(run.differences(), 0);
    Connection::open(one).call("SET {a}s1 unexpected");
    run.compare_keys();
    assert!(run.report().contains("{a}s1 is unexpected in group 1"), "{}", run.report());
    Connection::open(one).call("SET {a}n0 5");
    let step = |call: &str| differential::generator::Step {
        connection: 0,
        calls: vec![differential::connection::words(call)],
        is_pipeline: true,
    };
    run.unit(&differential::generator::Unit::Singles(step("GET {a}n0")));
    assert!(run.report().contains("== get: 1 differences"), "{}", run.report());
}

#[test]
fn the_document_has_all_deviations() {
    let path = repository().join("docs/commands.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let begin = document.find(HEADING).expect("docs/commands.md has the section of deviations");
    let end =
        document[begin + HEADING.len()..].find("\n## ").map_or(document.len(), |at| begin + HEADING.len() + at + 1);
    let wanted = section() + "\n";
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, [&document[..begin], &wanted, &document[end..]].concat()).unwrap();
        return;
    }
    assert_eq!(document[begin..end], wanted, "run this test with PONTOON_GOLDEN_WRITE=1");
}
