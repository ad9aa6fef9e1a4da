//! Client libraries whose pipelines are transactions unless told otherwise, and which repeat what failed.

use std::process::Command;

use cluster_tests::{cluster::Cluster, stock};

#[test]
fn transactions_of_client_libraries_are_executed_once_or_not_at_all() {
    let (python, modules) = (stock::python(), stock::node_modules());
    let cluster = Cluster::serving(2);
    let ports: Vec<String> = cluster.nodes.iter().map(|node| node.client_port.to_string()).collect();
    let ran = stock::run(Command::new(python).arg(stock::script("redis_py_transactions.py")).args(&ports));
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
    let mut ioredis = Command::new("node");
    ioredis.env("NODE_PATH", modules).arg(stock::script("ioredis_transactions.js")).args(&ports);
    let ran = stock::run(&mut ioredis);
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
}
