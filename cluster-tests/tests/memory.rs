//! The memory of a real node with ten thousand idle clients. Speed is measured by the benchmarks.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use cluster_tests::{client::request, cluster::Cluster};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of connections. Each makes a request and is then idle.
const CLIENTS: usize = 10_000;

/// Maximum memory of the whole node with these clients, in MB, without the pages of the program: how many of those are
/// resident depends on the build and on the kernel's page cache (20 to 35 MB of a debug build). With those of a release
/// build it is less than 60 MB. It is 35 to 40 MB, depending on how the allocator's pages happen to be filled.
const MEMORY_MAX_MB: u64 = 44;

/// Number of files that this process needs in addition to its connections.
const OTHER_FILES: u64 = 200;

fn memory_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn ten_thousand_idle_clients_need_less_than_60_mb() {
    let need = CLIENTS as u64 + OTHER_FILES;
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit { current: hard.map_or(Some(need), |hard| Some(hard.min(need))), maximum: hard },
    )
    .unwrap();
    assert!(hard.is_none_or(|hard| hard >= need), "this test needs `ulimit -Hn` of {need} or more");
    let mut cluster = Cluster::start(1);
    cluster.add_groups(2);
    let node = cluster.node(1);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let mut client = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
            ask(&mut client, i);
            client
        })
        .collect();
    let after_one = memory_mb(node.pid());
    // A second request of all clients at the same time: the memory of a burst must be released or reused.
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(&request(&["GET", &format!("rest:{i}")])).unwrap();
    }
    for client in &mut clients {
        expect_null(client);
    }
    let after_burst = memory_mb(node.pid());
    assert!(
        after_one < MEMORY_MAX_MB && after_burst < MEMORY_MAX_MB,
        "{CLIENTS} idle clients: {after_one} MB, after a burst {after_burst} MB; the limit is {MEMORY_MAX_MB} MB"
    );
}

fn ask(client: &mut TcpStream, i: usize) {
    client.write_all(&request(&["GET", &format!("rest:{i}")])).unwrap();
    expect_null(client);
}

fn expect_null(client: &mut TcpStream) {
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"$-1\r\n");
}
