//! A cluster answers as a plain server of each kind does, but for the deviations; and the comparison finds differences, and no
//! others than there are. `make differential` plays other seeds and more calls.
#![allow(clippy::unwrap_used)]

use cluster_tests::{
    binary::repository,
    differential::{
        self,
        bed::{CONNECTIONS, SEED, compare},
        connection::Connection,
        deviations::{DEVIATIONS, HEADING, section},
        run::{Run, Subject, Tally},
    },
    kinds::Kind,
    ports::Ports,
    process::Scratch,
    redis::{RedisOptions, RedisServer},
};

/// Replies of two plain servers that are compared, of each kind.
const REPLIES: usize = 10_000;
/// Replies of a cluster that are compared, for each kind of server.
const REPLIES_OF_CLUSTER: usize = 20_000;

const KINDS: [Kind; 3] = [Kind::Machine, Kind::Redis8, Kind::Valkey8];

fn play(subject: Subject, nodes: &[u16], reference: u16, servers: &[u16], replies: usize) -> Tally {
    let mut run = Run::new(subject, nodes, reference, servers, CONNECTIONS);
    let mut generator = differential::generator(SEED, reference, CONNECTIONS);
    differential::play(&mut run, &mut generator, replies);
    assert!(run.differences() == 0, "{} differences\n{}", run.differences(), run.report());
    run.tally
}

/// For each kind of server: no reply and no key differs. Every deviation is one of some kind, so none is out of date.
#[test]
fn a_cluster_answers_as_a_plain_server() {
    let of_kind = |kind: Kind| {
        let (run, generator) = compare(kind, SEED, REPLIES_OF_CLUSTER);
        println!("{kind:?}: {:?}, {} of {} commands", run.tally, generator.generated.len(), generator.commands());
        assert!(run.differences() == 0, "{kind:?}: {} differences\n{}", run.differences(), run.report());
        let Tally { compared, errors, alone, transactions, others, .. } = run.tally;
        assert!(compared >= REPLIES_OF_CLUSTER && errors > 1000 && errors < compared, "{:?}", run.tally);
        assert!(alone > 100 && transactions > 100 && others > 100, "{:?}", run.tally);
        assert!(generator.generated.len() * 10 > generator.commands() * 7, "{:?}", generator.generated);
        run.met
    };
    let met = std::thread::scope(|scope| {
        let started = KINDS.map(|kind| scope.spawn(move || of_kind(kind)));
        started.map(|kind| kind.join().unwrap())
    });
    for (at, deviation) in DEVIATIONS.iter().enumerate() {
        assert!(met.iter().any(|met| met[at] > 0), "no call met the deviation '{}'", deviation.calls);
    }
}

/// What the comparison ignores is what two plain servers do not agree on, and no more: without this test, a difference
/// could be one of the generator.
#[test]
fn two_plain_servers_do_not_differ() {
    for kind in KINDS {
        let (ports, dir) = (Ports::take(), Scratch::new());
        let options = RedisOptions { kind, ..RedisOptions::default() };
        let servers = [0, 1].map(|n| RedisServer::start_with(ports.server(n), dir.path(), &options));
        let [one, other] = servers.each_ref().map(|server| server.port);
        let tally = play(Subject::Plain, &[one], other, &[one], REPLIES);
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
