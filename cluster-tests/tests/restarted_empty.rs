//! A primary that restarts has what it saved, and its replicas copy that: what is told of it, and what is not wiped for it.
//! Knows nothing of how it is decided.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    client::Client,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, wait_for},
};
use serde_json::Value;

/// Looks come every half second, and the leader's own every fifth of one.
const SOME_LOOKS: Duration = Duration::from_millis(1500);

/// Everything that was answered is on the disk.
fn durable() -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", "always"];
    RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() }
}

/// Nothing is on the disk but what it is.
fn forgetful() -> RedisOptions {
    RedisOptions { config_file: true, ..RedisOptions::default() }
}

/// A group whose primary and replica are started like this, and which has all slots; what was told when it was made.
fn group(cluster: &mut Cluster, primary: &RedisOptions, replica: &RedisOptions) -> ([usize; 2], Value) {
    let first = cluster.add_server(primary);
    let port = cluster.servers[first].port;
    let second = cluster.add_server(&RedisOptions { primary: Some(port), ..replica.clone() });
    let [a, b] = [first, second].map(|server| cluster.servers[server].addr());
    let cli = cluster.cli();
    let made = cli.json(&["group", "create", "1", "--primary", &a, "--replica", &b]);
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    ([first, second], made)
}

fn write(cluster: &Cluster, prefix: &str, keys: u32) {
    let mut client = Client::connect(cluster.node(1).client_port).unwrap();
    for n in 0..keys {
        let key = format!("{prefix}{n}");
        wait_for("a write to be answered", GENEROUS, || match client.call(&["SET", &key, "value"]) {
            Ok(reply) if reply.text() == "OK" => Ok(()),
            other => {
                let why = format!("{other:?}");
                client = Client::connect(cluster.node(1).client_port).map_err(|e| e.to_string())?;
                Err(why)
            }
        });
    }
}

fn keys(cluster: &Cluster, server: usize) -> String {
    cluster.servers[server].try_call(&["DBSIZE"]).map_or_else(|e| e.to_string(), |reply| reply.text())
}

#[track_caller]
fn wait_keys(cluster: &Cluster, server: usize, wanted: &str) {
    wait_for(&format!("{wanted} keys"), GENEROUS, || match keys(cluster, server) {
        keys if keys == wanted => Ok(()),
        keys => Err(keys),
    });
}

/// Waits until `group show` is so.
#[track_caller]
fn wait_shown(cluster: &Cluster, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, GENEROUS, || {
        let shown = cluster.cli().try_json(&["group", "show", "1"])?;
        if fits(&shown) { Ok(shown) } else { Err(shown.to_string()) }
    })
}

/// Waits until the replica could replace the primary, and both were seen with so many keys, by a log that knows the primary.
fn wait_candidate(cluster: &Cluster, keys: u64) {
    wait_shown(cluster, "the replica to be a candidate", |shown| {
        let seen = [0, 1].map(|n| &shown["servers"][n]["observed"]);
        let offsets = seen.map(|seen| seen["offset"].as_u64());
        let known = shown["replid"] == seen[0]["replid"] && seen[0]["replid"] == seen[1]["replid"];
        let whole = offsets[0] == offsets[1] && offsets[0] > Some(0) && seen.iter().all(|seen| seen["keys"] == keys);
        known && whole && seen[1]["link"] == "up"
    });
    // The leader counts at its own pace what nodes tell it: some looks later it has.
    let shown = || cluster.cli().try_json(&["group", "show", "1"]);
    let counted = || shown().is_ok_and(|shown| shown["servers"][0]["observed"]["keys"] == keys);
    assert!(holds_for(SOME_LOOKS, counted), "{:?}", shown());
}

fn events(cluster: &Cluster, kind: &str) -> Vec<String> {
    let events = cluster.cli().try_json(&["events"]).unwrap_or_default();
    let of = |event: &&Value| event["kind"] == kind;
    events.as_array().into_iter().flatten().filter(of).map(|event| event["text"].to_string()).collect()
}

#[track_caller]
fn wait_event(cluster: &Cluster, kind: &str, parts: &[&str]) {
    wait_for(&format!("an event {kind} with {parts:?}"), GENEROUS, || {
        let events = events(cluster, kind);
        let found = events.iter().any(|text| parts.iter().all(|part| text.contains(part)));
        if found { Ok(()) } else { Err(format!("{events:?}")) }
    });
}

fn has(sentences: &Value, part: &str) -> bool {
    sentences.as_array().is_some_and(|all| all.iter().any(|said| said.as_str().is_some_and(|said| said.contains(part))))
}

/// It is told when the group is made; when it has happened, there is an event and a line in `group show`. What the primary did
/// not save is gone, also from the replica, which copies it.
#[test]
fn a_primary_that_restarts_empty_empties_its_replica_and_everybody_is_told() {
    let mut cluster = Cluster::start(3);
    let ([first, second], made) = group(&mut cluster, &forgetful(), &forgetful());
    assert!(has(&made["warnings"], "a restart would empty it"), "{made}");
    cluster.cli().ok(&["group", "set", "1", "down-after=60s"]);
    write(&cluster, "k", 50);
    // (And the one by which the harness saw that it is answered.)
    wait_candidate(&cluster, 51);

    cluster.servers[first].restart();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 before", "run_id"]);
    let addr = cluster.servers[first].addr();
    wait_shown(&cluster, "a line about it", |shown| {
        has(&shown["warnings"], &format!("the primary {addr} restarted empty at"))
    });
    wait_keys(&cluster, second, "0");
    write(&cluster, "new", 3);
    wait_keys(&cluster, second, "3");
}

/// A primary that saves what it answers is back with it, and its replica keeps it.
#[test]
fn a_primary_that_saves_has_everything_after_a_restart() {
    let mut cluster = Cluster::start(3);
    let ([first, second], made) = group(&mut cluster, &durable(), &forgetful());
    assert!(!has(&made["warnings"], "a restart would empty it"), "{made}");
    cluster.cli().ok(&["group", "set", "1", "down-after=60s"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].restart();
    wait_event(&cluster, "primary-noted", &["restarted: 51 keys, 51 before"]);
    write(&cluster, "new", 1);
    wait_keys(&cluster, second, "52");
    assert_eq!(keys(&cluster, first), "52");
    let shown = wait_shown(&cluster, "a line about it", |shown| has(&shown["warnings"], "with 51 keys"));
    assert!(!has(&shown["warnings"], "restarted empty"), "{shown}");
}

/// The primary dies, its replica is promoted, dies too and comes back with nothing. When the old primary comes back with all
/// of it, it is the last copy: it is left alone, whatever clients have written by then, until the operator has chosen.
#[test]
fn the_last_copy_is_left_alone_until_the_operator_has_chosen() {
    let mut cluster = Cluster::start(3);
    let ([first, second], _) = group(&mut cluster, &durable(), &forgetful());
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].kill9();
    let [old, new] = [first, second].map(|server| cluster.servers[server].addr());
    wait_shown(&cluster, "the replica to be promoted, and the log to know it", |shown| {
        let seen = &shown["servers"][0]["observed"];
        shown["servers"][0]["address"] == new.as_str() && shown["replid"] == seen["replid"] && !seen["replid"].is_null()
    });
    // (Its configuration does not say any more that it is a replica.)
    wait_for("it to have kept that it is a primary", GENEROUS, || {
        let config = cluster.servers[second].config();
        if config.contains("replicaof ") { Err(config) } else { Ok(()) }
    });

    cluster.servers[second].launch_again();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 before"]);
    write(&cluster, "new", 60);
    cluster.servers[first].launch_again();
    let shown = wait_shown(&cluster, "the old primary to be left alone", |shown| {
        has(&shown["waiting_on"], &format!("{old} of group 1"))
            && has(&shown["waiting_on"], "restarted with 0 keys and has 60: it is not made a replica")
    });
    assert_eq!((keys(&cluster, first).as_str(), keys(&cluster, second).as_str()), ("51", "60"), "{shown}");
    assert!(cluster.servers[first].call(&["INFO", "replication"]).text().contains("role:master"));

    // The operator does not want it.
    assert_eq!(cluster.servers[first].call(&["FLUSHALL"]).text(), "OK");
    wait_keys(&cluster, first, "60");
    wait_event(&cluster, "wired", &[&format!("{old} was made a replica of {new}"), "it is a primary", "seen by node"]);
    wait_shown(&cluster, "it to be a candidate again", |shown| shown["servers"][1]["diverged"] == false);
}

/// The same, and the operator wants the old data.
#[test]
fn the_last_copy_can_be_taken() {
    let mut cluster = Cluster::start(3);
    let ([first, second], _) = group(&mut cluster, &durable(), &forgetful());
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].kill9();
    let [old, new] = [first, second].map(|server| cluster.servers[server].addr());
    wait_shown(&cluster, "the replica to be promoted, and the log to know it", |shown| {
        let seen = &shown["servers"][0]["observed"];
        shown["servers"][0]["address"] == new.as_str() && shown["replid"] == seen["replid"] && !seen["replid"].is_null()
    });
    wait_for("it to have kept that it is a primary", GENEROUS, || {
        let config = cluster.servers[second].config();
        if config.contains("replicaof ") { Err(config) } else { Ok(()) }
    });
    cluster.servers[second].launch_again();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 before"]);
    write(&cluster, "new", 1);
    cluster.servers[first].launch_again();
    wait_shown(&cluster, "the old primary to be left alone", |shown| {
        has(&shown["waiting_on"], "restarted with 0 keys and has 1: it is not made a replica")
    });
    cluster.cli().ok(&["group", "promote", "1", &old, "--force", "--wait", "--timeout", "40s"]);
    wait_keys(&cluster, second, "51");
    assert_eq!(keys(&cluster, first), "51");
}
