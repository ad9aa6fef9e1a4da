//! `pontoon client`: the clients of all nodes and products are listed and closed, and who closed them is an event.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use cluster_tests::{
    cli::Cli,
    client::{Client, Reply},
    cluster::Cluster,
    wait::{GENEROUS, wait_for},
};
use serde_json::Value;

fn id(client: &mut Client) -> u64 {
    match client.call(&["CLIENT", "ID"]).unwrap() {
        Reply::Integer(id) => id.unsigned_abs(),
        other => panic!("{other:?}"),
    }
}

fn clients(cli: &Cli, args: &[&str]) -> Vec<Value> {
    cli.json(&[&["client", "ls"], args].concat())["clients"].as_array().unwrap().clone()
}

fn ids(clients: &[Value]) -> BTreeSet<u64> {
    clients.iter().map(|client| client["id"].as_u64().unwrap()).collect()
}

#[test]
fn clients_of_all_nodes_are_listed_and_closed() {
    let mut cluster = Cluster::prepared(3);
    cluster.use_secret();
    cluster.start_all();
    cluster.add_groups(1);
    let cli = cluster.node(cluster.follower()).cli();
    let mut connected: Vec<Client> = (1..=3).map(|node| cluster.node(node).client()).collect();
    let mut own: Vec<u64> = connected.iter_mut().map(id).collect();
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), 3, "ids are unique in the cluster: {own:?}");
    connected[1].call(&["CLIENT", "SETNAME", "job"]).unwrap();
    wait_for("all clients are listed", GENEROUS, || {
        let listed = ids(&clients(&cli, &[]));
        if own.iter().all(|id| listed.contains(id)) { Ok(()) } else { Err(format!("{listed:?}")) }
    });
    let one = clients(&cli, &["--name", "job"]);
    assert_eq!(ids(&one), BTreeSet::from([own[1]]), "{one:?}");
    assert_eq!((&one[0]["node"], &one[0]["product"]), (&2.into(), &"default".into()), "{one:?}");
    assert_eq!(ids(&clients(&cli, &["--at", "3"])), BTreeSet::from([own[2]]));
    assert!(clients(&cli, &["--product", "default", "--older", "1h"]).is_empty());
    cli.refused(&["client", "ls", "--product", "nosuch"], &["there is no product 'nosuch'"]);
    cli.refused(&["client", "ls", "--at", "9"], &["there is no node 9"]);
    let refused = cli.run(&["client", "kill"]);
    assert!(refused.code != 0 && refused.err.contains("say which clients"), "{refused:?}");
    // Only tried.
    let (second, third) = (own[1].to_string(), own[2].to_string());
    let tried = cli.ok(&["client", "kill", &second, "--dry-run"]);
    assert!(tried.out.contains("would: close 1 clients"), "{tried:?}");
    assert_eq!(connected[1].call(&["PING"]).unwrap(), Reply::Simple("PONG".into()));
    let done = cli.ok(&["client", "kill", &second, &third]);
    assert!(done.out.contains("closed 2 clients"), "{done:?}");
    assert!(connected[1].call(&["PING"]).is_err() && connected[2].call(&["PING"]).is_err());
    assert_eq!(connected[0].call(&["PING"]).unwrap(), Reply::Simple("PONG".into()));
    own.truncate(1);
    for (node, killed) in [("node 2", &second), ("node 3", &third)] {
        let event = wait_for(&format!("the event of {node}"), GENEROUS, || {
            let all = cli.json(&["events"]).as_array().unwrap().clone();
            let found = |event: &&Value| event["kind"] == "clients-killed" && event["subject"] == node;
            all.iter().find(found).cloned().ok_or_else(|| format!("{all:#?}"))
        });
        let text = event["text"].as_str().unwrap();
        assert!(text.contains(killed.as_str()) && text.contains("closed 1 clients"), "{event:#}");
        assert_eq!(event["actor"], "cluster secret", "{event:#}");
        assert!(event["declared"].as_str().unwrap().contains(": pontoon client kill"), "{event:#}");
    }
    // A client that asks a single server is recorded, too.
    let mut asker = cluster.node(1).client();
    let refused = asker.call(&["PONTOON", "ON", "1", "INFO", "server"]).unwrap().text();
    assert!(refused.starts_with("NOPERM") && refused.contains("server-commands=on"), "{refused}");
    cli.ok(&["product", "set", "default", "server-commands=on", "--wait", "--timeout", "40s"]);
    let told = asker.call(&["PONTOON", "ON", "1", "INFO", "server"]).unwrap().text();
    assert!(told.contains("redis_version"), "{told}");
    let event = wait_for("the event of PONTOON ON", GENEROUS, || {
        let all = cli.json(&["events"]).as_array().unwrap().clone();
        let found = all.iter().find(|event| event["kind"] == "servers-asked").cloned();
        found.ok_or_else(|| format!("{all:#?}"))
    });
    assert!(event["text"].as_str().unwrap().contains("sent INFO to 127.0.0.1:"), "{event:#}");
    assert_eq!(event["actor"], "a client of product 'default'", "{event:#}");
    // Without the secret nothing is told.
    let stranger = Cli::new(cluster.node(1).admin(), None).run(&["client", "ls"]);
    assert!(stranger.code != 0 && !stranger.out.contains("127.0.0.1"), "{stranger:?}");
    // A node that is gone is named.
    let gone = if cluster.leader() == 3 { 2 } else { 3 };
    cluster.node_mut(gone).kill9();
    let cli = cluster.node(1).cli();
    let reply = cli.json(&["client", "ls"]);
    let silent: Vec<_> = reply["silent"].as_array().unwrap().iter().map(|node| node["id"].clone()).collect();
    assert_eq!(silent, [Value::from(gone)], "{reply:#}");
}
