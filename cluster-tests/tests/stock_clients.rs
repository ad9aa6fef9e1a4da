//! Third-party clients against every node: redis-cli, redis-benchmark, redis-py, ioredis, grpcio.
//! The scripts in cluster-tests/clients contain the checks of the client libraries.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use cluster_tests::{cluster::Cluster, stock};

fn ports(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| node.client_port.to_string()).collect()
}

#[test]
fn redis_cli_and_redis_benchmark() {
    let cluster = Cluster::serving(2);
    let ports = ports(&cluster);
    let cli = |port: &str, args: &[&str]| {
        stock::run(Command::new("redis-cli").args(["-p", port]).args(args)).out.trim().to_owned()
    };
    for (i, port) in ports.iter().enumerate() {
        let next = &ports[(i + 1) % ports.len()];
        assert_eq!(cli(port, &["SET", "from", port]), "OK");
        assert_eq!(cli(next, &["GET", "from"]), *port);
        assert_eq!(cli(port, &["-3", "GET", "from"]), *port);
        assert!(cli(port, &["SUNION", "a", "b", "c"]).contains("CROSSSLOT"));
    }
    for port in &ports {
        for pipeline in ["1", "16"] {
            let run = [
                "-p",
                port,
                "-t",
                "set,get,incr,lpush,hset,mset",
                "-n",
                "4000",
                "-c",
                "20",
                "-r",
                "1000",
                "-q",
                "-P",
                pipeline,
            ];
            let ran = stock::run(Command::new("redis-benchmark").args(run));
            assert!(ran.out.matches("requests per second").count() >= 6, "{ran:#?}");
            assert!(!ran.out.contains("rror") && !ran.err.contains("rror"), "{ran:#?}");
        }
    }
}

#[test]
fn redis_py() {
    let python = stock::python();
    let cluster = Cluster::serving(2);
    let ran = stock::run(Command::new(python).arg(stock::script("redis_py.py")).args(ports(&cluster)));
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
}

#[test]
fn ioredis() {
    let modules = stock::node_modules();
    let cluster = Cluster::serving(2);
    let ran = stock::run(
        Command::new("node").env("NODE_PATH", modules).arg(stock::script("ioredis.js")).args(ports(&cluster)),
    );
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
}

#[test]
fn grpc_with_server_reflection() {
    let python = stock::python();
    let mut cluster = Cluster::prepared(2);
    cluster.use_secret();
    cluster.start_all();
    let script = stock::script("grpc_reflection.py");
    for node in &cluster.nodes {
        let ran = stock::run(Command::new(&python).arg(&script).arg(node.admin()).args(&cluster.secret));
        assert!(ran.out.contains("answered"), "{ran:#?}");
    }
    let without = Command::new(&python).arg(&script).arg(cluster.node(1).admin()).output().unwrap();
    assert!(!without.status.success(), "a request without the secret must fail");
}
