//! The clusters of these tests, and what several tests ask them.

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};
use serde_json::Value;

/// Three nodes and one group, which has all slots and this number of replicas. Returns the indices of its servers, the
/// primary first.
pub fn one_group(replicas: usize, options: &RedisOptions) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", replicas, options);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    (cluster, servers)
}

/// The events of this kind, oldest first.
pub fn events(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let events = cluster.cli().json(&["events"]);
    let of_kind = |event: &&Value| event["kind"] == kind;
    events.as_array().unwrap().iter().filter(of_kind).cloned().collect()
}

/// Waits for an event of this kind about a group whose text contains `text`.
#[track_caller]
pub fn wait_event(cluster: &Cluster, kind: &str, group: u16, text: &str) {
    wait_for(&format!("the event {kind} of group {group}"), GENEROUS, || {
        let found = |e: &&Value| {
            e["subject"] == format!("group {group}") && e["text"].as_str().is_some_and(|t| t.contains(text))
        };
        let events = events(cluster, kind);
        if events.iter().any(|e| found(&e)) { Ok(()) } else { Err(format!("{events:?}")) }
    });
}

/// Waits until this list of `status` (`waiting_on` or `warnings`) has a line with this text.
#[track_caller]
pub fn wait_status(cluster: &Cluster, list: &str, text: &str) {
    wait_for(&format!("the status to say '{text}'"), GENEROUS, || {
        let status = cluster.cli().try_json(&["status", "--timeout", "2s"])?;
        let lines = status[list].as_array().cloned().unwrap_or_default();
        let says = |line: &Value| line.as_str().or(line["text"].as_str()).is_some_and(|line| line.contains(text));
        let says = lines.iter().any(says);
        if says { Ok(()) } else { Err(status.to_string()) }
    });
}

/// The address of a group's primary according to the log.
pub fn primary_of(cluster: &Cluster, group: u16) -> Result<String, String> {
    let shown = cluster.cli().try_json(&["group", "show", &group.to_string(), "--timeout", "2s"])?;
    Ok(shown["servers"][0]["address"].as_str().unwrap_or_default().to_owned())
}

/// Waits until a group has another primary than `than`.
#[track_caller]
pub fn wait_other_primary(cluster: &Cluster, group: u16, than: &str) {
    wait_for(&format!("group {group} to have another primary"), GENEROUS, || {
        let primary = primary_of(cluster, group)?;
        if primary == than { Err(cluster.cli().run(&["status"]).out) } else { Ok(()) }
    });
}
