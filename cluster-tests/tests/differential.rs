//! The tests of the comparison that `make differential` makes: it finds differences, and no others than there are.
//! `PONTOON_SEED` runs another seed, `PONTOON_CALLS` another number of calls.
#![allow(clippy::unwrap_used)]

use cluster_tests::{
    binary::repository,
    differential::{
        self,
        connection::Connection,
        deviations::{HEADING, section},
        run::{Run, Subject, Tally},
    },
    kinds::Kind,
    ports::Ports,
    process::Scratch,
    redis::{RedisOptions, RedisServer},
};

/// Clients, each of a node and of the reference.
const CONNECTIONS: usize = 4;
/// Replies that are compared, of each kind of server.
const REPLIES: usize = 10_000;
const SEED: u64 = 20_261_130;

/// A number in the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
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

/// What the comparison ignores is what two plain servers do not agree on, and no more: without this test, a difference
/// could be one of the generator.
#[test]
fn two_plain_servers_do_not_differ() {
    for kind in [Kind::Machine, Kind::Redis8, Kind::Valkey8] {
        let (ports, dir) = (Ports::take(), Scratch::new());
        let options = RedisOptions { kind, ..RedisOptions::default() };
        let servers = [0, 1].map(|n| RedisServer::start_with(ports.server(n), dir.path(), &options));
        let [one, other] = servers.each_ref().map(|server| server.port);
        let (tally, _) = play(Subject::Plain, &[one], other, &[one], REPLIES);
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
