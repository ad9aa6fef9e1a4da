//! Requests of clients through any node: each key goes to the right server, pipelines keep their order, scatter-gather
//! commands are merged, and errors are clear. Without faults.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::{Client, Reply, request},
    cluster::Cluster,
};

#[test]
fn every_node_routes_every_key_to_its_group() {
    let cluster = Cluster::serving(2);
    for i in 0..60 {
        let (key, id) = (format!("key:{i}"), i % 3 + 1);
        assert_eq!(cluster.node(id).client().call(&["SET", &key, &i.to_string()]).unwrap(), Reply::ok());
        for reader in 1..=3 {
            assert_eq!(cluster.node(reader).client().call(&["GET", &key]).unwrap(), Reply::bulk(&i.to_string()));
        }
    }
    // At the servers: each key is on exactly the server that `slot key` names.
    let keys: Vec<i64> = cluster.servers.iter().map(|s| s.call(&["DBSIZE"]).text().parse().unwrap()).collect();
    assert_eq!(keys.iter().sum::<i64>(), 60);
    assert!(keys.iter().all(|n| *n > 10), "both groups must have keys: {keys:?}");
    for key in ["key:1", "key:2", "key:3", "key:4"] {
        let named = cluster.locate(key)["server"].as_str().unwrap().to_owned();
        for server in &cluster.servers {
            assert_eq!(server.call(&["EXISTS", key]), Reply::Integer(i64::from(server.addr() == named)), "{key}");
        }
    }
}

#[test]
fn pipelines_keep_their_order_and_scatter_gather_replies_are_merged() {
    let cluster = Cluster::serving(2);
    let mut client = cluster.node(2).client();
    let keys: Vec<String> = (0..500).map(|i| format!("p{i}")).collect();
    let sets: Vec<_> = keys.iter().map(|k| vec!["SET", k, k]).collect();
    assert!(client.pipeline(&sets).unwrap().iter().all(|r| *r == Reply::ok()));
    let mut mixed: Vec<Vec<&str>> = Vec::new();
    for key in &keys {
        mixed.extend([vec!["GET", key], vec!["PING"], vec!["ECHO", key]]);
    }
    let replies = client.pipeline(&mixed).unwrap();
    for (key, three) in keys.iter().zip(replies.chunks(3)) {
        assert_eq!(three, [Reply::bulk(key), Reply::Simple("PONG".into()), Reply::bulk(key)]);
    }
    let of = |name: &str| [name].into_iter().map(str::to_owned).chain(keys.iter().cloned()).collect::<Vec<_>>();
    let call = |client: &mut Client, args: &[String]| {
        client.call(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
    };
    let Reply::Array(got) = call(&mut client, &of("MGET")) else { panic!("no array") };
    assert!(got.iter().zip(&keys).all(|(value, key)| *value == Reply::bulk(key)) && got.len() == 500);
    assert_eq!(call(&mut client, &of("EXISTS")), Reply::Integer(500));
    assert_eq!(call(&mut client, &of("TOUCH")), Reply::Integer(500));
    assert_eq!(call(&mut client, &of("UNLINK")), Reply::Integer(500));
    assert_eq!(call(&mut client, &of("DEL")), Reply::Integer(0));
    assert_eq!(client.call(&["MSET", "m1", "a", "m2", "b", "m3", "c", "m4", "d"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["MGET", "m1", "none", "m4"]).unwrap().text(), "a (nil) d");
}

#[test]
fn commands_with_keys_of_several_slots_are_rejected_without_hash_tags() {
    let cluster = Cluster::serving(2);
    let mut client = cluster.node(1).client();
    for refused in [
        vec!["SINTER", "s1", "s2", "s3"],
        vec!["RENAME", "r1", "r2"],
        vec!["MSETNX", "m1", "a", "m2", "b"],
        vec!["EVAL", "return 1", "2", "e1", "e2"],
    ] {
        let reply = client.call(&refused).unwrap();
        assert!(reply.is_error("CROSSSLOT"), "{refused:?}: {reply:?}");
    }
    assert_eq!(client.call(&["MSETNX", "{t}1", "a", "{t}2", "b"]).unwrap(), Reply::Integer(1));
    assert_eq!(client.call(&["RENAME", "{t}1", "{t}3"]).unwrap(), Reply::ok());
    assert_eq!(
        client.call(&["EVAL", "return redis.call('GET', KEYS[1])", "2", "{t}3", "{t}2"]).unwrap(),
        Reply::bulk("a")
    );
    for refused in ["NOSUCHCOMMAND x", "MULTI", "SUBSCRIBE c", "BLPOP l 0", "SCAN x", "CONFIG SET save x"] {
        let reply = client.call(&refused.split(' ').collect::<Vec<_>>()).unwrap();
        assert!(matches!(reply, Reply::Error(_)), "{refused}: {reply:?}");
    }
    // The refused MULTI refuses everything up to EXEC or DISCARD.
    assert_eq!(client.call(&["DISCARD"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["PING"]).unwrap().text(), "PONG");
}

#[test]
fn databases_resp3_and_requests_in_single_bytes() {
    let cluster = Cluster::serving(2);
    let mut client = cluster.node(3).client();
    assert_eq!(client.call(&["SELECT", "3"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["SET", "d", "three"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["SELECT", "0"]).unwrap(), Reply::ok());
    assert_eq!(client.call(&["GET", "d"]).unwrap(), Reply::Null);
    assert!(matches!(client.call(&["SELECT", "99"]).unwrap(), Reply::Error(_)));
    let mut resp3 = cluster.node(1).client();
    assert!(matches!(resp3.call(&["HELLO", "3"]).unwrap(), Reply::Map(_)));
    resp3.call(&["HSET", "h", "f", "v"]).unwrap();
    assert_eq!(resp3.call(&["HGETALL", "h"]).unwrap(), Reply::Map(vec![(Reply::bulk("f"), Reply::bulk("v"))]));
    assert_eq!(client.call(&["HGETALL", "h"]).unwrap(), Reply::Array(vec![Reply::bulk("f"), Reply::bulk("v")]));
    for byte in request(&["SET", "slowly", "done"]) {
        client.send(&[byte]).unwrap();
    }
    assert_eq!(client.read().unwrap(), Reply::ok());
    assert_eq!(client.call(&["GET", "slowly"]).unwrap(), Reply::bulk("done"));
    let mut bad = cluster.node(1).client();
    bad.send(b"*1\r\n$x\r\n").unwrap();
    assert!(bad.read().unwrap().is_error("ERR Protocol error"));
    assert!(bad.closed());
}

#[test]
fn a_slot_without_an_owner_and_a_product_with_a_password() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.node(1).client();
    assert!(client.call(&["GET", "a"]).unwrap().is_error("CLUSTERDOWN"));
    cluster.add_groups(1);
    assert_eq!(client.call(&["GET", "a"]).unwrap(), Reply::Null);
    let file = cluster.secret_file("password", "open sesame");
    let set = ["product", "set", "default", "--password-file", file.to_str().unwrap(), "--wait", "--timeout", "40s"];
    let ran = cluster.cli().ok(&set);
    assert!(!format!("{ran:?}").contains("sesame"));
    for node in &cluster.nodes {
        let mut client = node.client();
        assert!(client.call(&["GET", "a"]).unwrap().is_error("NOAUTH"));
        assert!(client.call(&["AUTH", "wrong"]).unwrap().is_error("WRONGPASS"));
        assert_eq!(client.call(&["AUTH", "open sesame"]).unwrap(), Reply::ok());
        assert_eq!(client.call(&["GET", "a"]).unwrap(), Reply::Null);
        assert!(!node.log().contains("sesame"), "a password is in the log");
    }
}
