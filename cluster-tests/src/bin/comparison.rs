//! Sends the same generated calls to a cluster of three groups and to one plain server, and shows every reply and every key
//! that differs, but for the table of deviations. The exit code is 1 if something differs. `PONTOON_SEED` chooses the seed,
//! `PONTOON_CALLS` the number of replies.
//! usage: comparison [redis-7 | redis-8 | valkey-8]...   without arguments: all

use std::process::ExitCode;

use cluster_tests::{
    cluster::Cluster,
    differential::{
        self,
        deviations::DEVIATIONS,
        run::{Run, Subject},
    },
    kinds::Kind,
    redis::RedisOptions,
};

/// Clients, each of a node and of the plain server.
const CONNECTIONS: usize = 4;
const GROUPS: u16 = 3;
const REPLIES: u64 = 30_000;
const SEED: u64 = 20_261_130;

/// A number in the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Whether nothing differs from a server of this kind.
fn compare(name: &str, kind: Kind) -> bool {
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
    let (seed, replies) = (setting("PONTOON_SEED", SEED), setting("PONTOON_CALLS", REPLIES));
    let mut run = Run::new(Subject::Cluster, &nodes, reference, &servers, CONNECTIONS);
    let mut generator = differential::generator(seed, reference, CONNECTIONS);
    differential::play(&mut run, &mut generator, usize::try_from(replies).unwrap_or(usize::MAX));
    println!(
        "{name}, seed {seed}: {:?}, {} of {} commands, {} differences",
        run.tally,
        generator.generated.len(),
        generator.commands(),
        run.differences()
    );
    for (deviation, met) in DEVIATIONS.iter().zip(&run.met) {
        if *met == 0 {
            println!("no call met the deviation '{}'", deviation.calls);
        }
    }
    println!("{}", run.report());
    run.differences() == 0
}

fn main() -> ExitCode {
    let kinds = [("redis-7", Kind::Machine), ("redis-8", Kind::Redis8), ("valkey-8", Kind::Valkey8)];
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let differing = kinds
        .into_iter()
        .filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|other| other == name))
        .filter(|(name, kind)| !compare(name, *kind))
        .count();
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
