//! How little a node needs: ten thousand clients at rest, in a real node.
//! Knows nothing of speed; that is the benchmark's.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use cluster_tests::{client::request, cluster::Cluster};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections that have each made a request and then rest.
const CLIENTS: usize = 10_000;

/// What the whole node may have resident with them, in MB: the promise of the product.
const RESIDENT_MAX_MB: u64 = 60;

/// Files this process needs beside its connections.
const OTHER_FILES: u64 = 200;

fn resident_mb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn ten_thousand_clients_at_rest_need_little() {
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
    let after_one = resident_mb(node.pid());
    // Once more, all at once: what a burst needs is given back or used again.
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(&request(&["GET", &format!("rest:{i}")])).unwrap();
    }
    for client in &mut clients {
        expect_null(client);
    }
    let after_burst = resident_mb(node.pid());
    assert!(
        after_one < RESIDENT_MAX_MB && after_burst < RESIDENT_MAX_MB,
        "{CLIENTS} clients at rest: {after_one} MB, after a burst {after_burst} MB, allowed are {RESIDENT_MAX_MB}"
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
