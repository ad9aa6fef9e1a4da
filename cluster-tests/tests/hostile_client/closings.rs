//! Clients that use up the memory budget of a node: an event says that the node closes clients.

use std::time::Duration;

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    node::Node,
    wait::{GENEROUS, holds_for, wait_for, wait_until},
};
use serde_json::Value;

/// The smallest budget, bytes.
const BUDGET: usize = 32 << 20;
/// Each client asks for as much as its output buffer may hold, and reads nothing. A few of them fill the budget.
const CLIENTS: usize = 16;
const VALUE: usize = 512 << 10;
const REPLIES: usize = 32;

/// How many clients the node has closed for its budget, according to its log.
fn closed(node: &Node) -> usize {
    node.log().matches("closed a client whose data exceeds the node's memory budget").count()
}

/// Clients that ask and do not read, until the node has closed some of them.
fn attack(node: &Node) {
    let before = closed(node);
    let get = "GET large\r\n".repeat(REPLIES);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| node.client()).collect();
    // A client that is closed before it has asked is what this is about.
    clients.iter_mut().for_each(|client| _ = client.send(get.as_bytes()));
    wait_until("the node to close clients", GENEROUS, || closed(node) > before);
}

fn events(cluster: &Cluster) -> Vec<Value> {
    let events = cluster.cli().json(&["events"]);
    events.as_array().unwrap().iter().filter(|event| event["kind"] == "clients-closed").cloned().collect()
}

#[test]
fn a_node_that_closes_clients_for_its_budget_causes_one_event() {
    let mut cluster = Cluster::prepared(3);
    let setting = ["--set".to_owned(), format!("proxy.memory_max={BUDGET}")];
    cluster.nodes.iter_mut().for_each(|node| node.more.extend(setting.clone()));
    cluster.start_all();
    cluster.add_groups(1);
    // Its number reaches the leader with a heartbeat.
    let id = cluster.follower();
    let node = cluster.node(id);
    assert_eq!(node.client().call(&["SET", "large", &"x".repeat(VALUE)]).unwrap(), Reply::ok());
    assert_eq!(events(&cluster), Vec::<Value>::new());

    attack(node);
    wait_for("the event", GENEROUS, || {
        let found = |event: &Value| {
            let text = event["text"].as_str().unwrap_or_default();
            event["subject"] == format!("node {id}") && text.contains(&format!("proxy.memory_max, {BUDGET} bytes"))
        };
        let events = events(&cluster);
        if events.iter().any(found) { Ok(()) } else { Err(format!("{events:?}")) }
    });

    // The same condition, reported with further heartbeats: no second event.
    attack(node);
    assert!(holds_for(Duration::from_secs(3), || events(&cluster).len() == 1), "{:?}", events(&cluster));
}
