//! Scripts with real nodes and servers: a call by the digest finds a script that any client has brought to the cluster, at every
//! node, at a promoted replica, at a group that is new, in a pipeline and in a transaction.
#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};

/// Returns what its key and its argument are, so that each test has scripts of its own.
fn body(name: &str) -> String {
    format!("return '{name}:' .. KEYS[1]")
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    cluster.nodes.iter().map(|node| Client::connect(node.client_port).unwrap()).collect()
}

/// Calls a script in each of the ways in which a client may: alone, in front of another request, behind another one, and in a
/// transaction.
fn call_in_all_ways(client: &mut Client, digest: &str, name: &str, key: &str) {
    let want = Reply::bulk(&format!("{name}:{key}"));
    let call = || vec!["EVALSHA", digest, "1", key];
    let all = client.pipeline(&[
        vec!["SET", key, "v"],
        call(),
        vec!["GET", key],
        vec!["MULTI"],
        vec!["SET", key, "w"],
        call(),
        vec!["EXEC"],
        call(),
    ]);
    let all = all.unwrap();
    assert_eq!(all[1], want);
    assert_eq!(all[2], Reply::bulk("v"));
    assert_eq!(all[6], Reply::Array(vec![Reply::ok(), want.clone()]));
    assert_eq!(all[7], want);
}

/// The server forgets its scripts, as when it is restarted.
fn forget(cluster: &Cluster) {
    for server in &cluster.servers {
        assert_eq!(server.call(&["SCRIPT", "FLUSH"]), Reply::ok());
    }
}

#[test]
fn a_script_that_was_loaded_is_found_at_new_groups_and_promoted_replicas() {
    let mut cluster = Cluster::start(3);
    let old = cluster.add_group_with_replicas(1, "0-1023", 1, &RedisOptions::default());
    let mut all = clients(&cluster);
    let digest = all[0].call(&["SCRIPT", "LOAD", &body("loaded")]).unwrap().text();
    // Group 1 owns the slots of both keys; group 2 gets one of them.
    let [stays, moves] = ["{a}key", "{b}key"];
    for client in &mut all {
        call_in_all_ways(client, &digest, "loaded", stays);
    }
    let new = cluster.add_server(&RedisOptions::default());
    cluster.cli().ok(&["group", "create", "2", "--primary", &cluster.servers[new].addr()]);
    let slot = cluster.locate(moves)["slot"].to_string();
    cluster.cli().ok(&["migrate", "start", &slot, "--to", "2", "--wait", "--timeout", "60s"]);
    for client in &mut all {
        call_in_all_ways(client, &digest, "loaded", moves);
    }
    // The replica has never run it.
    cluster.wait_candidates("default", "1");
    cluster.servers[old[0]].kill9();
    wait_for("the replica to be promoted", GENEROUS, || match all[0].call(&["SET", stays, "v"]) {
        Ok(reply) if reply == Reply::ok() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for client in &mut all {
        call_in_all_ways(client, &digest, "loaded", stays);
    }
}

/// Also what only EVAL has brought: nodes ask each other.
#[test]
fn a_script_that_another_node_has_seen_is_found() {
    let mut cluster = Cluster::serving(2);
    let mut all = clients(&cluster);
    let keys = ["{a}", "{b}", "{c}", "{d}"];
    let name = "evaluated";
    assert_eq!(all[0].call(&["EVAL", &body(name), "1", "{a}"]).unwrap(), Reply::bulk("evaluated:{a}"));
    let digest = sha1_hex(&mut all[0], &body(name));
    forget(&cluster);
    for client in &mut all[1..] {
        for key in keys {
            call_in_all_ways(client, &digest, name, key);
        }
    }
    // A node that knew it and is started again.
    forget(&cluster);
    cluster.node_mut(1).kill9();
    cluster.node_mut(1).start();
    cluster.wait_serving(&[1, 2, 3]);
    let mut again = Client::connect(cluster.node(1).client_port).unwrap();
    for key in keys {
        call_in_all_ways(&mut again, &digest, name, key);
    }
    // What nobody knows is answered as Redis does, and SCRIPT FLUSH reaches all nodes.
    let unknown = "0123456789012345678901234567890123456789";
    let no_script = |reply: Reply| assert!(reply.is_error("NOSCRIPT No matching script."), "{reply:?}");
    no_script(again.call(&["EVALSHA", unknown, "1", "k"]).unwrap());
    // Also of more scripts than a node asks others for.
    let digests: Vec<String> = (0..300).map(|n| format!("{n:040x}")).collect();
    let mut requests = vec![vec!["MULTI"]];
    requests.extend(digests.iter().map(|digest| vec!["EVALSHA", digest, "1", "{a}"]));
    requests.push(vec!["EXEC"]);
    let Some(Reply::Array(executed)) = again.pipeline(&requests).unwrap().pop() else { panic!("EXEC was refused") };
    assert_eq!(executed.len(), digests.len());
    executed.into_iter().for_each(no_script);
    assert_eq!(again.call(&["SCRIPT", "FLUSH"]).unwrap(), Reply::ok());
    for client in &mut all[1..] {
        no_script(client.call(&["EVALSHA", &digest, "1", "{a}"]).unwrap());
    }
}

/// The digest of a script, as a server computes it.
fn sha1_hex(client: &mut Client, body: &str) -> String {
    client.call(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", body]).unwrap().text()
}

/// A library that a server lacks is loaded before a transaction that calls its function.
#[test]
fn a_transaction_finds_a_function_at_a_server_that_lacks_it() {
    let cluster = Cluster::serving(2);
    let mut all = clients(&cluster);
    let library = "#!lua name=lib\nredis.register_function('named', function(keys) return 'f:' .. keys[1] end)";
    assert_eq!(all[0].call(&["FUNCTION", "LOAD", library]).unwrap(), Reply::bulk("lib"));
    // Each node has not seen yet that the servers have it.
    for (client, key) in all.iter_mut().zip(["{a}", "{b}", "{c}"]) {
        for server in &cluster.servers {
            assert_eq!(server.call(&["FUNCTION", "FLUSH"]), Reply::ok());
        }
        let called =
            client.pipeline(&[vec!["MULTI"], vec!["SET", key, "v"], vec!["FCALL", "named", "1", key], vec!["EXEC"]]);
        let called = called.unwrap().remove(3);
        assert_eq!(called, Reply::Array(vec![Reply::ok(), Reply::bulk(&format!("f:{key}"))]), "{key}");
    }
}
