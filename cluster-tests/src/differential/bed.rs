//! A cluster of three groups, and a plain server of the same kind beside it. Knows nothing of calls.

use super::{
    generator,
    generator::Generator,
    play,
    run::{Run, Subject},
};
use crate::{cluster::Cluster, kinds::Kind, redis::RedisOptions};

/// Clients, each of a node and of the plain server.
pub const CONNECTIONS: usize = 4;

/// The seed that is played if no other is asked for.
pub const SEED: u64 = 20_261_130;

const NODES: u16 = 3;
const GROUPS: u16 = 3;

/// Plays calls of a seed with a cluster whose servers are of this kind, until `replies` were compared or too much differs.
///
/// # Panics
/// When a process does not start.
#[must_use]
pub fn compare(kind: Kind, seed: u64, replies: usize) -> (Run, Generator) {
    let options = RedisOptions { kind, ..RedisOptions::default() };
    let mut cluster = Cluster::start(NODES);
    for gid in 1..=GROUPS {
        let (from, to) = (1024 * (gid - 1) / GROUPS, 1024 * gid / GROUPS - 1);
        cluster.add_group_with_replicas(gid, &format!("{from}-{to}"), 0, &options);
    }
    let reference = cluster.add_server(&options);
    let reference = cluster.servers[reference].port;
    let servers: Vec<u16> = cluster.servers[..usize::from(GROUPS)].iter().map(|server| server.port).collect();
    let nodes: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let mut run = Run::new(Subject::Cluster, &nodes, reference, &servers, CONNECTIONS);
    let mut generator = generator(seed, reference, CONNECTIONS);
    play(&mut run, &mut generator, replies);
    (run, generator)
}
