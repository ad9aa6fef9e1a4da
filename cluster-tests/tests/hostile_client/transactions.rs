//! Client libraries whose pipelines are transactions unless told otherwise, and which repeat what failed. Transactions
//! are refused, so nothing of them may be executed.

use std::process::Command;

use cluster_tests::{client::Reply, cluster::Cluster, stock};

#[test]
fn default_pipelines_of_client_libraries_execute_nothing() {
    let (python, modules) = (stock::python(), stock::node_modules());
    let cluster = Cluster::serving(2);
    let ports: Vec<String> = cluster.nodes.iter().map(|node| node.client_port.to_string()).collect();
    let ran = stock::run(Command::new(python).arg(stock::script("redis_py_transactions.py")).args(&ports));
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
    let mut ioredis = Command::new("node");
    ioredis.env("NODE_PATH", modules).arg(stock::script("ioredis_transactions.js")).args(&ports);
    let ran = stock::run(&mut ioredis);
    assert!(ran.out.contains("3 nodes"), "{ran:#?}");
    // What the scripts would have incremented.
    let mut client = cluster.node(1).client();
    for key in ["py:counter", "js:counter"] {
        assert_eq!(client.call(&["EXISTS", key]).unwrap(), Reply::Integer(0), "{key}");
    }
}
