//! Processes without the secret, connections that never complete a request or read no answer, and too many of them.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use cluster_tests::{
    cluster::Cluster,
    wait::{GENEROUS, let_pass, wait_until},
};
use pontoon::wire::{
    auth::ClusterSecret,
    pb::{node::PingRequest, raft::AppendEntriesRequest},
};
use tonic::Code::Unauthenticated;

use crate::victim::{Victim, refused};

/// Connections that occupy the admin port: more than operators and nodes need.
const CONNECTIONS: usize = 300;

#[test]
fn calls_without_the_secret_are_refused_and_change_nothing() {
    let mut victim = Victim::start(1);
    let mut peer = victim.peer(1);
    let term = victim.term(1);
    let before = victim.quiet(1);
    for secret in [ClusterSecret::none(), ClusterSecret::new("another-secret-of-tests").unwrap()] {
        peer.with_secret(secret);
        let part = "--secret-file";
        refused("a vote", peer.vote(term + 1, peer.at(term, 1000)), Unauthenticated, part);
        let append = AppendEntriesRequest { vote: peer.leads(term + 1), ..Default::default() };
        refused("an append", peer.append(append), Unauthenticated, part);
        refused("a snapshot", peer.install(Default::default()), Unauthenticated, part);
        refused("an election", peer.stand(), Unauthenticated, part);
        let ping = peer.node(|mut client| async move { client.ping(PingRequest::default()).await });
        refused("a ping", ping, Unauthenticated, part);
    }
    assert!(victim.quiet(1) == before, "a refused call has changed the data directory");
    victim.serves(1);
    victim.restarts(1);
}

/// Slow loris: connections that begin a request and never complete it. The node serves on, and closes them.
#[test]
fn connections_without_a_request_do_not_keep_others_out() {
    let mut victim = Victim::start(1);
    let admin = victim.cluster.node(1).admin();
    let beginnings: [&[u8]; 4] =
        [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01\x02\x00"];
    let mut open: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|n| {
            let mut stream = TcpStream::connect(&admin).unwrap();
            stream.write_all(beginnings[n % beginnings.len()]).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            stream
        })
        .collect();
    victim.serves(1);
    wait_until("the node to close them", GENEROUS * 2, || {
        open.retain_mut(|stream| !closed(stream));
        open.is_empty()
    });
    victim.serves(1);
    victim.restarts(1);
}

/// The node does not read while its answers are not taken, so that it cannot find out in that way that nobody is there.
#[test]
fn a_connection_that_reads_no_answers_is_closed() {
    let mut cluster = Cluster::prepared(1);
    cluster.start_all();
    let mut stream = TcpStream::connect(cluster.node(1).admin()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let requests = REQUEST.repeat(1000);
    // Where in a request the next write begins.
    let mut at = 0;
    wait_until("the node to close it", GENEROUS * 4, || {
        loop {
            match stream.write(&requests[at..]) {
                Ok(written) => at = (at + written) % REQUEST.len(),
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    });
}

/// A request that needs no secret.
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Open files of each node. Its admin port may have a quarter of them as connections.
const FILES: u32 = 256;
const PLACES: usize = 64;
/// The time between two connections of the attack: in some seconds it uses up all files of a node without a limit.
const INTERVAL: Duration = Duration::from_millis(10);

/// Strangers that keep [`FILES`] connections to a port, with complete requests, and open what was closed again.
struct Strangers {
    stop: AtomicBool,
    /// Connections that they have opened.
    opened: AtomicUsize,
}

impl Strangers {
    /// Attacks until it is stopped; returns the connections.
    fn attack(&self, admin: &str) -> Vec<TcpStream> {
        let mut open: Vec<TcpStream> = Vec::new();
        let files = usize::try_from(FILES).unwrap();
        for turn in 0_usize.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let_pass(INTERVAL);
            open.retain_mut(|stream| !closed(stream));
            // Each sends a request every few seconds, and so is never silent.
            if let Some(n) = turn.checked_rem(open.len()) {
                // It may be closed at this moment.
                let _ = open[n].write_all(REQUEST);
            }
            if open.len() < files
                && let Ok(stream) = TcpStream::connect(admin)
            {
                stream.set_nonblocking(true).unwrap();
                open.push(stream);
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
        }
        open
    }
}

/// Connections of strangers that are never silent take each other's places, and not those of nodes and operators.
#[test]
fn too_many_connections_do_not_keep_nodes_and_operators_out() {
    let mut cluster = Cluster::prepared(3);
    cluster.nodes.iter_mut().for_each(|node| node.open_files_max = Some(FILES));
    cluster.use_secret();
    cluster.start_all();
    cluster.add_groups(1);
    let mut victim = Victim { cluster };
    let (leader, follower) = (victim.cluster.leader(), victim.cluster.follower());
    let admin = victim.cluster.node(leader).admin();
    let strangers = Strangers { stop: AtomicBool::new(false), opened: AtomicUsize::new(0) };
    let mut open = std::thread::scope(|scope| {
        // The attack ends also when a check fails.
        let attack = scope.spawn(|| strangers.attack(&admin));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let files = usize::try_from(FILES).unwrap();
            wait_until("the attack", GENEROUS, || strangers.opened.load(Ordering::Relaxed) >= files);
            victim.serves(leader);
            // A node that was not connected gets leases and the log.
            victim.cluster.node_mut(follower).kill9();
            victim.cluster.node_mut(follower).start();
            victim.cluster.wait_serving(&[1, 2, 3]);
            victim.cluster.node(follower).cli().ok(&["product", "set", "default", "clients-max=100"]);
            victim.serves(follower);
        }));
        strangers.stop.store(true, Ordering::Relaxed);
        let open = attack.join().unwrap();
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        open
    });
    wait_until("the node to keep few of them", GENEROUS, || {
        open.retain_mut(|stream| !closed(stream));
        open.len() <= PLACES
    });
    victim.restarts(leader);
}

/// Whether the other side has closed a connection.
fn closed(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 512];
    match stream.read(&mut answer) {
        Ok(0) => true,
        Ok(_) => false,
        Err(e) => !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}
