//! Primaries that restart with less data than before: a primary has only the data that it saved, and its replicas copy
//! this data. The tests check the warnings and events, and that the last copy of the data is not overwritten.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    client::Client,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, wait_for},
};
use serde_json::Value;

/// The time of several probes. Nodes probe every half second, and the leader reads its own reports every fifth of a
/// second.
const SEVERAL_PROBES: Duration = Duration::from_millis(1500);

/// Options of a server that has written everything to its file that it has answered.
fn durable() -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", "no"];
    RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() }
}

/// Options of a server that saves no data, only its configuration.
fn without_persistence() -> RedisOptions {
    RedisOptions { config_file: true, ..RedisOptions::default() }
}

/// Creates a group with all slots, whose primary and replica are started with these options. Returns the indices of its
/// servers, and the output of `group create`.
fn group(cluster: &mut Cluster, primary: &RedisOptions, replica: &RedisOptions) -> ([usize; 2], Value) {
    let first = cluster.add_server(primary);
    let port = cluster.servers[first].port;
    let second = cluster.add_server(&RedisOptions { primary: Some(port), ..replica.clone() });
    let [a, b] = [first, second].map(|server| cluster.servers[server].addr());
    let cli = cluster.cli();
    let created = cli.json(&["group", "create", "1", "--primary", &a, "--replica", &b]);
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    ([first, second], created)
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

/// Waits until the output of `group show` fits, and returns it.
#[track_caller]
fn wait_shown(cluster: &Cluster, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, GENEROUS, || {
        let shown = cluster.cli().try_json(&["group", "show", "1"])?;
        if fits(&shown) { Ok(shown) } else { Err(shown.to_string()) }
    })
}

/// Waits until the replica is a candidate, both servers were probed with this number of keys, and the log has the
/// primary's replication id.
fn wait_candidate(cluster: &Cluster, keys: u64) {
    wait_shown(cluster, "the replica to be a candidate", |shown| {
        let seen = [0, 1].map(|n| &shown["servers"][n]["observed"]);
        let offsets = seen.map(|seen| seen["replication_offset"].as_u64());
        let known = shown["replid"] == seen[0]["replid"] && seen[0]["replid"] == seen[1]["replid"];
        let whole = offsets[0] == offsets[1] && offsets[0] > Some(0) && seen.iter().all(|seen| seen["keys"] == keys);
        known && whole && seen[1]["link"] == "up"
    });
    // The leader evaluates the reports of the nodes periodically: after several probes, it has evaluated these.
    let shown = || cluster.cli().try_json(&["group", "show", "1"]);
    let counted = || shown().is_ok_and(|shown| shown["servers"][0]["observed"]["keys"] == keys);
    assert!(holds_for(SEVERAL_PROBES, counted), "{:?}", shown());
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

fn has(lines: &Value, part: &str) -> bool {
    let says = |line: &Value| line.as_str().or(line["text"].as_str()).is_some_and(|line| line.contains(part));
    lines.as_array().is_some_and(|all| all.iter().any(says))
}

/// `group create` warns that a restart would empty the primary. After the restart, there is an event and a line in
/// `group show`. The data that the primary did not save is lost, also at the replica, which copies the primary.
#[test]
fn a_primary_that_restarts_empty_empties_its_replica_and_this_is_reported() {
    let mut cluster = Cluster::start(3);
    let ([first, second], created) = group(&mut cluster, &without_persistence(), &without_persistence());
    assert!(has(&created["warnings"], "a restart would empty it"), "{created}");
    cluster.cli().ok(&["group", "set", "1", "down-after=60s"]);
    write(&cluster, "k", 50);
    // One more key is the harness's own probe key.
    wait_candidate(&cluster, 51);

    cluster.servers[first].restart();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 at the last probe before", "run_id"]);
    let addr = cluster.servers[first].addr();
    wait_shown(&cluster, "a warning about the restart", |shown| {
        has(&shown["warnings"], &format!("the primary {addr} restarted empty"))
    });
    wait_keys(&cluster, second, "0");
    write(&cluster, "new", 3);
    wait_keys(&cluster, second, "3");
}

/// A primary that saves every write has all its data after a restart, and its replica keeps the data.
#[test]
fn a_primary_that_saves_has_everything_after_a_restart() {
    let mut cluster = Cluster::start(3);
    let ([first, second], created) = group(&mut cluster, &durable(), &without_persistence());
    assert!(!has(&created["warnings"], "a restart would empty it"), "{created}");
    cluster.cli().ok(&["group", "set", "1", "down-after=60s"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].restart();
    wait_event(&cluster, "primary-noted", &["restarted: 51 keys, 51 at the last probe before"]);
    write(&cluster, "new", 1);
    wait_keys(&cluster, second, "52");
    assert_eq!(keys(&cluster, first), "52");
    let shown = wait_shown(&cluster, "a warning about the restart", |shown| has(&shown["warnings"], "with 51 keys"));
    assert!(!has(&shown["warnings"], "restarted empty"), "{shown}");
}

/// The primary dies. Its replica is promoted, dies too, and restarts without data. When the old primary returns with
/// its data, it has the last copy of the data: it is not made a replica until the operator decides, whatever clients
/// have written meanwhile.
#[test]
fn the_last_copy_is_kept_until_the_operator_decides() {
    let mut cluster = Cluster::start(3);
    let ([first, second], _) = group(&mut cluster, &durable(), &without_persistence());
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].kill9();
    let [old, new] = [first, second].map(|server| cluster.servers[server].addr());
    wait_shown(&cluster, "the replica to be promoted, and the log to have its replication id", |shown| {
        let seen = &shown["servers"][0]["observed"];
        shown["servers"][0]["address"] == new.as_str() && shown["replid"] == seen["replid"] && !seen["replid"].is_null()
    });
    // Its configuration file no longer says that it is a replica.
    wait_for("the promoted server to have saved that it is a primary", GENEROUS, || {
        let config = cluster.servers[second].config();
        if config.contains("replicaof ") { Err(config) } else { Ok(()) }
    });

    cluster.servers[second].launch_again();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 at the last probe before"]);
    write(&cluster, "new", 60);
    cluster.servers[first].launch_again();
    let shown = wait_shown(&cluster, "the old primary not to be made a replica", |shown| {
        has(&shown["waiting_on"], &format!("{old} of group 1"))
            && has(&shown["waiting_on"], "restarted with 0 keys and has 60: it is not made a replica")
    });
    assert_eq!((keys(&cluster, first).as_str(), keys(&cluster, second).as_str()), ("51", "60"), "{shown}");
    assert!(cluster.servers[first].call(&["INFO", "replication"]).text().contains("role:master"));

    // The operator decides against the old data.
    assert_eq!(cluster.servers[first].call(&["FLUSHALL"]).text(), "OK");
    wait_keys(&cluster, first, "60");
    wait_event(
        &cluster,
        "reconciled",
        &[&format!("{old} was made a replica of {new}"), "it is a primary", "seen by node"],
    );
    wait_shown(&cluster, "the old primary not to be diverged", |shown| shown["servers"][1]["diverged"] == false);
}

/// As above, but the operator decides for the old data.
#[test]
fn the_last_copy_can_be_promoted() {
    let mut cluster = Cluster::start(3);
    let ([first, second], _) = group(&mut cluster, &durable(), &without_persistence());
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    write(&cluster, "k", 50);
    wait_candidate(&cluster, 51);
    cluster.servers[first].kill9();
    let [old, new] = [first, second].map(|server| cluster.servers[server].addr());
    wait_shown(&cluster, "the replica to be promoted, and the log to have its replication id", |shown| {
        let seen = &shown["servers"][0]["observed"];
        shown["servers"][0]["address"] == new.as_str() && shown["replid"] == seen["replid"] && !seen["replid"].is_null()
    });
    wait_for("the promoted server to have saved that it is a primary", GENEROUS, || {
        let config = cluster.servers[second].config();
        if config.contains("replicaof ") { Err(config) } else { Ok(()) }
    });
    cluster.servers[second].launch_again();
    wait_event(&cluster, "primary-noted", &["restarted empty: 0 keys, 51 at the last probe before"]);
    write(&cluster, "new", 1);
    cluster.servers[first].launch_again();
    wait_shown(&cluster, "the old primary not to be made a replica", |shown| {
        has(&shown["waiting_on"], "restarted with 0 keys and has 1: it is not made a replica")
    });
    cluster.cli().ok(&["group", "promote", "1", &old, "--force", "--wait", "--timeout", "40s"]);
    wait_keys(&cluster, second, "51");
    assert_eq!(keys(&cluster, first), "51");
}
